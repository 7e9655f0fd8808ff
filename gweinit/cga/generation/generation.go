// Package generation keeps which apps are installed, and in which version: the
// generations, each a small file, and the layers that these name.
//
//	data/generations/N.json  the newest valid one counts, and the one before is kept
//	data/apps/N/             a layer, see package layer, and while it is made:
//	    scratch/             the tarball, unpacked
//	data/apps/rw/N/          what the app that was first installed with layer N has
//	                         written outside /data, /var, /run and /tmp
//	data/shared/             what apps see as /data
//	run/gwe/apps.lock        held (flock) by who changes any of that
//
// An install is a transaction (Tx): its layers are made and synced, and then one
// rename, of the new generation's file, is the commit. What install.sh has written
// to /var, /var/log and /data is in uppers of its layer until then; Finish moves
// it there afterwards.
package generation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits. The file of a generation that uses all of them is well below maxFile.
const (
	MaxLayers   = 40 // apps that have one: the kernel takes a page of mount options
	maxPrevious = 40
	maxOneOffs  = 20
	maxHandled  = 128
	maxDone     = 8
	maxOutput   = 8 << 10 // bytes of a job's output
	maxText     = 255     // bytes of a name, a version, an ID
	maxFile     = 1 << 20 // bytes
)

// App is an installed app.
type App struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Layer   int    `json:"layer,omitempty"` // 0: it ran once, and has left nothing
	// Since is the first layer of this installation: an upgrade keeps what the app
	// has written, and one that was uninstalled in between starts without that. 0:
	// it had none so far.
	Since   int    `json:"since,omitempty"`
	Program bool   `json:"program,omitempty"` // its layer has etc/supervisor/conf.d/NAME.conf
	unknown string // see format.go
}

// Done is a job that was committed.
type Done struct {
	ID      string `json:"id"`
	Output  string `json:"output,omitempty"`
	Follow  string `json:"follow,omitempty"` // what is still to be done for it, by who has done the job
	Reboot  bool   `json:"reboot,omitempty"` // it wanted one
	Boot    string `json:"boot,omitempty"`   // in which it was committed
	unknown string
}

// Generation is a set of apps.
type Generation struct {
	Number int `json:"number"`
	// Apps are those that ran once, the oldest first, and then those with a
	// layer, from the lowest to the top.
	Apps []App `json:"apps,omitempty"`
	// Previous is what Rollback goes back to: at most one for each name, with a
	// layer, the oldest first.
	Previous []App `json:"previous,omitempty"`
	// Merge are the layers whose uppers Finish merges, if they are still there.
	Merge []int `json:"merge,omitempty"`
	Last  int   `json:"last,omitempty"` // the highest number of a layer so far
	// Handled are the files of baked-in apps that need not be installed any more.
	Handled []string `json:"handled,omitempty"`
	Done    []Done   `json:"done,omitempty"` // the newest last
	unknown string
}

// App returns the app with a name.
func (g Generation) App(name string) (App, bool) {
	if i := index(g.Apps, name); i >= 0 {
		return g.Apps[i], true
	}
	return App{}, false
}

// Job returns the job with an ID, if it was committed and is not too old.
func (g Generation) Job(id string) (Done, bool) {
	i := slices.IndexFunc(g.Done, func(d Done) bool { return d.ID == id })
	if i < 0 {
		return Done{}, false
	}
	return g.Done[i], true
}

func index(apps []App, name string) int {
	return slices.IndexFunc(apps, func(a App) bool { return a.Name == name })
}

// without returns the apps but that with a name, in a slice of its own.
func without(apps []App, name string) []App {
	return slices.DeleteFunc(slices.Clone(apps), func(a App) bool { return a.Name == name })
}

// install makes a the version that counts. The one before becomes the previous
// one if it is to be kept.
func (g *Generation) install(a App, keep bool) {
	if old, ok := g.App(a.Name); ok && keep {
		g.retire(old)
	}
	g.Apps = append(without(g.Apps, a.Name), a)
	g.sort()
}

// retire makes an app the previous one of its name. One that ran once has nothing
// to go back to.
func (g *Generation) retire(a App) {
	if a.Layer != 0 {
		g.Previous = append(without(g.Previous, a.Name), a)
		g.Previous = g.Previous[max(0, len(g.Previous)-maxPrevious):]
	}
}

func (g *Generation) uninstall(name string) error {
	a, ok := g.App(name)
	if !ok {
		return fmt.Errorf("app %q is not installed", name)
	}
	g.retire(a)
	g.Apps = without(g.Apps, name)
	return nil
}

func (g *Generation) rollback(name string) error {
	i := index(g.Previous, name)
	if i < 0 {
		return fmt.Errorf("app %q has no previous version to go back to", name)
	}
	a := g.Previous[i]
	g.Previous = without(g.Previous, name)
	g.install(a, true)
	return nil
}

// layers is how many apps have one.
func (g Generation) layers() (n int) {
	for _, a := range g.Apps {
		if a.Layer != 0 {
			n++
		}
	}
	return n
}

// sort puts the apps in order, and forgets the oldest that ran once.
func (g *Generation) sort() {
	slices.SortStableFunc(g.Apps, func(a, b App) int { return a.Layer - b.Layer })
	if n := len(g.Apps) - g.layers() - maxOneOffs; n > 0 {
		g.Apps = g.Apps[n:]
	}
}

// check says whether a generation can be worked with.
func (g Generation) check() error {
	names, layers := map[string]bool{}, map[int]bool{}
	last := 0
	for _, a := range g.Apps {
		if names[a.Name] {
			return fmt.Errorf("app %.80q is there twice", a.Name)
		}
		names[a.Name] = true
		if err := a.check(g.Last, layers); err != nil {
			return err
		}
		if a.Layer < last {
			return fmt.Errorf("app %.80q is not in the order of layers", a.Name)
		}
		last = a.Layer
	}
	if n := g.layers(); n > MaxLayers {
		return fmt.Errorf("%d apps, at most %d", n, MaxLayers)
	}
	previous := map[string]bool{}
	for _, a := range g.Previous {
		if previous[a.Name] || a.Layer == 0 {
			return fmt.Errorf("app %.80q is there twice as previous, or without a layer", a.Name)
		}
		previous[a.Name] = true
		if err := a.check(g.Last, layers); err != nil {
			return err
		}
	}
	for i, n := range g.Merge {
		if n < 1 || n > g.Last || i > 0 && n <= g.Merge[i-1] {
			return fmt.Errorf("merge of layer %d, the last one is %d", n, g.Last)
		}
	}
	return nil
}

// check notes the app's layer as one that is taken.
func (a App) check(last int, taken map[int]bool) error {
	if err := checkName(a.Name); err != nil {
		return err
	}
	switch {
	case a.Layer < 0 || a.Layer > last:
		return fmt.Errorf("app %q has layer %d, the last one is %d", a.Name, a.Layer, last)
	case a.Layer != 0 && taken[a.Layer]:
		return fmt.Errorf("app %q has layer %d, as another one", a.Name, a.Layer)
	case a.Layer == 0 && a.Program:
		return fmt.Errorf("app %q is a program without a layer", a.Name)
	case a.Since < 0 || a.Since > last || a.Layer != 0 && a.Since > a.Layer:
		return fmt.Errorf("app %q has layer %d since %d, the last one is %d", a.Name, a.Layer, a.Since, last)
	case len(a.Version) > maxText:
		return fmt.Errorf("app %q has a version of %d bytes", a.Name, len(a.Version))
	}
	taken[a.Layer] = a.Layer != 0
	return nil
}

// checkName refuses a name of an app that would be no name of a folder.
func checkName(name string) error {
	if name == "" || len(name) > maxText || name[0] == '.' || !utf8.ValidString(name) ||
		strings.ContainsRune(name, '/') || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%.80q is no name of an app", name)
	}
	return nil
}

// limit cuts what may become too long.
func (g *Generation) limit() error {
	g.Handled = g.Handled[max(0, len(g.Handled)-maxHandled):]
	g.Done = g.Done[max(0, len(g.Done)-maxDone):]
	return g.check()
}

// clone shares nothing with g that its methods change.
func (g Generation) clone() Generation {
	g.Apps, g.Previous, g.Merge = slices.Clone(g.Apps), slices.Clone(g.Previous), slices.Clone(g.Merge)
	g.Handled, g.Done = slices.Clone(g.Handled), slices.Clone(g.Done)
	return g
}

// limited is the end of an output that is too long, which says more than the beginning.
func limited(s string) string {
	s = s[max(0, len(s)-maxOutput):]
	return strings.ToValidUTF8(s, "\uFFFD")
}

var errTooLong = errors.New("the generation's file would be too long")
