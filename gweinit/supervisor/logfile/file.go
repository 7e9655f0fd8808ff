package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// file is the file of a Log. It takes it as it is each time: people remove, move
// and empty it.
type file struct {
	path     string
	max      int64         // size; 0: no rotation
	keep     int           // older ones
	retry    time.Duration // while it fails, the disk is tried at most so often
	patience time.Duration // with what is no regular file
	write    func(*os.File, []byte) (int, error)
	noLinks  bool

	f       *os.File // nil if not open
	regular bool
	rotates bool
	size    int64
	tail    int64 // bytes of the line at the end that has no newline yet; 0 if not known
	mid     bool  // there is such a line

	missing int64     // bytes of output dropped since the last that was written
	why     error     // for the last of them
	failed  time.Time // zero if the last try did not fail
	stuck   error     // why the file could not be rotated
	stuckAt time.Time
}

// failing tells whether output is or will be lost.
func (f *file) failing() bool { return !f.failed.IsZero() || f.stuck != nil }

// take writes a block, or drops and counts it. It returns what went wrong, if
// it tried.
func (f *file) take(b block) error {
	if b.missing > 0 {
		f.missing += b.missing
		f.why = errHangs
	}
	if !f.failed.IsZero() && time.Since(f.failed) < f.retry {
		f.missing += int64(len(b.data))
		return nil
	}
	n, err := f.writeBlock(b)
	if err != nil {
		f.missing += int64(len(b.data) - n)
		f.why = err
		f.failed = time.Now()
		f.close() // the next try opens it
		return err
	}
	f.failed = time.Time{}
	return f.stuck
}

func (f *file) writeBlock(b block) (n int, err error) {
	if err := f.check(); err != nil {
		return 0, err
	}
	if missing := f.missing; missing > 0 {
		remark := f.remark()
		f.missing = 0 // append may find more missing, and tell that itself
		if _, err := f.append(remark); err != nil {
			f.missing += missing
			return 0, err
		}
	}
	if b.fresh && f.mid {
		if _, err := f.append([]byte("\n")); err != nil {
			return 0, err
		}
	}
	return f.append(b.data)
}

// remark is a line that tells what is missing.
func (f *file) remark() []byte {
	why := f.why
	// The file's name is known where this is read.
	var errno syscall.Errno
	var named *os.PathError
	if errors.As(why, &errno) {
		why = errno
	} else if errors.As(why, &named) {
		why = named.Err
	}
	start := ""
	if f.mid {
		start = "\n"
	}
	return fmt.Appendf(nil, "%sgweinit: %d bytes of output are missing here: %v\n", start, f.missing, why)
}

// append writes p, with rotations as needed.
func (f *file) append(p []byte) (written int, err error) {
	for len(p) > 0 {
		n := len(p)
		if f.rotates {
			if n, err = f.room(p); err != nil {
				return written, err
			}
		}
		if !f.regular { // a FIFO that nobody reads must not hold us after Close
			f.f.SetWriteDeadline(time.Now().Add(f.patience))
		}
		m, err := f.write(f.f, p[:n])
		f.wrote(p[:m])
		written += m
		p = p[m:]
		if err != nil && !(noSpace(err) && f.removeOldest()) {
			return written, err
		}
	}
	return written, nil
}

// room returns how much of p, at least a byte, is to be written to the file that
// is open, which it rotates if needed.
func (f *file) room(p []byte) (int, error) {
	if f.stuck != nil && time.Since(f.stuckAt) >= f.retry {
		if err := f.rotate(); err != nil && f.stuck == nil {
			return 0, err
		}
	}
	for {
		if n := f.fit(p); n > 0 {
			return n, nil
		}
		before := f.stuck
		err := f.rotate()
		if err == nil {
			continue
		}
		if f.stuck == nil {
			return 0, err
		}
		// It may grow to twice its size while there is hope.
		if before != nil {
			if err := f.startOver(); err != nil {
				return 0, err
			}
		}
	}
}

// fit returns how much of p there is room for: whole lines, if p has more, and
// a part only of a line that is longer than a file.
func (f *file) fit(p []byte) int {
	limit := f.max
	if f.stuck != nil && limit <= math.MaxInt64/2 {
		limit *= 2
	}
	room := limit - f.size
	if int64(len(p)) <= room {
		return len(p)
	}
	if room <= 0 {
		return 0
	}
	if n := bytes.LastIndexByte(p[:room], '\n') + 1; n > 0 {
		return n
	}
	if f.size == f.tail || f.stuck != nil { // the line fills the file
		return int(room)
	}
	return 0
}

// wrote takes note of what was written.
func (f *file) wrote(p []byte) {
	if len(p) == 0 {
		return
	}
	f.size += int64(len(p))
	if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
		f.tail = int64(len(p) - i - 1)
	} else if f.tail > 0 || !f.mid {
		f.tail += int64(len(p))
	}
	f.mid = p[len(p)-1] != '\n'
}

// check makes sure that the file is open and not removed, and learns its size.
func (f *file) check() error {
	if f.f == nil {
		return f.open()
	}
	if !f.regular {
		return nil
	}
	info, err := f.f.Stat()
	if err != nil {
		f.close()
		return f.open()
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 0 {
		f.close()
		return f.open()
	}
	if info.Size() != f.size { // somebody else has emptied it, or writes as well
		f.size = info.Size()
		f.tail = 0
		f.mid = f.mid && f.size > 0
	}
	return nil
}

// open opens the file, or makes it.
func (f *file) open() error {
	file, err := f.openAppend()
	for noSpace(err) && f.removeOldest() {
		file, err = f.openAppend()
	}
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	f.f = file
	f.size, f.tail, f.mid = 0, 0, false
	f.stuck = nil
	f.regular = info.Mode().IsRegular()
	f.rotates = f.regular && f.max > 0 && !special(f.path)
	if f.regular {
		f.size = info.Size()
		f.mid = f.size > 0 && f.endsMid()
	}
	return nil
}

// openAppend opens a file such that nothing hangs and nothing is taken over, also
// if it is a FIFO (without a reader: an error) or a terminal.
func (f *file) openAppend() (*os.File, error) {
	const flags = os.O_WRONLY | os.O_APPEND | syscall.O_NONBLOCK | syscall.O_NOCTTY // O_CLOEXEC is added
	file, err := f.openFile(f.path, flags, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return file, err
	}
	file, err = f.openFile(f.path, flags|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) { // somebody else has just made it, or it is a dangling link
		return f.openFile(f.path, flags|os.O_CREATE, 0o644)
	}
	if err == nil {
		file.Chmod(0o644) // whatever the umask; if not, it is logged to all the same
	}
	return file, err
}

const readFlags = os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_NOCTTY

// openRead opens a file to read it, such that nothing hangs.
func openRead(path string) (*os.File, error) { return os.OpenFile(path, readFlags, 0) }

// special tells whether a name may stand for a regular file that is not ours to
// rename: /dev/stdout is one if gweinit's stdout is.
func special(path string) bool {
	path = filepath.Clean(path)
	return strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/") || strings.HasPrefix(path, "/proc/")
}

// endsMid tells whether the file ends within a line.
func (f *file) endsMid() bool {
	r, err := f.openFile(f.path, readFlags, 0)
	if err != nil {
		return false
	}
	defer r.Close()
	var last [1]byte
	n, _ := r.ReadAt(last[:], f.size-1)
	return n == 1 && last[0] != '\n'
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (f *file) close() {
	if f.f != nil {
		f.f.Close()
		f.f = nil
	}
}

// clear removes the file, if it is one, and opens it anew.
func (f *file) clear() error {
	f.close()
	stat := os.Stat
	if f.noLinks {
		stat = f.lstat
	}
	info, err := stat(f.path)
	if err == nil && info.Mode().IsRegular() && !special(f.path) {
		err = f.remove(f.path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return f.open()
}
