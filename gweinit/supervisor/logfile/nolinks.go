package logfile

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrLink is that of a Log with NoLinks about a path that has a link in it.
var ErrLink = errors.New("there is a symbolic link in the path, which is not followed")

// Linked tells whether there is a symbolic link at the path or on the way there: a Log
// with NoLinks would not write to it.
func Linked(path string) bool {
	f, err := openNoLinks(path, unix.O_PATH, 0)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, ErrLink)
}

// openNoLinks opens a file as os.OpenFile does, but has the kernel follow no link.
func openNoLinks(path string, flags int, perm os.FileMode) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_SYMLINKS}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_LARGEFILE
	}
	if flags&os.O_CREATE != 0 {
		how.Mode = uint64(perm.Perm())
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	for err == unix.EINTR {
		fd, err = unix.Openat2(unix.AT_FDCWD, path, &how)
	}
	if err == unix.ELOOP {
		return nil, &os.PathError{Op: "open", Path: path, Err: ErrLink}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openFile is os.OpenFile for the files of a Log, and so on.
func (f *file) openFile(path string, flags int, perm os.FileMode) (*os.File, error) {
	if f.noLinks {
		return openNoLinks(path, flags, perm)
	}
	return os.OpenFile(path, flags, perm)
}

func (f *file) lstat(path string) (os.FileInfo, error) {
	if !f.noLinks {
		return os.Lstat(path)
	}
	// With these flags the last part of the path can be a link.
	file, err := openNoLinks(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Stat()
}

// rename renames a file within its folder.
func (f *file) rename(from, to string) error {
	if !f.noLinks {
		return os.Rename(from, to)
	}
	return inFolder("rename", from, func(dir int, name string) error {
		return unix.Renameat(dir, name, dir, filepath.Base(to))
	})
}

func (f *file) remove(path string) error {
	if !f.noLinks {
		return os.Remove(path)
	}
	return inFolder("remove", path, func(dir int, name string) error {
		return unix.Unlinkat(dir, name, 0)
	})
}

// inFolder does something to a file, by the folder as it is now: should that be
// replaced meanwhile by a link, nothing happens where that leads.
func inFolder(op, path string, do func(dir int, name string) error) error {
	dir, err := openNoLinks(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := do(int(dir.Fd()), filepath.Base(path)); err != nil {
		return &os.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}
