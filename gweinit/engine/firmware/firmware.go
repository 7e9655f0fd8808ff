// Package firmware is Gateway Engine's side of an update of the firmware: it brings
// a bundle into the slot that does not run, has PID 1 put that on trial, and tells
// how the trial ended.
//
// What has to survive is on the disk, and nowhere else: the slot itself says which
// pieces of the bundle are there already, and PID 1's record (package update) says
// how far the update has come. So after a power cut everything is done as the first
// time, only that most of it is there.
package firmware

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

// Host is PID 1, which alone writes boot state and record.
type Host interface {
	Firmware(ctx context.Context) (update.Status, error)
	// Begin marks the slot that does not run as being written, and returns it.
	Begin(ctx context.Context, id, version string) (slot.Name, error)
	// Activate has the next boot try it. Should it be tried again some time, the
	// gateway reboots for that in the window.
	Activate(ctx context.Context, id string, limit time.Duration, window string) error
	Reboot(ctx context.Context) error
}

// Gateway is what an update needs of the gateway that it is for.
type Gateway struct {
	Host Host
	Root string // below which its files are; "" on the gateway itself
	// Open opens a partition by its name; nil: one of the disk.
	Open func(partition string, write bool) (Device, error)
}

// Below the root.
const (
	keysFolder = "etc/gweinit/keys"            // of the image
	keysFile   = "data/gwe/keys/firmware.pub"  // of this gateway
	lockFolder = "run/gwe"                     // is there on a gateway
	lockFile   = lockFolder + "/firmware.lock" // of the process that writes a slot
	clockFile  = "run/clock-set"               // is there once the clock is right
)

func (g Gateway) path(file string) string { return filepath.Join(cmp.Or(g.Root, "/"), file) }

func (g Gateway) open(partition string, write bool) (Device, error) {
	if g.Open != nil {
		return g.Open(partition, write)
	}
	return openPartition(partition, write)
}

// keys are those that are trusted. The error is about others, and no reason not to
// go on.
func (g Gateway) keys() (bundle.Keys, error) {
	return bundle.LoadKeys(g.path(keysFolder), g.path(keysFile))
}

// lock has one process write the slot: the engine, or somebody at a shell.
func (g Gateway) lock() (unlock func(), err error) {
	if err := durable.MakeFolder(g.path(lockFolder), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(g.path(lockFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		f.Close()
		return nil, fmt.Errorf("another process is writing a firmware (flock %s: %w): wait for its end", lockFile, err)
	} else if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", lockFile, err)
	}
	return func() { f.Close() }, nil
}

// sleep returns early, with an error, if ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
