package flash

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/gweinit/config"
)

func TestOpenImage(t *testing.T) {
	dir := folder(t)
	var images []*Image
	for _, name := range []string{"test.img", "test.img.zst"} {
		last := int64(0)
		i, err := OpenImage(t.Context(), filepath.Join(dir, name), func(done, total int64) {
			if done <= last && done != total || total != disk.Size {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		})
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		if last != disk.Size {
			t.Errorf("%s: progress ends with %d", name, last)
		}
		images = append(images, i)
	}
	raw, unpacked := make([]byte, disk.Size), make([]byte, disk.Size)
	for i, b := range [][]byte{raw, unpacked} {
		if _, err := images[i].file.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(raw, unpacked) {
		t.Error("the compressed image is another one")
	}
	for _, i := range images {
		at := int64(0)
		data, zeros := i.data, i.zeros()
		for at < disk.Size { // the two are all there is, by turns
			switch {
			case len(data) > 0 && data[0].Offset == at:
				for off := at; off < at+data[0].Length; off += grain {
					if allZero(raw[off : off+grain]) {
						t.Fatalf("zeros at %d are taken for data", off)
					}
				}
				at, data = at+data[0].Length, data[1:]
			case len(zeros) > 0 && zeros[0].Offset == at:
				if !allZero(raw[at : at+zeros[0].Length]) {
					t.Fatalf("the %d bytes at %d are not zeros", zeros[0].Length, at)
				}
				at, zeros = at+zeros[0].Length, zeros[1:]
			default:
				t.Fatalf("what is at %d?", at)
			}
		}
		if len(data)+len(zeros) > 0 {
			t.Errorf("beyond its end: %v, %v", data, zeros)
		}
	}
}

// An image may have been built with settings.
func TestImageSettings(t *testing.T) {
	i := smallImage(t)
	put := func(file []byte) {
		for _, e := range i.provision {
			if _, err := i.file.WriteAt(file[:e.Length], e.Offset); err != nil {
				t.Fatal(err)
			}
			file = file[e.Length:]
		}
	}
	if p, ok, err := i.Settings(); err != nil || ok || p.Product != "" {
		t.Errorf("none: %+v, %v, %v", p, ok, err)
	}
	file, err := config.File([]byte("product: p\nserial: GW-1\n"))
	if err != nil {
		t.Fatal(err)
	}
	put(file)
	if p, ok, err := i.Settings(); err != nil || !ok || p.Product != "p" || p.Serial != "GW-1" {
		t.Errorf("%+v, %v, %v", p, ok, err)
	}
	put(bytes.Repeat([]byte("x"), config.FileSize))
	if p, ok, err := i.Settings(); err == nil || ok || !strings.Contains(err.Error(), "the image's settings: line 1") {
		t.Errorf("%+v, %v, %v", p, ok, err)
	}
}

func TestOpenImageRefuses(t *testing.T) {
	dir := folder(t)
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	compressed, manifest := read("test.img.zst"), read("test.json")
	damaged := bytes.Clone(compressed)
	damaged[len(damaged)/2] ^= 1
	otherHash := bytes.Replace(manifest, []byte(openImage(t).Image.SHA256), bytes.Repeat([]byte("a"), 64), 1)
	otherSize := bytes.ReplaceAll(manifest, []byte(`"134217728"`), []byte(`"134221824"`))
	if bytes.Equal(otherSize, manifest) || bytes.Equal(otherHash, manifest) {
		t.Fatalf("the manifest has its size in another form:\n%s", manifest)
	}
	for _, tt := range []struct {
		name, file      string
		image, manifest []byte
		want            string
	}{
		{"no manifest", "test.img.zst", compressed, nil, "its test.json is not beside it"},
		{"no image", "test.img.zst", nil, manifest, "no such file"},
		{"another name", "test.bin", compressed, manifest, "want a BOARD.img or BOARD.img.zst"},
		{"damaged", "test.img.zst", damaged, manifest, "test.img.zst: "},
		{"cut off", "test.img.zst", compressed[:len(compressed)-100], manifest, "134217728 bytes is what test.json says, 134"},
		{"cut off, not compressed", "test.img", make([]byte, 8192), manifest, "134217728 bytes is what test.json says, 8192 what is there"},
		{"longer", "test.img.zst", append(bytes.Clone(compressed), compressed...), manifest, "134217728 bytes is what test.json says"},
		{"of another build", "test.img.zst", compressed, otherHash, "SHA-256 aaaa"},
		{"of another size", "test.img.zst", compressed, otherSize, "134221824 bytes is what test.json says"},
		{"no manifest but something else", "test.img.zst", compressed, []byte("{}"), "test.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range map[string][]byte{tt.file: tt.image, "test.json": tt.manifest} {
				if data != nil {
					if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			i, err := OpenImage(t.Context(), filepath.Join(dir, tt.file), func(int64, int64) {})
			if err == nil || !strings.Contains(err.Error(), tt.want) || i != nil {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenImage(ctx, filepath.Join(dir, "test.img"), func(int64, int64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
