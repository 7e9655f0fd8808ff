//go:build qemu

package stories

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/qemu"
)

// wire is a cable with a machine at one end and the test at the other, which
// answers for one address.
type wire struct {
	conn    *net.UnixConn
	machine *net.UnixAddr
	mac     net.HardwareAddr
	addr    netip.Addr
	peer    net.HardwareAddr // of the machine, once it has been heard
}

// plugWire returns a wire, and what connects a machine to it in the place of
// QEMU's network.
func plugWire(t *testing.T, addr string) (*wire, func(*qemu.Options)) {
	t.Helper()
	dir := t.TempDir()
	here, there := filepath.Join(dir, "here"), filepath.Join(dir, "there")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: here, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w := &wire{conn: conn, machine: &net.UnixAddr{Name: there, Net: "unixgram"}, mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, addr: netip.MustParseAddr(addr)}
	return w, func(o *qemu.Options) {
		replaceNetwork(o, fmt.Sprintf("-netdev dgram,id=net,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", there, here))
	}
}

// replaceNetwork gives a machine another network than QEMU's own.
func replaceNetwork(o *qemu.Options, netdev string) {
	b := *o.Board
	b.Machine = board.Machine(b.Machine)
	b.Machine.Command = slices.Clone(b.Machine.Command)
	for i, words := range b.Machine.Command {
		b.Machine.Command[i] = strings.Replace(words, "-netdev user,id=net", netdev, 1)
	}
	o.Board = &b
}

// send sends an Ethernet frame to the machine.
func (w *wire) send(ethertype uint16, payload []byte) {
	to := w.peer
	if to == nil {
		to = bytes.Repeat([]byte{0xff}, 6)
	}
	frame := append(append(slices.Clone(to), w.mac...), byte(ethertype>>8), byte(ethertype))
	frame = append(frame, payload...)
	if short := 60 - len(frame); short > 0 {
		frame = append(frame, make([]byte, short)...)
	}
	w.conn.WriteToUnix(frame, w.machine) // a wire may lose frames
}

const (
	ipv4 = 0x0800
	arp  = 0x0806

	icmp, tcp, udp = 1, 6, 17
)

// receive returns the next IPv4 packet of the machine, its protocol and what is
// behind its header, and answers ARP meanwhile. It is nil after the time.
func (w *wire) receive(wait time.Duration) (protocol byte, payload []byte) {
	w.conn.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 2048)
	for {
		n, err := w.conn.Read(buf)
		if err != nil {
			return 0, nil
		}
		frame := buf[:n]
		if n < 14+20 {
			continue
		}
		body := frame[14:]
		switch binary.BigEndian.Uint16(frame[12:]) {
		case arp: // RFC 826
			w.peer = slices.Clone(frame[6:12])
			asked, _ := netip.AddrFromSlice(body[24:28])
			if request := binary.BigEndian.Uint16(body[6:]) == 1; !request || asked != w.addr {
				continue
			}
			reply := slices.Clone(body[:28])
			reply[7] = 2
			copy(reply[18:], body[8:18]) // to who has asked
			copy(reply[8:], w.mac)
			copy(reply[14:], body[24:28])
			w.send(arp, reply)
		case ipv4:
			if to, _ := netip.AddrFromSlice(body[16:20]); to == w.addr {
				return body[9], slices.Clone(body[int(body[0]&15)*4:])
			}
		}
	}
}

// drain takes what the machine sends from now on: if nobody does, its adapter
// waits, and the machine with it.
func (w *wire) drain() {
	w.conn.SetReadDeadline(time.Time{})
	go func() {
		buf := make([]byte, 2048)
		for {
			if _, err := w.conn.Read(buf); err != nil { // the end of the test
				return
			}
		}
	}()
}

// packet sends an IPv4 packet.
func (w *wire) packet(to netip.Addr, protocol byte, payload []byte) {
	head := make([]byte, 20)
	head[0], head[8], head[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(head[2:], uint16(len(head)+len(payload)))
	copy(head[12:], w.addr.AsSlice())
	copy(head[16:], to.AsSlice())
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	w.send(ipv4, append(head, payload...))
}

// checksum is that of the Internet (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// syn asks for a TCP connection, datagram sends an empty one of UDP.
func (w *wire) syn(to netip.Addr, port uint16) {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	b[12], b[13] = 5<<4, 2
	binary.BigEndian.PutUint16(b[14:], 1024)
	pseudo := append(append(w.addr.AsSlice(), to.AsSlice()...), 0, tcp, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	w.packet(to, tcp, b)
}

func (w *wire) datagram(to netip.Addr, port uint16) {
	b := make([]byte, 8) // without a checksum
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	w.packet(to, udp, b)
}

// scan tries all ports of a machine, and returns those that did not refuse.
func (w *wire) scan(t *testing.T, to netip.Addr, protocol byte) (open []uint16) {
	t.Helper()
	left := make([]uint16, 0, 1<<16)
	for port := 1; port < 1<<16; port++ {
		left = append(left, uint16(port))
	}
	const window = 16 // half of what pcnet's queue takes
	closed := make([]bool, 1<<16)
	for round := 0; len(left) > 0 && round < 6; round++ {
		silent := 0 // windows in a row; 100 take 20 s
		for ports := range slices.Chunk(left, window) {
			for _, port := range ports {
				if protocol == tcp {
					w.syn(to, port)
				} else {
					w.datagram(to, port)
				}
			}
			if silent++; silent > 100 {
				t.Fatalf("the machine does not answer any more")
			}
			for waiting := len(ports); waiting > 0; {
				got, b := w.receive(200 * time.Millisecond)
				if b == nil {
					break
				}
				silent = 0
				switch {
				case protocol == tcp && got == tcp && len(b) >= 20:
					if port := binary.BigEndian.Uint16(b); b[13]&4 != 0 { // RST
						closed[port] = true
						waiting--
					}
				case protocol == udp && got == icmp && len(b) >= 8+20+8 && b[0] == 3 && b[1] == 3: // port unreachable
					closed[binary.BigEndian.Uint16(b[8+20+2:])] = true
					waiting--
				}
			}
		}
		left = slices.DeleteFunc(left, func(port uint16) bool { return closed[port] })
	}
	return left
}
