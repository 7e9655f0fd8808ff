package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Yield takes out of an upper, before it is merged, the files that were changed since
// then where the upper is over, and are others now: "chown -R" has copied them, and a
// program has gone on. They get mode and owner as in the upper, and stay; kept is
// called with the path of each below the folder. What is taken out may come back by a
// power cut before the next Sync; another Yield is right then. A folder that an
// installer has removed and made anew is its own.
func Yield(d Disk, upper, to string, since time.Time, kept func(path string)) error {
	if err := yield(d, upper, to, since, kept); err != nil {
		return fmt.Errorf("compare %s with %s: %w", upper, to, err)
	}
	return nil
}

func yield(d Disk, upper, to string, since time.Time, kept func(path string)) error {
	if info, err := lstat(upper); err != nil || info == nil {
		return err
	}
	there, err := lstat(to)
	if err != nil || there == nil {
		return err
	}
	if !there.IsDir() {
		return fmt.Errorf("%s is no folder", to)
	}
	y := &yielder{disk: d, upper: upper, to: to, since: since, kept: kept}
	return y.folder("")
}

// yielder is one Yield.
type yielder struct {
	disk      Disk
	upper, to string
	since     time.Time
	kept      func(path string)
	compare   comparer
}

func (y *yielder) folder(path string) error {
	names, err := namesIn(filepath.Join(y.upper, path))
	errs := []error{err}
	for _, name := range names {
		if len(errs) > maxErrors {
			break
		}
		if err := y.entry(filepath.Join(path, name)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (y *yielder) entry(path string) error {
	from, to := filepath.Join(y.upper, path), filepath.Join(y.to, path)
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	there, err := lstat(to)
	if err != nil || there == nil {
		return err
	}
	if info.IsDir() && there.IsDir() {
		if opaque, err := isOpaque(from); err != nil || opaque {
			return err
		}
		return y.folder(path)
	}
	if !info.Mode().IsRegular() || !there.Mode().IsRegular() {
		return nil
	}
	changed, err := y.disk.Changed(to)
	// A time to come is of a clock that went back with the power: it says nothing.
	if err != nil || !changed.After(y.since) || changed.After(time.Now()) || y.compare.same(from, to) {
		return err
	}
	if AttributesOf(info) != AttributesOf(there) {
		if err := y.disk.Set(to, AttributesOf(info)); err != nil {
			return err
		}
		// Before what they are copied from goes.
		if err := y.disk.SyncFolder(filepath.Dir(to)); err != nil {
			return err
		}
	}
	if err := y.disk.Remove(from); err != nil {
		return err
	}
	y.kept(path)
	return nil
}

// comparer compares what two files have. The zero value can be used.
type comparer struct{ a, b []byte } // for all files

// same says whether two things of a path are the same but for mode and owner, so that
// who has one of them open need not lose it. What cannot be read is not.
func (c *comparer) same(a, b string) bool {
	infoA, errA := os.Lstat(a)
	infoB, errB := os.Lstat(b)
	if errA != nil || errB != nil || infoA.Mode().Type() != infoB.Mode().Type() {
		return false
	}
	switch infoA.Mode().Type() {
	case 0:
		return infoA.Size() == infoB.Size() && c.sameContent(a, b)
	case os.ModeNamedPipe, os.ModeSocket:
		return true
	}
	return false
}

func (c *comparer) sameContent(a, b string) bool {
	fileA, err := os.Open(a)
	if err != nil {
		return false
	}
	defer fileA.Close()
	fileB, err := os.Open(b)
	if err != nil {
		return false
	}
	defer fileB.Close()
	if c.a == nil {
		c.a, c.b = make([]byte, 32<<10), make([]byte, 32<<10)
	}
	for {
		n, errA := io.ReadFull(fileA, c.a)
		m, errB := io.ReadFull(fileB, c.b)
		if !bytes.Equal(c.a[:n], c.b[:m]) || errA != errB {
			return false
		}
		if errA == io.EOF || errA == io.ErrUnexpectedEOF {
			return true
		}
		if errA != nil {
			return false
		}
	}
}
