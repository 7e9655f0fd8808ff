package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// merged is put behind the name of an upper that was merged, and has to go.
const merged = ".merged"

// Merge moves what is in the upper of an overlay into the folder it was over, and
// removes the upper. It does so by renames, each of which can be done once only, so
// that after a power cut another Merge goes on. If there is no upper it was merged
// before. A file that has the same in both, or that Yield has marked, only gets mode
// and owner: programs may have it open. With keepExisting, for logs, what is in the folder stays, and is not
// even removed. Where the folder has a link, or a file, and the upper a folder, the
// upper's takes its place: no link is followed. What cannot be merged is an error
// and stays in the upper for another Merge, and the rest is merged.
func Merge(d Disk, upper, to string, keepExisting bool) error {
	if err := merge(d, upper, to, keepExisting); err != nil {
		return fmt.Errorf("merge %s into %s: %w", upper, to, err)
	}
	return nil
}

func merge(d Disk, upper, to string, keepExisting bool) error {
	if info, err := lstat(upper + merged); err != nil {
		return err
	} else if info != nil {
		if err := d.RemoveAll(upper + merged); err != nil {
			return err
		}
	}
	info, err := lstat(upper)
	if err != nil || info == nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("the upper is no folder")
	}
	if there, err := lstat(to); err != nil {
		return err
	} else if there == nil {
		err = d.MakeFolder(to, info.Mode().Perm())
		if err != nil {
			return err
		}
	} else if !there.IsDir() {
		return fmt.Errorf("%s is no folder", to)
	}
	m := &merger{disk: d, keepExisting: keepExisting}
	m.folder(upper, to, info)
	if m.changed {
		// The upper is what a Merge after a power cut goes by.
		if err := d.Sync(to); err != nil {
			m.failed(err)
			return errors.Join(m.errs...)
		}
	}
	if len(m.errs) > 0 {
		m.tidy(upper, to)
		if err := d.Sync(upper); err != nil {
			m.failed(err)
		}
		return errors.Join(m.errs...)
	}
	// In one step: what is left of an upper would be merged again, and its
	// whiteouts would remove what has been written since.
	if err := d.Rename(upper, upper+merged); err != nil {
		return err
	}
	if err := d.SyncFolder(filepath.Dir(upper)); err != nil {
		return err
	}
	return d.RemoveAll(upper + merged)
}

// merger is one Merge.
type merger struct {
	disk         Disk
	keepExisting bool
	changed      bool
	compare      comparer
	errs         []error // the first ones
}

const maxErrors = 5

func (m *merger) failed(err error) {
	if len(m.errs) < maxErrors {
		m.errs = append(m.errs, err)
	}
}

// folder merges a folder into one that is there.
func (m *merger) folder(from, to string, info os.FileInfo) {
	names, err := namesIn(from)
	if err != nil {
		m.failed(err)
	}
	for _, name := range names {
		if err := m.entry(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			m.failed(err)
		}
	}
	there, err := os.Lstat(to)
	if err == nil && !m.keepExisting {
		err = m.attributes(to, there, info)
	}
	if err != nil {
		m.failed(err)
	}
}

// tidy removes from a folder of an upper that stays what is merged, but is still in
// there: another Merge, maybe days later, must not remove or replace what programs
// have made since.
func (m *merger) tidy(from, to string) {
	names, err := namesIn(from)
	if err != nil {
		m.failed(err)
	}
	for _, name := range names {
		if err := m.tidyEntry(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			m.failed(err)
		}
	}
}

func (m *merger) tidyEntry(from, to string) error {
	info, there, err := both(from, to)
	if err != nil {
		return err
	}
	switch {
	case isWhiteout(info):
		if there == nil || m.keepExisting {
			return m.disk.Remove(from)
		}
	case there == nil:
	case info.IsDir() && there.IsDir():
		opaque, err := isOpaque(from)
		if err != nil {
			return err
		}
		if !opaque || m.keepExisting {
			m.tidy(from, to)
		}
	case info.IsDir():
	case m.keepExisting:
		return m.disk.Remove(from)
	case AttributesOf(info) == AttributesOf(there):
		if stays, err := m.stays(from, to); err != nil || !stays {
			return err
		}
		return m.disk.Remove(from)
	}
	return nil
}

// stays says whether a file is to stay as it is, but for mode and owner: it is the
// same, or a program has written it meanwhile.
func (m *merger) stays(from, to string) (bool, error) {
	if m.compare.same(from, to) {
		return true, nil
	}
	return isKept(from)
}

func (m *merger) entry(from, to string) error {
	info, there, err := both(from, to)
	if err != nil {
		return err
	}
	switch {
	case isWhiteout(info):
		if there == nil || m.keepExisting {
			return nil
		}
		m.changed = true
		return m.disk.RemoveAll(to)
	case there == nil:
		return m.move(from, to, info)
	case info.IsDir() && there.IsDir():
		opaque, err := isOpaque(from)
		if err != nil {
			return err
		}
		if opaque && !m.keepExisting {
			return m.replace(from, to, info)
		}
		m.folder(from, to, info)
		return nil
	case m.keepExisting:
		return nil
	case info.IsDir() || there.IsDir():
		return m.replace(from, to, info)
	}
	if stays, err := m.stays(from, to); err != nil {
		return err
	} else if stays {
		return m.attributes(to, there, info)
	}
	return m.move(from, to, info) // over it
}

// attributes gives what is there the mode and owner of what it is merged with.
func (m *merger) attributes(to string, there, info os.FileInfo) error {
	if AttributesOf(there) == AttributesOf(info) {
		return nil
	}
	m.changed = true
	return m.disk.Set(to, AttributesOf(info))
}

// replace moves something in the place of what is there.
func (m *merger) replace(from, to string, info os.FileInfo) error {
	m.changed = true
	if err := m.disk.RemoveAll(to); err != nil {
		return err
	}
	// Before the folder loses the mark that it replaces what is there.
	if err := m.disk.SyncFolder(filepath.Dir(to)); err != nil {
		return err
	}
	return m.move(from, to, info)
}

// move renames something that is overlayfs's no more.
func (m *merger) move(from, to string, info os.FileInfo) error {
	m.changed = true
	if err := m.strip(from, info); err != nil {
		return err
	}
	return m.disk.Rename(from, to)
}

// strip removes overlayfs's marks, and those of Yield, from a tree.
func (m *merger) strip(path string, info os.FileInfo) error {
	marks, err := marksOf(path)
	if err != nil {
		return err
	}
	for _, name := range marks {
		if err := m.disk.RemoveXattr(path, name); err != nil {
			return err
		}
	}
	if !info.IsDir() {
		return nil
	}
	names, err := namesIn(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(path, name)
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if isWhiteout(info) {
			err = m.disk.Remove(path)
		} else {
			err = m.strip(path, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// marksOf returns the names of the extended attributes that are such marks.
func marksOf(path string) ([]string, error) {
	buf := make([]byte, 1024)
	for {
		n, err := unix.Llistxattr(path, buf)
		switch {
		case err == unix.ENOTSUP:
			return nil, nil
		case err == unix.ERANGE:
			buf = make([]byte, 2*len(buf)) // the kernel has at most 64 KiB
			continue
		case err != nil:
			return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
		}
		var names []string
		for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
			if strings.HasPrefix(name, overlayXattr) || name == keptXattr {
				names = append(names, name)
			}
		}
		return names, nil
	}
}
