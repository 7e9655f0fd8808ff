package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// mib is in sectors.
const mib = 1 << 20 / SectorSize

// card is the table of a disk like the builder's, of 128 MiB, on a larger one.
func card(sectors uint64) Table {
	t := Table{Disk: HashGUID([]byte("the disk's own id")), Sectors: sectors}
	first := uint64(mib)
	for i, p := range []struct {
		name string
		mib  uint64
	}{{"boot", 8}, {"ubenv", 8}, {"kernel_a", 16}, {"kernel_b", 16}, {"rootfs_a", 24}, {"rootfs_b", 24}, {"data", 30}} {
		e := Entry{LinuxData, HashGUID(fmt.Appendf(nil, "partition number %d", i)), first, first + p.mib*mib - 1, 0, p.name}
		if p.name == "boot" {
			e.Type, e.Attributes = BasicData, 1
		}
		t.Entries = append(t.Entries, e)
		first = e.Last + 1
	}
	return t
}

// check runs a tool whose output has to contain want.
func check(t *testing.T, want, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%s: %v; want %q in\n%s", cmd, err, want, out)
	}
}

// blank returns a file for a disk.
func blank(t *testing.T, sectors uint64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(int64(sectors * SectorSize)); err != nil {
		t.Fatal(err)
	}
	return f
}

// What sgdisk writes is what we read and write.
func TestTableIsSgdisks(t *testing.T) {
	const sectors = 64 * mib
	f := blank(t, sectors)
	want := Table{
		Disk:    HashGUID([]byte("the disk's own id")),
		Sectors: sectors,
		Entries: []Entry{
			{BasicData, HashGUID([]byte("partition number 1")), 2048, 8*mib - 1, 1<<2 | 1<<63, "boot ü"},
			{},
			{},
			{LinuxData, HashGUID([]byte("partition number 4")), 8 * mib, sectors - 34, 0, strings.Repeat("𝄞", 18)},
		},
	}
	args := []string{"-U", want.Disk.String(), "-A", "1:set:2", "-A", "1:set:63"}
	for _, i := range []int{0, 3} {
		e := want.Entries[i]
		args = append([]string{"-a", "1", "-n", fmt.Sprintf("%d:%d:%d", i+1, e.First, e.Last), "-t", fmt.Sprintf("%d:%s", i+1, e.Type),
			"-u", fmt.Sprintf("%d:%s", i+1, e.ID), "-c", fmt.Sprintf("%d:%s", i+1, e.Name)}, args...)
	}
	check(t, "success", "sgdisk", append(args, f.Name())...)

	primary, backup, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		at    int64
		ours  []byte
		parse func([]byte) (Table, error)
	}{
		{"primary", 1, primary, parsePrimary},
		{"backup", sectors - 33, backup, func(b []byte) (Table, error) { return parseBackup(b, sectors) }},
	} {
		theirs := make([]byte, 33*SectorSize)
		if _, err := f.ReadAt(theirs, c.at*SectorSize); err != nil {
			t.Fatal(err)
		}
		if got, err := c.parse(theirs); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: we read %+v, %v\nwant %+v", c.name, got, err, want)
		}
		if !bytes.Equal(c.ours, theirs) {
			t.Errorf("%s: sgdisk writes other bytes", c.name)
		}
	}
	mbr := make([]byte, SectorSize)
	if _, err := f.ReadAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if ours := ProtectiveMBR(sectors); !bytes.Equal(ours[:446+5], mbr[:446+5]) || !bytes.Equal(ours[446+8:], mbr[446+8:]) {
		t.Errorf("protective MBR\n% x\nwant, but for the end in CHS,\n% x", ours[446:], mbr[446:])
	}
}

func TestWrite(t *testing.T) {
	const sectors = 8 * mib
	one := func(e Entry) Table { return Table{Sectors: sectors, Entries: []Entry{e}} }
	named := func(name string) Table {
		return one(Entry{Type: LinuxData, ID: GUID{1}, First: 2048, Last: 4095, Name: name})
	}
	for _, tt := range []struct {
		name  string
		table Table
		want  string // error
		shown string // by sfdisk
	}{
		{"36 characters", named(strings.Repeat("ü", 36)), "", strings.Repeat("ü", 36)},
		{"a longer name", named(strings.Repeat("x", 37)), "longer than 36", ""},
		{"characters of two UTF-16 units", named(strings.Repeat("𝄞", 19)), "longer than 36", ""},
		{"all that is usable", one(Entry{LinuxData, GUID{1}, 34, sectors - 34, 0, "all"}), "", "all"},
		{"in the primary table", one(Entry{LinuxData, GUID{1}, 33, 4095, 0, ""}), "partition 1: sectors 33 to 4095 are not within the usable 34 to 16350", ""},
		{"in the backup table", one(Entry{LinuxData, GUID{1}, 34, sectors - 33, 0, ""}), "not within", ""},
		{"ends before it starts", one(Entry{LinuxData, GUID{1}, 35, 34, 0, ""}), "not within", ""},
		{"too many", Table{Sectors: sectors, Entries: make([]Entry, 129)}, "129 partitions", ""},
		{"no room", Table{Sectors: 67}, "no room", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := blank(t, sectors)
			if _, err := f.WriteAt(ProtectiveMBR(sectors), 0); err != nil {
				t.Fatal(err)
			}
			err := tt.table.Write(f)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			check(t, "No problems found", "sgdisk", "-v", f.Name())
			check(t, tt.shown, "sfdisk", "-J", f.Name())
		})
	}
}

func TestHybridMBRErrors(t *testing.T) {
	for _, e := range []Entry{{First: 33, Last: 100}, {First: 100, Last: 99}, {First: 2048, Last: 1 << 32}} {
		if _, err := HybridMBR(e); err == nil || !strings.Contains(err.Error(), "not within") {
			t.Errorf("%+v: got %v", e, err)
		}
	}
}

// resum makes the checksums of a primary table right.
func resum(table []byte) {
	h, le := table[:SectorSize], binary.LittleEndian
	le.PutUint32(h[88:], crc32.ChecksumIEEE(table[SectorSize:]))
	le.PutUint32(h[16:], 0)
	if size := le.Uint32(h[12:]); size <= SectorSize {
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
	}
}

func TestParseErrors(t *testing.T) {
	le := binary.LittleEndian
	put32 := func(off int, v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[off:], v) } }
	put64 := func(off int, v uint64) func([]byte) { return func(b []byte) { le.PutUint64(b[off:], v) } }
	const entry = SectorSize // the first
	for _, tt := range []struct {
		name    string
		damage  func(table []byte)
		resum   bool
		invalid bool
		want    string
	}{
		{"nothing", func(b []byte) { clear(b) }, false, true, "no signature"},
		{"a bit of the header", func(b []byte) { b[60] ^= 1 }, false, true, "CRC-32 of the header"},
		{"a bit of the entries", func(b []byte) { b[5000] ^= 1 }, false, true, "CRC-32 of the entries"},
		{"a huge header", put32(12, math.MaxUint32), true, true, "a header of 4294967295 bytes"},
		{"a tiny header", put32(12, 91), true, true, "a header of 91 bytes"},
		{"a copy of the backup's", put64(24, 262143), true, true, "a header for sector 262143 in sector 1"},
		{"56 entries", put32(80, 56), true, false, "56 entries of 128 bytes: only 128 of 128 are supported"},
		{"large entries", put32(84, 256), true, false, "128 entries of 256 bytes"},
		{"entries elsewhere", put64(72, 34), true, false, "its entries from 34"},
		{"usable too early", put64(40, 33), true, false, "sectors 33 to 262110 of 262144 cannot be usable"},
		{"usable too late", put64(48, 262144-33), true, false, "cannot be usable"},
		{"nothing usable", put64(48, 33), true, false, "cannot be usable"},
		{"backup in front", put64(32, 66), true, false, "cannot be usable"},
		{"backup beyond all", put64(32, math.MaxUint64), true, false, "cannot be usable"},
		{"a partition in the table", put64(entry+32, 33), true, false, "partition 1: sectors 33 to 18431 are not within the usable 34 to 262110"},
		{"a partition outside", put64(entry+40, 262111), true, false, "partition 1"},
		{"a partition that ends before it starts", put64(entry+40, 34), true, false, "partition 1"},
		{"half a character", func(b []byte) { le.PutUint16(b[entry+56:], 0xd800) }, true, false, "not UTF-16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, _, err := card(128 * mib).encode()
			if err != nil {
				t.Fatal(err)
			}
			tt.damage(table)
			if tt.resum {
				resum(table)
			}
			got, err := parsePrimary(table)
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, errInvalid) != tt.invalid {
				t.Errorf("got %+v, %v; want %s; not a table: %v", got, err, tt.want, tt.invalid)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	table, _, err := card(128 * mib).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(table[:SectorSize], table[SectorSize:][:8*entrySize])
	f.Add([]byte("EFI PART"), []byte{1})
	f.Fuzz(func(t *testing.T, header, entries []byte) {
		table := make([]byte, tableSectors*SectorSize)
		copy(table[SectorSize:], entries)
		copy(table[:SectorSize], header)
		parsePrimary(table) // must not fail
		resum(table)
		got, err := parsePrimary(table)
		if err != nil {
			return
		}
		primary, backup, err := got.encode()
		if err != nil {
			t.Fatalf("%+v cannot be written again: %v", got, err)
		}
		for _, again := range []func() (Table, error){
			func() (Table, error) { return parsePrimary(primary) },
			func() (Table, error) { return parseBackup(backup, got.Sectors) },
		} {
			if again, err := again(); err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("%+v is written and read as %+v, %v", got, again, err)
			}
		}
	})
}
