package supervisor

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The states that programs go through by themselves.
func TestStates(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, options, want string }{
		{"stays up", `command=sleep 100`, "STARTING RUNNING"},
		{"ends too soon", "command=sh -c 'exit 0'\nstartretries=1", "STARTING BACKOFF STARTING BACKOFF FATAL"},
		{"no retries", "command=sh -c 'exit 1'\nstartretries=0", "STARTING BACKOFF FATAL"},
		{"is missing", "command=no-such-command\nstartretries=1", "STARTING BACKOFF STARTING BACKOFF FATAL"},
		{"is no program", "command=/etc/passwd\nstartretries=0", "STARTING BACKOFF FATAL"},
		{"is in no folder", "command=sleep 1\ndirectory=/no/such\nstartretries=0", "STARTING BACKOFF FATAL"},
		{"ends as expected", "command=sh -c 'exit 0'\nstartsecs=0", "STARTING RUNNING EXITED"},
		{"code is expected", "command=sh -c 'exit 3'\nstartsecs=0\nexitcodes=2,3", "STARTING RUNNING EXITED"},
		{"is not to be started again", "command=sh -c 'exit 3'\nstartsecs=0\nautorestart=false", "STARTING RUNNING EXITED"},
		{"a signal is not expected", "command=sh -c 'kill -9 $$'\nstartsecs=0\nautorestart=false", "STARTING RUNNING EXITED"},
		{"code is not expected", "command=sh -c 'exit 3'\nstartsecs=0", "STARTING RUNNING EXITED STARTING RUNNING EXITED BACKOFF STARTING RUNNING EXITED BACKOFF"},
		{"starts again whatever the code", "command=sh -c 'exit 0'\nstartsecs=0\nautorestart=true", "STARTING RUNNING EXITED STARTING RUNNING EXITED BACKOFF"},
		{"runs, then ends", "command=sleep 1.3", "STARTING RUNNING EXITED"},
		{"comes up at the second time", `command=sh -c 'test -e %(here)s/second || { touch %(here)s/second; exit 1; }; exec sleep 100'`, "STARTING BACKOFF STARTING RUNNING"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "[program:x]\n"+tt.options)
			if strings.HasSuffix(tt.want, "BACKOFF") {
				w.passes("x", tt.want)
			} else {
				w.stays("x", tt.want)
			}
		})
	}
}

// Supervisor waits one more second before each start.
func TestRetriesSlowDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[program:x]\ncommand=sh -c 'exit 1'\nstartretries=2")
	events := w.passes("x", "STARTING BACKOFF STARTING BACKOFF STARTING BACKOFF FATAL")
	for i, want := range map[int]time.Duration{1: time.Second, 3: 2 * time.Second} {
		if got := events[i+1].at.Sub(events[i].at); got < want || got > want+4*time.Second {
			t.Errorf("%v before start %d, want %v", got, i/2+2, want)
		}
	}
	if d := w.info("x")["description"]; d != "Exited too quickly (process log may have details)" {
		t.Errorf("it is %v", d)
	}
}

// A program that crashes for ever costs less and less.
func TestCrashesSlowDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[program:x]\ncommand=sh -c 'exit 1'\nstartsecs=0")
	events := w.passes("x", "STARTING RUNNING EXITED STARTING RUNNING EXITED BACKOFF STARTING RUNNING EXITED BACKOFF STARTING RUNNING EXITED BACKOFF")
	for i, want := range map[int]time.Duration{2: 0, 6: time.Second, 10: 2 * time.Second} {
		if got := events[i+1].at.Sub(events[i].at); got < want || got > want+4*time.Second {
			t.Errorf("%v before start at %d, want %v", got, i, want)
		}
	}
	if d := w.info("x")["description"]; d != "Exited again soon, waiting 4s before the next start" {
		t.Errorf("it is %v", d)
	}
	for n, want := range map[int]time.Duration{0: 0, 1: time.Second, 6: 32 * time.Second, 7: time.Minute, 1 << 30: time.Minute} {
		if got := crashWait(n); got != want {
			t.Errorf("after %d crashes it waits %v, want %v", n, got, want)
		}
	}
	for _, tt := range []struct {
		n         int
		essential bool
		want      time.Duration
	}{{1, false, time.Second}, {1000, false, 1000 * time.Second}, {3, true, 3 * time.Second}, {1000, true, time.Minute}} {
		if got := retryWait(tt.n, tt.essential); got != tt.want {
			t.Errorf("after %d starts (essential: %v) it waits %v, want %v", tt.n, tt.essential, got, tt.want)
		}
	}
}

// One that has stayed up for long is forgiven; ends as expected are sooner.
func TestForgiven(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ code, want string }{
		{"1", "STARTING RUNNING EXITED STARTING RUNNING EXITED BACKOFF"},
		{"0", "STARTING RUNNING EXITED STARTING RUNNING EXITED STARTING RUNNING EXITED STARTING"},
	} {
		w := newWorld(t, "[program:x]\ncommand=sh -c 'sleep 0.2; exit "+tt.code+"'\nstartsecs=0\nautorestart=true", func(o *Options) {
			o.settledAfter, o.settledExpected = 10*time.Second, 100*time.Millisecond
		})
		w.passes("x", tt.want)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	const ignores = `sh -c 'trap "" TERM; echo up; while true; do sleep 0.1; done'`
	for _, tt := range []struct {
		name, options string
		when          string // states before the stop
		want          string
		status        int
	}{
		{"running", "command=sleep 100", "STARTING RUNNING", "STOPPING STOPPED", -1},
		{"starting", "command=sleep 100\nstartsecs=50", "STARTING", "STOPPING STOPPED", -1},
		{"in backoff", "command=false\nstartretries=100", "STARTING BACKOFF", "STOPPED", 0},
		{"ignores it", "command=" + ignores + "\nstopwaitsecs=1", "STARTING RUNNING", "STOPPING STOPPED", -1},
		{"another signal", `command=sh -c 'trap "exit 7" USR1; while true; do sleep 0.1; done'` + "\nstopsignal=USR1\nstopwaitsecs=100", "STARTING RUNNING", "STOPPING STOPPED", 7},
		{"catches it", `command=sh -c 'trap "exit 0" TERM; while true; do sleep 0.1; done'` + "\nstopwaitsecs=100\nautorestart=true", "STARTING RUNNING", "STOPPING STOPPED", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "[program:x]\n"+tt.options)
			w.passes("x", tt.when)
			w.expect(true, "stopProcess", "x")
			w.stays("x", tt.when+" "+tt.want)
			if got := w.info("x"); got["exitstatus"] != tt.status || got["pid"] != 0 {
				t.Errorf("exitstatus %v, pid %v; want %d, 0", got["exitstatus"], got["pid"], tt.status)
			}
			w.expect("fault 70: NOT_RUNNING: x", "stopProcess", "x")
		})
	}
}

// What a program leaves behind ends with it, even if it hides from signals and
// in a session of its own, which takes a cgroup to see.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	const script = `setsid sh -c 'trap "" TERM HUP; echo $$ > hidden; while true; do sleep 0.1; done' &
sh -c 'trap "echo child > goodbye; exit" TERM; echo $$ > child; while true; do sleep 0.1; done' &
test -z "$ONCE" || { while ! test -s hidden -a -s child; do sleep 0.02; done; exit; }
while true; do sleep 0.1; done`
	run := func(t *testing.T, options string, change ...func(*Options)) (w *world, hidden, child int) {
		w = newWorld(t, "[program:x]\ncommand=sh %(here)s/script\ndirectory=%(here)s\nautostart=false\nstopwaitsecs=1\n"+options, change...)
		if err := os.WriteFile(w.dir+"/script", []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		w.expect(true, "startProcess", "x")
		w.eventually("its children are up", func() bool { return w.read("hidden") != "" && w.read("child") != "" })
		hidden, err1 := strconv.Atoi(strings.TrimSpace(w.read("hidden")))
		child, err2 := strconv.Atoi(strings.TrimSpace(w.read("child")))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		return w, hidden, child
	}
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		w, hidden, child := run(t, "", inCgroups(t))
		w.expect(true, "stopProcess", "x")
		if alive(hidden) || alive(child) {
			t.Errorf("after the stop, the hidden child runs: %v, the other: %v", alive(hidden), alive(child))
		}
		if w.read("goodbye") != "child\n" {
			t.Error("the child was not asked to end")
		}
	})
	t.Run("without cgroups", func(t *testing.T) {
		t.Parallel()
		w, hidden, child := run(t, "")
		w.expect(true, "stopProcess", "x")
		if !alive(hidden) || alive(child) { // that is why there are cgroups
			t.Errorf("after the stop, the hidden child runs: %v, the other: %v", alive(hidden), alive(child))
		}
		unix.Kill(hidden, unix.SIGKILL)
	})
	t.Run("ended by itself", func(t *testing.T) {
		t.Parallel()
		w, hidden, child := run(t, "startsecs=0\nenvironment=ONCE=1", inCgroups(t))
		w.passes("x", "STARTING RUNNING EXITED")
		time.Sleep(200 * time.Millisecond)
		if !alive(hidden) || !alive(child) { // some programs only start others
			t.Errorf("while it is EXITED, the hidden child runs: %v, the other: %v", alive(hidden), alive(child))
		}
		w.expect(true, "startProcess", "x")
		if alive(hidden) || alive(child) {
			t.Errorf("after the next start, the hidden child runs: %v, the other: %v", alive(hidden), alive(child))
		}
	})
	t.Run("EXITED and stopped", func(t *testing.T) {
		t.Parallel()
		w, hidden, child := run(t, "startsecs=0\nenvironment=ONCE=1", inCgroups(t))
		w.passes("x", "STARTING RUNNING EXITED")
		w.expect("fault 70: NOT_RUNNING: x", "stopProcess", "x")
		if alive(hidden) || alive(child) {
			t.Errorf("after the stop, the hidden child runs: %v, the other: %v", alive(hidden), alive(child))
		}
	})
}

// Signals go to the program alone, or to all in its process group.
func TestGroupSignals(t *testing.T) {
	t.Parallel()
	const script = `sh -c 'trap "echo child >> %(here)s/%(program_name)s; exit" USR1; while true; do sleep 0.05; done' & trap "echo parent >> %(here)s/%(program_name)s; wait; exit" USR1; while true; do sleep 0.05; done`
	w := newWorld(t, fmt.Sprintf("[program:all]\ncommand=sh -c '%s'\nstopsignal=USR1\nstopasgroup=true\n[program:one]\ncommand=sh -c '%s'\nstopsignal=USR1",
		strings.ReplaceAll(script, "'", `'"'"'`), strings.ReplaceAll(strings.ReplaceAll(script, "wait; ", ""), "'", `'"'"'`)))
	w.passes("all", "STARTING RUNNING")
	w.passes("one", "STARTING RUNNING")
	w.expect(true, "signalProcess", "one", "USR1")
	w.eventually("the parent alone has it", func() bool { return w.read("one") == "parent\n" })
	w.expect(true, "stopProcess", "all")
	w.eventually("both have it", func() bool {
		return strings.Join(sorted(strings.Fields(w.read("all"))), " ") == "child parent"
	})
}

// Starts are in the order of priorities, and stops the other way round, those of
// a priority together.
func TestPriorities(t *testing.T) {
	t.Parallel()
	slow := `command=sh -c 'trap "sleep 0.5; exit" TERM; while true; do sleep 0.05; done'`
	w := newWorld(t, "[program:c]\npriority=30\n"+slow+"\n[program:a]\npriority=10\n"+slow+"\n[program:b1]\npriority=20\n"+slow+"\n[program:b2]\npriority=20\n"+slow)
	for _, name := range []string{"a", "b1", "b2", "c"} {
		w.passes(name, "STARTING RUNNING")
	}
	start := time.Now()
	w.call("stopAllProcesses")
	took := time.Since(start)
	w.mu.Lock()
	defer w.mu.Unlock()
	var order []string
	for _, e := range w.events {
		switch {
		case e.state == Starting:
			order = append(order, "start "+e.process)
		case e.state == Stopping:
			order = append(order, "stop "+e.process[:1])
		case e.state == Stopped:
			order = append(order, "stopped "+e.process[:1])
		}
	}
	want := "start a, start b1, start b2, start c, stop c, stopped c, stop b, stop b, stopped b, stopped b, stop a, stopped a"
	if got := strings.Join(order, ", "); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if took < 1500*time.Millisecond || took > 5*time.Second {
		t.Errorf("three priorities of programs that take 0.5 s took %v", took)
	}
}

// Gateway Engine's own programs cannot be silenced.
func TestEssential(t *testing.T) {
	t.Parallel()
	text := "[program:gwe]\ncommand=sleep 100\nautostart=false\n[program:gmq]\ncommand=false\nstartretries=0"
	w := newWorld(t, text, func(o *Options) { o.Essential, o.essentialWait = []string{"gwe", "gmq"}, 1500*time.Millisecond })
	w.passes("gmq", "STARTING BACKOFF STARTING BACKOFF")
	w.passes("gwe", "STARTING RUNNING")
	w.expect(true, "stopProcess", "gwe")
	w.passes("gwe", "STARTING RUNNING STOPPING STOPPED STARTING RUNNING")
	w.expect(true, "stopProcess", "gwe")
	w.expect(true, "removeProcessGroup", "gwe")
	w.passes("gwe", "STARTING RUNNING STOPPING STOPPED STARTING RUNNING STOPPING STOPPED STARTING RUNNING")
	pid := w.info("gwe")["pid"].(int)
	if pid <= 0 { // never a signal to all
		t.Fatalf("the PID of gwe is %d", pid)
	}
	unix.Kill(pid, unix.SIGKILL)
	w.passes("gwe", "STARTING RUNNING STOPPING STOPPED STARTING RUNNING STOPPING STOPPED STARTING RUNNING EXITED STARTING RUNNING")
	// What is not in the configuration any more does not come back.
	w.write("")
	w.Update(t.Context())
	time.Sleep(1800 * time.Millisecond)
	if _, ok := w.find("gwe"); ok {
		t.Error("gwe is there, though the configuration lacks it")
	}
}

// A bug about one program is not the end of the supervisor.
func TestPanic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[program:x]\ncommand=sleep 100\nautostart=false\n[program:y]\ncommand=sleep 100")
	p, err := w.process("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.do(t.Context(), func() { panic("a bug") }); err == nil || err.Error() != "panic about 'x': a bug" {
		t.Errorf("who asked for it hears %v", err)
	}
	w.passes("x", "UNKNOWN")
	w.passes("y", "STARTING RUNNING")
	if !strings.Contains(w.log(), "a bug") {
		t.Error("the log does not tell of it")
	}
	for _, o := range each(w.all(), func(*process) error { panic("another") }) {
		if o.err == nil || !strings.Contains(o.err.Error(), "another") {
			t.Errorf("%s: %v", o.p.name(), o.err)
		}
	}
}

// A program that crashes and leaves something behind is just between two runs for
// most of its life. Who stops it then stops it.
func TestStopWhileRestarting(t *testing.T) {
	t.Parallel()
	const text = `[program:x]
command=sh -c 'setsid sh -c "trap : TERM; while :; do sleep 1; done" & sleep 0.1; exit 1'
startsecs=0
`
	t.Run("stop all", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, text, inCgroups(t))
		w.passes("x", "STARTING RUNNING EXITED STARTING") // now the leftovers end
		w.expect("[map[description:OK group:x name:x status:80]]", "stopAllProcesses")
		w.stays("x", "STARTING RUNNING EXITED STARTING RUNNING STOPPING STOPPED")
	})
	t.Run("update", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, text, inCgroups(t))
		w.passes("x", "STARTING RUNNING EXITED STARTING")
		w.write("[program:y]\ncommand=sleep 100\n")
		if err := w.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.passes("y", "STARTING RUNNING")
		if _, ok := w.find("x"); ok {
			t.Error("x is still there")
		}
	})
	t.Run("shutdown", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, text, inCgroups(t))
		w.passes("x", "STARTING RUNNING EXITED STARTING")
		start := time.Now()
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > patience {
			t.Errorf("it took %v", took)
		}
	})
}

// Groups are added, removed and started by several at once: no process is left
// that nobody knows.
func TestGroupsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[program:x]\ncommand=sh -c 'sleep 300 & exec sleep 301'\nautostart=false\nstartsecs=0\nnumprocs=3\nprocess_name=%(process_num)s", inCgroups(t))
	methods := w.Methods()
	call := func(method string, args ...any) { // whatever comes of it
		m := methods["supervisor."+method]
		for i := len(args); i < len(m.Params); i++ {
			args = append(args, m.Params[i].Default)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := m.Run(ctx, args); err != nil && ctx.Err() != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	var wg sync.WaitGroup
	for _, f := range []func(){
		func() { call("addProcessGroup", "x") },
		func() { call("removeProcessGroup", "x") },
		func() { call("startProcess", "x:*") },
		func() { call("stopProcess", "x:1") },
		func() { call("stopAllProcesses") },
	} {
		wg.Go(func() {
			for range 30 {
				f()
			}
		})
	}
	wg.Wait()
	call("stopAllProcesses")
	call("removeProcessGroup", "x")
	if _, ok := w.find("x"); ok {
		t.Error("x is still there")
	}
	left, err := os.ReadDir(w.opt.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.IsDir() {
			t.Errorf("the cgroup of %s is left", e.Name())
		}
	}
}
