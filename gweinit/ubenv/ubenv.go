// Package ubenv keeps records in the raw partition ubenv, which outlives the
// file system of /data: the boot state (package slot), the identity of the
// gateway (package identity), and its latest firmware update (package update).
//
// A record is there in two copies. The newest valid one counts, the older one
// is overwritten, synced and read back, so that a power cut at any moment
// leaves the record from before or the one after.
package ubenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The map of the partition, 8 MiB: where the first copy of each record is.
// The rest is free. That of the boot state is frozen: boot.scr in the field
// knows it.
const (
	BootState = 0       // 16 KiB
	Identity  = 1 << 20 // 64 KiB
	Update    = 2 << 20 // 64 KiB

	// Second is how far behind its first copy a record's second copy is: in
	// another erase block of any SD card or eMMC.
	Second = 4 << 20
)

// ErrNone says that neither copy of a record is valid.
var ErrNone = errors.New("no valid copy")

// errInvalid says that a copy was read, and is none.
var errInvalid = errors.New("not valid")

// Device is where records are kept: the partition ubenv, or a simulation.
// What was written before a Sync that succeeded survives a power cut.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Record is a record in two copies on a device. It is for one goroutine.
type Record struct {
	Name   string // for errors
	Dev    Device
	Offset int64 // of the first copy
	Size   int   // of one copy
	// Seq returns the sequence number of a copy, or says why it is not valid.
	Seq func(buf []byte) (uint32, error)
}

// Load returns the newest valid copy. The error wraps ErrNone, and says what
// is wrong with each copy, when both could be read and neither is valid.
func (r Record) Load() ([]byte, error) {
	buf, _, _, err := r.load()
	return buf, err
}

// load also returns the sequence number of the newest copy and the offset of
// the copy that is to be overwritten next.
func (r Record) load() (newest []byte, seq uint32, next int64, err error) {
	first, seq1, err1 := r.read(r.Offset)
	second, seq2, err2 := r.read(r.Offset + Second)
	switch {
	case errors.Is(err1, errInvalid) && errors.Is(err2, errInvalid):
		return nil, 0, r.Offset, fmt.Errorf("%s: %w: first: %w; second: %w", r.Name, ErrNone, err1, err2)
	case err1 != nil && err2 != nil: // what could not be read may well be valid
		return nil, 0, 0, fmt.Errorf("%s: first copy: %w; second: %w", r.Name, err1, err2)
	case err1 != nil, err2 == nil && seq2 > seq1:
		return second, seq2, r.Offset, nil
	}
	return first, seq1, r.Offset + Second, nil
}

// Older returns the copy that is not the newest, if both are valid.
func (r Record) Older() ([]byte, error) {
	_, _, next, err := r.load()
	if err != nil {
		return nil, err
	}
	buf, _, err := r.read(next)
	return buf, err
}

func (r Record) read(off int64) ([]byte, uint32, error) {
	buf := make([]byte, r.Size)
	if _, err := r.Dev.ReadAt(buf, off); err != nil {
		return nil, 0, fmt.Errorf("read %#x: %w", off, err)
	}
	seq, err := r.Seq(buf)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errInvalid, err)
	}
	return buf, seq, nil
}

// Save overwrites the older copy by what encode returns for the next sequence
// number, r.Size bytes, syncs, and reads it back. When it fails, the other copy
// still holds the record from before.
func (r Record) Save(encode func(seq uint32) []byte) error {
	_, seq, off, err := r.load()
	if err != nil && !errors.Is(err, ErrNone) {
		return err
	}
	// 31 bits last for 2^31 boots; U-Boot compares signed numbers.
	buf := encode(seq + 1)
	if _, err := r.Dev.WriteAt(buf, off); err != nil {
		return fmt.Errorf("%s: write %#x: %w", r.Name, off, err)
	}
	if err := r.Dev.Sync(); err != nil {
		return fmt.Errorf("%s: sync %#x: %w", r.Name, off, err)
	}
	back := make([]byte, r.Size)
	if _, err := r.Dev.ReadAt(back, off); err != nil {
		return fmt.Errorf("%s: read back %#x: %w", r.Name, off, err)
	}
	if !bytes.Equal(buf, back) {
		return fmt.Errorf("%s: %#x reads back differently from what was written: the disk may be worn out", r.Name, off)
	}
	return nil
}

// Partition is a Device on a block device or a file.
type Partition struct{ *os.File }

// Open opens a partition for reading and writing.
func Open(path string) (Partition, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Partition{}, fmt.Errorf("open the partition: %w", err)
	}
	return Partition{f}, nil
}

// Sync makes what was written durable and drops it from the page cache, so
// that reading back asks the disk.
func (p Partition) Sync() error {
	if err := p.File.Sync(); err != nil {
		return err
	}
	unix.Fadvise(int(p.Fd()), 0, 0, unix.FADV_DONTNEED) // only advice
	return nil
}
