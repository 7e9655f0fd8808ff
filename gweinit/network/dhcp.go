package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// The DHCP client follows RFC 2131 and stays on a link for as long as it has a
// carrier. Its socket is open only while it waits for an answer.

// vendorClass tells a server what kind of machine asks.
const vendorClass = "gateway-engine"

// wanted is what the client asks a server for.
var wanted = dhcpv4.OptParameterRequestList(
	dhcpv4.OptionSubnetMask,
	dhcpv4.OptionClasslessStaticRoute, // before the router: RFC 3442
	dhcpv4.OptionRouter,
	dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionHostName,
	dhcpv4.OptionDomainName,
	dhcpv4.OptionInterfaceMTU,
	dhcpv4.OptionBroadcastAddress,
	dhcpv4.OptionNTPServers,
	dhcpv4.OptionDNSDomainSearchList,
)

// runDHCP gets a lease and keeps it, again and again until ctx is done.
func (s *session) runDHCP(ctx context.Context) {
	var next *lease // that the server gave instead of another
	for ctx.Err() == nil {
		s.update(func(now *ipv4) { now.state, now.addresses, now.lease = "dhcp: searching", nil, nil })
		l := s.acquire(ctx, next)
		if l == nil {
			return
		}
		next = s.keep(ctx, l)
	}
}

// acquire returns a lease of an address that no other machine uses: next, if
// there is one, else one that it asks for. When that takes too long the link
// has a link-local address meanwhile. It returns nil only when ctx is done.
func (s *session) acquire(ctx context.Context, next *lease) *lease {
	fallback, stop := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		sleep(fallback, s.fallback)
		if fallback.Err() == nil {
			s.log.Warn("no lease from a DHCP server; the link gets a link-local address meanwhile")
			s.update(func(now *ipv4) { now.state = "dhcp: searching, link-local" })
			s.survives(func() { s.runLinkLocal(fallback) })
		}
	}()
	defer func() { stop(); <-stopped }()

	for conflicts := 1; ; conflicts++ {
		if next == nil {
			next = s.obtain(ctx)
		}
		if next == nil {
			return nil
		}
		holder, err := s.probe(ctx, next.prefix.Addr())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.log.Warn("look whether an address is free; it is used without", "address", next.prefix.Addr(), "err", err)
		}
		if holder == nil {
			return next
		}
		s.log.Warn("lease declined: another machine uses the address", "address", next.prefix.Addr(), "mac", holder.String())
		s.decline(ctx, next)
		next = nil
		if conflicts < 10 {
			sleep(ctx, s.declined)
		} else {
			sleep(ctx, s.limited)
		}
	}
}

// decline tells the server that the address is in use, and forgets it.
func (s *session) decline(ctx context.Context, l *lease) {
	s.update(func(now *ipv4) { now.state, now.addresses, now.lease, now.last = "dhcp: address in use", nil, nil, nil })
	if !l.server.IsValid() {
		return // which one it is for must be in the message
	}
	x, err := s.open(ctx)
	if err != nil {
		return
	}
	defer x.close()
	m := x.message(dhcpv4.MessageTypeDecline)
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(toIP(l.prefix.Addr())))
	m.UpdateOption(dhcpv4.OptServerIdentifier(toIP(l.server)))
	m.UpdateOption(dhcpv4.OptMessage("address in use"))
	x.send(m)
}

// obtain asks for a lease until there is one, or ctx is done.
func (s *session) obtain(ctx context.Context) *lease {
	var said string
	for pause := s.retry; ctx.Err() == nil; pause = min(2*pause, s.retryMost) {
		x, err := s.open(ctx)
		if err == nil {
			var l *lease
			l, err = x.obtain()
			x.close()
			if l != nil {
				return l
			}
		}
		if ctx.Err() != nil {
			break
		}
		if said != err.Error() { // such as that the link is down: the manager knows, too
			said = err.Error()
			s.log.Warn("dhcp", "err", err)
		}
		sleep(ctx, pause)
	}
	return nil
}

// exchange is a conversation with DHCP servers.
type exchange struct {
	*session
	ctx    context.Context
	conn   *packet.Conn
	close  func()
	id     dhcpv4.TransactionID
	began  time.Time
	budget int    // answers that are read until the next question
	said   string // the last complaint
}

func (s *session) open(ctx context.Context) (*exchange, error) {
	x := &exchange{session: s, ctx: ctx, began: time.Now()}
	// The random numbers of a hundred gateways that start together may be the
	// same; their MACs are not.
	binary.BigEndian.PutUint32(x.id[:], rand.Uint32()^crc32.ChecksumIEEE(s.mac))
	var err error
	if x.conn, err = s.listen(unix.ETH_P_IP, dhcpFilter(x.id, s.mac)); err != nil {
		return nil, err
	}
	unhook := context.AfterFunc(ctx, func() { x.conn.Close() })
	x.close = func() { unhook(); x.conn.Close() }
	return x, nil
}

// message returns a message without what is asked for.
func (x *exchange) message(t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	zero := net.IPv4zero.To4()
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		TransactionID: x.id,
		NumSeconds:    uint16(min(time.Since(x.began)/time.Second, 0xffff)),
		ClientIPAddr:  zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		ClientHWAddr: x.mac,
		Options:      dhcpv4.Options{},
	}
	m.UpdateOption(dhcpv4.OptMessageType(t))
	m.UpdateOption(dhcpv4.OptClientIdentifier(append([]byte{byte(iana.HWTypeEthernet)}, x.mac...)))
	return m
}

// question returns a message that asks for an address and the rest.
func (x *exchange) question(t dhcpv4.MessageType, wish netip.Addr) *dhcpv4.DHCPv4 {
	m := x.message(t)
	m.UpdateOption(wanted)
	m.UpdateOption(dhcpv4.OptClassIdentifier(vendorClass))
	m.UpdateOption(dhcpv4.OptMaxMessageSize(uint16(min(max(x.mtu, 576), 1500))))
	name, _ := os.Hostname()
	switch name = cleanName(name); name {
	case "", "localhost", "gateway": // as good as none
	default:
		m.UpdateOption(dhcpv4.OptHostName(name))
	}
	if wish.IsValid() {
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(toIP(wish)))
	}
	return m
}

// send broadcasts a message. That it cannot be sent is like an answer that does
// not come.
func (x *exchange) send(m *dhcpv4.DHCPv4) {
	x.budget = 32
	from, _ := netip.AddrFromSlice(m.ClientIPAddr)
	_, err := x.conn.WriteTo(wrapUDP(from, m.ToBytes()), &packet.Addr{HardwareAddr: broadcastMAC})
	if err != nil {
		x.complain(err)
	}
}

// complain logs an error, but not a second time.
func (x *exchange) complain(err error) {
	if x.ctx.Err() == nil && x.said != err.Error() {
		x.said = err.Error()
		x.log.Warn("dhcp", "err", err)
	}
}

// await reads answers until take has taken one, or the time is over: then it is
// false. An error is about the socket.
func (x *exchange) await(limit time.Duration, take func(*dhcpv4.DHCPv4) (bool, error)) (bool, error) {
	deadline := time.Now().Add(limit)
	if err := x.conn.SetReadDeadline(deadline); err != nil {
		return false, err
	}
	buf := make([]byte, maxReply)
	for ; x.budget > 0; x.budget-- {
		n, _, err := x.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		m, err := parseReply(buf[:n], x.id, x.mac)
		if err == nil {
			var taken bool
			if taken, err = take(m); taken {
				return true, nil
			}
		}
		if err != nil {
			x.complain(fmt.Errorf("answer of no use: %w", err))
		}
	}
	// A machine that sends useless answers as fast as it can costs no more.
	sleep(x.ctx, time.Until(deadline))
	return false, x.ctx.Err()
}

// backoff is the wait after the question number try, from 0: RFC 2131, section
// 4.1.
func (x *exchange) backoff(try int) time.Duration {
	d := x.retryMost
	if try < 5 {
		d = min(x.retry<<try, x.retryMost)
	}
	return d + rand.N(x.retry/2) - x.retry/4
}

// obtain asks for a lease until there is one. An error is about the socket.
func (x *exchange) obtain() (*lease, error) {
	last := x.current().last
	if last != nil && !last.expired() {
		l, refused, err := x.reboot(last)
		if l != nil || err != nil {
			return l, err
		}
		if refused { // it belongs to another network
			last = nil
			x.update(func(now *ipv4) { now.last = nil })
		}
	}
	var wish netip.Addr
	if last != nil {
		wish = last.prefix.Addr()
	}
	for try := 0; ; try++ {
		m := x.question(dhcpv4.MessageTypeDiscover, wish)
		if try%2 == 1 { // some relays cannot send to an address that nobody has
			m.SetBroadcast()
		}
		x.send(m)
		var offer *lease
		_, err := x.await(x.backoff(try), func(m *dhcpv4.DHCPv4) (taken bool, err error) {
			if m.MessageType() != dhcpv4.MessageTypeOffer {
				return false, nil
			}
			if offer, err = parseLease(m, time.Now(), x.shortest); err == nil && !offer.server.IsValid() {
				err = errors.New("an offer without a server identifier")
			}
			return err == nil, err
		})
		if err != nil {
			return nil, err
		}
		if offer == nil || !offer.server.IsValid() {
			continue
		}
		l, err := x.accept(offer, m.IsBroadcast())
		if l != nil || err != nil {
			return l, err
		}
		// It offers but does not give. No hurry.
		sleep(x.ctx, x.backoff(try))
		if err := x.ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// accept asks for the address that a server offers. There is no lease if the
// server refuses or is silent.
func (x *exchange) accept(offer *lease, broadcast bool) (*lease, error) {
	for try := range 3 {
		m := x.question(dhcpv4.MessageTypeRequest, offer.prefix.Addr())
		m.UpdateOption(dhcpv4.OptServerIdentifier(toIP(offer.server)))
		if broadcast {
			m.SetBroadcast()
		}
		x.send(m)
		l, refused, err := x.answer(x.backoff(try), offer)
		if l != nil || refused || err != nil {
			return l, err
		}
	}
	return nil, nil
}

// reboot asks whether an address from before still counts (INIT-REBOOT).
func (x *exchange) reboot(last *lease) (l *lease, refused bool, err error) {
	for wait := x.retry / 2; wait <= x.retry; wait *= 2 {
		x.send(x.question(dhcpv4.MessageTypeRequest, last.prefix.Addr()))
		l, refused, err = x.answer(wait, last)
		if l != nil || refused || err != nil {
			break
		}
	}
	return l, refused, err
}

// answer waits for a lease, or until it is refused. What the server does not
// say about itself is as in old.
func (x *exchange) answer(limit time.Duration, old *lease) (l *lease, refused bool, err error) {
	asked := time.Now()
	_, err = x.await(limit, func(m *dhcpv4.DHCPv4) (taken bool, err error) {
		switch m.MessageType() {
		case dhcpv4.MessageTypeNak:
			refused = true
			return true, nil
		case dhcpv4.MessageTypeAck:
			ack, err := parseLease(m, asked, x.shortest)
			if err != nil {
				return false, err
			}
			if !ack.server.IsValid() {
				ack.server = old.server
			}
			l = ack
			return true, nil
		}
		return false, nil
	})
	return l, refused, err
}

// keep has the address of a lease and renews it until it is lost, which is
// logged, or ctx is done. It returns the lease of another address if that is
// what the server gives instead.
func (s *session) keep(ctx context.Context, l *lease) (next *lease) {
	ctx, cancel := context.WithCancel(ctx)
	taken := make(chan struct{}) // by another machine
	go func() {
		s.survives(func() { s.defend(ctx, l.prefix.Addr(), false) })
		close(taken)
	}()
	defer func() { cancel(); <-taken }()

	for {
		s.update(func(now *ipv4) {
			now.state, now.addresses, now.lease, now.last = "dhcp: bound", []netip.Prefix{l.prefix}, l, l
		})
		next, why := s.renewed(ctx, l, taken)
		switch {
		case ctx.Err() != nil:
			return nil
		case why == lostConflict:
			s.decline(ctx, l)
			sleep(ctx, s.declined)
			return nil
		case why == lostRefused:
			s.log.Warn("lease withdrawn by the server", "address", l.prefix.Addr())
			s.update(func(now *ipv4) { now.last = nil })
			return nil
		case why == lostExpired:
			s.log.Warn("lease expired: no server has renewed it", "address", l.prefix.Addr())
			return nil
		case next.prefix != l.prefix:
			return next
		}
		l = next
	}
}

// How a lease gets lost.
type loss int

const (
	_ loss = iota
	lostConflict
	lostRefused
	lostExpired
)

// renewed waits until it is time to renew the lease, and returns the new one:
// RFC 2131, section 4.4.5.
func (s *session) renewed(ctx context.Context, l *lease, taken <-chan struct{}) (*lease, loss) {
	wait := l.left(l.t1)
	if l.length != forever {
		wait -= rand.N(l.length/64 + 1) // or all gateways ask at the same time
	}
	for rebinding := false; ; {
		var timer <-chan time.Time
		if wait != forever {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil, 0
		case <-taken:
			return nil, lostConflict
		case <-timer:
		}
		if l.expired() {
			return nil, lostExpired
		}
		phase, end := "dhcp: renewing", l.t2
		if l.left(l.t2) <= 0 {
			phase, end = "dhcp: rebinding", l.length
			if !rebinding {
				rebinding = true
				s.log.Warn("lease not renewed; asking all servers", "address", l.prefix.Addr(), "server", l.server)
				s.update(func(now *ipv4) { now.state = phase })
			}
		}
		next, refused, err := s.renew(ctx, l, rebinding, min(s.reply, l.left(end)))
		switch {
		case ctx.Err() != nil:
			return nil, 0
		case refused:
			return nil, lostRefused
		case next != nil:
			return next, 0
		case err != nil:
			s.log.Warn("renew the lease", "err", err)
		}
		s.update(func(now *ipv4) { now.state = phase })
		gap := max(l.left(end)/2, min(s.renewGap, l.length/8))
		wait = min(gap, max(l.left(end), 0))
	}
}

// renew asks once: the server that gave the lease, or all of them.
func (s *session) renew(ctx context.Context, l *lease, all bool, limit time.Duration) (next *lease, refused bool, err error) {
	x, err := s.open(ctx)
	if err != nil {
		return nil, false, err
	}
	defer x.close()
	m := x.question(dhcpv4.MessageTypeRequest, netip.Addr{})
	m.ClientIPAddr = toIP(l.prefix.Addr())
	direct, err := s.unicast(ctx, l.prefix.Addr())
	if err == nil {
		defer direct.Close()
	}
	if all || err != nil || !l.server.IsValid() {
		x.send(m)
	} else {
		x.budget = 32
		server := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.server, serverPort))
		if _, err := direct.WriteTo(m.ToBytes(), server); err != nil {
			x.complain(err)
		}
	}
	return x.answer(limit, l)
}

func toIP(a netip.Addr) net.IP { return a.AsSlice() }
