package engine

import (
	"context"
	"errors"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/mqtt"
)

// watcher tells of commands at once, where the link allows that.
type watcher interface {
	// watch calls tell with each value of engine_fetch that is written later
	// than since, until ctx ends. What goes wrong is told once, and waited out.
	watch(ctx context.Context, since time.Time, tell func(notice))
}

const (
	pollTime = 5 * time.Minute // the API's limit
	// pollPause is for servers that do not let a poll wait.
	pollPause = 30 * time.Second
	// connectTime is what MQTT has at most before commands are looked for by HTTP.
	connectTime = 10 * time.Second
)

// poller watches by long polls.
type poller struct {
	cloud    cloud
	schedule schedule
}

func (p *poller) watch(ctx context.Context, since time.Time, tell func(notice)) {
	failures := 0
	for first := true; ctx.Err() == nil; first = false {
		start := time.Now()
		wait := p.schedule.poll(first || failures > 0)
		value, at, err := p.cloud.Wait(ctx, engineFetch, since, wait)
		pause := time.Duration(0)
		if ctx.Err() != nil {
			return
		}
		works := err == nil || errors.Is(err, exosite.ErrNotModified)
		if works && failures > 0 {
			failures = 0
			tell(notice{})
		}
		switch {
		case err == nil && at.After(since):
			since = at
			if value != "" {
				tell(notice{value: value, at: at, look: true})
			}
			pause = time.Second - time.Since(start) // times have whole seconds
		case works && time.Since(start) < wait/2:
			pause = p.schedule.between(pollPause/2, pollPause)
		case !works:
			if failures++; failures == 1 {
				tell(notice{err: err})
			}
			pause = p.schedule.broken(failures)
		}
		sleep(ctx, pause)
	}
}

// pusher watches by MQTT.
type pusher struct {
	open     func() *mqtt.Session
	schedule schedule
}

func (p *pusher) watch(ctx context.Context, _ time.Time, tell func(notice)) { // the session knows
	session := p.open()
	defer session.Close()
	// What was written before the connection was there is not pushed.
	defer time.AfterFunc(connectTime, func() { tell(notice{look: true}) }).Stop()
	for failures := 1; ctx.Err() == nil; failures++ {
		err := session.Watch(ctx, func(point exosite.Point) {
			if failures > 1 {
				failures = 1
				tell(notice{})
			}
			if point.Alias == engineFetch || point.Alias == updateInterval {
				value := point.Value
				if point.Alias == updateInterval {
					value = "" // the check-in that follows reads it
				}
				if point.Value != "" {
					tell(notice{value: value, at: point.Time, look: true})
				}
			}
		})
		if failures == 1 && ctx.Err() == nil {
			tell(notice{err: err})
		}
		sleep(ctx, p.schedule.broken(failures))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
