package network

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// ack is an answer with an address, and these options.
func ack(options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{YourIPAddr: net.IPv4(10, 0, 0, 9).To4(), Options: dhcpv4.Options{}}
	for _, o := range options {
		m.UpdateOption(o)
	}
	return m
}

// from returns the message with another address.
func from(m *dhcpv4.DHCPv4, address string) *dhcpv4.DHCPv4 {
	m.YourIPAddr = net.ParseIP(address).To4()
	return m
}

func raw(code dhcpv4.OptionCode, data string) dhcpv4.Option {
	return dhcpv4.OptGeneric(code, []byte(data))
}

func mask(bits int) dhcpv4.Option { return dhcpv4.OptSubnetMask(net.CIDRMask(bits, 32)) }

func TestParseLease(t *testing.T) {
	ip := func(last byte) net.IP { return net.IPv4(10, 0, 0, last).To4() }
	asked := time.Now()
	for _, tt := range []struct {
		name string
		m    *dhcpv4.DHCPv4
		want lease  // without its times
		err  string // instead
	}{
		{"nothing but an address", ack(), lease{prefix: netip.MustParsePrefix("10.0.0.9/8")}, ""},
		{"everything",
			ack(mask(24), router("10.0.0.1"), dhcpv4.OptServerIdentifier(ip(2)), dhcpv4.OptDNS(ip(3), ip(4)), dhcpv4.OptNTPServers(ip(5)),
				dhcpv4.OptDomainName("example.com"), dhcpv4.OptHostName("gw-17"), raw(dhcpv4.OptionInterfaceMTU, "\x05\x78")),
			lease{
				prefix: netip.MustParsePrefix("10.0.0.9/24"), server: netip.MustParseAddr("10.0.0.2"), routes: []hop{{default4, testServer}},
				dns: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.4")}, ntp: []netip.Addr{netip.MustParseAddr("10.0.0.5")},
				search: []string{"example.com"}, hostname: "gw-17", mtu: 1400,
			}, ""},
		{"nothing of use",
			ack(mask(24), router("10.0.0.9"), dhcpv4.OptServerIdentifier(ip(9)), dhcpv4.OptDNS(net.IPv4zero, net.IPv4bcast, net.IPv4(127, 0, 0, 1)),
				dhcpv4.OptNTPServers(net.IPv4(224, 0, 1, 1)), dhcpv4.OptDomainName("\n"), dhcpv4.OptHostName("localhost"), raw(dhcpv4.OptionInterfaceMTU, "\x02\x3f")),
			lease{prefix: netip.MustParsePrefix("10.0.0.9/24")}, ""},
		{"options of wrong sizes",
			ack(raw(dhcpv4.OptionSubnetMask, "\xff\xff"), raw(dhcpv4.OptionRouter, "\x0a"), raw(dhcpv4.OptionServerIdentifier, "abc"), raw(dhcpv4.OptionDomainNameServer, ""),
				raw(dhcpv4.OptionNTPServers, "12345"), raw(dhcpv4.OptionInterfaceMTU, "x"), raw(dhcpv4.OptionIPAddressLeaseTime, "x"), raw(dhcpv4.OptionHostName, "")),
			lease{prefix: netip.MustParsePrefix("10.0.0.9/8")}, ""},
		{"more servers than we take", ack(mask(24), dhcpv4.OptDNS(ip(1), ip(2), ip(3), ip(4), ip(5))),
			lease{prefix: netip.MustParsePrefix("10.0.0.9/24"), dns: []netip.Addr{testServer, netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.4")}}, ""},
		{"a host name that is too long", ack(mask(24), dhcpv4.OptHostName(strings.Repeat("a.", 32)+"a")), lease{prefix: netip.MustParsePrefix("10.0.0.9/24")}, ""},
		{"the first address of two", from(ack(mask(31)), "10.0.0.8"), lease{prefix: netip.MustParsePrefix("10.0.0.8/31")}, ""},
		{"the only address", ack(mask(32)), lease{prefix: netip.MustParsePrefix("10.0.0.9/32")}, ""},
		{"no address", from(ack(), ""), lease{}, "<nil> is no address for a host"},
		{"unspecified", from(ack(mask(24)), "0.0.0.0"), lease{}, "0.0.0.0 is no address for a host"},
		{"loopback", from(ack(mask(8)), "127.0.0.1"), lease{}, "127.0.0.1 is no address for a host"},
		{"multicast", from(ack(mask(24)), "224.0.0.1"), lease{}, "224.0.0.1 is no address for a host"},
		{"broadcast", from(ack(mask(24)), "255.255.255.255"), lease{}, "255.255.255.255 is no address for a host"},
		{"the network", from(ack(mask(24)), "10.0.0.0"), lease{}, "10.0.0.0/24 is the address of a network"},
		{"the broadcast address of the network", from(ack(mask(29)), "10.0.0.15"), lease{}, "10.0.0.15/29 is the address of a network"},
		{"a mask with a hole", ack(raw(dhcpv4.OptionSubnetMask, "\xff\x00\xff\x00")), lease{}, "255.0.255.0 is no subnet mask"},
	} {
		got, err := parseLease(tt.m, asked, time.Minute)
		if err != nil {
			if err.Error() != tt.err || got != nil {
				t.Errorf("%s: got %+v, %v, want %q", tt.name, got, err, tt.err)
			}
			continue
		}
		tt.want.asked, tt.want.length, tt.want.t1, tt.want.t2 = asked, time.Hour, time.Hour/2, time.Hour/8*7
		if tt.err != "" || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: got\n%+v, want\n%+v\n%s", tt.name, *got, tt.want, tt.err)
		}
	}
}

func TestLeaseTimes(t *testing.T) {
	const s, unsaid = time.Second, -1
	for _, tt := range []struct {
		name           string
		length, t1, t2 time.Duration // in the message
		want           [3]time.Duration
	}{
		{"all", 3600 * s, 1000 * s, 2000 * s, [3]time.Duration{3600 * s, 1000 * s, 2000 * s}},
		{"only the length", 3600 * s, unsaid, unsaid, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"nothing", unsaid, unsaid, unsaid, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"only T1", 3600 * s, 1000 * s, unsaid, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"only T2", 3600 * s, unsaid, 2000 * s, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"T1 after T2", 3600 * s, 2000 * s, 1000 * s, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"T1 is T2", 3600 * s, 2000 * s, 2000 * s, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"T2 is the end", 3600 * s, 1000 * s, 3600 * s, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"T2 after the end", 3600 * s, 1000 * s, 4000 * s, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"T1 at once", 3600 * s, s, 2000 * s, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"T1 for ever", 3600 * s, dhcpv4.MaxLeaseTime, dhcpv4.MaxLeaseTime, [3]time.Duration{3600 * s, 1800 * s, 3150 * s}},
		{"a lease of 0", 0, unsaid, unsaid, [3]time.Duration{60 * s, 30 * s, 52500 * time.Millisecond}},
		{"all 0", 0, 0, 0, [3]time.Duration{60 * s, 30 * s, 52500 * time.Millisecond}},
		{"tiny", 10 * s, 5 * s, 8 * s, [3]time.Duration{60 * s, 30 * s, 52500 * time.Millisecond}},
		{"short, with its own times", 80 * s, 30 * s, 70 * s, [3]time.Duration{80 * s, 30 * s, 70 * s}},
		{"infinite", dhcpv4.MaxLeaseTime, 1000 * s, 2000 * s, [3]time.Duration{forever, forever, forever}},
		{"nearly infinite", dhcpv4.MaxLeaseTime - s, unsaid, unsaid,
			[3]time.Duration{dhcpv4.MaxLeaseTime - s, (dhcpv4.MaxLeaseTime - s) / 2, (dhcpv4.MaxLeaseTime - s) / 8 * 7}},
	} {
		m := ack()
		for i, o := range []dhcpv4.Option{dhcpv4.OptIPAddressLeaseTime(tt.length), dhcpv4.OptRenewTimeValue(tt.t1), dhcpv4.OptRebindingTimeValue(tt.t2)} {
			if []time.Duration{tt.length, tt.t1, tt.t2}[i] != unsaid {
				m.UpdateOption(o)
			}
		}
		length, t1, t2 := leaseTimes(m, time.Minute)
		if got := [3]time.Duration{length, t1, t2}; got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestMaskBits(t *testing.T) {
	for _, tt := range []struct{ mask, address, want string }{
		{"\xff\xff\xff\x00", "10.0.0.9", "24"},
		{"\xff\xff\xff\xff", "10.0.0.9", "32"},
		{"\x80\x00\x00\x00", "10.0.0.9", "1"},
		{"\x00\x00\x00\x00", "10.0.0.9", "0.0.0.0 is no subnet mask"},
		{"\xff\x00\xff\x00", "10.0.0.9", "255.0.255.0 is no subnet mask"},
		{"\x00\xff\xff\xff", "10.0.0.9", "0.255.255.255 is no subnet mask"},
		{"", "10.0.0.9", "8"},
		{"\xff\xff\xff", "127.255.255.255", "8"},
		{"\xff\xff\xff\x00\x00", "128.0.0.1", "16"},
		{"", "191.255.0.1", "16"},
		{"", "192.0.2.1", "24"},
	} {
		bits, err := maskBits([]byte(tt.mask), netip.MustParseAddr(tt.address))
		got := fmt.Sprint(bits)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("% x, %s: got %s, want %s", tt.mask, tt.address, got, tt.want)
		}
	}
}

func TestParseRoutes(t *testing.T) {
	own := netip.MustParsePrefix("10.0.0.9/24")
	const viaRouter = "0.0.0.0/0 by 10.0.0.254"
	for _, tt := range []struct{ name, classless, want string }{
		{"none", "", viaRouter},
		{"default", "\x00\x0a\x00\x00\x01", "0.0.0.0/0 by 10.0.0.1"},
		{"default on the link", "\x00\x00\x00\x00\x00", "0.0.0.0/0 by invalid IP"},
		{"no default", "\x08\xac\x0a\x00\x00\x01", "172.0.0.0/8 by 10.0.0.1"},
		{"all sizes of a destination", "\x0c\xac\x10\x0a\x00\x00\x01" + "\x18\xc6\x33\x64\x0a\x00\x00\x02" + "\x20\xc0\x00\x02\x07\x00\x00\x00\x00" + "\x00\xc0\x00\x02\x07",
			"172.16.0.0/12 by 10.0.0.1, 198.51.100.0/24 by 10.0.0.2, 192.0.2.7/32 by invalid IP, 0.0.0.0/0 by 192.0.2.7"},
		{"bits after the mask", "\x0c\xac\x1f\x0a\x00\x00\x01", "172.16.0.0/12 by 10.0.0.1"},
		{"our own network", "\x18\x0a\x00\x00\x00\x00\x00\x00", ""},
		{"by ourselves", "\x00\x0a\x00\x00\x09", ""},
		{"by nobody", "\x00\xff\xff\xff\xff\x00\x7f\x00\x00\x01", ""},
		{"to where nobody is", "\x04\xe0\x0a\x00\x00\x01\x08\x7f\x0a\x00\x00\x01\x08\x00\x0a\x00\x00\x01", ""},
		{"a mask that is too long", "\x21\x0a\x00\x00\x00\x00\x0a\x00\x00\x01", viaRouter},
		{"cut off", "\x00\x0a\x00\x00\x01\x00\x0a", viaRouter},
		{"too many", strings.Repeat("\x18\xc6\x33\x64\x0a\x00\x00\x02", maxRoutes+1), strings.TrimSuffix(strings.Repeat("198.51.100.0/24 by 10.0.0.2, ", maxRoutes), ", ")},
	} {
		m := ack(dhcpv4.OptRouter(net.IPv4zero, net.IPv4(10, 0, 0, 9), net.IPv4(10, 0, 0, 254), net.IPv4(10, 0, 0, 253)))
		if tt.classless != "" {
			m.UpdateOption(raw(dhcpv4.OptionClasslessStaticRoute, tt.classless))
		}
		var got []string
		for _, h := range parseRoutes(m, own) {
			got = append(got, fmt.Sprintf("%v by %v", h.to, h.gateway))
		}
		if got := strings.Join(got, ", "); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestParseSearch(t *testing.T) {
	for _, tt := range []struct{ name, domain, list, want string }{
		{"nothing", "", "", ""},
		{"a domain", "example.com", "", "example.com"},
		{"one with a NUL", "example.com\x00", "", "example.com"},
		{"several", " a.example b.example\tlan", "", "a.example b.example lan"},
		{"injected", "a.example\nnameserver 6.6.6.6", "", "a.example nameserver"},
		{"some of no use", "bad;rm.example bad_one good.example", "", "good.example"},
		{"a list", "example.com", "\x01a\x07example\x00\x01b\xc0\x02", "a.example b.example"},
		{"a list with what is not in names", "", "\x03a\nb\x00\x01a\x00", "a"},
		{"blanks in a label", "", "\x03a b\x00", ""},
		{"a circle", "example.com", "\x01a\xc0\x00", "example.com"},
		{"a list that is cut off", "example.com", "\x09a", "example.com"},
		{"too many", "a b c d e f g", "", "a b c d e f"},
		{"a list that unpacks to very much", "example.com", strings.Repeat("\x01a", 350) + "\x00" + strings.Repeat("\xc0\x00", 400), "example.com"},
	} {
		m := ack(dhcpv4.OptDomainName(tt.domain))
		if tt.list != "" {
			m.UpdateOption(raw(dhcpv4.OptionDNSDomainSearchList, tt.list))
		}
		if got := strings.Join(parseSearch(m), " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCleanName(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, label[:61]}, ".") // 253 characters
	for _, tt := range []struct{ name, want string }{
		{"gw-17", "gw-17"}, {"GW.Example.com", "GW.Example.com"}, {"example.com.", "example.com"}, {"gw\x00\x00", "gw"},
		{"3com.example", "3com.example"}, {label, label}, {long, long}, {long + ".", long},
		{"", ""}, {".", ""}, {"\x00", ""}, {"a..", ""}, {"a..b", ""}, {".a", ""}, {"-a", ""}, {"a-", ""}, {"a.-b", ""},
		{"a_b", ""}, {"a b", ""}, {"a\nb", ""}, {"a\x00b", ""}, {"a;b", ""}, {"*.example", ""}, {"ä", ""}, {"a/b", ""}, {"@a", ""}, {"[a", ""},
		{"10.0.0.1", ""}, {"a.1", ""}, {"17", ""}, {label + "a", ""}, {long + "a", ""},
	} {
		if got := cleanName(tt.name); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestLastAddr(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.0.0.9/24": "10.0.0.255", "10.0.0.9/29": "10.0.0.15", "10.0.0.9/32": "10.0.0.9", "10.0.0.9/8": "10.255.255.255", "10.0.0.9/1": "127.255.255.255",
	} {
		if got := lastAddr(netip.MustParsePrefix(prefix)).String(); got != want {
			t.Errorf("%s: got %s, want %s", prefix, got, want)
		}
	}
}

func FuzzLease(f *testing.F) {
	for _, m := range []*dhcpv4.DHCPv4{
		ack(),
		ack(mask(24), router("10.0.0.1"), dhcpv4.OptServerIdentifier(toIP(testServer)), dhcpv4.OptDNS(toIP(testServer)), dhcpv4.OptNTPServers(toIP(testServer)),
			dhcpv4.OptDomainName("a.example b.example"), dhcpv4.OptHostName("gw-17"), raw(dhcpv4.OptionInterfaceMTU, "\x05\x78"),
			dhcpv4.OptIPAddressLeaseTime(time.Hour), dhcpv4.OptRenewTimeValue(time.Minute), dhcpv4.OptRebindingTimeValue(time.Hour/2)),
		ack(raw(dhcpv4.OptionClasslessStaticRoute, "\x0c\xac\x10\x0a\x00\x00\x01\x00\x00\x00\x00\x00"), raw(dhcpv4.OptionDNSDomainSearchList, "\x01a\x07example\x00\x01b\xc0\x02"),
			dhcpv4.OptIPAddressLeaseTime(dhcpv4.MaxLeaseTime)),
	} {
		f.Add([]byte(m.YourIPAddr), m.Options.ToBytes())
	}
	f.Fuzz(func(t *testing.T, address, options []byte) {
		m := &dhcpv4.DHCPv4{YourIPAddr: address, Options: dhcpv4.Options{}}
		if m.Options.FromBytes(options) != nil {
			return
		}
		l, err := parseLease(m, time.Now(), time.Minute)
		if err != nil {
			if l != nil {
				t.Errorf("%+v, %v", l, err)
			}
			return
		}
		own := l.prefix.Addr()
		if !l.prefix.IsValid() || l.prefix.Bits() == 0 || !isHost(own) || l.prefix.Bits() < 31 && own == l.prefix.Masked().Addr() {
			t.Errorf("prefix %v", l.prefix)
		}
		if l.length != forever && l.length < time.Minute || l.t1 < time.Minute/2 || l.length != forever && !(l.t1 < l.t2 && l.t2 < l.length) {
			t.Errorf("times %v, %v, %v", l.t1, l.t2, l.length)
		}
		if l.expired() || l.left(l.t1) <= 0 {
			t.Errorf("over from the start: %v, %v", l.length, l.t1)
		}
		if len(l.dns) > maxServers || len(l.ntp) > maxServers || len(l.routes) > maxRoutes || len(l.search) > maxSearch {
			t.Errorf("too much: %+v", l)
		}
		others := slices.Concat(l.dns, l.ntp)
		if l.server.IsValid() {
			others = append(others, l.server)
		}
		for _, h := range l.routes {
			if h.gateway.IsValid() {
				others = append(others, h.gateway)
			}
			if h.to != h.to.Masked() || !h.to.Addr().Is4() || h.gateway == own || h.to == l.prefix.Masked() {
				t.Errorf("route to %v by %v", h.to, h.gateway)
			}
		}
		for _, a := range others {
			if !isHost(a) {
				t.Errorf("%v is no host", a)
			}
		}
		if len(l.hostname) > 64 || l.mtu != 0 && l.mtu < 576 {
			t.Errorf("host name %q, MTU %d", l.hostname, l.mtu)
		}
		for _, name := range append(l.search, l.hostname) {
			if strings.Trim(name, "-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || len(name) > 253 {
				t.Errorf("name %q", name)
			}
		}
		// Nothing gets into resolv.conf that has no place there.
		lines := strings.Split(string(resolvConf(l.dns, l.search)), "\n")
		want := 3 + len(l.dns)
		if len(l.search) > 0 {
			want++
		}
		if len(lines) != want {
			t.Errorf("%q", lines)
		}
	})
}
