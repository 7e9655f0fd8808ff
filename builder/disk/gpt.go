package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// GUID is a globally unique identifier in the byte order of a GPT.
type GUID [16]byte

// Types of partitions (UEFI specification; Discoverable Partitions
// Specification), in the byte order of the table.
var (
	// ebd0a0a2-b9e5-4433-87c0-68b6b72699c7: FAT
	basicData = GUID{0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7}
	// 0fc63daf-8483-4772-8e79-3d69d8477de4: Linux
	linuxData = GUID{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
)

// entry is one partition; sectors are inclusive.
type entry struct {
	kind, id    GUID
	name        string
	first, last uint64
}

const (
	sectorSize = 512
	gptEntries = 128
	entrySize  = 128
	// gptSectors is the size of a header with its entries.
	gptSectors = 1 + gptEntries*entrySize/sectorSize
)

// writeGPT writes the protective MBR, the primary table at the start and the
// backup at the end of a disk of the given size (UEFI specification 2.10,
// chapter 5).
func writeGPT(w io.WriterAt, sectors uint64, disk GUID, parts []entry) error {
	table := make([]byte, gptEntries*entrySize)
	for i, p := range parts {
		e := table[i*entrySize:]
		copy(e[0:], p.kind[:])
		copy(e[16:], p.id[:])
		binary.LittleEndian.PutUint64(e[32:], p.first)
		binary.LittleEndian.PutUint64(e[40:], p.last)
		name := utf16.Encode([]rune(p.name))
		if len(name) > 36 {
			return fmt.Errorf("partition name %q is longer than 36 characters", p.name)
		}
		for j, c := range name {
			binary.LittleEndian.PutUint16(e[56+2*j:], c)
		}
	}
	header := func(self, other, entries uint64) []byte {
		h := make([]byte, sectorSize)
		copy(h, "EFI PART")
		binary.LittleEndian.PutUint32(h[8:], 0x10000) // revision 1.0
		binary.LittleEndian.PutUint32(h[12:], 92)     // size of the header
		binary.LittleEndian.PutUint64(h[24:], self)
		binary.LittleEndian.PutUint64(h[32:], other)
		binary.LittleEndian.PutUint64(h[40:], 1+gptSectors)         // first usable
		binary.LittleEndian.PutUint64(h[48:], sectors-gptSectors-1) // last usable
		copy(h[56:], disk[:])
		binary.LittleEndian.PutUint64(h[72:], entries)
		binary.LittleEndian.PutUint32(h[80:], gptEntries)
		binary.LittleEndian.PutUint32(h[84:], entrySize)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	last := sectors - 1
	for _, b := range []struct {
		sector uint64
		data   []byte
	}{
		{0, protectiveMBR(sectors)},
		{1, header(1, last, 2)},
		{2, table},
		{last - gptSectors + 1, table},
		{last, header(last, 1, last-gptSectors+1)},
	} {
		if _, err := w.WriteAt(b.data, int64(b.sector*sectorSize)); err != nil {
			return fmt.Errorf("write the partition table at sector %d: %w", b.sector, err)
		}
	}
	return nil
}

// protectiveMBR covers the disk with one partition of type 0xee.
func protectiveMBR(sectors uint64) []byte {
	mbr := make([]byte, sectorSize)
	e := mbr[446:]
	copy(e, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 0xffffffff)))
	copy(mbr[510:], []byte{0x55, 0xaa})
	return mbr
}

// guidFrom makes a GUID (version 8, RFC 9562) of a hash.
func guidFrom(hash []byte) GUID {
	var g GUID
	copy(g[:], hash)
	g[7] = g[7]&0x0f | 0x80 // the field is little-endian
	g[8] = g[8]&0x3f | 0x80
	return g
}

// String returns the usual text form.
func (g GUID) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}
