package apps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/cgatest"
	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/sandbox"
	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/supervisor"
)

func (w *world) want(apps ...string) {
	w.t.Helper()
	if got := w.apps(); !slices.Equal(got, apps) {
		w.t.Errorf("installed are %q, want %q", got, apps)
	}
}

// TestLife is that of an app, with others beside it.
func TestLife(t *testing.T) {
	w := newWorld(t)
	w.program("one", "1")
	w.program("one", "2", cgatest.Plain("extra", "extra"))
	w.program("two", "1")
	w.tarball("lib.v1.tar.gz", cgatest.Script("echo lib > /usr/local/lib.sh"))
	w.tarball("once.v1.tar.gz", cgatest.Script("echo the log:; cat /var/log/some.log; rm -f /no/such/file"))
	w.write("data/log/some.log", "a line\n")

	out, err := w.order("one.v1.tar.gz")
	if err != nil || out != "installing 1\n" {
		t.Fatalf("%q, %v", out, err)
	}
	first := w.layer("one")
	if got := w.read(first + "/root/etc/supervisor/conf.d/one.conf"); !strings.Contains(got, "[program:one]") || !strings.Contains(got, "stdout_logfile = /var/log/one.log") {
		t.Errorf("the configuration is %q", got)
	}
	if w.switched != 1 {
		t.Errorf("PID 1 was told %d times", w.switched)
	}
	for _, name := range []string{"two.v1.tar.gz", "lib.v1.tar.gz", "once.v1.tar.gz"} {
		if out, err = w.order(name); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	if out != "the log:\na line\n" {
		t.Errorf("the one-off tells %q", out)
	}
	w.want("once 1", "one 1", "two 1", "lib 1")
	list, err := w.List()
	if got := fmt.Sprint(list); err != nil || got != "[{once 1 one-off } {one 1 program } {two 1 program } {lib 1 library }]" {
		t.Errorf("list: %s, %v", got, err)
	}
	w.clean()

	if _, err := w.order("one.v2.tar.gz"); err != nil {
		t.Fatal(err)
	}
	w.want("once 1", "two 1", "lib 1", "one 2")
	if _, err := w.order("rollback one"); err != nil {
		t.Fatal(err)
	}
	w.want("once 1", "one 1", "two 1", "lib 1")
	if w.layer("one") != first {
		t.Errorf("it is in %s, and was in %s", w.layer("one"), first)
	}
	if _, err := w.order("rollback one"); err != nil {
		t.Fatal(err)
	}
	w.want("once 1", "two 1", "lib 1", "one 2")
	if _, err := w.order("uninstall one"); err != nil {
		t.Fatal(err)
	}
	w.want("once 1", "two 1", "lib 1")
	if _, err := w.order("rollback one"); err != nil {
		t.Fatal(err)
	}
	w.want("once 1", "two 1", "lib 1", "one 2")
	w.clean()
	for items, want := range map[string]string{
		"rollback two":      "two",
		"uninstall nothing": "nothing",
		"rollback nothing":  "nothing",
	} {
		if _, err := w.order(items); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", items, err)
		}
	}
}

// TestTogether: several apps in a command are one generation or none.
func TestTogether(t *testing.T) {
	w := newWorld(t)
	w.program("one", "1")
	w.program("two", "1")
	w.tarball("sees.v1.tar.gz", cgatest.Script("/usr/local/bin/one; cat /var/lib/of-first"))
	w.tarball("first.v1.tar.gz", cgatest.Script("echo x > /var/lib/of-first; echo y > /data/of-first"))
	w.tarball("bad.v1.tar.gz", cgatest.Script("echo z > /var/lib/of-bad; echo so; exit 7"))
	if out, err := w.order("one.v1.tar.gz", "first.v1.tar.gz", "bad.v1.tar.gz"); err == nil || !strings.Contains(err.Error(), "bad: install.sh ended with status 7") || !strings.HasSuffix(out, "so\n") {
		t.Errorf("%q, %v", out, err)
	}
	w.want()
	if got := w.read("data/var/lib/of-first") + w.read("data/shared/of-first") + w.read("data/var/lib/of-bad"); strings.Count(got, "!") != 3 {
		t.Errorf("a failed install has left %q", got)
	}
	w.clean()
	out, err := w.order("one.v1.tar.gz", "first.v1.tar.gz", "sees.v1.tar.gz")
	if err != nil || !strings.Contains(out, "one 1\nx\n") {
		t.Fatalf("%q, %v", out, err)
	}
	if w.read("data/var/lib/of-first") != "x\n" || w.read("data/shared/of-first") != "y\n" {
		t.Errorf("what was written to /var and /data: %q, %q", w.read("data/var/lib/of-first"), w.read("data/shared/of-first"))
	}
	if _, err := w.order("uninstall one", "two.v1.tar.gz"); err != nil {
		t.Fatal(err)
	}
	w.want("first 1", "sees 1", "two 1")
	w.clean()
}

// TestRefused are installs of which nothing must be left.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		app   string
		files []file
		want  string
	}{
		{"no installer", "a.v1.tar.gz", []file{cgatest.Plain("x", "")}, "install.sh"},
		{"not executable", "a.v1.tar.gz", []file{cgatest.Plain("install.sh", "#!/bin/sh\n")}, "install.sh"},
		{"a path that leads out", "a.v1.tar.gz", []file{cgatest.Script(""), cgatest.Plain("../x", "")}, "../x"},
		{"twice the same", "a.v1.tar.gz", []file{cgatest.Script(""), cgatest.Script("")}, "install.sh"},
		{"a name that is the firmware's", "gwe.v1.tar.gz", []file{cgatest.Script("")}, "gwe"},
		{"removes the firmware", "a.v1.tar.gz", []file{cgatest.Script("busybox rm -rf /usr/* /etc 2>/dev/null || true")}, "/etc: it is a part of the firmware"},
		{"removes a program of the firmware", "a.v1.tar.gz", []file{cgatest.Script("rm /usr/bin/busybox")}, "/usr/bin/busybox"},
		{"replaces gwe", "a.v1.tar.gz", []file{cgatest.Script("echo > /usr/bin/gweinit")}, "gweinit"},
		{"a device", "a.v1.tar.gz", []file{cgatest.Script("busybox mknod /usr/local/null c 1 3")}, "/usr/local/null"},
		{"silences gwe", "a.v1.tar.gz", []file{cgatest.Script("echo '[program:gwe]' > /etc/supervisor/conf.d/gwe.conf")}, "gwe.conf"},
		{"another's program", "a.v1.tar.gz", []file{cgatest.Script("mkdir -p /etc/supervisor/conf.d; printf '[program:gwe]\\ncommand=true\\n' > /etc/supervisor/conf.d/x.conf"), cgatest.Supervised("command=true")}, "an app can have nothing of the name gwe"},
		{"an unknown user", "a.v1.tar.gz", []file{cgatest.Script(""), cgatest.Supervised("command=true\nuser=nobody-knows")}, "no such user"},
		{"a bad option", "a.v1.tar.gz", []file{cgatest.Script(""), cgatest.Supervised("command=true\nstartsecs=soon")}, "startsecs"},
		{"no Python", "a.v1.tar.gz", []file{cgatest.Executable("setup.py", "import os\n")}, "python"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.write("base/usr/bin/gweinit", "")
			w.tarball(c.app, c.files...)
			out, err := w.order(c.app)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q; output %q", err, c.want, out)
			}
			w.want()
			w.clean()
			if w.switched != 0 {
				t.Error("PID 1 was told of it")
			}
		})
	}
}

// TestInstallerWithAUser makes a user that its program runs as.
func TestInstallerWithAUser(t *testing.T) {
	w := newWorld(t)
	w.tarball("a.v1.tar.gz", cgatest.Script("echo app:x:500:500::/:/bin/sh >> /etc/passwd"), cgatest.Supervised("command=true\nuser=app"))
	if out, err := w.order("a.v1.tar.gz"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUsersStay: an app's user is its own, also if a newer version finds it there
// already, and others come and go.
func TestUsersStay(t *testing.T) {
	w := newWorld(t)
	user := func(name string, id int) file {
		return cgatest.Script(fmt.Sprintf("busybox grep -q ^%s: /etc/passwd || echo %s:x:%d:%d::/:/bin/sh >> /etc/passwd", name, name, id, id))
	}
	for _, version := range []string{"1", "2"} {
		w.tarball("a.v"+version+".tar.gz", user("anna", 700), cgatest.Supervised("command=true\nuser=anna"))
	}
	w.tarball("b.v1.tar.gz", user("bert", 701), cgatest.Supervised("command=true\nuser=bert"))
	w.tarball("look.v1.tar.gz", cgatest.Script("cat /etc/passwd"))
	for _, items := range []string{"a.v1.tar.gz", "b.v1.tar.gz", "a.v2.tar.gz", "uninstall b"} {
		if out, err := w.order(items); err != nil {
			o, _ := exec.Command("sh", "-c", "cd "+w.path("data/apps")+"; find . -name passwd | while read f; do echo $f; cat $f; done").CombinedOutput()
			t.Fatalf("%s: %v\n%s\n%s", items, err, out, o)
		}
	}
	w.write("base/etc/passwd", w.read("base/etc/passwd")+"newer:x:5:5::/:/bin/sh\n")
	if out, err := w.order("look.v1.tar.gz"); err != nil || !strings.Contains(out, "anna:x:700:") || strings.Contains(out, "bert") || !strings.Contains(out, "newer:x:5:") {
		t.Errorf("users are %q, %v", out, err)
	}
	w.clean()
}

// TestRebootsOnce: a one-off that reboots is told exactly once, and runs once.
func TestRebootsOnce(t *testing.T) {
	w := newWorld(t)
	w.tarball("reboot.v1.tar.gz", cgatest.Script("echo x >> /var/lib/runs; echo rebooting; reboot"))
	if _, err := w.again("job", false, "reboot.v1.tar.gz"); !errors.Is(err, context.Canceled) {
		t.Fatalf("before the reboot: %v", err)
	}
	// The engine alone has ended, not the gateway.
	if _, err := w.again("job", true, "reboot.v1.tar.gz"); !errors.Is(err, context.Canceled) || w.reboots != 2 {
		t.Fatalf("in the same boot: %v, %d reboots", err, w.reboots)
	}
	// As after the boot: its ID is another.
	g, _ := w.store().Current()
	tx, err := w.store().Begin()
	w.do(err)
	done := g.Done[len(g.Done)-1]
	done.ID, done.Boot = "job-of-the-boot-before", "another"
	tx.Done(done)
	w.do(tx.Commit())
	out, err := w.again("job-of-the-boot-before", true, "reboot.v1.tar.gz")
	if err != nil || out != "rebooting\n" || w.reboots != 2 {
		t.Errorf("after it: %q, %v, %d reboots", out, err, w.reboots)
	}
	if w.read("data/var/lib/runs") != "x\n" {
		t.Errorf("it ran %q", w.read("data/var/lib/runs"))
	}
}

// TestAgain: a job that was committed is not done twice.
func TestAgain(t *testing.T) {
	w := newWorld(t)
	w.program("one", "1")
	if _, err := w.again("x", false, "one.v1.tar.gz"); err != nil {
		t.Fatal(err)
	}
	before := w.layer("one")
	w.do(os.Remove(w.path("run/one.v1.tar.gz")))
	out, err := w.again("x", true, "one.v1.tar.gz")
	if err != nil || out != "installing 1\n" || w.layer("one") != before || w.switched != 2 {
		t.Errorf("%q, %v, in %s after %s, PID 1 told %d times", out, err, w.layer("one"), before, w.switched)
	}
}

func TestTrial(t *testing.T) {
	w := newWorld(t)
	w.program("one", "1")
	w.trial = true
	if _, err := w.order("one.v1.tar.gz"); err == nil || !strings.Contains(err.Error(), "2.0.0 is on trial") {
		t.Errorf("error %v", err)
	}
	w.trial = false
	if _, err := w.order("one.v1.tar.gz"); err != nil {
		t.Error(err)
	}
}

// TestTwoAtOnce: the second waits for the first, and has it below.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	w.tarball("slow.v1.tar.gz", cgatest.Script("echo > /usr/local/slow; sleep 2"))
	w.tarball("fast.v1.tar.gz", cgatest.Script("ls /usr/local"))
	done := make(chan error)
	go func() { _, err := w.again("slow", false, "slow.v1.tar.gz"); done <- err }()
	for { // it has the lock
		if entries, _ := os.ReadDir(w.path("data/apps")); len(entries) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	var shown strings.Builder
	if err := w.InstallFiles(t.Context(), []string{w.path("run/fast.v1.tar.gz")}, &shown); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := shown.String(); got != "another install is running; waiting for its end\nbin\nslow\ninstalled: fast 1\n" {
		t.Errorf("the second shows %q", got)
	}
	w.want("fast 1", "slow 1")
}

// TestForty apps have a layer, and no more.
func TestForty(t *testing.T) {
	w := newWorld(t)
	var names []string
	for n := range 41 {
		name := fmt.Sprintf("app%d.v1.tar.gz", n)
		w.tarball(name, cgatest.Script(fmt.Sprintf("echo > /usr/local/file%d", n)))
		names = append(names, name)
	}
	if out, err := w.order(names[:20]...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := w.order(names[20:40]...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := w.order(names[40]); err == nil || !strings.Contains(err.Error(), "40") {
		t.Errorf("the 41st: %v", err)
	}
	if got := len(w.apps()); got != 40 {
		t.Errorf("%d apps", got)
	}
	w.tarball("look.v1.tar.gz", cgatest.Script("ls /usr/local | busybox wc -l"))
	if out, err := w.order("look.v1.tar.gz"); err != nil || out != "41\n" { // with bin
		t.Errorf("a one-off sees %q, %v", out, err)
	}
	w.clean()
}

// TestNoRoom: an install that does not fit is not begun, and one that takes too much
// is ended.
func TestNoRoom(t *testing.T) {
	w := newWorld(t)
	w.small(24 << 20)
	w.program("one", "1")
	big := strings.Repeat("0123456789abcdef", 12<<20/16)
	w.tarball("big.v1.tar.gz", cgatest.Script(""), cgatest.Plain("big", big))
	w.tarball("grows.v1.tar.gz", cgatest.Script("dd if=/dev/zero of=/usr/local/big bs=65536 count=1000 2>/dev/null; sleep 100"))
	if _, err := w.order("one.v1.tar.gz"); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadDir(w.path("data/apps"))
	if _, err := w.order("big.v1.tar.gz"); err == nil || !strings.Contains(err.Error(), "MB") {
		t.Errorf("too big: %v", err)
	}
	if after, _ := os.ReadDir(w.path("data/apps")); len(after) != len(before) {
		t.Errorf("data/apps has %v, had %v", after, before)
	}
	if _, err := w.order("grows.v1.tar.gz"); err == nil || !strings.Contains(err.Error(), "/data") {
		t.Errorf("grows: %v", err)
	}
	w.want("one 1")
	w.clean()
}

// TestWishes: what an installer asks of PID 1 comes after the commit.
func TestWishes(t *testing.T) {
	w := newWorld(t)
	w.program("one", "1")
	w.running = []string{"gwe", "one", "other", "third"}
	socket, err := control.Listen(w.path("run/supervisor.sock"), 0o700, -1, -1)
	w.do(err)
	pid1 := control.Server{Methods: supervisor.New(supervisor.Options{}).Methods(), Log: slog.New(slog.DiscardHandler)}
	go pid1.Serve(t.Context(), socket)
	gweinit := filepath.Join(w.t.TempDir(), "supervisorctl")
	build(t, gweinit)
	data, err := os.ReadFile(gweinit)
	w.do(err)
	w.do(os.WriteFile(w.path("base/usr/bin/supervisorctl"), data, 0o755))
	w.write("base/etc/supervisor/supervisord.conf", "[supervisord]\n[supervisorctl]\nserverurl=unix:///run/supervisor.sock\n[include]\nfiles = conf.d/*.conf\n")
	w.tarball("stops.v1.tar.gz", cgatest.Script("supervisorctl stop other gwe\nsupervisorctl restart stops || true\nsupervisorctl signal HUP third\nsupervisorctl update\nsupervisorctl reload"))
	if out, err := w.order("stops.v1.tar.gz"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, want := w.calls, []string{"stopProcess other true", "startProcess other false", "signalProcess third HUP"}; !slices.Equal(got, want) {
		t.Errorf("PID 1 was asked for %q, want %q", got, want)
	}
	w.calls = nil
	w.tarball("stops.v2.tar.gz", cgatest.Script("supervisorctl stop all"))
	if out, err := w.order("stops.v2.tar.gz"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := len(w.calls); got != 6 {
		t.Errorf("PID 1 was asked for %q", w.calls)
	}
}

// TestSettings: an installer that changes the gateway's settings.
func TestSettings(t *testing.T) {
	w := newWorld(t)
	w.tarball("sets.v1.tar.gz", cgatest.Script("cat /data/gwe/Gateway.cfg; printf '[engine]\\nupdate_interval = 60\\n' > /data/gwe/Engine.config"))
	w.tarball("fails.v1.tar.gz", cgatest.Script("printf '[engine]\\nupdate_interval = 70\\n' > /data/gwe/Engine.config; false"))
	if _, err := w.order("fails.v1.tar.gz"); err == nil || !strings.HasPrefix(w.read("data/gwe/Engine.config"), "!") {
		t.Errorf("%v, Engine.config %q", err, w.read("data/gwe/Engine.config"))
	}
	if _, err := w.order("sets.v1.tar.gz"); err != nil || !strings.Contains(w.read("data/gwe/Engine.config"), "update_interval = 60") || w.kept != 1 {
		t.Errorf("%v, Engine.config %q, kept %d times", err, w.read("data/gwe/Engine.config"), w.kept)
	}
}

// TestBaked: the apps that came with the firmware are ordered one by one, until each is
// installed, or has failed.
func TestBaked(t *testing.T) {
	w := newWorld(t)
	w.do(os.MkdirAll(w.path("base"+Baked), 0o755))
	bake := func(file string) { w.do(os.Rename(file, w.path("base"+Baked+"/"+filepath.Base(file)))) }
	bake(w.program("one", "1"))
	bake(w.tarball("bad.v1.tar.gz", cgatest.Script("exit 1")))
	next := func(want string) *Order {
		t.Helper()
		o, err := w.NextBaked(t.Context())
		w.do(err)
		if got := fmt.Sprint(o != nil && o.Item.Name == want, o == nil); got != fmt.Sprint(want != "", want == "") {
			t.Errorf("the next is %+v, want %q", o, want)
		}
		return o
	}
	run := func(o *Order) error {
		_, err := w.Install(t.Context(), command.Job{ID: o.ID + "-0", Items: []command.Item{o.Item}, Fetch: func(_ context.Context, item command.Item) (string, error) {
			file, ok := w.BakedFile(o.ID, item)
			if !ok {
				return "", errors.New("not baked in")
			}
			return file, nil
		}})
		return err
	}
	w.trial = true
	if err := run(next("bad.v1.tar.gz")); !command.IsLater(err) {
		t.Errorf("on trial: %v", err)
	}
	w.trial = false
	if err := run(next("bad.v1.tar.gz")); err == nil {
		t.Error("the bad one is installed")
	}
	w.do(run(next("one.v1.tar.gz")))
	w.want("one 1")
	next("")
	if _, err := w.order("uninstall one"); err != nil {
		t.Fatal(err)
	}
	next("") // after it was removed
	bake(w.program("one", "2"))
	w.do(run(next("one.v2.tar.gz"))) // a newer firmware
	// One that is there already, by hand, before the firmware with it comes.
	w.program("two", "2")
	if _, err := w.order("two.v2.tar.gz"); err != nil {
		t.Fatal(err)
	}
	bake(w.program("two", "2"))
	bake(w.program("two", "1"))
	next("")
	if _, err := w.order("uninstall two"); err != nil {
		t.Fatal(err)
	}
	next("")
	w.want("one 2")
}

// TestGivesUp: an installer that takes the gateway down is not run for ever.
func TestGivesUp(t *testing.T) {
	w := newWorld(t)
	w.program("one", "1")
	job := func(starts int) error {
		_, err := w.Install(t.Context(), command.Job{ID: "x", Again: true, Starts: starts, Items: []command.Item{{Name: "one.v1.tar.gz"}},
			Fetch: func(context.Context, command.Item) (string, error) { return w.path("run/one.v1.tar.gz"), nil }})
		return err
	}
	if err := job(maxStarts + 1); err == nil || command.IsLater(err) || !strings.Contains(err.Error(), "went down in the middle of it") {
		t.Errorf("error %v", err)
	}
	w.want()
	w.do(job(maxStarts))
	w.want("one 1")
	w.do(job(maxStarts + 1)) // it is done
}

// TestInterruptedSequel: what is to follow a commit is done by the next engine.
func TestInterruptedSequel(t *testing.T) {
	w := newWorld(t)
	store := w.store()
	tx, err := store.Begin()
	w.do(err)
	follow, err := sequel{
		Settings: []gateway.Change{{File: gateway.EngineFile, Section: "engine", Key: "update_interval", Value: "60"}},
		Wish:     sandbox.Wish{Restart: []string{"other"}},
	}.encode()
	w.do(err)
	w.running = []string{"other"}
	tx.Done(generation.Done{ID: "x", Follow: follow, Boot: bootID()})
	w.do(tx.Commit())
	for range 2 {
		w.do(w.Start(t.Context()))
	}
	if !strings.Contains(w.read("data/gwe/Engine.config"), "update_interval = 60") || len(w.calls) != 2 || w.switched != 3 {
		t.Errorf("Engine.config %q, PID 1 asked for %q, told %d times", w.read("data/gwe/Engine.config"), w.calls, w.switched)
	}
}

// TestFull: what frees room works on a full /data, and what is rolled back to is not
// given up for it.
func TestFull(t *testing.T) {
	w := newWorld(t)
	w.small(20 << 20)
	w.program("one", "1", cgatest.Plain("filler", strings.Repeat("x", 2<<20)))
	w.program("one", "2")
	w.program("two", "1")
	for _, name := range []string{"one.v1.tar.gz", "one.v2.tar.gz", "two.v1.tar.gz"} {
		if _, err := w.order(name); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Statfs_t
	w.do(unix.Statfs(w.path("data"), &st))
	w.write("data/shared/filler", strings.Repeat("x", int(st.Bavail)*int(st.Bsize)-(64<<10)))
	if _, err := w.order("two.v1.tar.gz"); err == nil {
		t.Error("it installs on a full disk")
	}
	if _, err := w.order("rollback one"); err != nil {
		t.Error(err)
	}
	w.want("one 1", "two 1")
	if _, err := w.order("uninstall two"); err != nil {
		t.Error(err)
	}
	w.want("one 1")
}

// TestClashingRollback: a rollback that brings back a program of a name that another
// has by now is refused.
func TestClashingRollback(t *testing.T) {
	w := newWorld(t)
	w.tarball("a.v1.tar.gz", cgatest.Script("mkdir -p /etc/supervisor/conf.d; printf '[program:b]\ncommand=true\n' > /etc/supervisor/conf.d/own.conf"))
	w.program("b", "1")
	for _, items := range []string{"a.v1.tar.gz", "uninstall a", "b.v1.tar.gz"} {
		if _, err := w.order(items); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.order("rollback a"); err == nil || !strings.Contains(err.Error(), "program:b") {
		t.Errorf("error %v", err)
	}
	w.want("b 1")
}

// TestInApp: inside of a view nothing can be installed.
func TestInApp(t *testing.T) {
	w := newWorld(t)
	w.write("data/gwe/.app", "")
	if _, err := w.List(); !errors.Is(err, ErrInApp) {
		t.Error(err)
	}
	if err := w.InstallFiles(t.Context(), []string{w.program("one", "1")}, new(strings.Builder)); !errors.Is(err, ErrInApp) {
		t.Error(err)
	}
}

func TestTail(t *testing.T) {
	var tl tail
	for n := range 10000 {
		fmt.Fprintf(&tl, "line %d\n", n)
	}
	if got := tl.text(); len(got) > maxOutput+4 || !strings.HasPrefix(got, "...\n") || !strings.HasSuffix(got, "line 9999\n") || cap(tl.data) > 8*maxOutput {
		t.Errorf("%d bytes, %d kept", len(got), cap(tl.data))
	}
}
