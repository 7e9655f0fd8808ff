package gpt

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Disk is a block device as a whole. It is read and written without the page
// cache: that would write whole pages, and the first has sector 0 in it.
type Disk struct {
	f       *os.File
	sectors uint64
}

// OpenDisk opens a disk for reading and writing. Its partitions may be in use.
func OpenDisk(path string) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the disk: %w", err)
	}
	d, err := newDisk(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	return d, nil
}

func newDisk(f *os.File) (*Disk, error) {
	sector, err := unix.IoctlGetUint32(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, fmt.Errorf("ask for the size of a sector: %w", err)
	}
	if sector != SectorSize {
		return nil, fmt.Errorf("sectors of %d bytes: only %d are supported", sector, SectorSize)
	}
	var size uint64
	if err := ioctl(f, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return nil, fmt.Errorf("ask for the size: %w", err)
	}
	return &Disk{f, size / SectorSize}, nil
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// Sectors returns the size of the disk.
func (d *Disk) Sectors() uint64 { return d.sectors }

// ReadAt reads whole sectors.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	buf := aligned(len(p))
	n, err := d.f.ReadAt(buf, off)
	return copy(p, buf[:n]), err
}

// WriteAt writes whole sectors.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	buf := aligned(len(p))
	copy(buf, p)
	return d.f.WriteAt(buf, off)
}

// Sync makes what was written durable.
func (d *Disk) Sync() error { return d.f.Sync() }

// Close closes the disk.
func (d *Disk) Close() error { return d.f.Close() }

// aligned returns memory that O_DIRECT takes on any disk: it starts on a page.
func aligned(n int) []byte {
	const page = 4096
	buf := make([]byte, n+page)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(buf))) % page
	return buf[skip:][:n]
}

// ResizePartition tells the kernel the new size of a partition, which may be
// mounted. The partition table is not touched.
func (d *Disk) ResizePartition(number int, first, sectors uint64) error {
	p := unix.BlkpgPartition{
		Start:  int64(first * SectorSize),
		Length: int64(sectors * SectorSize),
		Pno:    int32(number),
	}
	arg := unix.BlkpgIoctlArg{
		Op:      unix.BLKPG_RESIZE_PARTITION,
		Datalen: int32(unsafe.Sizeof(p)),
		Data:    (*byte)(unsafe.Pointer(&p)),
	}
	if err := ioctl(d.f, unix.BLKPG, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("resize partition %d of %s to %d sectors from %d: %w", number, d.f.Name(), sectors, first, err)
	}
	return nil
}
