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
