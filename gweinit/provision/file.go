package provision

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/ubenv"
)

// File is provision.yaml on the boot partition. Its file system is never
// written, since a torn FAT is a dead gateway: the file is overwritten in
// place, on the block device.
type File interface {
	// Read returns the content, as the file system has it. The error wraps
	// fs.ErrNotExist if there is no file.
	Read() ([]byte, error)
	// Open opens the device, and returns where the file is on it.
	Open() (Device, []Extent, error)
	// Forget has Read ask the disk again.
	Forget() error
}

// Device is the block device of a file.
type Device interface {
	ubenv.Device
	io.Closer
}

// Extent is a part of a file on its device, in whole sectors.
type Extent struct{ Offset, Length int64 }

const sector = 512 // is written as a whole

// overwrite puts config.Done in the place of what the file has, which was read
// before: its first sector, then the rest. When a power cut comes between, the
// file is marked already.
func overwrite(f File, file []byte) (err error) {
	dev, extents, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	size := int64(0)
	for _, e := range extents {
		size += e.Length
	}
	there := make([]byte, size)
	if err := each(extents, there, dev.ReadAt); err != nil {
		return fmt.Errorf("read its sectors: %w", err)
	}
	if len(file) == 0 || size < int64(len(file)) || !bytes.Equal(there[:len(file)], file) {
		return errors.New("its sectors do not have what it has; not overwriting them")
	}
	done := config.Done(int(size))
	first := []Extent{{extents[0].Offset, min(sector, extents[0].Length)}}
	rest := append([]Extent{{extents[0].Offset + first[0].Length, extents[0].Length - first[0].Length}}, extents[1:]...)
	if err := write(dev, first, done); err != nil {
		return err
	}
	if err := write(dev, rest, done[first[0].Length:]); err != nil {
		return err
	}
	if err := each(extents, there, dev.ReadAt); err != nil {
		return fmt.Errorf("read its sectors back: %w", err)
	}
	if !bytes.Equal(there, done) {
		return errors.New("its sectors read back differently from what was written: the disk may be worn out")
	}
	if err := f.Forget(); err != nil {
		return err
	}
	if now, err := f.Read(); err != nil || !bytes.Equal(now, done[:len(file)]) {
		return errors.Join(errors.New("its sectors are overwritten, but the file system still has what was there"), err)
	}
	return nil
}

func write(dev Device, extents []Extent, data []byte) error {
	if err := each(extents, data, dev.WriteAt); err != nil {
		return fmt.Errorf("overwrite its sectors: %w", err)
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("sync its sectors: %w", err)
	}
	return nil
}

// each reads or writes data, one extent after the other.
func each(extents []Extent, data []byte, do func(p []byte, off int64) (int, error)) error {
	for _, e := range extents {
		if e.Length == 0 {
			continue
		}
		if _, err := do(data[:e.Length], e.Offset); err != nil {
			return err
		}
		data = data[e.Length:]
	}
	return nil
}

// OnBoot returns the file at path, on a file system that is mounted read-only
// from the partition, a block device.
func OnBoot(path, partition string) File { return bootFile{path, partition} }

type bootFile struct{ path, partition string }

func (b bootFile) Read() ([]byte, error) {
	data, err := readFile(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		// It may be the partition that is not there, and the file, not applied yet
		// or not overwritten, at the next boot.
		if err := b.mounted(); err != nil {
			return nil, err
		}
	}
	return data, err
}

// mounted says whether the folder of the file is on the partition.
func (b bootFile) mounted() error {
	var folder, device unix.Stat_t
	dir := filepath.Dir(b.path)
	if unix.Stat(dir, &folder) != nil || unix.Stat(b.partition, &device) != nil || uint64(folder.Dev) != uint64(device.Rdev) {
		return fmt.Errorf("%s is not mounted on %s", b.partition, dir)
	}
	return nil
}

func (b bootFile) Forget() error {
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop the cached pages of %s: %w", b.path, err)
	}
	return nil
}

func (b bootFile) Open() (Device, []Extent, error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	extents, err := fibmap(f)
	if err != nil {
		return nil, nil, err
	}
	dev, err := ubenv.Open(b.partition)
	if err != nil {
		return nil, nil, err
	}
	// The blocks of a file mean nothing on another device.
	var of, at unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &of), unix.Fstat(int(dev.Fd()), &at)); err != nil {
		return nil, nil, errors.Join(err, dev.Close())
	}
	if at.Mode&unix.S_IFMT != unix.S_IFBLK || uint64(of.Dev) != uint64(at.Rdev) {
		return nil, nil, errors.Join(fmt.Errorf("%s is not on %s", b.path, b.partition), dev.Close())
	}
	return dev, extents, nil
}

// Requests of ioctl, from linux/fs.h. "No argument" in their upper bits, where
// BLKRRPART has it too, is another number on MIPS.
const (
	ioNone   = unix.BLKRRPART &^ 0xffff
	fiBMAP   = ioNone | 1
	fiGETBSZ = ioNone | 2
)

// fibmap returns where a file is on its device. FIBMAP is the only way that
// FAT has: it does not know FIEMAP.
func fibmap(f *os.File) ([]Extent, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := int32(0)
	if err := ioctl(f, fiGETBSZ, &size); err != nil {
		return nil, fmt.Errorf("ask for the block size of %s: %w", f.Name(), err)
	}
	if size < sector || size%sector != 0 || info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes in blocks of %d", f.Name(), info.Size(), size)
	}
	var extents []Extent
	for i := range (info.Size() + int64(size) - 1) / int64(size) {
		block := int32(i)
		if err := ioctl(f, fiBMAP, &block); err != nil {
			return nil, fmt.Errorf("ask where block %d of %s is: %w", i, f.Name(), err)
		}
		if block <= 0 {
			return nil, fmt.Errorf("block %d of %s is not on the disk", i, f.Name())
		}
		e := Extent{int64(block) * int64(size), int64(size)}
		if last := len(extents) - 1; last >= 0 && extents[last].Offset+extents[last].Length == e.Offset {
			extents[last].Length += e.Length
		} else {
			extents = append(extents, e)
		}
	}
	return extents, nil
}

func ioctl(f *os.File, request uintptr, arg *int32) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}
