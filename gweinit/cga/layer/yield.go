package layer

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// keptXattr marks a file of an upper that is not to replace the one it is over.
const keptXattr = "trusted.gwe.kept"

// maxLooked is how many files Look takes note of: some 32 bytes of memory each.
const maxLooked = 50_000

// Before is how the files of a folder were. It needs no clock: that of a gateway may
// go back with the power, so times are compared for being the same only.
type Before struct {
	files map[uint64]uint64 // by path: what changes with each write
	all   bool              // the files are all noted
	seed  maphash.Seed
}

// Look notes how the files of a folder are. What cannot be read is not noted.
func Look(folder string) *Before {
	b := &Before{files: map[uint64]uint64{}, all: true, seed: maphash.MakeSeed()}
	filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if len(b.files) == maxLooked {
			b.all = false
			return filepath.SkipAll
		}
		if info, err := e.Info(); err == nil {
			b.files[b.key(folder, path)] = b.state(info)
		}
		return nil
	})
	return b
}

func (b *Before) key(folder, path string) uint64 {
	return maphash.String(b.seed, path[len(folder):])
}

func (b *Before) state(info os.FileInfo) uint64 {
	st := info.Sys().(*syscall.Stat_t)
	seconds, nanoseconds := st.Ctim.Unix()
	return maphash.Comparable(b.seed, [4]int64{int64(st.Ino), st.Size, seconds, nanoseconds})
}

// written says whether a file was written since, as far as that is known.
func (b *Before) written(folder, path string, now os.FileInfo) bool {
	state, noted := b.files[b.key(folder, path)]
	return noted && state != b.state(now) || !noted && b.all
}

// Yield marks the files of an upper that programs have written since, in the folder
// that it is over, and that are others now: "chown -R" has copied them, say, and a
// program has gone on. Merge leaves those as they are then, and only gives them mode
// and owner. It returns their paths below the folder. A folder that an installer has
// removed and made anew is its own.
func Yield(upper, to string, before *Before) (kept []string, err error) {
	y := &yielder{upper: upper, to: to, before: before}
	if err := y.folder(""); err != nil {
		return y.kept, fmt.Errorf("compare %s with %s: %w", upper, to, err)
	}
	return y.kept, nil
}

// yielder is one Yield.
type yielder struct {
	upper, to string
	before    *Before
	kept      []string
	compare   comparer
}

func (y *yielder) folder(path string) error {
	names, err := namesIn(filepath.Join(y.upper, path))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := y.entry(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

func (y *yielder) entry(path string) error {
	from, to := filepath.Join(y.upper, path), filepath.Join(y.to, path)
	info, there, err := both(from, to)
	if err != nil || there == nil {
		return err
	}
	if info.IsDir() && there.IsDir() {
		if opaque, err := isOpaque(from); err != nil || opaque {
			return err
		}
		return y.folder(path)
	}
	if !info.Mode().IsRegular() || !there.Mode().IsRegular() || !y.before.written(y.to, to, there) || y.compare.same(from, to) {
		return nil
	}
	if err := unix.Lsetxattr(from, keptXattr, nil, 0); err != nil {
		return &os.PathError{Op: "setxattr " + keptXattr, Path: from, Err: err}
	}
	y.kept = append(y.kept, path)
	return nil
}

// isKept says whether Yield has marked a file.
func isKept(path string) (bool, error) {
	_, err := unix.Lgetxattr(path, keptXattr, nil)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return false, nil
	}
	return false, &os.PathError{Op: "getxattr", Path: path, Err: err}
}
