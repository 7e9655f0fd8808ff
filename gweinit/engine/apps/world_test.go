package apps

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/cgatest"
	"github.com/exosite/gwe/gweinit/cga/sandbox"
	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

// TestMain has the test's binary be the first process of an installer's world, as
// gweinit is.
func TestMain(m *testing.M) {
	if os.Args[0] == sandbox.Program {
		os.Exit(sandbox.Main(nil))
	}
	os.Exit(m.Run())
}

// world is a gateway: its files, and a PID 1 that notes what it is asked for.
type world struct {
	t testing.TB
	*Installer
	jobs int

	mu       sync.Mutex
	trial    bool
	switched int
	reboots  int
	kept     int
	running  []string // programs
	calls    []string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "apps") // of a name that mount takes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	w := &world{t: t}
	w.Installer = &Installer{Root: root, Base: filepath.Join(root, "base"), Host: w, Version: "1.0.0", Limit: 20 * time.Second, Log: t.Logf}
	for _, dir := range []string{
		"run/apps/.gwe", "run/gwe", "data/apps", "data/generations", "data/var/log", "data/var/lib", "data/log", "data/shared/gwe", "data/gwe",
	} {
		w.do(os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	cgatest.Base(t, w.path("base"))
	w.write("base/etc/supervisor/supervisord.conf", "[supervisord]\n[include]\nfiles = conf.d/*.conf\n")
	w.write("base/etc/supervisor/conf.d/gwe.conf", "[program:gwe]\ncommand=/usr/bin/gwe\n")
	w.write("base/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
	w.write("base/etc/group", "root:x:0:\n")
	w.write("base/etc/base.conf", "of the firmware\n")
	w.write("data/gwe/Gateway.cfg", "[device]\ncik = \n")
	w.write("run/apps/.gwe/Gateway.cfg", "[device]\ncik = \n")
	return w
}

func (w *world) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(file, text string) {
	w.t.Helper()
	w.do(os.WriteFile(w.path(file), []byte(text), 0o644))
}

func (w *world) read(file string) string {
	text, err := os.ReadFile(w.path(file))
	if err != nil {
		return "!" + err.Error()
	}
	return string(text)
}

// small has /data be of so many bytes.
func (w *world) small(bytes int64) {
	w.t.Helper()
	data := w.path("data")
	w.do(os.Rename(data, data+".old"))
	w.do(os.Mkdir(data, 0o755))
	w.do(unix.Mount("tmpfs", data, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)))
	w.t.Cleanup(func() { unix.Unmount(data, unix.MNT_DETACH) })
	w.do(os.CopyFS(data, os.DirFS(data+".old")))
}

// Host.

func (w *world) Firmware(context.Context) (update.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := update.Status{Slot: slot.A}
	if w.trial {
		st.Update = &update.Update{State: update.Trial, Version: "2.0.0"}
	}
	return st, nil
}

func (w *world) SwitchGeneration(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.switched++
	return nil
}

func (w *world) KeepIdentity(context.Context, string) error { w.kept++; return nil }

func (w *world) Reboot(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reboots++
	return nil
}

func (w *world) Call(_ context.Context, method string, args ...any) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if method == "supervisor.getAllProcessInfo" {
		list := []any{}
		for _, name := range w.running {
			list = append(list, map[string]any{"name": name, "group": name, "statename": "RUNNING"})
		}
		return list, nil
	}
	w.calls = append(w.calls, strings.TrimSpace(fmt.Sprintln(append([]any{strings.TrimPrefix(method, "supervisor.")}, args...)...)))
	return true, nil
}

func (w *world) Control() control.Client {
	return control.Client{Socket: w.path("run/supervisor.sock")}
}

type file = cgatest.File

// tarball writes one, and returns its path.
func (w *world) tarball(name string, files ...file) string {
	w.t.Helper()
	path := filepath.Join(w.path("run"), name)
	w.do(os.WriteFile(path, cgatest.Tarball(w.t, files...), 0o644))
	return path
}

// program is an app that is one, and says which version it is.
func (w *world) program(app, version string, more ...file) string {
	return w.tarball(app+".v"+version+".tar.gz", append([]file{
		cgatest.Script("echo installing " + version + "\ncp app /usr/local/bin/" + app + "\n"), cgatest.Supervised("command=/usr/local/bin/" + app + "\n"),
		cgatest.Executable("app", "#!/bin/sh\necho "+app+" "+version+"\n"),
	}, more...)...)
}

// order has a command done, as the queue would: items are names of tarballs in run,
// or "uninstall NAME" and "rollback NAME".
func (w *world) order(items ...string) (string, error) {
	w.jobs++
	return w.again(fmt.Sprint("job-", w.jobs), false, items...)
}

func (w *world) again(id string, again bool, items ...string) (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	job := command.Job{ID: id, Again: again, Fetch: func(_ context.Context, item command.Item) (string, error) {
		return filepath.Join(w.path("run"), item.Name), nil
	}}
	for _, text := range items {
		do, name, named := strings.Cut(text, " ")
		if !named {
			do, name = command.Install, text
		}
		job.Items = append(job.Items, command.Item{Do: do, Name: name})
	}
	before := w.reboots
	go func() { // a reboot ends the engine
		for ctx.Err() == nil {
			w.mu.Lock()
			now := w.reboots
			w.mu.Unlock()
			if now > before {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return w.Install(ctx, job)
}

// apps are those that are installed, as "NAME VERSION".
func (w *world) apps() (list []string) {
	w.t.Helper()
	g, err := w.store().Current()
	w.do(err)
	for _, a := range g.Apps {
		list = append(list, a.Name+" "+a.Version)
	}
	return list
}

// layer is the folder of an app's layer.
func (w *world) layer(app string) string {
	w.t.Helper()
	g, _ := w.store().Current()
	a, ok := g.App(app)
	if !ok || a.Layer == 0 {
		w.t.Fatalf("%s has no layer: %+v", app, g.Apps)
	}
	return filepath.Join("data/apps", fmt.Sprint(a.Layer))
}

// clean says what is on the disk that should not be: after Collect, folders of layers
// that no app has, now or before, and mounts.
func (w *world) clean() {
	w.t.Helper()
	g, _ := w.store().Current()
	w.do(w.store().Collect())
	var want []string
	for _, a := range append(slices.Clone(g.Apps), g.Previous...) {
		if a.Layer > 0 {
			want = append(want, fmt.Sprint(a.Layer))
		}
	}
	entries, _ := os.ReadDir(w.path("data/apps"))
	for _, e := range entries {
		if e.Name() != "rw" && !slices.Contains(want, e.Name()) {
			w.t.Errorf("data/apps/%s is left; apps %v, before %v", e.Name(), g.Apps, g.Previous)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), w.path("data/apps")) {
		w.t.Errorf("something is mounted")
	}
}

// build builds gweinit.
func build(t testing.TB, to string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", to, "github.com/exosite/gwe/gweinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}
