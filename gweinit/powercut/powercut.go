// Package powercut simulates a disk whose power goes, for tests of everything
// that has to survive that. The device does not contain it.
package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
)

// Sector is what a disk writes as a whole: a write may be torn between two.
const Sector = 512

// ErrPower is every answer of a disk without power.
var ErrPower = errors.New("power cut")

// Disk is a simulated disk. What was written before a Sync is durable after
// it; until then any part of it may be lost. It is for one goroutine.
type Disk struct {
	Writes, Syncs int // calls so far

	size     int64
	durable  layer
	cached   layer // over durable: what the writes not yet synced make of it
	unsynced []write

	sum   uint64 // of how durable differs from the content of the first disk
	cutAt int    // the power goes in this one of the writes and syncs; 0: never
	off   bool
	last  string // the last write or sync
}

// write is a write of whole sectors.
type write struct {
	first int64 // sector
	data  []byte
}

func (w write) sectors() int { return len(w.data) / Sector }

// sector returns the number and the content of the i-th sector.
func (w write) sector(i int) (int64, []byte) {
	return w.first + int64(i), w.data[i*Sector : (i+1)*Sector]
}

// New returns a disk of size bytes that starts with the content of base, nil
// for none, and has zeros after it. Base is only read.
func New(base io.ReaderAt, size int64) *Disk {
	return &Disk{size: size, durable: layer{under: base}}
}

// Copy returns another disk with what is durable on d, and power. It shares
// that with d, which therefore must not be synced as long as the copy is used.
func (d *Disk) Copy() *Disk {
	return &Disk{size: d.size, durable: layer{under: d.durable}, sum: d.sum}
}

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.size }

// ReadAt reads what was written last, synced or not.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if d.off {
		return 0, ErrPower
	}
	if off < 0 || off > d.size {
		return 0, fmt.Errorf("read at %d on a disk of %d bytes", off, d.size)
	}
	n := int(min(int64(len(p)), d.size-off))
	d.cached.under = d.durable
	if _, err := d.cached.ReadAt(p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes whole sectors. If the power goes in it, any part of them may
// be on the disk.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if d.off {
		return 0, ErrPower
	}
	if off%Sector != 0 || len(p)%Sector != 0 || off < 0 || off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("write of %d bytes at %d on a disk of %d bytes: not whole sectors of it", len(p), off, d.size)
	}
	w := write{off / Sector, bytes.Clone(p)}
	d.unsynced = append(d.unsynced, w)
	for i := range w.sectors() {
		d.cached.put(w.sector(i))
	}
	d.Writes++
	if d.cut(fmt.Sprintf("write %d (%d sectors at %d)", d.Writes, w.sectors(), w.first)) {
		return 0, ErrPower
	}
	return len(p), nil
}

// Sync makes durable what was written. If the power goes in it, any part of
// that is on the disk.
func (d *Disk) Sync() error {
	if d.off {
		return ErrPower
	}
	d.Syncs++
	if d.cut(fmt.Sprintf("sync %d", d.Syncs)) {
		return ErrPower
	}
	for _, w := range d.unsynced {
		for i := range w.sectors() {
			d.harden(w.sector(i))
		}
	}
	d.unsynced, d.cached = nil, layer{}
	return nil
}

// cut tells whether the power goes in this call.
func (d *Disk) cut(call string) bool {
	d.last = call
	d.off = d.Writes+d.Syncs == d.cutAt
	return d.off
}

// harden makes one sector durable.
func (d *Disk) harden(sector int64, data []byte) {
	var old [Sector]byte
	d.durable.ReadAt(old[:], sector*Sector) // if base fails, reading says so
	d.sum += hash(sector, data) - hash(sector, old[:])
	d.durable.put(sector, data)
}

var seed = maphash.MakeSeed()

// hash is of one sector's content. A difference of two contents is the sum
// over the sectors, each counted positively once new and negatively once old:
// it takes no second look at what did not change.
func hash(sector int64, data []byte) uint64 {
	return maphash.Comparable(seed, struct {
		sector int64
		data   uint64
	}{sector, maphash.Bytes(seed, data)})
}

// layer is changed sectors over what was there before.
type layer struct {
	under   io.ReaderAt // may be shorter, or nil: zeros follow
	changed map[int64][]byte
}

func (l *layer) put(sector int64, data []byte) {
	if l.changed == nil {
		l.changed = map[int64][]byte{}
	}
	l.changed[sector] = data
}

func (l layer) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if l.under != nil {
		var err error
		if n, err = l.under.ReadAt(p, off); err != nil && err != io.EOF {
			return 0, err
		}
	}
	clear(p[n:])
	if len(l.changed) == 0 {
		return len(p), nil
	}
	for rest := p; len(rest) > 0; {
		in := off % Sector
		n := min(Sector-int(in), len(rest))
		if s, ok := l.changed[off/Sector]; ok {
			copy(rest[:n], s[in:])
		}
		rest, off = rest[n:], off+int64(n)
	}
	return len(p), nil
}

// Each runs op again and again, each time on a fresh copy of what is durable
// on start, and cuts the power in the first write or sync of op, in the second
// and so on, and at last after op. (What a power cut right after a call may
// leave, one in the next call may leave too.) Then it calls check with every
// content that the disk may have: all, none or some of what was not synced.
// A content that was checked already is left out.
//
// check gets a name of the cut and the content for its messages, the disk
// itself, with power, and what op returned. With err == nil op promised that
// it is done, and check has to hold it to that.
//
// Each returns the number of contents checked, and op's error when no power
// cut came in its way.
func Each(start *Disk, op func(*Disk) error, check func(name string, after *Disk, err error)) (int, error) {
	type result struct {
		sum  uint64
		done bool
	}
	seen := map[result]bool{}
	for call := 1; ; call++ {
		d := start.Copy()
		d.cutAt = call
		err := op(d)
		where := "power cut in " + d.last
		if !d.off {
			where = "power cut at the end"
		}
		d.outcomes(func(name string, kept func(write, sector int) bool) {
			after := d.Copy()
			for i, w := range d.unsynced {
				for j := range w.sectors() {
					if kept(i, j) {
						after.harden(w.sector(j))
					}
				}
			}
			if r := (result{after.sum, err == nil}); !seen[r] {
				seen[r] = true
				check(where+", "+name, after, err)
			}
		})
		if !d.off {
			return len(seen), err
		}
	}
}

// outcomes calls try with what may be left of the writes not synced; kept is
// asked about each sector of each of them. Disks write in any order.
func (d *Disk) outcomes(try func(name string, kept func(write, sector int) bool)) {
	n := len(d.unsynced)
	if n == 0 {
		try("all synced", func(int, int) bool { return true })
		return
	}
	try("all unsynced writes kept", func(int, int) bool { return true })
	try("all unsynced writes dropped", func(int, int) bool { return false })
	for i := range n {
		of := fmt.Sprintf("of %d unsynced writes", n)
		try(fmt.Sprintf("%s number %d dropped", of, i+1), func(w, _ int) bool { return w != i })
		try(fmt.Sprintf("%s only number %d kept", of, i+1), func(w, _ int) bool { return w == i })
		try(fmt.Sprintf("%s the first %d kept", of, i+1), func(w, _ int) bool { return w <= i })
	}
	sectors := d.unsynced[n-1].sectors()
	torn := func(part string, kept func(sector int) bool) {
		try("last unsynced write torn: "+part, func(w, s int) bool { return w < n-1 || kept(s) })
	}
	// Of a large write every boundary would be too many.
	step := (sectors + 63) / 64
	for i := 1; i < sectors; i++ {
		if i%step == 0 || i == 1 || i == sectors-1 {
			torn(fmt.Sprintf("the first %d sectors", i), func(s int) bool { return s < i })
			torn(fmt.Sprintf("all but the first %d sectors", i), func(s int) bool { return s >= i })
		}
	}
	torn("even sectors", func(s int) bool { return s%2 == 0 })
	torn("odd sectors", func(s int) bool { return s%2 == 1 })
}
