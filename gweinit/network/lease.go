package network

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/exosite/gwe/gweinit/config"
)

// lease is an address with what a DHCP server says about its network. It does
// not change any more once it is made.
type lease struct {
	prefix   netip.Prefix
	server   netip.Addr // not valid if the server did not say
	routes   []hop
	dns      []netip.Addr
	ntp      []netip.Addr
	search   []string // domains
	hostname string
	mtu      int // 0: the link's

	asked  time.Time     // when the client asked for it: the times count from there
	length time.Duration // or forever
	t1, t2 time.Duration // renew, rebind
}

// hop says where packets to a network go; without a gateway to the link.
type hop struct {
	to      netip.Prefix
	gateway netip.Addr
}

const forever = time.Duration(math.MaxInt64)

// What a server may send of these; more is left out.
const (
	maxServers = 4
	maxRoutes  = 64
	maxSearch  = 6

	// maxSearchSize is that of the search list in bytes. One that fills a
	// message can be packed so that it takes 40 ms of a PC to unpack.
	maxSearchSize = 512
)

var (
	default4  = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// parseLease returns the lease in an OFFER or ACK that came for a question from
// that time. The times in it are at least shortest: some servers and all
// attackers send ones with which the client would do nothing but renew.
func parseLease(m *dhcpv4.DHCPv4, asked time.Time, shortest time.Duration) (*lease, error) {
	addr := toAddr(m.YourIPAddr)
	if !isHost(addr) {
		return nil, fmt.Errorf("%v is no address for a host", m.YourIPAddr)
	}
	bits, err := maskBits(m.Options.Get(dhcpv4.OptionSubnetMask), addr)
	if err != nil {
		return nil, err
	}
	l := &lease{prefix: netip.PrefixFrom(addr, bits), asked: asked}
	if bits < 31 && (addr == l.prefix.Masked().Addr() || addr == lastAddr(l.prefix)) {
		return nil, fmt.Errorf("%v is the address of a network", l.prefix)
	}
	if a := toAddr(m.ServerIdentifier()); isHost(a) && a != addr {
		l.server = a
	}
	l.routes = parseRoutes(m, l.prefix)
	l.dns = hosts(m.DNS())
	l.ntp = hosts(m.NTPServers())
	l.search = parseSearch(m)
	if name := cleanName(m.HostName()); len(name) <= 64 && name != "localhost" {
		l.hostname = name
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, m.Options); err == nil && mtu >= 576 {
		l.mtu = int(mtu)
	}
	l.length, l.t1, l.t2 = leaseTimes(m, shortest)
	return l, nil
}

// leaseTimes returns the time of a lease, and T1 and T2 (RFC 2131, section
// 4.4.5) so that they are in order.
func leaseTimes(m *dhcpv4.DHCPv4, shortest time.Duration) (length, t1, t2 time.Duration) {
	const unsaid = time.Hour
	length = m.IPAddressLeaseTime(unsaid)
	if length == dhcpv4.MaxLeaseTime {
		return forever, forever, forever
	}
	length = max(length, shortest)
	t1, t2 = m.IPAddressRenewalTime(0), m.IPAddressRebindingTime(0)
	if t1 < shortest/2 || t1 >= t2 || t2 >= length {
		t1, t2 = length/2, length/8*7
	}
	return length, t1, t2
}

// expired says whether the lease has ended.
func (l *lease) expired() bool {
	return l.length != forever && time.Since(l.asked) >= l.length
}

// left is the time until d after the question; it may be negative.
func (l *lease) left(d time.Duration) time.Duration {
	if d == forever {
		return forever
	}
	return time.Until(l.asked.Add(d))
}

// gateway returns the gateway of the default route, if there is one.
func (l *lease) gateway() netip.Addr {
	for _, h := range l.routes {
		if h.to.Bits() == 0 {
			return h.gateway
		}
	}
	return netip.Addr{}
}

// maskBits reads a subnet mask; without one the address has that of its class
// (RFC 950).
func maskBits(mask []byte, a netip.Addr) (int, error) {
	if len(mask) != 4 {
		switch first := a.As4()[0]; {
		case first < 128:
			return 8, nil
		case first < 192:
			return 16, nil
		}
		return 24, nil
	}
	ones, bits := net.IPMask(mask).Size()
	if bits == 0 || ones == 0 {
		return 0, fmt.Errorf("%v is no subnet mask", net.IP(mask))
	}
	return ones, nil
}

// parseRoutes returns the classless static routes, else the default route: RFC
// 3442. The network of the lease itself is not among them.
func parseRoutes(m *dhcpv4.DHCPv4, own netip.Prefix) []hop {
	var classless dhcpv4.Routes
	if raw := m.Options.Get(dhcpv4.OptionClasslessStaticRoute); raw != nil && classless.FromBytes(raw) == nil && len(classless) > 0 {
		var hops []hop
		for _, r := range classless {
			bits, _ := r.Dest.Mask.Size()
			h := hop{to: netip.PrefixFrom(toAddr(r.Dest.IP), bits).Masked(), gateway: toAddr(r.Router)}
			if h.gateway.IsUnspecified() { // the destination is on the link
				h.gateway = netip.Addr{}
			} else if !isHost(h.gateway) || h.gateway == own.Addr() {
				continue
			}
			if bits > 0 && !isHost(h.to.Addr()) || h.to == own.Masked() || len(hops) == maxRoutes {
				continue
			}
			hops = append(hops, h)
		}
		return hops
	}
	for _, ip := range m.Router() {
		if gw := toAddr(ip); isHost(gw) && gw != own.Addr() {
			return []hop{{to: default4, gateway: gw}}
		}
	}
	return nil
}

// parseSearch returns the domains to look up names in: the search list (RFC
// 3397), else the domain name.
func parseSearch(m *dhcpv4.DHCPv4) []string {
	names := strings.Fields(m.DomainName()) // some servers put several into it
	if len(m.Options.Get(dhcpv4.OptionDNSDomainSearchList)) <= maxSearchSize {
		if list := m.DomainSearch(); list != nil {
			names = list.Labels
		}
	}
	var search []string
	for _, name := range names {
		if name = cleanName(name); name != "" && len(search) < maxSearch {
			search = append(search, name)
		}
	}
	return search
}

// cleanName returns a host or domain name without a final dot if it is one,
// else "": names from the network get into files and reports.
func cleanName(s string) string {
	s = strings.TrimSuffix(strings.TrimRight(s, "\x00"), ".")
	if !config.IsHostname(s) {
		return ""
	}
	return s
}

// hosts returns the first addresses that can be servers.
func hosts(ips []net.IP) []netip.Addr {
	var list []netip.Addr
	for _, ip := range ips {
		if a := toAddr(ip); isHost(a) && len(list) < maxServers {
			list = append(list, a)
		}
	}
	return list
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// isHost says whether a can be the IPv4 address of a machine in a network.
func isHost(a netip.Addr) bool {
	return a.Is4() && a.As4()[0] != 0 && a.As4()[0] < 224 && !a.IsLoopback()
}

// lastAddr is the broadcast address of a network.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}
