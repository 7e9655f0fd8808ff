// Package gpt is the GUID partition table (UEFI specification 2.10, chapter
// 5): what the builder writes, and how the device grows its last partition to
// the size of the disk.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// SectorSize is the only size of a logical sector that is supported.
const SectorSize = 512

const (
	maxEntries = 128
	entrySize  = 128
	nameLength = 36 // in UTF-16 units
	headerSize = 92

	// A table is a header and its entries: the primary one in this order from
	// sector 1, the backup at the end of the disk with the header last.
	entrySectors = maxEntries * entrySize / SectorSize
	tableSectors = 1 + entrySectors
	firstUsable  = 1 + tableSectors
	minSectors   = firstUsable + 1 + tableSectors
)

// GUID is a globally unique identifier in the byte order of the table.
type GUID [16]byte

// Types of partitions (UEFI specification; Discoverable Partitions
// Specification).
var (
	// BasicData is ebd0a0a2-b9e5-4433-87c0-68b6b72699c7: FAT
	BasicData = GUID{0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7}
	// LinuxData is 0fc63daf-8483-4772-8e79-3d69d8477de4
	LinuxData = GUID{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
)

// HashGUID makes a GUID (version 8, RFC 9562) of the first 16 bytes of a hash.
func HashGUID(hash []byte) GUID {
	g := GUID(hash)
	g[7] = g[7]&0x0f | 0x80 // the field is little-endian
	g[8] = g[8]&0x3f | 0x80
	return g
}

// String returns the usual text form.
func (g GUID) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// Entry is one partition. An entry without type is not in use.
type Entry struct {
	Type, ID    GUID
	First, Last uint64 // sectors, both in the partition
	Attributes  uint64
	Name        string
}

// Table is the partition table of a disk. The usable area is all that the two
// copies of the table leave.
type Table struct {
	Disk    GUID
	Sectors uint64  // of the disk
	Entries []Entry // partition 1 is the first
}

func (t Table) lastUsable() uint64 { return t.Sectors - tableSectors - 1 }

// Write writes both copies of the table, but not sector 0.
func (t Table) Write(w io.WriterAt) error {
	primary, backup, err := t.encode()
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(primary, 1*SectorSize); err != nil {
		return fmt.Errorf("write the partition table: %w", err)
	}
	if _, err := w.WriteAt(backup, int64(t.Sectors-tableSectors)*SectorSize); err != nil {
		return fmt.Errorf("write the backup of the partition table: %w", err)
	}
	return nil
}

// encode returns the sectors of the primary and of the backup table.
func (t Table) encode() (primary, backup []byte, err error) {
	if t.Sectors < minSectors {
		return nil, nil, fmt.Errorf("a disk of %d sectors has no room for a partition table", t.Sectors)
	}
	if len(t.Entries) > maxEntries {
		return nil, nil, fmt.Errorf("%d partitions, a table has room for %d", len(t.Entries), maxEntries)
	}
	le := binary.LittleEndian
	entries := make([]byte, maxEntries*entrySize)
	for i, p := range t.Entries {
		if p.Type == (GUID{}) {
			continue
		}
		if err := p.check(firstUsable, t.lastUsable()); err != nil {
			return nil, nil, fmt.Errorf("partition %d: %w", i+1, err)
		}
		name := utf16.Encode([]rune(p.Name))
		if len(name) > nameLength {
			return nil, nil, fmt.Errorf("partition %d: name %q is longer than %d characters", i+1, p.Name, nameLength)
		}
		e := entries[i*entrySize:]
		copy(e[0:], p.Type[:])
		copy(e[16:], p.ID[:])
		le.PutUint64(e[32:], p.First)
		le.PutUint64(e[40:], p.Last)
		le.PutUint64(e[48:], p.Attributes)
		for j, c := range name {
			le.PutUint16(e[56+2*j:], c)
		}
	}
	header := func(self, other, at uint64) []byte {
		h := make([]byte, SectorSize)
		copy(h, "EFI PART")
		le.PutUint32(h[8:], 0x10000) // revision 1.0
		le.PutUint32(h[12:], headerSize)
		le.PutUint64(h[24:], self)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], firstUsable)
		le.PutUint64(h[48:], t.lastUsable())
		copy(h[56:], t.Disk[:])
		le.PutUint64(h[72:], at)
		le.PutUint32(h[80:], maxEntries)
		le.PutUint32(h[84:], entrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerSize]))
		return h
	}
	last := t.Sectors - 1
	primary = append(header(1, last, 2), entries...)
	backup = append(entries, header(last, 1, last-entrySectors)...)
	return primary, backup, nil
}

// check reports an entry that is not within the sectors from first to last.
func (e Entry) check(first, last uint64) error {
	if e.First < first || e.Last > last || e.First > e.Last {
		return fmt.Errorf("sectors %d to %d are not within the usable %d to %d", e.First, e.Last, first, last)
	}
	return nil
}

// errInvalid says that there is no table, or a damaged one. Other errors are
// about a table that somebody wrote like this.
var errInvalid = errors.New("not valid")

// parsePrimary reads the table in the sectors from 1.
func parsePrimary(table []byte) (Table, error) {
	return parse(table[:SectorSize], table[SectorSize:], 1)
}

// parseBackup reads the table in the last sectors of a disk.
func parseBackup(table []byte, sectors uint64) (Table, error) {
	return parse(table[entrySectors*SectorSize:], table[:entrySectors*SectorSize], sectors-1)
}

// parse reads a header of one sector, which was at sector self, and its 128
// entries.
func parse(header, entries []byte, self uint64) (Table, error) {
	le := binary.LittleEndian
	if !bytes.HasPrefix(header, []byte("EFI PART")) {
		return Table{}, fmt.Errorf("%w: no signature", errInvalid)
	}
	size := le.Uint32(header[12:])
	if size < headerSize || size > SectorSize {
		return Table{}, fmt.Errorf("%w: a header of %d bytes", errInvalid, size)
	}
	summed := bytes.Clone(header[:size])
	clear(summed[16:20]) // the sum itself counts as 0
	if got, want := crc32.ChecksumIEEE(summed), le.Uint32(header[16:]); got != want {
		return Table{}, fmt.Errorf("%w: CRC-32 of the header is %08x, it says %08x", errInvalid, got, want)
	}
	if at := le.Uint64(header[24:]); at != self {
		return Table{}, fmt.Errorf("%w: a header for sector %d in sector %d", errInvalid, at, self)
	}
	if n, size := le.Uint32(header[80:]), le.Uint32(header[84:]); n != maxEntries || size != entrySize {
		return Table{}, fmt.Errorf("%d entries of %d bytes: only %d of %d are supported", n, size, maxEntries, entrySize)
	}
	if got, want := crc32.ChecksumIEEE(entries), le.Uint32(header[88:]); got != want {
		return Table{}, fmt.Errorf("%w: CRC-32 of the entries is %08x, the header says %08x", errInvalid, got, want)
	}

	other, at := le.Uint64(header[32:]), le.Uint64(header[72:])
	last, wantOther, wantAt := other, other, uint64(2)
	if self != 1 {
		last, wantOther, wantAt = self, 1, self-entrySectors
	}
	if other != wantOther || at != wantAt {
		return Table{}, fmt.Errorf("the header in sector %d has its other copy in %d and its entries from %d: only %d and %d are supported", self, other, at, wantOther, wantAt)
	}
	t := Table{Disk: GUID(header[56:72]), Sectors: last + 1}
	from, to := le.Uint64(header[40:]), le.Uint64(header[48:])
	if t.Sectors < minSectors || from < firstUsable || to > t.lastUsable() || from > to {
		return Table{}, fmt.Errorf("sectors %d to %d of %d cannot be usable: the tables are there", from, to, t.Sectors)
	}
	for i := range maxEntries {
		e := entries[i*entrySize:][:entrySize]
		if GUID(e) == (GUID{}) {
			continue
		}
		name := make([]uint16, 0, nameLength)
		for n := e[56:]; len(n) > 0 && le.Uint16(n) != 0; n = n[2:] {
			name = append(name, le.Uint16(n))
		}
		p := Entry{
			Type:       GUID(e),
			ID:         GUID(e[16:]),
			First:      le.Uint64(e[32:]),
			Last:       le.Uint64(e[40:]),
			Attributes: le.Uint64(e[48:]),
			Name:       string(utf16.Decode(name)),
		}
		if err := p.check(from, to); err != nil {
			return Table{}, fmt.Errorf("partition %d: %w", i+1, err)
		}
		if !slices.Equal(utf16.Encode([]rune(p.Name)), name) { // could not be written again
			return Table{}, fmt.Errorf("partition %d: name %q is not UTF-16", i+1, p.Name)
		}
		t.Entries = append(t.Entries, make([]Entry, i+1-len(t.Entries))...)
		t.Entries[i] = p
	}
	return t, nil
}
