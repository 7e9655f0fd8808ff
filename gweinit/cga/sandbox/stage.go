package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/view"
)

// grace is for what an installer has left behind, to end by itself.
const grace = 2 * time.Second

// maxLeft is how many of those are named.
const maxLeft = 20

// Main is the first process of an installer's world. It reads what to do from its
// standard input, and tells how it ended at file 3.
func Main([]string) int {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, `app-installer is a part of "gwe --install-apps", and nothing that is called by itself`)
		return 2
	}
	tell := os.NewFile(3, "pipe")
	unix.CloseOnExec(3)
	end := stage()
	if err := json.NewEncoder(tell).Encode(end); err != nil {
		return 1
	}
	return 0
}

func stage() (end ending) {
	fail := func(err error) ending {
		end.Error = err.Error()
		return end
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
	if err != nil {
		return fail(err)
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return fail(err)
	}
	// busybox's "reboot" and "poweroff" ask PID 1, which is us.
	asked := make(chan os.Signal, 16)
	signal.Notify(asked, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	if err := enter(s); err != nil {
		return fail(err)
	}
	pid, err := start(s)
	if err != nil {
		return fail(err)
	}
	for end.Status = -1; end.Status < 0 && end.Signal == ""; {
		var status syscall.WaitStatus
		child, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return fail(err)
		case child == pid && status.Exited():
			end.Status = status.ExitStatus()
		case child == pid && status.Signaled():
			end.Signal = fmt.Sprintf("signal %d (%v)", status.Signal(), status.Signal())
		}
	}
	end.Left = endOthers()
	// A signal of its last moment takes its way through the Go runtime, with threads
	// that a busy gateway lets wait. One of our own comes after it, or nearly so.
	unix.Kill(1, unix.SIGWINCH)
	for last := time.After(lastSignal); ; {
		select {
		case sig := <-asked:
			switch sig {
			case unix.SIGWINCH:
				last = time.After(nearly)
			case unix.SIGTERM, unix.SIGINT:
				end.Reboot = true
			default:
				end.Poweroff = true
			}
		case <-last:
			return end
		}
	}
}

const (
	lastSignal = 5 * time.Second
	nearly     = 200 * time.Millisecond
)

// enter makes the root directory and goes there. Nothing of the old one is left.
func enter(s spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("take the mounts for itself: %w", err)
	}
	if err := view.Make(s.Root, s.Mounts); err != nil {
		return err
	}
	if err := unix.Chdir(s.Root); err != nil {
		return err
	}
	// With both the same the old root lies over the new one, and goes off there
	// (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root directory: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root directory: %w", err)
	}
	return unix.Chdir("/")
}

// start starts the installer.
func start(s spec) (pid int, err error) {
	os.Clearenv()
	for _, v := range s.Env {
		name, value, _ := strings.Cut(v, "=")
		os.Setenv(name, value)
	}
	unix.Umask(0o022)
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if err := unix.Chdir(s.Dir); err != nil {
		return 0, fmt.Errorf("go to %s: %w", s.Dir, err)
	}
	path := s.Argv[0]
	if !strings.Contains(path, "/") {
		if path, err = exec.LookPath(path); err != nil {
			return 0, err
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	pid, err = syscall.ForkExec(path, s.Argv, &syscall.ProcAttr{
		Env: s.Env, Files: []uintptr{null.Fd(), 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, fmt.Errorf("%w: %s, or the interpreter that its first line names, is missing here", err, path)
	}
	return pid, err
}

// endOthers ends what the installer has left behind, and says what that was.
func endOthers() []string {
	left := others()
	if len(left) == 0 {
		return nil
	}
	unix.Kill(-1, unix.SIGTERM)
	for deadline := time.Now().Add(grace); time.Now().Before(deadline) && reap(); {
		time.Sleep(20 * time.Millisecond)
	}
	for reap() {
		unix.Kill(-1, unix.SIGKILL)
		time.Sleep(5 * time.Millisecond)
	}
	if len(left) > maxLeft {
		left = append(left[:maxLeft], fmt.Sprintf("%d more", len(left)-maxLeft))
	}
	return left
}

// reap waits for what has ended, and says whether there is more.
func reap() bool {
	for {
		pid, err := syscall.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == syscall.EINTR || err == nil && pid > 0 {
			continue
		}
		return err == nil
	}
}

// others are the other processes, by name, that have not ended.
func others() (names []string) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range folders {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err != nil || pid == 1 {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		from, to := strings.Index(string(stat), "("), strings.LastIndex(string(stat), ")")
		if from < 0 || to < from || strings.HasPrefix(string(stat[to+1:]), " Z") {
			continue
		}
		names = append(names, string(stat[from+1:to]))
	}
	return names
}
