package boot

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
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
		for {
			s.runConsole()
			time.Sleep(time.Second) // a program that fails at once must not take the CPU
		}
	}()
	return nil
}

func (s *system) runConsole() {
	defer func() {
		if r := recover(); r != nil {
			logError("console program: panic: %v", r)
		}
	}()
	tty, err := openConsole()
	if err != nil {
		logError("console program: %v", err)
		return
	}
	fd := tty.Fd()
	p, err := s.reaper.Start(consoleProgram, []string{consoleProgram}, &syscall.ProcAttr{
		Dir:   "/root",
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=vt100"},
		Files: []uintptr{fd, fd, fd},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
	tty.Close()
	if err != nil {
		logError("console program: %v", err)
		return
	}
	<-p.Done()
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
