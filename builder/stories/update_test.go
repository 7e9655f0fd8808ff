//go:build qemu

package stories

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/kernel"
	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/cga/cgatest"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

// storyPrograms are an overlay: a program that is well unless /data says otherwise
// for the slot that runs, and one that never is.
var storyPrograms = map[string]string{
	"overlay.yaml": "description: Programs of a story.\nmodes:\n  usr/local/bin/pump: 0755\n",
	"etc/supervisor/conf.d/pump.conf": `[program:pump]
command = /usr/local/bin/pump
priority = 1
startretries = 1
redirect_stderr = true
`,
	"etc/supervisor/conf.d/broken.conf": `[program:broken]
command = false
startretries = 0
`,
	"usr/local/bin/pump": `#!/bin/sh
slot=$(sed 's/.*gwe.slot=\(.\).*/\1/' /proc/cmdline)
if test -e /data/fatal-$slot; then echo "no water"; exit 1; fi
while test -e /data/silent-$slot; do killall -STOP gwe; sleep 0.1; done
if test -e /data/hang-$slot; then
	cd /sys/fs/cgroup && mkdir stopped && echo 1 > stopped/cgroup.procs && echo 1 > stopped/cgroup.freeze
fi
exec sleep 100000000
`,
}

var updates struct {
	sync.Mutex
	byName map[string]func() ([2]*build, error)
}

// updateBuilds builds firmware 1.0.0 and 1.1.0 of a board, with the programs of
// the story, once.
func updateBuilds(t testing.TB, name string) (older, newer *build) {
	t.Helper()
	updates.Lock()
	once, ok := updates.byName[name]
	if !ok {
		project, out := projectCopy(t), filepath.Join(builds.dir, "updates", name)
		once = sync.OnceValues(func() (both [2]*build, err error) {
			for file, text := range storyPrograms {
				path := filepath.Join(project, "overlays/story", file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return both, err
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					return both, err
				}
			}
			cache, err := os.UserCacheDir()
			if err != nil {
				return both, err
			}
			trust, _, err := signing.Public("")
			if err != nil {
				return both, err
			}
			b, err := board.Load(filepath.Join(project, "boards"), name)
			if err != nil {
				return both, err
			}
			for i, version := range []string{"1.0.0", "1.1.0"} {
				to := filepath.Join(out, version)
				if err := os.MkdirAll(to, 0o755); err != nil {
					return both, err
				}
				m, err := image.Build(t.Context(), image.Options{
					Project: project, Board: name, Overlays: []string{"base", "busybox", "dev", "story"}, Version: version, Trust: trust,
					Cache: filepath.Join(cache, "gateway-engine"), Out: to, Mirrors: mirrors(), Log: t.Logf,
				})
				if err != nil {
					return both, err
				}
				both[i] = &build{m, b, to}
			}
			return both, nil
		})
		if updates.byName == nil {
			updates.byName = map[string]func() ([2]*build, error){}
		}
		updates.byName[name] = once
	}
	updates.Unlock()
	both, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return both[0], both[1]
}

// parts are what a slot of the built image holds.
func (b *build) parts(t testing.TB) (kernel, root []byte) {
	t.Helper()
	c := &card{b, filepath.Join(b.out, b.Image.Name)}
	read := func(name string, size int64) []byte {
		data := make([]byte, size)
		c.with(t, name, func(p partition) {
			if _, err := p.ReadAt(data, 0); err != nil {
				t.Fatal(err)
			}
		})
		return data
	}
	return read(slot.A.KernelPartition(), b.Slot.BootImage), read(slot.A.RootPartition(), b.Slot.Root)
}

// writeBundle signs a firmware with the development key.
func (b *build) writeBundle(t testing.TB, version string, kernel, root []byte) []byte {
	t.Helper()
	sign, _, _, err := signing.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	_, err = bundle.Write(&file, bundle.Manifest{Board: b.Board, Version: version}, sign,
		bundle.Part{Name: "kernel", Content: bytes.NewReader(kernel), Size: int64(len(kernel))},
		bundle.Part{Name: "rootfs", Content: bytes.NewReader(root), Size: int64(len(root))})
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// panicking is a boot image of the board's kernel with nothing to start.
func (b *build) panicking(t *testing.T, bootImage []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range map[string][]byte{"boot.img": bootImage, "initramfs": make([]byte, 4096)} {
		if err := os.WriteFile(path(name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("dumpimage", "-T", "flat_dt", "-p", "0", "-o", path("kernel"), path("boot.img")).CombinedOutput(); err != nil {
		t.Fatalf("dumpimage: %v: %s", err, out)
	}
	k := b.board.Kernel
	entry, err := exec.Command("fdtget", "-t", "x", path("boot.img"), "/images/kernel", "load", "/images/kernel", "entry").Output()
	if err != nil {
		t.Fatal(err)
	}
	var load, start uint64
	fmt.Sscanf(string(entry), "%x\n%x", &load, &start)
	i := kernel.BootImage{Format: "fit", Arch: k.Arch, Compression: k.Compression, Load: load, Entry: start, Kernel: path("kernel"), Initramfs: path("initramfs")}
	if err := i.Write(t.Context(), time.Unix(0, 0), path("panic.img")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path("panic.img"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// seldomRead is where in the root there is a block that no boot reads: among the
// last files of the squashfs, which are time zones.
func seldomRead(root []byte) int64 {
	used := int64(binary.LittleEndian.Uint64(root[40:])) // its superblock says
	return (used - 128<<10) &^ 4095
}

// offer makes a bundle a content of the product.
func (e *exosite) offer(name string, file []byte) {
	e.t.Helper()
	err := e.cloud.CreateContent(e.Product(), name, "", false)
	if err == nil {
		err = e.cloud.Upload(e.Product(), name, "application/octet-stream", bytes.NewReader(file))
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// gatewayAt is a card of a build that reports to the emulator, whose trials take so
// many seconds at most.
func (e *exosite) gatewayAt(t *testing.T, b *build, trial int) *card {
	t.Helper()
	c := e.card(t, b)
	m := c.boot(t)
	m.arrives(slot.A)
	m.shell()
	m.runs(fmt.Sprintf(`printf '[engine]\nupdate_interval = 5\n[firmware]\ntrial = %d\n' >> /data/gwe/Engine.config`, trial))
	io.WriteString(m, "poweroff\n")
	m.poweredOff()
	return c
}

// arrives waits for ready, of whichever version.
func (m *machine) arrives(n slot.Name) {
	m.t.Helper()
	m.sees(fmt.Sprintf(`(?m)^gweinit: ready board=\S+ slot=%s `, n))
}

// prompted has the shell prompt once more, when what was seen came after that.
func (m *machine) prompted() {
	m.t.Helper()
	io.WriteString(m, "\n")
	m.shell()
}

// firmware is what gwe --slots says.
func (m *machine) firmware() update.Status {
	m.t.Helper()
	var st update.Status
	if err := json.Unmarshal([]byte(m.runs("gwe --slots --json")), &st); err != nil {
		m.t.Fatal(err)
	}
	return st
}

// A gateway updates itself, and comes back from each firmware that is no good.
func TestUpdate(t *testing.T) {
	eachThorough(t, func(t *testing.T, b *build) {
		older, newer := updateBuilds(t, b.Board)
		bootImage, root := newer.parts(t)
		good := newer.writeBundle(t, "1.1.0", bootImage, root)
		e := startExosite(t, "GW-8")
		e.offer("gw.v1.1.0.fw", good)
		c := e.gatewayAt(t, older, 90)
		small := func(o *qemu.Options) { // the least that there is
			if b.Board == "qemu-mipsel" {
				o.Memory = 64
			}
		}
		m := c.boot(t, small)
		m.ready(older, slot.A)
		m.shell()
		m.waits("supervisorctl status pump | grep -q RUNNING && supervisorctl status broken | grep -q FATAL")

		order := func(name string) {
			t.Helper()
			e.set("engine_fetch", `{"install": [{"name": "`+name+`"}]}`)
		}
		told := func(m *machine, name, what string, n int) {
			t.Helper()
			e.until(m, name+" "+what, func() bool { return e.outcomes(what+": "+name) >= n })
			if got := e.outcomes(what + ": " + name); got != n {
				t.Errorf("it was told %d times that %s %s, want %d", got, name, what, n)
			}
		}

		// An app, with a user of its own and a file that hides one of the firmware.
		e.offer("guest.v1.tar.gz", cgatest.Tarball(t, cgatest.Script("echo guest:x:900:900::/:/bin/sh >> /etc/passwd\necho GUEST=1 >> /etc/os-release\n"),
			cgatest.Supervised("command = sh -c \"id -un; sleep 1000000\"\nuser = guest\n")))
		e.order(m, installs("guest.v1.tar.gz"), "installed: guest.v1.tar.gz")
		m.waits("supervisorctl status guest | grep -q RUNNING && grep -x guest /var/log/guest.log")

		// Over the air, with the gateway's memory measured on the way.
		m.runs("pid=$(supervisorctl pid gwe); { while :; do awk '/^RssAnon/{print $2}' /proc/$pid/status; sleep 0.2; done > /data/anon & }")
		start := time.Now()
		order("gw.v1.1.0.fw")
		m.sees(`gweinit: reboot`)
		written := time.Since(start)
		m.sees(`slot=b why=trial`)
		m.arrives(slot.B)
		m.sees(`gweinit: firmware 1\.1\.0 in slot b is on trial, boot 1 of 3`)
		m.sees(`gweinit: firmware 1\.1\.0 in slot b is confirmed`)
		confirmed := time.Since(start)
		m.prompted()
		most, err := strconv.Atoi(m.runs("sort -n /data/anon | tail -n 1"))
		if t.Logf("from the command to the reboot %.1f s, to the confirmation %.1f s; gwe had at most %d kB of anonymous memory", written.Seconds(), confirmed.Seconds(), most); err != nil || most > 16<<10 {
			t.Errorf("gwe took %d kB of anonymous memory, %v; its budget is 16 MB", most, err)
		}
		told(m, "gw.v1.1.0.fw", "installed", 1)
		m.runs("supervisorctl status guest | grep RUNNING")
		e.until(m, "the app's file that hides a newer one is reported", func() bool { return strings.Contains(e.value("engine_report"), `"stale":["/etc/os-release"]`) })
		if st := m.firmware(); st.Version != "1.1.0" || st.Slots.Good != slot.B || st.Slots.A.Status != slot.Good || st.Update.State != update.Confirmed {
			t.Errorf("after the update: %s", m.runs("gwe --slots"))
		}
		e.until(m, "the new version is reported", func() bool {
			return strings.Contains(e.value("engine_report"), `"firmware":{"version":"1.1.0"`)
		})

		// The same again is nothing to do. An older one and one of a stranger are
		// refused.
		time.Sleep(1100 * time.Millisecond)
		order("gw.v1.1.0.fw")
		told(m, "gw.v1.1.0.fw", "installed", 2)
		e.offer("gw.v0.9.0.fw", newer.writeBundle(t, "0.9.0", bootImage, root))
		order("gw.v0.9.0.fw")
		told(m, "gw.v0.9.0.fw", "failed", 1)
		if st := m.firmware(); st.Slots.A.Status != slot.Good {
			t.Errorf("a firmware that is refused has changed the other slot:\n%s", m.runs("gwe --slots"))
		}

		// rejected is how one goes that is no good: the gateway is back on 1.1.0.
		rejected := func(name, why string) {
			t.Helper()
			m.sees(`(?m)slot=b why=good`)
			m.arrives(slot.B)
			m.shell()
			told(m, name, "failed", 1)
			if got := e.value("fetch_status"); !strings.Contains(got, why) {
				t.Errorf("%s: told was\n%s\nwant %q", name, got, why)
			}
			if st := m.firmware(); st.Slots.Good != slot.B || st.Slots.A.Status != slot.Bad || st.Slots.Trial.Valid() {
				t.Errorf("%s: %s", name, m.runs("gwe --slots"))
			}
			m.waits("supervisorctl status pump | grep -q RUNNING")
		}

		// Its kernel panics, each time.
		e.offer("gw.v1.2.0.fw", newer.writeBundle(t, "1.2.0", b.panicking(t, bootImage), root))
		order("gw.v1.2.0.fw")
		for range slot.TrialTries {
			m.sees(`slot=a why=trial`)
			m.sees(`Kernel panic`)
		}
		rejected("gw.v1.2.0.fw", "never came as far as PID 1")
		if !slices.Contains(sample, b.Board) { // the rest is the same everywhere, and takes its time
			io.WriteString(m, "poweroff\n")
			m.poweredOff()
			return
		}

		// A program that ran before does not run in it.
		m.runs("touch /data/fatal-a; sync")
		e.offer("gw.v1.3.0.fw", newer.writeBundle(t, "1.3.0", bootImage, root))
		order("gw.v1.3.0.fw")
		m.sees(`slot=a why=trial`)
		m.sees(`slot a is rejected: programs that ran before the update do not run: pump`)
		rejected("gw.v1.3.0.fw", "do not run: pump")
		if got := e.value("fetch_status"); !strings.Contains(got, "gweinit: ") {
			t.Errorf("the last lines of the trial are not told:\n%s", got)
		}
		m.runs("rm /data/fatal-a")

		// A block of its root is damaged while it is on trial.
		e.offer("gw.v1.4.0.fw", newer.writeBundle(t, "1.4.0", bootImage, root))
		order("gw.v1.4.0.fw")
		m.sees(`slot=a why=trial`)
		m.Kill()
		c.damage(t, slot.A.RootPartition(), seldomRead(root), 4096)
		m = c.boot(t, small)
		m.sees(`the root of slot a is damaged`)
		rejected("gw.v1.4.0.fw", "is damaged")

		io.WriteString(m, "poweroff\n")
		m.poweredOff()
	})
}

// A firmware that only does not reach the cloud is tried three times, since it may
// be the network. Then one comes by hand, and is confirmed, until its root is
// damaged.
func TestUpdateWithoutCheckIn(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		_, newer := updateBuilds(t, b.Board)
		bootImage, root := newer.parts(t)
		e := startExosite(t, "GW-11")
		const limit = 25 // seconds of a trial
		c := e.gatewayAt(t, newer, limit)
		m := c.boot(t)
		m.arrives(slot.A)
		m.shell()
		m.waits("supervisorctl status pump | grep -q RUNNING")
		m.runs("touch /data/silent-b; sync")
		e.offer("gw.v1.5.0.fw", newer.writeBundle(t, "1.5.0", bootImage, root))
		e.set("engine_fetch", `{"install": [{"name": "gw.v1.5.0.fw"}]}`)
		for n := range 1 + update.Retrials {
			m.sees(`slot=b why=trial`)
			m.sees(fmt.Sprintf(`slot b is %s: no check-in within %ds`, map[bool]string{true: "postponed", false: "rejected"}[n < update.Retrials], limit))
			m.sees(`slot=a why=good`)
			if n < update.Retrials {
				m.sees(`trying firmware 1\.5\.0 in slot b again`)
			}
		}
		m.arrives(slot.A)
		m.shell()
		e.until(m, "the failure is told", func() bool { return e.outcomes("failed: gw.v1.5.0.fw") == 1 })
		if got := e.value("fetch_status"); !strings.Contains(got, "no check-in") {
			t.Errorf("told was\n%s", got)
		}
		m.runs("rm /data/silent-b")

		io.WriteString(m, "gdc -f gwe http content download gw.v1.5.0.fw -o - | gwe --install-firmware -\n")
		m.sees(`slot=b why=trial`)
		m.sees(`firmware 1\.1\.0 in slot b is confirmed`)
		m.Kill()
		c.damage(t, slot.B.RootPartition(), seldomRead(root), 4096)
		m = c.boot(t)
		m.sees(`the root of slot b is damaged`)
		m.sees(`slot=a why=fallback`)
		m.arrives(slot.A)
		m.shell()
		if st := m.firmware(); st.Slots.Good != slot.A || st.Slots.B.Status != slot.Bad || !strings.Contains(st.Fallback, "is damaged") {
			t.Errorf("after the damage: %s", m.runs("gwe --slots"))
		}
		e.until(m, "the fall back is reported", func() bool { return strings.Contains(e.value("engine_report"), "fell back to slot a") })
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
	})
}

// Somebody at the shell goes back to the firmware from before, without a cloud, and
// then changes his mind.
func TestRollback(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.copySlot(t)
		c.setState(t, slot.Fresh(slot.A, slot.Good))
		m := c.boot(t)
		m.ready(b, slot.A)
		m.shell()
		io.WriteString(m, "gwe --rollback\n")
		m.sees(`slot=b why=trial`)
		m.ready(b, slot.B)
		m.shell()
		if got := m.runs("gwe --slots"); !strings.Contains(got, "on trial, running") {
			t.Errorf("the trial:\n%s", got)
		}
		if got := m.runs("gwe --confirm"); !strings.HasSuffix(got, "confirmed") {
			t.Errorf("gwe --confirm: %s", got)
		}
		if st := m.firmware(); st.Slots.Good != slot.B || st.Slots.A.Status != slot.Good || st.Update.State != update.Confirmed {
			t.Errorf("confirmed: %s", m.runs("gwe --slots"))
		}
		io.WriteString(m, "gwe --rollback\n")
		m.sees(`slot=a why=trial`)
		m.ready(b, slot.A)
		m.shell()
		io.WriteString(m, "gwe --rollback\n")
		m.sees(`slot=b why=good`)
		m.ready(b, slot.B)
		m.shell()
		if st := m.firmware(); st.Slots.Good != slot.B || st.Slots.A.Status != slot.Good || st.Update.State != update.Rejected || st.Update.Cause != update.ByHand {
			t.Errorf("after a change of mind: %s", m.runs("gwe --slots"))
		}
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
	})
}

// A firmware whose PID 1 hangs is ended by the watchdog, and so are its boots.
func TestHangingUpdate(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		_, newer := updateBuilds(t, b.Board)
		bootImage, root := newer.parts(t)
		e := startExosite(t, "GW-9")
		c := e.gatewayAt(t, newer, 600)
		m := c.boot(t)
		m.arrives(slot.A)
		m.shell()
		m.runs("touch /data/hang-b; sync")
		e.offer("gw.v1.2.0.fw", newer.writeBundle(t, "1.2.0", bootImage, root))
		e.set("engine_fetch", `{"install": [{"name": "gw.v1.2.0.fw"}]}`)
		for range slot.TrialTries {
			m.sees(`slot=b why=trial`)
		}
		m.sees(`slot=a why=good`)
		m.arrives(slot.A)
		m.shell()
		e.until(m, "the failure is told", func() bool { return e.outcomes("failed: gw.v1.2.0.fw") == 1 })
		if got := e.value("fetch_status"); !strings.Contains(got, "the watchdog has reset the gateway") && b.Board == "qemu-arm64" {
			t.Errorf("told was\n%s", got)
		}
	})
}

// The power goes at any moment of updates, again and again. The gateway comes back
// each time, and each update has one outcome.
func TestPowerCutsWhileUpdating(t *testing.T) {
	kills, _ := strconv.Atoi(cmp.Or(os.Getenv("kills"), "6"))
	eachSample(t, func(t *testing.T, b *build) {
		older, newer := updateBuilds(t, b.Board)
		e := startExosite(t, "GW-10")
		c := e.gatewayAt(t, older, 600)
		name, orders, confirmed := "", 0, 0
		told := func() int { return e.outcomes("installed: "+name) + e.outcomes("failed: "+name) }
		done := func() bool { return name == "" || told() > 0 }
		order := func() { // of what the other slot has not
			from := []*build{newer, older}[orders%2]
			bootImage, root := from.parts(t)
			orders++
			version := fmt.Sprintf("2.0.%d", orders)
			name = "gw.v" + version + ".fw"
			e.offer(name, b.writeBundle(t, version, bootImage, root))
			e.set("engine_fetch", `{"install": [{"name": "`+name+`"}]}`)
		}
		check := func() {
			t.Helper()
			if got := told(); name != "" && got != 1 {
				t.Errorf("%s: told %d times", name, got)
			}
			if n := e.outcomes("installed: " + name); name != "" {
				confirmed += n
			}
		}
		m := c.boot(t)
		for n := range kills {
			m.sees(`(?m)^gweinit: ready board=\S+ slot=[ab] `)
			if done() {
				check()
				order()
			}
			time.Sleep(rand.N(25 * time.Second))
			m.Kill()
			if st := c.state(t); st.Slot(st.Good).Status != slot.Good {
				t.Fatalf("after %d power cuts: %s", n+1, describe(st))
			}
			m = c.boot(t)
		}
		e.until(m, "the last update is told", done)
		check()
		if t.Logf("%d power cuts in %d updates, of which %d were confirmed", kills, orders, confirmed); confirmed == 0 {
			t.Errorf("no update got through; the last one: %s", e.value("fetch_status"))
		}
		m.Kill()
	})
}

// BenchmarkFiguresOfUpdates compares the install of a bundle of which the gateway has
// nothing, by HTTP from the host, with what dd takes for as many bytes: on a disk that
// writes 10 MB/s, as a good SD card does, and on one without a limit.
func BenchmarkFiguresOfUpdates(b *testing.B) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "board\tdisk, MB/s\tsize, MB\tdd, s\tinstall, s\tdd / install\t")
	for _, name := range boards {
		_, newer := updateBuilds(b, name)
		bootImage, root := newer.parts(b)
		for _, part := range [][]byte{bootImage, root} {
			for i := 1000; i < len(part); i += 1 << 20 {
				part[i] ^= 1 // another piece
			}
		}
		file := newer.writeBundle(b, "1.2.0", bootImage, root)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "gw.fw", time.Time{}, bytes.NewReader(file))
		}))
		_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
		for _, limit := range []int{10, 0} {
			m := newer.card(b).boot(b, func(o *qemu.Options) {
				if limit > 0 {
					o.Args = []string{"-set", fmt.Sprintf("drive.disk.throttling.bps-write=%d000000", limit)}
				}
			})
			m.arrives(slot.A)
			m.shell()
			var took [2]float64
			for i, command := range []string{
				fmt.Sprintf("dd if=/dev/zero of=/dev/disk/by-partlabel/kernel_b bs=1M count=%d conv=fsync; dd if=/dev/zero of=/dev/disk/by-partlabel/rootfs_b bs=1M count=%d conv=fsync; echo 'as'' rebooting'", len(bootImage)>>20, len(root)>>20),
				"gwe --install-firmware http://10.0.2.2:" + port + "/gw.v1.2.0.fw",
			} {
				start := time.Now()
				io.WriteString(m, command+"\n")
				m.sees("(as|verified;) rebooting")
				took[i] = time.Since(start).Seconds()
			}
			m.Kill()
			fmt.Fprintf(t, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.2f\t\n", name, limit, float64(len(bootImage)+len(root))/1e6, took[0], took[1], took[0]/took[1])
		}
		server.Close()
	}
	t.Flush()
}
