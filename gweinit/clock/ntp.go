package clock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/beevik/ntp"
)

// server is one to ask.
type server struct {
	name    string
	failed  int           // times in a row
	nth     int           // of its addresses
	every   time.Duration // it has asked for: at most once
	rest    time.Time     // not before
	outlier bool
}

// reply is what came from a server.
type reply struct {
	response *ntp.Response
	err      error
}

// answer is a reply that may be right.
type answer struct {
	server   *server
	offset   time.Duration // by which our clock is behind
	distance time.Duration // RFC 5905: root distance, how wrong that can be
	stratum  int
}

const (
	askedAtOnce   = 4
	dnsTimeout    = 10 * time.Second // Go takes 5 s for each name server
	answerTimeout = 5 * time.Second
)

// pick returns the servers to ask: those that failed least, in their order.
func pick(servers []*server, now time.Time) []*server {
	picked := slices.DeleteFunc(slices.Clone(servers), func(s *server) bool { return now.Before(s.rest) })
	slices.SortStableFunc(picked, func(a, b *server) int { return cmp.Compare(a.failed, b.failed) })
	return picked[:min(len(picked), askedAtOnce)]
}

// askServer asks a server for the time. The client's clock is now, see poll.
func askServer(name string, nth int, now func() time.Time) reply {
	return query(name, nth, now, answerTimeout)
}

func query(name string, nth int, now func() time.Time, timeout time.Duration) (r reply) {
	defer func() { // the library (1.6.0) panics on a precision of -128; PID 1 must not
		if p := recover(); p != nil {
			r = reply{err: fmt.Errorf("panic: %v", p)}
		}
	}()
	// Names have several addresses: of IPv4 and IPv6, of which one may not work
	// here, and in a pool. A failure is a reason to take the next one.
	dial := func(_, hostport string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), dnsTimeout)
		defer cancel()
		host, port, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, err
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		if len(addrs) == 0 {
			return nil, errors.New("no address")
		}
		addr := addrs[nth%len(addrs)].Unmap()
		return (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(addr.String(), port))
	}
	r.response, r.err = ntp.QueryWithOptions(name, ntp.QueryOptions{Timeout: timeout, GetSystemTime: now, Dialer: dial})
	return r
}

// judge makes an answer of a server's reply, or says why it is none.
func (c *Clock) judge(s *server, r reply) (answer, error) {
	now := time.Now()
	if s.every > 0 {
		s.rest = now.Add(s.every)
	}
	a, err := func() (answer, error) {
		if r.err != nil {
			return answer{}, r.err
		}
		if r.response.IsKissOfDeath() { // RFC 5905, section 7.4
			code := r.response.KissCode
			switch code {
			case "RATE":
				s.every = min(2*max(s.every, c.interval), day)
				s.rest = now.Add(s.every)
			case "DENY", "RSTR":
				s.rest = now.Add(day)
			}
			return answer{}, fmt.Errorf("it refuses to answer: %q", code)
		}
		if err := r.response.Validate(); err != nil {
			return answer{}, err
		}
		stamps := r.response.Timestamps
		if err := c.check(stamps.ServerXmit); err != nil {
			return answer{}, err
		}
		// The offset is the mean of both; the library takes them for granted.
		if held := stamps.ServerXmit.Sub(stamps.ServerRecv); held < 0 || held > answerTimeout {
			return answer{}, fmt.Errorf("it says that it took %v to answer", held)
		}
		return answer{s, r.response.ClockOffset, r.response.RootDistance, int(r.response.Stratum)}, nil
	}()
	switch {
	case err == nil && s.failed > 0:
		c.o.Log.Info("NTP server answers", "server", s.name)
		s.failed = 0
	case err != nil:
		s.nth++
		if s.failed++; s.failed == 1 { // not each time: it may be for years
			c.o.Log.Warn("NTP server", "server", s.name, "err", err)
		}
		err = fmt.Errorf("%s: %w", s.name, err)
	}
	return a, err
}

// choose returns which of the answers to believe: the one in the middle of
// three or more, so that a single wrong server does no harm, else the one that
// can be least wrong.
func choose(answers []answer) answer {
	byDistance := func(a, b answer) int { return cmp.Compare(a.distance, b.distance) }
	n := len(answers)
	if n < 3 {
		return slices.MinFunc(answers, byDistance)
	}
	sorted := slices.SortedFunc(slices.Values(answers), func(a, b answer) int { return cmp.Compare(a.offset, b.offset) })
	return slices.MinFunc(sorted[(n-1)/2:n/2+1], byDistance) // of an even number two are in the middle
}

// action is what to do about an offset.
type action int

const (
	slewSmall action = iota
	slewLarge
	step
	askAgain
)

const (
	stepFrom  = 100 * time.Millisecond // at first, when nobody relies on the clock yet
	smallMost = 500 * time.Millisecond // the kernel's limit
	largeMost = 10 * time.Second       // which takes 5.5 hours
	agree     = time.Second
)

// act decides about an offset. Suspect is the one that askAgain was the answer
// to, or 0. A gateway whose clock is far off for days is worse than a jump, but
// a single packet must not cause one.
func act(offset time.Duration, synced bool, suspect time.Duration) action {
	switch size := offset.Abs(); {
	case !synced && size > stepFrom:
		return step
	case size < smallMost:
		return slewSmall
	case size <= largeMost:
		return slewLarge
	case suspect != 0 && (offset-suspect).Abs() <= agree:
		return step
	}
	return askAgain
}
