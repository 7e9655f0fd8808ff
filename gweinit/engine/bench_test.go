package engine

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/usage"
)

// BenchmarkDay measures what an idle gateway exchanges with the cloud, TLS
// included, and reckons a day of the usual settings from that: 6.7 check-ins with
// all reports, each on a new connection that is resumed, and 320 long polls, each
// on the connection of the one before.
func BenchmarkDay(b *testing.B) {
	w := newWorld(b)
	e, _, _ := w.engine()
	bytes := func() (sum float64) {
		report, err := usage.Add(filepath.Join(w.root, usage.File), e.meter.Take())
		if err != nil {
			b.Fatal(err)
		}
		for _, link := range report {
			for _, methods := range link.Consumers {
				for _, u := range methods {
					sum += float64(u.TotRx + u.TotTx)
				}
			}
		}
		return sum
	}
	reach := func() {
		if err := e.reach(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	reach() // activation, and a connection with nothing to resume
	var checkIn, unchanged, poll float64
	rounds := 0.0
	for b.Loop() {
		rounds++
		start := bytes()
		clear(e.sent) // they are more than an hour old
		e.cloud.Close()
		reach()
		after := bytes()
		checkIn += after - start
		reach()
		start = bytes()
		unchanged += start - after
		if _, _, err := e.cloud.Wait(b.Context(), engineFetch, time.Now(), time.Millisecond); !errors.Is(err, exosite.ErrNotModified) {
			b.Fatal(err)
		}
		poll += bytes() - start
	}
	checkIn, unchanged, poll = checkIn/rounds, unchanged/rounds, poll/rounds
	b.ReportMetric(checkIn, "B/check-in")
	b.ReportMetric(unchanged, "B/unchanged")
	b.ReportMetric(poll, "B/poll")
	b.ReportMetric(checkIn*24/3.6/1000, "kB/day-without-push")
	b.ReportMetric((checkIn*24/3.6+poll*24*60/4.5)/1000, "kB/day")
}
