package generation

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/layer"
)

// Tx is a change of generation. It is for one goroutine.
type Tx struct {
	s       *Store
	before  files
	next    Generation
	made    []Layer
	looked  map[string]*layer.Before // by the upper that is over a folder: how that was
	written bool
}

// Layer is the folder of a layer.
type Layer struct {
	Number int
	Dir    string
}

// Root is the upper of the overlay over the base with the layers Below that
// install.sh runs in. Those beside it, over /data/var, /data/log and /data/shared,
// have mode and owner of the folder that they are over.
func (l Layer) Root() string { return filepath.Join(l.Dir, layer.Root) }

// Scratch is for the unpacked tarball. It is gone after the commit, as is all else
// that is not known to package layer.
func (l Layer) Scratch() string { return filepath.Join(l.Dir, "scratch") }

// Begin begins a change. The lock is held until after Commit or Abort. It first
// finishes and collects what a power cut has left.
func (s *Store) Begin() (*Tx, error) {
	last := s.highestLayer()
	if err := s.Finish(); err != nil {
		s.log("%v", err)
	}
	if err := s.Collect(); err != nil {
		s.log("%v", err)
	}
	t, err := s.open()
	if err != nil {
		return nil, fmt.Errorf("begin a change of the apps: %w", err)
	}
	// Also a layer that a garbled generation had is not mistaken for a new one.
	t.next.Last = max(t.next.Last, last)
	return t, nil
}

// open is Begin without what a power cut may have left.
func (s *Store) open() (*Tx, error) {
	f, err := s.read()
	if err != nil {
		return nil, err
	}
	if f.problems != nil {
		s.log("%v", f.problems)
	}
	return &Tx{s: s, before: f, next: f.newest.clone()}, nil
}

// highestLayer is the number of a layer or an upper, 0 if there is none.
func (s *Store) highestLayer() (highest int) {
	for _, folder := range []string{appsFolder, rwFolder} {
		names, err := namesIn(s.path(folder))
		if err != nil {
			s.log("%v", err)
		}
		for _, name := range names {
			if n, ok := parseNumber(name); ok {
				highest = max(highest, n)
			}
		}
	}
	return highest
}

// Generation returns what it is as changed so far.
func (t *Tx) Generation() Generation { return t.next.clone() }

// Layer makes the folder of a new layer.
func (t *Tx) Layer() (Layer, error) {
	number := max(t.next.Last, t.s.highestLayer()) + 1
	l := t.s.Layer(number)
	if t.looked == nil { // before the first installer
		t.looked = map[string]*layer.Before{}
		for _, over := range lastings {
			if !over.keepExisting {
				t.looked[over.upper] = layer.Look(t.s.path(over.to))
			}
		}
	}
	if err := t.makeLayer(l); err != nil {
		return Layer{}, fmt.Errorf("make a layer: %w", err)
	}
	t.next.Last = number
	t.made = append(t.made, l)
	return l, nil
}

func (t *Tx) makeLayer(l Layer) error {
	d := t.s.changes()
	if err := d.MakeFolder(t.s.path(appsFolder), 0o755); err != nil {
		return err
	}
	mine := layer.Attributes{Mode: 0o755, UID: os.Geteuid(), GID: os.Getegid()}
	for _, dir := range []string{l.Dir, l.Root(), l.Scratch()} {
		if err := d.Mkdir(dir, mine); err != nil {
			return err
		}
	}
	for _, over := range lastings {
		a := mine
		if info, err := os.Lstat(t.s.path(over.to)); err == nil && info.IsDir() {
			a = layer.AttributesOf(info)
		}
		if err := d.Mkdir(filepath.Join(l.Dir, over.upper), a); err != nil {
			return err
		}
	}
	return nil
}

// Yield is called when the last installer has ended. It returns the files, by the paths
// that apps know, that programs have written since the first one began: these stay as
// they are.
func (t *Tx) Yield() (kept []string, err error) {
	for _, l := range t.made {
		for _, over := range lastings {
			if over.keepExisting {
				continue
			}
			files, err := layer.Yield(filepath.Join(l.Dir, over.upper), t.s.path(over.to), t.looked[over.upper])
			if err != nil {
				return nil, err
			}
			for _, file := range files {
				kept = append(kept, filepath.Join(over.seen, file))
			}
		}
	}
	slices.Sort(kept)
	return slices.Compact(kept), nil
}

// Made returns the layers that were made so far, the oldest first. What their
// installers have written to /var and so on is not merged yet: the next installer
// sees it if their uppers are below its own.
func (t *Tx) Made() []Layer { return slices.Clone(t.made) }

// Below returns the layers that an app's installer has below it: those of the
// other apps, the lowest first.
func (t *Tx) Below(app string) (layers []int) {
	for _, a := range t.next.Apps {
		if a.Layer != 0 && a.Name != app {
			layers = append(layers, a.Layer)
		}
	}
	return layers
}

// Install makes a the version of its app that counts: with a layer that was made
// in this change, or without one if nothing of it is to stay. What a.Since is, it
// knows.
func (t *Tx) Install(a App) error {
	isMade := func(number int) bool {
		return slices.ContainsFunc(t.made, func(l Layer) bool { return l.Number == number })
	}
	if a.Layer != 0 && !isMade(a.Layer) {
		return fmt.Errorf("install app %q: layer %d is none of this change", a.Name, a.Layer)
	}
	next := t.next.clone()
	old, _ := next.App(a.Name)
	a.Since = cmp.Or(old.Since, a.Layer)
	next.install(a, !isMade(old.Layer)) // one that was never committed is no previous version
	if n := next.layers(); n > MaxLayers {
		return fmt.Errorf("install app %q: there are %d apps already, which is the limit: uninstall one", a.Name, MaxLayers)
	}
	if err := next.check(); err != nil {
		return fmt.Errorf("install app %q: %w", a.Name, err)
	}
	t.next = next
	return nil
}

// Uninstall removes an app. Rollback brings it back, until the room is needed.
func (t *Tx) Uninstall(name string) error { return t.next.uninstall(name) }

// Rollback changes an app for the version that was there before, and the other
// way round.
func (t *Tx) Rollback(name string) error {
	next := t.next.clone()
	if err := next.rollback(name); err != nil {
		return err
	}
	if n := next.layers(); n > MaxLayers {
		return fmt.Errorf("roll back app %q: there are %d apps already, which is the limit: uninstall one", name, MaxLayers)
	}
	t.next = next
	return nil
}

// Handled notes that a baked-in app need not be installed any more. The newest
// 128 are known.
func (t *Tx) Handled(file string) {
	if len(file) > maxText { // no file has such a name
		return
	}
	same := func(f string) bool { return f == file }
	t.next.Handled = append(slices.DeleteFunc(t.next.Handled, same), file)
}

// Done notes the job that is done by this change. The newest 8 are known, with the
// last 8 KiB of their output.
func (t *Tx) Done(d Done) {
	d.Output = limited(d.Output)
	same := func(e Done) bool { return e.ID == d.ID }
	t.next.Done = append(slices.DeleteFunc(t.next.Done, same), d)
}

// Commit makes the change last. An error says that nothing is changed; what goes
// wrong after the commit is logged, and made up for at the next boot or Begin.
func (t *Tx) Commit() error {
	if t.written {
		return errors.New("commit a change of the apps: it is committed already")
	}
	if err := t.commit(); err != nil {
		return fmt.Errorf("commit a change of the apps: %w", err)
	}
	if err := t.s.Finish(); err != nil {
		t.s.log("%v", err)
	}
	if err := t.s.Collect(); err != nil {
		t.s.log("%v", err)
	}
	return nil
}

func (t *Tx) commit() error {
	d := t.s.changes()
	t.next.Merge = t.s.unmerged(t.before.newest)
	for _, l := range t.made {
		t.next.Merge = append(t.next.Merge, l.Number)
		names, err := namesIn(l.Dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if slices.Contains(layer.Names, name) {
				continue
			}
			if err := d.RemoveAll(filepath.Join(l.Dir, name)); err != nil {
				return err
			}
		}
	}
	if len(t.made) > 0 {
		if err := d.Sync(t.s.path(appsFolder)); err != nil {
			return err
		}
	}
	return t.write()
}

// write is the commit.
func (t *Tx) write() error {
	d := t.s.changes()
	t.next.Number = t.before.highest + 1
	if err := t.next.limit(); err != nil {
		return err
	}
	data, err := encode(t.next)
	if err != nil {
		return err
	}
	if err := d.MakeFolder(t.s.path(generationsFolder), 0o755); err != nil {
		return err
	}
	path := t.s.generationPath(t.next.Number)
	err = d.WriteFile(path, data, 0o644)
	if errors.Is(err, unix.ENOSPC) && t.before.second.Number != 0 {
		// On a full disk an app can be uninstalled all the same.
		if err := d.RemoveAll(t.s.generationPath(t.before.second.Number)); err != nil {
			return err
		}
		err = d.WriteFile(path, data, 0o644)
	}
	if err == nil {
		t.written = true
		return nil
	}
	// It may be there, and not be synced.
	if _, statErr := os.Lstat(path); !errors.Is(statErr, fs.ErrNotExist) {
		err = errors.Join(err, d.RemoveAll(path), d.SyncFolder(filepath.Dir(path)))
	}
	return err
}

// Abort leaves everything as it was. After a Commit that succeeded it does nothing.
func (t *Tx) Abort() {
	if t.written {
		return
	}
	t.written = true
	if err := t.s.Collect(); err != nil {
		t.s.log("%v", err)
	}
}
