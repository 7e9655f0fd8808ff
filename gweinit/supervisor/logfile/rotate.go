package logfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
)

// name returns the name of an older file; 0 is the file itself.
func (f *file) name(i int) string {
	if i == 0 {
		return f.path
	}
	return f.path + "." + strconv.Itoa(i)
}

// rotate makes the file the first older one, or removes it if there are to be
// none, and opens a new one. A line that has begun moves to the new one.
//
// If the files cannot be renamed, stuck is set, and the file is still open.
func (f *file) rotate() error {
	old := f.f
	tail := f.tail
	if tail == f.size {
		tail = 0 // it does not get better there
	}
	var from *os.File
	if tail > 0 {
		if from = f.reader(); from == nil {
			tail = 0
		} else {
			defer from.Close()
		}
	}
	if err := f.shift(); err != nil {
		f.stuck = fmt.Errorf("rotate %s: %w", f.path, err)
		f.stuckAt = time.Now()
		return f.stuck
	}
	f.stuck = nil // also if open fails
	start := f.size - tail
	f.f = nil
	defer old.Close()
	if err := f.open(); err != nil {
		return err
	}
	if f.size > 0 && f.same(old) { // a second name for it: rename does nothing
		f.stuck = fmt.Errorf("rotate %s: %w", f.path, syscall.EEXIST)
		f.stuckAt = time.Now()
		return f.stuck
	}
	// If the line cannot be moved it is split, which is better than lost.
	if tail > 0 && f.rotates && f.size == 0 {
		if err := f.move(from, start, tail); err != nil {
			f.f.Truncate(0)
			f.size, f.tail, f.mid = 0, 0, false
		} else {
			old.Truncate(start)
		}
	}
	return nil
}

// reader opens the file to read it.
func (f *file) reader() *os.File {
	r, err := f.openFile(f.path, readFlags, 0)
	if err != nil {
		return nil
	}
	if f.same(r) {
		return r
	}
	r.Close()
	return nil
}

// same tells whether another open file is the one that is open here.
func (f *file) same(other *os.File) bool {
	a, err := f.f.Stat()
	if err != nil {
		return false
	}
	b, err := other.Stat()
	return err == nil && os.SameFile(a, b)
}

// move copies the end of a file to the new one.
func (f *file) move(from io.ReaderAt, start, length int64) error {
	buf := buffers.Get().(*[blockSize]byte)
	defer buffers.Put(buf)
	for length > 0 {
		n, err := from.ReadAt(buf[:min(length, blockSize)], start)
		if n == 0 {
			return err
		}
		m, err := f.write(f.f, buf[:n])
		f.wrote(buf[:m])
		if err != nil {
			return err
		}
		start += int64(n)
		length -= int64(n)
	}
	return nil
}

// shift makes room for a new file. Those before a number that is missing move
// up, but no others: so nothing is lost if it fails half-way and is done again.
func (f *file) shift() error {
	if f.keep < 1 {
		return f.removeAny()
	}
	last := f.keep
	for i := 1; i <= f.keep; i++ {
		info, err := f.lstat(f.name(i))
		if errors.Is(err, os.ErrNotExist) {
			last = i
			break
		}
		if err != nil {
			return err
		}
		if info.IsDir() { // not ours; do with those before it
			last = i - 1
			break
		}
	}
	if last == 0 {
		return &os.PathError{Op: "replace", Path: f.name(1), Err: syscall.EISDIR}
	}
	for i := last; i > 0; i-- {
		err := f.rename(f.name(i-1), f.name(i))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // somebody has moved it away
			return err
		}
	}
	return nil
}

// startOver empties a file that cannot be rotated, and tells in it.
func (f *file) startOver() error {
	if err := f.f.Truncate(0); err != nil {
		return err
	}
	f.missing += f.size
	f.why = f.stuck
	f.size, f.tail, f.mid = 0, 0, false
	f.stuck = nil
	remark := f.remark()
	n, err := f.write(f.f, remark[:min(int64(len(remark)), f.max)])
	f.wrote(remark[:n])
	if err == nil {
		f.missing = 0
	}
	return err
}

// removeOldest removes the oldest of the older files.
func (f *file) removeOldest() bool {
	if f.max <= 0 || special(f.path) { // they are not of our making
		return false
	}
	for i := f.keep; i > 0; i-- {
		info, err := f.lstat(f.name(i))
		if err == nil && info.Mode().IsRegular() && f.remove(f.name(i)) == nil {
			return true
		}
	}
	return false
}

// removeAny removes the file, if it is there.
func (f *file) removeAny() error {
	if err := f.remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
