package generation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/layer"
	"github.com/exosite/gwe/gweinit/durable"
)

// Folders below the root.
const (
	generationsFolder = "data/generations"
	appsFolder        = "data/apps"
	rwFolder          = "data/apps/rw"
	lockFile          = "run/gwe/apps.lock"

	suffix  = ".json"
	garbled = ".garbled"
)

// Store is the apps of a gateway.
type Store struct {
	Root string // "": that of the gateway
	// Log is called with what went wrong and did not stop anything; nil: nobody
	// wants to know.
	Log func(format string, args ...any)

	// Tests have others.
	disk   layer.Disk
	mounts func() (string, error) // mountinfo(5)
	free   func() (room, error)   // of /data
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.Root, "/"}, elem...)...)
}

func (s *Store) layerPath(number int) string { return s.path(appsFolder, strconv.Itoa(number)) }

// Upper is the folder with what the programs of an app have written: that of a
// view.Upper.
func (s *Store) Upper(a App) string { return s.path(rwFolder, strconv.Itoa(a.Since)) }

func (s *Store) log(format string, args ...any) {
	if s.Log != nil {
		s.Log(format, args...)
	}
}

func (s *Store) changes() layer.Disk {
	if s.disk != nil {
		return s.disk
	}
	return layer.OS{}
}

// files are the generations on the disk.
type files struct {
	newest, second Generation // Number 0: none
	highest        int        // number of any file, also a garbled one
	problems       error      // for a report
}

// ErrUnknown is wrapped in the error of Current if it cannot tell: the disk failed,
// or there was no memory. That says nothing about the apps, which go on.
var ErrUnknown = errors.New("which apps are installed cannot be read")

// Current returns the newest valid generation. But for ErrUnknown, with which it
// returns none, it is usable also with an error, which is for a report: a garbled
// file, which was put aside, or an app whose layer is gone, which is left out.
func (s *Store) Current() (Generation, error) {
	f, err := s.read()
	if err != nil && f.newest.Number == 0 {
		return Generation{}, fmt.Errorf("%w: %w", ErrUnknown, errors.Join(f.problems, err))
	}
	return f.newest, errors.Join(f.problems, err)
}

// read reads the generations. An error says that they are not known for sure.
func (s *Store) read() (f files, err error) {
	for range 5 {
		f, err = s.readOnce()
		if !errors.Is(err, errGone) {
			break
		}
	}
	return f, err
}

// errGone says that a file was removed by who commits meanwhile.
var errGone = errors.New("it was removed meanwhile")

func (s *Store) readOnce() (f files, err error) {
	numbers, highest, err := s.numbers()
	f.highest = highest
	if err != nil {
		return f, err
	}
	var problems []error
	for _, n := range numbers {
		g, err := s.readFile(n)
		switch {
		case errors.As(err, new(garbledError)):
			problems = append(problems, err)
			if err := os.Rename(s.generationPath(n), s.generationPath(n)+garbled); err != nil && !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, err)
			}
		case err != nil:
			return f, fmt.Errorf("read generation %d: %w", n, err)
		case f.newest.Number == 0:
			missing := s.dropMissing(&g)
			f.newest, problems = g, append(problems, missing)
		case f.second.Number == 0:
			f.second = g
		}
	}
	f.problems = errors.Join(problems...)
	return f, nil
}

// numbers returns those of the files, the newest first.
func (s *Store) numbers() (numbers []int, highest int, err error) {
	names, err := namesIn(s.path(generationsFolder))
	for _, name := range names {
		base, aside := strings.CutSuffix(name, garbled)
		number, ok := strings.CutSuffix(base, suffix)
		n, valid := parseNumber(number)
		if !ok || !valid {
			continue
		}
		highest = max(highest, n)
		if !aside {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, highest, err
}

// parseNumber takes a number of a generation or a layer as we write it.
func parseNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n > 0 && n < 1<<30 && strconv.Itoa(n) == s
}

func (s *Store) generationPath(number int) string {
	return s.path(generationsFolder, strconv.Itoa(number)+suffix)
}

// garbledError says that a file was read, and is no generation.
type garbledError struct{ error }

func (s *Store) readFile(number int) (Generation, error) {
	path := s.generationPath(number)
	data, err := durable.ReadFile(path, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Generation{}, errGone
	case errors.As(err, new(*fs.PathError)): // the disk fails
		return Generation{}, err
	case err == nil:
		var g Generation
		if g, err = decode(data, number); err == nil {
			return g, nil
		}
	}
	return Generation{}, garbledError{fmt.Errorf("%s is garbled, the generation before it counts: %w", path, err)}
}

// dropMissing leaves out the apps whose layer is not there.
func (s *Store) dropMissing(g *Generation) error {
	var missing []error
	gone := func(a App) bool {
		_, err := os.Lstat(filepath.Join(s.layerPath(a.Layer), layer.Root))
		return a.Layer != 0 && errors.Is(err, fs.ErrNotExist)
	}
	g.Apps = slices.DeleteFunc(g.Apps, func(a App) bool {
		if !gone(a) {
			return false
		}
		missing = append(missing, fmt.Errorf("app %s version %s is not there any more: it has no layer %d", a.Name, a.Version, a.Layer))
		return true
	})
	g.Previous = slices.DeleteFunc(g.Previous, gone) // there was no room, or it is said above
	return errors.Join(missing...)
}

// Lock waits until nobody else changes apps. waiting is called if that takes time.
// The lock ends with the process, if not before.
func (s *Store) Lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	unlock, err = s.lock(ctx, waiting)
	if err != nil {
		return nil, fmt.Errorf("lock the apps by %s: %w", s.path(lockFile), err)
	}
	return unlock, nil
}

func (s *Store) lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	path := s.path(lockFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { // in memory
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// lasting is an upper of a layer that Finish merges, where to, and as what apps see
// that.
type lasting struct {
	upper, to, seen string
	keepExisting    bool
}

// lastings are all. Logs that are there are being written.
var lastings = [...]lasting{
	{layer.Var, "data/var", "/var", false},
	{layer.Log, "data/log", "/var/log", true},
	{layer.Data, "data/shared", "/data", false},
}

// began is a file of a layer that was made before its installer ran. When that was
// tells what programs have written since. It is there until Finish knows that.
const began = "began"

// Finish merges what installers have written to /var, /var/log and /data. Commit
// calls it, and PID 1 does at boot, before it starts a program: the power may
// have gone in between. The lock is held. What cannot be merged is an error, and
// tried again by the next one.
func (s *Store) Finish() error {
	f, err := s.read()
	if err != nil {
		return err
	}
	return s.finish(f.newest)
}

func (s *Store) finish(g Generation) error {
	failed, err := s.yield(g)
	errs := []error{err}
	for _, n := range g.Merge {
		for _, l := range lastings {
			upper := filepath.Join(s.layerPath(n), l.upper)
			if !failed[upper] {
				errs = append(errs, layer.Merge(s.changes(), upper, s.path(l.to), l.keepExisting))
			}
		}
	}
	return errors.Join(errs...)
}

// maxTold is how many files are named of which an installer's change is not taken.
const maxTold = 10

// yield takes out of the uppers of a generation what programs have written since the
// installers began, and returns the uppers with which that failed. It does so for all
// layers before the first one is merged, since a merge cannot be told from what
// programs do, and notes that it is done by removing began.
func (s *Store) yield(g Generation) (failed map[string]bool, err error) {
	begun, since, err := s.begun(g)
	errs := []error{err}
	failed = map[string]bool{}
	told := 0
	for _, n := range begun {
		for _, l := range lastings {
			if l.keepExisting {
				continue
			}
			upper := filepath.Join(s.layerPath(n), l.upper)
			err := layer.Yield(s.changes(), upper, s.path(l.to), since, func(file string) {
				if told++; told <= maxTold {
					s.log("%s was written by a program during the install; the installer's change is not taken", filepath.Join(l.seen, file))
				}
			})
			failed[upper] = err != nil
			errs = append(errs, err)
		}
	}
	if told > maxTold {
		s.log("%d more files were written by programs during the install", told-maxTold)
	}
	if told > 0 {
		// A power cut must not bring back what was taken out, but not began.
		if err := s.changes().Sync(s.path(appsFolder)); err != nil {
			return s.uppers(begun), errors.Join(append(errs, err)...)
		}
	}
	for _, n := range begun {
		if slices.ContainsFunc(lastings[:], func(l lasting) bool { return failed[filepath.Join(s.layerPath(n), l.upper)] }) {
			continue
		}
		err := s.changes().Remove(filepath.Join(s.layerPath(n), began))
		if err == nil {
			err = s.changes().SyncFolder(s.layerPath(n))
		}
		if err != nil {
			return s.uppers(begun), errors.Join(append(errs, err)...)
		}
	}
	return failed, errors.Join(errs...)
}

// uppers are all of some layers.
func (s *Store) uppers(layers []int) map[string]bool {
	all := map[string]bool{}
	for _, n := range layers {
		for _, l := range lastings {
			all[filepath.Join(s.layerPath(n), l.upper)] = true
		}
	}
	return all
}

// begun returns the layers for which yield is to be done, and since when programs may
// have written: an installer sees what the ones before it in its change have written.
func (s *Store) begun(g Generation) (layers []int, since time.Time, err error) {
	var errs []error
	for _, n := range g.Merge {
		t, err := s.began(n)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is done, or an older firmware has made the layer
			continue
		case err != nil: // any file may have been written since
			errs = append(errs, err)
		}
		if len(layers) == 0 || t.Before(since) {
			since = t
		}
		layers = append(layers, n)
	}
	return layers, since, errors.Join(errs...)
}

// began is when the layer was made, by the clock of its file system.
func (s *Store) began(number int) (time.Time, error) {
	made, err := s.changes().Changed(filepath.Join(s.layerPath(number), began))
	if err != nil {
		return time.Time{}, err
	}
	// The folder changed last when the installer had ended.
	ended, err := s.changes().Changed(s.layerPath(number))
	if err == nil && ended.Before(made) {
		// The clock was set back: any file may have been written since.
		return time.Time{}, nil
	}
	return made, err
}

// unmerged returns the layers of a generation that still have an upper to merge.
func (s *Store) unmerged(g Generation) (numbers []int) {
	for _, n := range g.Merge {
		for _, l := range lastings {
			_, err := os.Lstat(filepath.Join(s.layerPath(n), l.upper))
			if !errors.Is(err, fs.ErrNotExist) {
				numbers = append(numbers, n)
				break
			}
		}
	}
	return numbers
}

// namesIn returns the names in a folder; none if it is not there.
func namesIn(path string) ([]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}
