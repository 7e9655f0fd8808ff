package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

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
