package hashtree

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/verity"
)

// veritysetup is the field's own tool, of Debian's package cryptsetup-bin.
func veritysetup(args ...string) (string, error) {
	out, err := exec.Command("veritysetup", args...).CombinedOutput()
	return string(out), err
}

// built is an image of noise, here and there, with its tree.
func built(t *testing.T, size int64) (path string, p verity.Params) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "root")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, min(size, 100_000))
	rand.NewChaCha8([32]byte{byte(size)}).Read(noise)
	for _, at := range []int64{0, (size - int64(len(noise))) / 2, size - int64(len(noise))} {
		if _, err := f.WriteAt(noise, at); err != nil {
			t.Fatal(err)
		}
	}
	if p, err = Append(f, size); err != nil {
		t.Fatal(err)
	}
	return path, p
}

func TestAppend(t *testing.T) {
	const perBlock = blockSize / hashSize
	for _, tt := range []struct {
		name   string
		size   int64
		blocks uint64
		tree   int64 // blocks of it
	}{
		{"one byte", 1, 1, 0},
		{"one block", blockSize, 1, 0},
		{"one level", 2 * blockSize, 2, 1},
		{"one level, full", perBlock * blockSize, perBlock, 1},
		{"two levels, not a whole block", perBlock*blockSize + 1, perBlock + 1, 2 + 1},
		{"a root", 10<<20 + 4096, 2561, 21 + 1},
		{"two levels, full", perBlock * perBlock * blockSize, perBlock * perBlock, perBlock + 1},
		{"three levels", (perBlock*perBlock + 1) * blockSize, perBlock*perBlock + 1, perBlock + 1 + 2 + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path, p := built(t, tt.size)
			end := int64(p.Blocks) * blockSize
			if info, err := os.Stat(path); err != nil || p.Blocks != tt.blocks || info.Size() != end+blockSize+tt.tree*blockSize {
				t.Errorf("%d blocks, %d bytes with the tree, %v; want %d, and %d blocks of tree", p.Blocks, info.Size(), err, tt.blocks, tt.tree)
			}

			// The same tree made by veritysetup.
			other := filepath.Join(t.TempDir(), "hashes")
			dump, err := veritysetup("dump", "--hash-offset", fmt.Sprint(end), path)
			if err != nil {
				t.Fatalf("veritysetup dump: %v: %s", err, dump)
			}
			uuid, _, _ := strings.Cut(strings.TrimSpace(dump[strings.Index(dump, "UUID:")+5:]), "\n")
			image := filepath.Join(t.TempDir(), "image")
			if out, err := exec.Command("sh", "-c", `cp --sparse=always "$1" "$2" && truncate -s `+fmt.Sprint(end)+` "$2"`, "sh", path, image).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			said, err := veritysetup("format", "--salt", fmt.Sprintf("%x", p.Salt), "--uuid", strings.TrimSpace(uuid), image, other)
			if err != nil || !strings.Contains(said, fmt.Sprintf("%x", p.RootHash)) {
				t.Errorf("veritysetup format: %v: %s\nwant root hash %x", err, said, p.RootHash)
			}
			if want, err := os.ReadFile(other); err != nil || !bytes.Equal(tail(t, path, end), want) {
				t.Errorf("the tree differs from that of veritysetup, %v", err)
			}

			verify := func() (string, error) {
				return veritysetup("verify", "--hash-offset", fmt.Sprint(end), path, path, fmt.Sprintf("%x", p.RootHash))
			}
			if out, err := verify(); err != nil {
				t.Errorf("veritysetup verify: %v: %s", err, out)
			}
			for where, at := range map[string]int64{"the first byte": 0, "the last byte of the image": end - 1} {
				flip(t, path, at)
				if out, err := verify(); err == nil {
					t.Errorf("veritysetup verify passes with %s flipped: %s", where, out)
				}
				flip(t, path, at)
			}
			// A partition: something else is behind the image already.
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			before := tail(t, path, 0)[end:]
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, len(before)), tt.size); err != nil {
				t.Fatal(err)
			}
			if again, err := Append(f, tt.size); err != nil || again != p || !bytes.Equal(tail(t, path, end)[:len(before)], before) {
				t.Errorf("built again: %+v, %v, want %+v and the same tree", again, err, p)
			}
		})
	}
}

func tail(t *testing.T, path string, from int64) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data[from:]
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// broken is a disk that fails from an offset on.
type broken struct {
	reads, writes int64
}

var errDisk = errors.New("input/output error")

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.reads {
		return 0, errDisk
	}
	return len(p), nil
}

func (b broken) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.writes {
		return 0, errDisk
	}
	return len(p), nil
}

func TestAppendErrors(t *testing.T) {
	const size = 1<<20 - 1
	for _, tt := range []struct {
		name string
		disk broken
		size int64
		want string
	}{
		{"nothing", broken{}, 0, "an image of 0 bytes"},
		{"less than nothing", broken{}, -1, "an image of -1 bytes"},
		{"too large", broken{}, verity.MaxBlocks*blockSize + 1, "an image of 17592186044417 bytes"},
		{"a full disk", broken{}, size, "fill up the image"},
		{"a bad disk", broken{size - 1000, size + 1}, size, "read the image"},
		{"no room for the superblock", broken{1 << 20, 1 << 20}, size, "write the"},
		{"no room for the tree", broken{1 << 20, 1<<20 + 2*blockSize}, size, "write the hash tree"},
	} {
		if _, err := Append(tt.disk, tt.size); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	if _, err := Append(broken{1 << 20, 2 << 20}, size); err != nil {
		t.Error(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	const size = 10 << 20
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Append(broken{size, 2 * size}, size); err != nil {
			b.Fatal(err)
		}
	}
}
