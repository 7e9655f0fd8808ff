package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/gateway"
)

// fleet is the cloud of many gateways, by a clock that does not wait.
type fleet struct {
	start      time.Time
	awayFrom   time.Duration // after the start, until the other; nobody is reached
	awayTo     time.Duration
	broken     chan struct{} // closed when the cloud goes away
	bin        time.Duration
	mu         sync.Mutex
	requests   map[int]int // by bin
	firstCheck []time.Duration
	longest    time.Duration // between two check-ins of one gateway
}

// member is the cloud as one gateway sees it.
type member struct {
	*fleet
	cik  string
	last time.Time
}

var errAway = errors.New("connection refused")

func (f *fleet) request() error {
	since := time.Since(f.start)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests[int(since/f.bin)]++
	if since >= f.awayFrom && since < f.awayTo {
		return errAway
	}
	return nil
}

func (m *member) Activate(context.Context, string) (string, error) {
	if err := m.request(); err != nil {
		return "", err
	}
	m.cik = "0123456789012345678901234567890123456789"
	return m.cik, nil
}

func (m *member) WriteRead(_ context.Context, _ []exosite.Value, aliases ...string) (map[string]string, error) {
	if err := m.request(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.IsZero() {
		m.firstCheck = append(m.firstCheck, time.Since(m.start))
	} else if m.awayTo-m.awayFrom < time.Hour { // else some could not
		m.longest = max(m.longest, time.Since(m.last))
	}
	m.last = time.Now()
	return map[string]string{}, nil
}

func (m *member) Wait(ctx context.Context, _ string, _ time.Time, timeout time.Duration) (string, time.Time, error) {
	if err := m.request(); err != nil {
		return "", time.Time{}, err
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	broken := m.broken
	if time.Since(m.start) >= m.awayFrom {
		broken = nil
	}
	select {
	case <-t.C:
		return "", time.Time{}, exosite.ErrNotModified
	case <-broken:
		return "", time.Time{}, errAway
	case <-ctx.Done():
		return "", time.Time{}, ctx.Err()
	}
}

func (m *member) Timestamp(context.Context) (time.Time, error) { return time.Now(), m.request() }
func (m *member) CIK() string                                  { return m.cik }
func (m *member) Close()                                       {}

// scenario is a day of a fleet that gets its power at once.
type scenario struct {
	name      string
	inStep    bool // nothing is random
	off       bool // nothing is pushed
	activated bool
	away      time.Duration // the cloud is, after the twelfth hour
}

// day lets n gateways live for a day, and returns their cloud.
func (s scenario) day(t *testing.T, n int, bin time.Duration) *fleet {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fleet-") // else tens of thousands of files are synced
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	f := &fleet{bin: bin, requests: map[int]int{}}
	f.awayFrom, f.awayTo = 12*time.Hour, 12*time.Hour+s.away
	run := func() {
		f.start, f.broken = time.Now(), make(chan struct{})
		if s.away > 0 {
			defer time.AfterFunc(f.awayFrom, func() { close(f.broken) }).Stop()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
		defer cancel()
		var all sync.WaitGroup
		for i := range n {
			root := filepath.Join(dir, fmt.Sprint(i))
			b := assemble(root, io.Discard)
			b.host = &fakeHost{}
			m := &member{fleet: f}
			if s.activated {
				m.cik = "0123456789012345678901234567890123456789"
			}
			uuid := gateway.Change{File: gateway.GatewayFile, Section: "device", Key: "uuid", Value: fmt.Sprint(i)}
			if err := errors.Join(b.open(), b.files.Set(uuid)); err != nil {
				t.Error(err)
				return
			}
			if s.inStep {
				b.schedule.random = func(below time.Duration) time.Duration { return 0 }
			}
			b.connect = func(gateway.Settings) (cloud, watcher, error) {
				if s.off {
					return m, nil, nil
				}
				return m, &poller{cloud: m, schedule: b.schedule}, nil
			}
			all.Go(func() { b.Run(ctx, bootSpread) })
		}
		all.Wait()
	}
	synctest.Test(t, func(*testing.T) { run() })
	return f
}

// peakToMean compares the busiest bin with all, from a time on.
func (f *fleet) peakToMean(from, to time.Duration) float64 {
	peak, sum := 0, 0
	for bin, n := range f.requests {
		at := time.Duration(bin) * f.bin
		if at < 24*time.Hour {
			sum += n
		}
		if at >= from && at < to {
			peak = max(peak, n)
		}
	}
	return float64(peak) / (float64(sum) / float64(24*time.Hour/f.bin))
}

// Gateways that get their power in the same second do not come at once, neither
// then nor after the cloud was away, and still check in as often as they are to.
func TestFleet(t *testing.T) {
	n, bin := 400, time.Minute                                     // 90 requests a bin: chance makes the fullest of them half as full again
	if size, err := strconv.Atoi(os.Getenv("fleet")); err == nil { // "make bench" has more time
		n, bin = size, 10*time.Second
	}
	const day = 24 * time.Hour
	for _, s := range []struct {
		scenario
		from, to time.Duration // where the peak is looked for
		most     float64       // peak to mean
		least    float64
	}{
		{scenario{name: "after a power cut", activated: true}, 0, day, 2.5, 0}, // 1.9 of 5,000 gateways
		{scenario{name: "the same in step", activated: true, inStep: true}, 0, day, 1e9, 10},
		{scenario{name: "never activated"}, 5 * time.Minute, day, 2, 0},
		{scenario{name: "the cloud was away", activated: true, away: time.Hour}, 13 * time.Hour, day, 2, 0},
		// All that wait are thrown out at once, and are back a minute later.
		{scenario{name: "the cloud restarts", activated: true, away: time.Second}, 12*time.Hour + 2*time.Minute, day, 2, 0},
		// Of so few requests chance makes more.
		{scenario{name: "no push", activated: true, off: true}, time.Hour, day, 8, 0},
	} {
		t.Run(s.name, func(t *testing.T) {
			f := s.day(t, n, bin)
			ratio, total := f.peakToMean(s.from, s.to), 0
			for _, n := range f.requests {
				total += n
			}
			first := time.Duration(0)
			for _, at := range f.firstCheck {
				first = max(first, at)
			}
			t.Logf("%d gateways: peak to mean %.2f in bins of %v (in the first quarter of an hour %.2f), %.0f requests a gateway and day, the last first check-in after %v",
				n, ratio, bin, f.peakToMean(0, 15*time.Minute), float64(total)/float64(n), first.Round(time.Second))
			if ratio > s.most || ratio < s.least {
				t.Errorf("peak to mean is %.2f, want %.0f to %.0f", ratio, s.least, s.most)
			}
			const interval = gateway.DefaultUpdateInterval
			if len(f.firstCheck) != n || f.longest > interval {
				t.Errorf("%d of %d gateways have checked in, with %v between two check-ins, at most %v", len(f.firstCheck), n, f.longest, interval)
			}
		})
	}
}
