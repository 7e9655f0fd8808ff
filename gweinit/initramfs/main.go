// Command initramfs is /init of the initramfs: it takes the machine from the
// kernel to the root of the slot that U-Boot has chosen, deletes itself, and
// hands over to gweinit. It uses the standard library and x/sys only, since
// every byte of it is in each boot image.
//
// What it cannot do, or not in time, ends in a reboot: U-Boot counts the boots,
// and takes the other slot when they are used up. Where that hangs, too, it is
// the watchdog's.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/verity"
	"github.com/exosite/gwe/gweinit/watchdog"
)

// stage is everything that the phases share.
type stage struct {
	modules  []string  // files, in the order in which they load
	cmdline  string    // the kernel's
	disk     string    // folder in /sys of the controller of the boot disk
	slot     slot.Name // that U-Boot has chosen
	watchdog *os.File  // nil without one
	root     string    // the block device to mount: its partition, then that verified
}

const newRoot = "/newroot"

// phaseLimit is how long a phase may take: less than the watchdog's time, by
// enough for a reboot.
const phaseLimit = 30 * time.Second

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "initramfs: this is /init of an initramfs and runs as PID 1 only")
		os.Exit(2)
	}
	// Run as /init there is nobody to return to.
	defer func() { giveUp(fmt.Errorf("panic: %v", recover())) }()
	s := &stage{}
	for _, phase := range []struct {
		name string
		run  func(*stage) error
	}{
		{"mount /proc, /sys, /dev and /run", mountKernel},
		{"keep pages small", smallPages},
		{"read the manifest", readManifest},
		{"find the slot", findSlot},
		{"load modules", loadModules}, // with the watchdogs' drivers
		{"start the watchdog", startWatchdog},
		{"find the boot disk", findDisk},
		{"verify the root", verifyRoot},
		{"mount the root", mountRoot},
		{"switch to the root", switchRoot},
	} {
		if err := s.do(phase.run, phaseLimit); err != nil {
			giveUp(fmt.Errorf("%s: %w", phase.name, err))
		}
	}
}

// do runs a phase until its limit. The goroutine of one that hangs in the kernel
// stays behind.
func (s *stage) do(run func(*stage) error, limit time.Duration) error {
	if s.watchdog != nil {
		if _, err := s.watchdog.Write([]byte{0}); err != nil {
			say("pet the watchdog: %v", err)
		}
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("panic: %v", r)
			}
		}()
		done <- run(s)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("not done after %v", limit)
	}
}

// giveUp reboots, so that U-Boot can count.
func giveUp(err error) {
	say("%v; rebooting in 3 s", err)
	time.Sleep(3 * time.Second)
	go unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	// It waits for all drivers, also for one whose probe hangs. This one does not
	// (Documentation/admin-guide/sysrq.rst); nothing has been written to a disk.
	time.Sleep(10 * time.Second)
	os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
	select {} // the kernel's panic=5 is for PID 1 that exits, too
}

// say prints on the console, but does not wait for it for ever: an XOFF, be it
// noise, stops a serial line.
func say(format string, args ...any) {
	done := make(chan bool, 1)
	go func() {
		fmt.Fprintf(os.Stderr, "gweinit: initramfs: "+format+"\n", args...)
		done <- true
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
}

func mountKernel(*stage) error {
	say("start")
	for _, m := range []struct {
		target, fstype string
		flags          uintptr
		data           string
	}{
		{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=25%"},
	} {
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	return nil
}

// smallPages does without transparent huge pages. From 512 MB of memory on the
// kernel gives 2 MiB to whoever touches a byte of them, and Go does so all over
// its heap: PID 1 took 8 MB instead of 2. And it keeps 20 MB free to make more.
// It is done here since PID 1 has its first pages before it runs.
func smallPages(*stage) error {
	err := os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("never"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // many kernels have none
		say("%v", err)
	}
	return nil
}

// readManifest reads what the builder knows of the board.
func readManifest(s *stage) error {
	text, err := os.ReadFile("/manifest")
	if err != nil {
		return err
	}
	return s.parse(string(text))
}

// parse reads lines of a key and a value.
func (s *stage) parse(manifest string) error {
	for line := range strings.Lines(manifest) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "disk":
			s.disk = value
		case "module":
			s.modules = append(s.modules, value)
		default:
			return fmt.Errorf("manifest: unknown line %q", line)
		}
	}
	if s.disk == "" {
		return errors.New("manifest: it names no disk")
	}
	return nil
}

func findSlot(s *stage) error {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	s.cmdline = string(text)
	for _, arg := range strings.Fields(s.cmdline) {
		if v, ok := strings.CutPrefix(arg, "gwe.slot="); ok {
			s.slot = slot.Name(v)
		}
	}
	if !s.slot.Valid() {
		return fmt.Errorf("the kernel's command line has gwe.slot=%q, want a or b: %s", s.slot, strings.TrimSpace(string(text)))
	}
	return nil
}

// loadModules goes on after a module that fails: what really needs it fails
// with a better message.
func loadModules(s *stage) error {
	for _, file := range s.modules {
		if err := loadModule(file, parameters(s.cmdline, file)); err != nil {
			say("load module %s: %v", filepath.Base(file), err)
		}
	}
	return nil
}

// parameters returns what the kernel's command line has for a module, as
// NAME.PARAMETER=VALUE. The kernel itself heeds that only for what it has built
// in, and a driver is built in here and a module there.
func parameters(cmdline, file string) string {
	name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
	var found []string
	for _, arg := range strings.Fields(cmdline) {
		module, parameter, ok := strings.Cut(arg, ".")
		if ok && strings.ReplaceAll(module, "-", "_") == name {
			found = append(found, parameter)
		}
	}
	return strings.Join(found, " ")
}

func loadModule(file, parameters string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// startWatchdog starts the watchdog, for PID 1, and for what hangs until then.
// A boot without one is better than none.
func startWatchdog(s *stage) error {
	var err error
	if s.watchdog, err = watchdog.Start(s.cmdline); err != nil {
		say("warning: start the watchdog: %v", err)
	}
	return nil
}

// verityFile has what dm-verity has to know of the root. It is in an archive of
// its own before the rest of the initramfs, which so does not change with the
// root.
const verityFile = "/verity"

// verifyRoot has the kernel check the root: each block when it is read, by a
// root hash that came with the kernel. Without one there is no boot: nothing
// would check that root.
func verifyRoot(s *stage) error {
	line, err := os.ReadFile(verityFile)
	if err != nil {
		return fmt.Errorf("the boot image in %s has no root hash for %s: %w", s.slot.KernelPartition(), s.slot.RootPartition(), err)
	}
	p, err := verity.Parse(string(line))
	if err != nil {
		return fmt.Errorf("%s in the boot image in %s: %w", verityFile, s.slot.KernelPartition(), err)
	}
	s.root, err = verity.Activate("root", s.root, p)
	return err
}

func mountRoot(s *stage) error {
	if err := unix.Mount(s.root, newRoot, "squashfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s (%s, verified) as squashfs: %w", s.root, s.slot.RootPartition(), err)
	}
	return nil
}

func switchRoot(s *stage) error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the root: %w", dir, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	// The initramfs is memory: nothing of it stays.
	if err := removeAll("/"); err != nil {
		say("free the initramfs: %v", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	const init = "/usr/sbin/init"
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux"}
	if s.watchdog != nil {
		handedOn, err := watchdog.HandOn(s.watchdog)
		if err != nil {
			return err
		}
		env = append(env, handedOn)
	}
	// All of Go waits for an exec that hangs, do with it: that is the watchdog's.
	err := unix.Exec(init, []string{"init"}, env)
	return fmt.Errorf("start %s: %w", init, err)
}

// removeAll removes all below dir that is on its file system.
func removeAll(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	return removeBelow(dir, uint64(st.Dev))
}

func removeBelow(dir string, dev uint64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || uint64(st.Dev) != dev {
			continue // the new root is mounted there
		}
		if e.IsDir() {
			if err := removeBelow(path, dev); err != nil {
				errs = append(errs, err)
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
