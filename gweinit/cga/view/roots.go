package view

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
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

	mu    sync.Mutex
	roots map[string]*programRoot // by app
}

// programRoot is the root directory of one app. An app that has much to be put aside
// does not keep the others waiting.
type programRoot struct {
	mu   sync.Mutex
	made string // the key of its stack; "": there is none
}

// ProgramRoot is where the root directory of an app's programs is.
func ProgramRoot(gateway, app string) string {
	return filepath.Join(cmp.Or(gateway, "/"), Roots, app)
}

// Make makes the root directory of an app. As long as something of it is up that
// stays as it was.
func (r *ProgramRoots) Make(s Stack, idle bool) error {
	p := r.root(s.App)
	p.mu.Lock()
	defer p.mu.Unlock()
	key := s.key()
	if p.made == key || p.made != "" && !idle {
		return nil
	}
	target := ProgramRoot(r.Gateway, s.App)
	if err := p.remove(target); err != nil {
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
	p.made = key
	return nil
}

// root returns that of an app. It is never forgotten, since somebody may be waiting
// for it.
func (r *ProgramRoots) root(app string) *programRoot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roots == nil {
		r.roots = map[string]*programRoot{}
	}
	p := r.roots[app]
	if p == nil {
		p = &programRoot{}
		r.roots[app] = p
	}
	return p
}

// Keep removes the root directories of all other apps.
func (r *ProgramRoots) Keep(apps []string) (err error) {
	r.mu.Lock()
	known := slices.Collect(maps.Keys(r.roots))
	r.mu.Unlock()
	var errs []error
	for _, app := range known {
		if slices.Contains(apps, app) {
			continue
		}
		p := r.root(app)
		p.mu.Lock()
		errs = append(errs, p.remove(ProgramRoot(r.Gateway, app)))
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (p *programRoot) remove(target string) error {
	if p.made == "" {
		return nil
	}
	if err := Unmake(target); err != nil {
		return err
	}
	p.made = ""
	if err := os.Remove(target); err != nil {
		return fmt.Errorf("remove the root directory of an app: %w", err)
	}
	return nil
}
