package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/cga/cgatest"
	"github.com/exosite/gwe/gweinit/control"
)

// TestMain has the test's binary be the first process of an installer's world, as
// gweinit is.
func TestMain(m *testing.M) {
	if os.Args[0] == Program {
		os.Exit(Main(nil))
	}
	os.Exit(m.Run())
}

// world is a gateway's files, below a folder.
type world struct {
	t       *testing.T
	gateway string
	layers  int
	output  bytes.Buffer
	limit   time.Duration
	spare   int64
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, gateway: t.TempDir(), limit: 20 * time.Second}
	for _, dir := range []string{
		"run/apps/.gwe", "data/apps", "data/var/log", "data/var/lib", "data/log", "data/shared/gwe", "data/shared/other", "data/gwe",
	} {
		w.do(os.MkdirAll(filepath.Join(w.gateway, dir), 0o755))
	}
	cgatest.Base(t, w.path("base"))
	for file, text := range map[string]string{
		"base/etc/os-release": "NAME=test\n", "run/resolv.conf": "nameserver 192.0.2.1\n", "data/gwe/secret": "secret\n",
		"run/apps/.gwe/Gateway.cfg": "[device]\ncik = abc\n", "data/var/lib/db": "old\n", "data/log/app.log": "a line\n",
		"data/shared/other/file": "other's\n",
	} {
		w.do(os.WriteFile(w.path(file), []byte(text), 0o644))
	}
	return w
}

func (w *world) path(file string) string { return filepath.Join(w.gateway, file) }

func (w *world) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// install runs a script as an installer, on layers beneath.
func (w *world) install(script string, lower ...string) (layer string, result Result, err error) {
	w.t.Helper()
	w.layers++
	layer = w.path(fmt.Sprintf("data/apps/%d", w.layers))
	scratch := filepath.Join(layer, "scratch")
	w.do(os.MkdirAll(scratch, 0o755))
	w.do(os.WriteFile(filepath.Join(scratch, "install.sh"), []byte("#!/bin/sh\n"+script), 0o755))
	i := Installer{
		Gateway: w.gateway, Layer: layer, Lower: append([]string{w.path("base")}, lower...), Tarball: scratch,
		Argv: []string{"./install.sh"}, Limit: w.limit, Spare: w.spare, Output: &w.output,
		PID1: control.Client{Socket: w.path("run/supervisor.sock")},
	}
	w.output.Reset()
	result, err = i.Run(context.Background())
	if left := mountsBelow(w.t, w.gateway); len(left) > 0 {
		w.t.Errorf("mounts are left: %v", left)
	}
	w.do(i.Tidy())
	return layer, result, err
}

func mountsBelow(t *testing.T, dir string) (list []string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, dir) {
			list = append(list, line)
		}
	}
	return list
}

func (w *world) read(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestInstaller(t *testing.T) {
	w := newWorld(t)
	first, _, err := w.install(`echo v1 > /usr/local/bin/lib`)
	w.do(err)
	layer, result, err := w.install(`set -e
pwd
echo app > /usr/local/bin/app
cat /usr/local/bin/lib /run/resolv.conf /data/other/file /data/gwe/Gateway.cfg /var/log/app.log /var/lib/db
mkdir /data/app; echo mine > /data/app/file
echo new > /var/lib/db
echo more > /var/log/install.log
rm /etc/os-release
ls /data
test ! -e /data/gwe/secret
ls -d /data/apps /old_root 2>&1 || true
echo x > /dev/null; touch /tmp/x
echo err >&2
`, filepath.Join(first, "root"))
	if err != nil {
		t.Fatalf("%v\n%s", err, w.output.String())
	}
	for _, want := range []string{"/tmp/install", "v1\n", "nameserver", "other's", "cik = abc", "a line", "old\n", "app\ngwe\nother\n", "err\n"} {
		if !strings.Contains(w.output.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, w.output.String())
		}
	}
	for file, want := range map[string]string{
		layer + "/root/usr/local/bin/app": "app\n", layer + "/data/app/file": "mine\n", layer + "/var/lib/db": "new\n", layer + "/log/install.log": "more\n",
		w.path("data/var/lib/db"): "old\n", w.path("base/etc/os-release"): "NAME=test\n",
	} {
		if got := w.read(file); got != want {
			t.Errorf("%s has %q, want %q", file, got, want)
		}
	}
	if info, err := os.Lstat(layer + "/root/etc/os-release"); err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		t.Errorf("a removed file has no mark in the layer: %v", err)
	}
	if entries, _ := os.ReadDir(layer); len(entries) != 4 {
		t.Errorf("the layer's folder has %v, want root, var, log, data", entries)
	}
	if !slices.Equal(result.Killed, nil) || result.Wish.Reboot {
		t.Errorf("result %+v", result)
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"status", "echo so; exit 3", "install.sh ended with status 3"},
		{"signal", "kill -9 $$", "install.sh was ended by signal 9"},
		{"hangs", "sleep 1000", "install.sh did not end within 2s, and was killed"},
		{"ignores signals", "trap '' TERM INT HUP; while :; do sleep 1; done", "did not end within 2s"},
		{"floods", "yes", "did not end within 2s"},
		{"kills PID 1", "kill -9 1; kill -9 -1; sleep 1000", "install.sh "},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.limit = 2 * time.Second
			_, _, err := w.install(c.script)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestNoInterpreter(t *testing.T) {
	w := newWorld(t)
	w.do(os.Remove(w.path("base/usr/bin/sh")))
	if _, _, err := w.install("true"); err == nil || !strings.Contains(err.Error(), "interpreter") {
		t.Errorf("error %v", err)
	}
}

// TestLeftBehind has an installer that leaves processes: they end with it.
func TestLeftBehind(t *testing.T) {
	w := newWorld(t)
	_, result, err := w.install(`(trap '' TERM; setsid sleep 4711 >/dev/null 2>&1 </dev/null &) ; sleep 4712 &`)
	if err != nil || !slices.Equal(sorted(result.Killed), []string{"sleep"}) && len(result.Killed) != 2 {
		t.Errorf("left behind: %v, %v", result.Killed, err)
	}
	if list, _ := filepath.Glob("/proc/[0-9]*/cmdline"); list != nil {
		for _, file := range list {
			if text := w.read(file); strings.Contains(text, "\x004711") || strings.Contains(text, "\x004712") {
				t.Errorf("%s is up: %q", file, text)
			}
		}
	}
}

// TestRemovesAll has an installer that removes everything: nothing of the gateway's
// is gone, and what the layer is like is for others to judge.
func TestRemovesAll(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.install(`busybox rm -rf /data /var /etc /usr/local /dev /sys /run /proc; busybox rm -rf /* ; exit 0`)
	if err != nil {
		t.Error(err)
	}
	for _, file := range []string{"base/etc/os-release", "base/usr/bin/busybox", "data/var/lib/db", "data/shared/other/file", "data/gwe/secret", "data/log/app.log", "run/resolv.conf"} {
		if _, err := os.Stat(w.path(file)); err != nil {
			t.Error(err)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat("/dev/null", &st); err != nil || st.Mode&syscall.S_IFCHR == 0 {
		t.Errorf("/dev/null is gone: %v", err)
	}
}

// TestDevicesCannotBeMade: they can be used.
func TestDevicesCannotBeMade(t *testing.T) {
	w := newWorld(t)
	if _, _, err := w.install(`mknod /dev/evil c 1 3 2>/dev/null && exit 1; echo x > /dev/null`); err != nil {
		t.Error(err)
	}
}

func TestFillsData(t *testing.T) {
	w := newWorld(t)
	var st syscall.Statfs_t
	w.do(syscall.Statfs(w.gateway, &st))
	w.spare = int64(st.Bavail)*int64(st.Bsize) - 4<<20
	_, _, err := w.install(`dd if=/dev/zero of=/usr/local/big bs=65536 count=300 2>/dev/null; sleep 1000`)
	if err == nil || !strings.Contains(err.Error(), "filled /data") {
		t.Errorf("error %v", err)
	}
}

func TestReboots(t *testing.T) {
	for script, want := range map[string]Wish{
		"reboot":                     {Reboot: true},
		"poweroff":                   {Poweroff: true},
		"reboot -f; sleep 1000":      {Reboot: true},
		"poweroff -f; sleep 1000":    {Poweroff: true},
		"(sleep 0; reboot) & wait":   {Reboot: true},
		"kill -TERM 1; kill -USR2 1": {Reboot: true, Poweroff: true},
	} {
		t.Run(script, func(t *testing.T) {
			w := newWorld(t)
			_, result, err := w.install(script)
			if err != nil || result.Wish.Reboot != want.Reboot || result.Wish.Poweroff != want.Poweroff {
				t.Errorf("%+v, %v; want %+v", result.Wish, err, want)
			}
		})
	}
}

// TestRecorder calls what stands in for PID 1.
func TestRecorder(t *testing.T) {
	dir := t.TempDir()
	real, err := control.Listen(filepath.Join(dir, "real.sock"), 0o700, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := []string{}
	server := control.Server{Log: slog.New(slog.DiscardHandler), Methods: map[string]control.Method{
		"supervisor.getAllProcessInfo": {Result: control.Array, Run: func(context.Context, []any) (any, error) {
			asked = append(asked, "getAllProcessInfo")
			return []any{map[string]any{"name": "x"}}, nil
		}},
	}}
	go server.Serve(ctx, real)
	r := newRecorder(control.Client{Socket: filepath.Join(dir, "real.sock")})
	stop, err := r.listen(filepath.Join(dir, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c := control.Client{Socket: filepath.Join(dir, "s.sock")}
	for _, call := range []struct {
		method string
		args   []any
		fails  bool
	}{
		{"supervisor.getAllProcessInfo", nil, false},
		{"supervisor.stopProcess", []any{"b"}, false},
		{"supervisor.startProcess", []any{"b", true}, false},
		{"supervisor.startProcess", []any{"a:1"}, false},
		{"supervisor.stopProcessGroup", []any{"g"}, false},
		{"supervisor.signalProcess", []any{"a", "HUP"}, false},
		{"supervisor.reloadConfig", nil, false},
		{"supervisor.addProcessGroup", []any{"b"}, false},
		{"supervisor.restart", nil, false},
		{"gweinit.reboot", nil, false},
		{"gweinit.keepIdentity", []any{""}, false},
		{"gweinit.factoryReset", []any{"everything"}, true},
		{"gweinit.rollback", nil, true},
		{"supervisor.clearLog", nil, true},
	} {
		if _, err := c.Call(ctx, call.method, call.args...); err != nil != call.fails {
			t.Errorf("%s: %v", call.method, err)
		}
	}
	w := r.wish()
	if got, want := fmt.Sprint(w), fmt.Sprint(Wish{Restart: []string{"a:1", "b", "g:*"}, Signals: []Signal{{"a", "HUP"}}, Reboot: true}); got != want {
		t.Errorf("wish %s, want %s", got, want)
	}
	if len(asked) != 1 {
		t.Errorf("PID 1 was asked %v", asked)
	}
}
