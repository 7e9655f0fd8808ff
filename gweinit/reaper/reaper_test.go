package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests run in a process of their own: a Reaper takes all children, those
// of the testing package as well.
func TestMain(m *testing.M) {
	if os.Getenv("REAPER_TEST") == "" {
		os.Exit(m.Run())
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := story(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok")
}

func story() error {
	r := New()
	sh := func(script string) *Process {
		p, err := r.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
		if err != nil {
			panic(err)
		}
		return p
	}
	wait := func(p *Process) error {
		select {
		case <-p.Done():
			return nil
		case <-time.After(10 * time.Second):
			return fmt.Errorf("process %d is not waited for", p.PID)
		}
	}

	if _, err := r.Start("/no/such/file", nil, &syscall.ProcAttr{}); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		return fmt.Errorf("missing program: %v", err)
	}
	// Exits at once, many times: no exit is missed.
	for i := range 50 {
		p := sh(fmt.Sprintf("exit %d", i))
		if err := wait(p); err != nil {
			return err
		}
		if p.Status().ExitStatus() != i {
			return fmt.Errorf("exit status %d, want %d", p.Status().ExitStatus(), i)
		}
	}
	killed := sh("kill -9 $$")
	if err := wait(killed); err != nil || killed.Status().Signal() != syscall.SIGKILL {
		return fmt.Errorf("killed: %v, %v", err, killed.Status().Signal())
	}
	// Orphans: 200 grandchildren whose parents are gone.
	for range 20 {
		if err := wait(sh("for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.2; exit 3) & done")); err != nil {
			return err
		}
	}
	if r.Idle() {
		return fmt.Errorf("idle with orphans running")
	}
	for deadline := time.Now().Add(20 * time.Second); !r.Idle(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("orphans are left as zombies")
		}
		select {
		case <-r.Changed():
		case <-time.After(100 * time.Millisecond):
		}
	}
	r.Close()
	if _, err := r.Start("/bin/true", []string{"true"}, &syscall.ProcAttr{}); !errors.Is(err, ErrClosed) {
		return fmt.Errorf("start after Close: %v", err)
	}
	return nil
}

func TestReaper(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "REAPER_TEST=1")
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%v\n%s", err, out)
	}
}
