package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/gpt"
)

// ProvisionFile is the name of the provisioning on the boot partition.
const ProvisionFile = "provision.yaml"

// Extent is a part of a file, in whole sectors: bytes of the whole disk.
type Extent struct{ Offset, Length int64 }

// ProvisionExtents returns where the provisioning of a disk is, config.FileSize
// bytes in all. Who writes there needs no file system, and leaves nothing of an
// earlier provisioning elsewhere. Only the boot partition is read.
func ProvisionExtents(disk io.ReaderAt) ([]Extent, error) {
	boot := layout()[0]
	fail := func(err error) ([]Extent, error) {
		return nil, fmt.Errorf("find %s on the boot partition: %w", ProvisionFile, err)
	}
	fat, err := openFAT16(io.NewSectionReader(disk, boot.Offset, boot.Size))
	if err != nil {
		return fail(err)
	}
	entry, err := fat.find(ProvisionFile)
	if err != nil {
		return fail(err)
	}
	extents, err := fat.extents(entry, config.FileSize)
	if err != nil {
		return fail(err)
	}
	for i := range extents {
		extents[i].Offset += boot.Offset
	}
	return extents, nil
}

// Provision puts a provisioning, in the form of config.File, on the boot
// partition of an image, in place of the one that is there.
func Provision(image string, file []byte) error {
	fail := func(err error) error { return fmt.Errorf("provision %s: %w", image, err) }
	if len(file) != config.FileSize {
		return fail(fmt.Errorf("%d bytes of settings, want %d", len(file), config.FileSize))
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	extents, err := ProvisionExtents(f)
	if err != nil {
		return fail(err)
	}
	for _, e := range extents {
		if _, err := f.WriteAt(file[:e.Length], e.Offset); err != nil {
			return fail(err)
		}
		file = file[e.Length:]
	}
	if err := f.Close(); err != nil {
		return fail(err)
	}
	return nil
}

// fat16 is a FAT16 file system (Microsoft's FAT specification, ECMA-107), offsets
// and sizes in bytes.
type fat16 struct {
	r        *io.SectionReader
	table    int64 // offset of the first copy
	root     int64
	rootSize int64
	data     int64 // offset of cluster 2, the first
	clusters int64
	cluster  int64 // size of one
}

const (
	entrySize    = 32     // of a folder's entry
	firstCluster = 2      // has the number
	endOfChain   = 0xfff8 // and more
)

func openFAT16(r *io.SectionReader) (*fat16, error) {
	b := make([]byte, gpt.SectorSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read the first sector: %w", noEOF(err))
	}
	const hint = ": is this an image of the builder?"
	le := binary.LittleEndian
	if le.Uint16(b[510:]) != 0xaa55 {
		return nil, errors.New("it has no file system" + hint)
	}
	sector, perCluster := le.Uint16(b[11:]), int64(b[13])
	reserved, copies, perTable := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[22:]))
	rootSize := int64(le.Uint16(b[17:])) * entrySize
	sectors := int64(le.Uint16(b[19:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	root := reserved + copies*perTable
	data := root + (rootSize+gpt.SectorSize-1)/gpt.SectorSize
	switch {
	case sector != gpt.SectorSize:
		return nil, fmt.Errorf("its file system has sectors of %d bytes, want %d%s", sector, gpt.SectorSize, hint)
	case reserved == 0, copies == 0, perTable == 0, rootSize == 0, perCluster == 0, perCluster&(perCluster-1) != 0, data > sectors:
		return nil, errors.New("its file system is not FAT16" + hint)
	case sectors*gpt.SectorSize > r.Size():
		return nil, fmt.Errorf("its file system has %d sectors, and the partition only %d%s", sectors, r.Size()/gpt.SectorSize, hint)
	}
	clusters := (sectors - data) / perCluster
	if clusters < 4085 || clusters >= 65525 { // by which alone FAT12, 16 and 32 are told apart
		return nil, fmt.Errorf("its file system has %d clusters, which is not FAT16%s", clusters, hint)
	}
	if room := perTable * gpt.SectorSize / 2; room < firstCluster+clusters {
		return nil, fmt.Errorf("its file system has %d clusters, and room in the table for %d%s", clusters, room-firstCluster, hint)
	}
	return &fat16{
		r: r, table: reserved * gpt.SectorSize, root: root * gpt.SectorSize, rootSize: rootSize,
		data: data * gpt.SectorSize, clusters: clusters, cluster: perCluster * gpt.SectorSize,
	}, nil
}

// find returns the entry of a file in the root folder. Its name is one that
// 8.3 has no room for, so only long names count.
func (f *fat16) find(name string) ([]byte, error) {
	root := make([]byte, f.rootSize)
	if _, err := f.r.ReadAt(root, f.root); err != nil {
		return nil, fmt.Errorf("read the root folder: %w", noEOF(err))
	}
	const volume, folder, longName, anyAttribute = 0x08, 0x10, 0x0f, 0x3f
	// A long name is in entries before the file's, its end first. They are its own
	// if they are complete and have its checksum: programs that know no long names
	// leave those of other files there.
	var long []uint16
	var sum byte
	next := -1 // part of the long name that is to come; 0: it is complete
	for ; len(root) >= entrySize && root[0] != 0; root = root[entrySize:] {
		e := root[:entrySize]
		attributes := e[11] & anyAttribute
		if e[0] != 0xe5 && attributes == longName {
			part := int(e[0])
			if part&0x40 != 0 {
				part &^= 0x40
				long, sum, next = nil, e[13], part
			}
			if part == 0 || part != next || e[13] != sum {
				next = -1
				continue
			}
			long = append(longPart(e), long...)
			next--
			continue
		}
		own := next == 0 && sum == checksum(e)
		next = -1
		if e[0] == 0xe5 || attributes&volume != 0 || !own || !strings.EqualFold(decodeName(long), name) {
			continue
		}
		if attributes&folder != 0 {
			return nil, errors.New("it is a folder")
		}
		return e, nil
	}
	return nil, errors.New("it is not there: take a fresh image")
}

// longPart returns the 13 UTF-16 units of a long name that an entry has.
func longPart(e []byte) []uint16 {
	units := make([]uint16, 0, 13)
	for _, span := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := span[0]; i < span[1]; i += 2 {
			units = append(units, binary.LittleEndian.Uint16(e[i:]))
		}
	}
	return units
}

func decodeName(units []uint16) string {
	name, _, _ := strings.Cut(string(utf16.Decode(units)), "\x00")
	return name
}

// checksum is of the short name.
func checksum(e []byte) (sum byte) {
	for _, c := range e[:11] {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}

// extents returns where a file of this size is.
func (f *fat16) extents(entry []byte, size int64) ([]Extent, error) {
	le := binary.LittleEndian
	if has := int64(le.Uint32(entry[28:])); has != size {
		return nil, fmt.Errorf("it has %d bytes, want %d: it has been replaced since the image was built; take a fresh image", has, size)
	}
	table := make([]byte, 2*(firstCluster+f.clusters))
	if _, err := f.r.ReadAt(table, f.table); err != nil {
		return nil, fmt.Errorf("read the table of clusters: %w", noEOF(err))
	}
	const hint = ": the file system is damaged; take a fresh image"
	var extents []Extent
	at := int64(le.Uint16(entry[26:]))
	for left := size; left > 0; left -= f.cluster {
		n := (size - left) / f.cluster
		switch {
		case at >= endOfChain && n > 0:
			return nil, fmt.Errorf("it ends after %d clusters, and has %d bytes%s", n, size, hint)
		case at < firstCluster, at >= firstCluster+f.clusters:
			return nil, fmt.Errorf("its cluster %d is %#x, want one from %#x to %#x%s", n+1, at, firstCluster, firstCluster+f.clusters-1, hint)
		}
		e := Extent{f.data + (at-firstCluster)*f.cluster, min(f.cluster, left)}
		if last := len(extents) - 1; last >= 0 && extents[last].Offset+extents[last].Length == e.Offset {
			extents[last].Length += e.Length
		} else {
			extents = append(extents, e)
		}
		at = int64(le.Uint16(table[2*at:]))
	}
	if at < endOfChain { // a chain that comes to its end has no cluster twice
		return nil, fmt.Errorf("its clusters go on behind its %d bytes, or in a circle%s", size, hint)
	}
	return extents, nil
}

// noEOF is for what has to be there.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
