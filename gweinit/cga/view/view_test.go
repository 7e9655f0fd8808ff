package view

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// gateway makes the files of one.
func gateway(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "view") // of a name that mount takes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{"run/apps/.gwe", "tmp", "data/var/log", "data/log", "data/shared/gwe", "base/etc", "base/proc", "base/sys", "base/dev", "base/run", "base/tmp", "base/var", "base/data", "base/usr"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{
		"base/etc/app.conf": "firmware", "data/shared/x": "shared", "data/log/y": "log", "run/apps/.gwe/Gateway.cfg": "cfg", "data/secret": "secret",
	} {
		write(t, filepath.Join(dir, file), text)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "none"
	}
	return string(text)
}

func mounted(t *testing.T, dir string) (n int) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), " "+dir)
}

// TestProgramRoots follows an app through upgrade, rollback and removal.
func TestProgramRoots(t *testing.T) {
	dir := gateway(t)
	r := ProgramRoots{Gateway: dir}
	t.Cleanup(func() { r.Keep(nil) })
	layer := func(number int, conf string) Stack {
		root := filepath.Join(dir, "data/apps", fmt.Sprint(number), "root")
		write(t, filepath.Join(root, "etc/app.conf"), conf)
		write(t, filepath.Join(root, "usr/lib/app", fmt.Sprint("only", number)), conf)
		return Stack{App: "app", Layer: number, Root: root, Lower: []string{filepath.Join(dir, "base"), root}, Upper: Upper{filepath.Join(dir, "data/apps/rw/1")}}
	}
	one, two := layer(1, "of 1"), layer(2, "of 2")
	in := func(path string) string { return filepath.Join(ProgramRoot(dir, "app"), path) }
	see := func(path, want string) {
		t.Helper()
		if got := read(in(path)); got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
	if err := r.Make(one, true); err != nil {
		t.Fatal(err)
	}
	see("etc/app.conf", "of 1")
	see("data/x", "shared")
	see("data/gwe/Gateway.cfg", "cfg")
	see("data/secret", "none")
	see("var/log/y", "log")
	if err := os.WriteFile(in("data/gwe/Gateway.cfg"), nil, 0o644); err == nil {
		t.Error("the settings can be written")
	}
	if info, err := os.Stat(in("dev/null")); err != nil || info.Mode()&fs.ModeDevice == 0 {
		t.Errorf("there is no /dev/null: %v", err)
	}
	// The app at work.
	write(t, in("etc/app.conf"), "changed by 1")
	write(t, in("etc/own"), "own")
	write(t, in("usr/lib/app/only2"), "made by 1")
	write(t, in("data/x"), "shared by 1")
	os.Remove(in("usr/lib/app/only1"))

	if err := r.Make(two, false); err != nil {
		t.Fatal(err)
	}
	see("etc/app.conf", "changed by 1") // something of it is up
	if err := r.Make(two, true); err != nil {
		t.Fatal(err)
	}
	see("etc/app.conf", "of 2")
	see("usr/lib/app/only2", "of 2")
	see("etc/own", "own")
	see("data/x", "shared by 1")
	write(t, in("etc/app.conf"), "changed by 2")
	if err := r.Make(one, true); err != nil {
		t.Fatal(err)
	}
	see("etc/app.conf", "changed by 1")
	see("etc/own", "own")
	see("usr/lib/app/only2", "made by 1")
	see("usr/lib/app/only1", "of 1") // no longer removed: that was before the layer came again
	if err := r.Make(two, true); err != nil {
		t.Fatal(err)
	}
	see("etc/app.conf", "changed by 2")
	if err := r.Keep([]string{"other"}); err != nil {
		t.Error(err)
	}
	if n := mounted(t, dir); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
	if read(filepath.Join(dir, "data/shared/x")) != "shared by 1" || read(filepath.Join(dir, "base/etc/app.conf")) != "firmware" {
		t.Error("what is the gateway's has changed")
	}
}

// TestOpaque: a folder that an app has removed and made again does not hide what a
// new version brings there.
func TestOpaque(t *testing.T) {
	dir := gateway(t)
	u := Upper{filepath.Join(dir, "data/apps/rw/1")}
	write(t, filepath.Join(u.Root(), "usr/lib/old"), "old")
	if err := unix.Setxattr(filepath.Join(u.Root(), "usr/lib"), opaque, []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "data/apps/2/root")
	write(t, filepath.Join(root, "usr/lib/new"), "new")
	if err := u.Settle(2, root); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Getxattr(filepath.Join(u.Root(), "usr/lib"), opaque, nil); err != unix.ENODATA {
		t.Errorf("it still hides: %d, %v", n, err)
	}
	if read(filepath.Join(u.Root(), "usr/lib/old")) != "old" {
		t.Error("the app's own file is gone")
	}
}

// TestReplacedMountPoint: a link in a folder's place must not lead a mount out.
func TestReplacedMountPoint(t *testing.T) {
	dir := gateway(t)
	r := ProgramRoots{Gateway: dir}
	root := filepath.Join(dir, "data/apps/1/root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(root, "tmp")); err != nil {
		t.Fatal(err)
	}
	err := r.Make(Stack{App: "app", Layer: 1, Root: root, Lower: []string{filepath.Join(dir, "base"), root}, Upper: Upper{filepath.Join(dir, "data/apps/rw/1")}}, true)
	if err == nil || !strings.Contains(err.Error(), "/tmp") {
		t.Errorf("error %v", err)
	}
	if n := mounted(t, dir); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

// TestTooManyLayers do not fit into the kernel's options, and the error says so.
func TestTooManyLayers(t *testing.T) {
	var lower []string
	for n := range 41 {
		lower = append(lower, fmt.Sprintf("/data/apps/%d/root", 100000+n))
	}
	if _, err := Overlay("", lower, "/data/apps/rw/100000/root", "/data/apps/rw/100000/work"); err != nil {
		t.Errorf("forty: %v", err)
	}
	if _, err := Overlay("", slices.Repeat(lower, 10), "/u", "/w"); err == nil {
		t.Error("four hundred are taken")
	}
	if _, err := Overlay("", []string{"/a:b"}, "/u", "/w"); err == nil {
		t.Error("a colon is taken")
	}
}

// TestSettleAfterPowerCuts cuts the power in each step of the change to another
// layer: what Settle then makes is as without.
func TestSettleAfterPowerCuts(t *testing.T) {
	layers := func(t *testing.T, dir string) (u Upper, one, two string) {
		u = Upper{filepath.Join(dir, "data/apps/rw/1")}
		one, two = filepath.Join(dir, "data/apps/1/root"), filepath.Join(dir, "data/apps/2/root")
		for _, root := range []string{one, two} {
			write(t, filepath.Join(root, "etc/a"), root)
			write(t, filepath.Join(root, "etc/b"), root)
		}
		return u, one, two
	}
	cuts := 0
	for cut := 1; ; cut++ {
		dir := gateway(t)
		u, one, two := layers(t, dir)
		do := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		do(u.Settle(1, one))
		write(t, filepath.Join(u.Root(), "etc/a"), "a of 1")
		write(t, filepath.Join(u.Root(), "etc/b"), "b of 1")
		write(t, filepath.Join(u.Root(), "own"), "own")
		do(u.Settle(2, two))
		write(t, filepath.Join(u.Root(), "etc/a"), "a of 2")
		// Back to 1, with a power cut.
		steps, done := 0, false
		func() {
			defer func() {
				if r := recover(); r != nil && r != "power" {
					panic(r)
				}
			}()
			step = func() {
				if steps++; steps == cut {
					panic("power")
				}
			}
			defer func() { step = func() {} }()
			do(u.Settle(1, one))
			done = true
		}()
		cuts++
		do(u.Settle(1, one))
		for file, want := range map[string]string{"etc/a": "a of 1", "etc/b": "b of 1", "own": "own"} {
			if got := read(filepath.Join(u.Root(), file)); got != want {
				t.Errorf("power cut in step %d: %s has %q, want %q", cut, file, got, want)
			}
		}
		do(u.Settle(2, two))
		for file, want := range map[string]string{"etc/a": "a of 2", "etc/b": "none", "own": "own"} {
			if got := read(filepath.Join(u.Root(), file)); got != want {
				t.Errorf("power cut in step %d, and then to 2: %s has %q, want %q", cut, file, got, want)
			}
		}
		if done {
			break
		}
	}
	if cuts < 6 {
		t.Errorf("only %d cuts", cuts)
	}
	t.Logf("%d power cuts", cuts)
}

// cutAt does something, and has the power go before a step of it, unless that many
// are not needed. It says whether it was done.
func cutAt(t *testing.T, cut int, do func() error) (done bool) {
	t.Helper()
	steps := 0
	step = func() {
		if steps++; steps == cut {
			panic("power")
		}
	}
	defer func() {
		step = func() {}
		if r := recover(); r != nil && r != "power" {
			panic(r)
		}
	}()
	if err := do(); err != nil {
		t.Error(err)
	}
	return true
}

// TestSettleForAnother: after a power cut in the change to a new layer the next one is
// back to the old one, as the generation was not switched, or to a third. The power
// may go in that, too.
func TestSettleForAnother(t *testing.T) {
	type files map[string]string
	cuts := 0
	try := func(first, second int, back bool) (done1, done2 bool) {
		dir := gateway(t)
		defer os.RemoveAll(dir)
		u := Upper{filepath.Join(dir, "data/apps/rw/1")}
		root := func(n int) string { return filepath.Join(dir, "data/apps", fmt.Sprint(n), "root") }
		for n, names := range map[int][]string{1: {"etc/a"}, 2: {"etc/a", "etc/b", "lib/c"}, 3: {"etc/a", "new"}} {
			for _, name := range names {
				write(t, filepath.Join(root(n), name), "of the layer")
			}
		}
		want := func(when string, want files) {
			t.Helper()
			for file, want := range want {
				if got := read(filepath.Join(u.Root(), file)); got != want {
					t.Errorf("cuts in steps %d and %d, %s: %s has %q, want %q", first, second, when, file, got, want)
				}
			}
		}
		settle := func(n int) {
			t.Helper()
			if err := u.Settle(n, root(n)); err != nil {
				t.Fatal(err)
			}
		}
		settle(1)
		one := files{"etc/a": "a of 1", "etc/b": "b of 1", "lib/c": "c of 1", "own": "own"}
		for file, text := range one {
			write(t, filepath.Join(u.Root(), file), text)
		}
		done1 = cutAt(t, first, func() error { return u.Settle(2, root(2)) })
		cuts++
		if back {
			done2 = cutAt(t, second, func() error { return u.Settle(1, root(1)) })
			settle(1)
			want("back to 1", one)
		} else {
			done2 = cutAt(t, second, func() error { return u.Settle(3, root(3)) })
			settle(3)
			want("on to 3", files{"etc/a": "none", "own": "own"})
			write(t, filepath.Join(u.Root(), "etc/a"), "a of 3")
			settle(1)
			want("from 3 to 1", one)
		}
		settle(2)
		want("then to 2", files{"etc/a": "none", "etc/b": "none", "lib/c": "none", "own": "own"})
		write(t, filepath.Join(u.Root(), "etc/a"), "a of 2")
		settle(1)
		want("then to 1", one)
		settle(2)
		want("then again to 2", files{"etc/a": "a of 2", "etc/b": "none", "lib/c": "none", "own": "own"})
		return done1, done2
	}
	for _, back := range []bool{true, false} {
		for first := 1; ; first++ {
			var done1, done2 bool
			for second := 1; !done2; second++ {
				done1, done2 = try(first, second, back)
			}
			if done1 {
				break
			}
		}
	}
	if cuts < 80 {
		t.Errorf("only %d cuts", cuts)
	}
	t.Logf("%d power cuts", cuts)
}

// TestRootsAtOnce: an app with much to be put aside does not keep another one waiting.
func TestRootsAtOnce(t *testing.T) {
	dir := gateway(t)
	r := ProgramRoots{Gateway: dir}
	t.Cleanup(func() { r.Keep(nil) })
	stack := func(app string, number int) Stack {
		root := filepath.Join(dir, "data/apps", fmt.Sprint(number), "root")
		write(t, filepath.Join(root, "usr", app), app)
		return Stack{App: app, Layer: number, Root: root, Lower: []string{filepath.Join(dir, "base"), root}, Upper: Upper{filepath.Join(dir, "data/apps/rw", fmt.Sprint(number))}}
	}
	slow, fast, gone := stack("slow", 1), stack("fast", 2), stack("gone", 3)
	if err := r.Make(gone, true); err != nil {
		t.Fatal(err)
	}
	begun, goOn := make(chan bool), make(chan bool)
	var first atomic.Bool
	step = func() {
		if first.CompareAndSwap(false, true) {
			close(begun)
			<-goOn
		}
	}
	defer func() { step = func() {} }()
	made := make(chan error)
	go func() { made <- r.Make(slow, true) }()
	<-begun
	if err := r.Make(fast, true); err != nil {
		t.Error(err)
	}
	if err := r.Keep([]string{"slow", "fast"}); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-made; err != nil {
		t.Error(err)
	}
	for app, want := range map[string]string{"slow": "slow", "fast": "fast", "gone": "none"} {
		if got := read(filepath.Join(ProgramRoot(dir, app), "usr", app)); got != want {
			t.Errorf("%s has %q", app, got)
		}
	}
}
