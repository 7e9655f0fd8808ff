package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
)

// Restore puts back into dir, which is /data/gwe, the files that r has and dir
// lacks, and returns their names. A file that a broken disk or its repair has
// garbled is lacking, too; NAME.garbled keeps what was in it. What is there
// besides, whatever it is, is not changed, and no symbolic link is followed. One
// file that fails does not keep the others from coming back.
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
	if lost, err := isLost(root, name, data); err != nil || !lost {
		return false, err
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

// isLost says whether a file is missing, or is put aside because it is garbled
// where the record's is not.
func isLost(root *os.Root, name string, data []byte) (bool, error) {
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil || !info.Mode().IsRegular() || info.Size() > CopySize || Garbled(data):
		return false, err
	}
	f, err := root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	own, err := io.ReadAll(io.LimitReader(f, CopySize))
	if err != nil || !Garbled(own) {
		return false, err
	}
	return true, root.Rename(name, name+".garbled")
}

// Garbled says whether a text has zeros in it, as broken disks and their repair
// leave them and no person writes them. An empty file may be meant so: an empty
// network.yaml is.
func Garbled(text []byte) bool { return bytes.IndexByte(text, 0) >= 0 }

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
