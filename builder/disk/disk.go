// Package disk assembles the whole disk: the partition table, the boot
// partition, both slots, the boot state and the empty data partition.
package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/exosite/gwe/builder/hosttool"
	"github.com/exosite/gwe/gweinit/gpt"
	"github.com/exosite/gwe/gweinit/slot"
)

const mib = 1 << 20

// Size is that of every image: QEMU wants a power of two for an SD card.
const Size = 128 * mib

// Partition is a partition of the disk, offset and size in bytes.
type Partition struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
	GUID   string `json:"guid"`
	SHA256 string `json:"sha256"` // of the whole partition
}

// layout is for ever: a gateway in the field cannot be partitioned again. Data
// is last, so that it can grow with the disk.
func layout() []Partition {
	parts := []Partition{
		{Name: slot.BootPartition, Size: 8 * mib},
		{Name: slot.StatePartition, Size: 8 * mib},
		{Name: slot.A.KernelPartition(), Size: 16 * mib},
		{Name: slot.B.KernelPartition(), Size: 16 * mib},
		{Name: slot.A.RootPartition(), Size: 24 * mib},
		{Name: slot.B.RootPartition(), Size: 24 * mib},
		{Name: slot.DataPartition, Size: 30 * mib},
	}
	offset := int64(mib)
	for i := range parts {
		parts[i].Offset = offset
		offset += parts[i].Size
	}
	return parts
}

// Content is what goes onto the disk. Slot A gets the boot image and the
// root, slot B stays empty and is marked so.
type Content struct {
	Boot      map[string]string // files of the boot partition: name, path on the host
	BootImage string            // path
	Root      string            // path of the squashfs with its hash tree
	Data      string            // path of what WriteData wrote
	Time      time.Time         // of everything that carries one
	HybridMBR bool              // the boot partition is in an MBR too: the Raspberry Pi's boot ROM looks for it there
}

// TooLarge says that a part of a slot does not fit its partition.
type TooLarge struct {
	Partition  string
	Size, Room int64
}

func (e *TooLarge) Error() string {
	return fmt.Sprintf("partition %s has %d bytes, its content %d, %.1f MB too many: leave out an overlay, a package or modules (the sizes are for ever: the field cannot be repartitioned)",
		e.Partition, e.Room, e.Size, float64(e.Size-e.Room)/1e6)
}

// Write writes the disk to out, a sparse file, with scratch files in tmp. The
// same content gives the same bytes.
func Write(ctx context.Context, c Content, tmp, out string) ([]Partition, error) {
	seed, err := hashFiles(c.BootImage, c.Root)
	if err != nil {
		return nil, err
	}
	boot := filepath.Join(tmp, "boot.fat")
	parts := layout()
	partition := func(name string) Partition {
		return parts[slices.IndexFunc(parts, func(p Partition) bool { return p.Name == name })]
	}
	if err := writeFAT(ctx, boot, partition(slot.BootPartition).Size, c, seed); err != nil {
		return nil, err
	}
	f, err := os.Create(out)
	if err != nil {
		return nil, fmt.Errorf("write the disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(Size); err != nil {
		return nil, fmt.Errorf("write the disk: %w", err)
	}
	files := map[string]string{
		slot.BootPartition:       boot,
		slot.A.KernelPartition(): c.BootImage,
		slot.A.RootPartition():   c.Root,
		slot.DataPartition:       c.Data,
	}
	table := gpt.Table{Disk: gpt.HashGUID(seed("disk")), Sectors: Size / gpt.SectorSize}
	for i := range parts {
		p := &parts[i]
		if file := files[p.Name]; file != "" {
			room := p.Size
			if p.Name == slot.A.KernelPartition() {
				room -= 2 * gpt.SectorSize // boot.scr reads up to that much behind the image
			}
			if err := copyInto(f, p, room, file); err != nil {
				return nil, err
			}
		}
		kind := gpt.LinuxData
		if p.Name == slot.BootPartition {
			kind = gpt.BasicData
		}
		id := gpt.HashGUID(seed("partition " + p.Name))
		p.GUID = id.String()
		table.Entries = append(table.Entries, gpt.Entry{
			Type: kind, ID: id, Name: p.Name,
			First: uint64(p.Offset / gpt.SectorSize), Last: uint64((p.Offset+p.Size)/gpt.SectorSize - 1),
		})
	}
	mbr := gpt.ProtectiveMBR(table.Sectors)
	if c.HybridMBR {
		if mbr, err = gpt.HybridMBR(table.Entries[0]); err != nil { // the boot partition is the first
			return nil, err
		}
	}
	if _, err := f.WriteAt(mbr, 0); err != nil {
		return nil, fmt.Errorf("write the disk: %w", err)
	}
	if err := table.Write(f); err != nil {
		return nil, err
	}
	state := slot.NewStore(section{f, partition(slot.StatePartition).Offset})
	for range 2 { // both copies
		if err := state.Save(slot.Fresh(slot.A, slot.Empty)); err != nil {
			return nil, err
		}
	}
	for i := range parts {
		p := &parts[i]
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, p.Offset, p.Size)); err != nil {
			return nil, fmt.Errorf("read back partition %s: %w", p.Name, err)
		}
		p.SHA256 = hex.EncodeToString(h.Sum(nil))
	}
	return parts, f.Close()
}

// section is a partition of the disk as the boot state's device. The image
// becomes durable as a whole, later.
type section struct {
	f   *os.File
	off int64
}

func (s section) ReadAt(p []byte, off int64) (int, error)  { return s.f.ReadAt(p, s.off+off) }
func (s section) WriteAt(p []byte, off int64) (int, error) { return s.f.WriteAt(p, s.off+off) }
func (s section) Sync() error                              { return nil }

// copyInto copies a file of at most room bytes into its partition and leaves
// holes for zeros.
func copyInto(f *os.File, p *Partition, room int64, file string) error {
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("fill partition %s: %w", p.Name, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("fill partition %s: %w", p.Name, err)
	}
	if info.Size() > room {
		return &TooLarge{p.Name, info.Size(), room}
	}
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := p.Offset; ; {
		n, err := io.ReadFull(in, buf)
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return fmt.Errorf("fill partition %s: %w", p.Name, err)
			}
		}
		off += int64(n)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fill partition %s: read %s: %w", p.Name, file, err)
		}
	}
}

// writeFAT writes the boot partition: FAT16, which at this size needs
// one sector a cluster.
func writeFAT(ctx context.Context, out string, size int64, c Content, seed func(string) []byte) error {
	if err := blank(out, size); err != nil {
		return err
	}
	id := hex.EncodeToString(seed("fat")[:4])
	if err := (hosttool.Tool{Package: "dosfstools", Time: c.Time}).Run(ctx, "mkfs.vfat", "--invariant", "-F", "16", "-s", "1", "-n", "BOOT", "-i", id, out); err != nil {
		return err
	}
	names := make([]string, 0, len(c.Boot))
	for name := range c.Boot {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := os.Chtimes(c.Boot[name], c.Time, c.Time); err != nil {
			return fmt.Errorf("write the boot partition: %w", err)
		}
		if err := mtools(c.Time).Run(ctx, "mcopy", "-m", "-i", out, c.Boot[name], "::/"+name); err != nil {
			return err
		}
	}
	return nil
}

func mtools(at time.Time) hosttool.Tool {
	return hosttool.Tool{Package: "mtools", Time: at, Env: []string{"MTOOLSRC=/dev/null"}}
}

// WriteData writes the empty file system of the data partition to out. It is
// complete; only when it has grown, the kernel initialises the new part's inode
// tables in the background, 0.75 % of it.
// All images have the same one: the root holds a copy of it, and must not
// change with the rest of the disk.
func WriteData(ctx context.Context, at time.Time, out string) error {
	parts := layout()
	if err := blank(out, parts[len(parts)-1].Size); err != nil {
		return err
	}
	id := func(purpose string) string {
		sum := sha256.Sum256([]byte("gwe " + purpose))
		return gpt.HashGUID(sum[:]).String()
	}
	e2fs := hosttool.Tool{Package: "e2fsprogs", Time: at, Env: []string{
		fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", at.Unix()), "MKE2FS_CONFIG=/dev/null",
	}}
	return e2fs.Run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "data", "-b", "4096", "-J", "size=4", "-m", "1",
		// Not what the host's mke2fs.conf says: the kernel and the e2fsck of
		// the device have to know the features.
		"-I", "256", "-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
		"-U", id("data"),
		// Room in the group descriptors for growing to 256 GiB in place.
		"-E", "lazy_itable_init=0,lazy_journal_init=0,resize=67108864,hash_seed="+id("htree"), out)
}

func blank(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Close()
}

// hashFiles returns a source of identifiers that follow from the files.
func hashFiles(files ...string) (func(purpose string) []byte, error) {
	h := sha256.New()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	base := h.Sum(nil)
	return func(purpose string) []byte {
		sum := sha256.Sum256(append(slices.Clone(base), purpose...))
		return sum[:]
	}, nil
}

// Compress writes the image in to out as zstd, and returns in's SHA-256.
func Compress(in, out string) (sum string, err error) {
	src, err := os.Open(in)
	if err != nil {
		return "", err
	}
	defer src.Close()
	dst, err := os.Create(out)
	if err != nil {
		return "", err
	}
	defer dst.Close()
	// Nearly all of it is compressed already: a higher level gains nothing.
	z, err := zstd.NewWriter(dst, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(mib))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(z, h), src); err != nil {
		return "", fmt.Errorf("compress %s: %w", in, err)
	}
	if err := z.Close(); err != nil {
		return "", fmt.Errorf("compress %s: %w", in, err)
	}
	return hex.EncodeToString(h.Sum(nil)), dst.Close()
}
