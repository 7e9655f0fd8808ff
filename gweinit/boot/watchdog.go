package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	dog "github.com/exosite/gwe/gweinit/watchdog"
)

// petInterval is how often the main loop pets the watchdog.
const petInterval = 5 * time.Second

// watchdog is the kernel's (Documentation/watchdog/watchdog-api.rst). The zero
// one does nothing. A reboot does not stop it (boot.scr says so to the kernel),
// so that it ends one that hangs.
type watchdog struct {
	dev   atomic.Pointer[os.File]
	reset bool // it has ended the boot before; not all can tell
}

// startWatchdog takes over the watchdog that the initramfs has started, or
// starts it.
func startWatchdog(s *system) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	dev, err := dog.Start(string(cmdline))
	if dev == nil {
		return err
	}
	s.watchdog.reset = hasReset(filepath.Join("/sys/class/watchdog", filepath.Base(dev.Name()), "bootstatus"))
	s.watchdog.dev.Store(dev)
	return err
}

// hasReset says whether a file bootstatus tells that the watchdog has reset the
// machine.
func hasReset(file string) bool {
	text, err := os.ReadFile(file)
	status, bad := strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil && bad == nil && status&unix.WDIOF_CARDRESET != 0
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
