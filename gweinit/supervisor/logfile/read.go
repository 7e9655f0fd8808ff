package logfile

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"syscall"
)

// MaxRead is how much Read and Tail return at most.
const MaxRead = 4 << 20

// The errors of Read: Supervisor's BAD_ARGUMENTS and FAILED.
var (
	ErrBadArguments = errors.New("bad arguments")
	ErrFailed       = errors.New("failed")
)

// Read returns length bytes of a file from an offset on, or, if length is 0, all
// from there on; if the offset is negative, with length 0, that many bytes from
// the end of the file. Where this is more than MaxRead, it returns the first,
// or, with a negative offset, the last MaxRead bytes of it.
func Read(path string, offset, length int64) ([]byte, error) {
	f, err := openRead(path)
	if err != nil {
		return nil, failed(err)
	}
	defer f.Close()
	// Supervisor finds out in this order; it cannot open a folder.
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, failed(&os.PathError{Op: "read", Path: path, Err: syscall.EISDIR})
	}
	if offset < 0 && length != 0 || length < 0 {
		return nil, fmt.Errorf("read %s, offset %d, length %d: %w", path, offset, length, ErrBadArguments)
	}
	if offset < 0 {
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, failed(err)
		}
		length = MaxRead
		if offset > -MaxRead {
			length = -offset
		}
		offset = max(size-length, 0)
	}
	if length == 0 || length > MaxRead {
		length = MaxRead
	}
	data, err := readAt(f, offset, length)
	if err != nil {
		return nil, failed(err)
	}
	return data, nil
}

func failed(err error) error { return fmt.Errorf("%w: %w", ErrFailed, err) }

// Tail returns what a file has got since offset, up to length bytes, the new
// offset, and whether there was more than that: then, as in Supervisor, it is the
// last length bytes of the file. It never returns more than the last MaxRead
// bytes of that, and then tells that there was more. If the file cannot be read
// there is nothing new.
func Tail(path string, offset, length int64) (data []byte, newOffset int64, overflow bool) {
	f, err := openRead(path)
	if err != nil {
		return nil, offset, false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return nil, offset, false
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, offset, false
	}
	if size > add(offset, length) {
		overflow = true
		offset = size - 1
	}
	if add(offset, length) > size {
		if offset > size-1 {
			length = 0
		}
		offset = size - length
	}
	offset = max(offset, 0)
	length = max(length, 0)
	if length > 0 {
		length = min(length, size-offset)
		if skip := length - MaxRead; skip > 0 {
			overflow = true
			offset += skip
			length = MaxRead
		}
		if data, err = readAt(f, offset, length); err != nil {
			return nil, offset, false
		}
	}
	return data, size, overflow
}

// add adds without overflow.
func add(a, b int64) int64 {
	switch sum := a + b; {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	default:
		return sum
	}
}

// readAt reads up to length bytes; its memory is as large as what there is.
func readAt(f *os.File, offset, length int64) ([]byte, error) {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		length = min(length, max(info.Size()-offset, 0))
		data := make([]byte, length)
		n, err := io.ReadFull(f, data)
		if err == io.EOF || err == io.ErrUnexpectedEOF { // it got shorter
			err = nil
		}
		return data[:n], err
	}
	return io.ReadAll(io.LimitReader(f, length))
}
