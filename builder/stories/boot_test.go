//go:build qemu

package stories

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/gweinit/slot"
)

// A gateway comes up with everything in its place, takes the whole card for /data,
// keeps it over a reboot, and goes off when told.
func TestBoots(t *testing.T) {
	eachBoard(t, func(t *testing.T, b *build) {
		const size = 1 << 30
		c := b.card(t)
		before, after := make([]byte, 512), make([]byte, 512)
		c.read(t, before, 0)
		c.enlarge(t, size)
		m := c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()

		for _, check := range []struct{ command, want string }{
			{"hostname", "gateway"},
			{"ping -c1 -W2 127.0.0.1 | grep -c '1 packets received'", "1"},
			{"readlink /dev/disk/by-partlabel/rootfs_a | sed 's/.*[0-9]$/a partition/'", "a partition"},
			{"ls /dev/disk/by-partlabel | tr '\\n' ' '", "boot data kernel_a kernel_b rootfs_a rootfs_b ubenv"},
			{"ls /boot | grep boot.scr", "boot.scr"},
			{"touch /boot/x 2>&1 | sed 's/.*: //'", "Read-only file system"},
			{"touch /usr/x 2>&1 | sed 's/.*: //'", "Read-only file system"},
			{"grep -c ' / rootfs' /proc/mounts || true", "0"},
			{"awk '$2==\"/data\"{print $3}' /proc/mounts", "ext4"},
			{"stat -c %a /data/gwe", "700"},
			{"touch /var/log/y && ls /data/log/y", "/data/log/y"},
			{"cat /proc/1/comm", "init"},
			{"cat /sys/module/watchdog/parameters/stop_on_reboot", "0"},
			{"awk '$2==\"/sys/fs/cgroup\"{print $3}' /proc/mounts", "cgroup2"},
			{"head -c 27 /etc/ssl/certs/ca-certificates.crt", "-----BEGIN CERTIFICATE-----"},
			{"TZ=America/Chicago date -d @0 +%H", "18"},
			{"e2fsck -V 2>&1 | grep -c 'e2fsck 1'", "1"},
			{"id -un", "root"},
			{"dmesg | grep -c 'gweinit: ready'", "1"},
			{"tty | sed 's/[A-Z0-9]*$//'", "/dev/tty"},
		} {
			if got := m.runs(check.command); got != check.want {
				t.Errorf("%s:\ngot  %q\nwant %q", check.command, got, check.want)
			}
		}
		if st := c.state(t); st.Good != slot.A || st.A.Left != slot.BootTries || st.B.Status != slot.Empty {
			t.Errorf("the boot state after ready: %+v", st)
		}

		if got := m.dataMegabytes(); got < 850 {
			t.Errorf("/data has %d MB of 1 GiB\n%s", got, m.runs("dmesg | grep -i -E 'gweinit|ext4'"))
		}
		m.runs("dd if=/dev/urandom of=/data/kept bs=1M count=40 2>/dev/null; sha256sum /data/kept > /data/sum")
		io.WriteString(m, "reboot\n")
		m.sees("gweinit: reboot")
		m.ready(b, slot.A)
		m.shell()
		m.runs("sha256sum -c /data/sum")
		if got := m.runs("dmesg | grep -c -E 'gweinit: (/dev|grew)' || true"); got != "0" {
			t.Errorf("the second boot grows again:\n%s", m.runs("dmesg | grep gweinit"))
		}
		// An orderly end leaves nothing to recover.
		if got := m.runs("dmesg | grep -c 'EXT4-fs.*recover' || true"); got != "0" {
			t.Errorf("after an orderly reboot ext4 had to recover:\n%s", m.runs("dmesg | grep EXT4"))
		}
		io.WriteString(m, "poweroff\n")
		m.sees("gweinit: poweroff")
		m.poweredOff()
		c.sgdisk(t)
		if c.read(t, after, 0); !bytes.Equal(before, after) {
			t.Error("sector 0 was changed")
		}
		c.checkData(t, size)
	})
}

// PID 1 lives through what programs do to it.
func TestPID1Survives(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		m := b.card(t).boot(t)
		m.ready(b, slot.A)
		m.shell()
		m.runs("for s in KILL STOP SEGV BUS FPE ILL TRAP SYS ABRT HUP PIPE QUIT ALRM CHLD URG; do kill -$s 1; done; sleep 1")
		// 100 orphans, all of them reaped.
		m.runs("i=0; while [ $i -lt 100 ]; do (sleep 0 &); i=$((i+1)); done; sleep 2")
		if got := m.runs("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"); got != "0" {
			t.Errorf("%s zombies are left", got)
		}
		// The console has job control, and its program comes back.
		io.WriteString(m, "sleep 1000\n")
		time.Sleep(time.Second) // until sleep is what Ctrl-C ends
		io.WriteString(m, "\x03")
		m.shell()
		io.WriteString(m, "exit\n")
		m.shell()
		if got := m.runs("cat /proc/1/comm"); got != "init" {
			t.Errorf("PID 1 is %q", got)
		}
		// A program that does not want to go is no obstacle.
		m.runs("sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & sleep 1")
		io.WriteString(m, "reboot\n")
		m.sees("gweinit: reboot")
		m.ready(b, slot.A)
	})
}

// A fork bomb takes neither PID 1 nor the way to reboot.
func TestForkBomb(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		m := b.card(t).boot(t)
		m.ready(b, slot.A)
		m.shell()
		io.WriteString(m, "bomb() { bomb | bomb & }; bomb 2>/dev/null\n")
		m.shell()
		time.Sleep(5 * time.Second) // for the bomb to reach its limit
		if strings.Contains(m.Text(), "Kernel panic") {
			t.Fatalf("PID 1 has died:\n%s", m.Tail(30))
		}
		io.WriteString(m, "\nkill -TERM 1\n") // the shell does it without a process of its own
		m.sees("gweinit: reboot")
		m.ready(b, slot.A)
	})
}

// The smallest machine of the target class.
func TestSmallMemory(t *testing.T) {
	least := map[string]int{"qemu-arm64": 96, "qemu-arm": 128, "qemu-mipsel": 64, "qemu-mips64el": 64}
	eachThorough(t, func(t *testing.T, b *build) {
		m := b.card(t).boot(t, func(o *qemu.Options) { o.Memory = least[b.Board] })
		m.ready(b, slot.A)
		m.shell()
		total, err := strconv.Atoi(m.runs("awk '/^MemTotal/{print $2}' /proc/meminfo"))
		if err != nil || total > least[b.Board]<<10 {
			t.Errorf("the machine has %d kB, want at most %d MB; %v", total, least[b.Board], err)
		}
	}, slices.Collect(maps.Keys(least))...)
}

// Without the overlay for development the console takes no input, and the
// ready line is its last but for the result of the self-test.
func TestQuietConsole(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		out := t.TempDir()
		manifest, err := buildImage(out, b.Board, "base", "busybox")
		if err != nil {
			t.Fatal(err)
		}
		plain := &build{manifest, b.board, out}
		// U-Boot comes from the same build.
		m := plain.card(t).boot(t)
		m.ready(plain, slot.A)
		m.selftest()
		time.Sleep(2 * time.Second)
		lines := strings.Split(strings.TrimSpace(selftestLine.ReplaceAllString(m.Text(), "")), "\n")
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, "gweinit: ready") {
			t.Errorf("the console goes on after ready:\n%s", m.Tail(5))
		}
		io.WriteString(m, "\n\nid\n")
		time.Sleep(2 * time.Second)
		if strings.Contains(m.Text(), "uid=0") {
			t.Errorf("the console takes commands:\n%s", m.Tail(5))
		}
	})
}

// The boot image of slot A rots: U-Boot refuses it and, when its boots are
// used up, takes slot B, which Linux then makes the confirmed one.
func TestFallsBackFromACorruptKernel(t *testing.T) {
	eachThorough(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.copySlot(t)
		st := slot.Fresh(slot.A, slot.Good)
		st.B.Left = slot.BootTries
		c.setState(t, st)
		c.damage(t, slot.A.KernelPartition(), 1<<20, 64)
		m := c.boot(t)
		for range slot.BootTries {
			m.sees("the boot image of slot a is refused")
		}
		m.ready(b, slot.B)
		m.shell()
		if got := m.runs("dmesg | grep -c 'fell back to slot b'"); got != "1" {
			t.Errorf("the fallback is not reported")
		}
		if st := c.state(t); st.Good != slot.B || st.B.Left != slot.BootTries {
			t.Errorf("the boot state after the fallback: %+v", st)
		}
	})
}

// The root of slot A rots: Linux cannot mount it, and each attempt is counted.
func TestFallsBackFromACorruptRoot(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.copySlot(t)
		st := slot.Fresh(slot.A, slot.Good)
		st.A.Left, st.B.Left = 2, slot.BootTries
		c.setState(t, st)
		c.damage(t, slot.A.RootPartition(), 0, 4096)
		m := c.boot(t)
		m.sees("gwe: slot=a why=good")
		m.sees("initramfs: mount the root: .*rootfs_a.*rebooting")
		m.sees("gwe: slot=a why=good")
		m.sees("initramfs: mount the root: .*rootfs_a.*rebooting")
		m.sees("gwe: slot=b why=fallback")
		m.ready(b, slot.B)
	})
}

// A trial that nobody confirms gets its three boots, then the confirmed slot
// is back.
func TestUnconfirmedTrialEnds(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.copySlot(t)
		st := slot.Fresh(slot.A, slot.Writing)
		if err := st.Activate(slot.A, slot.B); err != nil {
			t.Fatal(err)
		}
		c.setState(t, st)
		m := c.boot(t)
		for left := slot.TrialTries - 1; left >= 0; left-- {
			m.ready(b, slot.B)
			m.shell()
			if st := c.state(t); !st.OnTrial(slot.B) || st.TrialLeft != uint32(left) || st.Good != slot.A || st.A.Left != slot.BootTries {
				t.Fatalf("the boot state in the trial: %+v, want %d tries left", st, left)
			}
			io.WriteString(m, "reboot\n")
		}
		m.ready(b, slot.A)
	})
}

// Both copies of the boot state rot: the gateway comes up and writes them
// anew.
func TestLostBootState(t *testing.T) {
	eachThorough(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.damage(t, slot.StatePartition, 0, slot.CopySize)
		c.damage(t, slot.StatePartition, slot.SecondCopy, slot.CopySize)
		m := c.boot(t)
		m.sees("gwe: slot=a why=nostate")
		m.ready(b, slot.A)
		if st := c.state(t); st.Good != slot.A || st.A.Status != slot.Good || st.A.Left != slot.BootTries || st.B.Status != slot.Bad {
			t.Errorf("the boot state written anew: %+v", st)
		}
	})
}

// The partition table is torn, as a power cut while it grows would leave it:
// Linux finds its partitions by the backup.
func TestLinuxWithATornTable(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		f, err := os.OpenFile(c.path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(make([]byte, 512), 512); err != nil {
			t.Fatal(err)
		}
		m := c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
	})
}

// A second disk with the same partitions, a card in a reader, is not touched.
func TestSecondDiskIsIgnored(t *testing.T) {
	const virtio, ide = "-drive if=none,id=second,format=raw,file=%s -device virtio-blk-device,drive=second", "-drive if=ide,index=2,format=raw,file=%s"
	second := map[string]string{"qemu-arm64": virtio, "qemu-arm": virtio, "qemu-mipsel": ide, "qemu-mips64el": ide}
	eachSample(t, func(t *testing.T, b *build) {
		c, other := b.card(t), b.card(t)
		other.damage(t, slot.A.RootPartition(), 0, 4096)
		before := other.state(t)
		m := c.boot(t, func(o *qemu.Options) {
			o.Args = strings.Fields(fmt.Sprintf(second[b.Board], other.path))
		})
		m.sees(`initramfs: warning: ignoring \S+ \(rootfs_a\)`)
		m.ready(b, slot.A)
		m.shell()
		if after := other.state(t); after != before {
			t.Errorf("the second disk's boot state was changed from %+v to %+v", before, after)
		}
		if c.state(t).A.Left != slot.BootTries {
			t.Errorf("the boot disk's state was not refilled: %+v", c.state(t))
		}
	}, slices.Collect(maps.Keys(second))...)
}

// The power goes again and again, at any moment: the gateway always comes
// back, with the same slot.
func TestPowerCutsWhileBooting(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		start := time.Now()
		whole := func() time.Duration {
			m := c.boot(t)
			m.ready(b, slot.A)
			m.Kill()
			return time.Since(start)
		}()
		for i := range slot.BootTries - 1 { // fewer than a slot has boots
			m := c.boot(t)
			time.Sleep(whole * time.Duration(i+1) / slot.BootTries)
			m.Kill()
		}
		m := c.boot(t)
		m.ready(b, slot.A)
		if st := c.state(t); st.Good != slot.A || st.A.Left != slot.BootTries {
			t.Errorf("the boot state after power cuts: %+v", st)
		}
	})
}

// The commands of the README, on the result of the build.
func TestImageFiles(t *testing.T) {
	limits := map[string]int64{"qemu-arm64": 27e6, "rpi3": 27e6, "qemu-arm": 21e6, "qemu-mipsel": 21e6, "qemu-mips64el": 21e6}
	eachBoard(t, func(t *testing.T, b *build) {
		if used, limit := b.Slot.BootImage+b.Slot.Root, limits[b.Board]; used > limit {
			t.Errorf("the slot has %d bytes, want at most %d", used, limit)
		}
		for _, name := range []string{b.Image.Name, b.Compressed.Name, b.Board + ".json"} {
			if found, _ := filepath.Glob(filepath.Join(b.out, name)); len(found) != 1 {
				t.Errorf("there is no %s", name)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(b.out, ".*.tmp")); len(left) != 0 {
			t.Errorf("scratch is left behind: %v", left)
		}
	})
}
