package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// port is what a goroutine needs to use a link's Ethernet.
type port struct {
	index    int
	name     string
	mac      net.HardwareAddr // 6 bytes if it is Ethernet
	mtu      int
	ethernet bool
	noARP    bool
	isOurs   func(mac net.HardwareAddr) bool // whether one of our links has it
}

var broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// listen opens a socket for packets of an Ethernet type, without the Ethernet
// header.
func (p *port) listen(protocol int, filter []bpf.Instruction) (*packet.Conn, error) {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, err
	}
	link := &net.Interface{Index: p.index, Name: p.name, HardwareAddr: p.mac}
	return packet.Listen(link, packet.Datagram, protocol, &packet.Config{Filter: raw})
}

const (
	serverPort = 67
	clientPort = 68

	ipv4Header = 20
	udpHeader  = 8
	bootpSize  = 236 // without the options

	// maxReply is more than any DHCP message that fits the Ethernet we ask for.
	maxReply = 2048
)

// dhcpFilter lets through answers to us with this transaction ID, so that
// other clients' broadcasts do not wake the processor.
func dhcpFilter(id dhcpv4.TransactionID, mac net.HardwareAddr) []bpf.Instruction {
	return []bpf.Instruction{
		/* 0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 1 */ bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 16}, // for another machine, or a VLAN
		/* 2 */ bpf.LoadAbsolute{Off: 9, Size: 1},
		/* 3 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 14},
		/* 4 */ bpf.LoadAbsolute{Off: 6, Size: 2},
		/* 5 */ bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 12}, // a fragment
		/* 6 */ bpf.LoadMemShift{Off: 0}, // X is the size of the IP header
		/* 7 */ bpf.LoadIndirect{Off: 2, Size: 2},
		/* 8 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort, SkipTrue: 9},
		/* 9 */ bpf.LoadIndirect{Off: udpHeader, Size: 1},
		/* 10 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(dhcpv4.OpcodeBootReply), SkipTrue: 7},
		/* 11 */ bpf.LoadIndirect{Off: udpHeader + 4, Size: 4},
		/* 12 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(id[:]), SkipTrue: 5},
		/* 13 */ bpf.LoadIndirect{Off: udpHeader + 28, Size: 4},
		/* 14 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac), SkipTrue: 3},
		/* 15 */ bpf.LoadIndirect{Off: udpHeader + 32, Size: 2},
		/* 16 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1},
		/* 17 */ bpf.RetConstant{Val: maxReply},
		/* 18 */ bpf.RetConstant{Val: 0},
	}
}

// wrapUDP puts a DHCP message into UDP and IPv4, to everybody: the kernel does
// that only for a link with an address.
func wrapUDP(from netip.Addr, payload []byte) []byte {
	b := make([]byte, ipv4Header+udpHeader, ipv4Header+udpHeader+len(payload))
	b[0] = 4<<4 | ipv4Header/4
	binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
	b[8] = 64 // TTL
	b[9] = unix.IPPROTO_UDP
	copy(b[12:], from.AsSlice())
	copy(b[16:], broadcast.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:ipv4Header], 0))
	udp := b[ipv4Header:]
	size := udpHeader + len(payload)
	binary.BigEndian.PutUint16(udp[0:], clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(size))
	b = append(b, payload...)
	// The checksum goes over the addresses, the protocol and the size, too.
	sum := checksum(b[12:], uint32(unix.IPPROTO_UDP+size))
	if sum == 0 {
		sum = 0xffff // 0 is for none
	}
	binary.BigEndian.PutUint16(b[ipv4Header+6:], sum)
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// unwrapUDP returns what a packet from a server to a client carries. The UDP
// checksum is not looked at: packets that come from a program on the same
// machine, or through a virtual one, do not have it yet.
func unwrapUDP(b []byte) ([]byte, error) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return nil, errors.New("no IPv4")
	}
	head, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < ipv4Header || total < head+udpHeader || total > len(b) {
		return nil, errors.New("IPv4 header with wrong sizes")
	}
	if checksum(b[:head], 0) != 0 {
		return nil, errors.New("IPv4 header with a wrong checksum")
	}
	udp := b[head:total]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if b[9] != unix.IPPROTO_UDP || size < udpHeader || size > len(udp) {
		return nil, errors.New("UDP header with wrong sizes")
	}
	return udp[udpHeader:size], nil
}

// parseReply returns the answer with the transaction ID, for the client with
// this MAC, that a packet carries.
func parseReply(b []byte, id dhcpv4.TransactionID, mac net.HardwareAddr) (*dhcpv4.DHCPv4, error) {
	payload, err := unwrapUDP(b)
	if err != nil {
		return nil, err
	}
	m, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return nil, err
	}
	if m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != id || string(m.ClientHWAddr) != string(mac) {
		return nil, errors.New("for another client")
	}
	return m, nil
}

// unicast opens a socket to send messages from the link's address a. Answers
// to the address that come while it is open cause no complaint by ICMP, as they
// would without it; they are read elsewhere, and dropped here.
func (p *port) unicast(ctx context.Context, a netip.Addr) (net.PacketConn, error) {
	drop, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err != nil {
		return nil, err
	}
	program := unix.SockFprog{Len: uint16(len(drop)), Filter: &unix.SockFilter{Code: drop[0].Op, K: drop[0].K}}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.BindToDevice(int(fd), p.name),
				unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program),
			)
		}); e != nil {
			return e
		}
		return err
	}}
	conn, err := config.ListenPacket(ctx, "udp4", netip.AddrPortFrom(a, clientPort).String())
	if err != nil {
		return nil, fmt.Errorf("socket for renewing: %w", err)
	}
	return conn, nil
}
