package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/exosite/gwe/gweinit/reaper"
)

// consoleProgram is brought by the overlay "dev" only: without it the console
// takes no input.
const consoleProgram = "/etc/gweinit/console"

// startConsole keeps the console program running.
func startConsole(s *system) error {
	if _, err := os.Stat(consoleProgram); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	go func() {
		for !errors.Is(s.runConsole(), reaper.ErrClosed) {
			time.Sleep(time.Second) // a program that fails at once must not take the CPU
		}
	}()
	return nil
}

// runConsole runs the console program to its end.
func (s *system) runConsole() error {
	err := s.try(consoleOnce)
	if err != nil && !errors.Is(err, reaper.ErrClosed) {
		logError("console program: %v", err)
	}
	return err
}

func consoleOnce(s *system) error {
	tty, err := openConsole()
	if err != nil {
		return err
	}
	defer tty.Close()
	fd := tty.Fd()
	attr := &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	group, err := s.consoleGroup()
	if err != nil {
		return err
	}
	if group != nil {
		defer group.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(group.Fd())
	}
	p, err := s.reaper.Start(consoleProgram, []string{consoleProgram}, &syscall.ProcAttr{
		Dir:   "/root",
		Env:   append(slices.Clip(environment), "TERM=vt100"),
		Files: []uintptr{fd, fd, fd},
		Sys:   attr,
	})
	if err != nil {
		return err
	}
	tty.Close() // the program's alone, so that its end is a hang-up
	<-p.Done()
	return nil
}

// consoleGroup opens the cgroup of the console program, which is nil if there are
// no groups.
func (s *system) consoleGroup() (*os.File, error) {
	if s.programs == "" {
		return nil, nil
	}
	path := filepath.Join(s.programs, "console")
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.Open(path)
}

// openConsole opens the terminal behind /dev/console, which itself cannot
// become a controlling terminal: without one there is no Ctrl-C.
func openConsole() (*os.File, error) {
	active, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return nil, err
	}
	name := lastField(string(active))
	if name == "" {
		return nil, fmt.Errorf("/sys/class/tty/console/active names no terminal")
	}
	// Not blocking: a modem line that is down would block for ever.
	fd, err := syscall.Open("/dev/"+name, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/%s: %w", name, err)
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("open /dev/%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func lastField(s string) string {
	f := strings.Fields(s)
	if len(f) == 0 {
		return ""
	}
	return f[len(f)-1]
}
