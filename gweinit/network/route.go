package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes among others' (rtnetlink(7), rtm_protocol):
// all of them are ours to remove.
const routeProtocol = 71

// route is a route of ours in the main table.
type route struct {
	link    int // index
	to      netip.Prefix
	gateway netip.Addr // or not valid
	source  netip.Addr // IPv4
	metric  int
	mtu     int  // 0: the link's
	onLink  bool // the gateway is in no network of the link
}

// routes returns those that the link should have.
func (l *link) routes() []route {
	var list []route
	now := l.now
	if !l.active() || l.entry == nil {
		return nil
	}
	add := func(r route) {
		r.link, r.metric = l.index, l.metric
		if now.lease != nil && r.source.IsValid() && now.lease.mtu < l.mtu {
			r.mtu = now.lease.mtu
		}
		list = append(list, r)
	}
	// reach is true if a link with these addresses has the gateway in a network.
	reach := func(addresses []netip.Prefix, gw netip.Addr) bool {
		for _, p := range addresses {
			if p.Contains(gw) {
				return true
			}
		}
		return false
	}
	for _, p := range now.addresses {
		if p.Bits() < 32 {
			add(route{to: p.Masked(), source: p.Addr()})
		}
	}
	if len(now.addresses) > 0 {
		source := now.addresses[0].Addr()
		hops := []hop{}
		switch {
		case now.lease != nil:
			hops = now.lease.routes
		case l.entry.Gateway.Is4():
			hops = append(hops, hop{default4, l.entry.Gateway})
		}
		for _, h := range hops {
			if !h.gateway.IsValid() { // first: the gateways of others may be there
				add(route{to: h.to, source: source})
			}
		}
		for _, h := range hops {
			if h.gateway.IsValid() {
				add(route{to: h.to, gateway: h.gateway, source: source, onLink: !reach(now.addresses, h.gateway)})
			}
		}
	}
	fixed := l.fixed6()
	for _, p := range fixed {
		if p.Bits() < 128 {
			add(route{to: p.Masked()})
		}
	}
	if gw := l.entry.Gateway6; gw.Is6() && l.wantsIPv6() {
		add(route{to: default6, gateway: gw.WithZone(""), onLink: !gw.IsLinkLocalUnicast() && !reach(fixed, gw)})
	}
	return list
}

var default6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

func (r route) netlink() *netlink.Route {
	n := &netlink.Route{
		LinkIndex: r.link,
		Dst:       toIPNet(r.to),
		Gw:        r.gateway.AsSlice(),
		Src:       r.source.AsSlice(),
		Priority:  r.metric,
		MTU:       r.mtu,
		Protocol:  routeProtocol,
		Table:     unix.RT_TABLE_MAIN,
		Scope:     unix.RT_SCOPE_UNIVERSE,
	}
	if !r.gateway.IsValid() && r.to.Addr().Is4() {
		n.Scope = unix.RT_SCOPE_LINK
	}
	if r.onLink {
		n.Flags = unix.RTNH_F_ONLINK
	}
	return n
}

func toRoute(n netlink.Route) route {
	r := route{link: n.LinkIndex, to: toPrefix(n.Dst), metric: n.Priority, mtu: n.MTU, onLink: n.Flags&unix.RTNH_F_ONLINK != 0}
	r.gateway, r.source = toAddr(n.Gw), toAddr(n.Src)
	if !r.to.IsValid() {
		r.to = default4
		if n.Family == unix.AF_INET6 {
			r.to = default6
		}
	}
	return r
}

// syncRoutes makes ours the routes that the kernel has from us. It returns what
// other IPv6 default routes there are: router advertisements bring them.
func syncRoutes(want []route) (defaults6 []route, err error) {
	have := map[route]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := whole(func() ([]netlink.Route, error) { return netlink.RouteListFiltered(family, &netlink.Route{}, 0) })
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		for _, n := range list {
			r := toRoute(n)
			if n.Protocol == routeProtocol {
				have[r] = true
			}
			if r.to == default6 && r.gateway.IsValid() {
				defaults6 = append(defaults6, r)
			}
		}
	}
	// The kernel takes one route for a destination and metric.
	type key struct {
		to     netip.Prefix
		metric int
	}
	taken := map[key]bool{}
	var errs []error
	keep := map[route]bool{}
	for _, r := range want {
		k := key{r.to, r.metric}
		if taken[k] {
			continue
		}
		taken[k], keep[r] = true, true
		if have[r] {
			continue
		}
		if err := netlink.RouteReplace(r.netlink()); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("route to %v by %v: %w", r.to, r.gateway, err))
		}
	}
	for r := range have {
		if !keep[r] {
			if err := netlink.RouteDel(r.netlink()); err != nil && !isGone(err) {
				errs = append(errs, fmt.Errorf("remove route to %v by %v: %w", r.to, r.gateway, err))
			}
		}
	}
	return defaults6, errors.Join(errs...)
}
