package modules

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// Watcher has the modules loaded that the machine's devices need.
type Watcher struct {
	// Load loads a module with what it needs, and waits for it. It should not
	// do so in PID 1 itself, but run modprobe: a driver that crashes while it
	// starts takes the process with it that loads it.
	Load func(module string) error
	Log  func(format string, args ...any)

	lists  *Lists
	sys    string // /sys
	loaded func(name string) bool
	failed map[string]time.Time // modules that did not load, and when
}

// Run loads modules for the devices that are there, calls settled, if it isn't
// nil, and goes on with those that come, until ctx is done. It ends earlier
// only if the image has no modules.
func (w *Watcher) Run(ctx context.Context, settled func()) {
	if settled == nil {
		settled = func() {}
	}
	settled = sync.OnceFunc(settled) // and not again after each error
	w.sys, w.loaded, w.failed = "/sys", isLoaded, map[string]time.Time{}
	dir, err := runningDir()
	if err == nil {
		w.lists, err = Read(dir)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.Log("modules for devices: %v", err)
		}
		settled()
		return
	}
	const most = time.Minute
	wait := time.Second
	for ctx.Err() == nil {
		start := time.Now()
		err := w.watch(ctx, settled)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > most {
			wait = time.Second
		}
		// ENOBUFS is one of these, after too many events at once.
		w.Log("modules for devices: %v; looking at all devices again in %v", err, wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, most)
	}
}

// watch is Run up to an error. It may be called again: nothing is missed, since
// it looks at the devices that are there after it has begun to listen.
func (w *Watcher) watch(ctx context.Context, settled func()) (err error) {
	defer func() {
		if r := recover(); r != nil { // PID 1 goes on
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	s, err := listen()
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	w.loadFor(w.coldplug()...)
	settled()
	buf := make([]byte, 8<<10) // the kernel's events have 2 KiB at most
	for {
		msg, err := s.receive(buf)
		if err != nil {
			return err
		}
		e, err := parseUevent(msg)
		switch {
		case err != nil:
			w.Log("uevent: %v", err)
		case e.action == "add" && e.modalias != "":
			w.loadFor(e.modalias)
		}
	}
}

// coldplug returns the different modaliases of the devices that are there, in
// the order of their paths. A device that goes away meanwhile has none.
func (w *Watcher) coldplug() []string {
	var aliases []string
	seen := map[string]bool{}
	// Every device with a modalias is on a bus or in a class; the last is the
	// CPU's own. This takes a tenth of the calls of a walk over /sys/devices.
	for _, pattern := range []string{"bus/*/devices/*/modalias", "class/*/*/modalias", "devices/system/cpu/modalias"} {
		files, _ := filepath.Glob(filepath.Join(w.sys, pattern))
		for _, file := range files {
			text, err := os.ReadFile(file)
			alias := strings.TrimSpace(string(text))
			if err == nil && alias != "" && !seen[alias] {
				seen[alias] = true
				aliases = append(aliases, alias)
			}
		}
	}
	return aliases
}

// failedFor is how long a module is left alone that did not load: a driver that
// hangs, for a device with a bad contact, must not keep all others waiting.
const failedFor = 10 * time.Minute

// loadFor loads the modules for devices with these modaliases, if the image
// has any and they are not loaded.
func (w *Watcher) loadFor(aliases ...string) {
	names, err := w.lists.Find(aliases...)
	if err != nil {
		w.Log("modules for devices: %v", err)
	}
	for _, name := range slices.DeleteFunc(names, w.loaded) {
		if at, ok := w.failed[name]; ok && time.Since(at) < failedFor {
			continue
		}
		if err := w.Load(name); err != nil {
			w.failed[name] = time.Now()
			w.Log("module %s: %v; not again for %v", name, err, failedFor)
		}
	}
}
