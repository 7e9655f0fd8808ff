package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// How U-Boot and Linux find a partition table, apart from our own reading of
// the specification.

// found is the partitions by number: bytes of the entry, with the last sector
// apart.
type found map[int]partition

type partition struct {
	entry string
	last  uint64
}

// header is a GPT header (UEFI specification 2.10, table 5-5).
type header struct {
	Signature                  [8]byte
	Revision, Size, Sum, _     uint32
	My, Alternate              uint64
	FirstUsable, LastUsable    uint64
	Disk                       GUID
	Entries                    uint64
	Count, EntrySize, EntrySum uint32
}

// readCopy reads the copy of the table whose header is in sector lba, with the
// checks that U-Boot and Linux share.
func readCopy(r io.ReaderAt, lba uint64) (h header, entries []byte, ok bool) {
	sector := make([]byte, 512)
	if _, err := r.ReadAt(sector, int64(lba)*512); err != nil {
		return h, nil, false
	}
	binary.Read(bytes.NewReader(sector), binary.LittleEndian, &h)
	if string(h.Signature[:]) != "EFI PART" || h.Size < 92 || h.Size > 512 {
		return h, nil, false
	}
	clear(sector[16:20])
	if crc32.ChecksumIEEE(sector[:h.Size]) != h.Sum || h.My != lba || h.EntrySize != 128 || h.Count > 1024 {
		return h, nil, false
	}
	entries = make([]byte, h.Count*h.EntrySize)
	if _, err := r.ReadAt(entries, int64(h.Entries)*512); err != nil {
		return h, nil, false
	}
	return h, entries, crc32.ChecksumIEEE(entries) == h.EntrySum
}

func partitions(entries []byte, valid func(first, last uint64) bool) found {
	p := found{}
	for i := 0; i < len(entries); i += 128 {
		e := bytes.Clone(entries[i : i+128])
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if !bytes.Equal(e[:16], make([]byte, 16)) && valid(first, last) {
			clear(e[40:48])
			p[i/128+1] = partition{string(e), last}
		}
	}
	return p
}

// linux is find_valid_gpt and efi_partition of block/partitions/efi.c in Linux
// 6.1, with "gpt" on the command line.
func linux(r io.ReaderAt, sectors uint64) (found, error) {
	last := sectors - 1
	valid := func(lba uint64) (h header, entries []byte, ok bool) {
		h, entries, ok = readCopy(r, lba)
		return h, entries, ok && h.FirstUsable <= last && h.LastUsable <= last && h.FirstUsable <= h.LastUsable
	}
	_, entries, ok := valid(1)
	if !ok {
		// The backup that the primary names counts only beside a good primary.
		if _, entries, ok = valid(last); !ok {
			return nil, errors.New("Linux finds no partition table")
		}
	}
	return partitions(entries, func(from, to uint64) bool { return from <= last && to <= last }), nil
}

// uboot is part_test_efi and find_valid_gpt of disk/part_efi.c in U-Boot
// 2023.01.
func uboot(r io.ReaderAt, sectors uint64) (found, error) {
	mbr := make([]byte, 512)
	if _, err := r.ReadAt(mbr, 0); err != nil {
		return nil, err
	}
	protective := false
	for e := range 4 {
		e := mbr[446+16*e:]
		protective = protective || e[4] == 0xee && binary.LittleEndian.Uint32(e[8:]) == 1
	}
	if !protective || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, errors.New("U-Boot finds no protective MBR")
	}
	valid := func(lba uint64) (entries []byte, ok bool) {
		h, entries, ok := readCopy(r, lba)
		return entries, ok && h.FirstUsable <= sectors && h.LastUsable <= sectors
	}
	entries, ok := valid(1)
	if !ok {
		if entries, ok = valid(sectors - 1); !ok {
			return nil, errors.New("U-Boot finds no partition table")
		}
	}
	return partitions(entries, func(uint64, uint64) bool { return true }), nil
}
