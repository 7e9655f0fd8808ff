package boot

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/mountinfo"
)

const (
	noteWait     = 5 * time.Second
	termWait     = 5 * time.Second // for programs to end after TERM
	killWait     = 2 * time.Second // for the kernel to take them away after KILL
	storeWait    = 5 * time.Second
	messagesWait = 3 * time.Second
	syncWait     = 20 * time.Second // for a slow card to write all that is in memory
	unmountWait  = 5 * time.Second
	forceWait    = 3 * time.Second
)

// shutdownPhases is the way down, in order.
func shutdownPhases() []phase {
	return []phase{
		{"note the end of a trial's boot", noteEnd, noteWait},
		{"stop the programs", stopPrograms, programsWait + time.Second},
		{"stop all processes", stopProcesses, termWait + killWait + time.Second},
		{"store the clock", storeClock, storeWait},
		{"close the log", closeMessages, messagesWait + time.Second},
		{"write everything to the disk", func(*system) error { unix.Sync(); return nil }, syncWait},
		{"unmount", unmountAll, unmountWait},
		{"make read-only what could not be unmounted", forceReadOnly, forceWait},
		{"write the rest to the disk", func(*system) error { unix.Sync(); return nil }, syncWait},
	}
}

// shutdown ends in reboot(2) with the given command, whatever happens.
func (s *system) shutdown(command uint32) {
	name := map[uint32]string{
		unix.LINUX_REBOOT_CMD_RESTART:   "reboot",
		unix.LINUX_REBOOT_CMD_HALT:      "halt",
		unix.LINUX_REBOOT_CMD_POWER_OFF: "poweroff",
	}[command]
	if err := printLine("gweinit: " + name); err != nil {
		logError("%s: %v", name, err)
	}
	for _, p := range shutdownPhases() {
		if err := s.do(p); err != nil {
			logError("%s: %s: %v", name, p.name, err)
		}
	}
	// A reboot that hangs in the kernel is ended by the watchdog, which nobody
	// pets any more. A machine that is to be off stays off.
	if command != unix.LINUX_REBOOT_CMD_RESTART {
		if err := s.watchdog.disarm(); err != nil {
			logError("%s: stop the watchdog: %v", name, err)
		}
	}
	for {
		err := unix.Reboot(int(command))
		logError("%s: %v; resetting", name, err)
		time.Sleep(time.Second)
		command = unix.LINUX_REBOOT_CMD_RESTART
	}
}

// stopProcesses asks all processes to end, and then makes them.
func stopProcesses(s *system) error {
	s.reaper.Close()
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, termWait}, {unix.SIGKILL, killWait}} {
		if err := unix.Kill(-1, step.signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal %v to all: %w", step.signal, err)
		}
		if step.signal == unix.SIGTERM {
			// A stopped process, or a shell that ignores TERM, at least hears these.
			unix.Kill(-1, unix.SIGCONT)
			unix.Kill(-1, unix.SIGHUP)
		}
		deadline := time.After(step.wait)
		for waiting := true; waiting; {
			if s.reaper.Idle() {
				return nil
			}
			select {
			case <-s.reaper.Changed():
			case <-time.After(50 * time.Millisecond):
			case <-deadline:
				waiting = false
			}
		}
	}
	return errors.New("some processes are left")
}

// unmountAll unmounts what is on a disk, the latest mount first. What is busy
// is made read-only, so that nothing is left to write.
func unmountAll(s *system) error {
	errs := []error{s.apps.roots.Keep(nil)} // overlays keep /data busy, whose device is not theirs
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, m := range diskMounts(string(text), "") {
		err := unix.Unmount(m, 0)
		if err == nil {
			continue
		}
		if err2 := unix.Mount("", m, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err2 != nil {
			errs = append(errs, fmt.Errorf("%s: %w; make it read-only: %w", m, err, err2))
		}
	}
	return errors.Join(errs...)
}

// forceReadOnly has the kernel make all file systems read-only, if one is left
// that can be written to: a program that hangs in it, or unmount itself.
func forceReadOnly(*system) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	left := diskMounts(string(text), "rw")
	if len(left) == 0 {
		return nil
	}
	logError("still writable: %s", strings.Join(left, ", "))
	// Documentation/admin-guide/sysrq.rst: it does so in the background.
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0); err != nil {
		return err
	}
	time.Sleep(forceWait / 2)
	return nil
}

// diskMounts returns the mount points, except the root, that have a block device
// behind them and, unless that is empty, this option; the latest first.
func diskMounts(text, option string) []string {
	var points []string
	for _, m := range mountinfo.Parse(text) {
		if strings.HasPrefix(m.Source, "/dev/") && m.Target != "/" && (option == "" || slices.Contains(m.Options, option)) {
			points = append(points, m.Target)
		}
	}
	slices.Reverse(points)
	return points
}
