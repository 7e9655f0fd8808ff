// Package durable writes small files so that a power cut at any moment leaves
// the one from before or the new one.
package durable

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// WriteFile makes data the content of the file at path, durably: it is written
// beside, synced and renamed, and the folder is synced. Only one goroutine of
// one process may write a path at a time. The error names the path.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	if err := writeFile(path, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeFile(path string, data []byte, mode os.FileMode) error {
	beside := besideOf(path)
	// One that a power cut left may have another mode or owner, or be a link.
	if err := os.Remove(beside); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer os.Remove(beside) // unless it was renamed
	defer f.Close()
	if err := f.Chmod(mode); err != nil { // whatever the umask says
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// besideOf is where the new content of a file is written.
func besideOf(path string) string {
	dir, name := filepath.Split(path)
	return filepath.Join(dir, "."+name+".new")
}

// Tidy removes what a power cut in WriteFile has left beside path, for who finds
// that path is as it should be. The removal need not be durable.
func Tidy(path string) error {
	if err := os.Remove(besideOf(path)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// ReadFile reads a regular file that has at most max bytes: a device or a pipe
// in its place could keep the reader for ever. The error wraps fs.ErrNotExist
// if there is no file.
func ReadFile(path string, max int64) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("%s has more than %d bytes", path, max)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// MakeFolder makes a folder, and those above it that are missing, durably.
func MakeFolder(path string, mode os.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(path)
	if above != path {
		if err := MakeFolder(above, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil {
		// Another process may have made it since, and not be done with it.
		if info, statErr := os.Stat(path); statErr != nil || !info.IsDir() {
			return err
		}
	}
	return SyncFolder(above)
}

// Remove removes a file durably. One that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// SyncFolder makes what was renamed or removed in a folder durable.
func SyncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
