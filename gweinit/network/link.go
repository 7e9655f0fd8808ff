package network

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/config"
)

// link is a link of the kernel's with what the manager does with it. Only the
// manager's goroutine uses it.
type link struct {
	device
	entry  *config.Link // what it is to be; nil without one
	parent bool         // VLANs need it up
	metric int          // of its routes, and its place among the links

	managed  bool              // set up by us
	usualMTU int               // from before that
	ours     []netip.Prefix    // addresses
	settings map[string]string // in /proc/sys/net, as written
	retryDAD time.Time         // when an IPv6 address in use is tried again

	session *session
	how     string // it has been started for
	now     ipv4   // what it had when the manager last looked
	last    *lease // for the next session
	lastMAC string // that had it
	err     string // what the kernel did not do
	logged  string
}

// active says whether the link can be used.
func (l *link) active() bool { return l.managed && l.up && l.carrier }

func (l *link) wantsIPv6() bool { return l.entry != nil && l.entry.IPv6 != config.Off }

// fixed6 returns the fixed IPv6 addresses.
func (l *link) fixed6() []netip.Prefix {
	var list []netip.Prefix
	if l.wantsIPv6() {
		for _, p := range l.entry.Addresses {
			if p.IsValid() && p.Addr().Is6() && !p.Addr().Is4In6() {
				list = append(list, p)
			}
		}
	}
	return list
}

// matches says whether an entry is for a link. A pattern is for Ethernet and
// what looks like it: CAN buses have names, too.
func matches(entry config.Link, d *device) bool {
	switch {
	case d.loopback:
		return false
	case entry.Name == d.name:
		return true
	case entry.VLAN != nil || !d.ethernet:
		return false
	}
	ok, err := path.Match(entry.Name, d.name)
	return ok && err == nil
}

// take brings the manager's links up to date with the kernel's, and gives them
// their entries. It returns the links with the preferred one first.
func (m *Manager) take(devices []*device) []*link {
	gone := m.links
	m.links = map[int]*link{}
	macs := map[string]bool{}
	parents := map[string]bool{}
	for _, entry := range m.config.Links {
		if entry.VLAN != nil {
			parents[entry.VLAN.Parent] = true
		}
	}
	var list []*link
	rank := map[int]int{}
	slices.SortFunc(devices, func(a, b *device) int { return a.index - b.index })
	for _, d := range devices {
		macs[string(d.mac)] = true
		l := gone[d.index]
		if l == nil || l.name != d.name { // its settings are elsewhere now
			l = &link{settings: map[string]string{}}
		} else {
			delete(gone, d.index)
		}
		m.links[d.index] = l
		l.device, l.entry, l.parent = *d, nil, parents[d.name] && !d.loopback
		l.metric = 100 * (len(m.config.Links) + 1)
		for i := range m.config.Links {
			if matches(m.config.Links[i], d) {
				l.entry = &m.config.Links[i]
				l.metric = 100*(i+1) + min(rank[i], 99)
				rank[i]++
				break
			}
		}
		list = append(list, l)
	}
	for _, l := range gone {
		l.halt()
	}
	m.mu.Lock()
	m.macs = macs
	m.mu.Unlock()
	slices.SortStableFunc(list, func(a, b *link) int { return a.metric - b.metric })
	return list
}

// syncVLANs makes VLANs as they are configured, and notes what fails. If it has
// changed something the devices have to be read again.
func (m *Manager) syncVLANs(devices []*device) (changed bool) {
	byName := map[string]*device{}
	for _, d := range devices {
		byName[d.name] = d
	}
	wanted := map[string]bool{}
	for _, entry := range m.config.Links {
		if entry.VLAN == nil || wanted[entry.Name] {
			continue
		}
		wanted[entry.Name] = true
		parent, there := byName[entry.VLAN.Parent], byName[entry.Name]
		switch {
		case parent == nil || parent.loopback:
			continue
		case there != nil && there.isVLAN && there.vlan == entry.VLAN.ID && there.parent == parent.index:
			m.vlans[entry.Name] = there.index
			continue
		case there != nil && !there.isVLAN:
			m.vlanErr[entry.Name] = fmt.Errorf("%s is there and is no VLAN", entry.Name)
			continue
		case there != nil:
			if err := netlink.LinkDel(there.handle()); err != nil && !isGone(err) {
				m.vlanErr[entry.Name] = fmt.Errorf("remove the old VLAN %d: %w", there.vlan, err)
				continue
			}
		}
		v := netlink.NewLinkAttrs()
		v.Name, v.ParentIndex = entry.Name, parent.index
		err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: v, VlanId: entry.VLAN.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
		if err != nil {
			m.vlanErr[entry.Name] = fmt.Errorf("make VLAN %d on %s: %w", entry.VLAN.ID, parent.name, err)
			continue
		}
		m.o.Log.Info("VLAN made", "link", entry.Name, "parent", parent.name, "id", entry.VLAN.ID)
		changed = true
	}
	for name, index := range m.vlans {
		d := byName[name]
		switch {
		case wanted[name] && d != nil:
		case d != nil && d.isVLAN && d.index == index:
			if err := netlink.LinkDel(d.handle()); err != nil && !isGone(err) {
				m.vlanErr[name] = fmt.Errorf("remove VLAN: %w", err)
				continue
			}
			m.o.Log.Info("VLAN removed", "link", name)
			changed = true
			delete(m.vlans, name)
		default:
			delete(m.vlans, name)
		}
	}
	return changed
}

// syncLink makes the link as its entry says, except for its routes.
func (m *Manager) syncLink(l *link) error {
	if l.entry == nil && !l.parent {
		return l.release()
	}
	if !l.managed {
		l.managed, l.usualMTU = true, l.mtu
		for _, a := range l.addresses { // what was there before is as good as ours
			if a.prefix.Addr().Is4() {
				l.ours = append(l.ours, a.prefix)
			}
		}
	}
	mtu := l.usualMTU
	if l.entry != nil && l.entry.MTU != 0 {
		mtu = l.entry.MTU
	}
	errs := []error{l.syncSettings()} // before the link is up
	if mtu != l.mtu {
		if err := netlink.LinkSetMTU(l.handle(), mtu); err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("set MTU %d: %w", mtu, err))
		} else {
			l.mtu = mtu
		}
	}
	if !l.up {
		if err := netlink.LinkSetUp(l.handle()); err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("bring it up: %w", err))
		}
	}
	m.syncSession(l)
	return errors.Join(append(errs, l.syncAddresses())...)
}

// release undoes what was set up under an older configuration.
func (l *link) release() error {
	if !l.managed {
		return nil
	}
	l.halt()
	errs := []error{l.syncAddresses()}
	if l.up {
		if err := netlink.LinkSetDown(l.handle()); err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("take it down: %w", err))
		}
	}
	if l.mtu != l.usualMTU {
		if err := netlink.LinkSetMTU(l.handle(), l.usualMTU); err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("set MTU %d: %w", l.usualMTU, err))
		}
	}
	l.managed = errors.Join(errs...) != nil
	return errors.Join(errs...)
}

// syncSession has the goroutine for IPv4 running if it can do something.
func (m *Manager) syncSession(l *link) {
	how, fixed := config.Off, []netip.Prefix(nil)
	if l.entry != nil {
		how, fixed = method(*l.entry)
	}
	if !l.active() || how == config.Off {
		l.halt()
		return
	}
	key := fmt.Sprint(how, fixed, l.mac, l.noARP)
	if l.session == nil || l.how != key {
		l.halt()
		if l.lastMAC != string(l.mac) {
			l.last = nil
		}
		l.session, l.how = &session{
			port: port{
				index: l.index, name: l.name, mac: bytes.Clone(l.mac), mtu: l.mtu,
				ethernet: l.ethernet, noARP: l.noARP || !l.ethernet, isOurs: m.isOurs,
			},
			timings: m.timings,
			log:     m.o.Log.With("link", l.name),
			changed: m.poke,
		}, key
		l.session.start(m.ctx, &m.wg, how, fixed, l.last)
	}
	l.now = l.session.current()
}

// halt ends the session; its lease is remembered.
func (l *link) halt() {
	if l.session != nil {
		l.session.stop()
		l.last, l.lastMAC = l.session.current().last, string(l.session.mac)
		l.session, l.now = nil, ipv4{}
	}
}

// syncSettings sets up IPv6, and ARP so that several links in one network do
// not speak for each other.
func (l *link) syncSettings() error {
	errs := []error{
		l.setting("ipv4", "arp_ignore", "1"),
		l.setting("ipv4", "arp_announce", "2"),
		l.setting("ipv4", "promote_secondaries", "1"),
	}
	// Without a carrier there is no IPv6: the kernel would keep addresses and
	// routers, and not look for new ones where the cable is plugged in next.
	off := "1"
	if l.wantsIPv6() {
		errs = append(errs,
			l.setting("ipv6", "accept_ra", "1"),
			l.setting("ipv6", "autoconf", "1"),
			l.setting("ipv6", "ra_defrtr_metric", strconv.Itoa(l.metric)), // since Linux 5.12
		)
		if l.active() {
			off = "0"
		}
	}
	return errors.Join(append(errs, l.setting("ipv6", "disable_ipv6", off))...)
}

// syncAddresses sets the addresses that the link should have, and removes those
// of ours that it should not have.
func (l *link) syncAddresses() error {
	var want []netip.Prefix
	if l.active() {
		want = append(slices.Clone(l.now.addresses), l.fixed6()...)
	}
	var errs []error
	have := map[netip.Prefix]bool{}
	for _, a := range slices.Clone(l.addresses) {
		have[a.prefix] = true
		if a.flags&unix.IFA_F_DADFAILED == 0 || !slices.Contains(want, a.prefix) {
			continue
		}
		if time.Now().Before(l.retryDAD) {
			errs = append(errs, fmt.Errorf("%v is in use by another machine", a.prefix.Addr()))
			continue
		}
		l.retryDAD = time.Now().Add(kernelRetryMost - time.Second)
		errs = append(errs, l.removeAddress(a.prefix))
		have[a.prefix] = false
	}
	l.ours = slices.DeleteFunc(l.ours, func(p netip.Prefix) bool {
		if slices.Contains(want, p) {
			return false
		}
		if have[p] {
			if err := l.removeAddress(p); err != nil {
				errs = append(errs, err)
				return false
			}
		}
		return true
	})
	for _, p := range want {
		if !have[p] {
			if err := l.addAddress(p); err != nil {
				if !isGone(err) {
					errs = append(errs, err)
				}
				continue
			}
		}
		if !slices.Contains(l.ours, p) {
			l.ours = append(l.ours, p)
		}
	}
	return errors.Join(errs...)
}

// status is that of a managed link, without what IPv6 routers say.
func (l *link) status() LinkStatus {
	s := LinkStatus{
		Name:    l.name,
		MAC:     l.mac.String(),
		Up:      l.up,
		Carrier: l.up && l.carrier,
	}
	how := config.Off
	if l.entry == nil {
		s.State = "parent of a VLAN"
	} else {
		how, _ = method(*l.entry)
		s.State = how
	}
	switch {
	case how == config.Off:
	case !s.Carrier:
		s.State = how + ": no carrier"
	case l.now.state != "":
		s.State = l.now.state
	}
	for _, a := range l.addresses {
		global := a.prefix.Addr().Is4() || !a.prefix.Addr().IsLinkLocalUnicast()
		if global && a.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			s.Addresses = append(s.Addresses, a.prefix)
		}
	}
	// As the routes prefer them; the kernel's order depends on which came when.
	rank := func(p netip.Prefix) int {
		if i := slices.Index(l.now.addresses, p); i >= 0 {
			return i
		}
		return len(l.now.addresses)
	}
	slices.SortStableFunc(s.Addresses, func(a, b netip.Prefix) int { return rank(a) - rank(b) })
	if lease := l.now.lease; lease != nil {
		s.Gateway, s.Server, s.DNS = lease.gateway(), lease.server, lease.dns
		for _, a := range lease.ntp {
			s.NTP = append(s.NTP, a.String())
		}
	} else if how == config.Static && len(l.now.addresses) > 0 {
		s.Gateway = l.entry.Gateway
	}
	problems := []string{l.err, l.now.err}
	for a, mac := range l.now.conflicts {
		problems = append(problems, fmt.Sprintf("%v is in use by another machine, %v", a, mac))
	}
	slices.Sort(problems)
	s.Error = strings.Join(slices.DeleteFunc(problems, func(p string) bool { return p == "" }), "; ")
	return s
}

// log tells of changes that matter, and not of each renewal.
func (l *link) log(log *slog.Logger, s LinkStatus) {
	text := fmt.Sprint(s.Carrier, s.Addresses, s.Gateway, s.Gateway6)
	if text == l.logged {
		return
	}
	l.logged = text
	attrs := []any{"name", s.Name, "state", s.State}
	if len(s.Addresses) > 0 {
		attrs = append(attrs, "addresses", s.Addresses)
	}
	if s.Gateway.IsValid() {
		attrs = append(attrs, "gateway", s.Gateway)
	}
	if s.Gateway6.IsValid() {
		attrs = append(attrs, "gateway6", s.Gateway6)
	}
	log.Info("link", attrs...)
}
