package supervisord

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/supervisorctl"
)

// TestMain is also our supervisord and our supervisorctl, in processes of their
// own.
func TestMain(m *testing.M) {
	switch os.Getenv("GWEINIT_TEST") {
	case "supervisord":
		os.Exit(Main(os.Args[1:]))
	case "supervisorctl":
		os.Exit(supervisorctl.Main(os.Args[1:]))
	}
	flag.Parse()
	flag.Set("test.parallel", "8") // they mostly wait
	os.Exit(m.Run())
}

// debian are the programs of Debian's package supervisor 4.2.5.
const debian = "/usr/bin/"

// side is one of the two that are compared: Debian's supervisord or ours.
type side struct {
	t    *testing.T
	name string
	dir  string
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}

	client func(args ...string) (text string, status int)
}

// program returns a program of Debian's or ours.
func program(ctx context.Context, ours bool, name string, args ...string) *exec.Cmd {
	if ours {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
		cmd.Env = append(os.Environ(), "GWEINIT_TEST="+name)
		return cmd
	}
	cmd := exec.CommandContext(ctx, debian+name, args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONWARNINGS=ignore", "LANG=C.UTF-8")
	return cmd
}

// start starts a supervisord with a configuration.
func start(t *testing.T, ours bool, config string) *side {
	t.Helper()
	s := &side{t: t, name: "Debian's", dir: t.TempDir(), done: make(chan struct{}), client: drive(t)}
	if ours {
		s.name = "ours"
	}
	s.write(config)
	s.cmd = program(context.Background(), ours, "supervisord", "-n", "-c", s.file())
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("%v; \"make setup\" installs what tests need", err)
	}
	go func() {
		s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.done:
		case <-time.After(20 * time.Second):
			s.cmd.Process.Kill()
			<-s.done
			t.Errorf("%s does not end", s.name)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", s.name, s.out.String())
		}
	})
	return s
}

func (s *side) file() string { return filepath.Join(s.dir, "supervisord.conf") }

func (s *side) write(config string) {
	s.t.Helper()
	head := `[supervisord]
logfile=%(here)s/main.log
pidfile=%(here)s/pid
childlogdir=%(here)s
identifier=test
user=root
[unix_http_server]
file=%(here)s/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%(here)s/sock
`
	if err := os.WriteFile(s.file(), []byte(head+config), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// up waits until it takes calls.
func (s *side) up() {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(s.dir + "/pid"); err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s does not start:\n%s", s.name, s.out.String())
		}
	}
}

// driver runs Debian's supervisorctl for each line of words, in one Python, which
// takes long to start.
const driver = `
import io, json, sys
from supervisor import supervisorctl
lines, answers = sys.stdin, sys.stdout
for line in lines:
    sys.stdout = io.StringIO()
    status = None
    try:
        supervisorctl.main(line.split())
    except SystemExit as e:
        status = e.code
    answers.write(json.dumps({"text": sys.stdout.getvalue(), "status": status}) + "\n")
    answers.flush()
`

// drive starts the driver. The function that it returns runs a supervisorctl.
func drive(t *testing.T) func(args ...string) (text string, status int) {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", "-c", driver)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8")
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	answers := json.NewDecoder(out)
	return func(args ...string) (string, int) {
		t.Helper()
		var answer struct {
			Text   string
			Status int
		}
		if _, err := fmt.Fprintln(in, strings.Join(args, " ")); err != nil {
			t.Fatal(err)
		}
		if err := answers.Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return answer.Text, answer.Status
	}
}

// ctl runs a command of Debian's supervisorctl, and returns its output and exit
// status as far as they have to be the same.
func (s *side) ctl(args ...string) string {
	s.t.Helper()
	text, status := s.client(append([]string{"-c", s.file()}, args...)...)
	return fmt.Sprintf("%s\n[exit status %d]", s.normal(text), status)
}

// ourCtl runs a command of our supervisorctl, likewise.
func (s *side) ourCtl(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	cmd := program(ctx, true, "supervisorctl", append([]string{"-c", s.file()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.t.Fatalf("%s: %v", cmd, err)
	}
	return fmt.Sprintf("%s\n[exit status %d]", s.normal(string(out)), cmd.ProcessState.ExitCode())
}

var varying = []struct {
	expr *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`pid \d+`), "pid N"},
	{regexp.MustCompile(`(?m)^\d+$`), "N"},
	{regexp.MustCompile(`uptime \d+:\d\d:\d\d`), "uptime T"},
	{regexp.MustCompile(`[A-Z][a-z]{2} \d\d \d\d:\d\d [AP]M`), "DATE"},
	{regexp.MustCompile(`\(\d+\) with SIGKILL`), "(N) with SIGKILL"},
	// We know more about a start that fails.
	{regexp.MustCompile(`couldn't chdir to /no/such/folder: ENOENT`), "Exited too quickly (process log may have details)"},
}

// normal replaces what differs from run to run.
func (s *side) normal(text string) string {
	text = strings.ReplaceAll(text, s.dir, "DIR")
	for _, v := range varying {
		text = v.expr.ReplaceAllString(text, v.by)
	}
	return strings.TrimSpace(text)
}

// log returns what the main log tells about the life of a process.
func (s *side) log(process string) []string {
	text, _ := os.ReadFile(s.dir + "/main.log")
	told := regexp.MustCompile(`(?m)^\S+ \S+ (?:INFO|WARN) ((?:spawned|exited|success|gave up|stopped|killing).*)$`)
	about := regexp.MustCompile(`\b` + regexp.QuoteMeta(process) + `\b`)
	var lines []string
	for _, m := range told.FindAllStringSubmatch(string(text), -1) {
		if line := s.normal(m[1]); about.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// both runs f for Debian's side and ours at the same time.
func both(sides [2]*side, f func(s *side) string) (debian, ours string) {
	var got [2]string
	var wg sync.WaitGroup
	for i, s := range sides {
		wg.Go(func() { got[i] = f(s) })
	}
	wg.Wait()
	return got[0], got[1]
}

// step is a command of supervisorctl, "sleep N", "config" with a new
// configuration, or "cat FILE".
type step = string

// Debian's supervisord and ours do the same.
func TestDifferential(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		steps        []step
		logs         []string // processes whose lives are compared
	}{
		{
			name: "lives",
			config: `[program:up]
command=sleep 100
[program:soon]
command=sh -c 'exit 0'
startretries=1
startsecs=5
[program:missing]
command=no-such-command
startretries=1
[program:locked]
command=/etc/passwd
startretries=0
[program:code]
command=sh -c 'sleep 3; exit 3'
exitcodes=0,3
[program:once]
command=sh -c 'sleep 3; exit 4'
autorestart=false
[program:again]
command=sh -c 'test -e %(here)s/again && exec sleep 100; touch %(here)s/again; sleep 3; exit 4'
[program:always]
command=sh -c 'test -e %(here)s/always && exec sleep 100; touch %(here)s/always; sleep 3; exit 0'
autorestart=true
[program:fast]
command=sh -c 'exit 0'
startsecs=0
[program:killed]
command=sh -c 'sleep 3; kill -9 $$'
autorestart=false
[program:off]
command=sleep 100
autostart=false
[program:folder]
command=sleep 100
directory=/no/such/folder
startretries=0
startsecs=5
[program:long]
command=sleep 100
startsecs=100
[program:many]
command=sh -c 'echo %(program_name)s %(group_name)s %(process_num)d %(numprocs)d; exec sleep 100'
process_name=%(program_name)s-%(process_num)02d
numprocs=3
numprocs_start=7
[group:team]
programs=one,two
priority=5
[program:one]
command=sleep 100
[program:two]
command=sleep 100
`,
			steps: []step{
				"sleep 9", "status", "status up", "status off", "status team:*", "status many:", "status nope", "status many", "status up nope:*",
				"pid up", "pid off", "pid nope", "avail", "version", "tail many:many-08", "tail folder stderr",
				"start up", "start missing", "start locked", "start soon", "start nope", "start nope:*", "start off", "start code once",
				"stop off", "stop off", "stop nope", "stop many:*", "start many:*", "stop many:many-07 up", "restart two team:two",
				"signal HUP off", "signal USR9 up", "signal CONT team:*", "signal KILL team:one", "sleep 4", "status team:*",
				"clear up", "clear nope", "clear off", "add up", "add nope", "remove up", "remove nope", "remove off", "add off",
				"reread", "update", "stop all", "status", "remove off", "status off", "remove long fast code once killed", "start all", "status all",
			},
			logs: []string{"code", "once", "again", "always", "killed", "long", "many-07", "one"},
		},
		{
			name: "logs",
			config: `[program:lines]
command=sh -c 'for i in 1 2 3 4 5 6 7 8; do echo out $i; echo err $i >&2; done; exec sleep 100'
stdout_logfile=%(here)s/lines.out
stderr_logfile=%(here)s/lines.err
[program:one]
command=sh -c 'echo out; echo err >&2; printf "no newline"; exec sleep 100'
redirect_stderr=true
stdout_logfile=%(here)s/one.log
[program:none]
command=sh -c 'echo out; exec sleep 100'
stdout_logfile=NONE
stderr_logfile=none
[program:env]
command=sh -c 'echo $A,$B,$C,$SUPERVISOR_ENABLED,$SUPERVISOR_PROCESS_NAME,$SUPERVISOR_GROUP_NAME,$SUPERVISOR_SERVER_URL; umask; pwd; exec sleep 100'
environment=A="one, two",B='%(program_name)s',C=3
directory=/tmp
umask=077
stdout_logfile=%(here)s/env.log
[program:user]
command=sh -c 'id; exec sleep 100'
user=www-data
stdout_logfile=%(here)s/user.log
[program:last]
command=sh -c 'trap "echo goodbye; exit 0" TERM; echo hello; while true; do sleep 0.1; done'
stdout_logfile=%(here)s/last.log
`,
			steps: []step{
				"sleep 4", "cat lines.out", "cat lines.err", "cat one.log", "cat env.log", "cat user.log",
				"tail lines", "tail -12 lines", "tail -5 lines stderr", "tail one", "tail one stderr", "tail none", "tail nope", "tail -x lines", "tail lines stdin",
				"clear lines", "cat lines.out", "tail lines",
				"stop last", "cat last.log", "tail last", "maintail -1", "clear all",
			},
		},
		{
			name: "signals",
			config: `[program:ignores]
command=sh -c 'trap "" TERM; while true; do sleep 0.1; done'
stopwaitsecs=1
[program:usr]
command=sh -c 'trap "echo usr1; exit 5" USR1; while true; do sleep 0.1; done'
stopsignal=USR1
exitcodes=5
stdout_logfile=%(here)s/usr.log
[program:backoff]
command=false
startretries=50
[program:starting]
command=sleep 100
startsecs=50
`,
			steps: []step{"sleep 4", "stop usr", "cat usr.log", "stop backoff", "stop starting", "stop ignores", "status", "start usr", "signal 10 usr", "sleep 1.5", "status usr"},
			logs:  []string{"ignores", "usr", "starting"},
		},
		{
			name:   "updates",
			config: "[program:kept]\ncommand=sleep 100\n[program:changed]\ncommand=sleep 100\n[program:gone]\ncommand=sleep 100\n[group:g]\nprograms=a,b\n[program:a]\ncommand=sleep 100\n[program:b]\ncommand=sleep 100\n",
			steps: []step{
				"sleep 4", "reread",
				"config [program:added]\ncommand=sleep 100\n[program:kept]\ncommand=sleep 100\n[program:changed]\ncommand=sleep 200\n[group:g]\nprograms=a\n[program:a]\ncommand=sleep 100\n",
				"reread", "avail", "status", "update kept nope", "update g", "update", "sleep 4", "status", "reread", "update all",
				"config [program:kept]\ncommand=sleep 100\nautostart=false\n", "update", "status", "remove kept",
			},
			logs: []string{"kept", "changed"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sides := [2]*side{start(t, false, tt.config), start(t, true, tt.config)}
			for _, s := range sides {
				s.up()
			}
			for _, step := range tt.steps {
				theirs, ours := both(sides, func(s *side) string { return s.do(step) })
				// Supervisor notices some things a second later, or more on a busy machine.
				for end := time.Now().Add(10 * time.Second); theirs != ours && strings.HasPrefix(step, "status") && time.Now().Before(end); {
					time.Sleep(200 * time.Millisecond)
					theirs, ours = both(sides, func(s *side) string { return s.do(step) })
				}
				if theirs != ours {
					t.Errorf("%s\nDebian's:\n%s\nours:\n%s", step, theirs, ours)
				}
			}
			for _, s := range sides { // either supervisorctl shows the same
				if theirs, ours := s.ctl("avail"), s.ourCtl("avail"); theirs != ours {
					t.Errorf("avail of %s\nDebian's:\n%s\nours:\n%s", s.name, theirs, ours)
				}
				if theirs, ours := s.ctl("status"), s.ourCtl("status"); theirs != ours {
					t.Errorf("status of %s\nDebian's:\n%s\nours:\n%s", s.name, theirs, ours)
				}
			}
			both(sides, func(s *side) string { return s.ctl("shutdown") })
			for _, s := range sides {
				select {
				case <-s.done:
				case <-time.After(20 * time.Second):
					t.Fatalf("%s has not ended after the shutdown", s.name)
				}
				if code := s.cmd.ProcessState.ExitCode(); code != 0 {
					t.Errorf("%s has ended with status %d", s.name, code)
				}
			}
			for _, process := range tt.logs {
				theirs, ours := sides[0].log(process), sides[1].log(process)
				if !slices.Equal(theirs, ours) {
					t.Errorf("the main log about %s\nDebian's:\n%s\nours:\n%s", process, strings.Join(theirs, "\n"), strings.Join(ours, "\n"))
				}
			}
		})
	}
}

// do does a step.
func (s *side) do(step string) string {
	s.t.Helper()
	words := strings.Fields(step)
	switch words[0] {
	case "sleep":
		d, err := time.ParseDuration(words[1] + "s")
		if err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(d)
		return ""
	case "config":
		s.write(strings.TrimPrefix(step, "config "))
		return ""
	case "cat":
		text, err := os.ReadFile(filepath.Join(s.dir, words[1]))
		if err != nil {
			return "no file"
		}
		return s.normal(string(text))
	}
	// The order in which programs have stopped and groups are told is not ours.
	got := s.ctl(words...)
	if words[0] == "stop" || words[0] == "start" || words[0] == "update" {
		got = strings.Join(slices.Sorted(slices.Values(strings.Split(got, "\n"))), "\n")
	}
	return got
}
