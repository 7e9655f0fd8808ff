package network

import (
	"bytes"
	"net"
	"net/netip"
	"reflect"
	"testing"
)

func TestParseARP(t *testing.T) {
	p := arpPacket{
		op:     2,
		sender: net.HardwareAddr{2, 0, 0, 0, 0, 9}, senderIP: netip.MustParseAddr("10.0.0.9"),
		target: testMAC, targetIP: netip.MustParseAddr("10.0.0.8"),
	}
	good := p.bytes()
	if want := "\x00\x01\x08\x00\x06\x04\x00\x02\x02\x00\x00\x00\x00\x09\x0a\x00\x00\x09\x02\x00\x00\x00\x00\x01\x0a\x00\x00\x08"; string(good) != want {
		t.Errorf("bytes:\n% x, want\n% x", good, want)
	}
	for _, b := range [][]byte{good, append(bytes.Clone(good), make([]byte, 18)...)} { // padding of Ethernet
		if got, ok := parseARP(b); !ok || !reflect.DeepEqual(got, p) {
			t.Errorf("% x: got %+v, %t", b, got, ok)
		}
	}
	for n := range good {
		if got, ok := parseARP(good[:n]); ok {
			t.Errorf("%d bytes: %+v", n, got)
		}
	}
	for i := range arpHead { // other hardware, protocols and sizes
		b := bytes.Clone(good)
		b[i]++
		if got, ok := parseARP(b); ok {
			t.Errorf("% x: %+v", b, got)
		}
	}
}

func TestARPFilter(t *testing.T) {
	const ours, other, none = "10.0.0.9", "10.0.0.8", "0.0.0.0"
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, tt := range []struct {
		name    string
		op      uint16
		sender  net.HardwareAddr
		from    string
		to      string
		using   bool // taken while we use the address
		probing bool // and while we probe it
	}{
		{"announces it", 1, mac, ours, ours, true, true},
		{"answers for it", 2, mac, ours, other, true, true},
		{"asks from it", 1, mac, ours, other, true, true},
		{"probes it", 1, mac, none, ours, false, true},
		{"an answer from nobody", 2, mac, none, ours, false, false},
		{"probes another", 1, mac, none, other, false, false},
		{"asks for it", 1, mac, other, ours, false, false},
		{"answers for another", 2, mac, other, ours, false, false},
		{"we announce it", 1, testMAC, ours, ours, false, false},
		{"we probe it", 1, testMAC, none, ours, false, false},
		{"the end of our MAC", 1, net.HardwareAddr{2, 1, 0, 0, 0, 1}, ours, ours, true, true},
		{"the beginning of our MAC", 1, net.HardwareAddr{2, 0, 0, 0, 1, 1}, ours, ours, true, true},
	} {
		p := arpPacket{op: tt.op, sender: tt.sender, senderIP: netip.MustParseAddr(tt.from), targetIP: netip.MustParseAddr(tt.to)}
		for probing, want := range map[bool]bool{false: tt.using, true: tt.probing} {
			filter := arpFilter(netip.MustParseAddr(ours), testMAC, probing)
			if got := accepts(t, filter, p.bytes()); got != want {
				t.Errorf("%s: %t while probing is %t", tt.name, got, probing)
			}
			b := p.bytes()
			if b[1]++; accepts(t, filter, b) {
				t.Errorf("%s: takes other hardware's", tt.name)
			}
			if accepts(t, filter, p.bytes()[:arpSize-1]) && tt.from == none {
				t.Errorf("%s: takes a short one", tt.name)
			}
		}
	}
}

func FuzzARP(f *testing.F) {
	ours := netip.MustParseAddr("10.0.0.9")
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, p := range []arpPacket{
		{op: 1, sender: other, senderIP: ours, targetIP: ours},
		{op: 1, sender: other, senderIP: netip.IPv4Unspecified(), targetIP: ours},
		{op: 2, sender: testMAC, senderIP: ours, target: other, targetIP: testServer},
	} {
		f.Add(p.bytes(), true)
		f.Add(append(p.bytes(), 0), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, probing bool) {
		p, ok := parseARP(b)
		if !ok {
			if !reflect.DeepEqual(p, arpPacket{}) {
				t.Errorf("% x: %+v", b, p)
			}
			return
		}
		if !bytes.Equal(p.bytes(), b[:arpSize]) {
			t.Errorf("% x gives %+v", b, p)
		}
		conflict := p.senderIP == ours || probing && p.op == arpRequest && p.senderIP.IsUnspecified() && p.targetIP == ours
		want := conflict && p.sender.String() != testMAC.String()
		if got := accepts(t, arpFilter(ours, testMAC, probing), b); got != want {
			t.Errorf("the filter takes %+v: %t, want %t", p, got, want)
		}
	})
}
