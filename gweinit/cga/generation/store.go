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

// Layer is the layer with a number.
func (s *Store) Layer(number int) Layer { return Layer{number, s.layerPath(number)} }

// Layers are those of the apps of a generation, from the lowest to the top.
func (s *Store) Layers(g Generation) (layers []Layer) {
	for _, a := range g.Apps {
		if a.Layer > 0 {
			layers = append(layers, s.Layer(a.Layer))
		}
	}
	return layers
}

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
	var errs []error
	for _, n := range g.Merge {
		for _, l := range lastings {
			errs = append(errs, layer.Merge(s.changes(), filepath.Join(s.layerPath(n), l.upper), s.path(l.to), l.keepExisting))
		}
	}
	return errors.Join(errs...)
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
