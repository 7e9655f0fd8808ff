package generation

import (
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
		free:   func() (int64, error) { return g.capacity - size(d.Dir), nil },
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

const opaque = "trusted.overlay.opaque"

// runInstaller leaves what an installer may, in all the ways there are.
func (g *gateway) runInstaller(l Layer, name, version string) error {
	dir, err := filepath.Rel(g.Dir, l.Dir)
	if err != nil {
		return err
	}
	of := name + "-" + version
	return errors.Join(
		g.tree(dir, "scratch/install.sh=#!/bin/sh", "work/root/work/", "about.json={}",
			"root/usr/", "root/usr/"+name+"="+of,
			"var/lib/", "var/lib/db="+of, // over one that is there
			"!var/old",
			"var/made-anew/", "var/made-anew/"+name+"="+of,
			"var/link/", "var/link/in="+of, // over a link
			"var/file/", "var/file/in="+of, // over a file
			"var/folder="+of,                                  // over a folder
			"var/new-"+name+"/", "!var/new-"+name+"/whiteout", // in a folder that is new
			"var/new-"+name+"/deep/", "var/new-"+name+"/deep/file="+of,
			"log/a.log=written by the installer", "log/"+name+".log="+of,
			"data/shared="+of),
		g.SetXattr(filepath.Join(l.Var(), "made-anew"), opaque, "y"),
		g.SetXattr(filepath.Join(l.Var(), "new-"+name), opaque, "y"),
		g.SetXattr(filepath.Join(l.Var(), "lib/db"), "trusted.overlay.origin", "x"),
		g.Set(filepath.Join(l.Var(), "lib"), layer.Attributes{Mode: 0o750, UID: 7, GID: 8}),
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
	for _, name := range []string{"a", "b", "c"} {
		err = errors.Join(err, g.MakeFolder(g.path(rwFolder, name, "root"), 0o755), g.tree("data/apps/rw/"+name+"/root", "runtime="+name))
	}
	return errors.Join(err, g.tree("data/var", "old=again", "made-anew/x=again"), g.Sync(g.Dir))
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
	// do are its ends: nothing of it, and what else it may have come to. The last
	// one is the story.
	do []func(g *gateway) error
}

func stories() []story {
	nothing := func(*gateway) error { return nil }
	change := func(name string, step func(g *gateway, t *Tx) error) story {
		return story{name, []func(g *gateway) error{nothing, func(g *gateway) error {
			return g.change(func(t *Tx) error { return step(g, t) })
		}}}
	}
	room := func(n int) func(*gateway) error { // for which n versions are forgotten
		return func(g *gateway) error {
			gen, err := g.Current()
			if err != nil {
				return err
			}
			_, all, err := g.forgettable(gen)
			if err != nil {
				return err
			}
			_, one, err := g.forgettable(Generation{Apps: gen.Apps, Previous: gen.Previous[:1]})
			if err != nil {
				return err
			}
			free, _ := g.free()
			g.capacity -= free - reserve // all that is free is the reserve
			return g.MakeRoom([]int64{0, one, all}[n])
		}
	}
	return []story{
		change("install", func(g *gateway, t *Tx) error { return g.install(t, "d", "1") }),
		change("upgrade", func(g *gateway, t *Tx) error { return g.install(t, "a", "3") }),
		change("rollback", func(_ *gateway, t *Tx) error { return t.Rollback("a") }),
		change("uninstall", func(_ *gateway, t *Tx) error { return t.Uninstall("b") }),
		change("uninstalled, and back", func(_ *gateway, t *Tx) error { return t.Rollback("c") }),
		change("runs once", func(g *gateway, t *Tx) error { return g.runOnce(t, "once", "2") }),
		change("two, and one goes", func(g *gateway, t *Tx) error {
			t.Handled("d.v1.tar.gz")
			return errors.Join(g.install(t, "d", "1"), g.install(t, "b", "2"), t.Uninstall("a"))
		}),
		{"given up", []func(*gateway) error{nothing, func(g *gateway) error {
			t, err := g.Begin()
			if err == nil {
				err = g.install(t, "d", "1")
				t.Abort()
			}
			return err
		}}},
		{"collection", []func(*gateway) error{nothing, func(g *gateway) error {
			return errors.Join(
				g.tree("data/apps", "70/", "70/root/", "70/root/file=left", "71/", "rw/gone/", "rw/gone/root/", "rw/gone/root/file=left"),
				g.tree("data/generations", "1.json=torn", "2.json.garbled=torn", ".9.json.new=torn"),
				g.Collect())
		}}},
		{"room", []func(*gateway) error{nothing, room(1), room(2)}},
	}
}

// explorer looks at everything that power cuts may leave, again and again.
type explorer struct {
	t        *testing.T
	g        *gateway
	ends     []string          // that are allowed
	results  map[string]string // ends by what a power cut has left
	pending  []left
	cuts     int
	failures int
}

// left is what a power cut has left.
type left struct {
	image layertest.Image
	key   string
	name  string
	must  string // the end it has to have, if only one is allowed
}

// watch has every cut in what follows looked at.
func (x *explorer) watch(name, must string) {
	x.g.OnStep = func(step string) {
		for _, keep := range layertest.Keeps {
			x.cut(left{image: x.g.Image(keep), name: fmt.Sprintf("%s; cut before %s, %v", name, step, keep), must: must})
		}
	}
}

func (x *explorer) cut(l left) {
	x.cuts++
	l.key = l.image.Dump()
	end, seen := x.results[l.key]
	if !seen {
		x.results[l.key] = ""
		x.pending = append(x.pending, l)
	} else if end != "" && l.must != "" && end != l.must {
		x.fail(l, end)
	}
}

func (x *explorer) fail(l left, end string) {
	if x.failures++; x.failures <= 3 {
		x.t.Errorf("%s: ends as\n%s\nwhich is none of\n%s", l.name, end, strings.Join(append(slices.Clone(x.ends), l.must), "\nor\n"))
	}
}

// explore recovers from all that is pending, with all the cuts in that.
func (x *explorer) explore() {
	for len(x.pending) > 0 {
		l := x.pending[len(x.pending)-1]
		x.pending = x.pending[:len(x.pending)-1]
		end, err := x.recover(l)
		if err != nil {
			x.t.Fatalf("%s: recover: %v", l.name, err)
		}
		x.results[l.key] = end
		if !slices.Contains(x.ends, end) || l.must != "" && end != l.must {
			x.fail(l, end)
			continue
		}
		// Now with cuts: each has to come to the same end.
		if err := x.g.Restore(l.image); err != nil {
			x.t.Fatal(err)
		}
		x.watch(l.name, end)
		_, err = x.g.recover()
		x.g.OnStep = nil
		if err != nil {
			x.t.Fatalf("%s: recover: %v", l.name, err)
		}
	}
}

func (x *explorer) recover(l left) (end string, err error) {
	if err := x.g.Restore(l.image); err != nil {
		return "", err
	}
	if _, err := x.g.recover(); err != nil {
		return "", err
	}
	// It lasts, and there is nothing left to do.
	end = x.g.Image(layertest.All).Dump()
	x.g.OnStep = func(step string) { x.t.Errorf("%s: after all there is left to do: %s", l.name, step) }
	_, err = x.g.recover()
	x.g.OnStep = nil
	return end, err
}

// run plays a story, and returns how many power cuts in it were looked at, and how
// many different disks they left.
func (st story) run(t *testing.T, g *gateway, start layertest.Image) *explorer {
	x := &explorer{t: t, g: g, results: map[string]string{}}
	restore := func() {
		if err := g.Restore(start); err != nil {
			t.Fatal(err)
		}
		g.capacity = 1 << 30
	}
	for _, do := range st.do {
		restore()
		if err := do(g); err != nil {
			t.Fatal(err)
		}
		if _, err := g.recover(); err != nil {
			t.Fatal(err)
		}
		x.ends = append(x.ends, g.Image(layertest.All).Dump())
	}
	restore()
	x.watch(st.name, "")
	if err := st.do[len(st.do)-1](g); err != nil {
		t.Fatal(err)
	}
	g.OnStep = nil
	for _, keep := range layertest.Keeps { // it has said that it is done
		x.cut(left{image: g.Image(keep), name: st.name + "; cut at the end, " + keep.String(), must: x.ends[len(x.ends)-1]})
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
			x := st.run(t, g, start)
			t.Logf("%d power cuts, %d different disks, %d ends", x.cuts, len(x.results), len(x.ends))
			cuts, disks = cuts+x.cuts, disks+len(x.results)
		})
	}
	t.Logf("%d power cuts, which left %d different disks", cuts, disks)
}
