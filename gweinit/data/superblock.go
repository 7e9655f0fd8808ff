package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// headSize is the part of the partition that says what is on it: the first
// block, with the superblock in it.
const headSize = 4096

// unfinished is at the start of the partition while the file system is being
// re-created. ext4 leaves the first 1024 bytes alone.
const unfinished = "gweinit: the file system is being re-created\n"

// superblock is what we use of the superblock of ext4 (the kernel's
// Documentation/filesystems/ext4/super.rst).
type superblock struct {
	check          string // why it has to be checked, "" if it has not
	blocks         uint64 // in the whole file system
	blockSize      uint64
	blocksPerGroup uint64
	overhead       uint64 // blocks that a group with all its tables needs
}

// Why there is no superblock to go by.
var (
	errUnfinished = errors.New("it was being re-created")
	errNone       = errors.New("there is no superblock")
	errGarbled    = errors.New("the superblock is garbled")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parse reads the superblock out of the first headSize bytes.
func parse(head []byte) (superblock, error) {
	if len(head) < headSize {
		return superblock{}, fmt.Errorf("%w: the partition has %d bytes", errNone, len(head))
	}
	if strings.HasPrefix(string(head), unfinished) {
		return superblock{}, errUnfinished
	}
	sb := head[1024:2048]
	u16 := func(off int) uint64 { return uint64(binary.LittleEndian.Uint16(sb[off:])) }
	u32 := func(off int) uint64 { return uint64(binary.LittleEndian.Uint32(sb[off:])) }
	if magic := u16(0x38); magic != 0xef53 {
		return superblock{}, fmt.Errorf("%w: the magic number is %#x", errNone, magic)
	}
	const hasJournal, is64Bit, metadataCsum = 0x4, 0x80, 0x400 // compat, incompat, ro_compat
	// The kernel's CRC-32C starts like all others, but is not inverted at the end.
	if sum := uint64(^crc32.Checksum(sb[:0x3fc], castagnoli)); u32(0x64)&metadataCsum != 0 && sum != u32(0x3fc) {
		return superblock{}, fmt.Errorf("%w: its checksum is %08x, its content has %08x", errGarbled, u32(0x3fc), sum)
	}
	if u32(0x18) > 6 || u32(0x20) == 0 || u32(0x28) == 0 {
		return superblock{}, fmt.Errorf("%w: block size 2^%d KiB, groups of %d blocks and %d inodes", errGarbled, u32(0x18), u32(0x20), u32(0x28))
	}
	s := superblock{
		blocks:         u32(0x4),
		blockSize:      1024 << u32(0x18),
		blocksPerGroup: u32(0x20),
	}
	const unmounted, errorsFound = 1, 2
	switch state := u16(0x3a); {
	case state&errorsFound != 0:
		s.check = "the kernel has found errors"
	case state&unmounted == 0 && u32(0x5c)&hasJournal == 0: // e2fsck may have given the journal up
		s.check = "it was not unmounted, and has no journal"
	}
	descriptor := uint64(32)
	if u32(0x60)&is64Bit != 0 {
		s.blocks |= u32(0x150) << 32
		descriptor = max(descriptor, u16(0xfe))
	}
	inode := max(128, u16(0x58))
	groups := divUp(s.blocks, s.blocksPerGroup)
	// Superblock, group descriptors and room for more of them, two bitmaps, inodes.
	s.overhead = 1 + divUp(groups*descriptor, s.blockSize) + u16(0xce) + 2 + divUp(u32(0x28)*inode, s.blockSize)
	return s, nil
}

// divUp is for numbers so large that adding before the division overflows.
func divUp(a, b uint64) uint64 {
	n := a / b
	if a%b != 0 {
		n++
	}
	return n
}
