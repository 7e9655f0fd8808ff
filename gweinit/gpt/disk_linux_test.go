package gpt

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// loop attaches a file as a disk, with partitions, until the test ends.
func loop(t *testing.T, file string, args ...string) string {
	t.Helper()
	out, err := exec.Command("losetup", append(args, "--find", "--show", "--partscan", file)...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup, as root: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return dev
}

// The card is a real block device: its table grows, and its partition in the
// kernel.
func TestGrowDisk(t *testing.T) {
	f := blank(t, sd)
	mbr := ProtectiveMBR(128 * mib)
	if _, err := f.WriteAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if err := card(128 * mib).Write(f); err != nil {
		t.Fatal(err)
	}
	path := loop(t, f.Name())

	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Sectors() != sd {
		t.Fatalf("%d sectors, want %d", d.Sectors(), sd)
	}
	got, err := Grow(d, d.Sectors(), "data")
	if err != nil || got.Number != 7 || got.First != 97*mib || got.Sectors != 158*mib || got.Done == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	if again, err := Grow(d, d.Sectors(), "data"); err != nil || again.Done != "" {
		t.Errorf("again: %+v, %v", again, err)
	}
	if err := d.Sync(); err != nil {
		t.Error(err)
	}

	partition := filepath.Join("/sys/class/block", filepath.Base(path), filepath.Base(path)+"p7")
	if _, err := os.Stat(partition); err != nil { // this kernel reads no GPT
		check(t, "", "addpart", path, "7", fmt.Sprint(97*mib), fmt.Sprint(30*mib))
		defer check(t, "", "delpart", path, "7")
	}
	size := func() string {
		s, err := os.ReadFile(partition + "/size")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(s))
	}
	if err := d.ResizePartition(7, got.First, 31*mib); err != nil || size() != fmt.Sprint(31*mib) {
		t.Errorf("%v; the kernel's partition has %s sectors, want %d", err, size(), 31*mib)
	}
	for range 2 { // once more changes nothing
		if err := d.ResizePartition(got.Number, got.First, got.Sectors); err != nil || size() != fmt.Sprint(got.Sectors) {
			t.Errorf("%v; the kernel's partition has %s sectors, want %d", err, size(), got.Sectors)
		}
	}
	want := fmt.Sprintf("resize partition 7 of %s to %d sectors from %d: ", path, 200*mib, got.First)
	if err := d.ResizePartition(7, got.First, 200*mib); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("beyond the disk: got %v", err)
	}

	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	check(t, "No problems found", "sgdisk", "-v", f.Name())
	now := make([]byte, SectorSize)
	if _, err := f.ReadAt(now, 0); err != nil || !bytes.Equal(now, mbr) {
		t.Errorf("sector 0 is now % x, %v", now[446:], err)
	}
}

// The disk gets exactly the sectors that are written. Through the page cache it
// would get sector 0 again with them.
func TestDiskWritesNoOtherSector(t *testing.T) {
	path := loop(t, blank(t, mib).Name())
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	written := func() int {
		stat, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(path), "stat"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.Fields(string(stat))[6]) // Linux, Documentation/block/stat.rst
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := written()
	want := bytes.Repeat([]byte("GPT!"), tableSectors*SectorSize/4)
	if _, err := d.WriteAt(want, SectorSize); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := written() - before; n != tableSectors {
		t.Errorf("%d sectors are written, want %d", n, tableSectors)
	}
	got := make([]byte, len(want))
	if n, err := d.ReadAt(got, SectorSize); n != len(want) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes read back, %v, or others", n, err)
	}
	if _, err := d.WriteAt(want, 100); err == nil {
		t.Error("a write in the middle of a sector is taken")
	}
}

func TestOpenDiskErrors(t *testing.T) {
	file := blank(t, mib).Name()
	for _, tt := range []struct{ name, path, want string }{
		{"no disk", "/dev/no-disk", "open the disk: open /dev/no-disk: no such file"},
		{"a file", file, "disk " + file + ": ask for the size of a sector: inappropriate ioctl"},
		{"large sectors", loop(t, file, "--sector-size", "4096"), "sectors of 4096 bytes: only 512 are supported"},
	} {
		d, err := OpenDisk(tt.path)
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}
