package supervisor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
)

const threePrograms = `[program:up]
command=sh -c 'echo out; echo err >&2; exec cat'
[program:off]
command=sleep 100
autostart=false
startsecs=0
[program:missing]
command=no-such-command
autostart=false
[program:locked]
command=/etc/passwd
autostart=false
[program:web]
command=sh -c 'echo I am %(process_num)d; exec sleep 100'
process_name=%(program_name)s_%(process_num)02d
numprocs=2
[program:soon]
command=false
autostart=false
[group:two]
programs=soon,locked
`

func TestMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, threePrograms)
	w.passes("up", "STARTING RUNNING")
	w.passes("web:web_01", "STARTING RUNNING")
	for _, tt := range []struct {
		method string
		args   []any
		want   string
	}{
		{"getAPIVersion", nil, "3.0"},
		{"getVersion", nil, "3.0"},
		{"getSupervisorVersion", nil, "4.2.5"},
		{"getIdentification", nil, "test"},
		{"getState", nil, "map[statecode:1 statename:RUNNING]"},
		{"getPID", nil, fmt.Sprint(os.Getpid())},
		{"getProcessInfo", []any{"none"}, "fault 10: BAD_NAME: none"},
		{"getProcessInfo", []any{"web:*"}, "fault 10: BAD_NAME: web:*"},
		{"getProcessInfo", []any{"web"}, "fault 10: BAD_NAME: web"},
		{"startProcess", []any{"up"}, "fault 60: ALREADY_STARTED: up"},
		{"startProcess", []any{"none"}, "fault 10: BAD_NAME: none"},
		{"startProcess", []any{"none:*"}, "fault 10: BAD_NAME: none"},
		{"startProcess", []any{"missing"}, "fault 20: NO_FILE: can't find command 'no-such-command'"},
		{"startProcess", []any{"two:locked"}, "fault 21: NOT_EXECUTABLE: command at '/etc/passwd' is not executable"},
		{"startProcess", []any{"two:soon"}, "fault 50: SPAWN_ERROR: two:soon"},
		{"stopProcess", []any{"off"}, "fault 70: NOT_RUNNING: off"},
		{"startProcess", []any{"off"}, "true"},
		{"stopProcess", []any{"off", false}, "true"},
		{"signalProcess", []any{"up", "NONE"}, "fault 11: BAD_SIGNAL: NONE"},
		{"signalProcess", []any{"up", "0"}, "fault 11: BAD_SIGNAL: 0"},
		{"signalProcess", []any{"missing", "HUP"}, "fault 70: NOT_RUNNING: missing"},
		{"signalProcess", []any{"up", "SIGCONT"}, "true"},
		{"signalProcess", []any{"web:", "18"}, "[map[description:OK group:web name:web_00 status:80] map[description:OK group:web name:web_01 status:80]]"},
		{"signalProcessGroup", []any{"web", "x"}, "[map[description:BAD_SIGNAL: x group:web name:web_00 status:11] map[description:BAD_SIGNAL: x group:web name:web_01 status:11]]"},
		{"stopProcess", []any{"web:*"}, "[map[description:OK group:web name:web_00 status:80] map[description:OK group:web name:web_01 status:80]]"},
		{"startProcessGroup", []any{"web"}, "[map[description:OK group:web name:web_00 status:80] map[description:OK group:web name:web_01 status:80]]"},
		{"startProcessGroup", []any{"web"}, "[]"},
		{"sendProcessStdin", []any{"missing", "x"}, "fault 70: NOT_RUNNING: missing"},
		{"sendProcessStdin", []any{"up", "to cat\n"}, "true"},
		{"addProcessGroup", []any{"up"}, "fault 90: ALREADY_ADDED: up"},
		{"addProcessGroup", []any{"none"}, "fault 10: BAD_NAME: none"},
		{"removeProcessGroup", []any{"up"}, "fault 91: STILL_RUNNING: up"},
		{"removeProcessGroup", []any{"none"}, "fault 10: BAD_NAME: none"},
		{"removeProcessGroup", []any{"missing"}, "true"},
		{"addProcessGroup", []any{"missing"}, "true"},
		{"reloadConfig", nil, "[[[] [] []]]"},
		{"readLog", []any{0, 0}, "fault 20: NO_FILE"},
		{"readProcessStdoutLog", []any{"web:web_01", 0, 0}, "I am 1\nI am 1\n"},
		{"readProcessStderrLog", []any{"up", -3, 0}, "rr\n"},
		{"readProcessStdoutLog", []any{"up", 0, -1}, "fault 3: BAD_ARGUMENTS"},
		{"readProcessStdoutLog", []any{"none", 0, 0}, "fault 10: BAD_NAME: none"},
		{"tailProcessStdoutLog", []any{"up", 0, 4}, "[cat\n 11 true]"},
		{"tailProcessStdoutLog", []any{"up", 0, 100}, "[out\nto cat\n 11 false]"},
		{"clearProcessLogs", []any{"up"}, "true"},
		{"clearProcessLogs", []any{"web:*"}, "fault 10: BAD_NAME: web:*"},
		{"readProcessStdoutLog", []any{"up", 0, 0}, ""},
		{"sendRemoteCommEvent", []any{"type", "data"}, "true"},
	} {
		if tt.method == "readProcessStdoutLog" || tt.method == "tailProcessStdoutLog" {
			w.eventually("cat has written", func() bool { return tt.args[0] != "up" || w.logged("up") == "out\nto cat\n" || tt.want == "" })
		}
		w.expect(tt.want, tt.method, tt.args...)
	}
	states := func() string {
		list := []string{}
		for _, i := range w.call("getAllProcessInfo").([]any) {
			i := i.(map[string]any)
			list = append(list, fmt.Sprintf("%v:%v %v", i["group"], i["name"], i["statename"]))
		}
		return strings.Join(list, ", ")
	}
	want := "missing:missing STOPPED, off:off STOPPED, two:locked STOPPED, two:soon BACKOFF, up:up RUNNING, web:web_00 RUNNING, web:web_01 RUNNING"
	// "soon" is STARTING for a moment, now and then.
	w.eventually("the states are "+want, func() bool { return states() == want })
	if n := len(w.call("getAllConfigInfo").([]any)); n != 7 {
		t.Errorf("the configuration has %d processes", n)
	}
	if n := len(w.call("clearAllProcessLogs").([]any)); n != 7 {
		t.Errorf("the logs of %d processes were cleared", n)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect("fault 6: SHUTDOWN_STATE", "getState")
}

// logged is what a process has written to its standard output.
func (w *world) logged(process string) string {
	file, err := w.logFile(process, "stdout")
	if err != nil {
		w.t.Fatal(err)
	}
	text, _ := os.ReadFile(file)
	return string(text)
}

// Every method says what it does and takes what system.methodSignature tells.
func TestMethodTable(t *testing.T) {
	t.Parallel()
	want := strings.Fields(`addProcessGroup clearAllProcessLogs clearLog clearProcessLog clearProcessLogs
		getAPIVersion getAllConfigInfo getAllProcessInfo getIdentification getPID getProcessInfo getState
		getSupervisorVersion getVersion readLog readMainLog readProcessLog readProcessStderrLog readProcessStdoutLog
		reloadConfig removeProcessGroup restart sendProcessStdin sendRemoteCommEvent shutdown
		signalAllProcesses signalProcess signalProcessGroup startAllProcesses startProcess startProcessGroup
		stopAllProcesses stopProcess stopProcessGroup tailProcessLog tailProcessStderrLog tailProcessStdoutLog`)
	methods := New(Options{Log: slog.New(slog.DiscardHandler)}).Methods()
	for _, name := range want { // those of supervisor/rpcinterface.py 4.2.5
		m, ok := methods["supervisor."+name]
		if !ok || m.Help == "" || m.Result == "" || m.Run == nil {
			t.Errorf("%s is missing or incomplete: %+v", name, m)
		}
	}
	if len(methods) != len(want) {
		t.Errorf("there are %d methods, want %d", len(methods), len(want))
	}
}

func TestDescriptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[program:x]\ncommand=sh -c 'sleep 1.2; exit 3'\nautorestart=false\nautostart=false")
	x := func() string { return fmt.Sprint(w.info("x")["description"]) }
	if x() != "Not started" {
		t.Error(x())
	}
	w.expect(true, "startProcess", "x")
	if !regexp.MustCompile(`^pid \d+, uptime 0:00:01$`).MatchString(x()) {
		t.Error(x())
	}
	w.passes("x", "STARTING RUNNING EXITED")
	if !regexp.MustCompile(`^[A-Z][a-z]{2} \d\d \d\d:\d\d [AP]M$`).MatchString(x()) {
		t.Error(x())
	}
	for seconds, want := range map[time.Duration]string{59: "0:00:59", 3661: "1:01:01", 86400 + 7384: "1 day, 2:03:04", 10 * 86400: "10 days, 0:00:00"} {
		if got := uptime(seconds * time.Second); got != want {
			t.Errorf("uptime of %d s: %s, want %s", seconds, got, want)
		}
	}
	// The clock may be set; 2038 comes.
	m := moment{t: time.Now().Add(-time.Hour)}
	first := m.seconds()
	m.unix += 5000
	if got := m.seconds(); got < first-1 || got > first+1 {
		t.Errorf("after the clock was set a start is at %d, was at %d", got, first)
	}
	if number(1<<40) != 1<<31-1 {
		t.Error("a time does not fit into XML-RPC")
	}
}

// A group that has changed is stopped, and starts anew. The others do not notice.
func TestUpdate(t *testing.T) {
	t.Parallel()
	const kept, old, new = "[program:kept]\ncommand=sleep 100\n", "[program:changed]\ncommand=sleep 100\n", "[program:changed]\ncommand=sleep 200\n"
	w := newWorld(t, kept+old+"[program:gone]\ncommand=sleep 100\n")
	for _, name := range []string{"kept", "changed", "gone"} {
		w.passes(name, "STARTING RUNNING")
	}
	gone := w.info("gone")["pid"].(int)
	w.write("[program:added]\ncommand=sleep 100\n" + kept + new)
	w.expect("[[[added] [changed] [gone]]]", "reloadConfig")
	if err := w.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.passes("added", "STARTING RUNNING")
	w.passes("changed", "STARTING RUNNING STOPPING STOPPED STARTING RUNNING")
	w.stays("kept", "STARTING RUNNING")
	w.stays("gone", "STARTING RUNNING STOPPING STOPPED")
	if alive(gone) {
		t.Error("gone is still there")
	}
	// A mistake changes nothing, and is told.
	w.write(kept + "[program:bad]\ncommand=x\nautostart=perhaps\n")
	w.expect("fault 92: CANT_REREAD: "+w.file+":8: [program:bad] autostart = perhaps: not true or false", "reloadConfig")
	if err := w.Update(t.Context()); err == nil {
		t.Error("an update with a mistake is none")
	}
	w.stays("changed", "STARTING RUNNING STOPPING STOPPED STARTING RUNNING")
}

// What does not stop in time stays as it is, and keeps no other from what is new.
func TestUpdateWhileOneHangs(t *testing.T) {
	t.Parallel()
	const stubborn = `command=sh -c 'trap "" TERM; while :; do sleep 0.1; done'` + "\n"
	for _, tt := range []struct {
		name, options string
		most          time.Duration
		hang          bool   // its goroutine answers nothing
		want          string // the error; "" for none
	}{
		{"ends", "command=sleep 100\n", 0, false, ""},
		{"ignores TERM", stubborn + "stopwaitsecs=1\n", 0, false, ""},
		{"ignores TERM for longer", stubborn + "stopwaitsecs=1000\n", 500 * time.Millisecond, false, "remove changed: still running"},
		{"hangs in the kernel", "command=sleep 100\n", 500 * time.Millisecond, true, "remove changed: context deadline exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const kept, other = "[program:kept]\ncommand=sleep 100\n", "priority=5\n[program:late]\ncommand=sleep %d\npriority=2000\n[program:early]\npriority=1\ncommand=sleep %[1]d\n"
			w := newWorld(t, kept+"[program:changed]\n"+tt.options+fmt.Sprintf(other, 100)+"[program:gone]\ncommand=sleep 100\n",
				func(o *Options) { o.stopMost = tt.most })
			for _, name := range []string{"kept", "changed", "early", "late", "gone"} {
				w.passes(name, "STARTING RUNNING")
			}
			pid := w.info("changed")["pid"].(int)
			p, err := w.process("changed")
			if err != nil {
				t.Fatal(err)
			}
			release := make(chan struct{})
			if tt.hang {
				if _, err := p.ask(t.Context(), func() { <-release }); err != nil {
					t.Fatal(err)
				}
			}
			w.write("[program:added]\ncommand=sleep 100\n" + kept + "[program:changed]\n" + strings.ReplaceAll(tt.options, "1000", "1") + "startsecs=2\n" + fmt.Sprintf(other, 200))
			start := time.Now()
			err = w.Update(t.Context())
			close(release)
			if took := time.Since(start); took > spawnWait+patience {
				t.Errorf("it took %v", took)
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			for _, name := range []string{"early", "late"} {
				w.passes(name, "STARTING RUNNING STOPPING STOPPED STARTING RUNNING")
			}
			w.passes("added", "STARTING RUNNING")
			w.stays("kept", "STARTING RUNNING")
			w.stays("gone", "STARTING RUNNING STOPPING STOPPED")
			if tt.want != "" {
				if now, err := w.process("changed"); err != nil || now != p || p.conf.StartSecs != 1 {
					t.Errorf("it is not as it was: %v", err)
				}
				if strings.Contains(w.log(), "removed: changed") || strings.Contains(w.log(), "added: changed") {
					t.Error("the log says that it has changed")
				}
				// The next update finds it ended, or able to end.
				if !tt.hang {
					unix.Kill(pid, unix.SIGKILL)
					w.eventually("it ends", func() bool { return p.snapshot().State.stopped() })
				}
				w.opt.stopMost = time.Minute
				if err := w.Update(t.Context()); err != nil {
					t.Error(err)
				}
			}
			w.eventually("the new one is RUNNING", func() bool { return w.info("changed")["statename"] == "RUNNING" })
			if now, err := w.process("changed"); err != nil || now.conf.StartSecs != 2 {
				t.Errorf("it has not changed: %v", err)
			}
			if alive(pid) {
				t.Error("the old one is still there")
			}
		})
	}
}

// Those that an update stops end at the same time, not one after the other, but by
// their priorities.
func TestUpdateStopsTogether(t *testing.T) {
	t.Parallel()
	const slow = "command=sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'\nstopwaitsecs=1\n"
	var text strings.Builder
	for i := range 8 {
		fmt.Fprintf(&text, "[program:p%d]\n%spriority=%d\n", i, slow, 1+i%2)
	}
	w := newWorld(t, text.String())
	for i := range 8 {
		w.passes(fmt.Sprintf("p%d", i), "STARTING RUNNING")
	}
	w.write("")
	start := time.Now()
	if err := w.Update(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < 2*time.Second || took > 7500*time.Millisecond {
		t.Errorf("two times four programs of 1 s took %v", took)
	}
	first, last := w.history("p0"), w.history("p1")
	if len(first) != 4 || len(last) != 4 || first[2].at.Before(last[3].at) {
		t.Error("the priorities do not count")
	}
}

// tail -f and its like, over HTTP.
func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[program:x]\ncommand=sh -c 'echo out; echo err >&2; while read l; do echo got $l; done'", func(o *Options) {
		o.MainLog = "/etc/hostname"
	})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := control.Listen(socket, 0o700, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	go (&control.Server{Methods: w.Methods(), Pages: w.Pages(), Log: slog.New(slog.DiscardHandler)}).Serve(t.Context(), l)
	client := control.Client{Socket: socket}
	read := func(page, want string, then func()) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		body, err := client.Get(ctx, page)
		if err != nil {
			t.Errorf("%s: %v", page, err)
			return
		}
		defer body.Close()
		then()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", page, got, err, want)
		}
	}
	w.passes("x", "STARTING RUNNING")
	read("/logtail/x", "out\ngot a line\n", func() { w.expect(true, "sendProcessStdin", "x", "a line\n") })
	read("/logtail/x/stderr", "err\n", func() {})
	hostname, _ := os.ReadFile("/etc/hostname")
	read("/mainlogtail", string(hostname), func() {})
	for _, page := range []string{"/logtail/none", "/logtail/x/stdin", "/logtail/", "/logtailx", "/"} {
		if _, err := client.Get(t.Context(), page); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("%s: %v", page, err)
		}
	}
}
