package slot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNoState says that neither copy of the boot state is valid.
var ErrNoState = errors.New("no valid copy of the boot state")

// errInvalid says that a copy was read, and is none.
var errInvalid = errors.New("not valid")

// Device is where the state is kept: the partition ubenv, or a simulation.
// What was written before a Sync that succeeded survives a power cut.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Store reads and writes the state on a device. It is for one goroutine.
type Store struct{ dev Device }

// NewStore returns the store on dev.
func NewStore(dev Device) *Store { return &Store{dev} }

// Load returns the newest valid copy. The error wraps ErrNoState, and says
// what is wrong with each copy, when both could be read and neither is valid.
func (s *Store) Load() (State, error) {
	st, _, err := s.load()
	return st, err
}

// load also returns the offset of the copy that is to be overwritten next.
func (s *Store) load() (State, int64, error) {
	first, err1 := s.read(0)
	second, err2 := s.read(SecondCopy)
	switch {
	case errors.Is(err1, errInvalid) && errors.Is(err2, errInvalid):
		return State{}, 0, fmt.Errorf("%w: first: %w; second: %w", ErrNoState, err1, err2)
	case err1 != nil && err2 != nil: // what could not be read may well be valid
		return State{}, 0, fmt.Errorf("first copy: %w; second: %w", err1, err2)
	case err1 != nil, err2 == nil && second.Seq > first.Seq:
		return second, 0, nil
	}
	return first, SecondCopy, nil
}

func (s *Store) read(off int64) (State, error) {
	buf := make([]byte, CopySize)
	if _, err := s.dev.ReadAt(buf, off); err != nil {
		return State{}, fmt.Errorf("read boot state at %#x: %w", off, err)
	}
	st, err := Decode(buf)
	if err != nil {
		return State{}, fmt.Errorf("%w: %w", errInvalid, err)
	}
	return st, nil
}

// Save makes st the newest state: it overwrites the older copy under the next
// sequence number, syncs, and reads it back. When it fails, the other copy
// still holds the state from before.
func (s *Store) Save(st State) error {
	newest, off, err := s.load()
	if err != nil && !errors.Is(err, ErrNoState) {
		return err
	}
	// 31 bits last for 2^31 boots; U-Boot compares signed numbers.
	st.Seq = newest.Seq + 1
	buf := st.Encode()
	if _, err := s.dev.WriteAt(buf, off); err != nil {
		return fmt.Errorf("write boot state at %#x: %w", off, err)
	}
	if err := s.dev.Sync(); err != nil {
		return fmt.Errorf("sync boot state at %#x: %w", off, err)
	}
	back := make([]byte, CopySize)
	if _, err := s.dev.ReadAt(back, off); err != nil {
		return fmt.Errorf("read back boot state at %#x: %w", off, err)
	}
	if !bytes.Equal(buf, back) {
		return fmt.Errorf("boot state at %#x reads back differently from what was written: the disk may be worn out", off)
	}
	return nil
}

// Update loads the state, applies one operation, and saves the result. With
// an error of the operation nothing is written.
func (s *Store) Update(op func(*State) error) (State, error) {
	st, err := s.Load()
	if err != nil {
		return State{}, err
	}
	before := st
	if err := op(&st); err != nil {
		return before, err
	}
	if st == before {
		return st, nil
	}
	return st, s.Save(st)
}

// Partition is a Device on a block device or a file.
type Partition struct{ *os.File }

// OpenPartition opens the partition ubenv for reading and writing.
func OpenPartition(path string) (Partition, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Partition{}, fmt.Errorf("open boot state: %w", err)
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
