package engine

import (
	"errors"
	"os"
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
	e, h, _ := w.engine()
	h.status = `{"board":"rpi3","version":"1.2.0","slot":"a","slots":{"good":"a","a":{"status":"good","left":8},"b":{"status":"empty","left":0}},"network":{"links":[{"name":"eth0","mac":"b8:27:eb:00:00:01"}]},"clock":{"source":"ntp"}}`
	if err := os.Symlink("/proc", filepath.Join(w.root, "proc")); err != nil { // device_info is of this machine
		b.Fatal(err)
	}
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
		e.cloud.Close()
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
