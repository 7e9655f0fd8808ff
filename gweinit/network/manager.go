// Package network has the gateway's links up, with addresses, routes and DNS.
//
// The manager is level-triggered: after every change that the kernel reports
// it reads links, addresses and routes, and makes them as they should be. What
// fails is tried again. Each link with a carrier has a session, a goroutine
// that gets IPv4 addresses: by DHCP (RFC 2131) with a link-local address (RFC
// 3927) as long as there is no lease, or fixed ones. All are checked for
// conflicts (RFC 5227). A link that loses its carrier loses its addresses and
// routes, so that the next one gets the traffic; its lease is remembered and
// asked for when the carrier is back.
//
// IPv6 is the kernel's SLAAC. The kernel does not pass on the DNS servers of
// router advertisements: DNS comes by DHCPv4 or from the configuration.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/config"
)

// Options are what a Manager needs.
type Options struct {
	Log *slog.Logger
	// ResolvConf is the path of resolv.conf(5), which a running manager always
	// has there.
	ResolvConf string
	// Changed, if not nil, is called after the status has changed, except for
	// Expires. Calls do not overlap, and of several changes while one takes its
	// time only the last is told.
	Changed func(Status)
}

// Manager sets up the network. The zero value is of no use: see New.
type Manager struct {
	o Options
	timings
	wake chan struct{}
	news chan struct{} // status has changed

	mu     sync.Mutex
	wanted config.Network
	status Status
	leases []*lease        // beside the links of status; nil if there is none
	macs   map[string]bool // of the machine's links

	// The rest belongs to the goroutine of Run.
	ctx     context.Context
	wg      sync.WaitGroup
	config  config.Network
	links   map[int]*link     // by index
	vlans   map[string]int    // ours, and their index
	vlanErr map[string]error  // by name
	said    map[string]string // last errors
}

// Status says how the network is.
type Status struct {
	// Hostname that the gateway should have: the configured one, else that of
	// DHCP, else "".
	Hostname string       `json:"hostname,omitempty"`
	Links    []LinkStatus `json:"links"`         // the preferred first; only those that are configured
	DNS      []netip.Addr `json:"dns,omitempty"` // in use
	// NTP servers, names or addresses: the configured ones first, then those of
	// DHCP.
	NTP []string `json:"ntp,omitempty"`
}

// LinkStatus says how a link is.
type LinkStatus struct {
	Name      string         `json:"name"`
	MAC       string         `json:"mac,omitempty"`
	Up        bool           `json:"up"`
	Carrier   bool           `json:"carrier"`
	Preferred bool           `json:"preferred,omitempty"` // it gets the traffic
	State     string         `json:"state"`               // such as "dhcp: bound", "dhcp: searching, link-local", "static", "off", "absent"
	Addresses []netip.Prefix `json:"addresses,omitempty"` // the usual source first; not IPv6 link-local ones
	Gateway   netip.Addr     `json:"gateway,omitzero"`
	Gateway6  netip.Addr     `json:"gateway6,omitzero"`
	Server    netip.Addr     `json:"server,omitzero"` // of DHCP
	Expires   time.Time      `json:"expires,omitzero"`
	DNS       []netip.Addr   `json:"dns,omitempty"` // those of DHCP
	NTP       []string       `json:"ntp,omitempty"`
	Error     string         `json:"error,omitempty"` // what is wrong, for a person
}

// New returns a manager without a configuration: it leaves all links alone.
func New(o Options) *Manager {
	return &Manager{
		o: o, timings: usual,
		wake: make(chan struct{}, 1), news: make(chan struct{}, 1),
		links: map[int]*link{}, vlans: map[string]int{}, vlanErr: map[string]error{}, said: map[string]string{},
	}
}

// Apply replaces the configuration. It may be called from any goroutine, also
// before Run, and does not wait until the network is as it says. Links that
// stay the same are not disturbed.
func (m *Manager) Apply(c config.Network) {
	c.Links = slices.Clone(c.Links)
	m.mu.Lock()
	m.wanted = c
	m.mu.Unlock()
	m.poke()
}

// Status returns how the network is. What its slices share must not be changed.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	s.Links = slices.Clone(s.Links)
	for i, l := range m.leases {
		if l != nil && l.length != forever {
			// From the monotonic clock: the other may just have been set.
			s.Links[i].Expires = time.Now().Add(l.left(l.length)).Round(time.Second).UTC()
		}
	}
	return s
}

// Run has the network as it is configured until ctx is done; then everything
// stays as it is. It may be called once.
func (m *Manager) Run(ctx context.Context) {
	m.ctx = ctx
	defer m.wg.Wait()
	m.wg.Go(func() { m.watchKernel(ctx, m.poke) })
	m.wg.Go(func() { m.tell(ctx) })
	wait := m.kernelRetry
	for busy := 0; ; busy++ {
		var retry <-chan time.Time
		if m.sync() {
			wait = m.kernelRetry
		} else {
			retry = time.After(wait)
			wait = min(2*wait, kernelRetryMost)
		}
		// Changes that come fast are taken together; should they never end, the
		// gateway has other work, too.
		if busy < 20 {
			sleep(ctx, 50*time.Millisecond)
		} else {
			sleep(ctx, 2*time.Second)
		}
		if len(m.wake) == 0 {
			busy = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-retry:
		}
	}
}

// poke has Run look at everything again.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// tell calls Changed, in a goroutine of its own: the network does not wait for
// it.
func (m *Manager) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.news:
		}
		if m.o.Changed != nil {
			if err := survive(func() { m.o.Changed(m.Status()) }); err != nil {
				m.o.Log.Error("network: tell of changes", "err", err)
			}
		}
	}
}

// survive runs f and turns a panic into an error: PID 1 must go on.
func survive(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	f()
	return nil
}

// isOurs says whether a link of this machine has the MAC.
func (m *Manager) isOurs(mac net.HardwareAddr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.macs[string(mac)]
}

// sync makes everything as it should be. It is false if something failed.
func (m *Manager) sync() (ok bool) {
	m.mu.Lock()
	m.config = m.wanted
	m.mu.Unlock()
	err := survive(func() { ok = m.trySync() })
	return m.complain("manager", err) && ok
}

func (m *Manager) trySync() (ok bool) {
	for name, err := range m.vlanErr {
		if m.vlanErr[name] = nil; err == nil {
			delete(m.vlanErr, name)
		}
	}
	devices, err := readDevices()
	for range 8 { // a VLAN may be on a VLAN
		if err != nil || !m.syncVLANs(devices) {
			break
		}
		devices, err = readDevices()
	}
	if !m.complain("kernel", err) {
		return false
	}
	links := m.take(devices)
	ok = true
	for name := range m.vlanErr {
		ok = m.complain("VLAN "+name, m.vlanErr[name]) && ok
	}
	for _, d := range devices { // a VLAN after what it is on
		l := m.links[d.index]
		err := m.syncLink(l)
		l.err = oneLine(errors.Join(err, m.vlanErr[l.name]))
		ok = m.complain(l.name, err) && ok
	}
	var routes []route
	for _, l := range links {
		routes = append(routes, l.routes()...)
	}
	defaults6, err := syncRoutes(routes)
	ok = m.complain("routes", err) && ok
	return m.complain("resolv.conf", m.publish(links, defaults6)) && ok
}

// complain logs an error about something if it is another than the last one.
// It is false if there is one.
func (m *Manager) complain(what string, err error) bool {
	text := oneLine(err)
	if text != m.said[what] {
		m.said[what] = text
		if err == nil {
			delete(m.said, what)
			m.o.Log.Info("network: works again", "what", what)
		} else {
			m.o.Log.Warn("network", "what", what, "err", text)
		}
	}
	return err == nil
}

func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// publish writes resolv.conf, and tells the status if it is another one.
func (m *Manager) publish(links []*link, defaults6 []route) error {
	s := Status{Hostname: m.config.Hostname, Links: []LinkStatus{}}
	dns, ntp := appendNew(nil, m.config.DNS...), appendNew(nil, m.config.NTP...)
	var leases []*lease // beside s.Links
	var search []string
	preferred := -1
	for _, l := range links {
		if !l.managed {
			continue
		}
		ls := l.status()
		for _, r := range defaults6 {
			if r.link == l.index && ls.Carrier {
				ls.Gateway6 = r.gateway
			}
		}
		if preferred < 0 && ls.Gateway.IsValid() {
			preferred = len(s.Links)
		}
		if lease := l.now.lease; lease != nil {
			if len(m.config.DNS) == 0 {
				dns = appendNew(dns, lease.dns...)
			}
			if search == nil {
				search = lease.search
			}
			if s.Hostname == "" {
				s.Hostname = lease.hostname
			}
			ntp = appendNew(ntp, ls.NTP...)
		}
		l.log(m.o.Log, ls)
		s.Links, leases = append(s.Links, ls), append(leases, l.now.lease)
	}
	if preferred < 0 {
		preferred = slices.IndexFunc(s.Links, func(ls LinkStatus) bool { return ls.Gateway6.IsValid() })
	}
	if preferred >= 0 {
		s.Links[preferred].Preferred = true
	}
	for _, entry := range m.config.Links {
		has := func(l *link) bool { return l.name == entry.Name }
		if !strings.ContainsAny(entry.Name, `*?[\`) && !slices.ContainsFunc(links, has) {
			s.Links, leases = append(s.Links, LinkStatus{Name: entry.Name, State: "absent", Error: oneLine(m.vlanErr[entry.Name])}), append(leases, nil)
		}
	}
	if len(dns) == 0 {
		dns = appendNew(dns, m.config.FallbackDNS...)
	}
	s.DNS, s.NTP = dns[:min(len(dns), maxDNS)], ntp
	err := replace(m.o.ResolvConf, resolvConf(s.DNS, search)) // before somebody sees the status
	m.mu.Lock()
	changed := !reflect.DeepEqual(m.status, s)
	m.status, m.leases = s, leases
	m.mu.Unlock()
	if changed {
		select {
		case m.news <- struct{}{}:
		default:
		}
	}
	return err
}
