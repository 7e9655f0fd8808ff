package engine

import (
	"math/rand/v2"
	"time"
)

const (
	// bootSpread is over what time the gateways of a fleet come back that got
	// their power at once. A gateway's first check-in takes two requests, and
	// then there is a long poll in nearly five minutes: somewhat more than twice
	// that time keeps the beginning below twice the usual rate.
	bootSpread = 12 * time.Minute
	// startSpread is for what does not happen to a fleet at once, or must not
	// wait: a first activation, a firmware on trial, an orderly reboot, a restart
	// of the engine.
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

// second is the wait after the first check-in: those of a fleet, which were close
// to each other, are everywhere in the interval from then on.
func (s schedule) second(interval time.Duration) time.Duration {
	return s.between(interval/10, interval)
}

// next is the wait after any other check-in: interval is the most.
func (s schedule) next(interval time.Duration) time.Duration {
	return s.between(interval*4/5, interval)
}

// poll is how long a long poll may wait. The first of them, and the first after a
// failure, which those of a fleet begin close to each other, bring them apart.
func (s schedule) poll(first bool) time.Duration {
	if first {
		return s.between(pollTime/5, pollTime)
	}
	return s.between(pollTime*4/5, pollTime)
}

// retry is the wait after n failures in a row.
func (s schedule) retry(n int, interval time.Duration) time.Duration {
	most := min(firstRetry<<min(n-1, 16), longestRetry, max(interval, firstRetry))
	return s.between(most/2, most)
}

// broken is the wait after n failures in a row to wait for pushes. A cloud that
// restarts breaks those of a whole fleet at once, and most will work again at the
// first attempt.
func (s schedule) broken(n int) time.Duration {
	if n == 1 {
		return s.between(0, time.Minute)
	}
	return s.retry(n, longestRetry)
}

// activation is the wait after an activation that did not go well.
func (s schedule) activation(interval time.Duration) time.Duration {
	return s.between(interval*4/5, interval)
}
