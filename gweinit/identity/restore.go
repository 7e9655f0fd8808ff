package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
)

// Restore puts back into dir, which is /data/gwe, the files that r has and dir
// lacks, and returns their names. What is there already, whatever it is, is not
// changed, and no symbolic link is followed. One file that fails does not keep
// the others from coming back.
//
// It is for PID 1 before it starts any program: nobody else writes to dir.
func Restore(r Record, dir string) (restored []string, err error) {
	if info, err := os.Lstat(dir); err != nil {
		return nil, fmt.Errorf("restore the identity: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("restore the identity: %s is no folder", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("restore the identity: %w", err)
	}
	defer root.Close()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		put, err := restore(root, name, r.Files[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("restore %s in %s: %w", name, dir, err))
		} else if put {
			restored = append(restored, name)
		}
	}
	return restored, errors.Join(errs...)
}

// restore writes one file, if it is not there, so that it is there as a whole
// or not at all.
func restore(root *os.Root, name string, data []byte) (put bool, err error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	folder := path.Dir(name)
	if folder != "." {
		if err := makeFolder(root, folder); err != nil {
			return false, err
		}
	}
	if _, err := root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return false, err // nil: it is there
	}
	beside := path.Join(folder, "."+path.Base(name)+".restore")
	if err := root.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a boot that was cut short
		return false, err
	}
	if err := writeFile(root, beside, data); err != nil {
		root.Remove(beside)
		return false, err
	}
	if err := root.Rename(beside, name); err != nil {
		root.Remove(beside)
		return false, err
	}
	return true, syncFolder(root, folder)
}

func makeFolder(root *os.Root, name string) error {
	switch info, err := root.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		if err := root.Mkdir(name, 0o700); err != nil {
			return err
		}
		return syncFolder(root, ".")
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is no folder", name)
	}
	return nil
}

func writeFile(root *os.Root, name string, data []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

func syncFolder(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
