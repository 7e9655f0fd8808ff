package network

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

var (
	testID     = dhcpv4.TransactionID{1, 2, 3, 4}
	testMAC    = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	testServer = netip.MustParseAddr("10.0.0.1")
)

// reply is a packet with an answer to testMAC, as a server sends it.
func reply(options ...dhcpv4.Option) []byte {
	m := ack(options...)
	m.OpCode, m.TransactionID, m.ClientHWAddr = dhcpv4.OpcodeBootReply, testID, testMAC
	b := wrapUDP(testServer, m.ToBytes())
	binary.BigEndian.PutUint16(b[ipv4Header:], serverPort) // the same checksum
	binary.BigEndian.PutUint16(b[ipv4Header+2:], clientPort)
	return b
}

// seal sets the checksum of the IPv4 header, if there is one.
func seal(b []byte) []byte {
	if len(b) >= ipv4Header && int(b[0]&0xf)*4 <= len(b) {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], checksum(b[:max(b[0]&0xf, 3)*4], 0))
	}
	return b
}

// withOptions returns the packet with 4 bytes of options in its IPv4 header.
func withOptions(b []byte) []byte {
	b = slices.Insert(b, ipv4Header, 1, 1, 1, 0)
	b[0]++
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return seal(b)
}

func TestWrapUDP(t *testing.T) {
	for n := range 1 << 16 { // some have the checksum 0
		payload := []byte{byte(n >> 8), byte(n), 0xaa}[:2+n%2]
		b := wrapUDP(testServer, payload)
		// Over everything that it is for, itself included, the sum is 0.
		pseudo := append(bytes.Clone(b[12:20]), 0, unix.IPPROTO_UDP, 0, byte(udpHeader+len(payload)))
		if b[26] == 0 && b[27] == 0 || checksum(append(pseudo, b[ipv4Header:]...), 0) != 0 {
			t.Fatalf("% x: wrong UDP checksum", b)
		}
		if got, err := unwrapUDP(b); err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("% x: got % x, %v", b, got, err)
		}
	}
}

func TestParseReply(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		want   string // how the error begins
	}{
		{"good", func(b []byte) []byte { return b }, ""},
		{"padding", func(b []byte) []byte { return append(b, 0, 0, 0) }, ""},
		{"IPv4 options", withOptions, ""},
		{"no UDP checksum", func(b []byte) []byte { b[26], b[27] = 0, 0; return b }, ""},
		{"nothing", func(b []byte) []byte { return nil }, "no IPv4"},
		{"IPv6", func(b []byte) []byte { b[0] = 6<<4 | 5; return b }, "no IPv4"},
		{"a short header", func(b []byte) []byte { b[0] = 4<<4 | 4; return seal(b) }, "IPv4 header with wrong sizes"},
		{"a header longer than the packet", func(b []byte) []byte { b[0] = 4<<4 | 15; return b[:40] }, "IPv4 header with wrong sizes"},
		{"longer than it is", func(b []byte) []byte { b[2] = 4; return seal(b) }, "IPv4 header with wrong sizes"},
		{"shorter than UDP", func(b []byte) []byte { b[2], b[3] = 0, ipv4Header+udpHeader-1; return seal(b) }, "IPv4 header with wrong sizes"},
		{"IPv4 checksum", func(b []byte) []byte { b[10]++; return b }, "IPv4 header with a wrong checksum"},
		{"TCP", func(b []byte) []byte { b[9] = unix.IPPROTO_TCP; return seal(b) }, "UDP header with wrong sizes"},
		{"UDP longer than it is", func(b []byte) []byte { b[24] = 8; return b }, "UDP header with wrong sizes"},
		{"UDP shorter than its header", func(b []byte) []byte { b[24], b[25] = 0, udpHeader-1; return b }, "UDP header with wrong sizes"},
		{"UDP of nothing", func(b []byte) []byte { b[24], b[25] = 0, udpHeader; return b }, "buffer too short"},
		{"a question", func(b []byte) []byte { b[28] = 1; return b }, "for another client"},
		{"another transaction", func(b []byte) []byte { b[35]++; return b }, "for another client"},
		{"another MAC", func(b []byte) []byte { b[61]++; return b }, "for another client"},
		{"a longer MAC", func(b []byte) []byte { b[30]++; return b }, "for another client"},
		{"no DHCP", func(b []byte) []byte { b[ipv4Header+udpHeader+bootpSize]++; return b }, "malformed DHCP packet"},
	} {
		m, err := parseReply(tt.change(reply()), testID, testMAC)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") || (m == nil) != (err != nil) {
			t.Errorf("%s: got %v, %q, want %q", tt.name, m, got, tt.want)
		}
	}
	good := reply()
	for n := range good {
		if m, err := parseReply(good[:n], testID, testMAC); err == nil {
			t.Errorf("%d of %d bytes: %v", n, len(good), m)
		}
	}
}

// accepts says what a filter does with a packet to us. Go's virtual machine
// does not know what the filter looks at first: whom the packet is for.
func accepts(t *testing.T, filter []bpf.Instruction, b []byte) bool {
	t.Helper()
	if filter[0] != (bpf.LoadExtension{Num: bpf.ExtType}) {
		t.Fatalf("the filter begins with %v", filter[0])
	}
	if to, ok := filter[1].(bpf.JumpIf); !ok || filter[2+to.SkipTrue] != (bpf.RetConstant{Val: 0}) {
		t.Fatalf("the filter takes what is for others: %v", filter[1])
	}
	vm, err := bpf.NewVM(filter[2:])
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestDHCPFilter(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		want   bool
	}{
		{"good", func(b []byte) []byte { return b }, true},
		{"IPv4 options", withOptions, true},
		{"do not fragment", func(b []byte) []byte { b[6] = 0x40; return b }, true},
		{"first fragment", func(b []byte) []byte { b[6] = 0x20; return b }, false},
		{"last fragment", func(b []byte) []byte { b[7] = 1; return b }, false},
		{"TCP", func(b []byte) []byte { b[9] = unix.IPPROTO_TCP; return b }, false},
		{"a question", func(b []byte) []byte { b[28] = 1; return b }, false},
		{"to a server", func(b []byte) []byte { b[23] = serverPort; return b }, false},
		{"nothing", func(b []byte) []byte { return nil }, false},
		{"too short", func(b []byte) []byte { return b[:60] }, false},
		{"just long enough", func(b []byte) []byte { return b[:62] }, true},
	} {
		if got := accepts(t, dhcpFilter(testID, testMAC), tt.change(reply())); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
	for i := range 4 {
		b := reply()
		b[32+i]++
		if accepts(t, dhcpFilter(testID, testMAC), b) {
			t.Errorf("takes byte %d of another transaction", i)
		}
	}
	for i := range 6 {
		b := reply()
		b[56+i]++
		if accepts(t, dhcpFilter(testID, testMAC), b) {
			t.Errorf("takes byte %d of another MAC", i)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add(reply(router("10.0.0.1")))
	f.Add(withOptions(reply()))
	f.Add(wrapUDP(testServer, ack().ToBytes()))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = seal(bytes.Clone(b)) // or few would get past it
		m, err := parseReply(b, testID, testMAC)
		if err != nil {
			if m != nil {
				t.Errorf("%v, %v", m, err)
			}
			return
		}
		if m.OpCode != dhcpv4.OpcodeBootReply || m.TransactionID != testID || m.ClientHWAddr.String() != testMAC.String() {
			t.Errorf("another client's: %v", m)
		}
		payload, err := unwrapUDP(b)
		if err != nil || !bytes.Contains(b, payload) || len(payload) < bootpSize || len(payload) > len(b)-ipv4Header-udpHeader {
			t.Errorf("payload % x, %v", payload, err)
		}
		// The filter keeps nothing from us but what is for another port, and
		// fragments.
		head := int(b[0]&0xf) * 4
		ours := binary.BigEndian.Uint16(b[head+2:]) == clientPort && binary.BigEndian.Uint16(b[6:])&0x3fff == 0
		if got := accepts(t, dhcpFilter(testID, testMAC), b); got != ours {
			t.Errorf("the filter takes it: %t, want %t", got, ours)
		}
	})
}
