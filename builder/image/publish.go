package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/exosite/gwe/builder/disk"
)

// publish compresses the image and gives all results their final names. A
// manifest describes what is beside it, so the old one goes first, and the new
// one comes last.
func (b *build) publish(ctx context.Context) error {
	img, zst, manifest := b.Board+".img", b.Board+".img.zst", b.Board+".json"
	sum, err := disk.Compress(filepath.Join(b.tmp, img), filepath.Join(b.tmp, zst))
	if err != nil {
		return err
	}
	b.manifest.Image = File{img, disk.Size, sum}
	if b.manifest.Compressed, err = describe(b.tmp, zst); err != nil {
		return err
	}
	b.compareTools()
	var text bytes.Buffer
	if err := b.manifest.Encode(&text); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.tmp, manifest), text.Bytes(), 0o644); err != nil {
		return err
	}
	if err := copyFile(b.uboot, filepath.Join(b.tmp, UBootFile)); err != nil {
		return err
	}
	machine := filepath.Join(b.Out, b.Board)
	if err := os.MkdirAll(machine, 0o755); err != nil {
		return err
	}
	for _, name := range []string{img, zst, manifest, UBootFile} {
		if err := sync(filepath.Join(b.tmp, name)); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(b.Out, manifest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range []struct{ name, dir string }{{UBootFile, machine}, {img, b.Out}, {zst, b.Out}, {manifest, b.Out}} {
		if err := os.Rename(filepath.Join(b.tmp, f.name), filepath.Join(f.dir, f.name)); err != nil {
			return err
		}
		if err := sync(f.dir); err != nil {
			return err
		}
	}
	for _, stage := range []string{"kernel", "vmlinuz", "initramfs", "boot-image", "root", "u-boot"} {
		if err := b.cache.Prune(stage); err != nil {
			b.Log("%v", err)
		}
	}
	return nil
}

// sync makes a file or folder durable.
func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// UBootFile is the name of U-Boot in the output's folder BOARD.
const UBootFile = "u-boot.bin"

func describe(dir, name string) (File, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, fmt.Errorf("read back %s: %w", name, err)
	}
	return File{name, n, hex.EncodeToString(h.Sum(nil))}, nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
