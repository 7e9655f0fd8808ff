// Package sealed is the format of records in the partition ubenv that Linux alone
// reads and writes: a payload with a checksum. (It is not in ubenv itself, since the
// initramfs has that and no cryptography.)
package sealed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// The format of a copy, frozen, since both slots read it. Numbers are little-endian.
//
//	 0  magic of the record, 8 bytes
//	 8  version of its layout
//	12  sequence number
//	16  length of the payload
//	20  SHA-256 of the 20 bytes before and the payload
//	52  payload; the rest of the copy is zeros
const (
	magicSize = 8
	sumOffset = 20

	// Overhead is how many bytes of a copy are not its payload.
	Overhead = sumOffset + sha256.Size
)

// Encode returns a copy of size bytes with a payload that has to fit.
func Encode(magic string, version, seq uint32, payload []byte, size int) []byte {
	buf := make([]byte, Overhead, size)
	copy(buf[:magicSize], magic)
	for i, n := range []uint32{version, seq, uint32(len(payload))} {
		binary.LittleEndian.PutUint32(buf[magicSize+4*i:], n)
	}
	buf = append(buf, payload...)
	copy(buf[sumOffset:], checksum(buf))
	return buf[:size]
}

// Decode returns the payload and the sequence number of a copy of this magic and
// version. The payload is a part of buf.
func Decode(magic string, version uint32, buf []byte) (payload []byte, seq uint32, err error) {
	if len(buf) < Overhead || string(buf[:magicSize]) != magic {
		return nil, 0, fmt.Errorf("it does not begin with %q", magic)
	}
	number := func(off int) uint32 { return binary.LittleEndian.Uint32(buf[off:]) }
	if v := number(8); v != version {
		return nil, 0, fmt.Errorf("version %d, want %d", v, version)
	}
	length := number(16)
	if int64(length) > int64(len(buf)-Overhead) {
		return nil, 0, fmt.Errorf("length %d, at most %d", length, len(buf)-Overhead)
	}
	buf = buf[:Overhead+int(length)]
	if !bytes.Equal(buf[sumOffset:Overhead], checksum(buf)) {
		return nil, 0, errors.New("the SHA-256 is not that of the data")
	}
	return buf[Overhead:], number(12), nil
}

// checksum is that of a copy without the zeros at its end.
func checksum(buf []byte) []byte {
	h := sha256.New()
	h.Write(buf[:sumOffset])
	h.Write(buf[Overhead:])
	return h.Sum(nil)
}
