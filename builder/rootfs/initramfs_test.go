package rootfs

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

func TestInitramfs(t *testing.T) {
	tree := sample(t)
	write := func() []byte {
		out := filepath.Join(t.TempDir(), "initramfs")
		if err := tree.Initramfs(out); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data := write()
	if !bytes.Equal(data, write()) {
		t.Error("two runs differ")
	}
	if len(data)%4 != 0 {
		t.Errorf("%d bytes, no multiple of 4", len(data))
	}
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		t.Fatal(err)
	}
	if h.SingleSegment || h.WindowSize > 1<<20 {
		t.Errorf("window %d, single segment %v: too much memory to decode", h.WindowSize, h.SingleSegment)
	}

	// As the kernel reads it: one frame, then zeros.
	end := len(bytes.TrimRight(data, "\x00"))
	var plain []byte
	for ; end <= len(data); end++ { // a frame's checksum may end in zeros
		z, err := zstd.NewReader(bytes.NewReader(data[:end]))
		if err != nil {
			t.Fatal(err)
		}
		plain, err = io.ReadAll(z)
		z.Close()
		if err == nil {
			break
		}
	}
	if len(data)-end > 3 {
		t.Errorf("%d bytes after the frame", len(data)-end)
	}
	if len(plain)%4 != 0 {
		t.Errorf("the cpio has %d bytes, no multiple of 4", len(plain))
	}

	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain)))
	if err != nil {
		t.Fatal(err)
	}
	list := tree.List()
	if len(records) != len(list) {
		t.Fatalf("%d records, want %d", len(records), len(list))
	}
	modes := map[string]uint64{
		"tmp":           cpio.S_IFDIR | 0o1777,
		"root":          cpio.S_IFDIR | 0o700,
		"bin":           cpio.S_IFLNK | 0o777,
		"dev/console":   cpio.S_IFCHR | 0o600,
		"etc/shadow":    cpio.S_IFREG | 0o640,
		"usr/bin/noise": cpio.S_IFREG | 0o755,
	}
	for i, r := range records {
		e := list[i]
		if r.Name != e.Path || r.MTime != 0 || r.UID != uint64(e.UID) || r.GID != uint64(e.GID) || r.Rmajor != uint64(e.Major) || r.Rminor != uint64(e.Minor) {
			t.Errorf("record %+v, want %s", r.Info, e.Path)
		}
		if m, ok := modes[e.Path]; ok && r.Mode != m {
			t.Errorf("%s has mode %o, want %o", e.Path, r.Mode, m)
		}
		content, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if want := append([]byte(e.Target), e.Data...); err != nil || !bytes.Equal(content, want) {
			t.Errorf("%s differs: %v", e.Path, err)
		}
	}
}

func TestPrepend(t *testing.T) {
	dir := t.TempDir()
	initramfs := filepath.Join(dir, "initramfs")
	if err := sample(t).Initramfs(initramfs); err != nil {
		t.Fatal(err)
	}
	rest, err := os.ReadFile(initramfs)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		content []byte
		size    int // of what is before the initramfs
	}{
		{"nothing", nil, 512},
		{"a hash", bytes.Repeat([]byte("a"), 160), 512},
		{"another hash", bytes.Repeat([]byte("b"), 157), 512}, // in the same place
		{"a key", bytes.Repeat([]byte("c"), 600), 1024},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tree := NewTree()
			if err := tree.File("verity", 0o644, tt.content, "test"); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(dir, "out")
			if err := tree.Prepend(initramfs, out); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.size+len(rest) || !bytes.Equal(got[tt.size:], rest) {
				t.Fatalf("%d bytes, want %d and the initramfs of %d", len(got), tt.size, len(rest))
			}
			cmd := exec.Command("cpio", "--quiet", "--to-stdout", "-i", "verity")
			cmd.Stdin = bytes.NewReader(got[:tt.size])
			if content, err := cmd.Output(); err != nil || !bytes.Equal(content, tt.content) {
				t.Errorf("cpio: %q, %v, want %q", content, err, tt.content)
			}
			// As the kernel goes on: over zeros behind the last record.
			end := bytes.LastIndex(got[:tt.size], []byte("TRAILER!!!")) + len("TRAILER!!!")
			if i := slices.IndexFunc(got[end:], func(b byte) bool { return b != 0 }); end+i != tt.size {
				t.Errorf("what follows the archive starts at %d, want %d", end+i, tt.size)
			}
		})
	}
	if err := NewTree().Prepend(initramfs+"x", filepath.Join(dir, "out")); err == nil {
		t.Error("no initramfs: no error")
	}
}
