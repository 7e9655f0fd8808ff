package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/ubenv"
)

// noise is data that does not compress and is no filesystem's.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

var stamp = time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC)

// content writes the files of a small disk. The root ends in the middle of a
// buffer, and has a hole.
func content(t *testing.T) Content {
	dir := t.TempDir()
	root := make([]byte, 300<<10+4096)
	copy(root[200<<10:], noise(100<<10))
	for name, data := range map[string][]byte{"boot.scr": noise(3000), "boot.fit": noise(100 << 10), "root.squashfs": root} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteData(t.Context(), stamp, filepath.Join(dir, "data.ext4")); err != nil {
		t.Fatal(err)
	}
	return Content{
		Data:      filepath.Join(dir, "data.ext4"),
		Boot:      map[string]string{"boot.scr": filepath.Join(dir, "boot.scr")},
		BootImage: filepath.Join(dir, "boot.fit"),
		Root:      filepath.Join(dir, "root.squashfs"),
		Time:      stamp,
	}
}

func write(t *testing.T, c Content) (string, []Partition) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "disk.img")
	parts, err := Write(t.Context(), c, t.TempDir(), out)
	if err != nil {
		t.Fatal(err)
	}
	return out, parts
}

// check runs a tool whose output has to contain want.
func check(t *testing.T, want, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%s: %v; want %q in\n%s", cmd, err, want, out)
	}
	return out
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readAt reads a part of a disk.
func readAt(t *testing.T, file string, off, size int64) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := f.ReadAt(data, off); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestWrite(t *testing.T) {
	c := content(t)
	out, parts := write(t, c)
	// part returns a partition, and a file with it for the tools.
	part := func(t *testing.T, name string) ([]byte, string) {
		for _, p := range parts {
			if p.Name == name {
				data := readAt(t, out, p.Offset, p.Size)
				file := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
				return data, file
			}
		}
		t.Fatalf("no partition %s in %+v", name, parts)
		return nil, ""
	}

	t.Run("partition table", func(t *testing.T) {
		if info, err := os.Stat(out); err != nil || info.Size() != 128<<20 {
			t.Errorf("%v, %v: want 128 MiB, a power of two", info, err)
		}
		check(t, "No problems found", "sgdisk", "-v", out)
		check(t, "No errors detected", "sfdisk", "--verify", out)
		var table struct {
			PartitionTable struct {
				Label      string
				Partitions []struct {
					Start, Size      int64
					Type, UUID, Name string
				}
			}
		}
		if text := check(t, "", "sfdisk", "--json", out); json.Unmarshal(text, &table) != nil {
			t.Fatalf("sfdisk --json: %s", text)
		}
		const linux, fat = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
		want := []struct {
			name      string
			start, mb int64
			kind      string
		}{
			{"boot", 1, 8, fat}, {"ubenv", 9, 8, linux}, {"kernel_a", 17, 16, linux}, {"kernel_b", 33, 16, linux},
			{"rootfs_a", 49, 24, linux}, {"rootfs_b", 73, 24, linux}, {"data", 97, 30, linux},
		}
		got := table.PartitionTable.Partitions
		if len(got) != len(want) || len(parts) != len(want) || table.PartitionTable.Label != "gpt" {
			t.Fatalf("got %+v\nand %+v\nwant %v", table, parts, want)
		}
		for i, w := range want {
			g, p := got[i], parts[i]
			if g.Name != w.name || g.Start != w.start<<11 || g.Size != w.mb<<11 || g.Type != w.kind {
				t.Errorf("partition %d: sfdisk says %+v, want %+v", i+1, g, w)
			}
			sum := fmt.Sprintf("%x", sha256.Sum256(readAt(t, out, p.Offset, p.Size)))
			if p.Name != w.name || p.Offset != w.start<<20 || p.Size != w.mb<<20 || !strings.EqualFold(p.GUID, g.UUID) || p.SHA256 != sum {
				t.Errorf("partition %d: Write says %+v\nthe disk %+v, %s", i+1, p, g, sum)
			}
		}
	})

	t.Run("boot partition", func(t *testing.T) {
		fat, file := part(t, "boot")
		check(t, "2 FATs, 16 bit entries", "fsck.vfat", "-n", "-v", file)
		if got := check(t, "", "mcopy", "-i", file, "::/boot.scr", "-"); !bytes.Equal(got, read(t, c.Boot["boot.scr"])) {
			t.Errorf("boot.scr comes back with %d bytes, or others", len(got))
		}
		// All three times, or the next build differs from this one.
		e := fat[max(0, bytes.Index(fat, []byte("BOOT    SCR"))):]
		le := binary.LittleEndian
		const date, clock = (2023-1980)<<9 | 11<<5 | 14, 22<<11 | 13<<5 | 20/2
		for _, f := range []struct {
			name string
			off  int
			want uint16
		}{{"created", 14, clock}, {"created", 16, date}, {"read", 18, date}, {"changed", 22, clock}, {"changed", 24, date}} {
			if got := le.Uint16(e[f.off:]); got != f.want {
				t.Errorf("boot.scr: %s: %#x at %d of its entry, want %#x", f.name, got, f.off, f.want)
			}
		}
	})

	t.Run("slots", func(t *testing.T) {
		for _, s := range []struct{ name, file string }{
			{"kernel_a", c.BootImage}, {"kernel_b", "/dev/null"}, {"rootfs_a", c.Root}, {"rootfs_b", "/dev/null"},
		} {
			got, _ := part(t, s.name)
			want := read(t, s.file)
			if !bytes.Equal(got, append(want, make([]byte, len(got)-len(want))...)) {
				t.Errorf("%s is not %s and zeros", s.name, s.file)
			}
		}
	})

	t.Run("boot state", func(t *testing.T) {
		_, file := part(t, "ubenv")
		dev, err := ubenv.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		got, err := slot.NewStore(dev).Load()
		want := slot.Fresh(slot.A, slot.Empty)
		want.Seq = 2 // both copies
		if err != nil || got != want {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
		}
	})

	t.Run("data", func(t *testing.T) {
		_, file := part(t, "data")
		check(t, "data: 11/", "e2fsck", "-fn", file)
		super := string(check(t, "", "dumpe2fs", "-h", file))
		for _, want := range []string{"volume name:   data\n", "created:       Tue Nov 14 22:13:20 2023", "state:         clean", "Block size:               4096"} {
			if !strings.Contains(super, want) {
				t.Errorf("dumpe2fs -h has no %q, but\n%s", want, super)
			}
		}
	})

	t.Run("sparse", func(t *testing.T) {
		info, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 2<<20 {
			t.Errorf("%d bytes on the host's disk", used)
		}
	})
}

func TestReproducible(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1") // the caller's is not the image's
	c := content(t)
	out, parts := write(t, c)
	again, _ := write(t, c)
	check(t, "", "cmp", out, again)
	// Two cards with other content must not look like one disk.
	if err := os.WriteFile(c.Root, []byte("another root"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, others := write(t, c)
	for i := range parts {
		if parts[i].GUID == others[i].GUID {
			t.Errorf("%s: same GUID %s with another root", parts[i].Name, parts[i].GUID)
		}
	}
	for _, id := range []struct {
		name      string
		off, size int64
	}{{"GUID of the disk", 512 + 56, 16}, {"serial number of the FAT", 1<<20 + 0x27, 4}} {
		if first := readAt(t, out, id.off, id.size); bytes.Equal(first, readAt(t, other, id.off, id.size)) {
			t.Errorf("%s: %x as with another root", id.name, first)
		}
	}
}

func TestTooLarge(t *testing.T) {
	c := content(t)
	if err := os.Truncate(c.Root, 24<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(c.BootImage, 16<<20-1024); err != nil {
		t.Fatal(err)
	}
	write(t, c) // just fits
	if err := os.Truncate(c.Root, 24<<20+1500000); err != nil {
		t.Fatal(err)
	}
	_, err := Write(t.Context(), c, t.TempDir(), filepath.Join(t.TempDir(), "disk.img"))
	var tooLarge *TooLarge
	if !errors.As(err, &tooLarge) || *tooLarge != (TooLarge{"rootfs_a", 24<<20 + 1500000, 24 << 20}) {
		t.Fatalf("got %#v", err)
	}
	for _, want := range []string{"rootfs_a", "1.5 MB too many", "leave out an overlay"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, c *Content)
		want   string
	}{
		{"no boot image", func(_ *testing.T, c *Content) { c.BootImage += "x" }, "boot.fitx: no such file"},
		{"no root", func(_ *testing.T, c *Content) { c.Root += "x" }, "root.squashfsx: no such file"},
		{"no script", func(_ *testing.T, c *Content) { c.Boot["boot.scr"] += "x" }, "boot.scrx: no such file"},
		{"a root that is a folder", func(t *testing.T, c *Content) { c.Root = t.TempDir() }, "is a directory"},
		{"more than the boot partition holds", func(t *testing.T, c *Content) {
			if err := os.Truncate(c.Boot["boot.scr"], 9<<20); err != nil {
				t.Fatal(err)
			}
		}, "Disk full"},
		{"a tool that is not installed", func(t *testing.T, _ *Content) { t.Setenv("PATH", t.TempDir()) }, "package mtools"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := content(t)
			tt.change(t, &c)
			_, err := Write(t.Context(), c, t.TempDir(), filepath.Join(t.TempDir(), "disk.img"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// Users have no /usr/sbin on their PATH.
func TestToolsOutsidePath(t *testing.T) {
	t.Setenv("PATH", "/usr/bin:/bin")
	write(t, content(t))
}

// For all tools the disk with a hybrid MBR is the same GPT disk, and an MBR one
// with the boot partition for those that know nothing else.
func TestHybridMBR(t *testing.T) {
	c := content(t)
	plain, _ := write(t, c)
	c.HybridMBR = true
	out, _ := write(t, c)
	check(t, "No problems found", "sgdisk", "-v", out)
	check(t, "MBR: hybrid", "gdisk", "-l", out)
	check(t, "No errors detected", "sfdisk", "--verify", out)
	check(t, "Disklabel type: gpt", "fdisk", "-l", out)
	check(t, `PTTYPE="gpt"`, "blkid", "-p", out)

	var mbr struct {
		PartitionTable struct {
			Label      string
			Partitions []struct {
				Start, Size int64
				Type        string
				Bootable    bool
			}
		}
	}
	if text := check(t, "", "sfdisk", "--label-nested", "dos", "--json", out); json.Unmarshal(text, &mbr) != nil {
		t.Fatalf("sfdisk --json: %s", text)
	}
	if got, want := fmt.Sprint(mbr), "{{dos [{2048 16384 c false} {1 2047 ee false}]}}"; got != want {
		t.Errorf("the MBR has %s, want %s", got, want)
	}
	if text := check(t, "", "sfdisk", "--json", out); !bytes.Contains(text, []byte(`"name": "data"`)) {
		t.Errorf("sfdisk sees %s", text)
	}
	rest := func(file string) []byte { return readAt(t, file, 512, 128<<20-512) }
	if !bytes.Equal(rest(plain), rest(out)) {
		t.Error("more than sector 0 differs from a disk without")
	}
}

func TestCompress(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk.img.zst")
	plain := make([]byte, 9<<20)
	copy(plain[5<<20:], noise(2<<20))
	if err := os.WriteFile(in, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := Compress(in, out)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(plain)); sum != want {
		t.Errorf("SHA-256 %s, want %s", sum, want)
	}
	check(t, "", "zstd", "-t", out)
	packed := read(t, out)
	if len(packed) > 5<<19 {
		t.Errorf("%d bytes of 2 MiB of noise", len(packed))
	}
	// A gateway has little memory: the window is small.
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if back, err := io.ReadAll(z); err != nil || !bytes.Equal(back, plain) {
		t.Errorf("%d bytes come back, want %d; %v", len(back), len(plain), err)
	}
	// The bytes must not depend on the host's number of processors.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if _, err := Compress(in, out); err != nil || !bytes.Equal(read(t, out), packed) {
		t.Errorf("with one processor the result differs, %v", err)
	}
	if _, err := Compress(in+"x", out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no image: got %v", err)
	}
}
