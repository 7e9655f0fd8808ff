package gpt

import (
	"encoding/binary"
	"fmt"
)

// Types of partitions in an MBR.
const (
	mbrProtective = 0xee
	mbrFAT        = 0x0c // addressed by LBA
)

// ProtectiveMBR returns sector 0 of a disk: one partition covers it all, so
// that programs that know no GPT keep off.
func ProtectiveMBR(sectors uint64) []byte {
	return mbr(mbrPartition{mbrProtective, [3]byte{0, 2, 0}, [3]byte{0xff, 0xff, 0xff}, 1, uint32(min(sectors-1, 0xffffffff))})
}

// HybridMBR returns sector 0 of a disk for a boot ROM that looks for a FAT
// partition in an MBR. The Raspberry Pi wants it in the first entry and the
// protective one in the second (raspberrypi/firmware issue 1465, "sgdisk -h
// 1:EE"); Linux and U-Boot take any protective one that starts at sector 1.
// That covers only what is before the FAT partition: nothing in the sector
// depends on the size of the disk, so it never has to be written again.
func HybridMBR(fat Entry) ([]byte, error) {
	if err := fat.check(firstUsable, 0xffffffff); err != nil {
		return nil, fmt.Errorf("partition %s in a hybrid MBR: %w", fat.Name, err)
	}
	beyond := [3]byte{0xfe, 0xff, 0xff} // what gdisk writes for "use the LBA"
	return mbr(
		mbrPartition{mbrFAT, beyond, beyond, uint32(fat.First), uint32(fat.Last - fat.First + 1)},
		mbrPartition{mbrProtective, [3]byte{0, 2, 0}, beyond, 1, uint32(fat.First - 1)},
	), nil
}

// mbrPartition is an entry of an MBR (UEFI specification 2.10, 5.2.1).
type mbrPartition struct {
	kind           byte
	fromCHS, toCHS [3]byte
	first, sectors uint32
}

func mbr(partitions ...mbrPartition) []byte {
	m := make([]byte, SectorSize)
	for i, p := range partitions {
		e := m[446+16*i:] // e[0] is the active flag: off
		copy(e[1:], p.fromCHS[:])
		e[4] = p.kind
		copy(e[5:], p.toCHS[:])
		binary.LittleEndian.PutUint32(e[8:], p.first)
		binary.LittleEndian.PutUint32(e[12:], p.sectors)
	}
	copy(m[510:], []byte{0x55, 0xaa})
	return m
}
