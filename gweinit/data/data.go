// Package data brings the file system of the data partition, ext4, from
// whatever a power cut or a worn-out card has left of it to mounted, and grows
// it to the size of the partition.
//
// Data is precious: the file system is only re-created when it has been read,
// and e2fsck has been run on it and gave up. Whatever else goes wrong is an
// error, and the next boot tries again.
package data

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/ubenv"
)

// FS is the file system of the data partition.
type FS struct {
	Device string // the partition
	Blank  string // file with an empty file system, at most as large as the partition
	Target string // where it is mounted

	// E2fsck runs e2fsck(8) with these arguments. Its standard output and
	// error go to output. The error says that it did not run to its end.
	E2fsck func(ctx context.Context, output io.Writer, args ...string) (status int, err error)
	Log    func(format string, args ...any)
}

// errDamaged is in the errors that are about the file system, and not about
// the disk under it, the kernel or e2fsck.
var errDamaged = errors.New("damaged")

// Mount mounts the file system. If that is damaged, it is checked first, and
// re-created from the blank one when it is beyond repair: when it cannot be
// mounted after the check either, and that is not because the disk fails. Then
// what was on it is lost, and recreated is true.
func (f FS) Mount(ctx context.Context) (recreated bool, err error) {
	err = f.mountSound()
	if errors.Is(err, errDamaged) && !errors.Is(err, errUnfinished) {
		f.Log("%v; checking it", err)
		err = f.check(ctx)
		if err == nil || errors.Is(err, errDamaged) { // errors that are left may be bearable
			err = f.mount()
		}
	}
	if !errors.Is(err, errDamaged) || errors.Is(err, unix.EIO) {
		return false, err
	}
	f.Log("%v; beyond repair, so it is re-created, empty", err)
	// A disk that cannot be read has not lost its data.
	if err := f.recreate(ctx, readable); err != nil {
		return false, err
	}
	f.Log("%s is an empty file system now", f.Device)
	return true, f.mount()
}

// Reset makes the file system, which is not mounted, the blank one. What was on
// it is lost; where the disk can discard, the rest of the partition is, too.
func (f FS) Reset(ctx context.Context) error {
	anyway := func(context.Context, ubenv.Device, int64) error { return nil }
	if err := f.recreate(ctx, anyway); err != nil {
		return err
	}
	if err := f.discardRest(); err != nil {
		// The blocks belong to no file any more.
		f.Log("%s: discard what is behind the blank file system: %v", f.Device, err)
	}
	return nil
}

// discardRest tells the disk that nothing behind the blank file system is used.
func (f FS) discardRest() error {
	blank, err := os.Stat(f.Blank)
	if err != nil {
		return err
	}
	dev, err := os.OpenFile(f.Device, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	part := [2]uint64{uint64(blank.Size()), uint64(size - blank.Size())}
	if part[1] == 0 {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&part)))
	switch errno {
	case 0, unix.EOPNOTSUPP, unix.ENOTTY: // a disk that cannot, or a file
		return nil
	}
	return errno
}

// mountSound mounts what looks sound. The kernel replays the journal.
func (f FS) mountSound() error {
	sb, err := f.superblock()
	if err != nil {
		return err
	}
	if sb.check != "" {
		return fmt.Errorf("%s: %w: %s", f.Device, errDamaged, sb.check)
	}
	return f.mount()
}

// superblock reads it from the disk. What is mounted is there, too: the kernel
// keeps the superblock in the same cache.
func (f FS) superblock() (superblock, error) {
	dev, err := os.Open(f.Device)
	if err != nil {
		return superblock{}, fmt.Errorf("open the data partition: %w", err)
	}
	defer dev.Close()
	head := make([]byte, headSize)
	n, err := dev.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return superblock{}, fmt.Errorf("read the superblock: %w", err)
	}
	sb, err := parse(head[:n])
	if err != nil {
		return superblock{}, fmt.Errorf("%s: %w: %w", f.Device, errDamaged, err)
	}
	return sb, nil
}

func (f FS) mount() error {
	err := unix.Mount(f.Device, f.Target, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "errors=remount-ro")
	switch err {
	case nil:
		return nil
	case unix.EUCLEAN, unix.EBADMSG, unix.EINVAL, unix.EIO:
		// EFSCORRUPTED, EFSBADCRC, and ext4's older words for the same. EIO
		// may also be the disk's.
		return fmt.Errorf("mount %s on %s: %w: %w", f.Device, f.Target, errDamaged, err)
	}
	return fmt.Errorf("mount %s on %s: %w", f.Device, f.Target, err)
}

// Exit status of e2fsck(8): bits.
const (
	e2fsckFixed  = 1 | 2 // 2: reboot if it was mounted
	e2fsckErrors = 4     // are left
	e2fsckFailed = 8     // so that nothing was checked
)

// check runs e2fsck, twice if need be, since what was mended may bring up more.
//
// Without "-f" it believes a superblock that says "clean". There is nobody to
// ask, so "-y"; a run with "-p" before it would mend nothing that "-y" does
// not, and when it stops in the middle, the journal may be gone for ever.
func (f FS) check(ctx context.Context) error {
	what, status := "e2fsck -f -y "+f.Device, 0
	for range 2 {
		f.Log("%s", what)
		output := &lines{log: f.Log}
		var err error
		status, err = f.E2fsck(ctx, output, "-f", "-y", f.Device)
		output.close()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case status&^e2fsckFixed == 0:
			f.Log("%s: exit status %d: sound now", what, status)
			return nil
		case status&^(e2fsckFixed|e2fsckErrors|e2fsckFailed) != 0: // usage, canceled, no libraries
			return fmt.Errorf("%s: exit status %d", what, status)
		}
	}
	err := fmt.Errorf("%s: exit status %d", what, status)
	if status&e2fsckFailed != 0 {
		// It may lack memory, or the end of the partition. Only without a
		// superblock, here and elsewhere, there is nothing to be checked.
		if _, sbErr := f.superblock(); !errors.Is(sbErr, errDamaged) {
			return errors.Join(err, sbErr)
		}
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// recreate makes the partition the blank file system, if may says so for the
// part that this takes.
func (f FS) recreate(ctx context.Context, may func(context.Context, ubenv.Device, int64) error) error {
	blank, err := os.Open(f.Blank)
	if err != nil {
		return fmt.Errorf("open the blank file system: %w", err)
	}
	defer blank.Close()
	dev, err := ubenv.Open(f.Device)
	if err != nil {
		return err
	}
	defer dev.Close()
	size, err := blank.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size of %s: %w", f.Blank, err)
	}
	room, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size of %s: %w", f.Device, err)
	}
	if size > room {
		return fmt.Errorf("re-create %s: it has %d bytes, the blank file system %d", f.Device, room, size)
	}
	err = may(ctx, dev, size)
	if err == nil {
		err = writeBlank(ctx, dev, blank, size)
	}
	if err != nil {
		return fmt.Errorf("re-create %s from %s: %w", f.Device, f.Blank, err)
	}
	return dev.Close()
}
