package view

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		return Stack{App: "app", Layer: number, Root: root, Lower: []string{filepath.Join(dir, "base"), root}, Upper: Upper{filepath.Join(dir, "data/apps/rw/app")}}
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
	u := Upper{filepath.Join(dir, "data/apps/rw/app")}
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
	err := r.Make(Stack{App: "app", Layer: 1, Root: root, Lower: []string{filepath.Join(dir, "base"), root}, Upper: Upper{filepath.Join(dir, "data/apps/rw/app")}}, true)
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
	if _, err := Overlay("", lower, "/data/apps/rw/"+strings.Repeat("x", 100)+"/root", "/data/apps/rw/"+strings.Repeat("x", 100)+"/work"); err != nil {
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
		u = Upper{filepath.Join(dir, "data/apps/rw/app")}
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
