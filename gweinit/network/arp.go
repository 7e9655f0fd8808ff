package network

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Address conflict detection is that of RFC 5227, but takes 1 s instead of up
// to 7: switches forward at once these days, or the DHCP exchange before would
// not have worked.

const arpRequest = 1

// arpPacket is ARP for IPv4 over Ethernet, without the Ethernet header.
type arpPacket struct {
	op       uint16
	sender   net.HardwareAddr
	senderIP netip.Addr
	target   net.HardwareAddr
	targetIP netip.Addr
}

const arpSize = 28

// arpHead is how the ones that count begin: Ethernet, IPv4, and their sizes.
var arpHead = [6]byte{0, 1, 8, 0, 6, 4}

func (p arpPacket) bytes() []byte {
	b := make([]byte, arpSize)
	copy(b, arpHead[:])
	binary.BigEndian.PutUint16(b[6:], p.op)
	copy(b[8:14], p.sender)
	copy(b[14:18], p.senderIP.AsSlice())
	copy(b[18:24], p.target)
	copy(b[24:28], p.targetIP.AsSlice())
	return b
}

// parseARP reads a packet, which may have padding; ok is false for others.
func parseARP(b []byte) (p arpPacket, ok bool) {
	if len(b) < arpSize || [6]byte(b) != arpHead {
		return arpPacket{}, false
	}
	return arpPacket{
		op:       binary.BigEndian.Uint16(b[6:]),
		sender:   net.HardwareAddr(b[8:14]),
		senderIP: netip.AddrFrom4([4]byte(b[14:])),
		target:   net.HardwareAddr(b[18:24]),
		targetIP: netip.AddrFrom4([4]byte(b[24:])),
	}, true
}

// arpFilter lets through what conflicts with the use of an address by the link
// with this MAC: other machines that use it, or while it is probed, probe it,
// too (RFC 5227, section 2.1.1). All other ARP in a network, which may be a lot,
// does not wake the processor.
func arpFilter(a netip.Addr, mac net.HardwareAddr, probing bool) []bpf.Instruction {
	ip := binary.BigEndian.Uint32(a.AsSlice())
	other := ip // an address that no sender has
	if probing {
		other = 0
	}
	return []bpf.Instruction{
		/* 0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 1 */ bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 14}, // for another machine, or a VLAN
		/* 2 */ bpf.LoadAbsolute{Off: 0, Size: 4},
		/* 3 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(arpHead[:]), SkipTrue: 12},
		/* 4 */ bpf.LoadAbsolute{Off: 10, Size: 4},
		/* 5 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac[2:6]), SkipTrue: 2},
		/* 6 */ bpf.LoadAbsolute{Off: 8, Size: 2},
		/* 7 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac)), SkipTrue: 8},
		/* 8 */ bpf.LoadAbsolute{Off: 14, Size: 4},
		/* 9 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: ip, SkipTrue: 5},
		/* 10 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: other, SkipTrue: 5},
		/* 11 */ bpf.LoadAbsolute{Off: 24, Size: 4},
		/* 12 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ip, SkipTrue: 3},
		/* 13 */ bpf.LoadAbsolute{Off: 6, Size: 2},
		/* 14 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: arpRequest, SkipTrue: 1},
		/* 15 */ bpf.RetConstant{Val: arpSize},
		/* 16 */ bpf.RetConstant{Val: 0},
	}
}

// arpConn hears of conflicts over one address.
type arpConn struct {
	*packet.Conn
	link *port
	addr netip.Addr
}

func listenARP(link *port, a netip.Addr, probing bool) (*arpConn, error) {
	conn, err := link.listen(unix.ETH_P_ARP, arpFilter(a, link.mac, probing))
	if err != nil {
		return nil, err
	}
	return &arpConn{conn, link, a}, nil
}

// send broadcasts a request for the address: a probe if it comes from nobody,
// an announcement if it comes from the address itself.
func (c *arpConn) send(from netip.Addr) error {
	p := arpPacket{op: arpRequest, sender: c.link.mac, senderIP: from, targetIP: c.addr}
	_, err := c.WriteTo(p.bytes(), &packet.Addr{HardwareAddr: broadcastMAC})
	return err
}

// conflict returns the machine that has the address, too, or nil if none shows
// up before the deadline.
func (c *arpConn) conflict(deadline time.Time) (net.HardwareAddr, error) {
	if err := c.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	buf := make([]byte, arpSize)
	for {
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		// Links of this gateway may meet in one network.
		if p, ok := parseARP(buf[:n]); ok && !c.link.isOurs(p.sender) {
			return p.sender, nil
		}
	}
}

// probe looks whether another machine uses the address, and returns which.
func (s *session) probe(ctx context.Context, a netip.Addr) (net.HardwareAddr, error) {
	if s.noARP {
		return nil, nil
	}
	c, err := listenARP(&s.port, a, true)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	const probes = 3
	for n := 1; ; n++ {
		if err := c.send(netip.IPv4Unspecified()); err != nil {
			return nil, err
		}
		wait := s.probeGap + rand.N(s.probeGap/2)
		if n == probes {
			wait = 2 * s.probeGap
		}
		holder, err := c.conflict(time.Now().Add(wait))
		if holder != nil || err != nil || n == probes {
			return holder, err
		}
	}
}

// defend announces the address and watches that no other machine uses it. If
// one does it says once that the address is taken; if that does not help, RFC
// 5227 lets us give up (section 2.4 b): defend returns. With keep, for an
// address that somebody chose, it never does so but goes on (c), and reports
// the conflict as the error of the link until that is over.
func (s *session) defend(ctx context.Context, a netip.Addr, keep bool) {
	if s.noARP {
		<-ctx.Done()
		return
	}
	var quiet time.Duration // after which a conflict is over; 0: there is none
	announce := 2
	for pause := s.defendGap; ctx.Err() == nil; {
		other, err := s.watch(ctx, a, keep, announce, quiet)
		announce = 0
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.log.Warn("watch for address conflicts", "address", a, "err", err, "again_in", pause)
			sleep(ctx, pause)
			pause = min(2*pause, time.Hour)
		case other == nil:
			quiet = 0
			s.solved(a)
		case keep:
			s.conflicts(a, other)
			// Only once in a while, or two machines of this kind would never stop.
			sleep(ctx, s.defendGap)
			quiet = 5 * s.defendGap
		default:
			s.log.Error("address given up: another machine uses it", "address", a, "mac", other.String())
			return
		}
	}
}

// watch announces the address so many times, and returns the machine that uses
// it, too, when it has told that one: with keep the next, else the one that
// does not care. It returns nil when there is none for the time, if that isn't
// 0. The socket stays open between conflicts, so that none is missed.
func (s *session) watch(ctx context.Context, a netip.Addr, keep bool, announce int, quiet time.Duration) (net.HardwareAddr, error) {
	c, err := listenARP(&s.port, a, false)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var defended time.Time
	for {
		var deadline time.Time // none: nothing but a conflict wakes us
		switch {
		case announce > 0:
			if err := c.send(a); err != nil {
				return nil, err
			}
			deadline = time.Now().Add(s.announceGap)
		case quiet != 0:
			deadline = time.Now().Add(quiet)
		}
		other, err := c.conflict(deadline)
		switch {
		case err != nil:
			return nil, err
		case other == nil && announce > 0:
			announce--
			continue
		case other == nil:
			return nil, nil
		case !keep && !defended.IsZero() && time.Since(defended) < s.defendGap:
			return other, nil
		}
		announce = 0 // this is one, too
		c.send(a)    // if that fails the next conflict shows it
		if keep {
			return other, nil
		}
		defended = time.Now()
		s.log.Warn("another machine uses our address", "address", a, "mac", other.String())
	}
}
