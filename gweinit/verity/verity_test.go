package verity

import (
	"bytes"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func params() Params {
	p := Params{Blocks: 3000}
	copy(p.RootHash[:], bytes.Repeat([]byte{0xab}, HashSize))
	copy(p.Salt[:], bytes.Repeat([]byte{0x01}, SaltSize))
	return p
}

var (
	rootHex = strings.Repeat("ab", HashSize)
	saltHex = strings.Repeat("01", SaltSize)
	good    = "root=" + rootHex + " salt=" + saltHex + " blocks=3000\n"
)

func TestParse(t *testing.T) {
	if got := params().Encode(); got != good {
		t.Errorf("encoded: %q, want %q", got, good)
	}
	if got, err := Parse(good); err != nil || got != params() {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, tt := range []struct{ name, line string }{
		{"empty", ""},
		{"no line's end", strings.TrimSpace(good)},
		{"two lines", good + good},
		{"more at the end", strings.TrimSpace(good) + " fec=1\n"},
		{"NUL at the end", good + "\x00"},
		{"two blanks", strings.Replace(good, " ", "  ", 1)},
		{"capitals", "root=" + strings.ToUpper(rootHex) + " salt=" + saltHex + " blocks=3000\n"},
		{"another order", "salt=" + saltHex + " root=" + rootHex + " blocks=3000\n"},
		{"a short hash", strings.Replace(good, "root=ab", "root=", 1)},
		{"a long salt", strings.Replace(good, "salt=", "salt=01", 1)},
		{"no hash", "root= salt=" + saltHex + " blocks=3000\n"},
		{"no digits", strings.Replace(good, "abab", "xyxy", 1)},
		{"no key", strings.Replace(good, "blocks=", "", 1)},
		{"no block", strings.Replace(good, "3000", "0", 1)},
		{"a leading zero", strings.Replace(good, "3000", "03000", 1)},
		{"a sign", strings.Replace(good, "3000", "+3000", 1)},
		{"less than nothing", strings.Replace(good, "3000", "-1", 1)},
		{"too many blocks", strings.Replace(good, "3000", "4294967297", 1)},
		{"more than 64 bits", strings.Replace(good, "3000", "99999999999999999999", 1)},
	} {
		if p, err := Parse(tt.line); err == nil || !strings.Contains(err.Error(), "want root=HASH salt=HASH blocks=NUMBER") {
			t.Errorf("%s: got %+v, %v", tt.name, p, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("root= salt= blocks=\n")
	f.Fuzz(func(t *testing.T, line string) {
		p, err := Parse(line)
		if err != nil {
			return
		}
		if got := p.Encode(); got != line || p.Blocks == 0 {
			t.Errorf("%q is read as %q", line, got)
		}
	})
}

func TestTable(t *testing.T) {
	want := "1 /dev/vda5 /dev/vda5 4096 4096 3000 3001 sha256 " + rootHex + " " + saltHex
	if got := params().table("/dev/vda5"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The kernel's structures are the same on all architectures.
func TestRequest(t *testing.T) {
	r := newRequest("root")
	if r.Data_start != unix.SizeofDmIoctl || unsafe.Offsetof(r.params) != unix.SizeofDmIoctl+unix.SizeofDmTargetSpec ||
		r.Data_size != unix.SizeofDmIoctl+unix.SizeofDmTargetSpec+512 {
		t.Errorf("start %d, parameters at %d, size %d", r.Data_start, unsafe.Offsetof(r.params), r.Data_size)
	}
	longest := Params{Blocks: MaxBlocks}.table("/dev/disk/by-partlabel/" + strings.Repeat("x", 36))
	if len(longest) >= len(r.params) {
		t.Errorf("no room for a table of %d bytes", len(longest))
	}
}
