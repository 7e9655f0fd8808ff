package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// TestPrepare: before each start of an app's program its root directory is made, by
// who knows whether anything of the app is up; without it the program does not start.
// Another revision of the app is another program.
func TestPrepare(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, conf.AppConfigs, "app.conf")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "[program:app]\ncommand=sleep 1000\nnumprocs=2\nprocess_name=%(process_num)s\nautostart=false\nstartsecs=0\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var idle []bool
	var broken error
	revision := "1"
	w := newWorld(t, "[supervisord]\n[program:other]\ncommand=sleep 1000\n", func(o *Options) {
		load := o.Load
		o.Load = func() (*conf.Config, error) {
			config, err := load()
			apps, appErr := conf.Load(config.File, conf.Options{Environ: os.Environ(), Apps: []conf.App{{Name: "app", Folder: folder, Root: "/", Revision: revision}}})
			return apps, errors.Join(err, appErr)
		}
		o.Prepare = func(p conf.Program, i bool) error {
			mu.Lock()
			defer mu.Unlock()
			if p.App != "app" || p.Revision != revision {
				t.Errorf("asked for %s of revision %s", p.App, p.Revision)
			}
			idle = append(idle, i)
			return broken
		}
	})
	start := func(name string) error {
		p, err := w.process(name)
		if err != nil {
			t.Fatal(err)
		}
		return p.start(t.Context(), true)
	}
	broken = errors.New("no overlay")
	if err := start("app:0"); err == nil {
		t.Error("it starts without a root directory")
	}
	broken, idle = nil, nil
	if err := start("app:0"); err != nil {
		t.Error(err)
	}
	if err := start("app:1"); err != nil {
		t.Error(err)
	}
	// Each start asks twice: whether there is such a command, and for the start.
	if len(idle) != 4 || !idle[0] || !idle[1] || idle[2] || idle[3] {
		t.Errorf("nothing is up: %v", idle)
	}
	other, _ := w.process("other")
	before := other.snapshot().PID
	mu.Lock()
	revision = "2"
	mu.Unlock()
	if err := w.Update(t.Context()); err != nil {
		t.Error(err)
	}
	if p, err := w.process("app:0"); err != nil || p.conf.Revision != "2" || p.snapshot().PID != 0 {
		t.Errorf("after the update: %v", err)
	}
	if now := other.snapshot().PID; now != before {
		t.Error("another program was disturbed")
	}
}

// appWorld is a world with an app whose configuration is text, and whose logs are
// below the folder "data" of the world for the supervisor.
func appWorld(t *testing.T, text string, prepare func(conf.Program, bool) error, before ...func(dir string)) *world {
	t.Helper()
	folder := t.TempDir()
	file := filepath.Join(folder, conf.AppConfigs, "app.conf")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, "", func(o *Options) {
		load := o.Load
		o.Load = func() (*conf.Config, error) {
			config, err := load()
			dir := filepath.Dir(config.File)
			for _, f := range before {
				f(dir)
			}
			app := conf.App{Name: "app", Folder: folder, Root: "/", Log: func(path string) string { return filepath.Join(dir, path) }}
			config, appErr := conf.Load(config.File, conf.Options{Environ: os.Environ(), Apps: []conf.App{app}})
			return config, errors.Join(err, appErr)
		}
		o.Prepare = prepare
	})
}

// However many programs of an app start at the same time, its root directory is made
// anew only for the first: the others are about to run in it. Only when all have ended,
// or did not come up, it is again.
func TestPrepareAtOnce(t *testing.T) {
	t.Parallel()
	var calls, idles, during atomic.Int32
	var fail atomic.Bool
	const n = 16
	w := appWorld(t, "[program:app]\ncommand=sleep 1000\nnumprocs=16\nprocess_name=%(process_num)s\nautostart=false\nstartsecs=0\nstartretries=0\n", func(_ conf.Program, idle bool) error {
		if during.Add(1) > 1 {
			t.Error("two at once")
		}
		defer during.Add(-1)
		calls.Add(1)
		if idle {
			idles.Add(1)
		}
		time.Sleep(time.Millisecond)
		if fail.Load() {
			return errors.New("no overlay")
		}
		return nil
	})
	start := func(how func(p *process) error) (failed int32) {
		var wg sync.WaitGroup
		var count atomic.Int32
		for _, p := range w.all() {
			wg.Go(func() {
				if how(p) != nil {
					count.Add(1)
				}
			})
		}
		wg.Wait()
		return count.Load()
	}
	spawn := func(p *process) error { return p.do(t.Context(), p.spawn) }
	for range 3 {
		calls.Store(0)
		idles.Store(0)
		start(spawn)
		if calls.Load() != n || idles.Load() != 1 {
			t.Errorf("of %d calls %d were about an idle app", calls.Load(), idles.Load())
		}
		idles.Store(0)
		for _, p := range w.all() { // as a start of one that is up
			if err := p.start(t.Context(), true); err == nil {
				t.Error("it starts twice")
			}
		}
		if idles.Load() != 0 {
			t.Error("it is idle, with all up")
		}
		w.call("stopAllProcesses")
		fail.Store(true)
		start(spawn)
		if failed := start(func(p *process) error { return p.start(t.Context(), true) }); failed != n {
			t.Errorf("%d of %d have not started without a root directory", failed, n)
		}
		fail.Store(false)
		if got := w.tenantsOf("app").count.Load(); got != 0 {
			t.Errorf("%d are in the root directory, and none is up", got)
		}
	}
	if failed := start(func(p *process) error { return p.start(t.Context(), true) }); failed != 0 {
		t.Errorf("%d have not started", failed)
	}
	if got := w.tenantsOf("app").count.Load(); got != n {
		t.Errorf("%d are in the root directory, not %d", got, n)
	}
}

// The log of an app's program follows no link: neither one that is there before nor
// one that comes later.
func TestAppLogLinks(t *testing.T) {
	t.Parallel()
	const secret = "not the app's"
	program := func(name, log string) string {
		return "[program:" + name + "]\ncommand=sh -c 'while read l; do echo $l; done'\nredirect_stderr=true\nstdout_logfile_maxbytes=1KB\nstdout_logfile_backups=1\nstdout_logfile=" + log + "\n"
	}
	var gateway string
	w := appWorld(t, program("good", "/data/good.log")+program("link", "/data/link.log")+program("folder", "/data/folder/commands.json")+program("late", "/data/late.log"), nil, func(dir string) {
		gateway = filepath.Join(dir, "gwe")
		data := filepath.Join(dir, "data")
		if os.Mkdir(gateway, 0o755) != nil {
			return // at an update
		}
		if err := errors.Join(os.Mkdir(data, 0o755), os.WriteFile(filepath.Join(gateway, "commands.json"), []byte(secret), 0o600),
			os.Symlink(filepath.Join(gateway, "commands.json"), filepath.Join(data, "link.log")), os.Symlink(gateway, filepath.Join(data, "folder"))); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"good", "link", "folder", "late"} {
		w.passes(name, "STARTING RUNNING")
		w.expect(true, "sendProcessStdin", name, "hello\n")
	}
	for name, auto := range map[string]bool{"good": false, "link": true, "folder": true, "late": false} {
		file := w.info(name)["stdout_logfile"].(string)
		if strings.HasPrefix(file, filepath.Join(w.dir, "data")) == auto {
			t.Errorf("%s logs to %s", name, file)
		}
		w.eventually(name+" has logged", func() bool {
			text, _ := os.ReadFile(file)
			return string(text) == "hello\n"
		})
		if warned := strings.Contains(w.log(), "log for stdout of '"+name+"'"); warned != auto {
			t.Errorf("a warning about %s: %v", name, warned)
		}
	}
	late := filepath.Join(w.dir, "data/late.log")
	if err := errors.Join(os.Remove(late), os.Symlink(filepath.Join(gateway, "commands.json"), late)); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		w.expect(true, "sendProcessStdin", "late", "this must not get there\n")
	}
	w.eventually("the supervisor's log tells", func() bool {
		return strings.Contains(w.log(), "late.log: there is a symbolic link")
	})
	w.call("clearProcessLogs", "late")
	w.ReopenLogs()
	if text, err := os.ReadFile(filepath.Join(gateway, "commands.json")); err != nil || string(text) != secret {
		t.Errorf("the gateway's file has %q, %v", text, err)
	}
	if entries, _ := os.ReadDir(gateway); len(entries) != 1 {
		t.Errorf("%v are beside it", entries)
	}
	// The other file is no change of the configuration.
	if err := w.Update(t.Context()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"good", "link", "folder", "late"} {
		w.stays(name, "STARTING RUNNING")
	}
}
