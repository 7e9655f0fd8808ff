package data

import (
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Grow makes the mounted file system as large as the partition is. A power cut
// leaves any size between, and the next boot goes on from there.
func (f FS) Grow() error {
	sb, err := f.superblock()
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	size, err := sizeOf(f.Device)
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	blocks := sb.grown(size)
	if blocks == sb.blocks {
		return nil
	}
	dir, err := os.Open(f.Target)
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	defer dir.Close()
	what := fmt.Sprintf("%s from %d to %d MiB", f.Device, sb.blocks*sb.blockSize>>20, blocks*sb.blockSize>>20)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), uintptr(resizeFS(unix.FS_IOC_SETFLAGS)), uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("grow %s: ioctl EXT4_IOC_RESIZE_FS on %s: %w", what, f.Target, errno)
	}
	f.Log("grew %s", what)
	return nil
}

func sizeOf(device string) (uint64, error) {
	dev, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer dev.Close()
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", device, err)
	}
	return uint64(size), nil
}

// worthGrowing keeps from growing for a trifle at each boot.
const worthGrowing = 1 << 20

// grown is the number of blocks on a partition of size bytes. A last group that
// would hold next to nothing beside its own tables is left out, as resize2fs
// does: the kernel does not look, and may fail on it.
func (s superblock) grown(size uint64) uint64 {
	blocks := size / s.blockSize
	if rest := blocks % s.blocksPerGroup; rest < s.overhead+50 {
		blocks -= rest
	}
	if blocks < s.blocks || blocks-s.blocks < worthGrowing/s.blockSize {
		return s.blocks
	}
	return blocks
}

// resizeFS returns EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64), which x/sys lacks.
// The bits for "write" are not the same on MIPS: they come from another _IOW.
func resizeFS(iow uint32) uint32 {
	return iow&0xe0000000 | 8<<16 | 'f'<<8 | 16
}
