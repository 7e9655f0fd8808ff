package flash

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is a card while it is flashed. Buffers begin at a page, and have, as the
// offsets, whole grains: neither reads nor writes are of the host's cache.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	// Sync returns when what was written is on the card.
	Sync() error
	// Discard tells the card that these bytes are of no use. What it reads there
	// afterwards is its own affair. The error is errors.ErrUnsupported if the card
	// or its reader cannot do that.
	Discard(off, size int64) error
	// Gone says that the card is not in its reader any more.
	Gone() bool
	Close() error
}

// blockDevice is a card in a reader of this host.
type blockDevice struct {
	*os.File
	card Card
}

// open opens the card for us alone: the kernel neither mounts it meanwhile nor
// opens one that is mounted.
func (c Card) open() (Device, error) {
	f, err := os.OpenFile(c.Path, os.O_RDWR|unix.O_EXCL|unix.O_DIRECT, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: unmount it", errInUse)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES) && os.Getuid() == 0:
		return nil, errReadOnly
	case errors.Is(err, unix.EACCES):
		return nil, errors.New("permission denied: do this as root")
	case errors.Is(err, unix.ENOMEDIUM), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOENT):
		return nil, errNoCard
	case err != nil:
		return nil, plain(err)
	}
	d := blockDevice{f, c}
	size, err := d.size()
	if err == nil && (size != c.Size || d.Gone()) {
		err = errors.New("this is not the card any more that was looked at: somebody has changed it")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

func (d blockDevice) Size() int64 { return d.card.Size }

func (d blockDevice) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.File.ReadAt(p, off)
	return n, plain(err)
}

func (d blockDevice) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.File.WriteAt(p, off)
	return n, plain(err)
}

func (d blockDevice) Sync() error { return plain(d.File.Sync()) }

// plain leaves out the path that an error of a file has: the card's is told
// beside it.
func plain(err error) error {
	if path, ok := err.(*fs.PathError); ok {
		return path.Err
	}
	return err
}

func (d blockDevice) size() (size int64, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return 0, fmt.Errorf("ask for the size: %w", errno)
	}
	return size, nil
}

// Discard is BLKDISCARD of ioctl.
func (d blockDevice) Discard(off, size int64) error {
	bytes := [2]uint64{uint64(off), uint64(size)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&bytes)))
	switch errno {
	case 0:
		return nil
	case unix.EOPNOTSUPP, unix.EINVAL, unix.ENOTTY, unix.EREMOTEIO: // the last of readers that say they can
		return errors.ErrUnsupported
	}
	return errno
}

func (d blockDevice) Gone() bool {
	now, err := Examine(d.card.Path)
	return err != nil || now.seq != d.card.seq || now.ID != d.card.ID || now.Size == 0
}

// Close has the kernel read the partition table, for whoever wants to look at the
// card now.
func (d blockDevice) Close() error {
	unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKRRPART, 0)
	return d.File.Close()
}

// pages returns a buffer that begins at a page. It is not the garbage
// collector's: it has to be given back with unix.Munmap.
func pages(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}
