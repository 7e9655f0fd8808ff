package clock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beevik/ntp"
)

// world is what servers say, with the time of synctest.
type world struct {
	*setup
	start  time.Time // of the bubble
	mu     sync.Mutex
	polls  []time.Duration // since start
	asked  map[string][]time.Duration
	off    map[string]time.Duration // servers that are wrong
	kiss   map[string]string
	broken map[string]bool
	bad    int           // addresses that do not work
	delay  time.Duration // of all answers
	during func()        // called meanwhile
}

var trueStart = at("2027-01-01T00:00:00Z")

func (w *world) truth() time.Time { return trueStart.Add(time.Since(w.start)) }

func (w *world) answer(name string, nth int, now func() time.Time) reply {
	w.mu.Lock()
	t := time.Since(w.start)
	if len(w.polls) == 0 || w.polls[len(w.polls)-1] != t {
		w.polls = append(w.polls, t)
	}
	w.asked[name] = append(w.asked[name], t)
	off, kiss, broken := w.off[name], w.kiss[name], w.broken[name] || w.broken["all"]
	delay, during := w.delay, w.during
	broken = broken || nth < w.bad
	w.mu.Unlock()
	time.Sleep(delay)
	if broken {
		return reply{err: errors.New("i/o timeout")}
	}
	r := truth(w.truth().Add(off), now)
	if kiss != "" {
		return reply{response: &ntp.Response{Version: 4, KissCode: kiss}}
	}
	if during != nil {
		during()
	}
	return reply{response: r}
}

// change changes what servers say.
func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// taken returns the polls since the last call.
func (w *world) taken() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.polls
	w.polls = nil
	return p
}

// asks returns when a server was asked.
func (w *world) asks(name string) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked[name])
}

// names returns how many servers were asked.
func (w *world) names() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// wait lets time go by.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			setup: newSetup(t, at("1970-01-01T00:00:05Z")), start: time.Now(),
			asked: map[string][]time.Duration{}, off: map[string]time.Duration{}, kiss: map[string]string{}, broken: map[string]bool{},
		}
		w.ask = w.answer
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		f(t, w)
		cancel()
		<-done
	})
}

// within checks that times between events are from 3/4 of the wanted ones.
func within(t *testing.T, polls []time.Duration, wants ...time.Duration) {
	t.Helper()
	if len(polls) != len(wants)+1 {
		t.Fatalf("polls at %v, want %d", polls, len(wants)+1)
	}
	for i, want := range wants {
		if got := polls[i+1] - polls[i]; got > want || got < want*3/4 {
			t.Errorf("polls at %v: %v after poll %d, want at most %v", polls, got, i, want)
		}
	}
}

func TestIntervals(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wait(time.Minute)
		if polls := w.taken(); len(polls) > 0 || len(w.kernel.steps()) > 0 {
			t.Fatalf("polls without servers: %v", polls)
		}
		w.Servers([]string{"a", "b"})
		synctest.Wait()
		if got := w.sources(); !slices.Equal(got, []string{FromNTP}) || w.kernel.now().Sub(w.truth()).Abs() > time.Millisecond {
			t.Fatalf("set by %v, the clock shows %v", got, w.kernel.now())
		}
		wait(2 * time.Hour)
		const s = time.Second
		polls := w.taken()
		within(t, polls[:7], 64*s, 128*s, 256*s, 512*s, 1024*s, 2048*s)
		// The kernel learns from intervals: it has to know them.
		for i, want := range []time.Duration{64 * s, 128 * s, 256 * s, 512 * s, 1024 * s, 2048 * s, 2048 * s} {
			if got := w.kernel.slews()[i]; got.interval != want || got.maxError < 20*time.Millisecond {
				t.Errorf("slew %d: %+v, want the interval %v", i, got, want)
			}
		}
		// In sync the network may change.
		for range 20 {
			w.Poke()
			wait(s)
		}
		if got := w.taken(); len(got) > 1 {
			t.Errorf("polls though in sync: %v", got)
		}
		// Later: no more polls than there have to be.
		wait(4 * day)
		if got, most := len(w.taken()), int(4*day/(2048*s*3/4)); got > most || got < int(4*day/(2048*s)) {
			t.Errorf("%d polls in 4 days, want at most %d", got, most)
		}
		if got := len(w.sources()); got != 0 || len(w.kernel.steps()) != 1 {
			t.Errorf("set again %d times, steps %v", got, w.kernel.steps())
		}
	})
}

func TestBackoff(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const s = time.Second
		w.change(func() { w.broken["all"] = true })
		w.Servers([]string{"a", "b"})
		wait(2 * time.Hour)
		polls := w.taken()
		within(t, polls[:11], 4*s, 8*s, 16*s, 32*s, 64*s, 128*s, 256*s, 512*s, 900*s, 900*s)
		if got := w.log.count("level=WARN"); got != 2 {
			t.Errorf("%d warnings for 2 servers:\n%s", got, w.log)
		}
		if st := w.Status(); st.Source != "" || !strings.Contains(st.Error, "a: i/o timeout; b:") {
			t.Errorf("status %+v", st)
		}
		// A new link: at once, and with short waits again.
		before := time.Since(w.start)
		w.Poke()
		wait(20 * s)
		polls = w.taken()
		if polls[0] > before+pokeGap {
			t.Errorf("poked at %v, polls at %v", before, polls)
		}
		within(t, polls[:3], 4*s, 8*s)
		// A link that flaps.
		wait(10 * s)
		w.taken()
		for range 100 {
			w.Poke()
			wait(s / 10)
		}
		if got := w.taken(); len(got) < 4 || len(got) > 6 {
			t.Errorf("polls in 10 s of pokes: %v", got)
		}
		// In sync, out of reach, and back.
		w.change(func() { w.broken["all"] = false })
		wait(16 * s)
		w.change(func() { w.broken["all"] = true })
		if got := w.sources(); !slices.Equal(got, []string{FromNTP}) {
			t.Errorf("set by %v", got)
		}
		wait(2 * time.Hour)
		w.taken()
		w.change(func() { w.broken["all"] = false })
		w.Poke()
		wait(pokeGap)
		if got := w.taken(); len(got) != 1 || w.Status().Error != "" || len(w.kernel.steps()) != 1 {
			t.Errorf("polls %v, status %+v, steps %v", got, w.Status(), w.kernel.steps())
		}
	})
}

// Each answer to an offset, with a clock that is in sync.
func TestOffsets(t *testing.T) {
	for _, tt := range []struct {
		away         time.Duration
		small, large bool
	}{
		{100 * time.Millisecond, true, false},
		{-400 * time.Millisecond, true, false},
		{600 * time.Millisecond, false, true},
		{-9 * time.Second, false, true},
	} {
		t.Run(tt.away.String(), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.Servers([]string{"a"})
				synctest.Wait()
				w.kernel.shows(w.kernel.now().Add(-tt.away))
				wait(time.Minute + 4*time.Second)
				got, want := w.kernel.slews()[1], slew{maxError: 20*time.Millisecond + tt.away.Abs(), interval: 128 * time.Second}
				if tt.small {
					want.small = tt.away
				}
				if tt.large {
					want.large = tt.away
				}
				if got != want || len(w.kernel.steps()) != 1 {
					t.Errorf("got %+v, want %+v; steps %v", got, want, w.kernel.steps())
				}
			})
		})
	}
}

func TestFarOff(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Servers([]string{"a"})
		synctest.Wait()
		wait(3 * time.Hour)
		w.taken()
		slews := len(w.kernel.slews())
		// One wrong answer does nothing.
		w.change(func() { w.off["a"] = time.Hour })
		for len(w.taken()) == 0 {
			wait(time.Second)
		}
		w.change(func() { w.off["a"] = 0 })
		wait(64 * time.Second)
		if len(w.kernel.steps()) != 1 || len(w.kernel.slews()) != slews+1 || w.log.count("seems to be far off") != 1 {
			t.Fatalf("steps %v, %d slews; log:\n%s", w.kernel.steps(), len(w.kernel.slews())-slews, w.log)
		}
		// A server that is wrong differently each time does nothing, and is not asked
		// every minute.
		wait(3 * time.Hour)
		w.taken()
		for i := range 24 * 120 {
			w.change(func() { w.off["a"] = time.Duration(i+1) * time.Hour })
			wait(30 * time.Second)
		}
		if polls := w.taken(); len(w.kernel.steps()) != 1 || len(polls) > 60 {
			t.Errorf("steps %v, %d polls in a day", w.kernel.steps(), len(polls))
		}
		// Somebody has set the clock: it is right again soon.
		w.change(func() { w.off["a"] = 0 })
		wait(3 * time.Hour)
		w.kernel.shows(w.kernel.now().AddDate(1, 0, 0))
		wait(36 * time.Minute)
		if d := w.kernel.now().Sub(w.truth()); d.Abs() > time.Millisecond || len(w.kernel.steps()) != 2 {
			t.Errorf("off by %v, steps %v", d, w.kernel.steps())
		}
		if w.log.count("level=ERROR") != 1 {
			t.Errorf("log:\n%s", w.log)
		}
		// And not stored as it was.
		if stored, err := storedTime(w.o.File); err != nil || stored.After(w.truth()) {
			t.Errorf("stored %v, %v", stored, err)
		}
	})
}

// The clock is set by another while a poll is on its way: the poll is not
// spoiled.
func TestSetMeanwhile(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.change(func() {
			w.delay = time.Second
			w.during = sync.OnceFunc(func() { w.kernel.shows(at("2030-01-01T00:00:00Z")) })
		})
		w.Servers([]string{"a"})
		wait(2 * time.Second)
		if d := w.kernel.now().Sub(w.truth()); d.Abs() > time.Millisecond {
			t.Errorf("off by %v", d)
		}
	})
}

func TestKisses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.kiss["denied"], w.kiss["rated"] = "DENY", "RATE"
		w.Servers([]string{"denied", "rated", "good"})
		synctest.Wait()
		wait(10 * time.Hour)
		// A lease that goes and comes does not wake it up.
		w.Servers(nil)
		wait(time.Minute)
		w.Servers([]string{"denied", "rated", "good"})
		wait(10 * time.Hour)
		if got := len(w.asks("denied")); got != 1 {
			t.Errorf("denied: asked %d times", got)
		}
		rated := w.asks("rated")
		if len(rated) < 4 || len(rated) > 10 {
			t.Errorf("rated: asked at %v", rated)
		}
		for i := 2; i < len(rated); i++ {
			if a, b := rated[i]-rated[i-1], rated[i-1]-rated[i-2]; a < b {
				t.Errorf("rated: asked at %v", rated)
			}
		}
		if len(w.asks("good")) < 30 || w.Status().Server != "good" {
			t.Errorf("good: asked %d times, status %+v", len(w.asks("good")), w.Status())
		}
		wait(5 * time.Hour)
		if got := len(w.asks("denied")); got != 2 {
			t.Errorf("denied: asked %d times in more than a day", got)
		}
	})
	// The only server has had enough: no polls until it may be asked again.
	inWorld(t, func(t *testing.T, w *world) {
		w.kiss["a"] = "RSTR"
		w.Servers([]string{"a"})
		for range 23 {
			wait(time.Hour)
			w.Poke()
		}
		if got := w.taken(); len(got) != 1 || !strings.Contains(w.Status().Error, `"RSTR"`) {
			t.Errorf("polls %v, status %+v", got, w.Status())
		}
	})
}

func TestManyServers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var list []string
		for i := range 10 {
			name := fmt.Sprint("s", i)
			list = append(list, name, name)
			w.broken[name] = i < 6
		}
		w.Servers(list)
		synctest.Wait()
		if w.Status().Source != "" || w.names() != 4 {
			t.Errorf("asked %d servers", w.names())
		}
		wait(4 * time.Second)
		if w.Status().Source != FromNTP || w.names() != 8 {
			t.Errorf("asked %d servers", w.names())
		}
	})
}

// A name's first addresses do not work, as with IPv6 here and there: once that
// is found out, it costs nothing more.
func TestAddresses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.change(func() { w.bad = 2 })
		w.Servers([]string{"a"})
		wait(20 * time.Second)
		if w.Status().Source != FromNTP {
			t.Errorf("status %+v", w.Status())
		}
		w.taken()
		wait(5 * time.Hour)
		if polls := w.taken(); len(polls) > 18 || w.log.count("level=WARN") != 1 {
			t.Errorf("polls at %v, log:\n%s", polls, w.log)
		}
	})
}

// Two servers disagree: one of them is believed, and that is said once.
func TestDisagree(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.off["b"] = time.Hour
		w.Servers([]string{"a", "b", "c"})
		synctest.Wait()
		wait(5 * time.Hour)
		if d := w.kernel.now().Sub(w.truth()); d.Abs() > time.Millisecond || w.log.count("disagrees") != 1 {
			t.Errorf("off by %v, log:\n%s", d, w.log)
		}
		w.change(func() { w.off["b"] = 0 })
		wait(time.Hour)
		w.change(func() { w.off["b"] = time.Hour })
		wait(time.Hour)
		if w.log.count("disagrees") != 2 {
			t.Errorf("log:\n%s", w.log)
		}
	})
}

// A stored time from a wrong RTC keeps nothing from being right.
func TestAfterWrongRTC(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.kernel.rtc, w.kernel.noRTC = at("2040-01-01T00:00:00Z"), nil
		if err := w.Restore(); err != nil {
			t.Fatal(err)
		}
		wait(storeEvery)
		w.Servers([]string{"a"})
		synctest.Wait()
		if got := w.sources(); !slices.Equal(got, []string{FromRTC, FromNTP}) {
			t.Errorf("set by %v", got)
		}
		wait(storeEvery)
		if stored, err := storedTime(w.o.File); err != nil || w.truth().Sub(stored).Abs() > storeEvery || w.log.count("level=ERROR") != 0 {
			t.Errorf("stored %v, %v; log:\n%s", stored, err, w.log)
		}
	})
}

func TestRTCDaily(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.kernel.noRTC = nil
		w.Servers([]string{"a"})
		wait(3*day + time.Hour)
		if got := len(w.kernel.writes()); got < 3 || got > 4 {
			t.Errorf("%d writes in three days", got)
		}
		w.kernel.mu.Lock()
		w.kernel.noRTC = unix.EIO
		w.kernel.mu.Unlock()
		wait(3 * day)
		if w.log.count("level=ERROR") != 1 {
			t.Errorf("log:\n%s", w.log)
		}
	})
}

// The board's system calls end in 2038: no wrap, an error, and it goes on.
func TestCannotSet(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.kernel.noSet = unix.EOVERFLOW
		w.Servers([]string{"a"})
		wait(time.Hour)
		if w.Status().Source != "" || !strings.Contains(w.Status().Error, "too large") || w.log.count("level=ERROR") != 2 { // this, and no time to store
			t.Errorf("status %+v, log:\n%s", w.Status(), w.log)
		}
		if got := len(w.taken()); got < 8 || got > 16 {
			t.Errorf("%d polls", got)
		}
	})
}

// The end does not wait for answers.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, build)
		s.ask = func(string, int, func() time.Time) reply {
			time.Sleep(15 * time.Second)
			return reply{err: errors.New("late")}
		}
		s.Servers([]string{"a"})
		ctx, cancel := contextFor(time.Second)
		defer cancel()
		start := time.Now()
		s.Run(ctx)
		if time.Since(start) != time.Second {
			t.Errorf("ended after %v", time.Since(start))
		}
		time.Sleep(time.Minute)
	})
}

// Gateways that got their power back in the same second do not go on together.
func TestSpread(t *testing.T) {
	const clocks = 1000
	for _, broken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			start := time.Now()
			var mu sync.Mutex
			seconds := map[int]int{}
			total := 0
			var wg sync.WaitGroup
			for range clocks {
				s := newSetup(t, build.Add(day))
				s.ask = func(_ string, _ int, now func() time.Time) reply {
					mu.Lock()
					defer mu.Unlock()
					if d := time.Since(start); d > time.Hour {
						seconds[int(d.Seconds())]++
						total++
					}
					if broken {
						return reply{err: errors.New("i/o timeout")}
					}
					return reply{response: truth(build.Add(day+time.Since(start)), now)}
				}
				s.o.File = "/proc/clock" // not what this is about
				s.Servers([]string{"a"})
				wg.Go(func() { s.Run(ctx) })
			}
			time.Sleep(100 * time.Minute)
			cancel()
			wg.Wait()
			worst := 0
			for _, n := range seconds {
				worst = max(worst, n)
			}
			// Evenly spread they would be about 1 in a second.
			if total < clocks/2 || worst > 20 {
				t.Errorf("broken %v: %d of %d polls in one second", broken, worst, total)
			}
		})
	}
}
