package firmware

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/ubenv"
	"github.com/exosite/gwe/gweinit/update"
)

// Device is a partition. It takes whole sectors. Sync makes durable what was
// written, and has it read from the disk then.
type Device interface {
	update.Device
	Size() int64
}

const sector = 512

// openPartition opens a partition of the gateway's disk.
func openPartition(name string, write bool) (Device, error) {
	return openFile("/dev/disk/by-partlabel/"+name, write)
}

func openFile(path string, write bool) (Device, error) {
	mode := os.O_RDONLY
	if write {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(path, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the partition: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("size of the partition %s: %w", path, err)
	}
	return partition{ubenv.Partition{File: f}, size}, nil
}

type partition struct {
	ubenv.Partition
	size int64
}

func (p partition) Size() int64 { return p.size }

// ReadAt keeps nothing in the page cache: a slot is more than small gateways have
// memory for.
func (p partition) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.Partition.ReadAt(b, off)
	unix.Fadvise(int(p.Fd()), off, int64(n), unix.FADV_DONTNEED) // only advice
	return n, err
}
