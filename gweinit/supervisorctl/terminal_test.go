package supervisorctl

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// expect reads what a program prints.
type expect struct {
	t    *testing.T
	from io.Reader
	got  string
	more chan string
}

// until returns what comes up to a text, with it.
func (e *expect) until(text string) string {
	e.t.Helper()
	timeout := time.After(10 * time.Second)
	for !strings.Contains(e.got, text) {
		select {
		case more, ok := <-e.read():
			if !ok {
				e.t.Fatalf("%q did not come, but %q", text, e.got)
			}
			e.got += more
		case <-timeout:
			e.t.Fatalf("%q does not come, but %q", text, e.got)
		}
	}
	end := strings.Index(e.got, text) + len(text)
	got := e.got[:end]
	e.got = e.got[end:]
	return got
}

// rest returns what comes up to the end.
func (e *expect) rest() string {
	for more := range e.read() {
		e.got += more
	}
	return e.got
}

func (e *expect) read() chan string {
	if e.more == nil {
		e.more = make(chan string)
		go func() {
			defer close(e.more)
			for buf := make([]byte, 4096); ; {
				n, err := e.from.Read(buf)
				if n > 0 {
					e.more <- string(buf[:n])
				}
				if err != nil {
					return
				}
			}
		}()
	}
	return e.more
}

// screen is a terminal with supervisorctl on it.
type screen struct {
	expect
	master, slave *os.File
	cmd           *exec.Cmd
	before        unix.Termios
}

func start(t *testing.T, args ...string) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	s := &screen{expect: expect{t: t, from: master}, master: master, slave: slave}
	s.before = s.modes()
	s.cmd = exec.Command(os.Args[0], args...)
	s.cmd.Env = append(os.Environ(), "SUPERVISORCTL_TEST_MAIN=1")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill() })
	return s
}

func (s *screen) modes() unix.Termios {
	s.t.Helper()
	modes, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *modes
}

// prompt waits for it. The terminal is raw then.
func (s *screen) prompt() string {
	s.t.Helper()
	return s.until("supervisor> ")
}

func (s *screen) enter(keys string) { io.WriteString(s.master, keys) }

// ends waits for the end, with the terminal as it was.
func (s *screen) ends() *os.ProcessState {
	s.t.Helper()
	s.cmd.Wait()
	if s.modes() != s.before {
		s.t.Error("the terminal is not what it was")
	}
	return s.cmd.ProcessState
}

func TestTerminal(t *testing.T) {
	g := usual()
	g.start(t)
	file := filepath.Join(t.TempDir(), "history")
	s := start(t, "-s", g.url, "-r", file)

	if got := s.prompt(); !strings.Contains(got, "RUNNING   pid 100, uptime 0:01:02\r\n") {
		t.Errorf("no status first: %q", got)
	}
	s.enter("s\t")
	if got := s.prompt(); !strings.Contains(got, "shutdown  signal  start  status  stop\r\n") {
		t.Errorf("not listed: %q", got)
	}
	s.enter("ta\t")
	s.until("ta")
	s.until("supervisor> ") // "start" and "status" are listed
	s.enter("tu\tw\t\r")
	s.until("status web \r\n")
	s.until("web                              RUNNING   pid 100, uptime 0:01:02\r\n")
	s.prompt()
	if got := g.called(); len(got) == 0 {
		t.Error("nothing was called")
	}
	s.enter("\x1b[A\r") // up
	s.until("web                              RUNNING   pid 100, uptime 0:01:02\r\n")
	s.prompt()

	// The common prefix first, then the list.
	s.enter("stop d\t")
	s.until("b:")
	s.enter("\t")
	s.until("db:*  db:one  db:two\r\n")
	s.enter("o\t\r")
	s.until("db:one: stopped\r\n")
	s.prompt()

	s.enter("shutdown\r")
	s.until("Really shut the remote supervisord process down y/N? ")
	s.enter("no\r")
	s.prompt()
	s.enter("reload\r")
	s.until("Really restart the remote supervisord process y/N? ")
	s.enter("Y\r")
	s.until("Restarted supervisord\r\n")
	s.prompt()

	// Ctrl-C ends the log, not the session.
	s.enter("tail -f db:one\r")
	s.until("line 1\r\n")
	s.enter("\x03")
	s.until("\r\n")
	s.prompt()
	s.enter("tail -f db:nope\r")
	s.until("/logtail/db:nope/stdout Cannot read, status code 410\r\n")
	s.prompt()

	// Colours of programs come as they are.
	s.enter("tail -f web\r")
	s.until(strings.ReplaceAll(colours, "\n", "\r\n"))
	s.prompt()

	s.enter("\x04")
	if state := s.ends(); state.ExitCode() != 0 {
		t.Errorf("Ctrl-D: %v", state)
	}
	const history = "status web \nstop db:one \nshutdown\nreload\ntail -f db:one\ntail -f db:nope\ntail -f web\n"
	if got, err := os.ReadFile(file); string(got) != history {
		t.Errorf("%q, %v", got, err)
	}

	s = start(t, "-s", g.url, "--history-file", file)
	s.prompt()
	s.enter("\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\r")
	s.until("db:one: stopped\r\n")
	s.prompt()
	s.enter("half a line\x03")
	if state := s.ends(); state.ExitCode() != 0 {
		t.Errorf("Ctrl-C: %v", state)
	}
	if got, err := os.ReadFile(file); string(got) != history+"stop db:one \n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTerminalEnds(t *testing.T) {
	g := usual()
	g.start(t)

	s := start(t, "-s", g.url)
	s.prompt()
	s.enter("exit\r")
	if state := s.ends(); state.ExitCode() != 0 {
		t.Errorf("exit: %v", state)
	}

	s = start(t, "-s", g.url)
	s.prompt()
	s.enter("shutdown\r")
	s.until("y/N? ")
	s.enter("\x03")
	if state := s.ends(); state.ExitCode() != 0 {
		t.Errorf("Ctrl-C at a question: %v", state)
	}

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		s = start(t, "-s", g.url)
		s.prompt()
		s.cmd.Process.Signal(sig)
		status := s.ends().Sys().(syscall.WaitStatus)
		if status.Signal() != sig && status.ExitStatus() != 128+int(sig) { // the latter under nohup
			t.Errorf("%v: %v", sig, s.cmd.ProcessState)
		}
	}

	// Nothing is asked, so nothing is made raw.
	s = start(t, "-s", g.url, "shutdown")
	s.until("Shut down\r\n")
	if state := s.ends(); state.ExitCode() != 0 {
		t.Errorf("shutdown: %v", state)
	}

	s = start(t, "-s", g.url, "-i", "shutdown")
	s.until("y/N? ")
	s.enter("y\r")
	s.until("Shut down\r\n")
	if state := s.ends(); state.ExitCode() != 0 {
		t.Errorf("-i shutdown: %v", state)
	}
}

// A password is not shown, nor kept.
func TestTerminalPassword(t *testing.T) {
	g := situations()["locked"]
	g.start(t)
	file := filepath.Join(t.TempDir(), "history")
	s := start(t, "-s", g.url, "-r", file)
	s.until("Server requires authentication\r\nUsername:")
	s.enter("root\r")
	s.until("Password:")
	s.enter("geheim\r")
	if got := s.prompt(); strings.Contains(got, "geheim") || !strings.Contains(got, "RUNNING") {
		t.Errorf("%q", got)
	}
	s.enter("pid\r")
	s.until("1\r\n")
	s.prompt()
	s.enter("\x04")
	s.ends()
	if got, err := os.ReadFile(file); string(got) != "pid\n" {
		t.Errorf("%q, %v", got, err)
	}
}
