package generation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/layer"
)

// world is a store on real files.
type world struct {
	*Store
	t    testing.TB
	logs []string
}

func newWorld(t testing.TB) *world {
	w := &world{t: t}
	w.Store = &Store{
		Root: t.TempDir(),
		Log:  func(format string, args ...any) { w.logs = append(w.logs, fmt.Sprintf(format, args...)) },
	}
	return w
}

func (w *world) write(path, data string) {
	w.t.Helper()
	path = w.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// add makes a layer with a file and installs it.
func (w *world) add(t *Tx, name, version string) error {
	l, err := t.Layer()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(l.Root(), name), []byte(version), 0o755); err != nil {
		return err
	}
	return t.Install(App{Name: name, Version: version, Layer: l.Number, Program: true})
}

// in is a path in the folder of a layer.
func (l Layer) in(path string) string { return filepath.Join(l.Dir, path) }

// change commits.
func (w *world) change(steps ...func(*Tx) error) {
	w.t.Helper()
	tx, err := w.Begin()
	if err != nil {
		w.t.Fatal(err)
	}
	defer tx.Abort()
	for _, step := range steps {
		if err := step(tx); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) installs(name, version string) func(*Tx) error {
	return func(t *Tx) error { return w.add(t, name, version) }
}

func (w *world) current() Generation {
	w.t.Helper()
	g, err := w.Current()
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// line tells what is installed: "a.v1@2 b.v1@0 | c.v1@3", with the layers behind
// the @, and the previous versions behind the bar.
func line(g Generation) string {
	var words []string
	for _, a := range g.Apps {
		words = append(words, fmt.Sprintf("%s.v%s@%d", a.Name, a.Version, a.Layer))
	}
	words = append(words, "|")
	for _, a := range g.Previous {
		words = append(words, fmt.Sprintf("%s.v%s@%d", a.Name, a.Version, a.Layer))
	}
	return strings.Join(words, " ")
}

func (w *world) want(text string) {
	w.t.Helper()
	g := w.current()
	if got := line(g); got != text {
		w.t.Errorf("installed: %s, want %s", got, text)
	}
	for _, a := range slices.Concat(g.Apps, g.Previous) {
		if a.Layer == 0 {
			continue
		}
		data, err := os.ReadFile(filepath.Join(w.layerPath(a.Layer), layer.Root, a.Name))
		if string(data) != a.Version || err != nil {
			w.t.Errorf("%+v has %q, %v", a, data, err)
		}
	}
}

// wantFolder compares the names in a folder.
func (w *world) wantFolder(folder string, names ...string) {
	w.t.Helper()
	got, err := namesIn(w.path(folder))
	slices.Sort(names)
	if !slices.Equal(got, names) || err != nil {
		w.t.Errorf("%s has %q, %v, want %q", folder, got, err, names)
	}
}

func TestLifeOfApps(t *testing.T) {
	w := newWorld(t)
	w.want("|")
	w.change(w.installs("a", "1"))
	w.want("a.v1@1 |")
	w.change(w.installs("b", "1"), w.installs("c", "1"))
	w.want("a.v1@1 b.v1@2 c.v1@3 |")
	w.change(w.installs("a", "2"))
	w.want("b.v1@2 c.v1@3 a.v2@4 | a.v1@1")
	rollback := func(name string) func(*Tx) error { return func(t *Tx) error { return t.Rollback(name) } }
	uninstall := func(name string) func(*Tx) error { return func(t *Tx) error { return t.Uninstall(name) } }
	w.change(rollback("a")) // to its old place, too
	w.want("a.v1@1 b.v1@2 c.v1@3 | a.v2@4")
	w.change(rollback("a"))
	w.want("b.v1@2 c.v1@3 a.v2@4 | a.v1@1")
	w.change(uninstall("b"))
	w.want("c.v1@3 a.v2@4 | a.v1@1 b.v1@2")
	w.change(w.installs("a", "3"))
	w.want("c.v1@3 a.v3@5 | b.v1@2 a.v2@4")
	w.wantFolder("data/apps", "2", "3", "4", "5") // 1 is in the generation before as a previous version only
	w.change(rollback("b"))
	w.want("b.v1@2 c.v1@3 a.v3@5 | a.v2@4")
	w.change(uninstall("b"), w.installs("b", "2"), w.installs("b", "3")) // 2 was never committed
	w.want("c.v1@3 a.v3@5 b.v3@7 | a.v2@4 b.v1@2")
	once := func(name string) func(*Tx) error {
		return func(t *Tx) error { return t.Install(App{Name: name, Version: "1"}) }
	}
	w.change(once("x"), once("y"), once("x"))
	w.want("y.v1@0 x.v1@0 c.v1@3 a.v3@5 b.v3@7 | a.v2@4 b.v1@2")
	w.change(once("c")) // was a program
	w.want("y.v1@0 x.v1@0 c.v1@0 a.v3@5 b.v3@7 | a.v2@4 b.v1@2 c.v1@3")
	w.change(rollback("c"), uninstall("y"))
	w.want("x.v1@0 c.v1@3 a.v3@5 b.v3@7 | a.v2@4 b.v1@2")
	w.wantFolder("data/apps", "2", "3", "4", "5", "7")
	w.wantFolder("data/generations", "11.json", "12.json")

	tx, err := w.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		got  error
		want string
	}{
		{tx.Rollback("x"), `app "x" has no previous version to go back to`},
		{tx.Rollback("nobody"), `app "nobody" has no previous version`},
		{tx.Uninstall("nobody"), `app "nobody" is not installed`},
		{tx.Install(App{Name: "z", Layer: 3}), "layer 3 is none of this change"},
		{tx.Install(App{Name: "z", Program: true}), `app "z" is a program without a layer`},
		{tx.Install(App{Name: "../z"}), `"../z" is no name of an app`},
		{tx.Install(App{Name: "z", Version: strings.Repeat("1", 256)}), "a version of 256 bytes"},
	} {
		if tt.got == nil || !strings.Contains(tt.got.Error(), tt.want) {
			t.Errorf("got %v, want %q", tt.got, tt.want)
		}
	}
	if got := tx.Below("a"); !slices.Equal(got, []int{3, 7}) {
		t.Errorf("below a: %d", got)
	}
	if got := tx.Below("new"); !slices.Equal(got, []int{3, 5, 7}) {
		t.Errorf("below a new one: %d", got)
	}
	if l, err := tx.Layer(); err != nil || l.Number != 8 || len(tx.Made()) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
	tx.Abort()
	w.want("x.v1@0 c.v1@3 a.v3@5 b.v3@7 | a.v2@4 b.v1@2")
	w.wantFolder("data/apps", "2", "3", "4", "5", "7")
	if err := tx.Commit(); err == nil {
		t.Error("committed after an abort")
	}
	if len(w.logs) > 0 {
		t.Errorf("logged %q", w.logs)
	}
}

func TestJobsAndHandled(t *testing.T) {
	w := newWorld(t)
	for i := range 10 {
		w.change(func(t *Tx) error {
			t.Done(Done{ID: fmt.Sprint("job-", i), Output: strings.Repeat("é", 5000), Reboot: i == 9, Boot: "boot"})
			for j := range 20 {
				t.Handled(fmt.Sprintf("%d-%d.v1.tar.gz", i, j))
			}
			t.Handled("again.v1.tar.gz")
			return nil
		})
	}
	g := w.current()
	if len(g.Done) != 8 || len(g.Handled) != 128 || g.Handled[127] != "again.v1.tar.gz" || slices.Index(g.Handled, "again.v1.tar.gz") != 127 {
		t.Errorf("%d jobs, %d handled, %q", len(g.Done), len(g.Handled), g.Handled[120:])
	}
	if _, ok := g.Job("job-1"); ok {
		t.Error("an old job is still there")
	}
	d, ok := g.Job("job-9")
	if !ok || !d.Reboot || d.Boot != "boot" || len(d.Output) != 8<<10 || d.Output != strings.Repeat("é", 4<<10) {
		t.Errorf("%v %+v", ok, d)
	}
	// A layer is not needed for any of that.
	w.wantFolder("data/apps")
}

// A Layer's folders are what the overlays need.
func TestLayerFolders(t *testing.T) {
	w := newWorld(t)
	w.write("data/log/x", "")
	log := layer.Attributes{Mode: 0o770 | os.ModeSetgid, UID: 5, GID: 6}
	if err := (layer.OS{}).Set(w.path("data/log"), log); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	tx, err := w.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Abort()
	l, err := tx.Layer()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]layer.Attributes{
		l.Root(): {Mode: 0o755}, l.in(layer.Var): {Mode: 0o755}, l.in(layer.Data): {Mode: 0o755}, l.Scratch(): {Mode: 0o755},
		l.in(layer.Log): log,
	} {
		info, err := os.Lstat(path)
		if err != nil || layer.AttributesOf(info) != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
}

// What is left of a layer's folder after the commit.
func TestCommittedLayer(t *testing.T) {
	w := newWorld(t)
	w.write("data/var/old", "")
	w.write("data/log/a.log", "old")
	w.change(func(tx *Tx) error {
		l, err := tx.Layer()
		if err != nil {
			return err
		}
		for _, path := range []string{l.Root(), l.in(layer.Var), l.in(layer.Log), l.in(layer.Data), l.Scratch(), l.in("work")} {
			err = errors.Join(err, os.MkdirAll(path, 0o755))
			err = errors.Join(err, os.WriteFile(filepath.Join(path, "a.log"), []byte("new"), 0o644))
		}
		err = errors.Join(err, unix.Mknod(l.in("var/old"), unix.S_IFCHR, 0), os.WriteFile(l.in("about.json"), nil, 0o644))
		return errors.Join(err, tx.Install(App{Name: "a", Version: "1", Layer: l.Number}))
	})
	w.wantFolder("data/apps/1", "about.json", "root")
	w.wantFolder("data/var", "a.log")
	w.wantFolder("data/shared", "a.log")
	for path, want := range map[string]string{"data/var/a.log": "new", "data/log/a.log": "old", "data/shared/a.log": "new"} {
		if data, err := os.ReadFile(w.path(path)); string(data) != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", path, data, err, want)
		}
	}
}

// When the newest generation turns out to be garbled, the one before it has its layers.
func TestFallBack(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"), w.installs("b", "1"))
	uninstall := func(t *Tx) error { return t.Uninstall("a") }
	w.change(uninstall, w.installs("a", "2"), uninstall)
	w.want("b.v1@2 | a.v2@3")
	w.wantFolder("data/apps", "1", "2", "3")
	w.write("data/generations/2.json", "garbled")
	if _, err := w.Current(); err == nil {
		t.Error("no error")
	}
	w.want("a.v1@1 b.v1@2 |")
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	var steps []func(*Tx) error
	for i := range MaxLayers {
		steps = append(steps, w.installs(fmt.Sprint("app-", i), "1"))
	}
	for i := range 25 {
		steps = append(steps, func(t *Tx) error { return t.Install(App{Name: fmt.Sprint("once-", i), Version: "1"}) })
	}
	w.change(steps...)
	g := w.current()
	if g.layers() != MaxLayers || len(g.Apps) != MaxLayers+20 || g.Apps[0].Name != "once-5" {
		t.Errorf("%d apps, %d with a layer, the first is %q", len(g.Apps), g.layers(), g.Apps[0].Name)
	}
	tx, err := w.Begin()
	if err != nil {
		t.Fatal(err)
	}
	err = w.add(tx, "one-more", "1")
	if err == nil || !strings.Contains(err.Error(), `install app "one-more": there are 40 apps already, which is the limit: uninstall one`) {
		t.Errorf("got %v", err)
	}
	if err := tx.Install(App{Name: "once", Version: "1"}); err != nil {
		t.Errorf("one that runs once: %v", err)
	}
	if err := w.add(tx, "app-7", "2"); err != nil {
		t.Errorf("an upgrade: %v", err)
	}
	if err := errors.Join(tx.Uninstall("app-1"), w.add(tx, "other", "1")); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback("app-1"); err == nil || !strings.Contains(err.Error(), `roll back app "app-1": there are 40 apps already`) {
		t.Errorf("got %v", err)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	// What is previous is bounded, too.
	w.change(func(t *Tx) error { return t.Uninstall("app-2") })
	for i := range 60 {
		name := fmt.Sprint("new-", i)
		w.change(w.installs(name, "1"))
		w.change(func(t *Tx) error { return t.Uninstall(name) })
	}
	g = w.current()
	if len(g.Previous) != 40 || g.Previous[0].Name != "new-20" || g.Previous[39].Name != "new-59" {
		t.Errorf("%d previous: %s", len(g.Previous), line(g))
	}
}

// The longest file that there can be is not too long.
func TestLongestFile(t *testing.T) {
	text := strings.Repeat("<", maxText) // six bytes each in JSON
	name := func(i int) string { return fmt.Sprint(i, text)[:maxText] }
	g := Generation{Number: 1, Last: 1 << 29}
	for i := range MaxLayers + maxOneOffs + maxPrevious {
		a := App{Name: name(i), Version: text, Program: true, Layer: 1<<29 - 200 + i, Since: 1<<29 - 200}
		if i < maxOneOffs {
			a.Layer, a.Since, a.Program = 0, 0, false
		}
		if i < maxOneOffs+MaxLayers {
			g.Apps = append(g.Apps, a)
		} else {
			g.Previous = append(g.Previous, a)
		}
	}
	for i := range maxHandled {
		g.Handled = append(g.Handled, name(i))
	}
	for i := range maxDone {
		g.Done = append(g.Done, Done{ID: name(i), Output: limited(strings.Repeat("\x01", 2*maxOutput)), Boot: text})
	}
	data, err := encode(g)
	if err != nil || len(data) > maxFile {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if got, err := decode(data, 1); err != nil || !reflect.DeepEqual(got, g) {
		t.Errorf("%v", err)
	}
	t.Logf("%d bytes", len(data))
}

// seal makes a file of the text of a generation.
func seal(text string) string {
	return fmt.Sprintf(`{"sha256":"%s","generation":%s}`, sum([]byte(text)), text)
}

func TestGarbled(t *testing.T) {
	good := `{"number":2,"last":1,"apps":[{"name":"a","version":"1","layer":1}]}`
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "unexpected end of JSON input"},
		{"zeros", strings.Repeat("\x00", 4096), "invalid character"},
		{"torn", seal(good)[:100], "unexpected end of JSON input"},
		{"huge", strings.Repeat(" ", maxFile) + seal(good), "has more than 1048576 bytes"},
		{"a bit", strings.Replace(seal(good), `"version":"1"`, `"version":"3"`, 1), "the SHA-256 is not that of the data"},
		{"more behind it", seal(good) + "x", "invalid character 'x'"},
		{"no sum", `{"generation":` + good + `}`, "the SHA-256 is not that of the data"},
		{"no generation", `{}`, "the SHA-256"},
		{"null", seal("null"), "it is generation 0"},
		{"an array", seal("[]"), "cannot unmarshal array"},
		{"another number", seal(strings.Replace(good, `"number":2`, `"number":3`, 1)), "it is generation 3"},
		{"a wrong type", seal(strings.Replace(good, `"last":1`, `"last":"1"`, 1)), "cannot unmarshal string"},
		{"a fraction", seal(strings.Replace(good, `"layer":1`, `"layer":1.5`, 1)), "cannot unmarshal number 1.5"},
		{"an app of null", seal(`{"number":2,"apps":[null]}`), `"" is no name of an app`},
		{"a negative layer", seal(strings.Replace(good, `"layer":1`, `"layer":-1`, 1)), "has layer -1"},
		{"since a layer of later", seal(`{"number":2,"last":2,"apps":[{"name":"a","layer":1,"since":2}]}`), "has layer 1 since 2"},
		{"since a negative layer", seal(`{"number":2,"last":2,"apps":[{"name":"a","since":-1}]}`), "since -1"},
		{"since a layer beyond the last", seal(`{"number":2,"last":2,"apps":[{"name":"a","since":3}]}`), "since 3"},
		{"a layer beyond the last", seal(strings.Replace(good, `"last":1`, `"last":0`, 1)), "has layer 1, the last one is 0"},
		{"one name twice", seal(`{"number":2,"last":2,"apps":[{"name":"a","layer":1},{"name":"a","layer":2}]}`), `"a" is there twice`},
		{"one layer twice", seal(`{"number":2,"last":2,"apps":[{"name":"a","layer":1},{"name":"b","layer":1}]}`), "has layer 1, as another one"},
		{"one layer previous, too", seal(`{"number":2,"last":2,"apps":[{"name":"a","layer":1}],"previous":[{"name":"a","layer":1}]}`), "has layer 1, as another one"},
		{"previous twice", seal(`{"number":2,"last":2,"previous":[{"name":"a","layer":1},{"name":"a","layer":2}]}`), `"a" is there twice as previous`},
		{"previous without a layer", seal(`{"number":2,"previous":[{"name":"a"}]}`), "without a layer"},
		{"another order", seal(`{"number":2,"last":2,"apps":[{"name":"a","layer":2},{"name":"b","layer":1}]}`), "not in the order of layers"},
		{"a program without a layer", seal(`{"number":2,"apps":[{"name":"a","program":true}]}`), "a program without a layer"},
		{"a path for a name", seal(`{"number":2,"apps":[{"name":"../../etc"}]}`), "is no name of an app"},
		{"a hidden name", seal(`{"number":2,"apps":[{"name":".a"}]}`), "is no name of an app"},
		{"a line for a name", seal(`{"number":2,"apps":[{"name":"a\nb"}]}`), "is no name of an app"},
		{"a merge of nothing", seal(`{"number":2,"last":2,"merge":[0]}`), "merge of layer 0"},
		{"a merge beyond the last", seal(`{"number":2,"last":2,"merge":[1,3]}`), "merge of layer 3"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			w := newWorld(t)
			w.change(w.installs("before", "1"))
			w.write("data/generations/2.json", tt.text)
			g, err := w.Current()
			if line(g) != "before.v1@1 |" || err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "2.json is garbled") {
				t.Errorf("%s, %v, want %q", line(g), err, tt.want)
			}
			w.wantFolder("data/generations", "1.json", "2.json.garbled")
			w.want("before.v1@1 |") // it is told once
			w.change(w.installs("next", "1"))
			w.want("before.v1@1 next.v1@2 |")
			w.wantFolder("data/generations", "1.json", "2.json.garbled", "3.json")
		})
	}
}

// Names of files that are no generations, and a folder in the place of one.
func TestOtherFiles(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"))
	for _, name := range []string{"01.json", "0.json", "-1.json", "x.json", "99999999999999999999.json", "7.json/in", "8.json.new", ".9.json.new"} {
		w.write("data/generations/"+name, "x")
	}
	if g, err := w.Current(); line(g) != "a.v1@1 |" || err == nil || !strings.Contains(err.Error(), "7.json is no regular file") {
		t.Errorf("%s, %v", line(g), err)
	}
	w.change(w.installs("b", "1"))
	w.wantFolder("data/generations", "1.json", "7.json.garbled", "8.json")
}

// A disk that cannot be read has not lost its apps: nothing is changed.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"))
	if err := os.Remove(w.path("data/generations/1.json")); err != nil {
		t.Fatal(err)
	}
	// A link to itself is an error of the system, as EIO is.
	if err := errors.Join(os.Rename(w.path("data/generations"), w.path("data/moved")), os.Symlink("generations", w.path("data/generations"))); err != nil {
		t.Fatal(err)
	}
	if g, err := w.Current(); !errors.Is(err, unix.ELOOP) || !errors.Is(err, ErrUnknown) || len(g.Apps) > 0 || g.Number != 0 {
		t.Errorf("current: %v, %v", g, err)
	}
	if _, err := w.Begin(); !errors.Is(err, unix.ELOOP) {
		t.Errorf("begin: %v", err)
	}
	if err := w.MakeRoom(1<<50, 0); err == nil {
		t.Error("make room: no error")
	}
	w.wantFolder("data/apps", "1")
}

// A process that has no more files says nothing about the apps, and a garbled file does.
func TestUnknown(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Current(); err != nil {
		t.Error(err)
	}
	w.change(w.installs("a", "1"))
	w.change(w.installs("b", "1"))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	g, err := w.Current()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrUnknown) || !errors.Is(err, unix.EMFILE) || g.Number != 0 {
		t.Errorf("%v, %v", g, err)
	}
	w.want("a.v1@1 b.v1@2 |")
	w.write("data/generations/2.json", "garbled")
	if g, err := w.Current(); line(g) != "a.v1@1 |" || err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("%s, %v", line(g), err)
	}
}

func TestMissingLayer(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"), w.installs("b", "1"))
	w.change(w.installs("a", "2"))
	if err := os.RemoveAll(w.layerPath(3)); err != nil {
		t.Fatal(err)
	}
	g, err := w.Current()
	if line(g) != "b.v1@2 | a.v1@1" || err == nil || err.Error() != "app a version 2 is not there any more: it has no layer 3" {
		t.Errorf("%s, %v", line(g), err)
	}
	w.change(func(t *Tx) error { return t.Rollback("a") })
	w.want("a.v1@1 b.v1@2 |")
}

// What a newer firmware says besides is kept.
func TestUnknownFields(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"), w.installs("b", "1"))
	text := `{"number":2,"last":2,"apps":[{"name":"a","version":"1","layer":1,"color":{"x": [1]}},{"name":"b","version":"1","layer":2,"color":"green"}],` +
		`"done":[{"id":"j","took":1.50}],"signed":[true,null],"a<b":"<&>"}`
	w.write("data/generations/2.json", seal(text))
	w.change(w.installs("b", "2"))
	data, err := os.ReadFile(w.path("data/generations/3.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Generation any }
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal([]byte(`{"number":3,"last":3,"apps":[{"name":"a","version":"1","layer":1,"since":1,"color":{"x": [1]}},{"name":"b","version":"2","layer":3,"since":2,"program":true}],`+
		`"previous":[{"name":"b","version":"1","layer":2,"since":2,"color":"green"}],"merge":[3],"done":[{"id":"j","took":1.50}],"signed":[true,null],"a<b":"<&>"}`), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Generation, want) {
		t.Errorf("got\n%v\nwant\n%v", got.Generation, want)
	}
	w.want("a.v1@1 b.v2@3 | b.v1@2")
}

func FuzzDecode(f *testing.F) {
	for _, g := range []Generation{
		{Number: 1},
		{Number: 1, Last: 3, Apps: []App{{Name: "o", Version: "1"}, {Name: "a", Version: "2", Layer: 3, Program: true}}, Previous: []App{{Name: "a", Version: "1", Layer: 1}},
			Merge: []int{3}, Handled: []string{"a.v1.tar.gz"}, Done: []Done{{ID: "1", Output: "x", Reboot: true, Boot: "b"}}},
	} {
		data, err := json.Marshal(g)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"number":1,"Number":1,"x":{"a":[]},"apps":[{"name":"a","\u0000":1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := decode([]byte(seal(string(text))), 1)
		if err != nil {
			return
		}
		// Whatever it is, it can be worked with, and written as it was.
		data, err := encode(g)
		if err != nil {
			if errors.Is(err, errTooLong) {
				return
			}
			t.Fatal(err)
		}
		again, err := decode(data, 1)
		if err != nil || !reflect.DeepEqual(normal(again), normal(g)) {
			t.Fatalf("%v\n%+v\n%+v\n%s", err, g, again, data)
		}
		for _, a := range slices.Concat(g.Apps, g.Previous) {
			if filepath.Base(a.Name) != a.Name || a.Layer < 0 || a.Layer > g.Last {
				t.Errorf("%+v", a)
			}
			_, _ = g.App(a.Name)
			next := g.clone()
			_, _ = next.rollback(a.Name), next.uninstall(a.Name)
			if err := next.limit(); err != nil && next.layers() <= MaxLayers {
				t.Errorf("%+v becomes %+v: %v", g, next, err)
			}
		}
	})
}

// normal has no difference between an empty list and none.
func normal(g Generation) string {
	data, _ := json.Marshal(g)
	return string(data)
}

func TestLock(t *testing.T) {
	w := newWorld(t)
	unlock, err := w.Lock(t.Context(), func() { t.Error("it waits") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 250*time.Millisecond, errors.New("the end of the test"))
	defer cancel()
	waits := 0
	if _, err := w.Lock(ctx, func() { waits++ }); err == nil || !strings.Contains(err.Error(), "run/gwe/apps.lock: the end of the test") {
		t.Errorf("got %v", err)
	}
	got := make(chan error)
	go func() {
		unlock, err := w.Lock(t.Context(), func() { waits++; unlock() })
		if err == nil {
			unlock()
		}
		got <- err
	}()
	if err := <-got; err != nil || waits != 2 {
		t.Errorf("%v, waited %d times", err, waits)
	}
}

func TestMounted(t *testing.T) {
	const folder = "/data/apps"
	for _, tt := range []struct{ options, want string }{
		{"rw,lowerdir=/data/apps/12/root:/data/apps/9/root:/,upperdir=/data/apps/rw/7/root,workdir=/data/apps/rw/7/work", "[9 12] [7]"},
		{"rw,lowerdir=12/root:9/root:/,upperdir=rw/9/root,workdir=rw/9/work,index=off", "[9 12] [9]"},
		{"ro,lowerdir+=/data/apps/3/root,lowerdir+=/data/apps/4/root,lowerdir+=/", "[3 4] []"},
		{`rw,lowerdir=/data/apps/5/root:/,upperdir=/data/apps/rw/a\040b/root`, "[5] []"},
		{`rw,lowerdir=/data/apps/5/\134:\054\040:/data/apps/6/root,upperdir=/data/apps/rw/5`, "[5 6] [5]"},
		{"rw,lowerdir=/,upperdir=/data/apps/7/var,workdir=/data/apps/7/work/var", "[7] []"},
		{"rw,lowerdir=/data/apps2/7/root:/data/apps:/data/apps/x/root:/data,upperdir=/data/gwe", "[] []"},
		{"rw,lowerdir=/data/apps/../apps/8/root", "[8] []"},
		{`rw,lowerdir=\:\04`, "[] []"},
		{"rw,lowerdir", "[] []"},
	} {
		text := "22 1 8:1 / / rw - ext4 /dev/root rw\n40 22 0:40 / /run/x rw,relatime shared:1 - overlay overlay " + tt.options + "\nrubbish\n41 22 0:41 / /y rw - tmpfs overlay rw,lowerdir=/data/apps/99/root\n"
		u := mounted(text, folder)
		var layers []int
		for n := range u.layers {
			layers = append(layers, n)
		}
		slices.Sort(layers)
		if got := fmt.Sprint(layers, slices.Sorted(maps.Keys(u.uppers))); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.options, got, tt.want)
		}
	}
}

// A real overlay keeps what it uses.
func TestInUse(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"), w.installs("b", "1"))
	for _, name := range []string{"1", "70"} {
		w.write("data/apps/rw/"+name+"/root/x", "")
		w.write("data/apps/rw/"+name+"/work/x", "")
	}
	at := w.path("mounted")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("lowerdir=%s:%s,upperdir=%s,workdir=%s", filepath.Join(w.layerPath(1), "root"), filepath.Join(w.layerPath(2), "root"), w.path("data/apps/rw/70/root"), w.path("data/apps/rw/70/work"))
	if err := unix.Mount("overlay", at, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	unmounted := false
	defer func() {
		if !unmounted {
			_ = unix.Unmount(at, 0)
		}
	}()
	w.change(w.installs("a", "2"))
	w.change(w.installs("a", "3"))
	w.change(w.installs("a", "4"))
	w.wantFolder("data/apps", "1", "2", "72", "73", "rw") // 72 is previous, and 70 was no number any more
	w.wantFolder("data/apps/rw", "1", "70")
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	unmounted = true
	if err := w.Collect(); err != nil {
		t.Fatal(err)
	}
	w.wantFolder("data/apps", "2", "72", "73", "rw")
	w.wantFolder("data/apps/rw", "1")
}

func TestMakeRoom(t *testing.T) {
	w := newWorld(t)
	// What is free is what the files leave of some capacity.
	capacity := int64(100 << 20)
	w.free = func() (room, error) { return room{capacity, 1 << 20}.minus(size(w.path("data/apps"))), nil }
	big := func(name, version string) func(*Tx) error {
		return func(t *Tx) error {
			if err := w.add(t, name, version); err != nil {
				return err
			}
			made := t.Made()
			return os.WriteFile(filepath.Join(made[len(made)-1].Root(), "big"), make([]byte, 10<<20), 0o644)
		}
	}
	w.change(big("a", "1"), big("b", "1"), big("c", "1"))
	w.change(big("a", "2"), big("c", "2"))
	w.change(func(t *Tx) error { return t.Uninstall("b") })
	w.write("data/apps/rw/2/root/big", strings.Repeat("b", 10<<20))
	w.change(func(t *Tx) error { return nil })
	w.want("a.v2@4 c.v2@5 | a.v1@1 c.v1@3 b.v1@2") // 60 MiB with rw
	free, err := w.free()
	if err != nil || free.bytes > 40<<20 || free.bytes < 39<<20 {
		t.Fatal(free, err)
	}
	makeRoom := func(need int64, want string) {
		t.Helper()
		if err := w.MakeRoom(need, 1); err != nil {
			t.Error(err)
		}
		w.want(want)
	}
	makeRoom(35<<20, "a.v2@4 c.v2@5 | a.v1@1 c.v1@3 b.v1@2")
	// What cannot be had is refused, and nothing is lost for it.
	err = w.MakeRoom(90<<20, 1)
	if err == nil || err.Error() != "it needs 99 MB of /data, 41 MB are free" {
		t.Errorf("got %v", err)
	}
	makeRoom(40<<20, "a.v2@4 c.v2@5 | c.v1@3 b.v1@2")
	w.wantFolder("data/apps", "2", "3", "4", "5", "rw")
	w.mounts = func() (string, error) { // a program of c has not ended
		return "1 1 0:1 / /x rw - overlay overlay rw,lowerdir=3/root:/\n", nil
	}
	makeRoom(60<<20, "a.v2@4 c.v2@5 | c.v1@3")
	w.wantFolder("data/apps", "3", "4", "5", "rw")
	w.wantFolder("data/apps/rw")
	if err := w.MakeRoom(70<<20, 1); err == nil {
		t.Error("no error")
	}
	w.mounts = nil
	makeRoom(70<<20, "a.v2@4 c.v2@5 |")

	w.free = nil // the real one
	if err := w.MakeRoom(1, 1); err != nil {
		t.Error(err)
	}
	if err := w.MakeRoom(1<<60, 1); err == nil || !strings.Contains(err.Error(), "MB are free") {
		t.Errorf("got %v", err)
	}
}

// Small files fill a disk, too, and what a command goes back to is not forgotten for
// what it installs.
func TestMakeRoomForFiles(t *testing.T) {
	w := newWorld(t)
	var inodes int64
	w.free = func() (room, error) { return room{1 << 30, inodes}.minus(size(w.path("data/apps"))), nil }
	for _, version := range []string{"1", "2"} {
		w.change(w.installs("a", version), w.installs("b", version), w.installs("c", version))
	}
	w.change(func(t *Tx) error { return t.Uninstall("b") })
	for i := range 100 {
		w.write(fmt.Sprintf("data/apps/rw/2/root/%d", i), "written by b")
	}
	w.change(func(t *Tx) error { return nil })
	w.want("a.v2@4 c.v2@6 | a.v1@1 c.v1@3 b.v2@5")
	used := size(w.path("data/apps")).inodes
	inodes = used + 1000 + 10
	for _, tt := range []struct {
		need       int64
		keep       []string
		want, fail string
	}{
		{10, nil, "a.v2@4 c.v2@6 | a.v1@1 c.v1@3 b.v2@5", ""},
		{200, nil, "a.v2@4 c.v2@6 | a.v1@1 c.v1@3 b.v2@5", "it needs 1200 inodes of /data, for files and folders, and 1010 are free"},
		{20, []string{"b"}, "a.v2@4 c.v2@6 | a.v1@1 c.v1@3 b.v2@5", "it needs 1020 inodes"},
		{11, []string{"a"}, "a.v2@4 c.v2@6 | a.v1@1 b.v2@5", ""},
		{100, []string{"a", "c"}, "a.v2@4 c.v2@6 | a.v1@1", ""},
		{120, []string{"other"}, "a.v2@4 c.v2@6 |", ""},
	} {
		err := w.MakeRoom(1, tt.need, tt.keep...)
		if tt.fail == "" && err != nil || tt.fail != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.fail)) {
			t.Errorf("%d but %q: %v, want %q", tt.need, tt.keep, err, tt.fail)
		}
		w.want(tt.want)
	}
	// A file system without a count has room for any.
	if err := unix.Mount("test", w.path("data"), "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(w.path("data"), 0)
	w.free = nil
	free, err := w.freeRoom()
	if err != nil || free.inodes < 1<<60 {
		t.Errorf("%+v, %v", free, err)
	}
}

// What an app has written is for one installation of it: an upgrade and a rollback
// keep it, and the app that is installed anew begins without.
func TestSince(t *testing.T) {
	w := newWorld(t)
	rollback := func(t *Tx) error { return t.Rollback("a") }
	uninstall := func(t *Tx) error { return t.Uninstall("a") }
	once := func(t *Tx) error { return t.Install(App{Name: "a", Version: "once"}) }
	w.change(w.installs("b", "1"))
	step := func(do func(*Tx) error, since int, uppers ...string) {
		t.Helper()
		w.change(do)
		a, ok := w.current().App("a")
		if ok != (since != 0) || a.Since != since {
			t.Errorf("%+v, want since %d", a, since)
		}
		if ok {
			if got, want := w.Upper(a), w.path("data/apps/rw", fmt.Sprint(since)); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			w.write(fmt.Sprintf("data/apps/rw/%d/root/x", since), "x")
			if a.Layer > 0 {
				w.write(fmt.Sprintf("data/apps/rw/%d/aside/%d/x", since, a.Layer), "x")
			}
		}
		if err := w.Collect(); err != nil {
			t.Error(err)
		}
		w.wantFolder("data/apps/rw", uppers...)
	}
	step(w.installs("a", "1"), 2, "2")
	step(w.installs("a", "2"), 2, "2")
	w.wantFolder("data/apps/rw/2/aside", "2", "3")
	step(w.installs("a", "3"), 2, "2")
	w.wantFolder("data/apps/rw/2/aside", "3", "4") // 2 cannot be rolled back to
	step(rollback, 2, "2")
	w.wantFolder("data/apps/rw/2/aside", "3", "4")
	step(uninstall, 0, "2")
	step(w.installs("a", "5"), 5, "2", "5")
	step(rollback, 2, "2", "5")
	step(rollback, 5, "2", "5")
	step(w.installs("a", "6"), 5, "5")
	step(once, 5, "5")
	w.wantFolder("data/apps/rw/5/aside", "6")
	step(w.installs("a", "7"), 5, "5")
	step(w.installs("a", "8"), 5, "5")
	step(uninstall, 0, "5")
	w.change(once)
	if a, ok := w.current().App("a"); !ok || a.Since != 0 {
		t.Errorf("%+v, %v", a, ok)
	}
	step(w.installs("a", "9"), 9, "5", "9")
}

// A program's files are not replaced by what they were when the installer ran.
func TestProgramsGoOn(t *testing.T) {
	w := newWorld(t)
	w.write("data/shared/db", "old")
	w.write("data/shared/unchanged", "same")
	w.write("data/var/lib/conf", "old")
	w.write("data/log/a.log", "old")
	// A tick of the file system's clock, or a change would not be seen.
	pause := func() { time.Sleep(20 * time.Millisecond) }
	before, err := os.Stat(w.path("data/shared/db"))
	if err != nil {
		t.Fatal(err)
	}
	var twelve []string
	for i := range 12 {
		twelve = append(twelve, fmt.Sprintf("data/shared/many/%02d", i))
		w.write(twelve[i], "old")
	}
	var kept []string
	w.change(func(tx *Tx) error {
		l, err := tx.Layer()
		if err != nil {
			return err
		}
		pause()
		below := "data/apps/1/"
		for path, data := range map[string]string{"data/db": "old", "data/unchanged": "same", "var/lib/conf": "the installer's", "log/a.log": "the installer's"} {
			w.write(below+path, data)
			if err := os.Chown(l.in(path), 5, 6); err != nil {
				return err
			}
		}
		for _, path := range twelve {
			w.write(below+strings.Replace(path, "shared", "", 1), "old")
		}
		for _, path := range append(twelve, "data/shared/db", "data/var/lib/conf") {
			w.write(path, "a program's")
		}
		if kept, err = tx.Yield(); err != nil {
			return err
		}
		return tx.Install(App{Name: "a", Version: "1", Layer: l.Number})
	})
	w.wantFolder("data/apps/1", "root")
	for path, want := range map[string]string{"data/shared/db": "a program's", "data/shared/unchanged": "same", "data/var/lib/conf": "a program's", "data/log/a.log": "old", twelve[11]: "a program's"} {
		if data, err := os.ReadFile(w.path(path)); string(data) != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", path, data, err, want)
		}
		info, err := os.Stat(w.path(path))
		if err != nil {
			t.Fatal(err)
		}
		if owner := layer.AttributesOf(info).UID; (owner == 5) != (path != "data/log/a.log" && path != twelve[11]) {
			t.Errorf("%s is of %d", path, owner)
		}
		if path == "data/shared/db" && !os.SameFile(before, info) {
			t.Error("who has the file open has another one now")
		}
	}
	if len(kept) != 14 || kept[0] != "/data/db" || kept[1] != "/data/many/00" || kept[13] != "/var/lib/conf" || len(w.logs) > 0 {
		t.Errorf("kept %q, logged %q", kept, w.logs)
	}
}

// Of two installers of a change the last one has its way, and a program before both.
func TestInstallersGoOn(t *testing.T) {
	w := newWorld(t)
	w.write("data/var/conf", "old")
	w.write("data/var/between", "old")
	var kept []string
	w.change(func(tx *Tx) (err error) {
		for i := range 2 {
			time.Sleep(20 * time.Millisecond)
			l, err := tx.Layer()
			if err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
			w.write(fmt.Sprintf("data/apps/%d/var/conf", l.Number), fmt.Sprint("of ", l.Number))
			w.write(fmt.Sprintf("data/apps/%d/var/between", l.Number), fmt.Sprint("of ", l.Number))
			if err := tx.Install(App{Name: fmt.Sprint("app-", i), Version: "1", Layer: l.Number}); err != nil {
				return err
			}
			if i == 0 { // the second installer knows only what the first one has made of it
				w.write("data/var/between", "a program's")
			}
		}
		kept, err = tx.Yield()
		return err
	})
	for path, want := range map[string]string{"data/var/conf": "of 2", "data/var/between": "a program's"} {
		if data, err := os.ReadFile(w.path(path)); string(data) != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", path, data, err, want)
		}
	}
	if !slices.Equal(kept, []string{"/var/between"}) {
		t.Errorf("kept %q", kept)
	}
}

// faulty is a disk that fails at one call of a kind.
type faulty struct {
	layer.OS
	write, sync, folder error
	after               bool // the file is there all the same
}

func (f *faulty) WriteFile(path string, data []byte, mode os.FileMode) error {
	if filepath.Ext(path) != suffix {
		return f.OS.WriteFile(path, data, mode)
	}
	err := f.write
	f.write = nil
	if err == nil || f.after {
		err = errors.Join(err, f.OS.WriteFile(path, data, mode))
	}
	return err
}

func (f *faulty) Sync(dir string) error {
	if f.sync != nil {
		return f.sync
	}
	return f.OS.Sync(dir)
}

// A commit that fails has changed nothing.
func TestCommitFails(t *testing.T) {
	broken := errors.New("broken")
	for name, disk := range map[string]*faulty{
		"sync":                   {sync: broken},
		"write":                  {write: broken},
		"write, and it is there": {write: broken, after: true},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			w := newWorld(t)
			w.change(w.installs("a", "1"))
			w.disk = disk
			tx, err := w.Begin()
			if err != nil {
				t.Fatal(err)
			}
			if err := w.add(tx, "a", "2"); err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(); !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
			w.want("a.v1@1 |")
			tx.Abort()
			w.want("a.v1@1 |")
			w.wantFolder("data/apps", "1")
			w.wantFolder("data/generations", "1.json")
		})
	}
}

// On a full disk the generation before the last goes, if that helps.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"))
	w.change(w.installs("b", "1"))
	disk := &faulty{write: &os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}}
	w.disk = disk
	w.change(func(t *Tx) error { return t.Uninstall("a") })
	w.want("b.v1@2 | a.v1@1")
	w.wantFolder("data/generations", "2.json", "3.json")
	disk.write = nil
}

// What cannot be merged is tried again, and stops nothing.
func TestMergeLater(t *testing.T) {
	w := newWorld(t)
	w.write("data/var/x", "old")
	w.write("data/file", "in the way")
	if err := os.Symlink("file", w.path("data/shared")); err != nil {
		t.Fatal(err)
	}
	w.change(func(tx *Tx) error {
		l, err := tx.Layer()
		if err == nil {
			err = errors.Join(os.WriteFile(l.in("var/x"), []byte("new"), 0o644), os.WriteFile(l.in("data/y"), []byte("new"), 0o644))
		}
		return errors.Join(err, tx.Install(App{Name: "once", Version: "1"}))
	})
	if data, err := os.ReadFile(w.path("data/var/x")); string(data) != "new" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if got := strings.Join(w.logs, "\n"); !strings.Contains(got, "data/shared is no folder") {
		t.Errorf("logged %s", got)
	}
	w.change(w.installs("a", "1"))
	w.wantFolder("data/apps", "1", "2")
	w.wantFolder("data/apps/1", "data", "root")
	if err := os.Remove(w.path("data/shared")); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(); err != nil {
		t.Error(err)
	}
	w.logs = nil
	w.change(w.installs("b", "1"))
	if data, err := os.ReadFile(w.path("data/shared/y")); string(data) != "new" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if g := w.current(); len(g.Merge) != 1 || g.Merge[0] != 3 || len(w.logs) > 0 {
		t.Errorf("%+v, logged %q", g, w.logs)
	}
	w.wantFolder("data/apps", "2", "3")
}

// A layer of a garbled generation is not mistaken for a new one.
func TestNumbersAfterGarbled(t *testing.T) {
	w := newWorld(t)
	w.change(w.installs("a", "1"))
	w.change(w.installs("a", "2"))
	w.write("data/generations/2.json", "garbled")
	w.logs = nil
	w.change(w.installs("b", "1"))
	w.want("a.v1@1 b.v1@3 |")
	w.wantFolder("data/apps", "1", "3")
	w.wantFolder("data/generations", "1.json", "2.json.garbled", "3.json")
}

// 40 apps: a commit with nothing to sync but the generation, and reading it.
func BenchmarkCommitAndCurrent(b *testing.B) {
	w := newWorld(b)
	var steps []func(*Tx) error
	for i := range MaxLayers {
		steps = append(steps, w.installs(fmt.Sprint("app-", i), "1"))
	}
	w.change(steps...)
	for i := 0; b.Loop(); i++ {
		w.change(func(t *Tx) error { t.Done(Done{ID: fmt.Sprint(i), Output: "output"}); return nil })
		if g := w.current(); g.layers() != MaxLayers {
			b.Fatal(g)
		}
	}
}

func BenchmarkCurrent(b *testing.B) {
	w := newWorld(b)
	var steps []func(*Tx) error
	for i := range MaxLayers {
		steps = append(steps, w.installs(fmt.Sprint("app-", i), "1"))
	}
	w.change(steps...)
	b.ReportAllocs()
	for b.Loop() {
		w.current()
	}
}
