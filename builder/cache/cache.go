// Package cache keeps what the stages of a build made, each under the hash of
// what it was made from, so that a second build redoes only what changed.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is the folder that holds finished outputs as STAGE/KEY/.
type Dir struct {
	Path string
	Log  func(format string, args ...any) // takes one progress line a call
}

// keep is how long an output stays that no build has used.
const keep = 30 * 24 * time.Hour

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
func (d Dir) Get(ctx context.Context, stage, key string, build func(tmp string) error) (string, error) {
	final := filepath.Join(d.Path, stage, key)
	if d.has(final) {
		return final, nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	unlock, err := Lock(ctx, final+".lock", d.Log)
	if err != nil {
		return "", fmt.Errorf("cache of the %s stage: %w", stage, err)
	}
	defer unlock()
	if d.has(final) { // made while we waited
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

// has reports whether there is the output, and marks it as used.
func (d Dir) has(path string) bool {
	_, err := os.Stat(path)
	if err != nil {
		return false
	}
	now := time.Now()
	os.Chtimes(path, now, now) // only Prune goes by it
	return true
}

// Prune removes the stage's outputs that no build has used for 30 days.
func (d Dir) Prune(stage string) error {
	dirs, err := os.ReadDir(filepath.Join(d.Path, stage))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune the cache: %w", err)
	}
	for _, e := range dirs {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < keep {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.Path, stage, e.Name())); err != nil {
			return fmt.Errorf("prune the cache: %w", err)
		}
	}
	return nil
}

// Lock makes other processes that want the same path wait until unlock. The
// file stays; a process that dies gives its locks back.
func Lock(ctx context.Context, path string, log func(string, ...any)) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			log("waiting for another build to leave %s", path)
		}
		select { // a flock that blocks does not heed the context
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
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
