// Package watchdog starts the kernel's watchdog
// (Documentation/watchdog/watchdog-api.rst) in the initramfs, and hands it on to
// PID 1. It uses the standard library and x/sys only, since it is in each boot
// image.
package watchdog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Timeout is after how long without being petted the watchdog resets the
// machine. Shorter, and a slow card that is being checked would do that.
const Timeout = 60 * time.Second

// softArg on the kernel's command line asks for the watchdog in software: board
// and machine may differ (rpi3's boot.cmd).
const softArg = "gwe.watchdog=soft"

// variable is the environment variable that hands a watchdog on: the number of
// the open file, and its name.
const variable = "GWE_WATCHDOG"

// Start returns the watchdog, which then runs: the one handed on, else that of
// the board, else the kernel's own in software. It may return one together with
// an error: one that keeps its own time still is a watchdog.
func Start(cmdline string) (*os.File, error) {
	dev := handedOn()
	if dev == nil {
		name, err := choose("/sys/class/watchdog", slices.Contains(strings.Fields(cmdline), softArg))
		if err != nil {
			return nil, err
		}
		if dev, err = os.OpenFile("/dev/"+name, os.O_WRONLY, 0); err != nil { // open, it runs
			return nil, err
		}
	}
	if err := unix.IoctlSetPointerInt(int(dev.Fd()), unix.WDIOC_SETTIMEOUT, int(Timeout.Seconds())); err != nil {
		return dev, fmt.Errorf("set the time of %s to %v: %w", dev.Name(), Timeout, err)
	}
	return dev, nil
}

// HandOn prepares dev for an exec, and returns what is to be in the environment
// then. It stays open meanwhile: to close it would stop it, or, with a critical
// message of the kernel on the console, leave it running.
func HandOn(dev *os.File) (env string, err error) {
	if _, err := unix.FcntlInt(dev.Fd(), unix.F_SETFD, 0); err != nil {
		return "", fmt.Errorf("keep %s open: %w", dev.Name(), err)
	}
	return fmt.Sprintf("%s=%d %s", variable, dev.Fd(), dev.Name()), nil
}

// handedOn takes what HandOn has left, if anything. It goes no further: in a
// program that PID 1 starts the watchdog would stay open.
func handedOn() *os.File {
	number, name, ok := strings.Cut(os.Getenv(variable), " ")
	os.Unsetenv(variable)
	fd, err := strconv.Atoi(number)
	if !ok || err != nil {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}

// software is how the module softdog introduces itself.
const software = "Software Watchdog"

// choose returns the first watchdog in hardware, else the one in software; soft
// asks for that one.
func choose(class string, soft bool) (string, error) {
	files, err := filepath.Glob(filepath.Join(class, "watchdog*", "identity"))
	if err != nil {
		return "", err
	}
	found := ""
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		name, isSoft := filepath.Base(filepath.Dir(file)), strings.TrimSpace(string(text)) == software
		if !isSoft && !soft {
			return name, nil
		}
		if isSoft {
			found = name
		}
	}
	if found == "" {
		return "", errors.New("the kernel has no watchdog: board.yaml's modules lack its driver, and softdog")
	}
	return found, nil
}
