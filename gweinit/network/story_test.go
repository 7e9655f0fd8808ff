package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/config"
)

// bound says whether a link has a lease of the address, and nothing else.
func bound(name, address string) func(Status) bool {
	return func(s Status) bool {
		l := s.link(name)
		return l.State == "dhcp: bound" && l.has(address)
	}
}

// With a real DHCP server, and real times.
func TestDnsmasq(t *testing.T) {
	story(t, func(w *world) {
		w.timings = usual
		w.cable("eth0", "192.168.7.1/24")
		w.server.addAddress("lo", "203.0.113.5/32")
		w.listen("203.0.113.5")
		w.dnsmasq("--interface=eth0", "--dhcp-range=192.168.7.50,192.168.7.60,2m", "--no-ping",
			"--dhcp-option=option:dns-server,192.168.7.1,192.168.7.2", "--dhcp-option=option:ntp-server,192.168.7.3",
			"--domain=example.com", "--dhcp-option=option:mtu,1400")
		time.Sleep(200 * time.Millisecond) // until it listens
		w.Apply(config.Network{Links: []config.Link{{Name: "eth*"}}})
		w.run()
		w.until("carrier", func(s Status) bool { return s.link("eth0").Carrier })
		start := time.Now()
		s := w.until("a lease", func(s Status) bool { return s.link("eth0").State == "dhcp: bound" })
		t.Logf("%v from the carrier to the address", time.Since(start).Round(time.Millisecond))
		l := s.link("eth0")
		if len(l.Addresses) != 1 || !l.Preferred || l.Gateway.String() != "192.168.7.1" || l.Server != l.Gateway || l.Error != "" ||
			time.Until(l.Expires) < 100*time.Second || time.Until(l.Expires) > 2*time.Minute {
			t.Errorf("%+v", l)
		}
		if s.Hostname != "gw-17" || !reflect.DeepEqual(s.NTP, []string{"192.168.7.3"}) || fmt.Sprint(s.DNS) != "[192.168.7.1 192.168.7.2]" {
			t.Errorf("%+v", s)
		}
		w.hasRoutes(
			"192.168.7.0/24 dev eth0 metric 100 mtu 1400",
			"0.0.0.0/0 via 192.168.7.1 dev eth0 metric 100 mtu 1400",
		)
		if got, want := w.resolvConf(), "nameserver 192.168.7.1\nnameserver 192.168.7.2\nsearch example.com\noptions timeout:3 attempts:2\n"; got != want {
			t.Errorf("resolv.conf:\n%s\nwant:\n%s", got, want)
		}
		if got := w.reaches("203.0.113.5"); got != l.Addresses[0].Addr().String() {
			t.Errorf("used %s", got)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.told); n == 0 || !bound("eth0", l.Addresses[0].String())(w.told[n-1]) {
			t.Errorf("told %+v", w.told)
		}
	})
}

// A bound link costs nothing: nothing wakes the manager, and it is a handful of
// goroutines.
func TestIdle(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24")
		w.dhcp("eth0", "10.0.0.1", lends("10.0.0.9/24", 3600, router("10.0.0.1")))
		w.Apply(network(entry("eth0", "")))
		before := runtime.NumGoroutine()
		w.run()
		w.until("bound", bound("eth0", "10.0.0.9/24"))
		// Those that run, watch the kernel, and tell of changes; and the link's,
		// which renews the lease and watches for conflicts.
		if n := runtime.NumGoroutine() - before; n > 5 {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines for one link:\n%s", n, buf[:runtime.Stack(buf, true)])
		}
		// The other end's kernel asks for a hundred neighbours each second, as is
		// done in any network.
		w.server.do(func() error {
			if err := os.WriteFile("/proc/sys/net/ipv4/neigh/eth0/mcast_solicit", []byte("60"), 0); err != nil {
				return err
			}
			for i := range 100 {
				c, err := net.Dial("udp4", fmt.Sprintf("10.0.0.%d:9", 100+i))
				if err != nil {
					return err
				}
				c.Write([]byte("x"))
				c.Close()
				time.Sleep(8 * time.Millisecond)
			}
			return nil
		})
		received := func() uint64 {
			l, err := netlink.LinkByName("eth0")
			w.must(err)
			return l.Attrs().Statistics.RxPackets
		}
		debug.FreeOSMemory() // Go would do that in the background
		packets, slept := received(), switches(t)
		time.Sleep(2 * time.Second)
		slept = switches(t) - slept
		packets = received() - packets
		t.Logf("%d times to sleep while %d packets came", slept, packets)
		if slept > 30 || packets < 100 {
			t.Errorf("%d times to sleep while %d packets came", slept, packets)
		}
	})
}

// switches returns how often threads of this process have gone to sleep.
func switches(t *testing.T) (sum int) {
	files, _ := filepath.Glob("/proc/self/task/*/status")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for line := range bytes.Lines(text) {
			if n, ok := bytes.CutPrefix(line, []byte("voluntary_ctxt_switches:")); ok {
				v, err := strconv.Atoi(string(bytes.TrimSpace(n)))
				if err != nil {
					t.Fatal(err)
				}
				sum += v
			}
		}
	}
	return sum
}

// What a client says, and that it takes classless routes instead of the router.
func TestOptions(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24")
		to := func(prefix, gw string) *dhcpv4.Route {
			p := netip.MustParsePrefix(prefix)
			return &dhcpv4.Route{Dest: toIPNet(p), Router: net.ParseIP(gw).To4()}
		}
		d := w.dhcp("eth0", "10.0.0.1", lends("10.0.0.9/24", 3600, router("10.0.0.250"),
			dhcpv4.OptHostName("from-dhcp"), dhcpv4.OptDNS(net.IPv4(10, 0, 0, 53), net.IPv4(127, 0, 0, 1)),
			dhcpv4.OptDomainName("bad;rm.example bad_domain ok.example"),
			dhcpv4.OptClasslessStaticRoute(to("0.0.0.0/0", "10.0.0.1"), to("172.16.0.0/12", "10.0.0.2"), to("192.0.2.7/32", "0.0.0.0"), to("198.51.100.0/24", "192.0.2.7"))))
		w.Apply(config.Network{Links: []config.Link{entry("eth?", "dhcp")}, NTP: []string{"pool.ntp.org"}, FallbackDNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}})
		w.run()
		s := w.until("bound", bound("eth0", "10.0.0.9/24"))
		w.hasRoutes(
			"10.0.0.0/24 dev eth0 metric 100",
			"0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
			"172.16.0.0/12 via 10.0.0.2 dev eth0 metric 100",
			"192.0.2.7/32 dev eth0 metric 100",
			"198.51.100.0/24 via 192.0.2.7 onlink dev eth0 metric 100",
		)
		if got, want := w.resolvConf(), "nameserver 10.0.0.53\nsearch ok.example\noptions timeout:3 attempts:2\n"; got != want {
			t.Errorf("resolv.conf:\n%s\nwant:\n%s", got, want)
		}
		if s.Hostname != "from-dhcp" || !reflect.DeepEqual(s.NTP, []string{"pool.ntp.org"}) {
			t.Errorf("%+v", s)
		}
		list, _ := d.got(dhcpv4.MessageTypeDiscover)
		m := list[0]
		if m.HostName() != "gw-17" || m.ClassIdentifier() != "gateway-engine" || len(m.GetOneOption(dhcpv4.OptionClientIdentifier)) != 7 ||
			!m.IsOptionRequested(dhcpv4.OptionClasslessStaticRoute) || !m.IsOptionRequested(dhcpv4.OptionNTPServers) || m.IsBroadcast() {
			t.Error(m.Summary())
		}
	})
}

// A lease is renewed by its server, else by any; one that is not renewed ends.
func TestRenew(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24", "10.0.0.2/24")
		// Each state lasts for seconds: the machine may be busy.
		w.timings.reply = time.Second
		t1, t2 := dhcpv4.OptRenewTimeValue(2*time.Second), dhcpv4.OptRebindingTimeValue(8*time.Second)
		first := w.dhcp("eth0", "10.0.0.1", lends("10.0.0.9/24", 14, t1, t2, router("10.0.0.1")))
		w.Apply(network(entry("eth0", "")))
		w.run()
		w.until("bound", bound("eth0", "10.0.0.9/24"))
		discovers, _ := first.got(dhcpv4.MessageTypeDiscover)
		w.until("renewed", func(s Status) bool {
			l := s.link("eth0")
			if !l.has("10.0.0.9/24") || l.State != "dhcp: bound" && l.State != "dhcp: renewing" {
				t.Fatalf("lost while renewing: %+v", s)
			}
			_, direct := first.got(dhcpv4.MessageTypeRequest)
			return direct >= 2 // for this server only
		})
		list, _ := first.got(dhcpv4.MessageTypeRequest)
		if m := list[len(list)-1]; m.ClientIPAddr.String() != "10.0.0.9" || m.ServerIdentifier() != nil || m.RequestedIPAddress() != nil {
			t.Error(m.Summary())
		}
		if after, _ := first.got(dhcpv4.MessageTypeDiscover); len(after) != len(discovers) {
			t.Errorf("%d DISCOVERs while renewing", len(after)-len(discovers))
		}

		first.now(isSilent)
		w.until("renewing", func(s Status) bool {
			return s.link("eth0").State == "dhcp: renewing" && s.link("eth0").has("10.0.0.9/24")
		})
		w.until("rebinding", func(s Status) bool {
			return s.link("eth0").State == "dhcp: rebinding" && s.link("eth0").has("10.0.0.9/24")
		})
		second := w.dhcp("eth0", "10.0.0.2", lends("10.0.0.9/24", 4, router("10.0.0.2")))
		s := w.until("bound by the other", func(s Status) bool {
			return bound("eth0", "10.0.0.9/24")(s) && s.link("eth0").Server.String() == "10.0.0.2"
		})
		if g := s.link("eth0").Gateway.String(); g != "10.0.0.2" {
			t.Errorf("gateway %s", g)
		}
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100", "0.0.0.0/0 via 10.0.0.2 dev eth0 metric 100")

		second.now(isSilent)
		w.until("expired", func(s Status) bool { return strings.HasPrefix(s.link("eth0").State, "dhcp: searching") })
		w.hasRoutes()
		w.until("link-local", func(s Status) bool { return len(s.link("eth0").Addresses) == 1 })
		second.now(lends("10.0.0.9/24", 60))
		w.until("bound again", bound("eth0", "10.0.0.9/24"))
	})
}

// While renewing, servers withdraw leases, or give other addresses.
func TestOtherAddress(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24")
		d := w.dhcp("eth0", "10.0.0.1", lends("10.0.0.9/24", 2))
		w.Apply(network(entry("eth0", "")))
		w.run()
		w.until("bound", bound("eth0", "10.0.0.9/24"))
		d.now(lends("10.0.0.10/16", 2))
		w.until("another address", bound("eth0", "10.0.0.10/16"))
		w.hasRoutes("10.0.0.0/16 dev eth0 metric 100")
		gives := lends("10.0.0.11/24", 2)
		d.now(func(m, reply *dhcpv4.DHCPv4) bool {
			if m.MessageType() == dhcpv4.MessageTypeRequest && !m.ClientIPAddr.IsUnspecified() {
				return refuses(m, reply)
			}
			return gives(m, reply)
		})
		w.until("withdrawn", bound("eth0", "10.0.0.11/24"))
		// The same address with other options.
		d.now(lends("10.0.0.11/24", 2, router("10.0.0.1"), dhcpv4.OptDNS(net.IPv4(10, 0, 0, 1))))
		w.until("options", func(s Status) bool { return s.link("eth0").Gateway.IsValid() && len(s.DNS) == 1 })
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100", "0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100")
	})
}

// The cable is out, and in again; or in another network.
func TestCable(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24")
		gives := lends("10.0.0.9/24", 3600, router("10.0.0.1"), dhcpv4.OptDNS(net.IPv4(10, 0, 0, 1)))
		d := w.dhcp("eth0", "10.0.0.1", gives)
		w.Apply(network(entry("eth0", "")))
		w.run()
		w.until("bound", bound("eth0", "10.0.0.9/24"))
		w.server.pull("eth0")
		s := w.until("no carrier", func(s Status) bool { return !s.link("eth0").Carrier && s.link("eth0").has() })
		if len(s.DNS) != 0 || s.link("eth0").Preferred || s.link("eth0").State != "dhcp: no carrier" {
			t.Errorf("%+v", s)
		}
		w.hasRoutes()
		if got := w.resolvConf(); strings.Contains(got, "nameserver") {
			t.Errorf("resolv.conf:\n%s", got)
		}

		before, _ := d.got(dhcpv4.MessageTypeDiscover)
		w.server.plug("eth0")
		w.until("bound again", bound("eth0", "10.0.0.9/24"))
		after, _ := d.got(dhcpv4.MessageTypeDiscover)
		requests, _ := d.got(dhcpv4.MessageTypeRequest)
		last := requests[len(requests)-1]
		if len(after) != len(before) || last.RequestedIPAddress().String() != "10.0.0.9" || last.ServerIdentifier() != nil || !last.ClientIPAddr.IsUnspecified() {
			t.Errorf("%d DISCOVERs, %s", len(after)-len(before), last.Summary())
		}

		// In another network the server knows better.
		w.server.pull("eth0")
		w.until("no carrier", func(s Status) bool { return !s.link("eth0").Carrier })
		other := lends("10.0.0.77/24", 3600)
		d.now(func(m, reply *dhcpv4.DHCPv4) bool {
			if m.MessageType() == dhcpv4.MessageTypeRequest && m.RequestedIPAddress().String() == "10.0.0.9" {
				return refuses(m, reply)
			}
			return other(m, reply)
		})
		w.server.plug("eth0")
		w.until("bound in another network", bound("eth0", "10.0.0.77/24"))

		// Or does not answer.
		w.server.pull("eth0")
		w.until("no carrier", func(s Status) bool { return !s.link("eth0").Carrier })
		d.now(func(m, reply *dhcpv4.DHCPv4) bool {
			if m.MessageType() == dhcpv4.MessageTypeRequest && m.ServerIdentifier() == nil {
				return false
			}
			return gives(m, reply)
		})
		w.server.plug("eth0")
		w.until("bound after silence", bound("eth0", "10.0.0.9/24"))
	})
}

// The second link takes over while the first has no carrier.
func TestTwoLinks(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24")
		w.cable("wan0", "10.9.0.1/24")
		w.server.addAddress("lo", "203.0.113.5/32")
		w.listen("203.0.113.5")
		w.dhcp("eth0", "10.0.0.1", lends("10.0.0.9/24", 3600, router("10.0.0.1"), dhcpv4.OptDNS(net.IPv4(10, 0, 0, 1)), dhcpv4.OptDomainName("first.example")))
		w.dhcp("wan0", "10.9.0.1", lends("10.9.0.9/24", 3600, router("10.9.0.1"), dhcpv4.OptDNS(net.IPv4(10, 9, 0, 1)), dhcpv4.OptHostName("second")))
		w.Apply(network(entry("eth0", ""), entry("w*", "")))
		w.run()
		both := func(s Status) bool {
			return bound("eth0", "10.0.0.9/24")(s) && bound("wan0", "10.9.0.9/24")(s) && s.link("eth0").Preferred && !s.link("wan0").Preferred
		}
		s := w.until("both", both)
		all := []string{
			"10.0.0.0/24 dev eth0 metric 100", "0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
			"10.9.0.0/24 dev wan0 metric 200", "0.0.0.0/0 via 10.9.0.1 dev wan0 metric 200",
		}
		w.hasRoutes(all...)
		if fmt.Sprint(s.DNS) != "[10.0.0.1 10.9.0.1]" || s.Hostname != "second" || !strings.Contains(w.resolvConf(), "search first.example\n") {
			t.Errorf("%+v\n%s", s, w.resolvConf())
		}
		if got := w.reaches("203.0.113.5"); got != "10.0.0.9" {
			t.Errorf("used %s", got)
		}
		w.server.pull("eth0")
		start := time.Now()
		w.until("the second", func(s Status) bool { return s.link("wan0").Preferred && fmt.Sprint(s.DNS) == "[10.9.0.1]" })
		t.Logf("%v until the other link takes over", time.Since(start).Round(time.Millisecond))
		w.hasRoutes(all[2:]...)
		if got := w.reaches("203.0.113.5"); got != "10.9.0.9" {
			t.Errorf("used %s", got)
		}
		w.server.plug("eth0")
		w.until("the first again", both)
		if got := w.reaches("203.0.113.5"); got != "10.0.0.9" {
			t.Errorf("used %s", got)
		}

		// The order is changed; the leases stay.
		w.Apply(network(entry("w*", ""), entry("eth0", "")))
		w.until("the other order", func(s Status) bool {
			if !s.link("eth0").has("10.0.0.9/24") || !s.link("wan0").has("10.9.0.9/24") {
				t.Fatalf("disturbed: %+v", s)
			}
			return s.link("wan0").Preferred && s.Links[0].Name == "wan0"
		})
		w.hasRoutes(
			"10.0.0.0/24 dev eth0 metric 200", "0.0.0.0/0 via 10.0.0.1 dev eth0 metric 200",
			"10.9.0.0/24 dev wan0 metric 100", "0.0.0.0/0 via 10.9.0.1 dev wan0 metric 100",
		)
		if got := w.reaches("203.0.113.5"); got != "10.9.0.9" {
			t.Errorf("used %s", got)
		}
	})
}

// Two links in the same network do not take each other for a conflict.
func TestSameNetwork(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0")
		w.cable("eth1")
		w.bridge("br0", "eth0", "eth1")
		w.server.addAddress("br0", "10.0.0.1/24")
		w.listen("10.0.0.1")
		first := map[string]string{}
		w.dhcp("br0", "10.0.0.1", func(m, reply *dhcpv4.DHCPv4) bool {
			mac := m.ClientHWAddr.String()
			if first[mac] == "" {
				first[mac] = fmt.Sprintf("10.0.0.%d/24", 20+len(first))
			}
			return lends(first[mac], 3600, router("10.0.0.1"))(m, reply)
		})
		w.Apply(network(entry("eth*", "")))
		w.run()
		both := func(s Status) bool {
			return s.link("eth0").State == "dhcp: bound" && s.link("eth1").State == "dhcp: bound"
		}
		s := w.until("both", both)
		w.hasRoutes(
			"10.0.0.0/24 dev eth0 metric 100", "0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100",
			"10.0.0.0/24 dev eth1 metric 101", "0.0.0.0/0 via 10.0.0.1 dev eth1 metric 101",
		)
		if got, want := w.reaches("10.0.0.1"), s.link("eth0").Addresses[0].Addr().String(); got != want {
			t.Errorf("used %s, want %s", got, want)
		}
		// From the address of the second, by the first.
		dialer := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: s.link("eth1").Addresses[0].Addr().AsSlice()}}
		c, err := dialer.DialContext(context.Background(), "tcp", "10.0.0.1:80")
		if err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		time.Sleep(time.Second)
		if s := w.Status(); !both(s) {
			t.Errorf("%+v", s)
		}
	})
}

// The address of a lease is in use: the client says so, and gets another.
func TestLeaseInUse(t *testing.T) {
	story(t, func(w *world) {
		w.timings.defendGap = usual.defendGap
		w.cable("eth0", "10.0.0.1/24", "10.0.0.9/24")
		declined := 0
		d := w.dhcp("eth0", "10.0.0.1", func(m, reply *dhcpv4.DHCPv4) bool {
			if m.MessageType() == dhcpv4.MessageTypeDecline {
				declined++
			}
			return lends(fmt.Sprintf("10.0.0.%d/24", 9+declined), 3600)(m, reply)
		})
		w.Apply(network(entry("eth0", "")))
		w.run()
		w.until("bound", func(s Status) bool {
			if s.link("eth0").has("10.0.0.9/24") {
				t.Fatal("has the address of another")
			}
			return bound("eth0", "10.0.0.10/24")(s)
		})
		list, _ := d.got(dhcpv4.MessageTypeDecline)
		if len(list) != 1 || list[0].RequestedIPAddress().String() != "10.0.0.9" || list[0].ServerIdentifier().String() != "10.0.0.1" {
			t.Error(list)
		}

		// Later another machine takes the address: once is a mistake, twice is
		// not.
		o := w.other("eth0")
		o.says("10.0.0.10")
		time.Sleep(500 * time.Millisecond)
		if s := w.Status(); !bound("eth0", "10.0.0.10/24")(s) {
			t.Errorf("given up at once: %+v", s)
		}
		buf := make([]byte, 64)
		for { // the answer to that
			o.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, _, err := o.conn.ReadFrom(buf)
			if err != nil {
				t.Error("the address was not defended")
				break
			}
			if p, ok := parseARP(buf[:n]); ok && p.senderIP.String() == "10.0.0.10" && p.targetIP == p.senderIP {
				break
			}
		}
		o.says("10.0.0.10")
		w.until("given up for another", bound("eth0", "10.0.0.11/24"))
		if list, _ := d.got(dhcpv4.MessageTypeDecline); len(list) != 2 {
			t.Error(list)
		}
	})
}

// Fixed addresses: not while another machine has them, and then for ever.
func TestStatic(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24", "10.0.0.9/24")
		w.listen("10.0.0.1")
		e := entry("eth0", config.Static, "10.0.0.9/24", "10.0.0.8/24", "192.0.2.8/32", "2001:db8::8/64")
		e.Gateway, e.Gateway6 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")
		e.MTU = 1300
		dns := []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("fe80::53%eth0")}
		w.Apply(config.Network{Hostname: "gw-18", Links: []config.Link{e}, DNS: dns})
		w.run()
		s := w.until("a conflict", func(s Status) bool {
			return s.link("eth0").has("10.0.0.8/24", "192.0.2.8/32") && strings.HasPrefix(s.link("eth0").Error, "10.0.0.9 is in use by another machine, ")
		})
		if s.Hostname != "gw-18" || s.link("eth0").State != "static" || s.link("eth0").Gateway != e.Gateway {
			t.Errorf("%+v", s)
		}
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100", "0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100")
		if got, want := w.resolvConf(), "nameserver 9.9.9.9\nnameserver fe80::53%eth0\noptions timeout:3 attempts:2\n"; got != want {
			t.Errorf("resolv.conf:\n%s\nwant:\n%s", got, want)
		}
		if got := w.reaches("10.0.0.1"); got != "10.0.0.8" {
			t.Errorf("used %s", got)
		}
		w.server.removeAddress("eth0", "10.0.0.9/24")
		// The first is the usual source, whichever came first.
		all := []string{"10.0.0.9/24", "10.0.0.8/24", "192.0.2.8/32"}
		s = w.until("all addresses", func(s Status) bool {
			l := s.link("eth0")
			return len(l.Addresses) == 4 && l.has(all...) && l.Error == "" && l.Gateway6 == e.Gateway6
		})
		if got := w.reaches("10.0.0.1"); got != "10.0.0.9" {
			t.Errorf("used %s", got)
		}
		if l, err := netlink.LinkByName("eth0"); err != nil || l.Attrs().MTU != 1300 {
			t.Error(err, l)
		}
		routes6 := func() string {
			list, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
			w.must(err)
			var b strings.Builder
			for _, n := range list {
				r := toRoute(n)
				fmt.Fprintln(&b, r.to, r.gateway, r.metric)
			}
			return b.String()
		}
		if got, want := routes6(), "2001:db8::/64 invalid IP 100\n::/0 fe80::1 100\n"; got != want {
			t.Errorf("IPv6 routes:\n%s\nwant:\n%s", got, want)
		}

		// It was here first: the other machine has to go.
		o := w.other("eth0")
		for range 3 {
			o.says("10.0.0.9")
			time.Sleep(50 * time.Millisecond)
		}
		w.until("a conflict", func(s Status) bool { return s.link("eth0").Error != "" && len(s.link("eth0").Addresses) == 4 })
		w.until("no conflict", func(s Status) bool { return s.link("eth0").Error == "" })

		// Somebody takes things away; they come back.
		l, err := netlink.LinkByName("eth0")
		w.must(err)
		for _, prefix := range []string{"10.0.0.8/24", "10.0.0.9/24"} {
			a, _ := netlink.ParseAddr(prefix)
			w.must(netlink.AddrDel(l, a))
			w.until(prefix+" again", func(s Status) bool {
				list, err := netlink.AddrList(l, netlink.FAMILY_V4)
				w.must(err)
				there := slices.ContainsFunc(list, func(a netlink.Addr) bool { return toPrefix(a.IPNet).String() == prefix })
				return there && s.link("eth0").has(all...)
			})
		}
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100", "0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100")
		if got := w.reaches("10.0.0.1"); got != "10.0.0.9" {
			t.Errorf("used %s", got)
		}
		w.must(netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: toIPNet(default4), Priority: 100}))
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100", "0.0.0.0/0 via 10.0.0.1 dev eth0 metric 100")

		// Another configuration, live.
		e.Addresses, e.Gateway, e.Gateway6, e.MTU = e.Addresses[:1], netip.Addr{}, netip.Addr{}, 0
		w.Apply(network(e))
		w.until("one address", func(s Status) bool { return len(s.link("eth0").Addresses) == 1 && s.link("eth0").has("10.0.0.9/24") })
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100")
		if got := routes6(); got != "" {
			t.Errorf("IPv6 routes:\n%s", got)
		}
		if l, err := netlink.LinkByName("eth0"); err != nil || l.Attrs().MTU != 1500 {
			t.Error(err, l)
		}
		w.Apply(network(entry("eth0", config.Off)))
		w.until("off", func(s Status) bool { return s.link("eth0").State == "off" && s.link("eth0").has() && s.link("eth0").Up })
		w.Apply(config.Network{})
		w.until("down", func(s Status) bool { return len(s.Links) == 0 })
		w.hasRoutes()
		if l, err := netlink.LinkByName("eth0"); err != nil || l.Attrs().RawFlags&unix.IFF_UP != 0 {
			t.Error(err, l)
		}
	})
}

// Without a server there is a link-local address, until there is a lease.
func TestLinkLocal(t *testing.T) {
	story(t, func(w *world) {
		w.timings.defendGap = usual.defendGap
		w.cable("eth0", "10.0.0.1/24")
		w.Apply(network(entry("eth0", "")))
		w.run()
		first := func(s Status) string {
			if l := s.link("eth0"); len(l.Addresses) == 1 && l.Addresses[0].Addr().IsLinkLocalUnicast() && l.Addresses[0].Bits() == 16 {
				return l.Addresses[0].String()
			}
			return ""
		}
		has := func(s Status) bool { return first(s) != "" }
		s := w.until("link-local", has)
		was := first(s)
		if s.link("eth0").State != "dhcp: searching, link-local" || s.link("eth0").Preferred {
			t.Errorf("%+v", s)
		}
		w.hasRoutes("169.254.0.0/16 dev eth0 metric 100")
		d := w.dhcp("eth0", "10.0.0.1", lends("10.0.0.9/24", 3600))
		w.until("a lease", bound("eth0", "10.0.0.9/24"))
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100")
		d.now(isSilent)

		// The method of that name has nothing else, and the same address.
		w.Apply(network(entry("eth0", config.LinkLocal)))
		s = w.until("link-local", has)
		if now := first(s); now != was || s.link("eth0").State != "link-local" {
			t.Errorf("%s, before %s: %+v", now, was, s)
		}
		// But another if that is taken.
		w.server.pull("eth0")
		w.until("nothing", func(s Status) bool { return s.link("eth0").has() })
		w.server.addAddress("eth0", was)
		w.server.plug("eth0")
		s = w.until("link-local", has)
		if first(s) == was {
			t.Errorf("has %s of another machine", was)
		}
		was = first(s)
		o := w.other("eth0")
		a := strings.TrimSuffix(was, "/16")
		o.says(a)
		o.says(a)
		w.until("another one", func(s Status) bool { return has(s) && first(s) != was })
	})
}

// Links come and go.
func TestHotplug(t *testing.T) {
	story(t, func(w *world) {
		w.Apply(network(entry("usb*", ""), entry("eth0", "")))
		w.run()
		w.until("absent", func(s Status) bool { return len(s.Links) == 1 && s.link("eth0").State == "absent" })
		w.cable("eth1", "10.1.0.1/24") // not ours
		for range 3 {
			w.cable("usb0", "10.0.0.1/24")
			w.dhcp("usb0", "10.0.0.1", lends("10.0.0.9/24", 3600, router("10.0.0.1")))
			w.until("bound", bound("usb0", "10.0.0.9/24"))
			l, err := netlink.LinkByName("usb0")
			w.must(err)
			w.must(netlink.LinkDel(l))
			w.until("gone", func(s Status) bool { return len(s.Links) == 1 })
		}
		l, err := netlink.LinkByName("eth1")
		w.must(err)
		if l.Attrs().RawFlags&unix.IFF_UP != 0 {
			t.Error("eth1 is up")
		}
		w.must(netlink.LinkSetName(l, "eth0"))
		w.dhcp("eth1", "10.1.0.1", lends("10.1.0.9/24", 3600))
		w.until("renamed", bound("eth0", "10.1.0.9/24"))
		// Somebody takes it down.
		w.must(netlink.LinkSetDown(l))
		w.until("up again", func(s Status) bool { return !s.link("eth0").has("10.1.0.9/24") || !s.link("eth0").Carrier })
		w.until("bound again", bound("eth0", "10.1.0.9/24"))
	})
}

// The kernel's router advertisements, sent by a real dnsmasq.
func TestSLAAC(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "2001:db8:1::1/64")
		w.cable("eth1", "2001:db8:2::1/64")
		// The kernel forgets a router that says it is none when it is looked for.
		w.server.do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) })
		w.dnsmasq("--interface=eth0", "--interface=eth1", "--enable-ra", "--dhcp-range=2001:db8:1::,ra-only", "--dhcp-range=2001:db8:2::,ra-only", "--ra-param=*,4,600")
		e0, e1 := entry("eth0", config.Off), entry("eth1", config.Off)
		e0.IPv6, e1.IPv6 = "", config.Auto
		w.Apply(network(e1, e0))
		w.run()
		has := func(name, prefix string) func(Status) bool {
			return func(s Status) bool {
				l := s.link(name)
				return len(l.Addresses) == 1 && netip.MustParsePrefix(prefix).Contains(l.Addresses[0].Addr()) && l.Gateway6.IsValid()
			}
		}
		w.until("address of eth0", has("eth0", "2001:db8:1::/64"))
		s := w.until("address of eth1", has("eth1", "2001:db8:2::/64"))
		if !s.link("eth1").Preferred {
			t.Errorf("%+v", s)
		}
		metric := func(name string) int {
			l, err := netlink.LinkByName(name)
			w.must(err)
			list, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_OIF)
			w.must(err)
			for _, n := range list {
				if r := toRoute(n); r.to == default6 {
					return r.metric
				}
			}
			return -1
		}
		if a, b := metric("eth0"), metric("eth1"); a != 200 || b != 100 {
			t.Errorf("metrics %d and %d", a, b)
		}
		// Without a carrier nothing is left, and with one all comes back soon:
		// a router is asked for.
		w.server.pull("eth1")
		s = w.until("nothing on eth1", func(s Status) bool { return len(s.link("eth1").Addresses) == 0 && !s.link("eth1").Gateway6.IsValid() })
		if !s.link("eth0").Preferred {
			t.Errorf("%+v", s)
		}
		w.server.addAddress("eth1", "2001:db8:2::1/64") // that it has lost
		w.server.plug("eth1")
		w.until("address of eth1", has("eth1", "2001:db8:2::/64"))
		e1.IPv6 = config.Off
		w.Apply(network(e1, e0))
		w.until("off", func(s Status) bool { return len(s.link("eth1").Addresses) == 0 && len(s.link("eth0").Addresses) == 1 })
		// An address in use is an error, until it is not.
		w.server.addAddress("eth1", "2001:db8:2::8/64")
		e1 = entry("eth1", config.Off, "2001:db8:2::8/64")
		w.Apply(network(e1, e0))
		w.until("conflict", func(s Status) bool { return s.link("eth1").Error == "2001:db8:2::8 is in use by another machine" })
	})
}

// VLANs are made on their parent, and removed.
func TestVLAN(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0")
		e := entry("lan", "")
		e.VLAN = &config.VLAN{Parent: "eth0", ID: 42}
		w.Apply(network(e))
		w.run()
		s := w.until("an answer of the kernel", func(s Status) bool { return s.link("lan").Up || s.link("lan").Error != "" })
		if strings.Contains(s.link("lan").Error, "not supported") {
			// The rest goes on nevertheless.
			w.Apply(network(e, entry("eth0", config.Static, "10.0.0.5/24")))
			w.until("static", func(s Status) bool { return s.link("eth0").has("10.0.0.5/24") })
			t.Skip("the kernel has no VLANs (module 8021q)")
		}
		w.server.do(func() error {
			parent, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			a := netlink.NewLinkAttrs()
			a.Name, a.ParentIndex = "vlan42", parent.Attrs().Index
			return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: 42})
		})
		w.server.addAddress("vlan42", "10.42.0.1/24")
		w.server.plug("vlan42")
		w.dhcp("vlan42", "10.42.0.1", lends("10.42.0.9/24", 3600))
		s = w.until("bound", bound("lan", "10.42.0.9/24"))
		if p := s.link("eth0"); !p.Up || len(p.Addresses) != 0 {
			t.Errorf("parent: %+v", p)
		}
		// The parent comes back, and so does the VLAN.
		l, err := netlink.LinkByName("eth0")
		w.must(err)
		w.must(netlink.LinkDel(l))
		w.until("absent", func(s Status) bool { return s.link("lan").State == "absent" })
		w.cable("eth0")
		w.until("there again", func(s Status) bool { return s.link("lan").Up })
		// Another ID is another VLAN.
		e.VLAN = &config.VLAN{Parent: "eth0", ID: 43}
		w.Apply(network(e))
		w.until("another ID", func(s Status) bool {
			l, err := netlink.LinkByName("lan")
			return err == nil && l.(*netlink.Vlan).VlanId == 43 && s.link("lan").Up
		})
		w.Apply(network(entry("eth0", config.Off)))
		w.until("removed", func(Status) bool { _, err := netlink.LinkByName("lan"); return err != nil })
	})
}

// A server, or an attacker, that sends what it likes.
func TestHostile(t *testing.T) {
	story(t, func(w *world) {
		w.cable("eth0", "10.0.0.1/24")
		turn := 0
		bad := []func(m, reply *dhcpv4.DHCPv4) bool{
			refuses,
			lends("0.0.0.0/24", 60),
			lends("255.255.255.255/24", 60),
			lends("10.0.0.0/24", 60),
			lends("127.0.0.1/8", 60),
			lends("224.0.0.1/4", 60),
			func(m, reply *dhcpv4.DHCPv4) bool {
				lends("10.0.0.9/24", 60)(m, reply)
				reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionSubnetMask, []byte{255, 0, 255, 0}))
				return true
			},
			func(m, reply *dhcpv4.DHCPv4) bool {
				lends("10.0.0.9/24", 60)(m, reply)
				reply.Options.Del(dhcpv4.OptionServerIdentifier)
				return m.MessageType() == dhcpv4.MessageTypeDiscover
			},
		}
		d := w.dhcp("eth0", "10.0.0.1", nil)
		d.now(func(m, reply *dhcpv4.DHCPv4) bool {
			// Many answers to each question.
			for range 200 {
				turn++
				r := *reply
				r.Options = dhcpv4.Options{}
				for k, v := range reply.Options {
					r.Options[k] = v
				}
				if m.MessageType() == dhcpv4.MessageTypeDiscover && bad[turn%len(bad)](m, &r) {
					raw := r.ToBytes()
					if turn%3 == 0 {
						raw = raw[:240+turn%40]
					}
					d.conn.WriteTo(raw, &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
				}
			}
			return false
		})
		w.Apply(network(entry("eth0", "")))
		w.run()
		s := w.until("link-local", func(s Status) bool { return len(s.link("eth0").Addresses) == 1 })
		if s.link("eth0").State != "dhcp: searching, link-local" {
			t.Errorf("%+v", s)
		}
		// Nonsense around a good address.
		d.now(lends("10.0.0.9/24", 0, router("10.0.0.9"),
			dhcpv4.OptRenewTimeValue(time.Hour), dhcpv4.OptRebindingTimeValue(time.Second),
			dhcpv4.OptHostName("a;b"), dhcpv4.OptDNS(net.IPv4zero, net.IPv4bcast), dhcpv4.OptNTPServers(net.IPv4(224, 0, 0, 1)),
			dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 20}),
			dhcpv4.OptGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{24, 1}),
			dhcpv4.OptGeneric(dhcpv4.OptionDNSDomainSearchList, []byte{3, 'a', '\n', 'b', 0, 0xc0, 0})))
		s = w.until("bound", bound("eth0", "10.0.0.9/24"))
		if s.Hostname != "" || len(s.DNS) != 0 || len(s.NTP) != 0 || s.link("eth0").Gateway.IsValid() {
			t.Errorf("%+v", s)
		}
		w.hasRoutes("10.0.0.0/24 dev eth0 metric 100")
		// A lease of no time counts as one of 1 s: it is renewed every half.
		count := func() int { list, _ := d.got(dhcpv4.MessageTypeRequest); return len(list) }
		start, before := time.Now(), count()
		w.until("renewed", func(Status) bool { return count() >= before+4 })
		if n, d := count()-before, time.Since(start); d < time.Duration(n-1)*time.Second/3 {
			t.Errorf("renewed %d times in %v", n, d)
		}
	})
}

// A file that cannot be written, at first.
func TestRecovers(t *testing.T) {
	story(t, func(w *world) {
		path := w.o.ResolvConf
		w.must(os.Mkdir(path, 0o755))
		w.cable("eth0", "10.0.0.1/24")
		w.Apply(network(entry("eth0", config.Static, "10.0.0.5/24")))
		w.run()
		w.until("static", func(s Status) bool { return s.link("eth0").has("10.0.0.5/24") })
		w.must(os.Remove(path))
		w.until("resolv.conf", func(Status) bool { _, err := os.Stat(path); return err == nil })
		// Not written again when nothing has changed.
		before, err := os.Stat(path)
		w.must(err)
		w.poke()
		time.Sleep(200 * time.Millisecond)
		if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
			t.Error("written again", err)
		}
		// Odd configurations do no harm.
		w.Apply(network(
			config.Link{Name: "[", IPv4: "what"}, config.Link{}, config.Link{Name: "lo"}, config.Link{Name: "*", IPv4: config.Static},
			config.Link{Name: "v", VLAN: &config.VLAN{}}, config.Link{Name: "v2", VLAN: &config.VLAN{Parent: "v2"}}, config.Link{Name: "lo", VLAN: &config.VLAN{Parent: "lo", ID: 1}},
		))
		w.until("odd", func(s Status) bool { return s.link("eth0").State == "static" && s.link("eth0").has() })
		time.Sleep(300 * time.Millisecond)
		w.Apply(network(entry("eth0", config.Static, "10.0.0.6/24")))
		w.until("good again", func(s Status) bool { return s.link("eth0").has("10.0.0.6/24") })
	})
}
