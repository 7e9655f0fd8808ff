package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/watchdog"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, manifest string
		want           stage
		err            string
	}{
		{"as the builder writes it", "disk devices/platform/a003e00.virtio_mmio/\nmodule /modules/virtio_blk.ko\nmodule /modules/squashfs.ko\n",
			stage{disk: "devices/platform/a003e00.virtio_mmio/", modules: []string{"/modules/virtio_blk.ko", "/modules/squashfs.ko"}}, ""},
		{"no modules, no last line's end", "disk devices/x/", stage{disk: "devices/x/"}, ""},
		{"unknown", "disk devices/x/\nverity abc\n", stage{}, `manifest: unknown line "verity abc\n"`},
		{"empty", "", stage{}, "manifest: it names no disk"},
		{"no disk", "module /modules/squashfs.ko\n", stage{}, "manifest: it names no disk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s stage
			switch err := s.parse(tt.manifest); {
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got  %v\nwant %s", err, tt.err)
				}
			case err != nil || !reflect.DeepEqual(s, tt.want):
				t.Errorf("got  %+v, %v\nwant %+v", s, err, tt.want)
			}
		})
	}
}

const malta = "devices/pci0000:00/0000:00:0a.1/"

// sysfs makes a /sys of block devices: by folder, the text of its uevent.
func sysfs(t *testing.T, uevents map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	class := filepath.Join(sys, "class/block")
	if err := os.MkdirAll(class, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, text := range uevents {
		if err := os.MkdirAll(filepath.Join(sys, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(filepath.Join(sys, dir, "uevent"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("../../"+dir, filepath.Join(class, filepath.Base(dir))); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

func uevent(partname string) string {
	return "MAJOR=8\nMINOR=5\nDEVNAME=sda5\nDEVTYPE=partition\nDISKSEQ=2\nPARTN=5\nPARTNAME=" + partname + "\n"
}

func TestPartitions(t *testing.T) {
	disk := malta + "ata1/host0/target0:0:0/0:0:0:0/block/sda"
	sys := sysfs(t, map[string]string{
		disk:                               "DEVNAME=sda\nDEVTYPE=disk\n",
		disk + "/sda1":                     uevent("boot"),
		disk + "/sda5":                     uevent("rootfs_a"),
		disk + "/sda6":                     "DEVNAME=sda6\nPARTNAME=with = and blank\n",
		disk + "/sda7":                     "DEVNAME=sda7\nDEVTYPE=partition\nPARTN=7\n", // of an MBR
		"devices/virtual/block/loop0":      "DEVNAME=loop0\n",
		"devices/platform/x/mmcblk0/gone1": "", // unplugged while we look
	})
	want := []partition{
		{"sda1", "boot", disk + "/sda1"},
		{"sda5", "rootfs_a", disk + "/sda5"},
		{"sda6", "with = and blank", disk + "/sda6"},
	}
	if got, err := partitions(sys); err != nil || !slices.Equal(got, want) {
		t.Errorf("got  %v, %v\nwant %v", got, err, want)
	}
	if _, err := partitions(t.TempDir()); err == nil {
		t.Error("a /sys without class/block: no error")
	}
}

func TestChoose(t *testing.T) {
	wanted := []string{"boot", "ubenv", "rootfs_a", "data"}
	for _, tt := range []struct {
		name, disk   string
		parts        map[string]string // name by folder
		mine, others string            // devices
	}{
		{"one disk", malta,
			map[string]string{malta + "block/sda/sda1": "boot", malta + "block/sda/sda7": "data", malta + "block/sda/sda8": "spare"}, "sda1 sda7", ""},
		{"not all of them yet", malta, map[string]string{malta + "block/sda/sda1": "boot"}, "sda1", ""},
		{"a second disk that comes first", malta,
			map[string]string{"devices/pci0000:00/0000:00:01.2/usb1/block/sda/sda1": "rootfs_a", malta + "block/sdb/sdb5": "rootfs_a", malta + "block/sdb/sdb1": "boot"},
			"sdb1 sdb5", "sda1"},
		{"a second disk with other names", malta, map[string]string{"devices/usb/block/sda/sda1": "holiday", malta + "block/sdb/sdb1": "boot"}, "sdb1", ""},
		{"only a second disk", malta, map[string]string{"devices/usb/block/sda/sda1": "rootfs_a"}, "", "sda1"},
		{"a second disk of the same controller", malta,
			map[string]string{malta + "ata1/block/sda/sda5": "rootfs_a", malta + "ata2/block/sdb/sdb5": "rootfs_a"}, "sda5", "sdb5"},
		{"a similar name", malta,
			map[string]string{"devices/pci0000:00/0000:00:0a.10/block/sda/sda1": "boot", malta + "block/sdb/sdb1": "boot"}, "sdb1", "sda1"},
		{"a similar name, and a board without the slash", strings.TrimSuffix(malta, "/"),
			map[string]string{"devices/pci0000:00/0000:00:0a.10/block/sda/sda1": "boot", malta + "block/sdb/sdb1": "boot"}, "sdb1", "sda1"},
		{"the folder's name further below", malta, map[string]string{"devices/usb/" + malta + "block/sda/sda1": "boot"}, "", "sda1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			uevents := map[string]string{}
			for dir, name := range tt.parts {
				uevents[dir] = uevent(name)
			}
			all, err := partitions(sysfs(t, uevents))
			if err != nil {
				t.Fatal(err)
			}
			var s stage
			if err := s.parse("disk " + tt.disk + "\n"); err != nil {
				t.Fatal(err)
			}
			chosen, ignored := choose(all, s.disk, wanted)
			var mine, others []string
			for name, p := range chosen {
				mine = append(mine, p.device)
				if p.name != name {
					t.Errorf("%+v as %s", p, name)
				}
			}
			for _, p := range ignored {
				others = append(others, p.device)
			}
			slices.Sort(mine)
			if got := strings.Join(mine, " "); got != tt.mine {
				t.Errorf("chosen: %s, want %s", got, tt.mine)
			}
			if got := strings.Join(others, " "); got != tt.others {
				t.Errorf("ignored: %s, want %s", got, tt.others)
			}
		})
	}
}

func TestLink(t *testing.T) {
	dev := t.TempDir()
	parts := map[string]partition{"boot": {device: "vda1"}, "data": {device: "vda7"}}
	for _, p := range parts {
		if err := os.WriteFile(filepath.Join(dev, p.device), []byte(p.device), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := link(parts, filepath.Join(dev, "disk/by-partlabel")); err != nil {
		t.Fatal(err)
	}
	for name, p := range parts {
		if got, err := os.ReadFile(filepath.Join(dev, "disk/by-partlabel", name)); err != nil || string(got) != p.device {
			t.Errorf("%s leads to %q, %v, want %s", name, got, err, p.device)
		}
	}
}

// files returns the paths below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		found[strings.TrimPrefix(path, dir)] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}

func TestRemoveAll(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.MkdirAll(filepath.Join(outside, "kept"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"modules/deep/er", "newroot", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"init", "modules/a.ko", "modules/deep/er/b.ko"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"link": outside, "modules/dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "newroot")
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount a tmpfs (needs root): %v", err)
	}
	defer func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("unmount %s: %v", root, err)
		}
	}()
	if err := os.WriteFile(filepath.Join(root, "init"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}

	if err := removeAll(dir); err != nil {
		t.Error(err)
	}
	if got, want := files(t, dir), []string{"", "/newroot", "/newroot/init"}; !slices.Equal(got, want) {
		t.Errorf("left: %q, want %q", got, want)
	}
	if got := files(t, outside); len(got) != 2 {
		t.Errorf("behind a link: %q is left", got)
	}
	if err := removeAll(filepath.Join(dir, "none")); err == nil {
		t.Error("no folder: no error")
	}
}

func TestParameters(t *testing.T) {
	const cmdline = "console=ttyS0 watchdog.stop_on_reboot=0 gwe.slot=a nls-cp437.x=1 nls_cp437.y quiet\n"
	for file, want := range map[string]string{
		"/modules/watchdog.ko":  "stop_on_reboot=0",
		"/modules/nls_cp437.ko": "x=1 y",
		"/modules/nls-cp437.ko": "x=1 y",
		"/modules/softdog.ko":   "",
		"/modules/quiet.ko":     "",
	} {
		if got := parameters(cmdline, file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}

func TestDo(t *testing.T) {
	released := make(chan bool)
	defer close(released)
	for _, tt := range []struct {
		name  string
		run   func(*stage) error
		limit time.Duration
		want  string // the error
	}{
		{"well", func(*stage) error { return nil }, time.Minute, "<nil>"},
		{"an error", func(*stage) error { return unix.ENODEV }, time.Minute, "no such device"},
		{"a panic", func(*stage) error { panic("no such phase") }, time.Minute, "panic: no such phase"},
		{"a hang", func(*stage) error { <-released; return nil }, 10 * time.Millisecond, "not done after 10ms"},
	} {
		dev, err := os.Create(filepath.Join(t.TempDir(), "watchdog0"))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*stage{{}, {watchdog: dev}} {
			if got := fmt.Sprint(s.do(tt.run, tt.limit)); got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
			}
		}
		dev.Close()
		if got, err := os.ReadFile(dev.Name()); err != nil || string(got) != "\x00" {
			t.Errorf("%s: the watchdog got %q, %v, want to be petted once", tt.name, got, err)
		}
	}
}

// What hangs is ended by a reboot, before the watchdog does it with less to say.
func TestPhaseLimit(t *testing.T) {
	if phaseLimit <= diskWait || phaseLimit+20*time.Second > watchdog.Timeout {
		t.Errorf("a phase has %v: want more than the disk's %v, and 20 s less than the watchdog's %v", phaseLimit, diskWait, watchdog.Timeout)
	}
}
