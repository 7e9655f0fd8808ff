package generation

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/cga/layer"
	"github.com/exosite/gwe/gweinit/cga/layer/layertest"
)

// gateway is a disk with apps.
type gateway struct {
	*layertest.Disk
	*Store
	capacity int64
}

func newGateway(t testing.TB, d *layertest.Disk) *gateway {
	g := &gateway{Disk: d, capacity: 1 << 30}
	g.Store = &Store{
		Root: d.Dir, disk: d,
		Log:    func(format string, args ...any) { t.Logf(format, args...) },
		mounts: func() (string, error) { return "", nil },
		free: func() (room, error) {
			return room{g.capacity, 1 << 20}.minus(size(d.Dir)), nil
		},
	}
	return g
}

// tree writes files below a folder. Names that end with a slash are folders, "!"
// before one is a whiteout, "@" a link.
func (g *gateway) tree(dir string, files ...string) error {
	for _, f := range files {
		name, data, _ := strings.Cut(f, "=")
		path := g.path(dir, strings.TrimLeft(name, "!@"))
		var err error
		switch {
		case strings.HasSuffix(name, "/"):
			err = g.Mkdir(path, layer.Attributes{Mode: 0o755})
		case name[0] == '!':
			err = g.Whiteout(path)
		case name[0] == '@':
			err = g.Link(path, data)
		default:
			err = g.Write(path, data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	opaque = "trusted.overlay.opaque"
	kept   = "trusted.gwe.kept" // of Yield
)

// runInstaller leaves what an installer may, in all the ways there are. The power
// goes before or after it: what it has done by halves is removed like the whole.
func (g *gateway) runInstaller(l Layer, name, version string) error {
	defer func(onStep func(string)) { g.OnStep = onStep }(g.OnStep)
	g.OnStep = nil
	dir, err := filepath.Rel(g.Dir, l.Dir)
	if err != nil {
		return err
	}
	of := name + "-" + version
	in := func(path string) string { return filepath.Join(l.Dir, path) }
	return errors.Join(
		g.tree(dir, "scratch/install.sh=#!/bin/sh", "work/", "work/root/", "about.json={}",
			"root/usr/", "root/usr/"+name+"="+of,
			"var/lib/", "var/lib/db="+of, // over one that is there
			"var/lib/same=same", "var/lib/live="+of, // that a program has written meanwhile
			"!var/old",
			"var/made-anew/", "var/made-anew/"+name+"="+of,
			"var/link/", "var/link/in="+of, // over a link
			"var/file/", "var/file/in="+of, // over a file
			"var/folder="+of,                                  // over a folder
			"var/new-"+name+"/", "!var/new-"+name+"/whiteout", // in a folder that is new
			"var/new-"+name+"/deep/", "var/new-"+name+"/deep/file="+of,
			"log/a.log=written by the installer", "log/"+name+".log="+of,
			"data/shared="+of, "data/live="+of),
		g.SetXattr(in("var/made-anew"), opaque, "y"),
		g.SetXattr(in("var/new-"+name), opaque, "y"),
		g.SetXattr(in("var/lib/db"), "trusted.overlay.origin", "x"),
		g.Set(in("var/lib"), layer.Attributes{Mode: 0o750, UID: 7, GID: 8}),
		g.Set(in("var/lib/same"), layer.Attributes{Mode: 0o600, UID: 7, GID: 8}),
		g.Set(in("var/lib/live"), layer.Attributes{Mode: 0o600, UID: 7, GID: 8}),
		g.SetXattr(in("var/lib/live"), kept, ""), g.SetXattr(in("data/live"), kept, ""),
	)
}

func (g *gateway) install(t *Tx, name, version string) error {
	l, err := t.Layer()
	if err == nil {
		err = g.runInstaller(l, name, version)
	}
	if err == nil {
		err = t.Install(App{Name: name, Version: version, Layer: l.Number, Program: true})
	}
	return err
}

// runOnce installs an app that leaves nothing but what it has written to /var.
func (g *gateway) runOnce(t *Tx, name, version string) error {
	l, err := t.Layer()
	if err == nil {
		err = g.runInstaller(l, name, version)
	}
	if err == nil {
		err = t.Install(App{Name: name, Version: version})
	}
	return err
}

// change is a committed change.
func (g *gateway) change(steps ...func(t *Tx) error) error {
	t, err := g.Begin()
	if err != nil {
		return err
	}
	defer t.Abort()
	for _, step := range steps {
		if err := step(t); err != nil {
			return err
		}
	}
	t.Done(Done{ID: "job", Output: "out"})
	return t.Commit()
}

func (g *gateway) installs(name, version string) func(*Tx) error {
	return func(t *Tx) error { return g.install(t, name, version) }
}

// fill makes a disk with apps a (which has a previous version), b, c (uninstalled)
// and once, and with what their programs have written.
func (g *gateway) fill() error {
	err := errors.Join(
		g.tree("", "data/", "data/var/", "data/log/", "data/shared/", "data/var/lib/", "data/var/lib/db=from before",
			"data/var/lib/other=from before", "data/var/old=from before", "data/var/made-anew/", "data/var/made-anew/x=from before",
			"@data/var/link=lib", "data/var/file=from before", "data/var/folder/", "data/var/folder/in=from before",
			"data/log/a.log=from before", "data/shared/shared=from before"),
		g.change(g.installs("a", "1")),
		g.change(g.installs("b", "1"), g.installs("c", "1")),
		g.change(g.installs("a", "2")),
		g.change(func(t *Tx) error { return g.runOnce(t, "once", "1") }),
		g.change(func(t *Tx) error { return t.Uninstall("c") }),
	)
	for since, name := range map[string]string{"1": "a", "2": "b", "3": "c"} {
		err = errors.Join(err, g.MakeFolder(g.path(rwFolder, since, "root"), 0o755), g.tree("data/apps/rw/"+since+"/root", "runtime="+name))
	}
	err = errors.Join(err, g.tree("data/apps/rw/1", "aside/", "aside/1/", "aside/1/file=of a.v1"))
	err = errors.Join(err, g.tree("data/var", "old=again", "made-anew/x=again", "lib/same=same"))
	return errors.Join(err, g.tree("data", "var/lib/live=of a program", "shared/live=of a program"), g.Sync(g.Dir))
}

// recover is what a boot does, and the next command.
func (g *gateway) recover() (Generation, error) {
	gen, err := g.Current()
	if err != nil {
		return gen, err
	}
	if err := g.Finish(); err != nil {
		return gen, err
	}
	t, err := g.Begin()
	if err != nil {
		return gen, err
	}
	t.Abort()
	return gen, nil
}

// story is something that the power may interrupt.
type story struct {
	name string
	// before is what was there already; nil: nothing.
	before func(g *gateway) error
	// do are its ends: nothing of it, and what else it may have come to. The last
	// one is the story.
	do []func(g *gateway) error
}

func stories() []story {
	nothing := func(*gateway) error { return nil }
	change := func(name string, step func(g *gateway, t *Tx) error) story {
		return story{name, nil, []func(g *gateway) error{nothing, func(g *gateway) error {
			return g.change(func(t *Tx) error { return step(g, t) })
		}}}
	}
	room := func(n int) func(*gateway) error { // for which n versions are forgotten
		return func(g *gateway) error {
			gen, err := g.Current()
			if err != nil {
				return err
			}
			_, all, err := g.forgettable(gen, nil)
			if err != nil {
				return err
			}
			_, one, err := g.forgettable(Generation{Apps: gen.Apps, Previous: gen.Previous[:1]}, nil)
			if err != nil {
				return err
			}
			free, _ := g.free()
			g.capacity -= free.bytes - reserve.bytes // all that is free is the reserve
			return g.MakeRoom([]int64{0, one.bytes, all.bytes}[n], 0)
		}
	}
	return []story{
		change("install", func(g *gateway, t *Tx) error { return g.install(t, "d", "1") }),
		change("upgrade", func(g *gateway, t *Tx) error { return g.install(t, "a", "3") }),
		change("rollback", func(_ *gateway, t *Tx) error { return t.Rollback("a") }),
		change("uninstall", func(_ *gateway, t *Tx) error { return t.Uninstall("b") }),
		change("uninstalled, and back", func(_ *gateway, t *Tx) error { return t.Rollback("c") }),
		change("uninstalled, and anew", func(g *gateway, t *Tx) error { return g.install(t, "c", "2") }),
		change("runs once", func(g *gateway, t *Tx) error { return g.runOnce(t, "once", "2") }),
		change("two, and one goes", func(g *gateway, t *Tx) error {
			t.Handled("d.v1.tar.gz")
			return errors.Join(g.install(t, "d", "1"), g.install(t, "b", "2"), t.Uninstall("a"))
		}),
		{"given up", nil, []func(*gateway) error{nothing, func(g *gateway) error {
			t, err := g.Begin()
			if err == nil {
				err = g.install(t, "d", "1")
				t.Abort()
			}
			return err
		}}},
		{"collection", func(g *gateway) error {
			return errors.Join(
				g.tree("data/apps", "70/", "70/root/", "70/root/file=left", "71/", "rw/60/", "rw/60/root/", "rw/60/root/file=left",
					"rw/1/aside/2/", "rw/1/aside/2/file=left"),
				g.tree("data/generations", "1.json.garbled=torn", "2.json.garbled=torn", ".9.json.new=torn"))
		}, []func(*gateway) error{func(g *gateway) error { return g.Collect() }}},
		{"room", nil, []func(*gateway) error{nothing, room(1), room(2)}},
	}
}

// explorer looks at everything that power cuts may leave, again and again.
type explorer struct {
	t       *testing.T
	g       *gateway
	report  func(args ...any)
	ends    []string        // that are allowed
	known   map[string]*end // by what a power cut has left
	pending []*end
	cuts    int
	failed  int
}

// end is what comes of what a power cut has left.
type end struct {
	name  string          // of that cut
	left  layertest.Image // nothing once it is known what comes of it
	state string          // "": not known yet
	must  string          // what it has to be; "": any of those that are allowed
}

// cut has what is left looked at.
func (x *explorer) cut(name string, keep layertest.Keep, must string) *end {
	x.cuts++
	key := x.g.Dump(keep)
	e := x.known[key]
	if e == nil {
		e = &end{name: name + ", " + keep.String(), left: x.g.Image(keep)}
		x.known[key] = e
		x.pending = append(x.pending, e)
	}
	if must != "" {
		x.expect(e, must)
	}
	return e
}

// watch returns all cuts in what do does.
func (x *explorer) watch(name string, do func()) (cuts []*end) {
	x.g.OnStep = func(step string) {
		for _, keep := range layertest.Keeps {
			cuts = append(cuts, x.cut(name+"; cut before "+step, keep, ""))
		}
	}
	do()
	x.g.OnStep = nil
	return cuts
}

// expect says what is to come of what a power cut has left.
func (x *explorer) expect(e *end, must string) {
	if e.must == "" {
		e.must = must
	}
	x.check(e)
	if e.must != must {
		x.fail(e.name + ": it has to end in two ways")
	}
}

func (x *explorer) check(e *end) {
	if e.state == "" {
		return
	}
	if !slices.Contains(x.ends, e.state) || e.must != "" && e.must != e.state {
		x.fail(fmt.Sprintf("%s: ends as\n%s\nwant\n%s", e.name, e.state, cmp.Or(e.must, strings.Join(x.ends, "\nor\n"))))
	}
}

func (x *explorer) fail(text string) {
	if x.failed++; x.failed <= 3 {
		x.report(text)
	}
}

// explore recovers from all that is pending, with all the cuts in that, each of
// which has to come to the same end.
func (x *explorer) explore() {
	for len(x.pending) > 0 && x.failed < 3 {
		e := x.pending[len(x.pending)-1]
		x.pending = x.pending[:len(x.pending)-1]
		if err := x.g.Restore(e.left); err != nil {
			x.t.Fatal(err)
		}
		e.left = layertest.Image{}
		var err error
		cuts := x.watch(e.name, func() { _, err = x.g.recover() })
		e.state = x.g.Dump(layertest.All)
		if err != nil {
			e.state = "an error: " + err.Error()
		}
		x.check(e)
		for _, c := range cuts {
			x.expect(c, e.state)
		}
	}
}

// run plays a story with all power cuts.
func (st story) run(t *testing.T, g *gateway, start layertest.Image, report func(args ...any)) *explorer {
	x := &explorer{t: t, g: g, report: report, known: map[string]*end{}}
	restore := func() {
		err := g.Restore(start)
		if err == nil && st.before != nil {
			err = errors.Join(st.before(g), g.Sync(g.Dir))
		}
		if err != nil {
			t.Fatal(err)
		}
		g.capacity = 1 << 30
	}
	for _, do := range st.do {
		restore()
		for range 2 { // the second time there is nothing left to do
			if err := do(g); err != nil {
				t.Fatal(err)
			}
			do = func(*gateway) error { return nil }
			if _, err := g.recover(); err != nil {
				t.Fatal(err)
			}
			x.ends = append(x.ends, g.Dump(layertest.All))
		}
	}
	x.ends = slices.Compact(x.ends)
	if len(x.ends) != len(st.do) && len(x.ends) != 1 {
		t.Fatalf("%d ends, want %d", len(x.ends), len(st.do))
	}
	restore()
	x.watch(st.name, func() {
		if err := st.do[len(st.do)-1](g); err != nil {
			t.Fatal(err)
		}
	})
	for _, keep := range layertest.Keeps { // it has said that it is done
		x.cut(st.name+"; cut at the end", keep, x.ends[len(x.ends)-1])
	}
	x.explore()
	return x
}

// The power goes before and after every step of a change, and again in every step of
// the recovery, as often as it likes: the apps are those from before or the new
// ones, with all that belongs to them and nothing else.
func TestPowerCuts(t *testing.T) {
	g := newGateway(t, layertest.New(t))
	if err := g.fill(); err != nil {
		t.Fatal(err)
	}
	g.Log = func(string, ...any) {}
	start := g.Image(layertest.None)
	cuts, disks := 0, 0
	for _, st := range stories() {
		t.Run(strings.ReplaceAll(st.name, " ", "-"), func(t *testing.T) {
			x := st.run(t, g, start, t.Error)
			t.Logf("%d power cuts, which left %d different disks, %d ends", x.cuts, len(x.known), len(x.ends))
			cuts, disks = cuts+x.cuts, disks+len(x.known)
		})
	}
	t.Logf("%d power cuts, which left %d different disks", cuts, disks)
}

// The test above can fail: a disk that does not sync is found out.
func TestPowerCutsAreNoticed(t *testing.T) {
	g := newGateway(t, layertest.New(t))
	if err := g.fill(); err != nil {
		t.Fatal(err)
	}
	start := g.Image(layertest.None)
	g.Log = func(string, ...any) {}
	for _, tt := range []struct{ broken, story string }{
		{"Sync", "upgrade"},
		{"SyncFolder", "upgrade"},
		{"SyncFolder", "rollback"},
	} {
		g.Broken = []string{tt.broken}
		for _, st := range stories() {
			if st.name != tt.story {
				continue
			}
			if x := st.run(t, g, start, func(...any) {}); x.failed == 0 {
				t.Errorf("%s: nobody misses a %s", tt.story, tt.broken)
			}
		}
	}
}
