package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/cache"
	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/rootfs"
	"github.com/exosite/gwe/gweinit/verity"
)

// stages is a build with a cache of its own, which has come as far as the root.
func stages(t *testing.T) *build {
	t.Helper()
	log := func(string, ...any) {}
	b := &build{Options: Options{Log: log}, cache: cache.Dir{Path: t.TempDir(), Log: log}, time: oldest}
	var err error
	if b.board, err = board.Load("../../boards", "qemu-arm64"); err != nil {
		t.Fatal(err)
	}
	return b
}

func squashed(t *testing.T, b *build, content string) verity.Params {
	t.Helper()
	tree := rootfs.NewTree()
	if err := tree.File("usr/sbin/init", 0o755, []byte(content), "test"); err != nil {
		t.Fatal(err)
	}
	if err := b.squash(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	p, err := verity.Parse(b.verity)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The root is what unsquashfs and veritysetup take for one.
func TestSquash(t *testing.T) {
	b := stages(t)
	p := squashed(t, b, "the program")
	if want := fmt.Sprintf("%x", p.RootHash); b.manifest.RootHash != want {
		t.Errorf("the manifest has root hash %s, want %s", b.manifest.RootHash, want)
	}
	verify := exec.Command("veritysetup", "verify", "--hash-offset", fmt.Sprint(p.Blocks*verity.BlockSize), b.root, b.root, b.manifest.RootHash)
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", verify, err, out)
	}
	if out, err := exec.Command("unsquashfs", "-cat", b.root, "usr/sbin/init").Output(); err != nil || string(out) != "the program" {
		t.Errorf("unsquashfs: %q, %v", out, err)
	}
	first, line := b.root, b.verity
	again := squashed(t, b, "the program")
	if b.root != first || b.verity != line || again != p {
		t.Errorf("from the cache: %s, %s, want %s, %s", b.root, b.verity, first, line)
	}
	if other := squashed(t, b, "another program"); other.RootHash == p.RootHash || other.Salt == p.Salt || b.root == first {
		t.Errorf("another root: %+v in %s", other, b.root)
	}
}

// A new root changes the first bytes of the initramfs in the boot image, and
// nothing behind them.
func TestBootImageHasRootHash(t *testing.T) {
	b := stages(t)
	dir := t.TempDir()
	kernel := bytes.Repeat([]byte("kernel! "), 1000)
	binary.LittleEndian.PutUint64(kernel[16:], uint64(len(kernel)))
	copy(kernel[56:], "ARM\x64")
	b.kernelPackage = "linux-image"
	b.manifest.Packages = []debian.Package{{Name: b.kernelPackage, SHA256: "1"}}
	b.kernel = kernelFiles{version: "6.1", vmlinuz: filepath.Join(dir, "vmlinuz")}
	b.initramfs = filepath.Join(dir, "key", "initramfs.zst")
	stable := bytes.Repeat([]byte("stable! "), 100)
	for path, data := range map[string][]byte{b.kernel.vmlinuz: kernel, b.initramfs: stable} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	made := func() []byte {
		t.Helper()
		if err := b.makeBootImage(t.Context()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(b.bootImage)
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Dir(b.bootImage)); err != nil || len(left) != 1 {
			t.Errorf("left beside the boot image: %v, %v", left, err)
		}
		return data
	}
	var images [][]byte
	var starts []int
	for _, content := range []string{"the program", "another program", "the program"} {
		squashed(t, b, content)
		data := made()
		at := bytes.Index(data, []byte(b.verity))
		if at < 0 {
			t.Fatalf("the boot image does not have %q", b.verity)
		}
		images, starts = append(images, data), append(starts, bytes.Index(data, stable))
		ramdisk := filepath.Join(t.TempDir(), "ramdisk")
		if out, err := exec.Command("dumpimage", "-T", "flat_dt", "-p", "1", "-o", ramdisk, b.bootImage).CombinedOutput(); err != nil {
			t.Fatalf("dumpimage: %v: %s", err, out)
		}
		got, err := os.ReadFile(ramdisk)
		if err != nil || !strings.HasPrefix(string(got), "070701") || len(got)%512 != len(stable)%512 || !bytes.HasSuffix(got, stable) {
			t.Errorf("the initramfs is %.20q... of %d bytes, %v", got, len(got), err)
		}
	}
	if !bytes.Equal(images[0], images[2]) {
		t.Error("the same root: another boot image")
	}
	if bytes.Equal(images[0], images[1]) || len(images[0]) != len(images[1]) || starts[0] != starts[1] {
		t.Errorf("another root: %d and %d bytes, the initramfs is at %d and %d", len(images[0]), len(images[1]), starts[0], starts[1])
	}
	if made, err := filepath.Glob(filepath.Join(b.cache.Path, "boot-image", "*", bootImageFile)); err != nil || len(made) != 2 {
		t.Errorf("the cache has %d boot images, %v, want one a root", len(made), err)
	}
}
