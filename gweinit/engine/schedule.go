package engine

import (
	"math/rand/v2"
	"time"
)

const (
	// bootSpread is over what time the gateways of a fleet come back that got
	// their power at once. It is small beside the usual interval, and as long as
	// a long poll, so that those are spread as well.
	bootSpread = 5 * time.Minute
	// startSpread is for what does not happen to a fleet at once, or must not
	// wait: a first activation, a firmware on trial, a restart of the engine.
	startSpread = 10 * time.Second

	firstRetry   = 15 * time.Second // at most, after a failure
	longestRetry = 15 * time.Minute
)

// schedule says when to do something. All of it is random, so that what has
// happened to many gateways at once does not keep them in step.
type schedule struct {
	random func(below time.Duration) time.Duration
}

func newSchedule() schedule { return schedule{random: rand.N[time.Duration]} }

// between returns a time from low to high.
func (s schedule) between(low, high time.Duration) time.Duration {
	if high <= low {
		return high
	}
	return low + s.random(high-low)
}

// first is the wait before the first check-in.
func (s schedule) first(spread, interval time.Duration) time.Duration {
	return s.between(0, min(spread, interval))
}

// next is the wait after a check-in: interval is the most.
func (s schedule) next(interval time.Duration) time.Duration {
	return s.between(interval*4/5, interval)
}

// retry is the wait after n failures in a row.
func (s schedule) retry(n int, interval time.Duration) time.Duration {
	most := min(firstRetry<<min(n-1, 16), longestRetry, max(interval, firstRetry))
	return s.between(most/2, most)
}

// activation is the wait after an activation that did not go well.
func (s schedule) activation(interval time.Duration) time.Duration {
	return s.between(interval*4/5, interval)
}
