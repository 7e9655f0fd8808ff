package supervisor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/reaper"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// reap waits for all children of the tests: os/exec has no use here.
var reap *reaper.Reaper

func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // what came from our parent is not for programs
	reap = reaper.New()
	flag.Parse()
	flag.Set("test.parallel", "16") // they mostly wait
	os.Exit(m.Run())
}

// world is a supervisor with real programs.
type world struct {
	*Supervisor
	t    *testing.T
	dir  string // %(here)s
	file string

	mu     sync.Mutex
	events []event
	lines  strings.Builder // the supervisor's log
}

// event is that a process has entered a state.
type event struct {
	process string
	state   State
	at      time.Time
}

// newWorld starts a supervisor with programs, which stop with the test.
func newWorld(t *testing.T, text string, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.file = filepath.Join(w.dir, "supervisord.conf")
	w.write(text)
	opt := Options{
		Load:    func() (*conf.Config, error) { return conf.Load(w.file, conf.Options{Environ: os.Environ()}) },
		Reaper:  reap,
		Log:     slog.New(slog.NewTextHandler(lockedWriter{w}, nil)),
		Environ: append(os.Environ(), "WORLD="+w.dir),
		entered: func(process string, state State) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, event{process, state, time.Now()})
		},
		Shutdown: func() {}, Restart: func() {},
	}
	for _, f := range change {
		f(&opt)
	}
	config, err := opt.Load()
	if err != nil {
		t.Fatal(err)
	}
	w.Supervisor = New(opt)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the supervisor's log:\n%s", w.log())
		}
	})
	w.Start(config)
	return w
}

type lockedWriter struct{ w *world }

func (l lockedWriter) Write(p []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.lines.Write(p)
}

func (w *world) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines.String()
}

// write makes text the configuration.
func (w *world) write(text string) {
	w.t.Helper()
	text = "[supervisord]\nchildlogdir=%(here)s\nidentifier=test\n" + text
	if err := os.WriteFile(w.file, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// history returns the states of a process, one after the other.
func (w *world) history(process string) []event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []event
	for _, e := range w.events {
		if e.process == process {
			list = append(list, e)
		}
	}
	return list
}

func names(events []event) string {
	var list []string
	for _, e := range events {
		list = append(list, e.state.String())
	}
	return strings.Join(list, " ")
}

const patience = 15 * time.Second

// eventually waits for ok.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within %v: %s\n%s", patience, what, w.log())
		}
	}
}

// passes waits for the states of a process to have been these.
func (w *world) passes(process, states string) []event {
	w.t.Helper()
	n := len(strings.Fields(states))
	w.eventually(fmt.Sprintf("%s has %d states", process, n), func() bool { return len(w.history(process)) >= n })
	got := w.history(process)
	if names(got[:n]) != states {
		w.t.Errorf("%s: %s\nwant %s", process, names(got), states)
	}
	return got
}

// stays checks that these were all states that the process had, and that none
// comes for a while.
func (w *world) stays(process, states string) {
	w.t.Helper()
	w.passes(process, states)
	time.Sleep(300 * time.Millisecond)
	if got := names(w.history(process)); got != states {
		w.t.Errorf("%s: %s\nwant %s and no more", process, got, states)
	}
}

// call calls a method. A fault is returned as text.
func (w *world) call(method string, args ...any) any {
	w.t.Helper()
	m, ok := w.Methods()["supervisor."+method]
	if !ok {
		w.t.Fatalf("there is no method %s", method)
	}
	for i := len(args); i < len(m.Params); i++ {
		args = append(args, m.Params[i].Default)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := m.Run(ctx, args)
	if fault := (control.Fault{}); errors.As(err, &fault) {
		return fmt.Sprintf("fault %d: %s", fault.Code, fault.Text)
	} else if err != nil {
		return "error: " + err.Error()
	}
	return result
}

// expect calls a method and compares what comes.
func (w *world) expect(want any, method string, args ...any) {
	w.t.Helper()
	if got := w.call(method, args...); fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%s%v: %v\nwant %v", method, args, got, want)
	}
}

func (w *world) info(process string) map[string]any {
	w.t.Helper()
	info, ok := w.call("getProcessInfo", process).(map[string]any)
	if !ok {
		w.t.Fatalf("no information about %s: %v", process, w.call("getProcessInfo", process))
	}
	return info
}

// read returns the text of a file in the world, "" if there is none.
func (w *world) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(w.dir, name))
	return string(text)
}

// inCgroups is an option that gives the programs cgroups.
func inCgroups(t *testing.T) func(*Options) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, "cgroup.subtree_control")); err != nil {
			continue // version 1
		}
		group, err := os.MkdirTemp(root, "supervisor-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Rmdir(group); err != nil {
				t.Errorf("remove the cgroup %s: %v", group, err)
			}
		})
		return func(o *Options) { o.Cgroup = group }
	}
	t.Fatal("cgroup v2 is not mounted here")
	return nil
}

// alive reports whether a process with this number runs: one that has ended but
// was not waited for yet does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// threads, files and children of this process: what must not grow.
type resources struct{ goroutines, files int }

func count() resources {
	files, _ := os.ReadDir("/proc/self/fd")
	return resources{runtime.NumGoroutine(), len(files)}
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }
