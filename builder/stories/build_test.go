//go:build qemu

package stories

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/image"
)

// projectCopy is a copy of what an image is built from, for a test to break.
func projectCopy(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"boards", "overlays", "gweinit", "go.mod", "go.sum"} {
		if out, err := exec.Command("cp", "-a", filepath.Join(project, name), dir).CombinedOutput(); err != nil {
			t.Fatalf("copy the project: %v: %s", err, out)
		}
	}
	return dir
}

func edit(t *testing.T, file, old, new string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(string(text), old, new)
	if changed == string(text) {
		t.Fatalf("%s has no %q", file, old)
	}
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What cannot be built says which file is wrong and what to do, and leaves
// nothing under a final name.
func TestBrokenBuilds(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	const yaml = "boards/qemu-arm64/board.yaml"
	for _, tt := range []struct {
		name   string
		breaks func(t *testing.T, dir string, o *image.Options)
		want   []string
	}{
		{"a module that the kernel does not have", func(t *testing.T, dir string, _ *image.Options) {
			edit(t, filepath.Join(dir, yaml), "- virtio_blk\n", "- virtio_blk\n    - warp_drive\n")
		}, []string{yaml, "kernel: modules: warp_drive: not in kernel 6."}},
		{"a boot image on top of the kernel", func(t *testing.T, dir string, _ *image.Options) {
			edit(t, filepath.Join(dir, yaml), "0x42600000", "0x42100000")
		}, []string{yaml, "kernel: load: 0x40200000-0x42", "overlaps uboot: script"}},
		{"a root that does not fit", func(t *testing.T, dir string, _ *image.Options) {
			noise := make([]byte, 26<<20)
			if f, err := os.Open("/dev/urandom"); err != nil {
				t.Fatal(err)
			} else if _, err := f.Read(noise); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "overlays/base/noise"), noise, 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"partition rootfs_a", "too many", "leave out"}},
		{"an overlay that leaves its root", func(t *testing.T, dir string, _ *image.Options) {
			if err := os.Symlink("../../../../etc/passwd", filepath.Join(dir, "overlays/busybox/evil")); err != nil {
				t.Fatal(err)
			}
		}, []string{"overlays/busybox/evil", "leaves the root"}},
		{"an unknown overlay", func(t *testing.T, dir string, o *image.Options) {
			o.Overlays = append(o.Overlays, "sauna")
		}, []string{`unknown overlay "sauna"`, "base busybox dev"}},
		{"a package that does not exist", func(t *testing.T, dir string, _ *image.Options) {
			edit(t, filepath.Join(dir, "overlays/busybox/overlay.yaml"), "busybox-static", "busybox-statik")
		}, []string{"busybox-statik", "bookworm"}},
		{"a root without PID 1", func(t *testing.T, dir string, o *image.Options) {
			o.Overlays = []string{"busybox"}
		}, []string{"usr/sbin/init", `"base"`}},
		{"a network that the device would not take", func(t *testing.T, dir string, o *image.Options) {
			edit(t, filepath.Join(dir, "overlays/base/etc/gweinit/network.yaml"), "- name: eth*", "- nmae: eth*")
		}, []string{"etc/gweinit/network.yaml", "links[0].nmae: unknown key"}},
		{"a release with a shell", func(t *testing.T, dir string, o *image.Options) {
			o.Overlays, o.Release = []string{"base", "busybox", "dev"}, true
		}, []string{"overlay dev", "release"}},
		{"a program that does not compile", func(t *testing.T, dir string, _ *image.Options) {
			edit(t, filepath.Join(dir, "gweinit/main.go"), "package main", "package main\n\nvar x int = \"no\"")
		}, []string{"compile ./gweinit", "main.go"}},
		{"no network", func(t *testing.T, dir string, o *image.Options) {
			o.Mirrors, o.Cache = []string{"http://127.0.0.1:1/debian"}, t.TempDir()
		}, []string{"mirror"}},
		{"no room", func(t *testing.T, dir string, o *image.Options) {
			if err := unix.Mount("tmpfs", o.Out, "tmpfs", 0, "size=8m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(o.Out, 0) })
		}, []string{"no space left"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := projectCopy(t)
			o := image.Options{
				Project: dir, Board: "qemu-arm64", Overlays: []string{"base", "busybox"}, Version: "1.0.0",
				Cache: filepath.Join(cache, "gateway-engine"), Out: t.TempDir(), Mirrors: mirrors(), Log: t.Logf,
			}
			tt.breaks(t, dir, &o)
			_, err := image.Build(t.Context(), o)
			if err == nil {
				t.Fatal("it was built")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(o.Out, "[^.]*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// builderProgram compiles the builder.
func builderProgram(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "builder")
	if out, err := exec.Command("go", "build", "-o", path, filepath.Join(project, "builder")).CombinedOutput(); err != nil {
		t.Fatalf("compile the builder: %v\n%s", err, out)
	}
	return path
}

// coldCache is a cache with the downloads of the user's one, and nothing that
// was made of them.
func coldCache(t testing.TB) string {
	t.Helper()
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"apt", "debs", "sources"} {
		if err := os.Symlink(filepath.Join(user, "gateway-engine", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A build that is interrupted or killed leaves no half of an image, and the
// next one gives the same image as any other.
func TestInterruptedBuild(t *testing.T) {
	want := buildOf(t, "qemu-arm64").Image.SHA256
	builder, cache, out := builderProgram(t), "", t.TempDir()
	for _, stop := range []os.Signal{os.Interrupt, os.Kill} {
		cache = coldCache(t)
		for _, when := range []string{"unpacking linux-image", "compressing the root", "preparing the kernel"} {
			cmd := exec.Command(builder, "image", "-board", "qemu-arm64", "-overlays", "base busybox dev", "-version", "1.0.0", "-mirror", os.Getenv("mirror"), "-cache", cache, "-out", out)
			cmd.Dir = project
			lines, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for s := bufio.NewScanner(lines); s.Scan(); {
				if strings.Contains(s.Text(), when) {
					time.Sleep(100 * time.Millisecond) // into the work
					cmd.Process.Signal(stop)
				}
			}
			if err := cmd.Wait(); err == nil {
				t.Fatalf("%v at %q came too late", stop, when)
			}
			if left, _ := filepath.Glob(filepath.Join(out, "[^.]*")); len(left) > 0 {
				t.Errorf("%v at %q left %v", stop, when, left)
			}
		}
	}
	cmd := exec.Command(builder, "image", "-json", "-board", "qemu-arm64", "-overlays", "base busybox dev", "-version", "1.0.0", "-mirror", os.Getenv("mirror"), "-cache", cache, "-out", out)
	cmd.Dir = project
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if m.Image.SHA256 != want {
		t.Errorf("the image is %s, the one of a whole build %s", m.Image.SHA256, want)
	}
}

// "builder boot" tells scripts by its exit status what it saw.
func TestBootCommand(t *testing.T) {
	b := buildOf(t, "qemu-arm64")
	builder := builderProgram(t)
	for _, tt := range []struct {
		name   string
		args   []string
		stdin  string
		status int
	}{
		{"what was waited for", []string{"-snapshot", "-until", "gweinit: ready .*"}, "", 0},
		{"it never comes", []string{"-snapshot", "-until", "kernel panic", "-timeout", "8s"}, "", 3},
		{"a file of one's own", []string{"-image", b.card(t).path, "-until", "gwe: slot=a"}, "", 0},
		{"the working copy", []string{"-until", "gweinit: ready"}, "", 0},
		{"no such file", []string{"-image", "/nonexistent", "-until", "x"}, "", 1},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, builder, append([]string{"boot", "-board", "qemu-arm64", "-out", b.out}, tt.args...)...)
		cmd.Dir = project
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		cancel()
		status := 0
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			status = exit.ExitCode()
		}
		if status != tt.status {
			t.Errorf("%s: exit status %d, want %d\n%s", tt.name, status, tt.status, out.String())
		}
	}
	if f, err := os.ReadFile(filepath.Join(b.out, b.Image.Name)); err != nil || len(f) != int(b.Image.Size) {
		t.Fatal(err)
	} else if sum := sha(f); sum != b.Image.SHA256 {
		t.Error("booting changed the built image")
	}
}
