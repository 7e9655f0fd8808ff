package syslog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// file is a log with older ones beside it, path.1 being the newest of them. It
// takes them as they are: a power cut may have left any of them out, and people
// remove, move and empty them.
type file struct {
	path string
	max  int64 // size
	keep int   // older ones

	f    *os.File // nil if not open
	size int64
}

// write writes lines, and returns how many bytes of whole lines it has written.
// After an error the file is opened anew.
func (f *file) write(lines []byte) (written int, err error) {
	for written < len(lines) {
		if err := f.open(); err != nil {
			return written, err
		}
		n := f.fit(lines[written:])
		if n == 0 {
			if err := f.rotate(); err != nil {
				return written, err
			}
			continue
		}
		m, err := f.f.Write(lines[written : written+n])
		if err != nil {
			m = bytes.LastIndexByte(lines[written:written+m], '\n') + 1
			f.f.Truncate(f.size + int64(m)) // the part of a line; if not, open ends it
			f.close()
			return written + m, err
		}
		f.size += int64(m)
		written += m
	}
	return written, nil
}

// fit returns how many bytes of whole lines there is room for.
func (f *file) fit(lines []byte) int {
	room := f.max - f.size
	if int64(len(lines)) <= room {
		return len(lines)
	}
	n := bytes.LastIndexByte(lines[:max(room, 0)], '\n') + 1
	if n == 0 && f.size == 0 { // a line that no file has room for
		n = bytes.IndexByte(lines, '\n') + 1
	}
	return n
}

// open opens the file, if it is not open, or not the one that is there.
func (f *file) open() error {
	info, err := os.Lstat(f.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil && f.f != nil {
		if open, err := f.f.Stat(); err == nil && os.SameFile(open, info) {
			f.size = info.Size()
			return nil
		}
	}
	f.close()
	if err == nil && !info.Mode().IsRegular() {
		if err := aside(f.path); err != nil {
			return err
		}
	}
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND | syscall.O_NOFOLLOW
	file, err := os.OpenFile(f.path, flags, 0o640)
	if errors.Is(err, os.ErrNotExist) {
		// Not those above: /data is there, or there is nothing to log to.
		if err := os.Mkdir(filepath.Dir(f.path), 0o755); err != nil {
			return err
		}
		file, err = os.OpenFile(f.path, flags, 0o640)
	}
	if err != nil {
		return err
	}
	size, err := mend(file)
	if err != nil {
		file.Close()
		return err
	}
	f.f, f.size = file, size
	return nil
}

// mend cuts off the NULs that a power cut leaves at the end of a file, ends the
// last line, and returns the size.
func mend(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := info.Size()
	last := byte('\n') // of an empty file
	buf := make([]byte, 4<<10)
	for end > 0 {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if text := bytes.TrimRight(buf[:n], "\x00"); len(text) > 0 {
			end -= n - int64(len(text))
			last = text[len(text)-1]
			break
		}
		end -= n
	}
	if end < info.Size() {
		if err := f.Truncate(end); err != nil {
			return 0, err
		}
	}
	if last != '\n' {
		if _, err := f.Write([]byte("\n")); err != nil {
			return 0, err
		}
		end++
	}
	return end, nil
}

// name returns the name of an older file; 0 is the file itself.
func (f *file) name(i int) string {
	if i == 0 {
		return f.path
	}
	return f.path + "." + strconv.Itoa(i)
}

// rotate makes the file the first older one. Those before a number that is
// missing move up, but no others.
func (f *file) rotate() error {
	if err := f.close(); err != nil {
		return err
	}
	if f.keep < 1 {
		return removeAny(f.path)
	}
	last := f.keep
	for i := 1; i <= f.keep; i++ {
		info, err := os.Lstat(f.name(i))
		if err == nil && !info.Mode().IsRegular() {
			if err := aside(f.name(i)); err != nil {
				return err
			}
			err = os.ErrNotExist
		}
		if errors.Is(err, os.ErrNotExist) {
			last = i
			break
		}
		if err != nil {
			return err
		}
	}
	for i := last; i > 0; i-- {
		if err := os.Rename(f.name(i-1), f.name(i)); err != nil {
			return err
		}
	}
	return nil
}

// removeOldest removes the oldest of the older files.
func (f *file) removeOldest() {
	for i := f.keep; i > 0; i-- {
		info, err := os.Lstat(f.name(i))
		if err == nil && info.Mode().IsRegular() && os.Remove(f.name(i)) == nil {
			return
		}
	}
}

func (f *file) close() error {
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f = nil
	return err
}

// aside moves a folder, a link or a device out of the way.
func aside(path string) error {
	const most = 10
	for i := 1; i <= most; i++ {
		to := fmt.Sprintf("%s.aside%d", path, i)
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			return os.Rename(path, to)
		}
	}
	return fmt.Errorf("move %s aside: there are %d such already", path, most)
}

// removeAny removes a file, if it is there.
func removeAny(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
