package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/data"
	"github.com/exosite/gwe/gweinit/gpt"
	"github.com/exosite/gwe/gweinit/slot"
)

// The file system of the data partition: an empty one, which the builder puts
// on the disk and into the root, for the day when the one on the disk is lost.
const blankData = "/usr/share/gweinit/data.ext4"

// repairLimit is for checking a large card that is slow; a check that is cut
// off begins anew at the next boot.
const (
	repairLimit = 20 * time.Minute
	growLimit   = 5 * time.Minute
)

// growPartition makes the data partition as large as the disk allows, before
// it is mounted, and repairs the partition table.
func growPartition(*system) error {
	disk, err := diskOf(partition(slot.DataPartition))
	if err != nil {
		return err
	}
	d, err := gpt.OpenDisk(disk)
	if err != nil {
		return err
	}
	defer d.Close()
	g, err := gpt.Grow(d, d.Sectors(), slot.DataPartition)
	if err != nil {
		return fmt.Errorf("%s: %w", disk, err)
	}
	if g.Done == "" {
		return nil
	}
	logInfo("%s: %s", disk, g.Done)
	return d.ResizePartition(g.Number, g.First, g.Sectors)
}

// diskOf returns the device of the disk that a partition is on.
func diskOf(partition string) (string, error) {
	device, err := filepath.EvalSymlinks(partition)
	if err != nil {
		return "", err
	}
	// /sys/class/block/vda7 is a link to .../vda/vda7.
	sys, err := filepath.EvalSymlinks("/sys/class/block/" + filepath.Base(device))
	if err != nil {
		return "", err
	}
	return "/dev/" + filepath.Base(filepath.Dir(sys)), nil
}

func (s *system) dataFS() data.FS {
	return data.FS{
		Device: partition(slot.DataPartition),
		Blank:  blankData,
		Target: "/data",
		E2fsck: func(ctx context.Context, output io.Writer, args ...string) (int, error) {
			// It may take long, and who takes a gateway for dead switches it off
			// and on: that must not use up the slot's boots.
			if err := s.firmware.KeepBoots(); err != nil {
				logError("refill the boots of the good slot: %v", err)
			}
			return s.run(ctx, output, append([]string{"/usr/sbin/e2fsck"}, args...)...)
		},
		Log: logError, // each line of it is out of the ordinary
	}
}

// mountData mounts the data partition.
func mountData(s *system) error {
	ctx, cancel := context.WithTimeout(context.Background(), repairLimit)
	defer cancel()
	if _, err := s.dataFS().Mount(ctx); err != nil {
		return err
	}
	if s.noData.Load() { // memory is there by now, and programs use it
		return errors.Join(errors.New("mounted too late"), unix.Unmount("/data", unix.MNT_DETACH))
	}
	return nil
}

// withoutData unmounts /data, which nothing uses yet, and mounts it again after
// do, with its folders; or memory, if that does not work.
func (s *system) withoutData(do func() error) error {
	if err := unix.Unmount("/data", 0); err != nil {
		return fmt.Errorf("unmount /data: %w", err)
	}
	return errors.Join(do(), mountData(s), mountMemory(s), makeFolders(s))
}

// mountMemory mounts memory in the place of a data partition that is not there:
// then settings and apps are gone until the next boot, but the gateway is up.
func mountMemory(s *system) error {
	var root, here unix.Stat_t
	if err := errors.Join(unix.Stat("/", &root), unix.Stat("/data", &here)); err != nil {
		return err
	}
	if root.Dev != here.Dev {
		return nil
	}
	s.noData.Store(true)
	logError("going on with /data in memory")
	return mount{"tmpfs", "/data", "tmpfs", safe, "mode=0755,size=25%"}.mount()
}

// growData grows the file system to its partition.
func growData(s *system) error {
	if s.noData.Load() {
		return nil
	}
	return s.dataFS().Grow()
}
