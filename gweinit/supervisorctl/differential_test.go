package supervisorctl

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// theirs runs Debian's supervisorctl again and again in one Python, which takes
// long to start.
type theirs struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

const driver = `
import io, json, sys
sys.argv[0] = "/usr/bin/supervisorctl"
requests, answers = sys.stdin, sys.stdout
from supervisor import supervisorctl
for line in requests:
    r = json.loads(line)
    sys.stdin = io.TextIOWrapper(io.BytesIO(r["stdin"].encode()), encoding="utf-8")
    raw = io.BytesIO()
    sys.stdout = io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True)
    exit = None
    try:
        supervisorctl.main(r["args"])
    except SystemExit as e:
        exit = e.code
    answers.write(json.dumps({"exit": exit, "stdout": raw.getvalue().decode()}) + "\n")
    answers.flush()
`

func python(t *testing.T) *theirs {
	t.Helper()
	if _, err := os.Stat("/usr/bin/supervisorctl"); err != nil {
		t.Fatal("there is no supervisorctl (package supervisor): run make setup")
	}
	cmd := exec.Command("/usr/bin/python3", "-c", driver)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8", "LC_ALL=C.UTF-8")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("python: %v\n%s", err, errs.String())
		}
	})
	return &theirs{t, in, bufio.NewReader(out)}
}

func (p *theirs) run(stdin string, args ...string) (stdout string, exit int) {
	p.t.Helper()
	request, _ := json.Marshal(map[string]any{"args": args, "stdin": stdin})
	fmt.Fprintf(p.in, "%s\n", request)
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		p.t.Fatalf("%q: python: %v", args, err)
	}
	var answer struct {
		Stdout string
		Exit   int
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		p.t.Fatal(err)
	}
	return answer.Stdout, answer.Exit
}

// comparisons are command lines for each situation. Those with > are sessions,
// whose lines are typed; "-i" is one on the command line, whose answer follows.
func comparisons() map[string]string {
	// What a person does who wants to know what is wrong.
	const all = `
status
status web
pid
pid all
pid web
start
start web
start db:*
start all
stop
stop web
stop db:*
stop all
restart web
restart db:*
restart all
signal HUP
signal HUP web
signal HUP db:*
signal HUP all
clear
clear web
clear all
tail
tail web
tail -5 web stderr
tail -f web
maintail
maintail -f
avail
reread
update
update web
add web
remove web
shutdown
reload
version
version x
help tail
> 
> status nope\nstart web\nversion\n\nfoo\nshutdown\ny\nreload\nyes\nquit\n`
	return map[string]string{
		"usual": all + `
status db:two
status db:*
status db:
status web db:one
status web web
status more:*
status ended:*
status ended:exited
status ended:fatal
status ended:unknown
status nope
status nope:*
status nope:
status nope:x
status nope web
status nope db:two
status all nope
status web:web
status :
status *
pid db:one
pid db:two
pid nope
pid nope web
pid web db:two
pid f6
pid f6 web
start db:one
start db:db
start db:
start f10 f20 f21 f40 f50 f60 web
start f10
start f20
start f21
start f40
start f50
start f60
start f60 web
start f30
start f6
start f70
start f6 web
start web f6
start g80-60:*
start g80-60-50:*
start g50-80:*
start g50-20:*
start g80-30-80:*
start f10:*
start f10:* web
start f6:*
start web all
stop f10
stop f11
stop f70
stop f70 web
stop f30
stop f6
stop f6 web
stop f50
stop g80-70:*
stop g80-30-10:*
stop g80-6-10:*
stop f10:*
stop f10:* web
stop f30:*
restart
restart f70
restart f60
restart f10
restart f10 web
restart f6 web
restart f50
restart g80-70:* web
restart nope:*
signal
signal 1 web
signal HUP f10
signal HUP f11
signal HUP f70
signal HUP f70 web
signal HUP f30
signal HUP f6
signal HUP g80-70-11:*
signal HUP f10:*
signal HUP f6:*
signal all web
clear f10
clear f30
clear f20
clear f6 web
clear web db:one
clear db:*
fg
fg nope
help fg
tail -5
tail -f
tail a b c d
tail -5 a b c
tail web stderr
tail web STDERR
tail web nope
tail web what stdout
tail -x web
tail - web
tail -+5 web
tail --5 web
tail -0 web
tail -5x web
tail-5 web
tail f20
tail f30
tail f10
tail f6
tail -f web stderr x
tail -f f10
tail -f nope stderr
tail -f db:nope
maintail -5
maintail --5
maintail -x
maintail x
maintail -f x
maintail 5
avail x
reread x
reload x
shutdown x
update all
update all nope
update nope
update new
update web
update new nope db
update web web new
add
add new
add f6 f10 f90 new
add f90
add f30 new
remove
remove f91 f10 web
remove f91
remove f30 web
remove f6
help
help add
help avail
help clear
help exit
help help
help maintail
help open
help pid
help quit
help reload
help remove
help reread
help restart
help shutdown
help signal
help start
help status
help stop
help tail
help update
help version
help nope
help EOF
help start stop
help   start
?
? start
?start
quit
quit now
exit
EOF
foo
foo bar
!ls
:x
status:web
status-web
START
4
ä
open
open unix:
open foo://bar
-i shutdown
-i shutdown > y\n
-i shutdown > n\n
-i shutdown > Yes
-i shutdown > \n
-i shutdown x > y\n
-i reload > y\n
-i reload > no\n
-i status
> help\n?\n? start\nhelp foo\n
> pid\nstop web\nstart f50\nquit\nversion\n
> quit now\n
> EOF\n
>  status   web  \n\t\n\n!x\nstatus
> status web\r\nversion\r\n
> shutdown\nn\nshutdown\n
> reload\n\nreload\ny\n
> tail -f web\ntail web\nmaintail -f\nexit
> avail\nreread\nupdate\nadd f90\nremove f91\nclear f10\nsignal HUP f70\n`,
		"quiet":     all,
		"well":      "status\nstatus web\nstatus db:*\npid all\n> \n> exit",
		"stopped":   "stop all\nsignal HUP all\nclear all\nstart all\nrestart all\nupdate",
		"failing":   "clear all\nstop all\nstart all\n",
		"odd":       "start all\nstop all\nsignal HUP all\nclear all\nrestart all\nupdate",
		"down":      all,
		"going":     all + "\nupdate new\n",
		"failed":    all,
		"misread":   all,
		"nolog":     "maintail\nmaintail -9",
		"stuck":     "update\nremove web\nremove web db\n",
		"old":       all,
		"foreign":   "status\nstart web\nstart\npid\nversion\ntail\ntail web\nmaintail\nrestart web\nclear\nsignal\nadd x\navail",
		"locked":    "help tail\nfoo\nquit\nstatus\navail",
		"absent":    all,
		"refusing":  all,
		"hangingup": all,
	}
}

// deviations are what we mean to do differently: the case, and why.
func deviations() map[string]string {
	return map[string]string{
		`usual: > help\n?\n? start\nhelp foo\n`: "the list has no fg",
		"usual: ?":                              "the list has no fg",
		"usual: help":                           "the list has no fg",
		"usual: clear db:*":                     "Python prints db:None",
		"usual: fg":                             "there is none",
		"usual: fg nope":                        "there is none",
		"usual: help fg":                        "there is none",
		"locked: status":                        "Python prints an error too",
		"locked: avail":                         "Python prints an error too",
		"usual: open":                           "the message has no http://",
		"usual: open unix:":                     "a path is needed",
		"usual: open foo://bar":                 "the message has no http://",
	}
}

var errorLine = regexp.MustCompile(`(?m)error: .*`)

// Ours does what Debian's does: the same output, the same exit status, the same
// calls in the same order.
func TestAsSupervisor(t *testing.T) {
	p := python(t)
	gateways := situations()
	deviations := deviations()
	count := 0
	for _, situation := range slices.Sorted(maps.Keys(gateways)) {
		g := gateways[situation]
		g.start(t)
		lines := slices.DeleteFunc(strings.Split(comparisons()[situation], "\n"), func(l string) bool { return l == "" })
		if len(lines) == 0 {
			t.Errorf("nothing is compared when %s", situation)
		}
		for _, line := range lines {
			command, typed, _ := strings.Cut(line, ">")
			typed = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\r`, "\r").Replace(strings.TrimPrefix(typed, " "))
			args := []string{"-s", g.url}
			if command = strings.TrimSpace(command); command != "" {
				args = append(args, strings.Fields(command)...)
			}
			want, wantExit := p.run(typed, args...)
			wantCalls := g.called()
			got, _, exit := runOurs(typed, args...)
			calls := g.called()
			count++

			// What Python says about an error is not for people.
			want, got = errorLine.ReplaceAllString(want, "error: ..."), errorLine.ReplaceAllString(got, "error: ...")
			same := got == want && exit == wantExit && slices.Equal(calls, wantCalls)
			name := situation + ": " + line
			_, meant := deviations[name]
			delete(deviations, name)
			if same == meant {
				t.Errorf("%s (a deviation: %v)\nours, %d, %q:\n%s\nSupervisor's, %d, %q:\n%s", name, meant, exit, calls, got, wantExit, wantCalls, want)
			}
		}
	}
	for name := range deviations {
		t.Errorf("%s: is no case", name)
	}
	t.Logf("%d command lines", count)
}

// The same for options.
func TestOptionsAsSupervisor(t *testing.T) {
	p := python(t)
	g := with(func(g *gateway) { g.user, g.password = "root", "geheim" })
	g.start(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "URL", g.url)), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := file("good", "[supervisorctl]\nserverurl=URL\nusername=root\npassword=geheim\nprompt=gw\n")
	wrong := file("wrong", "[supervisorctl]\nserverurl=URL\nusername=root\npassword=falsch\n")
	without := file("without", "[supervisord]\nlogfile=/dev/null\n")
	bad := file("bad", "[supervisorctl]\nserverurl=%(nothing)s\n")
	for _, tt := range []struct {
		typed string
		args  []string
	}{
		{"", []string{"-s", g.url, "-u", "root", "-p", "geheim", "status"}},
		{"", []string{"-s" + g.url, "-uroot", "-pgeheim", "version"}},
		{"", []string{"--serverurl", g.url, "--username", "root", "--password", "geheim", "version"}},
		{"", []string{"--serverurl=" + g.url, "--username=root", "--password=geheim", "version"}},
		{"", []string{"--server=" + g.url, "--user=root", "--pass", "geheim", "version"}},
		{"", []string{"--s=" + g.url, "-c", good, "--", "version"}},
		{"", []string{"-c", good, "version"}},
		{"", []string{"-c" + good, "version"}},
		{"", []string{"--configuration", good, "version"}},
		{"version\n", []string{"-c", good}},
		{"y\n", []string{"-ic", good, "shutdown"}},
		{"n\n", []string{"-i", "-c", good, "shutdown"}},
		{"", []string{"-c", wrong, "-p", "geheim", "version"}},
		{"", []string{"-c", good, "tail", "-5", "web"}},
		{"", []string{"-c", good, "tail -5", "web stderr"}},
		{"", []string{"-c", good, "tail", "-f", "web"}},
		{"", []string{"-c", good, "", "version"}},
		{"", []string{"-c", good, ""}},
		{"", []string{"-c", good, "-"}},
		{"", []string{"-c", good, "-c", good, "version"}},
		{"", []string{"-s", g.url, "-s", g.url, "version"}},
		{"", []string{"-i", "-i", "-c", good, "version"}},
		{"", []string{"-c", dir + "/nothing", "version"}},
		{"", []string{"-c", without, "version"}},
		{"", []string{"-c", bad, "version"}},
		{"", []string{"-c"}},
		{"", []string{"-z"}},
		{"", []string{"-sz", "status"}},
		{"", []string{"-s", "", "status"}},
		{"", []string{"--nothing"}},
		{"", []string{"--="}},
		{"", []string{"--interactive=1", "status"}},
		{"", []string{"--serverurl"}},
	} {
		want, wantExit := p.run(tt.typed, tt.args...)
		got, stderr, exit := runOurs(tt.typed, tt.args...)
		if got != want || exit != wantExit || (exit == exitInvalid) != (stderr != "") {
			t.Errorf("%q: ours, %d:\n%s%s\nSupervisor's, %d:\n%s", tt.args, exit, got, stderr, wantExit, want)
		}
	}
}

// As programs too, with real files and exit statuses.
func TestProgramAsSupervisor(t *testing.T) {
	if _, err := os.Stat("/usr/bin/supervisorctl"); err != nil {
		t.Fatal("there is no supervisorctl (package supervisor): run make setup")
	}
	g := usual()
	g.start(t)
	for _, tt := range []struct{ typed, args string }{
		{"", "status"},
		{"", "start f50"},
		{"", "tail -f web"},
		{"", "nothing"},
		{"version\nshutdown\ny\n", ""},
		{"version", ""},
	} {
		t.Run(tt.args+tt.typed, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"-s", g.url}, strings.Fields(tt.args)...)
			output := func(cmd *exec.Cmd) (string, int) {
				cmd.Stdin = strings.NewReader(tt.typed)
				cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "SUPERVISORCTL_TEST_MAIN=1")
				out, err := cmd.Output()
				if cmd.ProcessState == nil {
					t.Fatal(err)
				}
				return string(out), cmd.ProcessState.ExitCode()
			}
			want, wantExit := output(exec.Command("/usr/bin/supervisorctl", args...))
			got, exit := output(exec.Command(os.Args[0], args...))
			if got != want || exit != wantExit {
				t.Errorf("ours, %d:\n%s\nSupervisor's, %d:\n%s", exit, got, wantExit, want)
			}
		})
	}
}
