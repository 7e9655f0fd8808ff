package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
)

// The stored time is the time of modification of an empty file, as
// systemd-timesyncd has it. That is one inode, which the journal of the file
// system changes as a whole: a power cut leaves the time from before or the new
// one. There is no content that could be torn, and hardly anything to write.

// storedTime returns the zero time if the file is missing.
func storedTime(path string) (time.Time, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	if !info.Mode().IsRegular() {
		return time.Time{}, fmt.Errorf("%s is no regular file", path)
	}
	return info.ModTime(), nil
}

func storeTime(path string, t time.Time) error {
	if err := tryStoreTime(path, t); err != nil {
		return fmt.Errorf("store the time in %s: %w", path, err)
	}
	return nil
}

func tryStoreTime(path string, t time.Time) error {
	ts, err := timespec(t)
	if err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return errors.New("it is no regular file")
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return f.Sync() // not fdatasync, which leaves times in memory
}
