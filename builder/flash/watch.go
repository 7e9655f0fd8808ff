package flash

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// look is how often a reader is looked at.
const look = 500 * time.Millisecond

// Watch flashes each card that is put into one of the readers, block devices that
// may be not there as long as no card is, until ctx is done. Cards that are in a
// reader already are flashed, too. begin and end are called for each card, by the
// goroutine of its reader.
func (j *Job) Watch(ctx context.Context, readers []string, begin func(Card), end func(Card, Entry)) {
	var wg sync.WaitGroup
	turn := make(chan struct{}) // serial numbers are for who comes first
	close(turn)
	for _, reader := range readers {
		wg.Go(func() {
			for empty := true; ; empty = false {
				c, ok := next(ctx, reader, empty)
				if !ok {
					return
				}
				begin(c)
				e := j.Card(ctx, c, turn, func() {})
				end(c, e)
			}
		})
	}
	wg.Wait()
}

// next waits for a card in a reader that is empty, or else will be before. That the
// kernel says it is another one is not enough: it does so, too, when a reader was
// asleep, and a unit must not be flashed again behind the operator's back.
func next(ctx context.Context, reader string, empty bool) (Card, bool) {
	for {
		select {
		case <-ctx.Done():
			return Card{}, false
		case <-time.After(look):
		}
		nudge(reader)
		c, err := Examine(reader)
		switch {
		case err != nil, c.Size == 0:
			empty = true
		case empty:
			return c, true
		}
	}
}

// nudge has the kernel look whether there is a card in a reader, which it does
// when somebody opens it.
func nudge(reader string) {
	if f, err := os.OpenFile(reader, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		f.Close()
	}
}
