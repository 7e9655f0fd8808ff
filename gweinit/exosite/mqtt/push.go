package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
)

const (
	maxAliases = 100  // whose newest pushes are remembered
	maxQueue   = 1000 // pushes that a watcher has not taken yet
	maxRecent  = 64   // pushes that are known if they come again

	// maxHeld is for the values, in bytes: those that are remembered, and those
	// that wait for a watcher. The longest has room in it.
	maxHeld = 4 << 20
)

// watcher waits for pushes.
type watcher struct {
	queue []exosite.Point // guarded by Session.mu
	size  int             // of its values
	wake  chan struct{}
	full  bool
}

// push is called with what the server sends.
func (s *Session) push(topic string, payload []byte) {
	p, ok := parsePush(topic, payload)
	if !ok {
		return // a later server's message
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A server sends again what was not acknowledged when a connection ended.
	key := fmt.Sprint(p.Alias, "/", p.Time.UnixMicro())
	if slices.Contains(s.recent, key) {
		return
	}
	if len(s.recent) == maxRecent {
		s.recent = slices.Delete(s.recent, 0, 1)
	}
	s.recent = append(s.recent, key)
	s.remember(p)
	for w := range s.watchers {
		if len(w.queue) == maxQueue || w.size+len(p.Value) > maxHeld {
			w.full = true
		} else {
			w.queue = append(w.queue, p)
			w.size += len(p.Value)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// remember keeps a change, and forgets the oldest if these are too many.
func (s *Session) remember(p exosite.Point) {
	old := s.newest[p.Alias]
	if p.Time.Before(old.Time) {
		return
	}
	s.newest[p.Alias] = p
	s.held += len(p.Value) - len(old.Value)
	for len(s.newest) > maxAliases || s.held > maxHeld {
		oldest := p
		for _, other := range s.newest {
			if other.Time.Before(oldest.Time) {
				oldest = other
			}
		}
		delete(s.newest, oldest.Alias)
		s.held -= len(oldest.Value)
	}
}

// parsePush reads a change: "$resource/<alias>/<µs since 1970>", and the value.
func parsePush(topic string, payload []byte) (exosite.Point, bool) {
	rest, ok := strings.CutPrefix(topic, resourceTopic)
	alias, stamp, found := strings.Cut(rest, "/")
	t, err := strconv.ParseInt(stamp, 10, 64)
	if !ok || !found || alias == "" || err != nil || t < 0 {
		return exosite.Point{}, false
	}
	return exosite.Point{Alias: alias, Time: time.UnixMicro(t), Value: string(payload)}, true
}

// Watch calls f with each change that the product's side makes, in their order,
// until ctx ends, the session is closed, or f is so slow that 1000 others wait, or
// 4 MiB of them. It connects again, after growing random pauses, as long as it
// takes. Changes from before are not among them, unless the session has a name and
// the server kept them for it.
func (s *Session) Watch(ctx context.Context, f func(exosite.Point)) error {
	s.mu.Lock()
	w := s.watcher()
	s.mu.Unlock()
	return s.watch(ctx, w, f)
}

// watcher makes one, which misses nothing from now on. Session.mu is held.
func (s *Session) watcher() *watcher {
	w := &watcher{wake: make(chan struct{}, 1)}
	s.watchers[w] = true
	return w
}

// watch is Watch from when w was made.
func (s *Session) watch(ctx context.Context, w *watcher, f func(exosite.Point)) error {
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	take := func() error {
		s.mu.Lock()
		queue, full := w.queue, w.full
		w.queue, w.size = nil, 0
		s.mu.Unlock()
		for _, p := range queue {
			f(p)
		}
		if full {
			return permanent{fmt.Errorf("more than %d changes or %d bytes wait to be taken: some are lost", maxQueue, maxHeld)}
		}
		return nil
	}
	for {
		err := s.stay(ctx, w, take)
		if err != nil {
			return err
		}
	}
}

// stay is connected until the connection ends, which is no error.
func (s *Session) stay(ctx context.Context, w *watcher, take func() error) error {
	var l *link
	if err := s.again(ctx, "watch", 0, func() (err error) {
		l, err = s.connected(ctx)
		return err
	}); err != nil {
		return err
	}
	for {
		if err := take(); err != nil {
			return fmt.Errorf("watch by MQTT on %s: %w", s.client.Host(), err)
		}
		select {
		case <-w.wake:
		case <-l.over:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("watch by MQTT on %s: %w", s.client.Host(), context.Cause(ctx))
		}
	}
}

// Wait waits until the product's side sets a resource, later than since, and
// returns the value and its time. With a zero since that is the next change. What
// was set before the session began is not known here: read it by HTTP.
// exosite.ErrNotModified says that there was no change within timeout.
func (s *Session) Wait(ctx context.Context, alias string, since time.Time, timeout time.Duration) (string, time.Time, error) {
	s.mu.Lock()
	if known, ok := s.newest[alias]; ok && !since.IsZero() && known.Time.After(since) {
		s.mu.Unlock()
		return known.Value, known.Time, nil
	}
	w := s.watcher()
	s.mu.Unlock()
	within, cancel := context.WithTimeoutCause(ctx, timeout, exosite.ErrNotModified)
	defer cancel()
	var found exosite.Point
	got := errors.New("got it")
	inner, end := context.WithCancelCause(within)
	defer end(nil)
	err := s.watch(inner, w, func(p exosite.Point) {
		if found.Alias == "" && p.Alias == alias && p.Time.After(since) {
			found = p
			end(got)
		}
	})
	switch {
	case found.Alias != "":
		return found.Value, found.Time, nil
	case ctx.Err() == nil && within.Err() != nil && context.Cause(within) == exosite.ErrNotModified:
		return "", time.Time{}, exosite.ErrNotModified
	}
	return "", time.Time{}, err
}
