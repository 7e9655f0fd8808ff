package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A machine whose main loop does not come around for this long is reset.
// Shorter, and a slow card that is being checked would do that.
const watchdogTimeout = 60 * time.Second

// petInterval is how often the main loop pets the watchdog.
const petInterval = 5 * time.Second

// watchdog is the kernel's (Documentation/watchdog/watchdog-api.rst). The zero
// one does nothing. A reboot does not stop it (boot.scr says so to the kernel),
// so that it ends one that hangs.
type watchdog struct {
	dev   atomic.Pointer[os.File]
	reset bool // it has ended the boot before; not all can tell
}

// startWatchdog opens the board's watchdog, or the kernel's own in software
// where there is none.
func startWatchdog(s *system) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	name, err := chooseWatchdog("/sys/class/watchdog", kernelArg(string(cmdline), "gwe.watchdog") == "soft")
	if err != nil {
		return err
	}
	s.watchdog.reset = hasReset(filepath.Join("/sys/class/watchdog", name, "bootstatus"))
	dev, err := os.OpenFile("/dev/"+name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	s.watchdog.dev.Store(dev) // open, it runs
	// One that keeps its own time still is a watchdog.
	if err := unix.IoctlSetPointerInt(int(dev.Fd()), unix.WDIOC_SETTIMEOUT, int(watchdogTimeout.Seconds())); err != nil {
		return fmt.Errorf("set the time of /dev/%s to %v: %w", name, watchdogTimeout, err)
	}
	return nil
}

// hasReset says whether a file bootstatus tells that the watchdog has reset the
// machine.
func hasReset(file string) bool {
	text, err := os.ReadFile(file)
	status, bad := strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil && bad == nil && status&unix.WDIOF_CARDRESET != 0
}

// softwareWatchdog is how the module softdog introduces itself.
const softwareWatchdog = "Software Watchdog"

// chooseWatchdog returns the first watchdog in hardware, else the one in
// software; soft asks for that one: board and machine may differ (rpi3's
// boot.cmd).
func chooseWatchdog(class string, soft bool) (string, error) {
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
		name, software := filepath.Base(filepath.Dir(file)), strings.TrimSpace(string(text)) == softwareWatchdog
		if !software && !soft {
			return name, nil
		}
		if software {
			found = name
		}
	}
	if found == "" {
		return "", errors.New("the kernel has no watchdog: board.yaml's modules lack its driver, and softdog")
	}
	return found, nil
}

// pet tells the watchdog that the main loop is alive. Only that one may call
// it.
func (w *watchdog) pet() error {
	dev := w.dev.Load()
	if dev == nil {
		return nil
	}
	_, err := dev.Write([]byte{0})
	return err
}

// disarm stops the watchdog, for a machine that is to stay off.
func (w *watchdog) disarm() error {
	dev := w.dev.Swap(nil)
	if dev == nil {
		return nil
	}
	_, err := dev.WriteString("V")
	return errors.Join(err, dev.Close())
}
