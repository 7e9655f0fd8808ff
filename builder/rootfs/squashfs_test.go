package rootfs

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sample is a tree with everything a root can hold.
func sample(t testing.TB) *Tree {
	tree := NewTree()
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(noise)
	for _, err := range []error{
		tree.Dir("tmp", 0o777|fs.ModeSticky),
		tree.Dir("root", 0o700),
		tree.Link("bin", "usr/bin", "test"),
		tree.File("bin/noise", 0o755, noise, "test"),
		tree.File("bin/again", 0o755, noise, "test"),
		tree.File("bin/zeros", 0o755, make([]byte, 3<<20), "test"),
		tree.File("etc/empty", 0o644, nil, "test"),
		tree.add(Entry{Path: "etc/shadow", Mode: 0o640, GID: 42, Data: []byte("root:*:\n")}),
		tree.File("etc/"+strings.Repeat("ü", 120), 0o644, []byte("long, and not ASCII"), "test"),
		tree.Link("etc/mtab", "../proc/self/mounts", "test"),
		tree.Device("dev/console", 5, 1, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func squash(t testing.TB, tree *Tree) (file string, data []byte) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "root.squashfs")
	if err := tree.Squash(t.Context(), file, time.Unix(1700000000, 5)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, data
}

func TestSquash(t *testing.T) {
	tree := sample(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1") // which mksquashfs would refuse
	file, first := squash(t, tree)
	if len(first)%4096 != 0 {
		t.Errorf("the image has %d bytes, no multiple of 4096", len(first))
	}
	if _, again := squash(t, tree); !bytes.Equal(first, again) {
		t.Error("two runs differ")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}

	t.Setenv("TZ", "UTC")
	out, err := exec.Command("unsquashfs", "-lln", file).CombinedOutput()
	if err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	got := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{
		"drwxr-xr-x 0/0 82 2023-11-14 22:13 squashfs-root ",
		"drwxrwxrwt 0/0 3 2023-11-14 22:13 squashfs-root/tmp",
		"drwx------ 0/0 3 2023-11-14 22:13 squashfs-root/root",
		"-rwxr-xr-x 0/0 3145728 2023-11-14 22:13 squashfs-root/usr/bin/zeros",
		"-rw-r----- 0/42 8 2023-11-14 22:13 squashfs-root/etc/shadow",
		"lrwxrwxrwx 0/0 19 2023-11-14 22:13 squashfs-root/etc/mtab -> ../proc/self/mounts",
		"crw------- 0/0 5, 1 2023-11-14 22:13 squashfs-root/dev/console",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("unsquashfs -lln has no %q, but\n%s", want, out)
		}
	}
}

// The image must not depend on the build host's number of processors.
func TestSquashProcessors(t *testing.T) {
	tree := sample(t)
	_, want := squash(t, tree)
	tool, err := exec.LookPath("mksquashfs")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"1", "2", "7"} {
		bin := t.TempDir()
		script := "#!/bin/sh\nexec " + tool + " \"$@\" -processors " + n + "\n"
		if err := os.WriteFile(filepath.Join(bin, "mksquashfs"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin)
		if _, got := squash(t, tree); !bytes.Equal(got, want) {
			t.Errorf("with %s processors the image differs", n)
		}
	}
}

// The kernel reads back every byte.
func TestSquashMount(t *testing.T) {
	tree := sample(t)
	file, _ := squash(t, tree)
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", file, mnt).CombinedOutput(); err != nil {
		t.Fatalf("mount the squashfs, which needs root and loop devices: %v: %s", err, out)
	}
	defer func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	}()
	found := 0
	err := filepath.WalkDir(mnt, func(name string, d fs.DirEntry, err error) error {
		if err == nil && name != mnt {
			found++
		}
		return err
	})
	if err != nil || found != len(tree.List()) {
		t.Errorf("%d entries, want %d: %v", found, len(tree.List()), err)
	}
	for _, e := range tree.List() {
		name := filepath.Join(mnt, e.Path)
		info, err := os.Lstat(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != e.Mode {
			t.Errorf("%s has mode %v, want %v", e.Path, info.Mode(), e.Mode)
		}
		switch e.Mode.Type() {
		case 0:
			if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, e.Data) {
				t.Errorf("%s differs: %v", e.Path, err)
			}
		case fs.ModeSymlink:
			if target, err := os.Readlink(name); err != nil || target != e.Target {
				t.Errorf("%s -> %s, want %s: %v", e.Path, target, e.Target, err)
			}
		}
	}
}

func TestSquashErrors(t *testing.T) {
	out := filepath.Join(t.TempDir(), "root.squashfs")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx    context.Context
		out    string
		mtime  time.Time
		script string // stands for mksquashfs
		want   string
	}{
		"no tool":       {t.Context(), out, time.Unix(1, 0), "", "squashfs-tools"},
		"tool fails":    {t.Context(), out, time.Unix(1, 0), "echo no space left; exit 1", "no space left"},
		"tool is quiet": {t.Context(), out, time.Unix(1, 0), "exit 0", out},
		"too early":     {t.Context(), out, time.Time{}, "exit 0", "1970"},
		"no folder":     {t.Context(), "/nonexistent/root", time.Unix(1, 0), "exit 0", "/nonexistent/root"},
		"cancelled":     {cancelled, out, time.Unix(1, 0), "exit 0", "context canceled"},
	}
	tree := sample(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			if test.script != "" {
				if err := os.WriteFile(filepath.Join(bin, "mksquashfs"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin)
			err := tree.Squash(test.ctx, test.out, test.mtime)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if left, _ := os.ReadDir(filepath.Dir(out)); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func BenchmarkSquash(b *testing.B) {
	tree := sample(b)
	rnd := rand.New(rand.NewPCG(1, 2))
	code := make([]byte, 8<<20) // about as dense as machine code
	for i := range code {
		code[i] = byte(rnd.ExpFloat64() * 16)
	}
	if err := tree.File("usr/bin/gweinit", 0o755, code, "test"); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(code)))
	for b.Loop() {
		squash(b, tree)
	}
}
