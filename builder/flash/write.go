package flash

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/gweinit/config"
)

// chunk is how much is written at once: what most cards erase at once.
const chunk = 4 << 20

// phase is what is done to a card.
type phase string

const (
	opening      phase = "opening"
	waiting      phase = "waiting"
	erasing      phase = "erasing"
	writing      phase = "writing"
	verifying    phase = "verifying"
	provisioning phase = "provisioning"
	enabling     phase = "enabling"
	done         phase = "done"
)

// writer brings an image onto a card.
type writer struct {
	image *Image
	dev   Device
	tell  func(p phase, done, total int64) // bytes
	// provision returns provision.yaml as config.File does, once the card has
	// turned out to be good: a bad one takes no serial number away. nil: the card
	// stays as the image is.
	provision func() ([]byte, error)
	// known returns the serial numbers that are used; a card that has one is left as
	// it is. nil: whatever the card has.
	known func() (map[string]bool, error)

	note    string // what there is to say about a card that is good
	buffers [2][]byte
	probes  []probe
	erased  bool // so that zeros need not be written
}

// probe is a mark behind the image. A card that has less memory than it says
// drops it, or has it where something else belongs.
type probe struct {
	off  int64
	mark []byte
}

// write erases, writes, reads back and provisions. What it returns is nil, or
// what is wrong with the card, in the words of an operator.
func (w *writer) write(ctx context.Context) (err error) {
	if w.dev.Size() < w.image.Image.Size {
		return tooSmall(w.dev.Size(), w.image.Image.Size)
	}
	for i := range w.buffers {
		if w.buffers[i], err = pages(chunk); err != nil {
			return err
		}
		defer unix.Munmap(w.buffers[i])
	}
	steps := []func(context.Context) error{w.recognise, w.erase, w.mark, w.writeData, w.writeZeros, w.verify, w.unmark}
	if w.provision != nil {
		steps = append(steps, w.writeProvision)
	}
	for _, step := range steps { // after the last one the card is complete, whoever interrupts
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// recognise refuses a card that was flashed already, and did not start since: it
// was left in its reader, or put into another one.
func (w *writer) recognise(context.Context) error {
	if w.known == nil {
		return nil
	}
	used, err := w.known()
	if err != nil {
		return refusal{err}
	}
	var file []byte
	for _, e := range w.image.provision {
		first, end := e.Offset/grain*grain, (e.Offset+e.Length+grain-1)/grain*grain
		b := w.buffers[0][:end-first]
		if _, err := w.dev.ReadAt(b, first); err != nil {
			return nil // writing tells what is wrong with it
		}
		file = append(file, b[e.Offset-first:][:e.Length]...)
	}
	text, _ := config.Text(file)
	if p, err := config.ParseProvision(text); err == nil && used[p.Serial] {
		return refusal{fmt.Errorf("it is the card of %s, flashed before", p.Serial)}
	}
	return nil
}

// erase empties the card, with all that a gateway it was in before has left on it,
// as far as the reader lets us. Some cards then have ones where others have zeros.
func (w *writer) erase(ctx context.Context) error {
	const step = 1 << 30 // takes seconds at most, and cannot be interrupted
	size := w.dev.Size()
	for off := int64(0); off < size; off += step {
		w.tell(erasing, off, size)
		err := w.dev.Discard(off, min(step, size-off))
		if errors.Is(err, errors.ErrUnsupported) {
			w.note = "not erased, as its reader cannot: behind the image it has what it had"
			return nil
		}
		if err != nil {
			return fmt.Errorf("erase at %s: %w", SizeText(off), err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := w.dev.Sync(); err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	// All of it is read in the end; this only tells the one kind from the other.
	w.erased = true
	for _, e := range w.image.zeros() {
		b := w.buffers[0][:min(e.Length, chunk)]
		if _, err := w.dev.ReadAt(b, e.Offset); err != nil {
			return fmt.Errorf("read at %s: %w", SizeText(e.Offset), err)
		}
		if !allZero(b) {
			w.erased = false
			return nil
		}
	}
	return nil
}

func allZero(b []byte) bool { return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// mark writes the probes: at the end, which cards without memory there drop, and
// at all powers of two behind the image, which cards that pass over the upper bits
// of an address have where they have the image.
func (w *writer) mark(context.Context) error {
	end := w.dev.Size()/grain*grain - grain
	w.probes = nil
	for off := int64(grain); off < end; off *= 2 {
		if off >= w.image.Image.Size {
			w.probes = append(w.probes, probe{off: off})
		}
	}
	if end >= w.image.Image.Size {
		w.probes = append(w.probes, probe{off: end})
	}
	for i := range w.probes {
		p := &w.probes[i]
		p.mark = make([]byte, grain)
		rand.Read(p.mark)
		if err := w.writeAt(p.mark, p.off); err != nil {
			return err
		}
	}
	return nil
}

// unmark looks for the probes, which the image was written after, and removes
// them.
func (w *writer) unmark(context.Context) error {
	b := w.buffers[0][:grain]
	for _, p := range w.probes {
		if _, err := w.dev.ReadAt(b, p.off); err != nil {
			return fmt.Errorf("read at %s: %w", SizeText(p.off), err)
		}
		if !bytes.Equal(b, p.mark) {
			return fmt.Errorf("it says it has %s, but does not keep what is written at %s: a counterfeit, or broken; do not use it", SizeText(w.dev.Size()), SizeText(p.off))
		}
	}
	for _, p := range w.probes {
		if err := w.writeAt(make([]byte, grain), p.off); err != nil {
			return err
		}
	}
	return w.sync()
}

// writeAt writes what need not begin at a page.
func (w *writer) writeAt(data []byte, off int64) error {
	b := w.buffers[0][:len(data)]
	copy(b, data)
	if _, err := w.dev.WriteAt(b, off); err != nil {
		return fmt.Errorf("write at %s: %w", SizeText(off), err)
	}
	return nil
}

func (w *writer) sync() error {
	if err := w.dev.Sync(); err != nil {
		return fmt.Errorf("write what the card has in its buffers: %w", err)
	}
	return nil
}

// writeData writes what is not zeros.
func (w *writer) writeData(ctx context.Context) error { return w.writeExtents(ctx, w.image.data) }

func (w *writer) writeZeros(ctx context.Context) error {
	if !w.erased {
		if err := w.writeExtents(ctx, w.image.zeros()); err != nil {
			return err
		}
	}
	return w.sync()
}

func (w *writer) writeExtents(ctx context.Context, extents []disk.Extent) error {
	all := total(w.image.data)
	before := int64(0)
	if !w.erased {
		all = w.image.Image.Size
		if len(extents) > 0 && extents[0] != w.image.data[0] {
			before = total(w.image.data)
		}
	}
	for _, e := range extents {
		for off, end := e.Offset, e.Offset+e.Length; off < end; {
			w.tell(writing, before, all)
			n := min(chunk-off%chunk, end-off)
			b := w.buffers[0][:n]
			if _, err := w.image.file.ReadAt(b, off); err != nil {
				return fmt.Errorf("read the image at %s: %w", SizeText(off), err)
			}
			if _, err := w.dev.WriteAt(b, off); err != nil {
				return fmt.Errorf("write at %s: %w", SizeText(off), err)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			off += n
			before += n
		}
	}
	return nil
}

// verify reads all of the image back, also the zeros that were not written.
func (w *writer) verify(ctx context.Context) error {
	hash, zero, data := sha256.New(), true, w.image.data
	err := w.read(ctx, func(b []byte, off int64) error {
		for len(b) > 0 {
			for len(data) > 0 && data[0].Offset+data[0].Length <= off {
				data = data[1:]
			}
			n := int64(len(b))
			if len(data) > 0 && data[0].Offset <= off {
				n = min(n, data[0].Offset+data[0].Length-off)
				hash.Write(b[:n])
			} else {
				if len(data) > 0 {
					n = min(n, data[0].Offset-off)
				}
				zero = zero && allZero(b[:n])
			}
			b, off = b[n:], off+n
		}
		return nil
	})
	if err != nil || zero && [sha256.Size]byte(hash.Sum(nil)) == w.image.sum {
		return err
	}
	// Where?
	var first, zeros int64 = -1, 0
	err = w.read(ctx, func(b []byte, off int64) error {
		want := make([]byte, len(b))
		if _, err := w.image.file.ReadAt(want, off); err != nil {
			return fmt.Errorf("read the image at %s: %w", SizeText(off), err)
		}
		for at := 0; at < len(b); at += grain {
			if !bytes.Equal(b[at:at+grain], want[at:at+grain]) {
				if w.erased && allZero(want[at:at+grain]) {
					zeros++
				} else if first < 0 {
					first = off + int64(at)
				}
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case first >= 0:
		return fmt.Errorf("it does not keep what is written to it: what it has at %s is something else", SizeText(first))
	case zeros == 0:
		return errors.New("it does not always read the same: one look at it was right, another one wrong")
	}
	// It was erased, but not all of it to zeros.
	w.erased = false
	if err := w.writeZeros(ctx); err != nil {
		return err
	}
	return w.verify(ctx)
}

// read reads the image on the card, and has take look at each part while the next
// one is read.
func (w *writer) read(ctx context.Context, take func(b []byte, off int64) error) error {
	type part struct {
		data []byte
		off  int64
		err  error
	}
	size := w.image.Image.Size
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	parts := make(chan part)
	free := make(chan []byte, len(w.buffers))
	for _, b := range w.buffers {
		free <- b
	}
	go func() {
		defer close(parts)
		for off := int64(0); off < size && ctx.Err() == nil; {
			b := (<-free)[:min(chunk, size-off)]
			_, err := w.dev.ReadAt(b, off)
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			parts <- part{b, off, err}
			if err != nil {
				return
			}
			off += int64(len(b))
		}
	}()
	var failed error
	for p := range parts { // to the end: the buffers are in use until then
		if p.err != nil {
			p.err = fmt.Errorf("read at %s: %w", SizeText(p.off), p.err)
		} else if failed == nil {
			p.err = take(p.data, p.off)
			w.tell(verifying, p.off+int64(len(p.data)), size)
		}
		if p.err != nil {
			failed = cmp.Or(failed, p.err)
			stop()
		}
		free <- p.data[:cap(p.data)]
	}
	return cmp.Or(failed, ctx.Err())
}

// writeProvision puts the settings of this unit into the file that the image has
// for them.
func (w *writer) writeProvision(ctx context.Context) error {
	file, err := w.provision()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	w.tell(provisioning, 0, 0)
	if want := total(w.image.provision); int64(len(file)) != want {
		return fmt.Errorf("the settings have %d bytes, and their file on the image %d", len(file), want)
	}
	// Whole grains, with what the image has beside the file.
	grains := map[int64][]byte{}
	for _, e := range w.image.provision {
		for off := e.Offset; off < e.Offset+e.Length; {
			first := off / grain * grain
			if grains[first] == nil {
				grains[first] = make([]byte, grain)
				if _, err := w.image.file.ReadAt(grains[first], first); err != nil {
					return fmt.Errorf("read the image at %s: %w", SizeText(first), err)
				}
			}
			n := copy(grains[first][off-first:], file[:min(int64(len(file)), e.Offset+e.Length-off)])
			file, off = file[n:], off+int64(n)
		}
	}
	for off, want := range grains {
		if err := w.writeAt(want, off); err != nil {
			return err
		}
	}
	if err := w.sync(); err != nil {
		return err
	}
	got := w.buffers[0][:grain]
	for off, want := range grains {
		if _, err := w.dev.ReadAt(got, off); err != nil {
			return fmt.Errorf("read at %s: %w", SizeText(off), err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("it does not keep the settings: what it has at %s is something else", SizeText(off))
		}
	}
	return nil
}
