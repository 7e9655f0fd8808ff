package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// How much a network.yaml may have.
const (
	maxLinks     = 16
	maxAddresses = 16
	maxServers   = 8
)

// ParseNetwork reads network.yaml, strictly: unknown keys, values that cannot
// work and all of YAML that is not needed are errors. The error is an *Error.
// A document that is empty or has comments only is the zero Network.
func ParseNetwork(text []byte) (Network, error) {
	var doc document
	var n Network
	if root := doc.open(text); root != nil {
		n = readNetwork(field{&doc, root, ""})
	}
	if err := doc.err(); err != nil {
		return Network{}, err
	}
	return n, nil
}

func readNetwork(f field) (n Network) {
	o := f.object("hostname", "links", "dns", "fallback_dns", "ntp")
	if f, ok := o["hostname"]; ok {
		n.Hostname = f.checked(func(s string) bool { return len(s) <= 64 && IsHostname(s) },
			"a host name (RFC 1123, at most 64 characters), such as gateway-17")
	}
	if f, ok := o["links"]; ok {
		n.Links = readLinks(f)
	}
	if f, ok := o["dns"]; ok {
		n.DNS = readServers(f, readDNS)
	}
	if f, ok := o["fallback_dns"]; ok {
		n.FallbackDNS = readServers(f, readDNS)
	}
	if f, ok := o["ntp"]; ok {
		n.NTP = readServers(f, func(f field) string {
			return f.checked(isTimeServer, "a host name or an address, such as pool.ntp.org, with or without a port")
		})
	}
	return n
}

// readServers reads a list in which everything is to be there once.
func readServers[T comparable](f field, read func(field) T) []T {
	list := make([]T, 0, maxServers)
	seen := map[T]bool{}
	for _, f := range f.list(maxServers) {
		server := read(f)
		var none T
		if seen[server] && server != none {
			f.failf("%s is there twice", quote(f.node.Value))
		}
		seen[server] = true
		list = append(list, server)
	}
	return list
}

func readDNS(f field) netip.Addr {
	a := readAddr(f, "an address, such as 192.168.1.1")
	if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" {
		f.failf("%s is link-local and needs the link, as in %s%%eth0", quote(f.node.Value), a)
	}
	return a
}

// readAddr reads the address of another machine.
func readAddr(f field, what string) netip.Addr {
	s, ok := f.text()
	if !ok {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" && !(a.IsLinkLocalUnicast() && isLinkName(a.Zone())) {
		f.failf("%s is not %s", quote(s), what)
		return netip.Addr{}
	}
	if what := special(a); what != "" && !a.IsLoopback() {
		f.failf("%s is %s", quote(s), what)
	}
	return a
}

// special says what keeps an address from being one machine's in a network.
func special(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "the unspecified address"
	case a.IsLoopback():
		return "a loopback address"
	case a.IsMulticast():
		return "a multicast address"
	case a.Is4() && a.As4()[0] == 0:
		return "an address of \"this network\" (RFC 1122)"
	case a.Is4() && a.As4()[0] >= 240:
		return "a reserved address (RFC 1112)"
	}
	return ""
}

func readLinks(f field) []Link {
	links := []Link{}
	var names []field // beside links
	for _, f := range f.list(maxLinks) {
		link, name, ok := readLink(f)
		if !ok {
			continue
		}
		for i, earlier := range links {
			switch taken, _ := path.Match(earlier.Name, link.Name); {
			case earlier.Name == link.Name:
				name.failf("%s is there twice, first on line %d", quote(link.Name), names[i].node.Line)
			case taken && !isPattern(link.Name):
				name.failf("%s is taken by %s on line %d; put this entry before that", quote(link.Name), quote(earlier.Name), names[i].node.Line)
			default:
				continue
			}
			break
		}
		links, names = append(links, link), append(names, name)
	}
	parents := map[string]string{}
	for _, l := range links {
		if l.VLAN != nil {
			parents[l.Name] = l.VLAN.Parent
		}
	}
	for i, l := range links {
		at := l.Name
		for range links { // no way without a circle is longer
			if at = parents[at]; at == l.Name {
				names[i].failf("%s is a VLAN on itself in the end", quote(l.Name))
				break
			}
		}
	}
	return links
}

// readLink reads an entry, and returns where its name is. It is not ok without
// a name.
func readLink(f field) (l Link, name field, ok bool) {
	o := f.object("name", "vlan", "ipv4", "addresses", "gateway", "ipv6", "gateway6", "mtu")
	if o == nil {
		return Link{}, field{}, false
	}
	name, ok = o["name"]
	if !ok {
		f.failf("has no name")
	} else {
		l.Name = name.checked(isLinkPattern, "the name of a link, such as eth0 (at most 15 characters), or a pattern, such as eth*")
	}
	if f, ok := o["vlan"]; ok {
		l.VLAN = readVLAN(f, name, l.Name)
	}
	if f, ok := o["ipv4"]; ok {
		if l.IPv4 = f.oneOf(DHCP, Static, LinkLocal, Off); l.IPv4 == "" {
			l.IPv4 = Static // one error is enough: that allows everything
		}
	}
	if f, ok := o["ipv6"]; ok {
		l.IPv6 = f.oneOf(Auto, Off)
	}
	known := true // all the addresses are
	if f, ok := o["addresses"]; ok {
		l.Addresses, known = readAddresses(f, l)
	}
	has4 := slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() })
	if f, ok := o["ipv4"]; ok && f.node.Value == Static && !has4 && known {
		f.failf("static needs an IPv4 address in addresses, such as 192.168.1.5/24")
	}
	if f, ok := o["gateway"]; ok {
		l.Gateway = readAddr(f, "an IPv4 address, such as 192.168.1.1")
		switch {
		case l.Gateway.Is6():
			f.failf("%s is an IPv6 address; that belongs into gateway6", quote(f.node.Value))
		case l.IPv4 != Static:
			f.failf("only goes with ipv4: static")
		case l.Gateway.IsValid() && known && has4:
			checkGateway(f, l.Gateway, l.Addresses)
		}
	}
	if f, ok := o["gateway6"]; ok {
		l.Gateway6 = readAddr(f, "an IPv6 address, such as fe80::1")
		switch {
		case l.Gateway6.Is4():
			f.failf("%s is an IPv4 address; that belongs into gateway", quote(f.node.Value))
		case l.Gateway6.Zone() != "":
			f.failf("%s names a link; the gateway is always on this one", quote(f.node.Value))
		case l.IPv6 == Off:
			f.failf("does not go with ipv6: off")
		case l.Gateway6.IsValid() && known:
			checkGateway(f, l.Gateway6, l.Addresses)
		}
	}
	if f, ok := o["mtu"]; ok {
		l.MTU = f.number(68, 9216)
		if l.MTU != 0 && l.MTU < 1280 && l.IPv6 != Off {
			f.failf("IPv6 needs 1280 at least; %d goes with ipv6: off", l.MTU)
		}
	}
	return l, name, l.Name != ""
}

func readVLAN(f, name field, link string) *VLAN {
	o := f.object("parent", "id")
	if o == nil {
		return nil
	}
	v := &VLAN{}
	if p, ok := o["parent"]; ok {
		v.Parent = p.checked(isLinkName, "the name of a link, such as eth0 (at most 15 characters)")
	} else {
		f.failf("has no parent, the link that it is on")
	}
	if id, ok := o["id"]; ok {
		v.ID = id.number(1, 4094)
	} else {
		f.failf("has no id, its number from 1 to 4094")
	}
	if link != "" && isPattern(link) {
		name.failf("%s is a pattern; a VLAN needs a name of its own, such as %s.%d", quote(link), cmp.Or(v.Parent, "eth0"), max(v.ID, 1))
	}
	return v
}

// readAddresses reads the link's own addresses; they are not ok if one is
// wrong.
func readAddresses(f field, l Link) (list []netip.Prefix, ok bool) {
	before := len(f.doc.problems) + f.doc.more
	list = []netip.Prefix{}
	for _, f := range f.list(maxAddresses) {
		s, ok := f.text()
		if !ok {
			continue
		}
		p, err := netip.ParsePrefix(s)
		a := p.Addr()
		if err != nil || a.Is4In6() || p.Bits() == 0 {
			f.failf("%s is no address with a prefix length, such as 192.168.1.5/24", quote(s))
			continue
		}
		last := a.BitLen() - p.Bits() // the bits of the host
		switch what := special(a); {
		case what != "":
			f.failf("%s is %s", quote(s), what)
		case last > 1 && a == p.Masked().Addr():
			f.failf("%s is the network itself; give the link's own address in it", quote(s))
		case last > 1 && a == broadcast(p):
			f.failf("%s is the broadcast address of %s", quote(s), p.Masked())
		case a.Is4() && l.IPv4 != Static:
			f.failf("%s is an IPv4 address; that needs ipv4: static", quote(s))
		case a.Is6() && l.IPv6 == Off:
			f.failf("%s does not go with ipv6: off", quote(s))
		}
		for _, other := range list {
			if other.Addr() == a {
				f.failf("%s is there twice", quote(s))
				break
			}
		}
		list = append(list, p)
	}
	return list, len(f.doc.problems)+f.doc.more == before
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// checkGateway wants the gateway to be a neighbour.
func checkGateway(f field, gw netip.Addr, addresses []netip.Prefix) {
	if gw.IsLoopback() {
		f.failf("%s is a loopback address", quote(f.node.Value))
		return
	}
	within := gw.Is6() && gw.IsLinkLocalUnicast()
	var networks []string
	for _, p := range addresses {
		if p.Addr().Is4() != gw.Is4() {
			continue
		}
		if p.Addr() == gw {
			f.failf("%s is the link's own address", quote(f.node.Value))
			return
		}
		if last := gw.BitLen() - p.Bits(); last > 1 && (gw == p.Masked().Addr() && gw.Is4() || gw == broadcast(p)) {
			f.failf("%s is no machine's address in %s", quote(f.node.Value), p.Masked())
			return
		}
		within = within || p.Contains(gw)
		networks = append(networks, p.Masked().String())
	}
	switch {
	case within:
	case networks == nil:
		f.failf("%s is in no network that this link has an address in", quote(f.node.Value))
	default:
		f.failf("%s is not in the link's network, %s", quote(f.node.Value), strings.Join(networks, ", "))
	}
}

// IsHostname says whether s is a host name: RFC 1123, section 2.1. Names that
// end in a number are not, since many programs read them as an address.
func IsHostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	digits := false // the last label is a number
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		digits = true
		for _, c := range []byte(label) {
			switch {
			case '0' <= c && c <= '9':
			case 'a' <= c|0x20 && c|0x20 <= 'z', c == '-':
				digits = false
			default:
				return false
			}
		}
	}
	return !digits
}

// isServer says whether s is a host name or an address.
func isServer(s string) bool {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return IsHostname(s)
	}
	return !a.Is4In6() && a.Zone() == "" && (special(a) == "" || a.IsLoopback())
}

// isTimeServer says whether s is a server with or without a port.
func isTimeServer(s string) bool {
	return isServer(s) || isHostPort(s) && !strings.HasSuffix(s, "]")
}

// isLinkName says whether the kernel takes s as the name of a link, and s is
// not one that means something else: lo, or all and default in /proc/sys/net.
func isLinkName(s string) bool {
	if len(s) > 15 || isPattern(s) {
		return false
	}
	switch s {
	case "", ".", "..", "lo", "all", "default":
		return false
	}
	return isPlain(s, "/:%")
}

// isLinkPattern says whether s is the name of a link or a pattern for some.
func isLinkPattern(s string) bool {
	if !isPattern(s) {
		return isLinkName(s)
	}
	_, err := path.Match(s, "")
	return err == nil && len(s) <= 64 && isPlain(s, "/:%")
}

// isPattern says whether s has what path.Match takes as more than itself.
func isPattern(s string) bool { return strings.ContainsAny(s, `*?[\`) }

// isPlain says whether s is of printable ASCII characters, but not these or
// blanks.
func isPlain(s, not string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(not, c) >= 0 {
			return false
		}
	}
	return true
}

// Over returns the network of n where n says something, else that of d: a
// gateway's own network.yaml goes over the image's. It goes by the top-level
// keys; an empty list says something, too.
func (n Network) Over(d Network) Network {
	if n.Hostname == "" {
		n.Hostname = d.Hostname
	}
	if n.Links == nil {
		n.Links = d.Links
	}
	if n.DNS == nil {
		n.DNS = d.DNS
	}
	if n.FallbackDNS == nil {
		n.FallbackDNS = d.FallbackDNS
	}
	if n.NTP == nil {
		n.NTP = d.NTP
	}
	return n
}

// YAML returns network.yaml. ParseNetwork reads the same from it if n is what
// ParseNetwork would return.
func (n Network) YAML() []byte {
	return n.mapping().encode("# The network of this gateway; for keys that are not here the image's count.\n")
}

func (n Network) mapping() *mapping {
	m := newMapping()
	m.addText("hostname", n.Hostname)
	if n.Links != nil {
		m.add("links", texts(n.Links, func(l Link) *yaml.Node { return &l.mapping().Node }))
	}
	if n.DNS != nil {
		m.add("dns", texts(n.DNS, stringer))
	}
	if n.FallbackDNS != nil {
		m.add("fallback_dns", texts(n.FallbackDNS, stringer))
	}
	if n.NTP != nil {
		m.add("ntp", texts(n.NTP, text))
	}
	return m
}

func (l Link) mapping() *mapping {
	m := newMapping()
	m.addText("name", l.Name)
	if l.VLAN != nil {
		vlan := newMapping()
		vlan.addText("parent", l.VLAN.Parent)
		vlan.add("id", number(l.VLAN.ID))
		m.add("vlan", &vlan.Node)
	}
	m.addText("ipv4", l.IPv4)
	if l.Addresses != nil {
		m.add("addresses", texts(l.Addresses, stringer))
	}
	if l.Gateway.IsValid() {
		m.addText("gateway", l.Gateway.String())
	}
	m.addText("ipv6", l.IPv6)
	if l.Gateway6.IsValid() {
		m.addText("gateway6", l.Gateway6.String())
	}
	if l.MTU != 0 {
		m.add("mtu", number(l.MTU))
	}
	return m
}

func stringer[T fmt.Stringer](v T) *yaml.Node { return text(v.String()) }
