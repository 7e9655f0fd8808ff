package engine

import (
	"context"
	"errors"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
)

// apart is the time between two outcomes.
const apart = 1100 * time.Millisecond

// fetch takes the command that a check-in has found. A command is known by when
// it was written from another with the same text; if the server does not tell,
// the text has to do.
func (e *Engine) fetch(ctx context.Context, value string) error {
	if value == "" {
		return e.queue.Cleared()
	}
	newest, at, err := e.newest(ctx)
	switch {
	case refusal(err), errors.Is(err, exosite.ErrNoTime): // it has no long polls
		return e.take(ctx, value, time.Time{}, true)
	case err != nil:
		return err
	case at.IsZero() || newest != value && newest != "":
		return e.take(ctx, value, time.Time{}, true)
	case newest == "": // somebody has just cleared it
		return e.queue.Cleared()
	}
	return e.take(ctx, value, at, true)
}

// newest returns the newest value of engine_fetch with the time at which it was
// written. A long poll answers with the oldest that is newer: so one asks until
// there is none. The time is zero if they are too many, or the server tells none.
func (e *Engine) newest(ctx context.Context) (value string, at time.Time, err error) {
	since := e.queue.Newest()
	if since.IsZero() {
		since = time.Unix(1, 0)
	}
	since = since.Add(-time.Second) // the last one taken may be the newest
	for range maxNewer {
		v, t, err := e.cloud.Wait(ctx, engineFetch, since, time.Millisecond)
		if errors.Is(err, exosite.ErrNotModified) || err == nil && !t.After(since) {
			return value, at, nil
		}
		if err != nil {
			return "", time.Time{}, err
		}
		value, at, since = v, t, t
	}
	return "", time.Time{}, nil
}

// take takes a command, and clears it in the cloud once it is on the disk, unless
// there is another one by then: that has to be taken, and not cleared. there says
// that it has just been read; what is pushed may come late.
func (e *Engine) take(ctx context.Context, value string, at time.Time, there bool) error {
	if value == "" {
		return nil
	}
	if _, err := e.queue.Take(value, at); err != nil {
		return err // it is still in the cloud
	}
	if !e.queue.Uncleared(value, at) && !there {
		return nil // an older one, that was cleared
	}
	values, err := e.cloud.WriteRead(ctx, nil, engineFetch)
	if err != nil {
		return err
	}
	if values[engineFetch] != "" {
		if values[engineFetch] != value {
			return e.fetch(ctx, values[engineFetch])
		}
		if _, err := e.cloud.WriteRead(ctx, []exosite.Value{{Alias: engineFetch}}); err != nil {
			return err
		}
	}
	return e.queue.Cleared()
}

// reportProgress tells how a command goes. An outcome that is still to be reported
// is looked for in fetch_status, and so comes first.
func (e *Engine) reportProgress(ctx context.Context) error {
	text := e.progress.Swap(nil)
	if text == nil || len(e.queue.Outcomes()) > 0 {
		return nil
	}
	_, err := e.cloud.WriteRead(ctx, []exosite.Value{{Alias: fetchStatus, Value: *text}})
	return err
}

// reportOutcomes tells how commands ended, each once: one of which it is not
// known whether it got there is looked for first.
func (e *Engine) reportOutcomes(ctx context.Context) (refused error) {
	for n, o := range e.queue.Outcomes() {
		if n > 0 { // the cloud keeps one value for each second
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(apart):
			}
		}
		e.progress.Store(nil) // it was told before
		there := false
		if o.Sending {
			values, err := e.cloud.WriteRead(ctx, nil, fetchStatus)
			if err != nil {
				return err
			}
			there = values[fetchStatus] == o.Text
		} else if err := e.queue.Sending(o.ID); err != nil {
			return err
		}
		if !there {
			_, err := e.cloud.WriteRead(ctx, []exosite.Value{{Alias: fetchStatus, Value: o.Text}})
			if refusal(err) { // it will never be taken, and others wait behind it
				e.log.Error("report how a command ended", "id", o.ID, "outcome", o.Text, "err", err)
				refused = err
			} else if err != nil {
				return err
			}
		}
		if err := e.queue.Sent(o.ID); err != nil {
			return err
		}
	}
	return refused
}
