package generation

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/view"
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
			used.layers[a.Layer], used.uppers[a.Since] = true, true
		}
	}
	for _, n := range s.unmerged(f.newest) {
		used.layers[n] = true
	}
	without := func(used map[int]bool) func(string) bool {
		return func(name string) bool {
			n, ok := parseNumber(name)
			return ok && !used[n]
		}
	}
	errs := []error{s.removeAll(appsFolder, without(used.layers)), s.removeAll(rwFolder, without(used.uppers))}
	uppers, err := namesIn(s.path(rwFolder))
	errs = append(errs, err)
	for _, name := range uppers {
		// What was put aside when a layer was replaced is for going back to that.
		errs = append(errs, s.removeAll(filepath.Join(rwFolder, name, view.Aside), without(used.layers)))
	}
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

// room is what a file system can take up.
type room struct{ bytes, inodes int64 }

func (r room) plus(s room) room  { return room{r.bytes + s.bytes, r.inodes + s.inodes} }
func (r room) minus(s room) room { return room{r.bytes - s.bytes, r.inodes - s.inodes} }

// within says whether there is as much of both in s.
func (r room) within(s room) bool { return r.bytes <= s.bytes && r.inodes <= s.inodes }

// reserve is what the gateway itself has to have free of /data: for logs, the
// queue of GMQ, and generations.
var reserve = room{4 << 20, 1000}

// MakeRoom sees to it that so many bytes, and inodes for files and folders, can be
// written to /data, and 4 MiB and 1000 inodes stay free for the gateway itself. For
// that it forgets what apps could be rolled back to, the oldest first, but not that
// of the apps in keep, and nothing if even all of that is not enough. The error says
// how much is needed, and free. The lock is held, and no Tx is open.
func (s *Store) MakeRoom(bytes, inodes int64, keep ...string) error {
	need := room{bytes, inodes}.plus(reserve)
	enough := func() (bool, error) {
		free, err := s.freeRoom()
		return need.within(free), err
	}
	if ok, err := enough(); err != nil || ok {
		return err
	}
	if err := s.Collect(); err != nil {
		s.log("%v", err)
	}
	free, err := s.freeRoom()
	if err != nil || need.within(free) {
		return err
	}
	f, err := s.read()
	if err != nil {
		return err
	}
	old, sizes, err := s.forgettable(f.newest, keep)
	if err != nil {
		return err
	}
	if !need.within(free.plus(sizes)) {
		return noRoom(need, free)
	}
	for _, a := range old {
		s.log("app %s cannot be rolled back to version %s any more: the room is needed", a.Name, a.Version)
		if err := s.forget(a); err != nil {
			return err
		}
		if ok, err := enough(); err != nil || ok {
			return err
		}
	}
	if free, err = s.freeRoom(); err != nil {
		return err
	}
	return noRoom(need, free)
}

func noRoom(need, free room) error {
	if need.bytes <= free.bytes {
		return fmt.Errorf("it needs %d inodes of /data, for files and folders, and %d are free", need.inodes, free.inodes)
	}
	const mb = 1e6
	return fmt.Errorf("it needs %d MB of /data, %d MB are free", (need.bytes+mb-1)/mb, free.bytes/mb)
}

// forgettable returns the previous versions that take up room, but those of the
// apps in keep, and how much that is together.
func (s *Store) forgettable(g Generation, keep []string) (apps []App, sizes room, err error) {
	used, err := s.used()
	if err != nil {
		return nil, room{}, err
	}
	for _, a := range g.Apps {
		used.uppers[a.Since] = true
	}
	for _, a := range g.Previous {
		if slices.Contains(keep, a.Name) {
			used.uppers[a.Since] = true
			continue
		}
		if used.layers[a.Layer] {
			continue // a program of it has not ended
		}
		apps = append(apps, a)
		sizes = sizes.plus(size(s.layerPath(a.Layer)))
		if !used.uppers[a.Since] {
			sizes = sizes.plus(size(s.Upper(a)))
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

// size is what a tree takes up on the disk. What cannot be read counts as nothing.
func size(path string) (r room) {
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			r = r.plus(room{info.Sys().(*syscall.Stat_t).Blocks * 512, 1})
		}
		return nil
	})
	return r
}

// freeRoom is what can be written to /data.
func (s *Store) freeRoom() (room, error) {
	if s.free != nil {
		return s.free()
	}
	path := s.path("data")
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return room{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	free := room{int64(st.Bavail) * int64(st.Bsize), int64(st.Ffree)}
	if st.Files == 0 { // it makes inodes as they are needed
		free.inodes = math.MaxInt64 / 2
	}
	return free, nil
}
