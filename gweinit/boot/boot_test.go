package boot

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMainIsForPID1(t *testing.T) {
	for _, args := range [][]string{nil, {"3"}} {
		if got := Main(args); got != 2 {
			t.Errorf("Main(%q) = %d, want 2", args, got)
		}
	}
}

func TestPhases(t *testing.T) {
	for _, list := range [][]phase{phases(), shutdownPhases()} {
		seen := map[string]bool{}
		for _, p := range list {
			if p.name == "" || p.run == nil || seen[p.name] {
				t.Errorf("phase %q: no name, nothing to do, or the name is there twice", p.name)
			}
			seen[p.name] = true
		}
	}
	names := []string{}
	for _, p := range phases() {
		names = append(names, p.name)
	}
	// The boots are refilled by a system that is up, and "ready" tells what
	// failed before it.
	if at := func(name string) int { return slices.Index(names, name) }; !(0 < at("refill the boots of the good slot") &&
		at("mount /data") < at("refill the boots of the good slot") && at("refill the boots of the good slot") < at("report ready")) {
		t.Errorf("bad order: %q", names)
	}
}

func TestMounts(t *testing.T) {
	var before []string
	for _, m := range mounts() {
		if !filepath.IsAbs(m.target) || filepath.Clean(m.target) != m.target || m.source == "" || m.fstype == "" {
			t.Errorf("%+v: want an absolute target, a source and a type", m)
		}
		if m.flags&unix.MS_NOSUID == 0 {
			t.Errorf("%s: set-user-ID programs only come from the root", m.target)
		}
		if m.target == "/boot" && m.flags&unix.MS_RDONLY == 0 {
			t.Error("/boot is never written on the device")
		}
		for _, b := range before {
			if b == m.target || strings.HasPrefix(b, m.target+"/") {
				t.Errorf("%s hides %s, which is mounted before", m.target, b)
			}
		}
		before = append(before, m.target)
	}
}

func TestTry(t *testing.T) {
	sentinel := errors.New("no disk")
	s := &system{}
	if err := s.try(func(*system) error { return sentinel }); err != sentinel {
		t.Errorf("an error: got %v", err)
	}
	if err := s.try(func(got *system) error { got.board = "x"; return nil }); err != nil || s.board != "x" {
		t.Errorf("success: got %v, system %+v", err, s)
	}
	err := s.try(func(*system) error { var m map[string]int; m["x"] = 1; return nil })
	if err == nil || !strings.HasPrefix(err.Error(), "panic: assignment to entry in nil map\n") || !strings.Contains(err.Error(), "boot_test.go:") {
		t.Errorf("a panic: got %v, want it with its stack", err)
	}
}

func TestDo(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	for _, tt := range []struct {
		name  string
		limit time.Duration
		run   func(*system) error
		want  string // "" is no error
	}{
		{"done", time.Minute, func(*system) error { return nil }, ""},
		{"failed", time.Minute, func(*system) error { return unix.EBUSY }, "device or resource busy"},
		{"panic", time.Minute, func(*system) error { panic("unmount") }, "panic: unmount"},
		{"hangs", time.Millisecond, func(*system) error { <-hang; return nil }, "not done after 1ms"},
	} {
		err := (&system{}).do(phase{tt.name, tt.run, tt.limit})
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// As busybox's reboot, halt and poweroff ask.
func TestRebootCommand(t *testing.T) {
	for _, tt := range []struct {
		signal unix.Signal
		want   uint32
		ok     bool
	}{
		{unix.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART, true},
		{unix.SIGINT, unix.LINUX_REBOOT_CMD_RESTART, true},
		{unix.SIGUSR1, unix.LINUX_REBOOT_CMD_HALT, true},
		{unix.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF, true},
		{unix.SIGHUP, 0, false},
		{unix.SIGCHLD, 0, false},
	} {
		if got, ok := rebootCommand(tt.signal); got != tt.want || ok != tt.ok {
			t.Errorf("%v: got %#x, %t, want %#x, %t", tt.signal, got, ok, tt.want, tt.ok)
		}
	}
}

// From an arm64 gateway with an app, a bind mount and a card in its reader.
const ofGateway = `21 1 254:5 / / ro,relatime - squashfs /dev/vda5 ro,errors=continue
18 21 0:20 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
20 21 0:5 / /dev rw,nosuid,relatime - devtmpfs devtmpfs rw,size=224828k,nr_inodes=56207,mode=755
22 20 0:22 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666
23 21 254:1 / /boot ro,nosuid,nodev,noexec,relatime - vfat /dev/disk/by-partlabel/boot ro,fmask=0077,errors=remount-ro
24 21 254:7 / /data rw,nosuid,nodev,noatime shared:1 - ext4 /dev/disk/by-partlabel/data rw,errors=remount-ro
25 21 254:7 /var /var rw,nosuid,nodev,noatime shared:1 master:2 - ext4 /dev/disk/by-partlabel/data rw,errors=remount-ro
26 25 254:7 /log /var/log rw,nosuid,nodev,noatime shared:1 - ext4 /dev/disk/by-partlabel/data rw,errors=remount-ro
27 21 0:30 / /run/app rw,relatime - overlay overlay rw,lowerdir=/dev/x,upperdir=/data/u,workdir=/data/w
28 21 0:31 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw
29 21 179:1 / /mnt/my\040card\011\134x\012\134040 rw,relatime - vfat /dev/mmcblk1p1 rw
30 21 0:40 / /mnt/none rw - tmpfs  rw
`

func TestDiskMounts(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"a gateway", ofGateway, []string{"/mnt/my card\t\\x\n\\040", "/var/log", "/var", "/data", "/boot"}},
		{"stacked", "1 0 8:1 / /data rw - ext4 /dev/sda1 rw\n2 1 8:2 / /data rw - ext4 /dev/sda2 rw\n", []string{"/data", "/data"}},
		{"nothing", "", nil},
		{"not mountinfo", "/dev/sda1 /data ext4 rw 0 0\n1 2 - ext4\n - /dev/x\n1 2 3 4 - ext4 /dev/sda1\n", nil},
	} {
		if got := diskMounts(tt.text, ""); !slices.Equal(got, tt.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.name, got, tt.want)
		}
	}
	want := []string{"/mnt/my card\t\\x\n\\040", "/var/log", "/var", "/data"}
	if got := diskMounts(ofGateway, "rw"); !slices.Equal(got, want) {
		t.Errorf("writable:\ngot  %q\nwant %q", got, want)
	}
	// The kernel that runs this test has its root, and perhaps more.
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range diskMounts(string(text), "") {
		if _, err := os.Lstat(m); err != nil || m == "/" {
			t.Errorf("%q: %v", m, err)
		}
	}
}

func FuzzDiskMounts(f *testing.F) {
	f.Add(ofGateway)
	f.Fuzz(func(t *testing.T, text string) {
		points := diskMounts(text, "")
		if writable := diskMounts(text, "rw"); len(writable) > len(points) {
			t.Errorf("%q of %q", writable, points)
		}
		if slices.Contains(points, "/") || len(points) > strings.Count(text, "\n")+1 {
			t.Errorf("%q", points)
		}
	})
}

// The last console is the one behind /dev/console.
func TestLastField(t *testing.T) {
	for in, want := range map[string]string{"": "", "\n": "", "ttyS0\n": "ttyS0", "tty0 ttyAMA0\n": "ttyAMA0"} {
		if got := lastField(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
