package boot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/layer"
	"github.com/exosite/gwe/gweinit/cga/view"
	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// appAccounts has the users and groups of the firmware and of all apps together, in
// a folder for each stack of layers.
const appAccounts = "/run/apps/.accounts"

// apps are the installed apps, as of the newest generation.
type apps struct {
	store generation.Store
	roots view.ProgramRoots

	changes sync.Mutex // is held while programs are made those of a generation

	mu       sync.Mutex
	current  generation.Generation
	known    bool   // which apps there are
	whole    bool   // and each has its layer
	running  int    // number of the generation whose programs the supervisor has; -1: none yet
	accounts string // "": those of the firmware
}

func newApps() *apps { return &apps{store: generation.Store{Log: logError}, running: -1} }

// finishLimit is for moving what installers have written to where it belongs, on a slow
// card: programs should not start before.
const finishLimit = 10 * time.Minute

// prepareApps reads what is installed, and finishes an install that a power cut has
// interrupted.
func prepareApps(s *system) error {
	err := errors.Join(showSettings(), s.apps.take())
	unlock, lockErr := s.apps.store.Lock(context.Background(), func() {})
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer unlock()
	return errors.Join(err, s.apps.store.Finish())
}

// take takes the newest generation. If that cannot be read, the one from before stays.
func (a *apps) take() error {
	current, err := a.store.Current()
	if errors.Is(err, generation.ErrUnknown) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.known, a.whole = false, false
		return err
	}
	var dirs []string
	for _, l := range a.store.Layers(current) {
		dirs = append(dirs, l.Dir)
	}
	// The same layers have the same: who has them mounted needs no other.
	stack := sha256.Sum256([]byte(strings.Join(dirs, ":")))
	accounts := filepath.Join(appAccounts, hex.EncodeToString(stack[:8]))
	needed, accountsErr := layer.Accounts("/", dirs, accounts)
	if !needed {
		accounts = ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	err = errors.Join(err, accountsErr)
	a.current, a.known, a.whole, a.accounts = current, true, err == nil, accounts
	return err
}

// isNew says whether the supervisor has not got the programs of the current generation
// yet: the engine asks at each of its starts.
func (a *apps) isNew() (number int, new bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current.Number, a.known && a.current.Number != a.running
}

// runs notes that the supervisor has the programs of a generation.
func (a *apps) runs(number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running = number
}

func (a *apps) complete() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.whole
}

// configs are for the configuration of the programs.
func (a *apps) configs() []conf.App {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.store.Programs(a.current, a.accounts)
}

// prepare makes the root directory of a program of an app.
func (a *apps) prepare(p conf.Program, idle bool) error {
	a.mu.Lock()
	current, accounts := a.current, a.accounts
	a.mu.Unlock()
	stack := view.Stack{App: p.App, Lower: []string{"/"}}
	for _, app := range current.Apps {
		if app.Layer == 0 {
			continue
		}
		root := a.store.Layer(app.Layer).Root()
		stack.Lower = append(stack.Lower, root)
		if app.Name == p.App {
			stack.Layer, stack.Root = app.Layer, root
			stack.Upper = view.Upper{Dir: a.store.Upper(app)}
		}
	}
	if stack.Layer == 0 {
		return errors.New("it is not installed any more")
	}
	if accounts != "" {
		stack.Lower = append(stack.Lower, accounts)
	}
	return a.roots.Make(stack, idle)
}

// switchGeneration makes the programs those of the newest generation. What has not
// changed is not touched.
func (s *system) switchGeneration(ctx context.Context) error {
	s.apps.changes.Lock()
	defer s.apps.changes.Unlock()
	err := s.apps.take()
	if err != nil {
		logError("read which apps are installed: %v", err)
	}
	if number, new := s.apps.isNew(); new {
		if err := s.supervisor.Update(ctx); err != nil {
			return fmt.Errorf("update the programs: %w", err)
		}
		s.apps.runs(number)
	}
	var names []string
	for _, c := range s.apps.configs() {
		names = append(names, c.Name)
	}
	return errors.Join(err, s.apps.roots.Keep(names))
}

// ofApps takes those of the errors of a configuration that are about apps: one of
// them must not keep the others from being updated.
func ofApps(err error) (apps, others error) {
	var list conf.Errors
	if !errors.As(err, &list) {
		return nil, err
	}
	for _, e := range list {
		if strings.HasPrefix(e.File, "/data/apps/") {
			apps = errors.Join(apps, e)
		} else {
			others = errors.Join(others, e)
		}
	}
	return apps, others
}

// showSettings copies to where apps see them the settings of the gateway, and the
// certificates that these name.
func showSettings() error {
	shown := filepath.Join("/", view.Shown)
	if err := os.MkdirAll(shown, 0o700); err != nil {
		return err
	}
	settings, _, err := gateway.Files{Dir: gatewayFolder}.Load()
	if err != nil {
		return fmt.Errorf("show the settings to apps: %w", err)
	}
	names := []string{gateway.GatewayFile, gateway.EngineFile}
	for _, path := range []string{settings.CA, settings.Certificate, settings.Key} {
		if name, below := strings.CutPrefix(path, gatewayFolder+"/"); below && filepath.IsLocal(name) {
			names = append(names, name)
		}
	}
	errs := []error{os.WriteFile(filepath.Join(shown, filepath.Base(view.Marker)), nil, 0o600)}
	for _, name := range names {
		errs = append(errs, showFile(filepath.Join(gatewayFolder, name), filepath.Join(shown, name)))
	}
	return errors.Join(errs...)
}

const maxShown = 256 << 10 // bytes of a file

func showFile(from, to string) error {
	data, err := durable.ReadFile(from, maxShown)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.Remove(to); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(to, data, 0o600)
}
