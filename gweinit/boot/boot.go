// Package boot is PID 1: it takes the machine from its root to ready, reaps
// processes, and takes it down again.
//
// PID 1 never panics and never exits. A phase that fails says what it tried,
// and the boot goes on: a gateway that is up with half of its functions can be
// repaired from far away, one that has stopped cannot.
package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/clock"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/network"
	"github.com/exosite/gwe/gweinit/network/settings"
	"github.com/exosite/gwe/gweinit/reaper"
	"github.com/exosite/gwe/gweinit/selftest"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/supervisor"
	"github.com/exosite/gwe/gweinit/update"
)

// phase is one step of the boot or of the shutdown. After its limit (by
// default phaseLimit) it is given up: a disk that hangs must not keep the
// gateway from what works without it.
type phase struct {
	name  string
	run   func(*system) error
	limit time.Duration
}

const phaseLimit = time.Minute

// phases is the boot, in order.
func phases() []phase {
	return []phase{
		{name: "start the watchdog", run: startWatchdog},
		{name: "start the clock", run: startClock},
		{name: "mount file systems", run: mountAll},
		{name: "read what this firmware is", run: readRelease},
		{name: "note the boot of a firmware on trial", run: noteBoot},
		{name: "load the drivers", run: loadDrivers, limit: driversLimit},
		{name: "grow the data partition", run: growPartition},
		{name: "reset to the factory settings if asked to", run: resetIfAsked, limit: resetLimit + time.Minute},
		{name: "mount /data", run: mountData, limit: repairLimit + time.Minute},
		{name: "have /data in memory at least", run: mountMemory},
		{name: "make the folders of /data", run: makeFolders},
		{name: "restore the identity", run: restoreIdentity},
		{name: "apply the provisioning", run: applyProvisioning, limit: resetLimit + repairLimit + time.Minute},
		{name: "grow the file system of /data", run: growData, limit: growLimit},
		{name: "bind the folders of /data", run: bindFolders},
		{name: "keep the clock", run: keepClock},
		{name: "read the last words of a trial", run: readLastWords},
		{name: "keep the log", run: keepMessages},
		{name: "set the time zone", run: setTimezone},
		{name: "set the host name", run: nameHost},
		{name: "bring the loopback interface up", run: loopbackUp},
		{name: "limit the programs", run: limitPrograms},
		{name: "start the network", run: startNetwork},
		{name: "prepare the apps", run: prepareApps, limit: finishLimit},
		{name: "take calls", run: startControl},
		{name: "start the programs", run: startPrograms},
		{name: "refill the boots of the good slot", run: arrive},
		{name: "report ready", run: reportReady},
		{name: "start the self-test", run: startSelftest},
		{name: "watch over the firmware", run: watchFirmware},
		{name: "start the console program", run: startConsole},
	}
}

// system is what the phases share.
type system struct {
	reaper  *reaper.Reaper
	board   string
	version string
	slot    slot.Name

	firmware   *update.Keeper
	lastWords  string                // of the boot before, if that may have been a trial's
	checkedIn  atomic.Bool           // since this boot
	rootRead   atomic.Pointer[error] // how reading it has ended, nil in it if all is well; nil: it has not
	rootDamage atomic.Value          // string: the root is damaged, and the other slot no better
	incomplete atomic.Bool           // a mistake in the configuration may have left out programs

	selftest     atomic.Pointer[selftest.Result] // nil: not known yet
	selftestNews atomic.Bool                     // nobody has asked for it since it is known

	failedMu sync.Mutex
	failed   []string // names of the phases that failed

	programs   string // the cgroup for all programs; "" if there is none
	threads    int    // that all of them may have together
	supervisor *supervisor.Supervisor
	apps       *apps

	noData   atomic.Bool   // /data is memory
	identity chan struct{} // has something in it while the record is lent
	hostname hostname

	clock       *clock.Clock
	zone        *time.Location // of the gateway
	clockKept   atomic.Bool    // it is not earlier than the stored time
	network     *network.Manager
	settings    *settings.Settings // of the network
	endMessages func() <-chan struct{}

	watchdog watchdog
	tick     <-chan time.Time // when the main loop has to pet it
	signals  chan os.Signal   // that ask for a reboot, a halt or a poweroff
	down     atomic.Bool      // on the way there
}

// memoryLimit is what the Go runtime keeps PID 1 below where it can, in bytes:
// its collector would wait for 4 MB of garbage by itself. The budget is 6 MB of
// anonymous memory, of which the binary's own variables take some.
const memoryLimit = 5 << 20

// Main runs PID 1. It returns, with an exit status, only when it is not PID 1.
func Main([]string) int {
	if os.Getpid() != 1 { // the kernel may pass PID 1 what it does not know
		fmt.Fprintln(os.Stderr, `init is PID 1 of a Gateway Engine image and takes no arguments; "reboot" and "poweroff" control it`)
		return 2
	}
	debug.SetMemoryLimit(memoryLimit)
	s := &system{reaper: reaper.New(), firmware: newKeeper(), apps: newApps(), zone: time.UTC, tick: time.Tick(petInterval), signals: make(chan os.Signal, 8), identity: make(chan struct{}, 1)}
	signal.Notify(s.signals, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2)
	takeSignals()
	// Ctrl-Alt-Del becomes SIGINT instead of a reset without sync.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		logError("take over Ctrl-Alt-Del: %v", err)
	}
	for _, p := range phases() {
		if err := s.do(p); err != nil {
			s.failedMu.Lock()
			s.failed = append(s.failed, p.name)
			s.failedMu.Unlock()
			logError("%s: %v", p.name, err)
		}
	}
	debug.FreeOSMemory() // the boot is the most that PID 1 ever needs
	for {
		select {
		case sig := <-s.signals:
			s.heed(sig)
		case <-s.tick:
			s.pet()
		}
	}
}

// heed does what a signal asks for: it does not return then. On the way down
// another one changes nothing.
func (s *system) heed(sig os.Signal) {
	if command, ok := rebootCommand(sig); ok && !s.down.Swap(true) {
		s.shutdown(command)
	}
}

// do runs a phase until its limit, and pets the watchdog meanwhile: this, too,
// is the main loop. The goroutine of a phase that hangs in the kernel stays
// behind.
func (s *system) do(p phase) error {
	limit := p.limit
	if limit == 0 {
		limit = phaseLimit
	}
	done := make(chan error, 1)
	go func() { done <- s.try(p.run) }()
	for end := time.After(limit); ; {
		select {
		case err := <-done:
			return err
		case <-end:
			return fmt.Errorf("not done after %v", limit)
		case sig := <-s.signals: // also in the middle of a boot
			s.heed(sig)
		case <-s.tick:
			s.pet()
		}
	}
}

func (s *system) pet() {
	if err := s.watchdog.pet(); err != nil {
		logError("pet the watchdog: %v", err)
	}
}

// try runs a step and turns a panic into an error.
func (s *system) try(run func(*system) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return run(s)
}

// failures returns the names of the phases that failed.
func (s *system) failures() []string {
	s.failedMu.Lock()
	defer s.failedMu.Unlock()
	return slices.Clone(s.failed)
}

// background keeps a part of PID 1 running: when it ends by itself something is
// wrong, and it is started again. end ends it, and returns what is closed then.
func (s *system) background(name string, run func(context.Context)) (end func() <-chan struct{}) {
	const most = time.Minute
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait := time.Second; ; wait = min(2*wait, most) {
			start := time.Now()
			err := s.try(func(*system) error { run(ctx); return errors.New("it has ended") })
			if ctx.Err() != nil {
				return
			}
			if time.Since(start) > most {
				wait = time.Second
			}
			logError("%s: %v; again in %v", name, err, wait)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}()
	return func() <-chan struct{} { cancel(); return done }
}

// takeSignals takes all other signals that can end a Go program, and does
// nothing. The kernel protects PID 1 only from signals without a handler, but
// Go has one for each: "kill -QUIT 1" would be a reboot.
func takeSignals() {
	ignored := make(chan os.Signal, 1)
	for sig := unix.Signal(1); sig < 32; sig++ { // their numbers differ between architectures
		switch sig {
		case unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2: // asked for
		case unix.SIGCHLD, unix.SIGURG: // the reaper's and the Go runtime's
		case unix.SIGPROF, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGKILL, unix.SIGSTOP: // harmless
		default:
			signal.Notify(ignored, sig)
		}
	}
}

// rebootCommand is what a signal asks for, as busybox's reboot, halt and
// poweroff send them.
func rebootCommand(sig os.Signal) (uint32, bool) {
	switch sig {
	case unix.SIGTERM, unix.SIGINT:
		return unix.LINUX_REBOOT_CMD_RESTART, true
	case unix.SIGUSR1:
		return unix.LINUX_REBOOT_CMD_HALT, true
	case unix.SIGUSR2:
		return unix.LINUX_REBOOT_CMD_POWER_OFF, true
	}
	return 0, false
}

// readRelease reads os-release(5), which the builder wrote, and the slot that
// the boot script passed.
func readRelease(s *system) error {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return err
	}
	release := gateway.ParseRelease(string(text))
	s.board, s.version = release["IMAGE_ID"], release["IMAGE_VERSION"]
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	s.slot = slot.Name(kernelArg(string(cmdline), "gwe.slot"))
	if !s.slot.Valid() {
		return fmt.Errorf("the kernel's command line has gwe.slot=%q, want a or b", s.slot)
	}
	s.firmware.Running, s.firmware.Version = s.slot, s.version
	return nil
}

// kernelArg returns the value of the last argument NAME=VALUE.
func kernelArg(cmdline, name string) (value string) {
	for _, arg := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(arg, name+"="); ok {
			value = v
		}
	}
	return value
}

// reportReady prints the line that production and tests wait for.
func reportReady(s *system) error {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return err
	}
	line := fmt.Sprintf("gweinit: ready board=%s slot=%s version=%s uptime=%.2f", s.board, s.slot, s.version, time.Duration(up.Nano()).Seconds())
	if failed := s.failures(); len(failed) > 0 {
		line += fmt.Sprintf(" failed=%q", strings.Join(failed, ", "))
	}
	logInfo("%s", strings.TrimPrefix(line, "gweinit: "))
	return printLine(line)
}

// printLine prints on the console, but does not wait for it for ever: an XOFF,
// be it noise, stops a serial line.
func printLine(line string) error {
	done := make(chan error, 1)
	go func() {
		_, err := fmt.Fprintln(os.Stderr, line)
		// Until it is sent (tcdrain(3)): when the session on this terminal ends,
		// on the way down, the kernel drops what is not. A console that is no
		// terminal has nothing to wait for.
		unix.IoctlSetInt(syscall.Stderr, unix.TCSBRK, 1)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(2 * time.Second):
		return errors.New("the console takes no output")
	}
}
