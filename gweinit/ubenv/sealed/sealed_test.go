package sealed

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// What gateways in the field have on their disks.
func TestFormatIsFrozen(t *testing.T) {
	buf := Encode("GWE TEST", 1, 0x0102, []byte("payload"), 512)
	want := "4757452054455354" + "01000000" + "02010000" + "07000000" +
		"a7eaa12055e90322538c8f22820c3bebaccf8d3edc576c8130ff730e17971e3b" // the SHA-256
	if got := hex.EncodeToString(buf[:Overhead]); got != want {
		t.Errorf("the header is %s, want %s", got, want)
	}
	payload, seq, err := Decode("GWE TEST", 1, buf)
	if err != nil || seq != 0x0102 || string(payload) != "payload" || len(buf) != 512 || !bytes.Equal(buf[Overhead+7:], make([]byte, 512-Overhead-7)) {
		t.Errorf("unsealed: %q, %#x, %v", payload, seq, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := Encode("GWE TEST", 1, 7, []byte("payload"), 512)
	with := func(off int, b byte) []byte {
		buf := bytes.Clone(good)
		buf[off] ^= b
		return buf
	}
	for _, tt := range []struct {
		name, want string
		buf        []byte
	}{
		{"nothing", "does not begin with", nil},
		{"cut short", "does not begin with", good[:Overhead-1]},
		{"other magic", "does not begin with", with(0, 1)},
		{"a later layout", "version 3, want 1", with(8, 2)},
		{"a huge length", "length 2147483655, at most 460", with(19, 0x80)},
		{"length", "SHA-256", with(16, 1)},
		{"sequence number", "SHA-256", with(12, 1)},
		{"payload", "SHA-256", with(Overhead, 1)},
	} {
		if _, _, err := Decode("GWE TEST", 1, tt.buf); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
