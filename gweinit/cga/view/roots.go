package view

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Stack is what lies below what an app has written: the firmware and layers.
type Stack struct {
	App   string
	Layer int    // the app's own
	Root  string // of that layer
	// Lower are all, the lowest first: the firmware, the layers, and what else is to
	// hide their files.
	Lower []string
	Upper Upper
}

func (s Stack) key() string { return fmt.Sprint(s.Layer, " ", strings.Join(s.Lower, ":")) }

// ProgramRoots are the root directories of the programs of apps, each made when the
// first of an app's programs starts, and again when the stack is another by then.
// It is safe for concurrent use.
type ProgramRoots struct {
	Gateway string // below which the files are; "" on the gateway itself

	mu   sync.Mutex
	made map[string]string // keys of stacks by app
}

// ProgramRoot is where the root directory of an app's programs is.
func ProgramRoot(gateway, app string) string {
	return filepath.Join(cmp.Or(gateway, "/"), Roots, app)
}

// Make makes the root directory of an app. As long as something of it is up that
// stays as it was.
func (r *ProgramRoots) Make(s Stack, idle bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	made, key := r.made[s.App], s.key()
	if made == key || made != "" && !idle {
		return nil
	}
	target := ProgramRoot(r.Gateway, s.App)
	if err := r.remove(s.App); err != nil {
		return err
	}
	if err := s.Upper.Settle(s.Layer, s.Root); err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	mounts, err := Program(r.Gateway, s.Lower, s.Upper.Root(), s.Upper.Work())
	if err != nil {
		return err
	}
	if err := Make(target, mounts); err != nil {
		return err
	}
	if r.made == nil {
		r.made = map[string]string{}
	}
	r.made[s.App] = key
	return nil
}

// Keep removes the root directories of all other apps.
func (r *ProgramRoots) Keep(apps []string) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for app := range r.made {
		if !slices.Contains(apps, app) {
			err = cmp.Or(err, r.remove(app))
		}
	}
	return err
}

func (r *ProgramRoots) remove(app string) error {
	if r.made[app] == "" {
		return nil
	}
	target := ProgramRoot(r.Gateway, app)
	if err := Unmake(target); err != nil {
		return err
	}
	delete(r.made, app)
	if err := os.Remove(target); err != nil {
		return fmt.Errorf("remove the root directory of %s: %w", app, err)
	}
	return nil
}
