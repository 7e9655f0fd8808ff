// Package cache keeps what the stages of a build made, each under the hash of
// what it was made from, so that a second build redoes only what changed.
package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir is the folder that holds finished outputs as STAGE/KEY/.
type Dir string

// Key hashes the parts that an output is made from, in order.
func Key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p))) // so that "a","b" is not "ab"
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// Get returns the folder of the output of stage under key. When there is
// none, build makes it in the empty folder tmp; only a finished one gets the
// final name. Builds of the same output in several processes wait for each
// other.
func (d Dir) Get(stage, key string, build func(tmp string) error) (string, error) {
	final := filepath.Join(string(d), stage, key)
	if exists(final) {
		return final, nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	unlock, err := Lock(final + ".lock")
	if err != nil {
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	defer unlock()
	if exists(final) { // made while we waited
		return final, nil
	}
	tmp := final + ".tmp"
	if err := os.RemoveAll(tmp); err != nil { // of a build that was interrupted
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	if err := build(tmp); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	if err := syncTree(tmp); err != nil {
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	return final, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Lock makes other processes that want the same path wait until unlock. The
// file stays; a process that dies gives its locks back.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// syncTree makes the output durable before it gets its name: a key is
// believed for ever.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &fs.PathError{Op: "sync", Path: dir, Err: err}
	}
	return nil
}
