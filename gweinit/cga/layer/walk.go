package layer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// entry is something in a tree, with what the base has in its place.
type entry struct {
	path  string // below the top, without a slash before it
	depth int    // 1 at the top
	info  os.FileInfo
	base  os.FileInfo // nil: nothing
}

// isFolder says whether info, which may be nil, is that of a folder.
func isFolder(info os.FileInfo) bool { return info != nil && info.IsDir() }

// isWhiteout says whether it is what overlayfs puts where something below is removed.
func isWhiteout(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&os.ModeType == os.ModeDevice|os.ModeCharDevice && st.Rdev == 0
}

// isOpaque says whether a folder hides all that is below it.
func isOpaque(path string) (bool, error) {
	var value [2]byte
	n, err := unix.Lgetxattr(path, overlayXattr+"opaque", value[:])
	switch err {
	case nil:
		return n == 1 && value[0] == 'y', nil
	case unix.ENODATA, unix.ENOTSUP, unix.ERANGE: // another value is a long one
		return false, nil
	}
	return false, &os.PathError{Op: "getxattr", Path: path, Err: err}
}

// overlayXattr begins the extended attributes that are overlayfs's own.
const overlayXattr = "trusted.overlay."

// walk visits all that is below top, a folder before what is in it, the names in
// order. visit may return fs.SkipDir for a folder. No link is followed, in the
// base neither: what is behind one there is not in its place.
func walk(top, base string, visit func(e entry) error) error {
	info, err := os.Stat(base)
	if err != nil {
		return err
	}
	return walkFolder(top, base, entry{base: info}, visit)
}

func walkFolder(top, base string, folder entry, visit func(e entry) error) error {
	names, err := namesIn(filepath.Join(top, folder.path))
	if err != nil {
		return err
	}
	for _, name := range names {
		e := entry{path: filepath.Join(folder.path, name), depth: folder.depth + 1}
		if e.info, err = os.Lstat(filepath.Join(top, e.path)); err != nil {
			return err
		}
		if isFolder(folder.base) {
			if e.base, err = lstat(filepath.Join(base, e.path)); err != nil {
				return err
			}
		}
		err := visit(e)
		if e.info.IsDir() && err == nil {
			err = walkFolder(top, base, e, visit)
		} else if e.info.IsDir() && err == fs.SkipDir {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lstat returns nil if there is nothing.
func lstat(path string) (os.FileInfo, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return info, err
}

// both returns what is at a path of an upper, and in its place below: nil if there is
// nothing.
func both(from, to string) (info, there os.FileInfo, err error) {
	if info, err = os.Lstat(from); err != nil {
		return nil, nil, err
	}
	there, err = lstat(to)
	return info, there, err
}

// namesIn returns the names in a folder, in order.
func namesIn(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}
