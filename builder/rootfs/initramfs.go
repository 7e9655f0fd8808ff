package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// Initramfs writes the tree to the file out as a zstd-compressed newc cpio.
// Every time in it is 0.
func (t *Tree) Initramfs(out string) error {
	return beside(out, func(tmp string) error {
		var b bytes.Buffer
		// The kernel's decoder allocates the whole window, on devices of
		// 64 MB: 1 MiB, and no single segment, whose window is the content.
		z, err := zstd.NewWriter(&b,
			zstd.WithEncoderLevel(zstd.SpeedBestCompression),
			zstd.WithWindowSize(1<<20),
			zstd.WithSingleSegment(false),
			zstd.WithEncoderConcurrency(1)) // how blocks are cut must not depend on the host
		if err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		if err := t.cpio(z); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		// The kernel skips zeros after an archive, and wants what follows it
		// (another cpio) to start at a multiple of 4.
		b.Write(make([]byte, -b.Len()&3))
		return os.WriteFile(tmp, b.Bytes(), 0o644)
	})
}

// Prepend writes to out the tree, as a plain cpio, and the initramfs in the file:
// the kernel unpacks one after the other. The tree is the part that changes: the
// compressed one stays the same, in the same place.
func (t *Tree) Prepend(initramfs, out string) error {
	var b bytes.Buffer
	if err := t.cpio(&b); err != nil {
		return err
	}
	// The kernel skips the zeros, and wants what follows them to start at a
	// multiple of 4.
	b.Write(make([]byte, -b.Len()&511))
	rest, err := os.ReadFile(initramfs)
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(b.Bytes(), rest...), 0o644)
}

// cpio writes the tree as a newc archive. Inode numbers, link counts and
// device numbers stay 0: the kernel reads them only to find hard links.
func (t *Tree) cpio(w io.Writer) error {
	rw := cpio.Newc.Writer(w)
	for _, e := range t.List() {
		perm := uint64(e.Mode.Perm())
		if e.Mode&fs.ModeSticky != 0 {
			perm |= cpio.S_ISVTX
		}
		var r cpio.Record
		switch e.Mode.Type() {
		case 0:
			r = cpio.StaticRecord(e.Data, cpio.Info{Name: e.Path, Mode: cpio.S_IFREG | perm})
		case fs.ModeDir:
			r = cpio.Directory(e.Path, perm)
		case fs.ModeSymlink:
			r = cpio.Symlink(e.Path, e.Target)
		default:
			r = cpio.CharDev(e.Path, perm, uint64(e.Major), uint64(e.Minor))
		}
		r.UID, r.GID = uint64(e.UID), uint64(e.GID)
		if err := rw.WriteRecord(r); err != nil {
			return fmt.Errorf("cpio: %s from %s: %w", e.Path, e.From, err)
		}
	}
	if err := cpio.WriteTrailer(rw); err != nil {
		return fmt.Errorf("cpio: trailer: %w", err)
	}
	return nil
}
