package generation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Collect removes what is not needed any more: files of old generations, and the
// layers and runtime files that neither the newest generation, nor the one before
// it as far as it has apps, nor a mounted overlay uses. The lock is held.
func (s *Store) Collect() error {
	if err := s.collect(); err != nil {
		return fmt.Errorf("remove what no app needs any more: %w", err)
	}
	return nil
}

func (s *Store) collect() error {
	f, err := s.read()
	if err != nil { // then it is not known what is needed
		return err
	}
	used, err := s.used()
	if err != nil {
		return err
	}
	if err := s.removeGenerations(f); err != nil {
		return err
	}
	for _, apps := range [][]App{f.newest.Apps, f.newest.Previous, f.second.Apps} {
		for _, a := range apps {
			used.layers[a.Layer], used.names[a.Name] = true, true
		}
	}
	for _, n := range s.unmerged(f.newest) {
		used.layers[n] = true
	}
	errs := []error{s.removeAll(appsFolder, func(name string) bool {
		n, ok := parseNumber(name)
		return ok && !used.layers[n]
	})}
	errs = append(errs, s.removeAll(rwFolder, func(name string) bool { return !used.names[name] }))
	return errors.Join(errs...)
}

// removeGenerations removes all files but those of f, and the newest
// garbled one, which may tell somebody something.
func (s *Store) removeGenerations(f files) error {
	dir := s.path(generationsFolder)
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	keep := map[string]bool{
		strconv.Itoa(f.newest.Number) + suffix: true,
		strconv.Itoa(f.second.Number) + suffix: true,
		newestGarbled(names):                   true,
	}
	for _, name := range names {
		if keep[name] {
			continue
		}
		if err := s.changes().RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func newestGarbled(names []string) (newest string) {
	highest := 0
	for _, name := range names {
		number, ok := strings.CutSuffix(name, suffix+garbled)
		if n, valid := parseNumber(number); ok && valid && n > highest {
			highest, newest = n, name
		}
	}
	return newest
}

// removeAll removes what is in a folder and not wanted, whatever cannot be removed.
func (s *Store) removeAll(folder string, unwanted func(name string) bool) error {
	names, err := namesIn(s.path(folder))
	errs := []error{err}
	for _, name := range names {
		if unwanted(name) {
			errs = append(errs, s.changes().RemoveAll(s.path(folder, name)))
		}
	}
	return errors.Join(errs...)
}

// reserve is what the gateway itself has to have free of /data, in bytes: for
// logs, the queue of GMQ, and generations.
const reserve = 4 << 20

// MakeRoom sees to it that need bytes can be written to /data, and 4 MiB stay
// free for the gateway itself. For that it forgets what apps could be rolled back
// to, the oldest first, but not if even all of that is not enough. The error says
// how much is needed, and free. The lock is held, and no Tx is open.
func (s *Store) MakeRoom(need int64) error {
	lack := func() (int64, error) {
		free, err := s.freeBytes()
		return need + reserve - free, err
	}
	if n, err := lack(); err != nil || n <= 0 {
		return err
	}
	if err := s.Collect(); err != nil {
		s.log("%v", err)
	}
	missing, err := lack()
	if err != nil || missing <= 0 {
		return err
	}
	f, err := s.read()
	if err != nil {
		return err
	}
	old, sizes, err := s.forgettable(f.newest)
	if err != nil {
		return err
	}
	if sizes < missing {
		return noRoom(need, missing)
	}
	for _, a := range old {
		s.log("app %s cannot be rolled back to version %s any more: the room is needed", a.Name, a.Version)
		if err := s.forget(a); err != nil {
			return err
		}
		if missing, err = lack(); err != nil || missing <= 0 {
			return err
		}
	}
	return noRoom(need, missing)
}

func noRoom(need, missing int64) error {
	const mb = 1e6
	all := need + reserve
	return fmt.Errorf("it needs %d MB of /data, %d MB are free", (all+mb-1)/mb, (all-missing)/mb)
}

// forgettable returns the previous versions that take up room, and how much that
// is together, in bytes.
func (s *Store) forgettable(g Generation) (apps []App, sizes int64, err error) {
	used, err := s.used()
	if err != nil {
		return nil, 0, err
	}
	for _, a := range g.Previous {
		if used.layers[a.Layer] {
			continue // a program of it has not ended
		}
		apps = append(apps, a)
		sizes += size(s.layerPath(a.Layer))
		if _, ok := g.App(a.Name); !ok && !used.names[a.Name] {
			sizes += size(s.path(rwFolder, a.Name))
		}
	}
	return apps, sizes, nil
}

// forget makes a generation without a previous version, and collects that.
func (s *Store) forget(a App) error {
	t, err := s.open()
	if err != nil {
		return err
	}
	t.next.Previous = without(t.next.Previous, a.Name)
	if err := t.write(); err != nil {
		return err
	}
	return s.Collect()
}

// size is what a tree takes up on the disk, in bytes. What cannot be read counts
// as nothing.
func size(path string) (bytes int64) {
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return bytes
}

// freeBytes is what can be written to /data.
func (s *Store) freeBytes() (int64, error) {
	if s.free != nil {
		return s.free()
	}
	path := s.path("data")
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
