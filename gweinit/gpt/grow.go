package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Device is a whole disk: a Disk, or a simulation. What was written before a
// Sync that succeeded survives a power cut, and reading it then asks the disk.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Growth is what Grow found or did.
type Growth struct {
	Number  int    // of the partition, from 1, as the kernel counts
	First   uint64 // its first sector
	Sectors uint64 // its size now
	Done    string // what was written, for the log; empty if all was as it should be
}

// alignment of a partition's end, in sectors: 1 MiB.
const alignment = 1 << 20 / SectorSize

// Grow makes the named partition, which has to be the disk's last, end at the
// last MiB boundary of the disk of the given size, and never earlier than it
// does. On the way it repairs the table: in the end both copies are valid and
// the same, the backup in the disk's last sectors. A valid primary counts, like
// in U-Boot and Linux; without one the backup in the last sectors.
//
// Power may go at any time: a copy is overwritten only while the other one is
// valid and on the disk. Sector 0 is never written. On a disk that Grow cannot
// get right, it writes nothing.
func Grow(dev Device, sectors uint64, name string) (Growth, error) {
	if sectors < minSectors {
		return Growth{}, fmt.Errorf("a disk of %d sectors has no room for a partition table", sectors)
	}
	atEnd := sectors - tableSectors
	oldPrimary, err := readTable(dev, 1)
	if err != nil {
		return Growth{}, err
	}
	oldBackup, err := readTable(dev, atEnd)
	if err != nil {
		return Growth{}, err
	}

	table, err := parsePrimary(oldPrimary)
	damaged := errors.Is(err, errInvalid)
	if damaged {
		primaryErr := err
		table, err = parseBackup(oldBackup, sectors)
		if errors.Is(err, errInvalid) {
			return Growth{}, fmt.Errorf("no partition table: primary: %w; backup at the end of %d sectors: %w", primaryErr, sectors, err)
		}
	}
	if err != nil {
		return Growth{}, fmt.Errorf("partition table: %w", err)
	}
	if table.Sectors > sectors {
		return Growth{}, fmt.Errorf("the partition table is for a disk of %d sectors, this one has %d", table.Sectors, sectors)
	}
	grown, number, err := table.grow(sectors, name)
	if err != nil {
		return Growth{}, err
	}
	newPrimary, newBackup, err := grown.encode()
	if err != nil {
		return Growth{}, err
	}

	var done []string
	if damaged { // the backup is the only copy: it must not be touched yet
		if oldPrimary, _, err = table.encode(); err != nil {
			return Growth{}, err
		}
		if err := writeTable(dev, 1, oldPrimary); err != nil {
			return Growth{}, err
		}
		done = append(done, "primary partition table restored from the backup")
	}
	if !bytes.Equal(oldBackup, newBackup) {
		if err := writeTable(dev, atEnd, newBackup); err != nil {
			return Growth{}, err
		}
		done = append(done, "backup partition table written to the end of the disk")
	}
	if !bytes.Equal(oldPrimary, newPrimary) {
		if err := writeTable(dev, 1, newPrimary); err != nil {
			return Growth{}, err
		}
		done = append(done, "primary partition table written")
	}
	was, is := table.Entries[number-1], grown.Entries[number-1]
	if was != is {
		done = append(done, fmt.Sprintf("partition %s grown from %d to %d MiB", name, was.sectors()/alignment, is.sectors()/alignment))
	}
	return Growth{number, is.First, is.sectors(), strings.Join(done, ", ")}, nil
}

func (e Entry) sectors() uint64 { return e.Last - e.First + 1 }

// grow returns the table for a disk of another size, and the number of the
// named partition, which takes the room.
func (t Table) grow(sectors uint64, name string) (Table, int, error) {
	named := func(e Entry) bool { return e.Type != GUID{} && e.Name == name }
	i := slices.IndexFunc(t.Entries, named)
	if i < 0 {
		return Table{}, 0, fmt.Errorf("the partition table has no partition %s", name)
	}
	if slices.ContainsFunc(t.Entries[i+1:], named) {
		return Table{}, 0, fmt.Errorf("the partition table has two partitions %s", name)
	}
	t.Sectors = sectors
	t.Entries = slices.Clone(t.Entries)
	last := &t.Entries[i]
	for j, e := range t.Entries {
		if j != i && e.Type != (GUID{}) && e.Last >= last.First {
			return Table{}, 0, fmt.Errorf("partition %s (sectors %d to %d) is not the last: %s ends in sector %d", name, last.First, last.Last, e.Name, e.Last)
		}
	}
	end := (t.lastUsable() + 1) / alignment * alignment
	last.Last = max(last.Last, end-1)
	return t, i + 1, nil
}

// readTable reads one copy of the table.
func readTable(dev Device, sector uint64) ([]byte, error) {
	buf := make([]byte, tableSectors*SectorSize)
	if _, err := dev.ReadAt(buf, int64(sector)*SectorSize); err != nil {
		return nil, fmt.Errorf("read the partition table at sector %d: %w", sector, err)
	}
	return buf, nil
}

// writeTable writes one copy of the table, and returns when it is on the disk.
func writeTable(dev Device, sector uint64, table []byte) error {
	if _, err := dev.WriteAt(table, int64(sector)*SectorSize); err != nil {
		return fmt.Errorf("write the partition table at sector %d: %w", sector, err)
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("sync the partition table at sector %d: %w", sector, err)
	}
	back, err := readTable(dev, sector)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, table) {
		return fmt.Errorf("the partition table at sector %d reads back differently from what was written: the disk may be worn out", sector)
	}
	return nil
}
