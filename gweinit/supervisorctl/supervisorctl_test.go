package supervisorctl

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is not as Supervisor has it, and what scripts depend on most.
func TestCommands(t *testing.T) {
	const list = `
default commands (type help <topic>):
=====================================
add    clear  maintail  pid   reload  reread   shutdown  start   stop  update 
avail  exit   open      quit  remove  restart  signal    status  tail  version

`
	gateways := situations()
	for _, tt := range []struct {
		situation, typed, args string
		want                   string // URL is the gateway's
		exit                   int
	}{
		{"well", "", "status", "web                              RUNNING   pid 100, uptime 0:01:02\ndb:one                           RUNNING   pid 101, uptime 1 day, 0:01:02\n", 0},
		{"usual", "", "status db:*", "db:one                           RUNNING   pid 101, uptime 1 day, 0:01:02\ndb:two                           STOPPED   Not started\n", 3},
		{"usual", "", "status nope", "nope: ERROR (no such process)\n", 4},
		{"usual", "", "start f50", "f50: ERROR (spawn error)\n", 7},
		{"usual", "", "start f60 web", "f60: ERROR (already started)\nweb: started\n", 0},
		{"usual", "", "restart web", "web: stopped\nweb: started\n", 0},
		{"usual", "", "update", "db: stopped\ndb: removed process group\ngone: stopped\ngone: removed process group\nweb: stopped\nweb: updated process group\nerror: STILL_RUNNING: f91\n", 1},
		{"absent", "", "status", "URL no such file\n", 4},
		{"refusing", "", "status", "URL refused connection\n", 4},
		{"absent", "", "start web", "URL no such file\n", 7},

		{"usual", "", "help", list, 0},
		{"usual", "", "help fg", "fg is not available here; see tail -f\n", 0},
		{"usual", "", "fg web", "fg is not available here; see tail -f\n", 1},
		{"usual", "", "clear db:*", "db:*: cleared\n", 0},
		{"usual", "", "open", "ERROR: url must be unix:///path\n", 1},
		{"usual", "", "open http://localhost:9001", "ERROR: url must be unix:///path\n", 1},
		{"well", "", "open URL", "web                              RUNNING   pid 100, uptime 0:01:02\ndb:one                           RUNNING   pid 101, uptime 1 day, 0:01:02\n", 0},
		{"usual", "", "open unix:///nowhere", "unix:///nowhere no such file\n", 0},
		{"locked", "", "status", "Server requires authentication\n", 1},
		{"locked", "", "-u root -p geheim pid", "1\n", 0},
		{"locked", "", "-u root -p falsch pid", "Server requires authentication\n", 1},

		{"usual", "", "start f30 web", "error: f30: FAILED: f30\n", 1},
		{"usual", "", "stop f6", "error: f6: SHUTDOWN_STATE: f6\n", 1},
		{"down", "", "status", "error: SHUTDOWN_STATE\n", 1},
		{"going", "", "tail web", "error: SHUTDOWN_STATE\n", 1},
		{"absent", "", "avail", "error: URL no such file\n", 1},
		{"refusing", "", "reread", "error: URL refused connection\n", 1},
		{"hangingup", "", "pid", "error: URL closed the connection\n", 1},
		{"absent", "", "-i shutdown", "Really shut the remote supervisord process down y/N? error: end of input\n", 1},

		{"well", "version\nopen unix:///nowhere\npid\nopen URL\nhelp\n", "", "web                              RUNNING   pid 100, uptime 0:01:02\ndb:one                           RUNNING   pid 101, uptime 1 day, 0:01:02\n" +
			"supervisor> 4.2.5\nsupervisor> unix:///nowhere no such file\nsupervisor> unix:///nowhere no such file\n" +
			"supervisor> web                              RUNNING   pid 100, uptime 0:01:02\ndb:one                           RUNNING   pid 101, uptime 1 day, 0:01:02\n" +
			"supervisor> " + list + "supervisor> \n", 0},
		{"locked", "root\nfalsch\nroot\ngeheim\npid\nexit\n", "", "Server requires authentication\nUsername:Password:\nServer requires authentication\nUsername:Password:\n" +
			strings.Join(statusLines(usualProcesses()), "\n") + "\nsupervisor> 1\nsupervisor> \n", 0},
		{"locked", "root\n", "", "Server requires authentication\nUsername:Password:error: end of input\nsupervisor> \n", 0},
	} {
		t.Run(tt.situation+" "+tt.args+tt.typed, func(t *testing.T) {
			g := gateways[tt.situation]
			g.start(t)
			url := strings.NewReplacer("URL", g.url)
			args := append([]string{"-s", g.url}, strings.Fields(url.Replace(tt.args))...)
			got, stderr, exit := runOurs(url.Replace(tt.typed), args...)
			if got != url.Replace(tt.want) || exit != tt.exit || stderr != "" {
				t.Errorf("%d, stderr %q:\n%s\nwant %d:\n%s", exit, stderr, got, tt.exit, url.Replace(tt.want))
			}
		})
	}
}

func usualProcesses() []process {
	var list []process
	for _, p := range usual().processes {
		list = append(list, asProcess(p.(map[string]any)))
	}
	return list
}

// A socket below a file, and one that root may open but nobody else.
func TestUnreachable(t *testing.T) {
	got, _, exit := runOurs("", "-s", "unix:///proc/self/status/s", "status")
	if !strings.HasPrefix(got, "error: ") || strings.Count(got, "\n") != 1 || exit != 1 {
		t.Errorf("%d, %q", exit, got)
	}
	if os.Getuid() != 0 {
		return
	}
	g := usual()
	g.start(t)
	if err := os.Chmod(strings.TrimPrefix(g.url, "unix://"), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", os.Args[0], "-s", g.url, "status")
	cmd.Env = append(os.Environ(), "SUPERVISORCTL_TEST_MAIN=1")
	for dir := filepath.Dir(strings.TrimPrefix(g.url, "unix://")); dir != os.TempDir() && len(dir) > 1; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	for dir := filepath.Dir(os.Args[0]); dir != os.TempDir() && len(dir) > 1; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	out, _ := cmd.CombinedOutput()
	if want := "error: " + g.url + " permission denied\n"; string(out) != want || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v %q, want %q", cmd.ProcessState, out, want)
	}
}

// Whatever a server answers, there is an error and no panic.
func TestOddAnswers(t *testing.T) {
	commands := []string{"status", "pid all", "pid web", "start all", "start db:*", "stop all", "restart all", "signal HUP all", "clear all", "avail", "reread", "update", "tail web", "maintail", "version"}
	for _, odd := range []any{nil, 7, "text", []any{}, []any{1}, []any{[]any{}}, []any{[]any{1, 2, 3}}, []any{[]any{[]any{1}, []any{}, []any{}}}, []any{map[string]any{}}, map[string]any{}} {
		g := usual()
		g.answers = []any{odd}
		g.start(t)
		for _, command := range commands {
			got, stderr, exit := runOurs("", append([]string{"-s", g.url}, strings.Fields(command)...)...)
			if strings.HasPrefix(got, "error: ") != (exit == exitGeneric) || stderr != "" || strings.Contains(got, "panic") {
				t.Errorf("%v: %s: %d, %q", odd, command, exit, got)
			}
		}
	}
}

func TestFollow(t *testing.T) {
	g := usual()
	g.start(t)
	const head = "==> Press Ctrl-C to exit <==\n"
	for _, tt := range []struct {
		args           []string
		stdout, stderr string
	}{
		{[]string{"tail", "-f", "web"}, head + colours + "line 2 of /logtail/web/stdout", ""},
		{[]string{"tail", "-f", "web", "stderr"}, head + binary, ""},
		{[]string{"maintail", "-f"}, head + colours + "line 2 of /mainlogtail", ""},
		{[]string{"tail", "-f", "nope"}, head, g.url + "/logtail/nope/stdout Cannot read, status code 410\n"},
	} {
		stdout, stderr, exit := runOurs("", append([]string{"-s", g.url}, tt.args...)...)
		if stdout != tt.stdout || stderr != tt.stderr || exit != 0 {
			t.Errorf("%v: %d\n%q\n%q", tt.args, exit, stdout, stderr)
		}
	}
}

// Ctrl-C ends a log that goes on, and a session on a pipe; all else it ends with
// the program.
func TestInterrupt(t *testing.T) {
	g := usual()
	g.start(t)
	status := strings.Join(statusLines(usualProcesses()), "\n") + "\n"
	for _, tt := range []struct {
		typed string
		args  []string
		until string
		then  string
	}{
		{"", []string{"tail", "-f", "db:one"}, "==> Press Ctrl-C to exit <==\nline 1\n", "\n"},
		{"", nil, status + "supervisor> ", "\n"},
		{"tail -f db:one\n", nil, status + "supervisor> ==> Press Ctrl-C to exit <==\nline 1\n", "\nsupervisor> \n"},
		{"shutdown\n", nil, status + "supervisor> Really shut the remote supervisord process down y/N? ", "\n"},
	} {
		cmd := exec.Command(os.Args[0], append([]string{"-s", g.url}, tt.args...)...)
		cmd.Env = append(os.Environ(), "SUPERVISORCTL_TEST_MAIN=1")
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil || err1 != nil || err2 != nil {
			t.Fatal(err, err1, err2)
		}
		fmt.Fprint(in, tt.typed)
		e := &expect{t: t, from: out}
		if got := e.until(tt.until); got != tt.until {
			t.Errorf("%q %q: %q", tt.args, tt.typed, got)
		}
		cmd.Process.Signal(os.Interrupt)
		if strings.Contains(tt.then, ">") {
			e.until("supervisor> ")
			in.Close()
		}
		rest := e.rest()
		if err := cmd.Wait(); err != nil || !strings.HasSuffix(tt.then, rest) {
			t.Errorf("%q %q: %v, %q", tt.args, tt.typed, err, rest)
		}
		in.Close()
	}
}

func TestHelpOption(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"-?"}, {"--he"}, {"-ih", "status"}} {
		stdout, stderr, exit := runOurs("", args...)
		if stdout != usage || stderr != "" || exit != 0 {
			t.Errorf("%q: %d %q", args, exit, stderr)
		}
	}
}

func TestServerURL(t *testing.T) {
	for _, url := range []string{"http://localhost:9001", "unix://", "unix://run/x", "unix:/run/x", "UNIX:///run/x", "/run/x", "unix:///a\x00b"} {
		stdout, stderr, exit := runOurs("", "-s", url, "status")
		if stdout != "" || !strings.HasPrefix(stderr, "Error: serverurl ") || exit != 2 {
			t.Errorf("%q: %d, %q, %q", url, exit, stdout, stderr)
		}
	}
}

func TestConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	absent := filepath.Join(dir, "absent")
	full := file("full", "[supervisorctl]\nserverurl=unix:///run/x.sock\nusername=u\npassword=p\nprompt=gw\nhistory_file=%(here)s/history\n")
	empty := file("empty", "[supervisorctl]\n")
	without := file("without", "[supervisord]\n")
	http := file("http", "[supervisorctl]\nserverurl=http://10.0.0.1:9001\nprompt=gw\n")
	broken := file("broken", "[supervisorctl\nserverurl\n= =\x00\n")
	defaults := settings{url: "unix:///run/supervisor.sock", prompt: "supervisor"}
	fromFull := settings{"unix:///run/x.sock", "u", "p", "gw", filepath.Join(dir, "history")}
	for _, tt := range []struct {
		name    string
		args    []string
		configs []string
		want    settings
		warning bool
		err     bool
	}{
		{"nothing", nil, nil, defaults, false, false},
		{"no default file", nil, []string{absent}, defaults, false, false},
		{"first", nil, []string{full, broken}, fromFull, false, false},
		{"second", nil, []string{absent, full}, fromFull, false, false},
		{"given", []string{"-c", full}, []string{broken}, fromFull, false, false},
		{"empty", nil, []string{empty, full}, defaults, false, false},
		{"empty, given", []string{"-c", empty}, nil, defaults, false, false},
		{"options", []string{"-c", full, "-s", "unix:///y", "-u", "", "-p", "q", "--hist", "h"}, nil, settings{"unix:///y", "", "q", "gw", "h"}, false, false},
		{"no section", nil, []string{without}, defaults, true, false},
		{"no section, given", []string{"-c", without}, nil, settings{}, false, true},
		{"broken", nil, []string{broken}, defaults, true, false},
		{"broken, given", []string{"-c", broken}, nil, settings{}, false, true},
		{"absent, given", []string{"-c", absent}, nil, settings{}, false, true},
		{"a folder", nil, []string{dir}, defaults, true, false},
		{"HTTP", nil, []string{http}, settings{url: defaults.url, prompt: "gw"}, true, false},
		{"HTTP, given", []string{"-c", http}, nil, settings{}, false, true},
		{"HTTP, not used", []string{"-c", http, "-s", "unix:///y"}, nil, settings{url: "unix:///y", prompt: "gw"}, false, false},
	} {
		o, err := parseOptions(tt.args)
		if err != nil {
			t.Fatal(err)
		}
		var warning strings.Builder
		got, err := o.settings(world{stderr: &warning, configs: tt.configs})
		if (err != nil) != tt.err || err == nil && got != tt.want || (warning.Len() > 0) != tt.warning {
			t.Errorf("%s: %+v, %v, warning %q", tt.name, got, err, warning.String())
		}
	}
	_, stderr, exit := runOurs("", "-c", absent, "status")
	if exit != 2 || !strings.Contains(stderr, absent) {
		t.Errorf("%d, %q", exit, stderr)
	}
}

func TestCompletion(t *testing.T) {
	g := usual()
	g.start(t)
	c := &ctl{commands: commands()}
	if err := c.connect(g.url); err != nil {
		t.Fatal(err)
	}
	k := &completer{ctl: c}
	var actions []string
	for _, command := range commands() {
		if command.name != "fg" && command.name != "EOF" {
			actions = append(actions, command.name)
		}
	}
	for _, tt := range []struct {
		line, word string
		want       []string
	}{
		{"", "", actions},
		{"  ", "", actions},
		{"st", "st", []string{"start", "status", "stop"}},
		{"fg", "fg", nil},
		{"help re", "re", []string{"reload", "remove", "reread", "restart"}},
		{"x ", "", nil},
		{"fg ", "", nil},
		{"open ", "", nil},
		{"update d", "d", []string{"db"}},
		{"remove ", "", []string{"db", "ended", "more", "pümpe", "web"}},
		{"start w", "w", []string{"web"}},
		{"start web:", "web:", []string{"web:*", "web:web"}},
		{"stop web db", "db", []string{"db:*", "db:one", "db:two"}},
		{"stop db:t", "db:t", []string{"db:two"}},
		{"tail -f p", "p", []string{"pümpe:*", "pümpe:wasser-ständig-überwacht-und-länger"}},
		{"  restart   db:o", "db:o", []string{"db:one"}},
	} {
		word, got := k.complete(tt.line)
		if word != tt.word || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q %q", tt.line, word, got)
		}
	}
	if calls := g.called(); len(calls) != 1 {
		t.Errorf("asked %q, want once", calls)
	}
	absent := &gateway{absent: true}
	absent.start(t)
	c.connect(absent.url)
	k.forget()
	if _, got := k.complete("start "); got != nil {
		t.Errorf("%q", got)
	}
}

func TestCommonPrefix(t *testing.T) {
	for want, names := range map[string][]string{
		"": {}, "a": {"a"}, "ab": {"abc", "abd"}, "x": {"x", "xyz"}, "gü": {"gül", "gün"}, "g": {"gü", "gö"},
	} {
		if got := commonPrefix(names); got != want {
			t.Errorf("%q: %q", names, got)
		}
	}
}

func TestColumns(t *testing.T) {
	for _, tt := range []struct {
		width int
		names string
		want  string
	}{
		{10, "", ""},
		{10, "a", "a\n"},
		{2, "long longer", "long\nlonger\n"},
		{10, "a bb cc", "a  bb  cc\n"},
		{9, "a bb cc d e", "a   cc  e\nbb  d \n"},
		{6, "ä bb c", "ä   c\nbb\n"},
	} {
		if got := columns(strings.Fields(tt.names), tt.width); got != tt.want {
			t.Errorf("%q in %d:\n%s", tt.names, tt.width, got)
		}
	}
}

func TestHistory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history")
	h := &history{adds: true}
	if err := h.load(file); err == nil {
		t.Error("loaded what is not there")
	}
	for i := range 600 {
		h.Add(fmt.Sprint("status ", i))
	}
	h.Add("status 599")
	h.Add("  ")
	h.adds = false
	h.Add("yes")
	if h.Len() != 500 || h.At(0) != "status 599" || h.At(499) != "status 100" {
		t.Errorf("%d, %q", h.Len(), h.entries)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.save(file); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var again history
	if err := again.load(file); err != nil || !slices.Equal(again.entries, h.entries) {
		t.Errorf("%v, %q", err, again.entries)
	}
}
