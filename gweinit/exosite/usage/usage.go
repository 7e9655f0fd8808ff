// Package usage keeps what all programs of a gateway have exchanged with Exosite
// since it was switched on. Each is a process of its own that counts for itself;
// here this is added up.
package usage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/exosite"
)

// File is where a gateway has it: in memory, so that it begins anew with each
// boot.
const File = "/run/gwe/usage.json"

const (
	maxFile  = 4 << 20 // a report is smaller, by the limits that it has
	patience = time.Second
	pause    = 5 * time.Millisecond
)

// Add adds what a program has used, since it has added last, to the file at path,
// and returns the sum. The file and its folder (0755) are made if they are not
// there, and it begins anew if it is torn or garbled. An empty r is not written,
// so that it asks for the sum only.
//
// It waits for others that add for at most 1 s. If there is an error r has not
// been added: the caller may do it later.
func Add(path string, r exosite.Report) (exosite.Report, error) {
	sum, err := add(path, r)
	if err != nil {
		return nil, fmt.Errorf("add to the usage in %s: %w", path, err)
	}
	return sum, nil
}

func add(path string, r exosite.Report) (exosite.Report, error) {
	if len(r) == 0 { // others only rename
		return read(path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// It is not for others to open: they could hold it for ever.
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // which unlocks
	if err := wait(lock); err != nil {
		return nil, err
	}
	sum, err := read(path)
	if err != nil {
		return nil, err
	}
	sum = sum.Add(r)
	data, err := json.Marshal(sum)
	if err != nil {
		return nil, err
	}
	beside := path + ".new"
	if err := os.WriteFile(beside, append(data, '\n'), 0o644); err != nil {
		return nil, err
	}
	return sum, os.Rename(beside, path)
}

// wait waits until nobody else has locked the file.
func wait(lock *os.File) error {
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return fmt.Errorf("lock %s (flock): %w", lock.Name(), err)
		case time.Now().After(end):
			return fmt.Errorf("%s has been locked by another process for %v: try again later", lock.Name(), patience)
		}
	}
}

// read returns an empty report if there is no file, or none that makes sense.
func read(path string) (exosite.Report, error) {
	data, err := durable.ReadFile(path, maxFile)
	var failed *fs.PathError // of the system
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return exosite.Report{}, nil
	case errors.As(err, &failed):
		return nil, err
	}
	var sum exosite.Report
	if err != nil || json.Unmarshal(data, &sum) != nil || sum == nil {
		return exosite.Report{}, nil
	}
	return sum, nil
}
