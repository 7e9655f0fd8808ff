// Package flash writes images onto the cards of gateways, as a production line
// does: several at once, each read back, with the settings and the serial number
// of its unit, and a log of what has become of each card.
//
// What is to be overwritten is looked at first (Card), and opened so that the host
// cannot use it meanwhile. What counts is what the card returns in the end: cards
// are sold that say they have more memory than they do, and readers that lose
// bytes.
package flash

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Job is what is done to each card of a line.
type Job struct {
	Image    *Image
	Settings *Settings // nil: cards stay as the image is
	Serials  Serials   // with Settings; nil: their units have no serial numbers of their own
	Log      *Log      // nil: there is none, and there are no Serials
	Force    bool      // also onto what is large or not removable
	// Enable, if not nil, has the cloud take the serial number of a good card, and
	// says what was done.
	Enable func(ctx context.Context, serial string) (done string, err error)
	// Tell is told how it goes, for each card by another goroutine, a few times a
	// second.
	Tell func(Progress)

	watching bool // nobody looks which cards these are

	open     func(Card) (Device, error) // tests have other devices,
	patience time.Duration              // and less of it
}

// Progress is how it goes with a card.
type Progress struct {
	Device      string
	Phase       string
	Done, Total int64         // bytes of this phase
	Speed       float64       // bytes a second in this phase; 0: not known yet
	Left        time.Duration // of all phases; 0: not known yet
}

// patience is how long a card may take for one step before its reader is given
// up, and endPatience when the whole is to end.
const (
	patience    = 3 * time.Minute
	endPatience = 15 * time.Second
)

// Cards flashes cards, all at once. The first good one has the first serial
// number, and so on. Entries are in the cards' order.
func (j *Job) Cards(ctx context.Context, cards []Card) []Entry {
	entries := make([]Entry, len(cards))
	var wg sync.WaitGroup
	turn := make(chan struct{})
	close(turn)
	for i, c := range cards {
		before, mine, after := turn, make(chan struct{}), make(chan struct{})
		turn = after
		wg.Go(func() { entries[i] = j.Card(ctx, c, before, sync.OnceFunc(func() { close(mine) })) })
		wg.Go(func() {
			<-mine // it may be out before its turn comes
			<-before
			close(after)
		})
	}
	wg.Wait()
	return entries
}

// Card flashes a card. Its serial number is chosen when turn is closed; passed is
// called when it has been, or will not be.
func (j *Job) Card(ctx context.Context, c Card, turn <-chan struct{}, passed func()) Entry {
	defer passed()
	start := time.Now()
	e := j.entry(c)
	err := c.Refuse(j.Image.Image.Size, j.Force)
	if err == nil && j.Serials != nil {
		var used map[string]bool
		if used, err = j.Log.Used(); err == nil {
			_, err = j.Serials.Next(used)
		}
	}
	if err != nil {
		e.Result, e.Detail = Refused, err.Error()
	} else {
		j.flash(ctx, c, &e, turn, passed)
	}
	e.Seconds = time.Since(start).Seconds()
	j.log(&e)
	return e
}

func (j *Job) entry(c Card) Entry {
	return Entry{
		Device: c.Path, Card: c.Model, CardID: c.ID, Size: c.Size,
		Board: j.Image.Board, Version: j.Image.Version, SHA256: j.Image.Image.SHA256,
	}
}

func (j *Job) log(e *Entry) {
	e.Time = time.Now()
	if j.Log == nil {
		return
	}
	if err := j.Log.Append(*e); err != nil {
		// Who reads the log only must not miss it.
		e.Detail = fmt.Sprintf("%s, but it is not in the log: %v", e.Result, err)
		e.Result = Failed
	}
}

// flash opens a card and writes it, and sets what has become of it.
func (j *Job) flash(ctx context.Context, c Card, e *Entry, turn <-chan struct{}, passed func()) {
	if ctx.Err() != nil {
		e.Result, e.Detail = Interrupted, "nothing was written"
		return
	}
	w := &writer{image: j.Image}
	m := meter{device: c.Path, tell: j.Tell, limit: cmp.Or(j.patience, patience)}
	w.tell = m.update
	// What hangs in a broken reader cannot be ended. It must not keep the others, nor
	// go on when nobody waits for it any more.
	working, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var unit atomic.Pointer[Unit]
	if j.Settings != nil {
		about := *e
		w.provision = func() ([]byte, error) {
			if !closed(turn) {
				w.tell(waiting, 0, 0)
			}
			select {
			case <-turn:
			case <-working.Done():
			}
			if err := working.Err(); err != nil {
				return nil, err
			}
			defer passed()
			u, err := j.allot(about)
			if err != nil {
				return nil, err
			}
			unit.Store(&u)
			return j.Settings.file(u.Serial)
		}
	}
	if j.watching && j.Serials != nil {
		w.known = j.Log.Used
	}
	m.update(opening, 0, 0)
	result := make(chan error, 1)
	go func() { result <- j.write(working, c, w) }()
	err := m.await(ctx, result)
	if u := unit.Load(); u != nil {
		e.Serial, e.MAC = u.Serial, u.MAC
	}
	switch {
	case err == nil:
		e.Result, e.Detail = OK, w.note
	case errors.As(err, new(refusal)):
		e.Result, e.Detail = Refused, err.Error()
		return
	case ctx.Err() != nil && !errors.Is(err, errGone):
		e.Result, e.Detail = Interrupted, "while "+string(m.phase())+"; the card is not complete"
		return
	case errors.Is(err, ErrNoSerials):
		e.Result, e.Detail = Failed, "the card is good, but "+err.Error()
		return
	default:
		e.Result, e.Detail = Failed, err.Error()
		return
	}
	if j.Enable != nil && e.Serial != "" {
		m.update(enabling, 0, 0)
		done, err := j.Enable(ctx, e.Serial)
		if err != nil {
			e.Result, done = NotEnabled, fmt.Sprintf("the card is good, but %v; builder enable does it later", err)
		}
		e.Detail = strings.TrimPrefix(e.Detail+"; "+done, "; ")
	}
	m.update(done, 1, 1)
}

// write opens a card, and writes it.
func (j *Job) write(ctx context.Context, c Card, w *writer) error {
	open := j.open
	if open == nil {
		open = Card.open
	}
	dev, err := open(c)
	if err != nil {
		return refusal{err}
	}
	if err = ctx.Err(); err == nil { // it may have taken long
		w.dev = dev
		err = w.write(ctx)
	}
	gone := err != nil && dev.Gone()
	if failed := dev.Close(); err == nil {
		err = failed
	}
	if gone {
		err = fmt.Errorf("%w (%v)", errGone, err)
	}
	return err
}

// refusal is why nothing was written.
type refusal struct{ error }

var errGone = errors.New("it was pulled out, or its reader was")

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// allot returns the unit that the card is for. Its serial number is used from now on.
func (j *Job) allot(e Entry) (Unit, error) {
	if j.Serials == nil {
		return Unit{}, nil
	}
	return j.Log.Allot(e, j.Serials.Next)
}

// meter measures one card's progress.
type meter struct {
	device string
	tell   func(Progress)
	limit  time.Duration // for a step

	mu     sync.Mutex
	now    phase
	since  time.Time // the phase
	told   time.Time
	latest time.Time // any progress
}

func (m *meter) phase() phase {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *meter) update(p phase, done, total int64) {
	const often = 200 * time.Millisecond
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.latest = now
	if p == m.now && done < total && now.Sub(m.told) < often {
		return
	}
	if p != m.now {
		m.now, m.since = p, now
	}
	m.told = now
	out := Progress{Device: m.device, Phase: string(p), Done: done, Total: total}
	if took := now.Sub(m.since).Seconds(); took > 0.5 && done > 0 && (p == writing || p == verifying) {
		out.Speed = float64(done) / took
		left := float64(total-done) / out.Speed
		if p == writing { // no card is read more slowly than it is written
			left += float64(total) / out.Speed
		}
		out.Left = time.Duration(left * float64(time.Second))
	}
	if m.tell != nil {
		m.tell(out)
	}
}

// await waits for the result of what reports to the meter.
func (m *meter) await(ctx context.Context, result <-chan error) error {
	ended, limit := ctx.Done(), m.limit
	for tick := time.Tick(time.Second); ; {
		select {
		case err := <-result:
			return err
		case <-ended:
			ended, limit = nil, endPatience
			m.mu.Lock()
			m.latest = time.Now()
			m.mu.Unlock()
		case <-tick:
			m.mu.Lock()
			still, now := time.Since(m.latest), m.now
			m.mu.Unlock()
			if still > limit && (now != waiting || ended == nil) {
				return fmt.Errorf("it hangs: nothing for %v while %s; pull it out, and its reader", still.Round(time.Second), now)
			}
		}
	}
}
