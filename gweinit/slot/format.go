package slot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/exosite/gwe/gweinit/ubenv"
)

// The layout of the partition ubenv, frozen: boot.scr in the field knows it.
const (
	// CopySize is the size of one copy: an environment as U-Boot's
	// "env import -c" and mkenvimage know it.
	CopySize = 0x4000
	// SecondCopy is where the second copy starts.
	SecondCopy = ubenv.BootState + ubenv.Second
	// Version of the contract between boot.scr and ubenv, in the variable V.
	Version = 1
)

// Encode returns one copy of the state, CopySize bytes: the CRC-32 of the
// rest, little-endian, then "NAME=value" strings that end in NUL, an empty
// string, and zeros (U-Boot, doc/mkenvimage.1 and env/common.c). Numbers are
// hexadecimal without prefix, as U-Boot's setexpr writes them. boot.scr knows
// the names.
func (s State) Encode() []byte {
	buf := make([]byte, 4, CopySize)
	for _, v := range []struct{ name, value string }{
		{"V", hex(Version)},
		{"SEQ", hex(s.Seq)},
		{"GOOD", string(s.Good)},
		{"TRIAL", string(s.Trial)},
		{"T_LEFT", hex(s.TrialLeft)},
		{"A_STATE", string(s.A.Status)},
		{"A_LEFT", hex(s.A.Left)},
		{"B_STATE", string(s.B.Status)},
		{"B_LEFT", hex(s.B.Left)},
	} {
		if v.value != "" { // U-Boot has no empty variables
			buf = append(buf, v.name+"="+v.value+"\x00"...)
		}
	}
	buf = buf[:CopySize]
	binary.LittleEndian.PutUint32(buf, crc32.ChecksumIEEE(buf[4:]))
	return buf
}

// Decode reads one copy. It is as strict as boot.scr, no more: a copy that
// U-Boot boots by has to count in Linux too. Within a valid copy an unknown
// status reads as Bad and a number that is none as 0.
func Decode(buf []byte) (State, error) {
	if len(buf) != CopySize {
		return State{}, fmt.Errorf("%d bytes, want %d", len(buf), CopySize)
	}
	if got, want := crc32.ChecksumIEEE(buf[4:]), binary.LittleEndian.Uint32(buf); got != want {
		return State{}, fmt.Errorf("CRC-32 is %08x, the data has %08x", want, got)
	}
	vars := map[string]string{}
	for rest := buf[4:]; len(rest) > 0 && rest[0] != 0; {
		var entry []byte
		entry, rest, _ = bytes.Cut(rest, []byte{0})
		if name, value, ok := strings.Cut(string(entry), "="); ok {
			vars[name] = value
		}
	}
	if vars["V"] != hex(Version) {
		return State{}, fmt.Errorf("version %q, want %d", vars["V"], Version)
	}
	seq, err := strconv.ParseUint(vars["SEQ"], 16, 32)
	if err != nil {
		return State{}, fmt.Errorf("SEQ is %q: %w", vars["SEQ"], errors.Unwrap(err))
	}
	s := State{
		Seq:       uint32(seq),
		Good:      Name(vars["GOOD"]),
		TrialLeft: unhex(vars["T_LEFT"]),
		A:         Slot{status(vars["A_STATE"]), unhex(vars["A_LEFT"])},
		B:         Slot{status(vars["B_STATE"]), unhex(vars["B_LEFT"])},
	}
	if !s.Good.Valid() {
		return State{}, fmt.Errorf("GOOD is %q, neither a nor b", vars["GOOD"])
	}
	if t := Name(vars["TRIAL"]); t.Valid() {
		s.Trial = t
	}
	return s, nil
}

func hex(n uint32) string { return strconv.FormatUint(uint64(n), 16) }

func unhex(s string) uint32 {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

func status(s string) Status {
	switch st := Status(s); st {
	case Empty, Writing, Ready, Good, Bad:
		return st
	}
	return Bad
}
