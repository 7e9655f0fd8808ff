package flash

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// interval is how often a reader is looked at.
const interval = 500 * time.Millisecond

// Watch flashes each card that is put into one of the readers until ctx is done,
// also those that are in one already, unless they have a serial number of the log.
// A reader is what Examine says of it; one that is not there yet has a Path only, and
// is what is there first. begin and end are called for each card, by the goroutine of
// its reader.
func (j *Job) Watch(ctx context.Context, readers []Card, begin func(Card), end func(Card, Entry)) {
	var wg sync.WaitGroup
	job := *j
	job.watching = true
	turn := make(chan struct{}) // serial numbers are for who comes first
	close(turn)
	for _, c := range readers {
		r := reader{path: c.Path, place: c.place, empty: true}
		wg.Go(func() {
			for {
				c, err := r.next(ctx)
				if ctx.Err() != nil {
					return
				}
				begin(c)
				var e Entry
				if err != nil {
					e = job.entry(c)
					e.Result, e.Detail = Refused, err.Error()
					job.log(&e)
				} else {
					e = job.Card(ctx, c, turn, func() {})
					r.swapped(c)
				}
				end(c, e)
			}
		})
	}
	wg.Wait()
}

// reader is where cards are put in, one after the other.
type reader struct {
	path  string
	place string // "": not known yet
	empty bool   // or will be, before the next card
	other bool   // what is in it came while its last card was worked on
}

var (
	errOtherReader = errors.New("this is not the reader that was here at first, and is not written to (if it is to be, end this and start anew)")
	errTooEarly    = errors.New("it came before the last one was done, and is not flashed")
)

// next waits for a card, which the reader has to be without before. That the kernel
// says it is another one is not enough: it does so, too, when a reader was asleep, and
// a unit must not be flashed again behind the operator's back. The error says why the
// card is not to be touched.
func (r *reader) next(ctx context.Context) (Card, error) {
	for {
		select {
		case <-ctx.Done():
			return Card{}, ctx.Err()
		case <-time.After(interval):
		}
		nudge(r.path)
		c, err := Examine(r.path)
		switch {
		case err != nil, c.Size == 0:
			r.empty, r.other = true, false
			continue
		case r.other:
			r.other = false
			return c, errTooEarly
		case !r.empty:
			continue
		}
		r.empty = false
		if r.place == "" {
			r.place = c.place
		}
		if c.place != r.place {
			return c, errOtherReader
		}
		return c, nil
	}
}

// swapped notes whether another card than the one that was worked on is in the reader.
func (r *reader) swapped(c Card) {
	now, err := Examine(r.path)
	r.other = err == nil && now.Size > 0 && (now.seq != c.seq || now.ID != c.ID)
}

// nudge has the kernel look whether there is a card in a reader, which it does
// when somebody opens it.
func nudge(reader string) {
	if f, err := os.OpenFile(reader, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close()
	}
}
