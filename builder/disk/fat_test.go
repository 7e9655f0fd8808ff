package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/config"
)

// settings is a provisioning that differs in each sector.
func settings(t testing.TB, serial string) []byte {
	t.Helper()
	var text strings.Builder
	for i := range 240 {
		fmt.Fprintf(&text, "# line %03d of the file that has settings for one gateway\n", i)
	}
	file, err := config.File([]byte(text.String() + "serial: " + serial + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// fatDisk returns a disk of which only the boot partition is there, with two
// files.
func fatDisk(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	c := Content{Boot: map[string]string{}, Time: stamp}
	for name, data := range map[string][]byte{"boot.scr": noise(3000), ProvisionFile: settings(t, "FIRST")} {
		c.Boot[name] = filepath.Join(dir, name)
		if err := os.WriteFile(c.Boot[name], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	part := layout()[0]
	fat := filepath.Join(dir, "boot.fat")
	if err := writeFAT(t.Context(), fat, part.Size, c, func(string) []byte { return make([]byte, 4) }); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(fat)
	if err != nil {
		t.Fatal(err)
	}
	return append(make([]byte, part.Offset), data...)
}

// changed writes a disk to a file, and runs commands on it: it is $D, and its boot
// partition, for mtools, $B, which is returned, too.
func changed(t *testing.T, data []byte, script string) (disk, boot string) {
	t.Helper()
	disk = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, data, 0o600); err != nil {
		t.Fatal(err)
	}
	boot = fmt.Sprintf("%s@@%d", disk, layout()[0].Offset)
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "D="+disk, "B="+boot, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "MTOOLSRC=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return disk, boot
}

// makeNew puts another file system on the boot partition, with a file n of 16 KiB.
const makeNew = `
	head -c 16384 /dev/urandom > n
	fresh() { truncate -s 0 fat; truncate -s 8M fat; mkfs.vfat "$@" fat; dd if=fat of=$D bs=1M seek=1 conv=notrunc; }
`

func TestProvisionExtents(t *testing.T) {
	fresh := fatDisk(t)
	for _, tt := range []struct {
		name, change string
		pieces       int // at least
		one          bool
	}{
		{"as the builder leaves it", "", 1, true},
		{"replaced by a person", `head -c 16384 /dev/urandom > n; mcopy -o -i $B n ::/provision.yaml`, 1, true},
		{"behind files that are removed", `: > a; mcopy -i $B a ::/"a long name that goes"; mmove -i $B ::/boot.scr ::/boot.old; mdel -i $B ::/"a long name that goes" ::/provision.yaml
			head -c 16384 /dev/urandom > n; mcopy -i $B n ::/provision.yaml`, 1, true},
		{"in capitals", `mdel -i $B ::/provision.yaml; : > a; mcopy -i $B a ::/provision.yam; head -c 16384 /dev/urandom > n; mcopy -i $B n ::/PROVISION.Yaml`, 1, true},
		{"in pieces", `mdel -i $B ::/provision.yaml
			for i in $(seq 40); do echo $i > f$i; done; mcopy -i $B f* ::/
			mdel -i $B $(seq -f ::/f%g 1 2 40)
			head -c 16384 /dev/urandom > n; mcopy -i $B n ::/provision.yaml`, 5, false},
		{"in larger clusters", makeNew + `fresh -F 16 -s 2; mcopy -i $B n ::/provision.yaml`, 1, true},
		{"one table only, another root folder", makeNew + `fresh -F 16 -s 1 -f 1 -r 16 -R 5; mcopy -i $B n ::/provision.yaml`, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk, boot := changed(t, fresh, tt.change)
			before := read(t, disk)
			extents, err := ProvisionExtents(bytes.NewReader(before))
			if err != nil {
				t.Fatal(err)
			}
			if len(extents) < tt.pieces || tt.one && len(extents) != 1 {
				t.Errorf("%d pieces, want %d: %v", len(extents), tt.pieces, extents)
			}
			var got []byte
			for _, e := range extents {
				got = append(got, before[e.Offset:][:e.Length]...)
			}
			mcopy := func() []byte { return check(t, "", "mcopy", "-i", boot, "::/provision.yaml", "-") }
			if !bytes.Equal(got, mcopy()) {
				t.Error("mcopy has another content than these extents")
			}

			file := settings(t, "SECOND")
			if err := Provision(disk, file); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(mcopy(), file) {
				t.Error("the file has not what was written")
			}
			after := read(t, disk)
			for _, e := range extents {
				copy(after[e.Offset:][:e.Length], before[e.Offset:])
			}
			if !bytes.Equal(before, after) {
				t.Error("more has changed than the file's sectors")
			}
		})
	}
}

// Nothing is written where it cannot be right.
func TestProvisionErrors(t *testing.T) {
	fresh := fatDisk(t)
	le := binary.LittleEndian
	// The builder's FAT: one reserved sector, two tables of 64, 512 entries. The
	// file of the second entry has the clusters from 8.
	const part, table, root, first = 1 << 20, 1<<20 + 512, 1<<20 + 512*(1+2*64), 8
	next := func(cluster, to int) func(d []byte) {
		return func(d []byte) { le.PutUint16(d[table+2*cluster:], uint16(to)) }
	}
	set8 := func(at int, v byte) func(d []byte) { return func(d []byte) { d[part+at] = v } }
	set16 := func(at int, v uint16) func(d []byte) {
		return func(d []byte) { le.PutUint16(d[part+at:], v) }
	}
	for _, tt := range []struct {
		name, change string
		edit         func(d []byte)
		want         string
	}{
		{"no file", `mdel -i $B ::/provision.yaml`, nil, "it is not there"},
		{"only in a folder", `mmd -i $B ::/sub; mmove -i $B ::/provision.yaml ::/sub`, nil, "it is not there"},
		{"a folder", `mdel -i $B ::/provision.yaml; mmd -i $B ::/provision.yaml`, nil, "it is a folder"},
		{"only the short name is left", "", func(d []byte) { copy(d[root+4*32:], "OTHER") }, "it is not there"},
		{"the long name is torn", "", func(d []byte) { d[root+2*32] = 0xe5 }, "it is not there"},
		{"shorter", `echo a: b > n; mcopy -o -i $B n ::/provision.yaml`, nil, "it has 5 bytes, want 16384: it has been replaced"},
		{"empty", `: > n; mcopy -o -i $B n ::/provision.yaml`, nil, "it has 0 bytes"},
		{"longer", `head -c 16385 /dev/zero > n; mcopy -o -i $B n ::/provision.yaml`, nil, "it has 16385 bytes"},
		{"FAT12", makeNew + "fresh -F 12; mcopy -i $B n ::/provision.yaml", nil, "which is not FAT16"},
		{"FAT32", makeNew + "fresh -F 32", nil, "its file system is not FAT16"},
		{"large sectors", makeNew + "truncate -s 0 fat; truncate -s 64M fat; mkfs.vfat -F 16 -S 4096 fat; dd if=fat of=$D bs=1M seek=1 conv=notrunc", nil, "sectors of 4096 bytes"},
		{"no file system", "truncate -s 0 $D; truncate -s 9M $D", nil, "it has no file system: is this an image of the builder?"},
		{"cut short in the tables", "truncate -s 1100K $D", nil, "read the root folder: unexpected EOF"},
		{"empty disk", "truncate -s 0 $D", nil, "read the first sector: unexpected EOF"},
		{"clusters of none", "", set8(13, 0), "not FAT16"},
		{"clusters of three", "", set8(13, 3), "not FAT16"},
		{"no tables", "", set8(16, 0), "not FAT16"},
		{"tables of 255", "", set8(16, 255), "not FAT16"},
		{"no root folder", "", set16(17, 0), "not FAT16"},
		{"larger than the partition", "", set16(19, 16385), "has 16385 sectors, and the partition only 16384"},
		{"a short table", "", set16(22, 63), "room in the table for"},
		{"starts in the reserved clusters", "", func(d []byte) { le.PutUint16(d[root+4*32+26:], 1) }, "its cluster 1 is 0x1, want one from 0x2"},
		{"is nowhere", "", func(d []byte) { le.PutUint16(d[root+4*32+26:], 0) }, "its cluster 1 is 0x0"},
		{"starts at the end", "", func(d []byte) { le.PutUint16(d[root+4*32+26:], 0xffff) }, "its cluster 1 is 0xffff"},
		{"goes on in a free cluster", "", next(first+3, 0), "its cluster 5 is 0x0"},
		{"a bad cluster", "", next(first, 0xfff7), "its cluster 2 is 0xfff7"},
		{"behind the last cluster", "", next(first, 0x7fff), "its cluster 2 is 0x7fff"},
		{"a circle", "", next(first+31, first), "or in a circle"},
		{"a small circle", "", next(first+1, first+1), "or in a circle"},
		{"a chain that is longer", "", next(first+31, first+32), "its clusters go on behind its 16384 bytes"},
		{"a chain that is shorter", "", next(first+30, 0xffff), "it ends after 31 clusters"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk, _ := changed(t, fresh, tt.change)
			before := read(t, disk)
			if tt.edit != nil {
				tt.edit(before)
				if err := os.WriteFile(disk, before, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := Provision(disk, settings(t, "SECOND"))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "provision "+disk+": find provision.yaml on the boot partition: ") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if !bytes.Equal(read(t, disk), before) {
				t.Error("something was written")
			}
		})
	}
	disk, _ := changed(t, fresh, "")
	for _, err := range []error{Provision(disk, []byte("serial: X7\n")), Provision(disk+"x", settings(t, "X7"))} {
		if err == nil || !strings.Contains(err.Error(), "provision "+disk) {
			t.Errorf("got %v", err)
		}
	}
}

// patched is a disk with other bytes in some places.
type patched struct {
	disk    []byte
	patches map[int64][]byte
}

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	if off >= int64(len(p.disk)) {
		return 0, io.EOF
	}
	n := copy(b, p.disk[off:])
	for at, patch := range p.patches {
		if from := max(at, off); from < min(at+int64(len(patch)), off+int64(n)) {
			copy(b[from-off:n], patch[from-at:])
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// What is in the file system's first sector, in its tables and in its folder
// may be anything.
func FuzzProvisionExtents(f *testing.F) {
	data := fatDisk(f)
	const boot, table, root = 1 << 20, 1<<20 + 512, 1<<20 + 512*(1+2*64)
	f.Add(data[boot:][:64], data[table:][:256], data[root:][:192])
	f.Add(data[boot:][:64], data[table:][:20], data[root:][64:160])
	f.Fuzz(func(t *testing.T, first, clusters, folder []byte) {
		extents, err := ProvisionExtents(patched{data, map[int64][]byte{
			boot: first[:min(len(first), 510)], table: clusters[:min(len(clusters), root-table)], root: folder,
		}})
		if err != nil {
			if len(err.Error()) > 300 {
				t.Errorf("a long error: %v", err)
			}
			return
		}
		total, sectors := int64(0), map[int64]bool{}
		for i, e := range extents {
			if e.Length <= 0 || e.Offset%512 != 0 || e.Length%512 != 0 || e.Offset <= boot || e.Offset+e.Length > 9<<20 {
				t.Fatalf("extent %d of %v", i, extents)
			}
			if i > 0 && extents[i-1].Offset+extents[i-1].Length == e.Offset {
				t.Fatalf("extents %d and %d of %v are one", i-1, i, extents)
			}
			for s := e.Offset; s < e.Offset+e.Length; s += 512 {
				if sectors[s] {
					t.Fatalf("sector %d is twice in %v", s/512, extents)
				}
				sectors[s] = true
			}
			total += e.Length
		}
		if total != config.FileSize {
			t.Fatalf("%d bytes in %v", total, extents)
		}
	})
}
