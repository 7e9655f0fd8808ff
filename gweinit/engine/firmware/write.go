package firmware

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

const (
	// maxWrong is how often a piece, and maxChanges how often the whole bundle, may
	// be another one than it was.
	maxWrong   = 3
	maxChanges = 3
)

// slack is what has to be free behind the content of a partition: boot.scr reads up
// to that much behind the boot image.
var slack = map[string]int64{"kernel": 2 * sector}

// partitionOf is the partition of slot n for a partition of a bundle.
func partitionOf(n slot.Name, name string) string {
	if name == "kernel" {
		return n.KernelPartition()
	}
	return n.RootPartition()
}

var (
	// errRunning is when there is nothing to do.
	errRunning = errors.New("running already")
	// errOther is when the source has another bundle now.
	errOther = errors.New("another firmware of the same name was uploaded meanwhile")
)

// writer writes the bundle of a source into the slot that does not run.
type writer struct {
	Gateway
	ID     string
	Source Source
	// Anew: also if it is what runs already.
	Anew     bool
	Progress func(done, size int64) // in bytes of frames

	bundle  *bundle.Bundle
	running slot.Name
	target  slot.Name
	again   bool // the last update was of the same version: the slot has some of it

	// Of one bundle.
	source Source // goes on behind the head
	pieces []bundle.Piece
	right  []bool // the target has the piece
	wrong  []int  // times that the source had another
	old    []Device
	new    []Device
	buf    []byte // a frame, or a piece
	unpack *bundle.Unpacker
}

// write returns when the slot has the firmware, all of it, and durably. Until all is
// known that can be known before, it changes nothing.
func (w *writer) write(ctx context.Context) error {
	unlock, err := w.lock()
	if err != nil {
		return command.Later(err)
	}
	defer unlock()
	for range maxChanges + 1 {
		if err = w.prepare(ctx); err == nil {
			err = w.fill(ctx)
		}
		w.close()
		if !errors.Is(err, errOther) {
			break
		}
	}
	if errors.Is(err, errOther) {
		err = command.Later(fmt.Errorf("%w, %d times", err, maxChanges+1))
	}
	if err != nil && !errors.Is(err, errRunning) {
		return fmt.Errorf("%s: %w", w.Source.Name(), err)
	}
	return err
}

// prepare reads the head, says whether the bundle can be written, and has the slot
// marked.
func (w *writer) prepare(ctx context.Context) error {
	st, err := w.Host.Firmware(ctx)
	if err != nil {
		return command.Later(err)
	}
	w.running = st.Slot
	if !w.running.Valid() {
		return command.Later(errors.New("PID 1 does not know which slot runs"))
	}
	if st.Version == "" || st.Board == "" { // any bundle would fit
		return command.Later(errors.New("PID 1 does not know which firmware runs, or on which board"))
	}
	if w.bundle, w.source, err = w.readHead(ctx); err != nil {
		return err
	}
	u := st.Update
	w.again = u != nil && u.Slot == w.running.Other() && u.Version == w.bundle.Version
	for _, check := range []func(update.Status) error{w.fits, w.openSlots, w.hasRoom, w.isNew} {
		if err := check(st); err != nil {
			return err
		}
	}
	w.target, err = w.Host.Begin(ctx, w.ID, w.bundle.Version)
	if err != nil {
		return command.Later(err)
	}
	if w.target != w.running.Other() {
		return fmt.Errorf("PID 1 has marked slot %q for it, and slot %s is running", w.target, w.running)
	}
	return nil
}

// readHead also returns the source to go on with.
func (w *writer) readHead(ctx context.Context) (*bundle.Bundle, Source, error) {
	size, err := w.Source.Size(ctx)
	if err != nil {
		return nil, nil, err
	}
	keys, badKeys := w.keys()
	h := &head{Source: w.Source, ctx: ctx, size: size}
	b, err := bundle.Open(h, keys)
	switch {
	case errors.Is(err, bundle.ErrSignature):
		return nil, nil, errors.Join(err, badKeys)
	case err != nil:
		return nil, nil, err
	case size >= 0 && size < b.Size:
		return nil, nil, fmt.Errorf("it is cut off: it has %d bytes of %d: upload it again", size, b.Size)
	case size > b.Size:
		return nil, nil, fmt.Errorf("it has %d bytes, and %d belong to it: upload it again", size, b.Size)
	}
	return b, h, nil
}

func (w *writer) fits(st update.Status) error { return w.bundle.Fits(st.Board, st.Version) }

// openSlots opens the partitions of both slots, the running one's to be read.
func (w *writer) openSlots(update.Status) error {
	w.pieces = w.bundle.Pieces()
	w.right, w.wrong = make([]bool, len(w.pieces)), make([]int, len(w.pieces))
	largest := int64(bundle.ChunkSize)
	for _, p := range w.pieces {
		largest = max(largest, p.Size)
	}
	w.buf = make([]byte, largest)
	for _, p := range w.bundle.Partitions {
		for _, s := range []struct {
			list  *[]Device
			name  slot.Name
			write bool
		}{{&w.old, w.running, false}, {&w.new, w.running.Other(), true}} {
			d, err := w.open(partitionOf(s.name, p.Name), s.write)
			if err != nil {
				return err
			}
			*s.list = append(*s.list, d)
		}
	}
	var err error
	w.unpack, err = bundle.NewUnpacker()
	return err
}

func (w *writer) close() {
	for _, d := range append(w.old, w.new...) {
		d.Close()
	}
	if w.unpack != nil {
		w.unpack.Close()
	}
	w.old, w.new, w.unpack, w.buf = nil, nil, nil, nil
}

func (w *writer) hasRoom(update.Status) error {
	for i, p := range w.bundle.Partitions {
		room := w.new[i].Size() - slack[p.Name]
		if size := (p.Size + sector - 1) &^ (sector - 1); size > room {
			return fmt.Errorf("its %s has %d bytes, and there is room for %d: leave something out of it", p.Name, p.Size, room)
		}
	}
	return nil
}

// isNew says whether it is not what runs, and is confirmed.
func (w *writer) isNew(st update.Status) error {
	if w.Anew || st.Version != w.bundle.Version || st.Slots == nil || st.Slots.Good != st.Slot {
		return nil
	}
	for _, p := range w.pieces {
		if same, err := w.has(w.old[p.Partition], p); err != nil || !same {
			return nil // what cannot be read is written to the other slot
		}
	}
	return errRunning
}

// fill brings into the slot what it does not have, and reads all of it back.
func (w *writer) fill(ctx context.Context) error {
	for again := false; ; again = true {
		if err := w.keep(ctx); err != nil {
			return err
		}
		w.report()
		if err := w.fetch(ctx); err != nil {
			return err
		}
		wrong, err := w.verify(ctx)
		if err != nil || wrong < 0 {
			return err
		}
		if again {
			return w.blame(w.bundle.Partitions[wrong])
		}
		w.again = true // now it has most of it
	}
}

// keep finds out what the slot has already, of an earlier try, and copies what the
// running slot has.
func (w *writer) keep(ctx context.Context) error {
	for i, p := range w.pieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if w.again {
			// What cannot be read may be written.
			if w.right[i], _ = w.has(w.new[p.Partition], p); w.right[i] {
				continue
			}
		}
		if same, err := w.has(w.old[p.Partition], p); err != nil || !same {
			continue
		}
		if err := w.put(i, w.buf[:p.Length]); err != nil {
			return err
		}
	}
	return nil
}

// has says whether a partition has a piece, which is in w.buf then.
func (w *writer) has(d Device, p bundle.Piece) (bool, error) {
	if p.At+int64(p.Length) > d.Size() {
		return false, nil
	}
	buf := w.buf[:p.Length]
	if n, err := d.ReadAt(buf, p.At); n < len(buf) {
		return false, err
	}
	return sha256.Sum256(buf) == p.Plain, nil
}

// put writes a piece, whole sectors of it, durably: a power cut costs no more than
// the frame that is being fetched.
func (w *writer) put(i int, plain []byte) error {
	p := w.pieces[i]
	d := w.new[p.Partition]
	whole := len(plain) &^ (sector - 1)
	_, err := d.WriteAt(plain[:whole], p.At)
	if err == nil && whole < len(plain) {
		var last [sector]byte
		copy(last[:], plain[whole:])
		_, err = d.WriteAt(last[:], p.At+int64(whole))
	}
	if err != nil {
		return fmt.Errorf("write slot %s: %w", w.target, err)
	}
	w.right[i] = true
	return w.sync(d)
}

func (w *writer) sync(d Device) error {
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync slot %s: %w", w.target, err)
	}
	return nil
}

// fetch fetches the pieces that are not there, those one behind the other at once.
func (w *writer) fetch(ctx context.Context) error {
	for odd := 0; ; odd++ {
		err := w.fetchMissing(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, bundle.ErrChunk) && !changed(err) {
			return err
		}
		now, source, headErr := w.readHead(ctx)
		switch {
		case headErr != nil:
			return headErr
		case now.Digest != w.bundle.Digest:
			return errOther
		}
		w.source = source
		var bad *wrongPiece
		switch {
		case errors.As(err, &bad):
			if w.wrong[bad.i]++; w.wrong[bad.i] == maxWrong {
				return fmt.Errorf("%w; so it was %d times: upload it again", err, maxWrong)
			}
		case odd == maxWrong:
			return err
		}
	}
}

func (w *writer) fetchMissing(ctx context.Context) error {
	var missing []int
	for i, right := range w.right {
		if !right {
			missing = append(missing, i)
		}
	}
	for len(missing) > 0 {
		n := 1
		for n < len(missing) && missing[n] == missing[n-1]+1 {
			n++
		}
		last := w.pieces[missing[n-1]]
		if err := w.stream(ctx, missing[:n], w.pieces[missing[0]].From, last.From+last.Size); err != nil {
			return err
		}
		missing = missing[n:]
	}
	return nil
}

// stream fetches bytes of the file, in which there are these pieces.
func (w *writer) stream(ctx context.Context, pieces []int, from, to int64) error {
	f := &frames{w: w, at: from, pieces: pieces}
	err := w.source.Copy(ctx, f, from, to)
	if f.err != nil { // not the source's
		return f.err
	}
	return err
}

// frames makes pieces of what is streamed, and writes them.
type frames struct {
	w      *writer
	at     int64 // of the next byte in the file
	pieces []int // that are still to come
	n      int   // bytes of the frame, in w.buf
	err    error
}

func (f *frames) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		if len(f.pieces) == 0 {
			break
		}
		p := f.w.pieces[f.pieces[0]]
		if skip := p.From - f.at; skip > 0 { // what is between two
			n := min(skip, int64(len(rest)))
			f.at, rest = f.at+n, rest[n:]
			continue
		}
		n := copy(f.w.buf[f.n:p.Size], rest)
		f.at, f.n, rest = f.at+int64(n), f.n+n, rest[n:]
		if int64(f.n) < p.Size {
			continue
		}
		if f.err = f.piece(f.pieces[0], p); f.err != nil {
			return 0, f.err
		}
		f.n, f.pieces = 0, f.pieces[1:]
	}
	return len(b), nil
}

func (f *frames) piece(i int, p bundle.Piece) error {
	plain, err := f.w.unpack.Unpack(p, f.w.buf[:p.Size])
	if err != nil {
		return &wrongPiece{fmt.Errorf("piece %d of %d, bytes %d to %d: %w", i+1, len(f.w.pieces), p.From, p.From+p.Size-1, err), i}
	}
	if err := f.w.put(i, plain); err != nil {
		return err
	}
	f.w.report()
	return nil
}

// wrongPiece is not what the manifest says.
type wrongPiece struct {
	error
	i int
}

func (w *wrongPiece) Unwrap() error { return w.error }

// verify reads the whole slot from the disk, and returns the partition that is not
// what it has to be; -1: none.
func (w *writer) verify(ctx context.Context) (wrong int, err error) {
	for i, p := range w.bundle.Partitions {
		// Also what an earlier process has written. Then reading asks the disk.
		if err := w.sync(w.new[i]); err != nil {
			return 0, err
		}
		sum := sha256.New()
		for at := int64(0); at < p.Size; {
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			buf := w.buf[:min(int64(len(w.buf)), p.Size-at)]
			if n, _ := w.new[i].ReadAt(buf, at); n < len(buf) { // it may be written again
				return i, nil
			}
			sum.Write(buf)
			at += int64(len(buf))
		}
		if bundle.Sum(sum.Sum(nil)) != p.SHA256 {
			return i, nil
		}
	}
	return -1, nil
}

// blame says why a partition is wrong though it has been written twice.
func (w *writer) blame(p bundle.Partition) error {
	for _, piece := range w.pieces {
		if same, err := w.has(w.new[piece.Partition], piece); err != nil || !same {
			return fmt.Errorf("slot %s does not keep what is written, at byte %d of its %s for instance: the disk may be worn out",
				w.target, piece.At, w.bundle.Partitions[piece.Partition].Name)
		}
	}
	return fmt.Errorf("the pieces of its %s do not make what its manifest says: build it again", p.Name)
}

func (w *writer) report() {
	if w.Progress == nil {
		return
	}
	var done, size int64
	for i, p := range w.pieces {
		if size += p.Size; w.right[i] {
			done += p.Size
		}
	}
	w.Progress(done, size)
}
