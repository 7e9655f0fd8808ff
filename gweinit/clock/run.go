package clock

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

const (
	day        = 24 * time.Hour
	storeEvery = 10 * time.Minute
	pokeGap    = 2 * time.Second // between polls, however often the network changes
	retryFirst = 4 * time.Second // after a poll without a result, doubled up to
	retryMost  = 15 * time.Minute
	pollFirst  = 64 * time.Second // after one with a result, doubled up to
	pollMost   = 2048 * time.Second
	maxServers = 8
)

// poller is the state of polling.
type poller struct {
	servers  []*server
	known    map[string]*server // also some that are no longer in the list
	said     map[string]string  // last errors
	asked    time.Time          // last poll
	next     time.Time          // poll
	retry    time.Duration      // after the next failure
	interval time.Duration      // after the next success
	ok       bool               // the last poll
	synced   bool               // ever
	suspect  time.Duration      // large offset that has to be confirmed
	rtcSet   time.Time
}

func newPoller() poller {
	return poller{known: map[string]*server{}, said: map[string]string{}, retry: retryFirst, interval: pollFirst}
}

// Servers replaces the list of NTP servers: names or addresses, also with a
// port, of which the first few are used. It pokes.
func (c *Clock) Servers(list []string) {
	var names []string
	for _, name := range list {
		if name != "" && !slices.Contains(names, name) && len(names) < maxServers {
			names = append(names, name)
		}
	}
	c.mu.Lock()
	c.list = names
	c.mu.Unlock()
	c.Poke()
}

// Poke says that the network has changed: if the clock is not in sync, now may
// be the time. It may be called from any goroutine, and does not wait.
func (c *Clock) Poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run asks the servers and stores the time until ctx is done. It may be called
// again, but not twice at once.
func (c *Clock) Run(ctx context.Context) {
	store := time.Now().Add(storeEvery)
	select { // pokes so far are not about what comes now
	case <-c.wake:
	default:
	}
	c.poked()
	for {
		c.readList()
		next := store
		if at, ok := c.nextPoll(); ok && at.Before(next) {
			next = at
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.wake:
			timer.Stop()
			c.readList()
			c.poked()
		case <-timer.C:
		}
		if time.Until(store) <= 0 {
			c.complain("store the time", c.storeFile())
			store = time.Now().Add(storeEvery)
		}
		if at, ok := c.nextPoll(); ok && time.Until(at) <= 0 {
			c.poll(ctx)
		}
	}
}

func (c *Clock) poked() {
	if !c.ok {
		c.next, c.retry = c.asked.Add(pokeGap), retryFirst
	}
}

// readList takes the servers from the list. One that has asked for rest is
// remembered: a lease that goes and comes back must not wake it up.
func (c *Clock) readList() {
	c.mu.Lock()
	list := c.list
	c.mu.Unlock()
	c.servers = nil
	for _, name := range list {
		if c.known[name] == nil {
			c.known[name] = &server{name: name}
		}
		c.servers = append(c.servers, c.known[name])
	}
	for name, s := range c.known {
		if !slices.Contains(list, name) && time.Since(s.rest) > day {
			delete(c.known, name)
		}
	}
}

// nextPoll returns when to poll, if there are servers: when it is time and one
// of them may be asked.
func (c *Clock) nextPoll() (time.Time, bool) {
	if len(c.servers) == 0 {
		return time.Time{}, false
	}
	at := slices.MinFunc(c.servers, func(a, b *server) int { return a.rest.Compare(b.rest) }).rest
	if at.Before(c.next) {
		at = c.next
	}
	return at, true
}

// poll asks servers, makes the clock right, and plans the next poll.
func (c *Clock) poll(ctx context.Context) {
	c.asked = time.Now()
	err := c.tryPoll(ctx)
	if ctx.Err() != nil {
		return
	}
	c.ok = err == nil
	c.mu.Lock()
	c.status.Error = oneLine(err)
	c.mu.Unlock()
	if err != nil {
		c.next = time.Now().Add(jitter(c.retry))
		c.retry = min(2*c.retry, retryMost)
		return
	}
	c.next = time.Now().Add(jitter(c.interval))
	c.retry, c.interval = retryFirst, min(2*c.interval, pollMost)
}

// jitter shortens a time by up to a quarter: gateways that have got their power
// back together must not ask together for ever. It does not lengthen it: for
// offsets more than 2048 s apart the kernel takes another, coarser loop.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/4)
}

func (c *Clock) tryPoll(ctx context.Context) error {
	// The servers' answers are compared with this clock, which goes on without
	// steps, whoever sets the other one meanwhile.
	base, start := c.kernel.now(), time.Now()
	now := func() time.Time { return base.Add(time.Since(start)) }
	picked := pick(c.servers, start)
	replies, done := make([]reply, len(picked)), make(chan bool, len(picked))
	for i, s := range picked {
		name, nth := s.name, s.nth
		go func() {
			replies[i] = c.ask(name, nth, now)
			done <- true
		}()
	}
	for range picked {
		select {
		case <-ctx.Done(): // the rest ends by itself
			return ctx.Err()
		case <-done:
		}
	}
	var answers []answer
	var errs []error
	for i, s := range picked {
		a, err := c.judge(s, replies[i])
		if err == nil {
			answers = append(answers, a)
		}
		errs = append(errs, err)
	}
	if len(answers) == 0 {
		return errors.Join(errs...)
	}
	best := choose(answers)
	for _, a := range answers {
		outlier := (a.offset - best.offset).Abs() > agree
		if outlier && !a.server.outlier {
			c.o.Log.Warn("NTP server disagrees, and is not believed", "server", a.server.name, "by", a.offset-best.offset, "with", best.server.name)
		}
		a.server.outlier = outlier
	}
	err := c.apply(best, now)
	c.complain("the clock", err)
	return err
}

// apply makes the clock right. The answer is relative to now.
func (c *Clock) apply(a answer, now func() time.Time) error {
	offset := now().Add(a.offset).Sub(c.kernel.now())
	c.mu.Lock()
	c.status.Server, c.status.Stratum, c.status.Offset, c.polled = a.server.name, a.stratum, offset, time.Now()
	c.mu.Unlock()
	what := act(offset, c.synced, c.suspect)
	s := slew{maxError: a.distance}
	switch what {
	case askAgain:
		if c.suspect == 0 {
			c.o.Log.Warn("the clock seems to be far off; asking again", "server", a.server.name, "offset", offset)
			c.interval = pollFirst
		}
		c.suspect = offset
		return nil
	case step:
		if c.synced {
			c.o.Log.Error("the clock was far off, and is set", "server", a.server.name, "offset", offset)
		}
		if err := c.kernel.set(now().Add(a.offset)); err != nil {
			return err
		}
		c.interval = pollFirst
	case slewLarge:
		s.large = offset
	case slewSmall:
		s.small = offset
	}
	c.suspect = 0
	s.maxError += (s.small + s.large).Abs()
	s.interval = c.interval
	if err := c.kernel.slew(s); err != nil {
		return err
	}
	first := !c.synced
	if first {
		c.synced = true
		c.mu.Lock()
		c.floor = c.build // what was stored may have been from a wrong RTC
		c.mu.Unlock()
		c.announce(FromNTP)
	}
	if first || what == step {
		c.complain("store the time", c.storeFile())
	}
	if first || what == step || time.Since(c.rtcSet) >= day {
		c.rtcSet = time.Now()
		c.complain("set the RTC", c.writeRTC())
	}
	return nil
}

// complain logs an error about something if it is another than the last one.
func (c *Clock) complain(what string, err error) {
	text := oneLine(err)
	switch {
	case text == c.said[what]:
	case err == nil:
		delete(c.said, what)
		c.o.Log.Info("clock: works again", "what", what)
	default:
		c.said[what] = text
		c.o.Log.Error("clock", "what", what, "err", text)
	}
}

func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
