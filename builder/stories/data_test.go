//go:build qemu

package stories

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/gweinit/gpt"
	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/powercut"
	"github.com/exosite/gwe/gweinit/slot"
)

// enlarge makes the card that the image was written to a larger one.
func (c *card) enlarge(t testing.TB, size int64) {
	t.Helper()
	if err := os.Truncate(c.path, size); err != nil {
		t.Fatal(err)
	}
}

// sgdisk has the card's partition table checked.
func (c *card) sgdisk(t *testing.T) {
	t.Helper()
	out, err := exec.Command("sgdisk", "-v", c.path).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("No problems found")) || bytes.Contains(out, []byte("Caution")) {
		t.Errorf("sgdisk -v: %v\n%s", err, out)
	}
}

// dataMegabytes is the size of /data as df knows it.
func (m *machine) dataMegabytes() int {
	m.t.Helper()
	n, err := strconv.Atoi(m.runs("df -mP /data | awk 'NR==2{print $2}'"))
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

func (c *card) read(t *testing.T, p []byte, off int64) {
	t.Helper()
	f, err := os.Open(c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
}

// checkData has the host's e2fsck look at /data of a card of the given size.
func (c *card) checkData(t *testing.T, size int64) {
	t.Helper()
	last := c.Partitions[len(c.Partitions)-1]
	file := filepath.Join(t.TempDir(), "data")
	copy := exec.Command("dd", "if="+c.path, "of="+file, "bs=1M", "conv=sparse", "status=none",
		fmt.Sprintf("skip=%d", last.Offset>>20), fmt.Sprintf("count=%d", (size-last.Offset)>>20-1))
	if out, err := copy.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", copy, err, out)
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", file).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// comesUpGrown boots a card of the given size, on which nothing may be left to
// be done or to be repaired afterwards.
func (c *card) comesUpGrown(t *testing.T, size int64) {
	t.Helper()
	m := c.boot(t)
	if rest := m.ready(c.build, slot.A); rest != "" {
		t.Errorf("the ready line ends in %q", rest)
	}
	m.shell()
	// All but the other partitions, and what ext4 needs for itself.
	if got, want := m.dataMegabytes(), int(size>>20-98)*9/10; got < want {
		t.Errorf("/data has %d MB of a card of %d MiB, want at least %d", got, size>>20, want)
	}
	io.WriteString(m, "poweroff\n")
	m.poweredOff()
	c.sgdisk(t)
	c.checkData(t, size)
}

// The power goes while the partition table is written for a larger card. After
// each cut the real U-Boot finds its slot, and the next boot of Linux finishes.
func TestPowerCutsWhileTheTableGrows(t *testing.T) {
	const size = 256 << 20
	eachUBoot(t, func(t *testing.T, b *build) {
		stubs, whole := stubCard(t, b, false), b.card(t)
		stubs.enlarge(t, size)
		whole.enlarge(t, size)
		image, err := os.Open(whole.path)
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		write := func(c *card, from *powercut.Disk) {
			f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, off := range []int64{0, size - 34*512} { // where tables are
				buf := make([]byte, 34*512)
				if _, err := from.ReadAt(buf, off); err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(buf, off); err != nil {
					t.Fatal(err)
				}
			}
		}
		var cuts []*powercut.Disk
		grow := func(d *powercut.Disk) error {
			_, err := gpt.Grow(d, size/gpt.SectorSize, slot.DataPartition)
			return err
		}
		_, err = powercut.Each(powercut.New(image, size), grow, func(name string, after *powercut.Disk, _ error) {
			cuts = append(cuts, after.Copy())
			write(stubs, after)
			if booted, why, text := stubs.firstBoot(t); booted != slot.A || why != "good" {
				t.Errorf("%s: U-Boot takes %s %s\n%s", name, booted, why, text)
			}
		})
		if err != nil || len(cuts) < 5 {
			t.Fatalf("%d cuts, %v", len(cuts), err)
		}
		t.Logf("%d contents tried in the real U-Boot", len(cuts))
		// The one in the middle has a torn table on the disk.
		write(whole, cuts[len(cuts)/2])
		whole.comesUpGrown(t, size)
	})
}

// slow has the machine's disk write slowly, so that a cut hits the writing.
func slow(writesPerSecond int) func(*qemu.Options) {
	return func(o *qemu.Options) {
		o.Args = []string{"-set", fmt.Sprintf("drive.disk.throttling.iops-write=%d", writesPerSecond)}
	}
}

// The power goes while the first boot on a larger card grows /data: from the
// moment on at which the new partition table is at the card's end.
func TestPowerCutsWhileGrowing(t *testing.T) {
	const size = 1 << 30
	eachSample(t, func(t *testing.T, b *build) {
		unfinished := 0
		for i := range 2 {
			c := b.card(t)
			c.enlarge(t, size)
			m := c.boot(t, slow(4))
			for table := make([]byte, 8); string(table) != "EFI PART"; time.Sleep(10 * time.Millisecond) {
				if m.ctx.Err() != nil {
					t.Fatalf("the table does not grow:\n%s", m.Tail(20))
				}
				c.read(t, table, size-512)
			}
			time.Sleep(time.Duration(i) * 1500 * time.Millisecond)
			m.Kill()
			superblock := make([]byte, 8)
			c.with(t, slot.DataPartition, func(p partition) {
				if _, err := p.ReadAt(superblock, 1024); err != nil {
					t.Fatal(err)
				}
			})
			blocks := binary.LittleEndian.Uint32(superblock[4:])
			t.Logf("cut with an ext4 of %d blocks", blocks)
			if blocks < 200000 {
				unfinished++
			}
			c.comesUpGrown(t, size)
		}
		if unfinished == 0 {
			t.Error("no cut hit the growing")
		}
	})
}

// onData runs a command of the host on a copy of the data partition, whose name
// is the last argument, and puts it back.
func (c *card) onData(t *testing.T, command ...string) {
	t.Helper()
	c.with(t, slot.DataPartition, func(p partition) {
		file := filepath.Join(t.TempDir(), "data")
		data := make([]byte, p.size)
		if _, err := p.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(command[0], append(command[1:], file)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
	})
}

// The kernel has found an error in /data: at the next boot it is repaired, and
// what is on it is still there.
func TestDamagedDataIsRepaired(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		kept := filepath.Join(t.TempDir(), "kept")
		if err := os.WriteFile(kept, []byte("kept\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c.onData(t, "debugfs", "-w", "-R", "write "+kept+" kept")
		c.onData(t, "debugfs", "-w", "-R", "freei <3840>") // the bitmap says free twice
		c.onData(t, "debugfs", "-w", "-R", "ssv state 2")
		m := c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		if got := m.runs("cat /data/kept; awk '$2==\"/data\"{print $3}' /proc/mounts"); got != "kept\next4" {
			t.Errorf("/data after the repair: %q", got)
		}
		if got := m.runs("dmesg | grep -c 'gweinit: e2fsck: '"); got == "0" {
			t.Errorf("what e2fsck said is not in the log:\n%s", m.runs("dmesg | grep gweinit"))
		}
		io.WriteString(m, "reboot\n")
		m.ready(b, slot.A)
		m.shell()
		if got := m.runs("dmesg | grep -c 'gweinit: e2fsck' || true"); got != "0" {
			t.Errorf("it is repaired again:\n%s", m.runs("dmesg | grep gweinit"))
		}
	})
}

// /data is no file system any more: it comes back empty, and the gateway is
// still the same one to the world.
func TestLostData(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.damage(t, slot.DataPartition, 0, 30<<20)
		c.with(t, slot.StatePartition, func(p partition) {
			record := identity.Record{Files: map[string][]byte{"Gateway.cfg": []byte("[device]\n"), "keys/update.pub": []byte("key\n")}}
			if err := identity.NewStore(p).Save(record); err != nil {
				t.Fatal(err)
			}
		})
		m := c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		for _, check := range []struct{ command, want string }{
			{"awk '$2==\"/data\"{print $3}' /proc/mounts", "ext4"},
			{"cat /data/gwe/Gateway.cfg", "[device]"},
			{"cat /data/gwe/keys/update.pub", "key"},
			{"stat -c %a /data/gwe/Gateway.cfg", "600"},
			{"dmesg | grep -c 'gweinit: restored from the identity record: Gateway.cfg, keys/update.pub'", "1"},
			{"dmesg | grep gweinit | grep -c -i device] || true", "0"}, // the log holds no content
		} {
			if got := m.runs(check.command); got != check.want {
				t.Errorf("%s:\ngot  %q\nwant %q", check.command, got, check.want)
			}
		}
		m.runs("echo kept > /data/kept")
		io.WriteString(m, "reboot\n")
		m.ready(b, slot.A)
		m.shell()
		if got := m.runs("cat /data/kept"); got != "kept" {
			t.Errorf("after the next boot: %q", got)
		}
		if st := c.state(t); st.Good != slot.A || st.A.Left != slot.BootTries {
			t.Errorf("the boot state beside the record: %+v", st)
		}
	})
}

// The power goes while /data is made anew: the next boot makes it again.
func TestPowerCutsWhileDataIsMade(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.damage(t, slot.DataPartition, 0, 30<<20)
		const mark = "being re-created"
		start := func() string {
			buf := make([]byte, 64)
			c.read(t, buf, c.Partitions[len(c.Partitions)-1].Offset)
			return string(buf)
		}
		for i := range 3 {
			m := c.boot(t, slow(10))
			m.sees("re-created, empty|" + mark)
			for !strings.Contains(start(), mark) {
				if m.ctx.Err() != nil {
					t.Fatalf("it is not made:\n%s", m.Tail(20))
				}
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(time.Duration(i) * 700 * time.Millisecond)
			m.Kill()
			if !strings.Contains(start(), mark) {
				t.Error("the cut was too late")
			}
		}
		m := c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		if got := m.runs("awk '$2==\"/data\"{print $3}' /proc/mounts"); got != "ext4" {
			t.Errorf("/data is %q", got)
		}
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
		c.checkData(t, b.Image.Size)
	})
}

// The disk cannot read /data: nothing on it is given up, and the gateway is up
// without it.
func TestUnreadableData(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		last := c.Partitions[len(c.Partitions)-1]
		rules := filepath.Join(t.TempDir(), "blkdebug")
		// In the sector of the superblock.
		rule := fmt.Sprintf("[inject-error]\nevent = \"none\"\niotype = \"read\"\nerrno = \"5\"\nsector = \"%d\"\n", last.Offset/512+2)
		if err := os.WriteFile(rules, []byte(rule), 0o644); err != nil {
			t.Fatal(err)
		}
		before := make([]byte, last.Size)
		c.read(t, before, last.Offset)
		m := c.boot(t, func(o *qemu.Options) {
			o.Args = []string{"-set", "drive.disk.file=blkdebug:" + rules + ":" + c.path}
		})
		if rest := m.ready(b, slot.A); rest != ` failed="mount /data"` {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		if got := m.runs("awk '$2==\"/data\"{print $3}' /proc/mounts; touch /data/gwe/x /var/log/y"); got != "tmpfs" {
			t.Errorf("/data is %q", got)
		}
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
		after := make([]byte, last.Size)
		if c.read(t, after, last.Offset); !bytes.Equal(before, after) {
			t.Error("/data was changed")
		}
	}, "qemu-arm64", "qemu-arm", "qemu-mipsel", "qemu-mips64el") // rpi3's card controller does not pass the error on
}

// /data is full: the gateway comes up all the same.
func TestFullData(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		m := c.boot(t)
		m.ready(b, slot.A)
		m.shell()
		m.waits("test -e /data/gwe/selftest.json") // which needs room for a moment
		m.runs("dd if=/dev/zero of=/data/fill bs=64k 2>/dev/null; echo > /data/one 2>/dev/null; sync")
		if got := m.runs("df -P /data | awk 'NR==2{print $4}'"); got != "0" {
			t.Fatalf("%s kB are left", got)
		}
		io.WriteString(m, "reboot\n")
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		if got := m.runs("awk '$2==\"/data\"{print $3}' /proc/mounts"); got != "ext4" {
			t.Errorf("/data is %q", got)
		}
		m.runs("rm /data/fill && echo > /data/two")
		if got := strings.Fields(m.runs("ls /data")); len(got) < 4 {
			t.Errorf("/data has %q", got)
		}
	})
}
