package provision

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/powercut"
)

// tool runs a program of the host, and returns what it prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// bootPartition is a small ext2 on a loop device: it knows FIBMAP as FAT does,
// which not every kernel has that runs the tests. (ext4 keeps some blocks back,
// one behind the other.)
type bootPartition struct{ dev, dir string }

func newBootPartition(t *testing.T, blockSize int) bootPartition {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting and FIBMAP need root")
	}
	image := filepath.Join(t.TempDir(), "boot")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 2<<20)); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-t", "ext2", "-m", "0", "-N", "2048", "-b", fmt.Sprint(blockSize), image)
	b := bootPartition{tool(t, "losetup", "--find", "--show", image), t.TempDir()}
	t.Cleanup(func() { tool(t, "losetup", "--detach", b.dev) })
	b.mount(t, 0)
	t.Cleanup(func() {
		if err := unix.Unmount(b.dir, 0); err != nil {
			t.Errorf("unmount %s: %v", b.dir, err)
		}
		tool(t, "e2fsck", "-f", "-n", b.dev)
	})
	return b
}

func (b bootPartition) mount(t *testing.T, flags uintptr) {
	t.Helper()
	if err := unix.Mount(b.dev, b.dir, "ext4", flags, ""); err != nil {
		t.Fatalf("mount %s: %v", b.dev, err)
	}
}

func (b bootPartition) remountReadOnly(t *testing.T) {
	t.Helper()
	if err := unix.Unmount(b.dir, 0); err != nil {
		t.Fatal(err)
	}
	b.mount(t, unix.MS_RDONLY)
}

// litter fills the file system with files of one block and removes every other
// one on the disk: what comes then is in many pieces.
func (b bootPartition) litter(t *testing.T, blockSize int) {
	t.Helper()
	var names []string
	for full := 0; full < 3; { // what is free seems to be less until it is synced
		name := filepath.Join(b.dir, fmt.Sprint(len(names)))
		err := os.WriteFile(name, bytes.Repeat([]byte{byte(len(names))}, blockSize), 0o600)
		if errors.Is(err, unix.ENOSPC) {
			full++
			if err = os.Remove(name); errors.Is(err, fs.ErrNotExist) { // no room in the folder
				err = nil
			}
			unix.Sync()
		} else {
			names = append(names, name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	at := map[string]int64{}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		extents, err := fibmap(f)
		f.Close()
		if err != nil || len(extents) != 1 || extents[0].Length != int64(blockSize) {
			t.Fatalf("%s: %v, %v", name, extents, err)
		}
		at[name] = extents[0].Offset
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(at[a], at[b]) })
	for i, name := range names {
		if i%2 == 0 {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The file is overwritten on a real block device, below a file system that is
// mounted read-only, in as many pieces as it has; nothing else is.
func TestOnBoot(t *testing.T) {
	for _, tt := range []struct{ blockSize, fileSize int }{{1024, config.FileSize}, {1024, 3000}, {1024, 100}, {4096, config.FileSize}, {1024, 30000}} {
		t.Run(fmt.Sprintf("%d bytes in blocks of %d", tt.fileSize, tt.blockSize), func(t *testing.T) {
			b := newBootPartition(t, tt.blockSize)
			b.litter(t, tt.blockSize)
			path := filepath.Join(b.dir, "provision.yaml")
			doc := []byte("timezone: UTC\n" + strings.Repeat("\n", tt.fileSize-len("timezone: UTC\n# end\n")) + "# end\n")
			if err := os.WriteFile(path, doc, 0o600); err != nil {
				t.Fatal(err)
			}
			b.remountReadOnly(t)
			others := files(t, b.dir)
			delete(others, "provision.yaml")
			f := OnBoot(path, b.dev)
			dev, extents, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			dev.Close()
			blocks := (tt.fileSize + tt.blockSize - 1) / tt.blockSize
			if len(extents) < (blocks+1)/2 {
				t.Errorf("%d blocks are in %d pieces: %v", blocks, len(extents), extents)
			}
			dir := t.TempDir()
			g := Gateway{Boot: f, Store: identity.NewStore(powercut.New(nil, 8<<20)), Dir: dir}
			p, err := g.Read()
			if err != nil || p == nil {
				t.Fatalf("%+v, %v", p, err)
			}
			if changed, err := p.Commit(); err != nil || len(changed) != 2 {
				t.Fatalf("changed %q, %v", changed, err)
			}
			// The file system has it at once, and after it is mounted again.
			for range 2 {
				if got, err := f.Read(); err != nil || !bytes.Equal(got, config.Done(tt.fileSize)) {
					t.Errorf("got %q, %v", got, err)
				}
				if p, err := g.Read(); p != nil || err != nil {
					t.Errorf("after that: %+v, %v", p, err)
				}
				b.remountReadOnly(t)
			}
			all := files(t, b.dir)
			delete(all, "provision.yaml")
			for name, data := range others {
				if !bytes.Equal(data, all[name]) {
					t.Errorf("%s was changed", name)
				}
			}
			t.Logf("%d blocks in %d pieces", blocks, len(extents))
		})
	}
}

func TestOnBootRefuses(t *testing.T) {
	b := newBootPartition(t, 1024)
	path := filepath.Join(b.dir, "provision.yaml")
	elsewhere := filepath.Join(t.TempDir(), "provision.yaml")
	for _, file := range []string{path, elsewhere} {
		if err := os.WriteFile(file, config.Blank(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int64{"hole": 4096, "large": maxFile + 1} {
		file := filepath.Join(b.dir, name)
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
			t.Fatal(err)
		}
	}
	b.remountReadOnly(t)
	for _, tt := range []struct{ path, dev, want string }{
		{filepath.Join(b.dir, "none"), b.dev, "no such file"},
		{path, "/dev/none", "no such file"},
		{path, elsewhere, "is not on"},
		{path, "/dev/null", "is not on"},
		{filepath.Join(b.dir, "hole"), b.dev, "block 0 of " + b.dir + "/hole is not on the disk"},
		{filepath.Join(b.dir, "large"), b.dev, "has 65537 bytes"},
		{"/proc/self/status", b.dev, "proc"},
	} {
		if dev, extents, err := OnBoot(tt.path, tt.dev).Open(); dev != nil || extents != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s on %s: %v, %v; want %q", tt.path, tt.dev, extents, err, tt.want)
		}
	}
	// A partition that is not mounted may well have the file.
	if _, err := OnBoot(filepath.Join(t.TempDir(), "provision.yaml"), b.dev).Read(); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "is not mounted on") {
		t.Errorf("not mounted: %v", err)
	}
	for path, want := range map[string]string{filepath.Join(b.dir, "none"): "no such file", filepath.Join(b.dir, "large"): "more than 65536 bytes", b.dir: "no regular file"} {
		data, err := OnBoot(path, b.dev).Read()
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, fs.ErrNotExist) != (want == "no such file") {
			t.Errorf("%s: %d bytes, %v; want %q", path, len(data), err, want)
		}
	}
}
