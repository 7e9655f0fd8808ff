package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const mounted = `1 1 0:2 / / rw - rootfs rootfs rw
20 1 7:0 / / ro,relatime shared:1 - squashfs /dev/mmcblk0p5 ro
21 20 0:18 / /proc rw,nosuid - proc proc rw
22 20 0:19 / /sys rw,nosuid - sysfs sysfs rw
23 20 0:6 / /dev rw - devtmpfs devtmpfs rw
24 20 0:20 / /run rw,nosuid - tmpfs tmpfs rw
25 20 0:21 / /small rw,nosuid - tmpfs tmpfs rw
26 22 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
30 20 179:7 /var /var rw - ext4 /dev/mmcblk0p7 rw
31 20 179:7 / /data rw - ext4 /dev/mmcblk0p7 rw
32 20 179:7 /log /var/log rw - ext4 /dev/mmcblk0p7 rw
33 20 8:1 / /media/a\040b\012c\134 rw master:1 - vfat /dev/sda1 rw
34 20 0:50 / /nfs rw - nfs4 10.0.0.1:/export rw
35 20 0:51 / /full rw - ext4 /dev/sdb1 rw
garbage
36 20 8:2
`

const meminfo = `MemTotal:          60988 kB
MemFree:           10124 kB
MemAvailable:      31960 kB
Buffers:            2048 kB
Cached:            19012 kB
Shmem:               512 kB
SReclaimable:       1024 kB
SwapTotal:             0 kB
SwapFree:              0 kB
`

// gatewayMachine is one whose statfs may hang until done is closed.
func gatewayMachine(t testing.TB) machine {
	root := t.TempDir()
	for name, text := range map[string]string{
		"self/mountinfo": mounted, "meminfo": meminfo, "uptime": "93784.11 1.00\n", "loadavg": "0.43 0.49 1.68 1/80 1234\n",
	} {
		path := filepath.Join(root, "proc", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return machine{
		root:  root,
		uname: func() (string, error) { return "Linux gateway 6.12.0 #1 Thu Jan 1 mips GNU/Linux", nil },
		statfs: func(path string) (space, error) {
			switch strings.TrimPrefix(path, root) {
			case "", "/":
				return space{12345, 12345, 0}, nil
			case "/run":
				return space{30494, 12, 30482}, nil
			case "/small":
				return space{512, 1, 511}, nil
			case "/data":
				return space{380000, 190000, 170000}, nil
			case "/full":
				return space{0, 0, 0}, nil
			case "/nfs":
				return space{}, unix.ESTALE
			}
			return space{1000000, 1, 999999}, nil
		},
		links: func() ([]link, error) {
			return []link{
				{"wlan0", false, nil},
				{"eth0", true, []string{"fe80::1/64", "192.168.1.5/24", "10.0.0.1/8"}},
			}, nil
		},
		now: func() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) },
	}
}

func (r Report) info(t *testing.T) deviceInfo {
	t.Helper()
	var info deviceInfo
	if err := json.Unmarshal([]byte(r.Text), &info); err != nil {
		t.Fatalf("%v: %s", err, r.Text)
	}
	return info
}

func TestDeviceInfo(t *testing.T) {
	r, err := gatewayMachine(t).report()
	if err != nil {
		t.Fatal(err)
	}
	info := r.info(t)
	golden(t, "device.json", r.Text+"\n")
	golden(t, "device.facts", r.Facts+"\n")
	golden(t, "device.txt", strings.Join([]string{info.Uname, info.DF, info.Free, info.IPAddrs, info.Uptime}, "\n"))
}

func TestDeviceFacts(t *testing.T) {
	m := gatewayMachine(t)
	before, _ := m.report()
	meminfo := func(old, new string) func(*machine) {
		return func(m *machine) {
			path := filepath.Join(m.root, "proc/meminfo")
			text, _ := os.ReadFile(path)
			os.WriteFile(path, []byte(strings.Replace(string(text), old, new, 1)), 0o644)
		}
	}
	data := func(used uint64) func(*machine) {
		return func(m *machine) {
			before := m.statfs
			m.statfs = func(path string) (space, error) {
				if strings.HasSuffix(path, "/data") {
					return space{380000, used, 360000 - used}, nil
				}
				return before(path)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*machine)
		news   bool
	}{
		"time": {func(m *machine) { m.now = time.Now }, false},
		"load": {func(m *machine) {
			os.WriteFile(filepath.Join(m.root, "proc/loadavg"), []byte("9 9 9 1/1 1"), 0o644)
		}, false},
		"memory":      {meminfo("31960", "31000"), false},
		"less memory": {meminfo("31960", "30000"), true},
		"disk":        {data(195000), false},
		"more disk":   {data(250000), true},
		"address":     {func(m *machine) { m.links = func() ([]link, error) { return []link{{"eth0", true, nil}}, nil } }, true},
		"kernel":      {func(m *machine) { m.uname = func() (string, error) { return "Linux 7", nil } }, true},
	} {
		m := gatewayMachine(t)
		c.change(&m)
		if after, err := m.report(); err != nil || (after.Facts != before.Facts) != c.news {
			t.Errorf("%s: news %v, want %v (%v)\n%s\n%s", name, !c.news, c.news, err, before.Facts, after.Facts)
		}
	}
}

func TestDeviceBounds(t *testing.T) {
	m := gatewayMachine(t)
	var mounts strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&mounts, "%d 1 9:%d / /%d%s rw - ext4 /dev/%s rw\n", i, i, i, strings.Repeat(`\134"\377`, 30), strings.Repeat(`"`, 100))
	}
	os.WriteFile(filepath.Join(m.root, "proc/self/mountinfo"), []byte(mounts.String()), 0o644)
	m.uname = func() (string, error) { return cut(strings.Repeat(`"`, 1000), 400), nil }
	m.links = func() ([]link, error) {
		var links []link
		for i := range 500 {
			l := link{name: fmt.Sprintf("veth%d\xff", i)}
			for a := range i {
				l.addresses = append(l.addresses, fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%04d/64", a))
			}
			links = append(links, l)
		}
		return links, nil
	}
	m.statfs = func(string) (space, error) { return space{math.MaxUint64, math.MaxUint64 / 200, 1}, nil }
	r, err := m.report()
	if err != nil {
		t.Fatal(err)
	}
	info := r.info(t)
	if len(r.Text) > 8<<10 || !utf8.ValidString(r.Text) {
		t.Errorf("%d bytes", len(r.Text))
	}
	for _, text := range []string{info.DF, info.IPAddrs} {
		if !strings.Contains(text, "more lines\n") {
			t.Errorf("no note: %s", text)
		}
	}
}

func TestDeviceWithoutParts(t *testing.T) {
	m := gatewayMachine(t)
	os.RemoveAll(filepath.Join(m.root, "proc"))
	r, err := m.report()
	if info := r.info(t); err != nil || !strings.Contains(info.Free, "cannot be read: ") || info.IPAddrs == "" || strings.Contains(info.IPAddrs, "cannot") {
		t.Errorf("%+v, %v", info, err)
	}
	failed := errors.New("failed")
	m.uname = func() (string, error) { return "", failed }
	m.links = func() ([]link, error) { return nil, failed }
	if _, err := m.report(); !errors.Is(err, failed) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing can be read: %v", err)
	}
}

func TestHungMount(t *testing.T) {
	m := gatewayMachine(t)
	done := make(chan bool)
	calls := make(chan string, 100)
	whole := m.statfs
	m.statfs = func(path string) (space, error) {
		if strings.HasSuffix(path, "/nfs") {
			calls <- path
			<-done
		}
		return whole(path)
	}
	for i := range 3 {
		began := time.Now()
		r, err := m.report()
		if took := time.Since(began); err != nil || took > statfsLimit+time.Second || i > 0 && took > time.Second {
			t.Errorf("report %d: %v after %v", i, err, took)
		}
		df := r.info(t).DF
		if !strings.Contains(df, "/nfs (does not answer)") || !strings.Contains(df, "190000") || !strings.Contains(df, "/run") {
			t.Errorf("df: %s", df)
		}
	}
	close(done)
	if len(calls) != 1 {
		t.Errorf("%d threads hang", len(calls))
	}
	for end := time.Now().Add(5 * time.Second); ; {
		r, _ := m.report()
		if strings.Contains(r.Text, "stale") {
			break // it answers again
		}
		if time.Now().After(end) {
			t.Fatalf("%s", r.Text)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestThisMachine compares with the commands.
func TestThisMachine(t *testing.T) {
	r, err := Device("/")
	if err != nil {
		t.Fatal(err)
	}
	info := r.info(t)
	t.Logf("%d bytes\n%s\n%s\n%s\n%s\n%s\n%s", len(r.Text), info.Uname, info.DF, info.Free, info.IPAddrs, info.Uptime, r.Facts)
	if want, err := exec.Command("uname", "-a").Output(); err == nil && info.Uname != strings.TrimSpace(string(want)) {
		t.Errorf("uname is %q, want %q", info.Uname, want)
	}
	fields := func(text string, last string) []float64 {
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) < 4 || words[len(words)-1] != last && words[0] != last {
				continue
			}
			var numbers []float64
			for _, w := range words[1:] {
				if n, err := strconv.ParseFloat(strings.TrimSuffix(w, "%"), 64); err == nil {
					numbers = append(numbers, n)
				}
			}
			return numbers
		}
		return nil
	}
	compare := func(name string, got, want []float64, tolerance float64) {
		if len(got) == 0 || len(got) != len(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
			return
		}
		for i := range got {
			if math.Abs(got[i]-want[i]) > tolerance {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	}
	if want, err := exec.Command("df", "-k", "/").Output(); err == nil {
		compare("df", fields(info.DF, "/"), fields(string(want), "/"), 100<<10)
	}
	if want, err := exec.Command("free", "-k").Output(); err == nil {
		compare("free", fields(info.Free, "Mem:"), fields(string(want), "Mem:"), 500<<10)
	}
	proc, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	total := fields(strings.ReplaceAll(string(proc), " kB", " kB MemTotal:"), "MemTotal:")
	if got := fields(info.Free, "Mem:"); len(total) == 0 || got[0] != total[0] {
		t.Errorf("memory %v, want %v", got, total)
	}
	if strings.Contains(info.IPAddrs, "127.0.0.1") || strings.Contains(info.IPAddrs, "lo ") {
		t.Errorf("addresses: %s", info.IPAddrs)
	}
	if out, err := exec.Command("ip", "-br", "-4", "addr").Output(); err == nil {
		for word := range strings.FieldsSeq(string(out)) {
			if strings.Contains(word, "/") && !strings.HasPrefix(word, "127.") && !strings.Contains(info.IPAddrs, word) {
				t.Errorf("%s is not in %s", word, info.IPAddrs)
			}
		}
	}
}

func BenchmarkDevice(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Device("/"); err != nil {
			b.Fatal(err)
		}
	}
}
