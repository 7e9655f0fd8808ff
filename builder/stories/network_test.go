//go:build qemu

package stories

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/slot"
)

// timeServer answers NTP (RFC 5905) with a time that is ahead of the host's. A
// machine reaches it at 10.0.2.2.
type timeServer struct {
	port    int
	ahead   time.Duration
	silent  atomic.Bool
	answers atomic.Int64
}

func startTimeServer(t testing.TB, ahead time.Duration) *timeServer {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &timeServer{port: conn.LocalAddr().(*net.UDPAddr).Port, ahead: ahead}
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n < 48 || s.silent.Load() {
				continue
			}
			reply := make([]byte, 48)
			reply[0], reply[1], reply[2], reply[3] = 4<<3|4, 1, buf[2], 0xe9 // version 4, server, stratum 1
			copy(reply[12:], "TEST")
			now := ntpTime(time.Now().Add(s.ahead))
			binary.BigEndian.PutUint64(reply[16:], now)
			copy(reply[24:32], buf[40:48]) // origin
			binary.BigEndian.PutUint64(reply[32:], now)
			binary.BigEndian.PutUint64(reply[40:], now)
			conn.WriteToUDPAddrPort(reply, from)
			s.answers.Add(1)
		}
	}()
	return s
}

func ntpTime(t time.Time) uint64 {
	const since1900 = 2208988800
	return uint64(t.Unix()+since1900)<<32 | uint64(t.Nanosecond())<<32/1e9
}

// provision puts settings on the card, as at manufacturing.
func (c *card) provision(t *testing.T, text string) {
	t.Helper()
	file, err := config.File([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Provision(c.path, file); err != nil {
		t.Fatal(err)
	}
}

// provisionByHand replaces the file with one of these settings, as a person with
// a card reader does: it has another size and other sectors, and may be wrong.
func (c *card) provisionByHand(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), disk.ProvisionFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mcopy", "-o", "-i", fmt.Sprintf("%s@@%d", c.path, c.Partitions[0].Offset), file, "::/"+disk.ProvisionFile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
}

// bootHas reports whether the boot partition has a text anywhere, in a file or
// in what a file has left.
func (c *card) bootHas(t *testing.T, text string) (has bool) {
	t.Helper()
	c.with(t, slot.BootPartition, func(p partition) {
		all := make([]byte, p.size)
		if _, err := p.ReadAt(all, 0); err != nil {
			t.Fatal(err)
		}
		has = bytes.Contains(all, []byte(text))
	})
	return has
}

func (c *card) identity(t *testing.T) (r identity.Record) {
	t.Helper()
	c.with(t, slot.StatePartition, func(p partition) {
		var err error
		if r, err = identity.NewStore(p).Load(); err != nil {
			t.Fatal(err)
		}
	})
	return r
}

// waits waits until a command at the console's shell succeeds.
func (m *machine) waits(command string) {
	m.t.Helper()
	// Once is enough: what it waited for may be over at the next look.
	m.runs("i=0; until { " + command + "; }; do i=$((i+1)); test $i -lt 60 || break; sleep 1; done; test $i -lt 60")
}

// listening are the sockets that take what comes from outside (proc_net(5)):
// TCP in state 0A, and UDP and raw ones in state 07, without a peer.
const listening = `awk 'FNR>1 && ($4=="0A" || $4=="07") && $2!~/^(0100007F|00000000000000000000000001000000):/ {print FILENAME, $2}' /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 /proc/net/raw /proc/net/raw6`

// A gateway with a provisioned card is switched on: it gets an address and the
// time, knows who it is, logs, listens to nobody, and still does all that after
// a reboot.
func TestFirstDay(t *testing.T) {
	hasClock := map[string]bool{"qemu-arm64": true, "qemu-arm": true, "qemu-mipsel": true, "qemu-mips64el": true}
	eachBoard(t, func(t *testing.T, b *build) {
		const ahead = 3 * 24 * time.Hour
		// The kernel of malta measures how fast its clock is when it starts, and
		// on a busy host gets that wrong: it may lose half of the time.
		const slack = time.Minute
		ntp := startTimeServer(t, ahead)
		c := b.card(t)
		const serial = "GW-00042-of-line-7"
		c.provision(t, fmt.Sprintf(`
product: a1b2c3d4e5f6
serial: %s
timezone: America/Chicago
network:
  hostname: gw-42
  ntp: ["10.0.2.2:%d"]
`, serial, ntp.port))
		ntp.silent.Store(true)
		m := c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		// Nobody has told the time yet.
		if hasClock[b.Board] {
			m.timeIs(0, slack)
			m.runs("grep rtc /run/clock-set")
		} else { // 1970 it is not
			m.runs("test $(date +%Y) -ge 2026 && test ! -e /run/clock-set")
		}
		ntp.silent.Store(false)
		m.waits("grep -q ntp /run/clock-set 2>/dev/null")
		m.waits("ip -6 addr show scope site | grep -q fec0:")
		for _, check := range []struct{ command, want string }{
			{"hostname", "gw-42"},
			{"ping -c1 -W2 gw-42 | grep -c '1 packets received'", "1"},
			{"ip -4 addr show scope global | grep -o 'inet [0-9./]*'", "inet 10.0.2.15/24"},
			{"ip route | grep -o '^default via [0-9.]*'", "default via 10.0.2.2"},
			{"grep nameserver /etc/resolv.conf", "nameserver 10.0.2.3"},
			{"ping -c1 -W2 10.0.2.2 | grep -c '1 packets received'", "1"},
			{"date -d '2026-07-01 12:00' +%Z", "CDT"},
			{"grep uuid /data/gwe/Gateway.cfg | tr -d ' '", "uuid=" + serial},
			{"cat /boot/provision.yaml | head -n1 | cut -c1-6", "# DONE"},
			{"grep -c " + serial + " /boot/provision.yaml || true", "0"},
			{listening, ""},
			{"logger -t pump 'water level 7'; sleep 3; grep -c 'INFO *pump.*: water level 7$' /data/log/messages", "1"},
			{"grep -c 'kernel: Linux version' /var/log/messages", "1"},
			{"grep -c 'gweinit: ready' /var/log/messages", "1"},
		} {
			if got := m.runs(check.command); got != check.want {
				t.Errorf("%s:\ngot  %q\nwant %q", check.command, got, check.want)
			}
		}
		m.timeIs(ahead, slack)
		var status struct {
			Board, Slot string
			Failed      []string
			Network     struct {
				Hostname string
				Links    []struct{ State string }
			}
			Clock struct{ Source string }
		}
		if err := json.Unmarshal([]byte(m.runs("gweinit call gweinit.status")), &status); err != nil {
			t.Error(err)
		}
		if got, want := fmt.Sprint(status), fmt.Sprintf("{%s a [] {gw-42 [{dhcp: bound}]} {ntp}}", b.Board); got != want {
			t.Errorf("the status is %s, want %s", got, want)
		}
		if r := c.identity(t); !bytes.Contains(r.Files["Gateway.cfg"], []byte(serial)) {
			t.Errorf("the record has %v, without the serial number", r)
		}
		if c.bootHas(t, serial) {
			t.Error("the serial number is still on the boot partition")
		}

		// Without a network the clock goes on from what was stored, or from the
		// board's own.
		ntp.silent.Store(true)
		before := time.Now()
		io.WriteString(m, "reboot\n")
		m.sees("gweinit: reboot")
		m.ready(b, slot.A)
		m.shell()
		if got := m.runs("hostname; grep uuid /data/gwe/Gateway.cfg | tr -d ' '"); got != "gw-42\nuuid="+serial {
			t.Errorf("after the reboot: %q", got)
		}
		if hasClock[b.Board] {
			m.timeIs(ahead, slack)
			m.runs("grep rtc /run/clock-set")
		} else {
			m.timeIs(ahead, slack+time.Since(before))
			m.runs("test ! -e /run/clock-set")
		}
		m.waits("cat /var/log/messages* | grep -c 'gweinit: ready' | grep -qx 2")
	})
}

// Somebody changes the network of a gateway far away. What cannot work is not
// taken, and what has not been proved by a check-in is on trial.
func TestNewNetwork(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		m := c.boot(t)
		m.ready(b, slot.A)
		m.shell()
		m.waits("ip route | grep -q '^default via 10.0.2.2'")
		const set = "gweinit call gweinit.setNetwork "
		if got, want := m.runs(set+"'links: [{name: eth0, ipv4: dchp}]' 2>&1 || test $? = 1"), `gweinit call: line 1: links[0].ipv4: "dchp" is not one of dhcp, static, link-local, off`; got != want {
			t.Errorf("a mistake:\ngot  %q\nwant %q", got, want)
		}
		m.runs("test ! -e /data/gwe/network.yaml")
		onTrial := func(want string) {
			t.Helper()
			if got := m.runs(`gweinit call gweinit.status | grep -o '"trial": [a-z]*'`); got != `"trial": `+want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		m.runs("sleep 6; gweinit call gweinit.checkedIn")
		onTrial("false")
		// A check-in at once may have come over the network from before.
		m.runs(set + "'links: [{name: eth0, ipv4: static, addresses: [10.0.2.77/24], gateway: 10.0.2.2}]'; gweinit call gweinit.checkedIn")
		onTrial("true")
		m.waits("ip -4 addr show scope global | grep -q 10.0.2.77/24")
		m.waits("ping -c1 -W2 10.0.2.2 >/dev/null")
		m.runs("sleep 6; gweinit call gweinit.checkedIn")
		onTrial("false")
		if r := c.identity(t); !bytes.Contains(r.Files["network.yaml"], []byte("10.0.2.77")) {
			t.Errorf("the record has %v, without the address", r)
		}
		// By an editor, and back to the image's.
		m.runs("echo 'hostname: by-hand' > /data/gwe/network.yaml; gweinit call gweinit.reloadNetwork; hostname | grep -x by-hand")
		m.runs(set + "''")
		m.waits("ip -4 addr show scope global | grep -q 10.0.2.15/24")
		m.waits("hostname | grep -qx gateway")
		io.WriteString(m, "reboot\n")
		m.sees("gweinit: reboot")
		m.ready(b, slot.A)
		m.shell()
		m.waits("ip -4 addr show scope global | grep -q 10.0.2.15/24")
		onTrial("true")
	})
}

// timeIs compares the machine's clock with the host's.
func (m *machine) timeIs(ahead, tolerance time.Duration) {
	m.t.Helper()
	unix, err := strconv.ParseInt(m.runs("date +%s"), 10, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	off := time.Unix(unix, 0).Sub(time.Now().Add(ahead))
	if off.Abs() > tolerance {
		m.t.Errorf("the machine's clock is off by %v, want at most %v", off, tolerance)
	}
}

// A card that nobody has provisioned comes up all the same, by DHCP; a later
// provisioning with a mistake is refused as a whole and says where it is.
func TestWrongProvisioning(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.provisionByHand(t, "serial: X7\nnetwork:\n  links:\n    - name: eth0\n      ipv4: dchp\n")
		m := c.boot(t)
		m.sees(`provision.yaml: line 5: network\.links\[0\]\.ipv4`)
		m.ready(b, slot.A)
		m.shell()
		m.waits("ip -4 addr show scope global | grep -q 10.0.2.15")
		for _, check := range []struct{ command, want string }{
			{"grep -c 'line 5: network.links' /data/gwe/provision-error.txt", "1"},
			{"test ! -e /data/gwe/Gateway.cfg && echo no", "no"},
			{"grep -c 'serial: X7' /boot/provision.yaml", "1"},
		} {
			if got := m.runs(check.command); got != check.want {
				t.Errorf("%s:\ngot  %q\nwant %q", check.command, got, check.want)
			}
		}
	})
}

// bootMonitored starts a machine, and returns QEMU's monitor, too: what is
// written there is done.
func (c *card) bootMonitored(t *testing.T, args ...string) (*machine, io.Writer) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "monitor")
	m := c.boot(t, func(o *qemu.Options) {
		o.Args = append(args, "-monitor", "unix:"+socket+",server,nowait")
	})
	for {
		monitor, err := net.Dial("unix", socket)
		if err == nil {
			t.Cleanup(func() { monitor.Close() })
			return m, monitor
		}
		select {
		case <-m.Ended():
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// The cable is pulled and plugged in again; the network comes back by itself,
// with the same address.
func TestCable(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		m, cable := b.card(t).bootMonitored(t)
		m.ready(b, slot.A)
		m.shell()
		m.waits("ip route | grep -q '^default via 10.0.2.2'")
		for range 3 {
			fmt.Fprintln(cable, "set_link net off")
			m.waits("! ip route | grep -q default")
			fmt.Fprintln(cable, "set_link net on")
			m.waits("ip route | grep -q '^default via 10.0.2.2'")
		}
		m.runs("ping -c1 -W2 10.0.2.2")
		if got := m.runs("ip -4 addr show scope global | grep -o 'inet [0-9./]*'"); got != "inet 10.0.2.15/24" {
			t.Errorf("the address is %q", got)
		}
		// Nobody has to read about a cable that was not in.
		if got := m.runs("dmesg -r | grep -c -E '^<[0-3]>.*gweinit|link.*error' || true"); got != "0" {
			t.Errorf("errors: %s", m.runs("dmesg | tail -n 20"))
		}
	})
}

// From outside, a gateway has no open port.
func TestNoOpenPort(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.provision(t, `
network:
  links:
    - name: eth0
      ipv4: static
      addresses: [10.0.9.2/24]
    - name: eth0.7
      vlan: {parent: eth0, id: 7}
      ipv4: static
      addresses: [10.0.7.2/24]
`)
		w, plug := plugWire(t, "10.0.9.1")
		m := c.boot(t, plug)
		m.ready(b, slot.A)
		m.shell()
		m.waits("ip -4 addr show scope global | grep -q 10.0.9.2")
		m.waits("ip -4 addr show dev eth0.7 | grep -q 10.0.7.2") // its module came by itself
		// So that each closed port says so.
		m.runs("cd /proc/sys/net/ipv4; echo 0 > icmp_ratelimit; echo 1000000 > icmp_msgs_per_sec; echo 100000 > icmp_msgs_burst; cd")
		io.WriteString(m, "ping -c 3 10.0.9.1\n")
		for end := time.Now().Add(10 * time.Second); w.peer == nil && time.Now().Before(end); {
			w.receive(time.Second)
		}
		if w.peer == nil {
			t.Fatalf("the machine is not on the wire:\n%s", m.Tail(10))
		}
		to := netip.MustParseAddr("10.0.9.2")
		for name, protocol := range map[string]byte{"TCP": tcp, "UDP": udp} {
			start := time.Now()
			open := w.scan(t, to, protocol)
			t.Logf("%s: 65535 ports in %.0f s", name, time.Since(start).Seconds())
			if len(open) > 0 {
				t.Errorf("%s: %d ports do not refuse, such as %v", name, len(open), open[:min(len(open), 10)])
			}
		}
		io.WriteString(m, "\n")
		m.shell()
		// The scan sees a port that is open.
		m.runs("nc -l -p 8023 > /dev/null & sleep 1")
		if open := w.scanOne(to, 8023); !open {
			t.Error("the scan does not see an open port")
		}
		if got := m.runs(listening); !strings.Contains(got, ":1F57") {
			t.Errorf("inside, the open port is not seen: %q", got)
		}
		w.drain()
		// The VLAN goes with its entry, and comes back with another number.
		const set = "gweinit call gweinit.setNetwork 'links: [{name: eth0, ipv4: static, addresses: [10.0.9.2/24]}"
		m.runs(set + "]'")
		m.waits("test ! -e /sys/class/net/eth0.7")
		m.runs(set + ", {name: eth0.8, vlan: {parent: eth0, id: 8}, ipv4: static, addresses: [10.0.8.2/24]}]'")
		m.waits("ip -4 addr show dev eth0.8 | grep -q 10.0.8.2")
	})
}

// scanOne reports whether a TCP port is open.
func (w *wire) scanOne(to netip.Addr, port uint16) bool {
	w.syn(to, port)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if protocol, b := w.receive(time.Second); protocol == tcp && len(b) >= 20 && binary.BigEndian.Uint16(b) == port {
			return b[13]&(2|16) == 2|16 // SYN, ACK
		}
	}
	return false
}

// The power goes at random moments of the first boots, while /data grows, is
// repaired on every other card, and settings are applied: the gateway ends complete,
// and nothing of the settings is left on the boot partition.
func TestPowerCutsOnTheFirstDay(t *testing.T) {
	const cuts, cutsPerCard, size = 10, 5, 1 << 30
	eachSample(t, func(t *testing.T, b *build) {
		settings := func(card int) string {
			return fmt.Sprintf("product: a1b2c3\nserial: serial-no-%d\ntimezone: Asia/Tokyo\nnetwork: {hostname: gw-%d}\n", card, card)
		}
		start := time.Now()
		probe := b.card(t)
		m := probe.boot(t)
		m.ready(b, slot.A)
		m.Kill()
		whole := time.Since(start)
		seed := uint64(start.UnixNano())
		t.Logf("seed %d; a boot takes %.1f s", seed, whole.Seconds())
		random := rand.New(rand.NewPCG(seed, 0))
		for card := range cuts / cutsPerCard {
			c := b.card(t)
			if card%2 == 1 {
				c.onData(t, "debugfs", "-w", "-R", "freei <3840>") // the bitmap says free twice
				c.onData(t, "debugfs", "-w", "-R", "ssv state 2")
			}
			c.enlarge(t, size)
			c.provision(t, settings(card))
			for range cutsPerCard {
				m := c.boot(t)
				time.Sleep(whole/3 + time.Duration(random.Int64N(int64(whole)*3/4)))
				m.Kill()
			}
			m := c.boot(t)
			if rest := m.ready(b, slot.A); rest != "" {
				t.Errorf("the ready line ends in %q", rest)
			}
			m.prompted()
			m.waits("test -e /data/gwe/selftest.json") // its line has come by then, maybe in a boot before
			if got, want := m.dataMegabytes(), int(size>>20-98)*9/10; got < want {
				t.Errorf("/data has %d MB, want at least %d", got, want)
			}
			got := m.runs("hostname; date +%Z; grep -E 'uuid|vendor|model' /data/gwe/Gateway.cfg | tr -d ' ' | sort; ls -1A /data/gwe | grep -vx 'selftest[.]json'")
			if want := fmt.Sprintf("gw-%d\nJST\nmodel=a1b2c3\nuuid=serial-no-%d\nvendor=a1b2c3\nGateway.cfg\nnetwork.yaml\nprovision.yaml\ntimezone", card, card); got != want {
				t.Errorf("card %d:\ngot  %q\nwant %q", card, got, want)
			}
			if c.bootHas(t, "serial-no") {
				t.Errorf("card %d: the serial number is still on the boot partition", card)
			}
			io.WriteString(m, "poweroff\n")
			m.poweredOff()
			c.sgdisk(t)
			c.checkData(t, size)
		}
	})
}

// A gateway is reset to what it was when it left the factory, whatever the
// power does meanwhile. It keeps its credential, unless that is to go, too.
func TestFactoryReset(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		c.provision(t, "product: a1b2c3\nserial: X7\nnetwork: {hostname: as-made}\n")
		m := c.boot(t)
		m.ready(b, slot.A)
		m.shell()
		// What the owner has done since.
		const cik = "e469e336ff9c8ed9176bc05ed7fa40daaaaaaaaa"
		c.with(t, slot.StatePartition, func(p partition) {
			store := identity.NewStore(p)
			r, err := store.Load()
			if err != nil {
				t.Fatal(err)
			}
			r.Files["Gateway.cfg"] = append(r.Files["Gateway.cfg"], "cik = "+cik+"\n"...)
			if err := store.Save(r); err != nil {
				t.Fatal(err)
			}
		})
		use := func() {
			m.runs("rm -f /data/gwe/Gateway.cfg; echo app > /data/app; gweinit call gweinit.setNetwork 'hostname: by-owner'; test $(hostname) = by-owner")
		}
		look := func() string {
			return m.runs("hostname; ls /data/app 2>/dev/null; grep -E 'uuid|cik' /data/gwe/Gateway.cfg | tr -d ' ' | sort")
		}
		use()
		io.WriteString(m, "gweinit call gweinit.factoryReset settings\n")
		m.sees("gweinit: reboot")
		cuts := 0
		for cuts < 6 && m.sees("gweinit: (factory reset: settings|ready)")[1] != "ready" {
			cuts++ // the power goes while it is at it
			time.Sleep(time.Duration(cuts) * 30 * time.Millisecond)
			m.Kill()
			m = c.boot(t)
		}
		if cuts == 0 {
			t.Error("there was no reset")
		}
		t.Logf("the power went %d times in the reset, the last time after %d ms", cuts, 30*cuts)
		if cuts == 6 {
			m.ready(b, slot.A)
		}
		m.shell()
		if got, want := look(), "as-made\ncik="+cik+"\nuuid=X7"; got != want {
			t.Errorf("after a reset of the settings:\ngot  %q\nwant %q", got, want)
		}
		// By a card reader, and everything.
		use()
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
		c.provisionByHand(t, "factory_reset: everything\n")
		m = c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		if got, want := look(), "as-made\nuuid=X7"; got != want {
			t.Errorf("after a reset of everything:\ngot  %q\nwant %q", got, want)
		}
		io.WriteString(m, "reboot\n")
		m.ready(b, slot.A)
		m.shell()
		m.runs("test ! -e /data/app && dmesg | grep -c 'factory reset' | grep -x 0")
	})
}

// A disk that hardly answers any more does not keep a gateway from rebooting.
func TestRebootIsBounded(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		m, disk := b.card(t).bootMonitored(t)
		m.ready(b, slot.A)
		m.shell()
		m.runs("dd if=/dev/zero of=/data/much bs=1M count=12 2>/dev/null")
		fmt.Fprintln(disk, "block_set_io_throttle disk 0 0 0 0 0 1") // one write a second
		time.Sleep(time.Second)
		start := time.Now()
		io.WriteString(m, "reboot\n")
		m.sees("gweinit: reboot")
		m.sees("U-Boot 20")
		took := time.Since(start)
		t.Logf("rebooted after %.0f s", took.Seconds())
		if took > 2*time.Minute {
			t.Errorf("the reboot took %v", took)
		}
		fmt.Fprintln(disk, "block_set_io_throttle disk 0 0 0 0 0 0")
		m.ready(b, slot.A)
	}, "qemu-arm64")
}
