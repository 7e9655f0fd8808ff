package flash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/flash/flashtest"
	"github.com/exosite/gwe/gweinit/config"
)

// fakeHost is a /sys and /proc with a computer's disks: paths below /sys, a file
// each, or a link.
func fakeHost(t *testing.T, mountinfo, swaps string, files map[string]string) host {
	t.Helper()
	h := host{t.TempDir(), t.TempDir()}
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write(h.proc+"/self/mountinfo", mountinfo)
	if swaps != "" {
		write(h.proc+"/swaps", "Filename Type Size Used Priority\n"+swaps)
	}
	for name, text := range files {
		path := filepath.Join(h.sys, name)
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(filepath.Join(h.sys, to), path)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		write(path, text+"\n")
		if strings.HasSuffix(name, "/dev") {
			if err := errors.Join(os.MkdirAll(h.sys+"/dev/block", 0o755), os.Symlink(filepath.Dir(path), h.sys+"/dev/block/"+text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// A computer with an encrypted disk, a card reader, a slot with a card in it,
// soldered memory, and a USB disk.
var computer = map[string]string{
	"devices/pci/nvme0n1/dev":             "259:0",
	"devices/pci/nvme0n1/size":            "2000000000",
	"devices/pci/nvme0n1/removable":       "0",
	"devices/pci/nvme0n1/p1/dev":          "259:1",
	"devices/pci/nvme0n1/p1/size":         "1000000",
	"devices/pci/nvme0n1/p1/partition":    "1",
	"devices/pci/nvme0n1/p2/dev":          "259:2",
	"devices/pci/nvme0n1/p2/size":         "1900000000",
	"devices/pci/nvme0n1/p2/partition":    "2",
	"devices/pci/nvme0n1/p2/holders/dm-0": "-> devices/virtual/dm-0",
	"devices/virtual/dm-0/dev":            "253:0",
	"devices/virtual/dm-0/size":           "1900000000",
	"devices/virtual/dm-0/holders/dm-1":   "-> devices/virtual/dm-1",
	"devices/virtual/dm-1/dev":            "253:1",
	"devices/virtual/dm-1/size":           "1800000000",

	"devices/usb/sdb/dev":            "8:16",
	"devices/usb/sdb/size":           "62333952",
	"devices/usb/sdb/removable":      "1",
	"devices/usb/sdb/ro":             "0",
	"devices/usb/sdb/diskseq":        "17",
	"devices/usb/sdb/device/vendor":  "Generic ",
	"devices/usb/sdb/device/model":   "STORAGE DEVICE  ",
	"devices/usb/sdb/device/wwid":    "t10.Generic 9744",
	"devices/usb/sdb/sdb1/dev":       "8:17",
	"devices/usb/sdb/sdb1/size":      "16384",
	"devices/usb/sdb/sdb1/partition": "1",
	"devices/usb/sdc/dev":            "8:32",
	"devices/usb/sdc/size":           "0",
	"devices/usb/sdc/removable":      "1",

	"devices/mmc0/mmcblk0/dev":         "179:0",
	"devices/mmc0/mmcblk0/size":        "62333952",
	"devices/mmc0/mmcblk0/removable":   "0",
	"devices/mmc0/mmcblk0/ro":          "1",
	"devices/mmc0/mmcblk0/device/type": "SD",
	"devices/mmc0/mmcblk0/device/name": "SC32G",
	"devices/mmc0/mmcblk0/device/cid":  "03534453433332",
	"devices/mmc1/mmcblk1/dev":         "179:8",
	"devices/mmc1/mmcblk1/size":        "62333952",
	"devices/mmc1/mmcblk1/removable":   "0",
	"devices/mmc1/mmcblk1/device/type": "MMC",

	"devices/usb/sdd/dev":          "8:48",
	"devices/usb/sdd/size":         "976773168",
	"devices/usb/sdd/removable":    "1",
	"devices/usb/sdd/device/model": "Backup",
}

func TestExamine(t *testing.T) {
	const root = "22 1 253:1 / / rw - ext4 /dev/mapper/root rw\n23 1 259:1 / /boot rw - ext4 /dev/nvme0n1p1 rw\n"
	for _, tt := range []struct{ number, mounts, swaps, want, refused, forced string }{
		{"259:0", root, "", "nvme0n1 system", "this computer runs from it: mounted on /, mounted on /boot, part of dm-0, part of dm-1", "this computer runs from it"},
		{"259:2", root, "", "it is partition 2 of a disk: give the disk, /dev/nvme0n1", "", ""},
		{"8:17", root, "", "it is partition 1 of a disk: give the disk, /dev/sdb", "", ""},
		{"8:16", root, "", "sdb removable model=Generic STORAGE DEVICE id=t10.Generic 9744 31914983424 seq=17", "", ""},
		{"8:16", root + "24 1 8:17 / /media/card rw - vfat /dev/sdb1 rw\n", "", "sdb removable", "it is in use: mounted on /media/card", "it is in use"},
		{"8:16", root + "24 1 0:99 / /media/btrfs rw - btrfs /dev/sdb rw\n", "", "sdb removable", "it is in use: mounted on /media/btrfs", "it is in use"},
		{"8:16", root, "/dev/sdb1 partition 1 0 -2\n", "sdb removable system", "this computer runs from it: swap", "this computer runs from it"},
		{"8:16", "24 1 8:17 / / rw - vfat /dev/sdb1 rw\n", "", "sdb removable system", "this computer runs from it: mounted on /", "this computer runs"},
		{"8:32", root, "", "sdc removable", "there is no card in it", "there is no card in it"},
		{"179:0", root, "", "mmcblk0 removable model=SC32G id=03534453433332", "it is write-protected", "it is write-protected"},
		{"179:8", root, "", "mmcblk1 ", "it is not removable (no model, 31.9 GB), so it may be a disk of this computer: -force", ""},
		{"8:48", root, "", "sdd removable model=Backup", "it has 500.1 GB, more than 137.4 GB, as disks have: -force", ""},
		{"8:99", root, "", "there is no such device any more", "", ""},
	} {
		c, err := fakeHost(t, tt.mounts, tt.swaps, computer).examine(tt.number)
		got := fmt.Sprint(c.Name, " ", map[bool]string{true: "removable "}[c.Removable], map[bool]string{true: "system "}[c.System], "model=", c.Model, " id=", c.ID, " ", c.Size, " seq=", c.seq)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.number, got, tt.want)
		}
		if err != nil {
			continue
		}
		for force, want := range map[bool]string{false: tt.refused, true: tt.forced} {
			err := c.Refuse(1<<30, force)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, force %v: %v, want %s", tt.number, force, err, want)
			}
		}
		if err := c.Refuse(1<<50, true); err == nil {
			t.Errorf("%s is not too small", tt.number)
		}
	}
}

func TestRealDevice(t *testing.T) {
	t.Run("512", func(t *testing.T) { testRealDevice(t, 200*mib+512, "--sector-size=512") })
	t.Run("4096", func(t *testing.T) { testRealDevice(t, 200*mib+4096, "--sector-size=4096") })
}

func testRealDevice(t *testing.T, size int64, sectors string) {
	file := flashtest.File(t, size)
	dev := flashtest.Loop(t, file, sectors)
	link := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(dev, link); err != nil {
		t.Fatal(err)
	}
	c, err := Examine(link)
	if err != nil || c.Size != size || c.Name != filepath.Base(dev) || c.Path != link || c.Removable || len(c.Uses) > 0 || c.Model != file {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := Examine(file); err == nil || !strings.Contains(err.Error(), "it is no block device") {
		t.Errorf("a file: %v", err)
	}

	i := openImage(t)
	j := (&Job{Image: i, Tell: func(Progress) {}, Force: true}).provisioned(t, "GW-##")
	for _, want := range []string{"GW-01", "GW-02"} { // flashed, and flashed again
		if e := j.Cards(t.Context(), []Card{c})[0]; e.Result != OK || e.Serial != want {
			t.Fatalf("%+v", e)
		}
		got, err := os.ReadFile(file)
		if err != nil || int64(len(got)) != size {
			t.Fatal(len(got), err)
		}
		checkCard(t, &card{mem: got, size: size, discard: "zeros"}, i, want)
	}

	// Whoever holds it keeps us away, even if that came after the look at it.
	held, err := os.OpenFile(dev, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if e := j.Cards(t.Context(), []Card{c})[0]; e.Result != Refused || !strings.Contains(e.Detail, "it is in use") || e.Serial != "" {
		t.Errorf("held by another: %+v", e)
	}
	held.Close()

	// A card that another one has taken the place of is not flashed.
	flashtest.Remove(t, dev)
	if e := j.Cards(t.Context(), []Card{c})[0]; e.Result != Refused {
		t.Errorf("pulled out after the look at it: %+v", e)
	}
	flashtest.Insert(t, dev, flashtest.File(t, size))
	if e := j.Cards(t.Context(), []Card{c})[0]; e.Result != Refused || !strings.Contains(e.Detail, "somebody has changed it") {
		t.Errorf("another one: %+v", e)
	}
}

func TestMounted(t *testing.T) {
	file := flashtest.File(t, 200*mib)
	dev := flashtest.Loop(t, file)
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", dev).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	c, err := Examine(dev)
	if err != nil || !slices.Equal(c.Uses, []string{"mounted on " + dir}) {
		t.Fatalf("%+v, %v", c, err)
	}
	j := &Job{Image: openImage(t), Tell: func(Progress) {}, Force: true}
	if e := j.Cards(t.Context(), []Card{c})[0]; e.Result != Refused || e.Detail != "it is in use: mounted on "+dir {
		t.Errorf("%+v", e)
	}
	c.Uses = nil // it was mounted after the look at it
	if e := j.Cards(t.Context(), []Card{c})[0]; e.Result != Refused || !strings.Contains(e.Detail, "it is in use") {
		t.Errorf("%+v", e)
	}
}

// look is what there is to know of a device.
func look(t *testing.T, dev string) Card {
	t.Helper()
	c, err := Examine(dev)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A card that was flashed is not flashed again when somebody starts anew, or puts it
// into another reader, but it is when its gateway has started, and taken the settings.
// What is plugged in instead of the reader is not touched.
func TestWatchRecognises(t *testing.T) {
	i := openImage(t)
	file := flashtest.File(t, 200*mib)
	j := (&Job{Image: i, Tell: func(Progress) {}, Force: true}).provisioned(t, "GW-##")
	watch := func(dev string, c Card) Entry {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended, watched := make(chan Entry, 1), make(chan struct{})
		go func() {
			defer close(watched)
			j.Watch(ctx, []Card{c}, func(Card) {}, func(_ Card, e Entry) { ended <- e })
		}()
		defer func() { cancel(); <-watched }()
		return <-ended
	}
	dev := flashtest.Loop(t, file)
	c := look(t, dev)
	if e := watch(dev, c); e.Result != OK || e.Serial != "GW-01" {
		t.Errorf("%+v", e)
	}
	if e := watch(dev, c); e.Result != Refused || e.Detail != "it is the card of GW-01, flashed before" {
		t.Errorf("again: %+v", e)
	}
	elsewhere := c
	elsewhere.place = "/sys/devices/usb1 0 Reader"
	if e := watch(dev, elsewhere); e.Result != Refused || e.Detail != errOtherReader.Error() {
		t.Errorf("another device: %+v", e)
	}
	if err := disk.Provision(file, config.Done(config.FileSize)); err != nil {
		t.Fatal(err)
	}
	if e := watch(dev, c); e.Result != OK || e.Serial != "GW-02" {
		t.Errorf("back from a gateway: %+v", e)
	}
	r := reader{path: dev, place: c.place, other: true}
	if _, err := r.next(t.Context()); err != errTooEarly {
		t.Errorf("a card that came too early: %v", err)
	}
	c.seq = "another"
	if r.swapped(c); !r.other {
		t.Error("another card is taken for the one that was flashed")
	}
	if r.swapped(look(t, dev)); r.other {
		t.Error("the card that was flashed is taken for another one")
	}
}

func TestPlace(t *testing.T) {
	h := fakeHost(t, "", "", map[string]string{
		"devices/pci/usb1/1-2/1-2:1.0/host3/target3:0:0/3:0:0:0/block/sdb/dev":    "8:16",
		"devices/pci/usb1/1-2/1-2:1.0/host3/target3:0:0/3:0:0:0/block/sdb/size":   "0",
		"devices/pci/usb1/1-2/1-2:1.0/host3/target3:0:0/3:0:0:0/block/sdb/device": "-> devices/pci/usb1/1-2/1-2:1.0/host3/target3:0:0/3:0:0:0",
		"devices/pci/usb1/1-2/1-2:1.0/host3/target3:0:0/3:0:0:0/model":            "SD Reader",
		"devices/pci/usb1/1-2/1-2:1.0/host7/target7:0:0/7:0:0:0/block/sdb/dev":    "8:32", // the same, plugged in once more
		"devices/pci/usb1/1-2/1-2:1.0/host7/target7:0:0/7:0:0:0/block/sdb/size":   "0",
		"devices/pci/usb1/1-2/1-2:1.0/host7/target7:0:0/7:0:0:0/block/sdb/device": "-> devices/pci/usb1/1-2/1-2:1.0/host7/target7:0:0/7:0:0:0",
		"devices/pci/usb1/1-2/1-2:1.0/host7/target7:0:0/7:0:0:0/model":            "SD Reader",
		"devices/pci/usb1/1-2/1-2:1.0/host8/target8:0:0/8:0:0:1/block/sdb/dev":    "8:48", // its second slot
		"devices/pci/usb1/1-2/1-2:1.0/host8/target8:0:0/8:0:0:1/block/sdb/size":   "0",
		"devices/pci/usb1/1-2/1-2:1.0/host8/target8:0:0/8:0:0:1/block/sdb/device": "-> devices/pci/usb1/1-2/1-2:1.0/host8/target8:0:0/8:0:0:1",
		"devices/pci/usb1/1-2/1-2:1.0/host8/target8:0:0/8:0:0:1/model":            "SD Reader",
		"devices/pci/usb1/1-2/1-2:1.0/host9/target9:0:0/9:0:0:0/block/sdb/dev":    "8:64", // a stick in the same place
		"devices/pci/usb1/1-2/1-2:1.0/host9/target9:0:0/9:0:0:0/block/sdb/size":   "0",
		"devices/pci/usb1/1-2/1-2:1.0/host9/target9:0:0/9:0:0:0/block/sdb/device": "-> devices/pci/usb1/1-2/1-2:1.0/host9/target9:0:0/9:0:0:0",
		"devices/pci/usb1/1-2/1-2:1.0/host9/target9:0:0/9:0:0:0/model":            "Stick",
		"devices/mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0/dev":                   "179:0",
		"devices/mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0/size":                  "8",
		"devices/mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0/device":                "-> devices/mmc/mmc_host/mmc0/mmc0:aaaa",
		"devices/mmc/mmc_host/mmc0/mmc0:aaaa/name":                                "SC32G",
		"devices/mmc/mmc_host/mmc0/mmc0:bbbb/block/mmcblk0/dev":                   "179:1", // another card in it
		"devices/mmc/mmc_host/mmc0/mmc0:bbbb/block/mmcblk0/size":                  "8",
		"devices/mmc/mmc_host/mmc0/mmc0:bbbb/block/mmcblk0/device":                "-> devices/mmc/mmc_host/mmc0/mmc0:bbbb",
		"devices/mmc/mmc_host/mmc0/mmc0:bbbb/name":                                "SB16G",
	})
	places := map[string]string{}
	for _, number := range []string{"8:16", "8:32", "8:48", "8:64", "179:0", "179:1"} {
		c, err := h.examine(number)
		if err != nil {
			t.Fatal(err)
		}
		places[number] = c.place
	}
	if places["8:16"] != places["8:32"] || places["179:0"] != places["179:1"] {
		t.Errorf("the same reader is taken for another one: %q", places)
	}
	for _, other := range []string{"8:48", "8:64", "179:0"} {
		if places[other] == places["8:16"] {
			t.Errorf("%s is taken for the reader: %q", other, places)
		}
	}
}

// A kernel that says there is another card is not believed: it says so of one that
// was flashed already, too. Here it is one that looks alike.
func TestWatchWaits(t *testing.T) {
	dev, other := flashtest.Reader(t), flashtest.File(t, 200*mib)
	flashtest.Insert(t, dev, flashtest.File(t, 200*mib), "--read-only")
	j := &Job{Image: openImage(t), Tell: func(Progress) {}, Force: true}
	ctx, cancel := context.WithCancel(t.Context())
	watched, ended := make(chan struct{}), make(chan Entry, 10)
	go func() {
		defer close(watched)
		j.Watch(ctx, []Card{look(t, dev)}, func(Card) {}, func(_ Card, e Entry) { ended <- e })
	}()
	defer func() { cancel(); <-watched }()
	if e := <-ended; e.Result != Refused || e.Detail != errReadOnly.Error() {
		t.Errorf("%+v", e)
	}
	const loopChangeFD = 0x4c06 // of linux/loop.h
	before, err := Examine(dev)
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := os.Open(other)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(d.Fd()), loopChangeFD, int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if after, err := Examine(dev); err != nil || after.seq == before.seq {
		t.Fatalf("%+v, %v", after, err)
	}
	select {
	case e := <-ended:
		t.Errorf("%+v", e)
	case <-time.After(3 * interval):
	}
}

// A line: a card is put in, taken out when it is done, and the next one put in.
func TestWatch(t *testing.T) {
	dev := flashtest.Reader(t)
	i := openImage(t)
	j := (&Job{Image: i, Tell: func(Progress) {}, Force: true}).provisioned(t, "GW-##")
	begun, ended := make(chan Card), make(chan Entry)
	watched := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(watched)
		j.Watch(ctx, []Card{look(t, dev), {Path: "/dev/none"}}, func(c Card) { begun <- c }, func(_ Card, e Entry) { ended <- e })
	}()
	for n, size := range []int64{200 * mib, 10 * mib, 300 * mib} {
		flashtest.Insert(t, dev, flashtest.File(t, size))
		for c := (Card{}); c.Path == ""; {
			select {
			case c = <-begun:
				if c.Size != size || c.Path != dev {
					t.Errorf("%+v", c)
				}
			case <-time.After(10 * interval): // it was so busy that it has not seen the empty reader
				again := flashtest.File(t, size)
				flashtest.Remove(t, dev)
				<-time.After(3 * interval)
				flashtest.Insert(t, dev, again)
			}
		}
		e := <-ended
		switch n {
		case 0, 2:
			if want := []string{"GW-01", "", "GW-02"}[n]; e.Result != OK || e.Serial != want {
				t.Errorf("%+v, want %s", e, want)
			}
		case 1:
			if e.Result != Refused || !strings.Contains(e.Detail, "too small") {
				t.Errorf("%+v", e)
			}
		}
		select { // it is not flashed again as long as it is there
		case c := <-begun:
			t.Errorf("again: %+v", c)
		case <-time.After(3 * interval):
		}
		flashtest.Remove(t, dev)
		<-time.After(3 * interval)
	}
	cancel()
	<-watched
}
