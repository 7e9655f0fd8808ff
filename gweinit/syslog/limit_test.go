package syslog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// flood gives lines to a limiter, and returns how many it allows.
func flood(l *limiter, n int, r record, now time.Time) (allowed int) {
	for range n {
		if l.allow(r, now) {
			allowed++
		}
	}
	return allowed
}

func TestLimit(t *testing.T) {
	start := time.Now()
	pump := source{name: "pump"}
	type step struct {
		at    time.Duration
		from  source
		name  string
		lines int
		want  int
	}
	for _, tt := range []struct {
		name  string
		steps []step
		notes string // 30 s after the start
	}{
		{"within the limit", []step{{0, pump, "pump[1]", 500, 500}}, ""},
		{"over it", []step{{0, pump, "pump[1]", 700, 500}}, "200 lines of pump[1] left out"},
		{"the interval is not ended yet", []step{{time.Second, pump, "pump[1]", 700, 500}}, ""},
		{"the next interval", []step{{-40 * time.Second, pump, "pump[1]", 400, 400}, {0, pump, "pump[1]", 501, 500}}, "1 lines of pump[1] left out"},
		{"a process for each line", []step{{0, pump, "pump[1]", 400, 400}, {0, pump, "pump[2]", 101, 100}, {0, pump, "pump[3]", 1, 0}}, "2 lines of pump left out"},
		{"another program", []step{{0, pump, "pump[1]", 501, 500}, {0, source{name: "valve"}, "valve[2]", 501, 500}}, "1 lines of pump[1] left out, 1 lines of valve[2] left out"},
		{"another user", []step{{0, pump, "pump[1]", 501, 500}, {0, source{uid: 1000, name: "pump"}, "pump[2]", 500, 500}}, "1 lines of pump[1] left out"},
		{"the kernel's first lines", []step{{0, kernel, "kernel", 2003, 2000}, {0, gweinit, "gweinit", 100, 100}}, "3 lines of kernel left out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l limiter
			for _, s := range tt.steps {
				if got := flood(&l, s.lines, record{from: s.from, name: s.name, text: "x"}, start.Add(s.at)); got != s.want {
					t.Errorf("%+v: got %d", s, got)
				}
			}
			if got := l.ended(start.Add(interval-1), false); got != nil {
				t.Errorf("too early: %v", got)
			}
			if got := texts(l.ended(start.Add(interval), false)); got != tt.notes {
				t.Errorf("got  %s\nwant %s", got, tt.notes)
			}
			l.ended(start, true)
			if got := l.ended(start.Add(time.Hour), true); got != nil || !l.due.IsZero() {
				t.Errorf("told twice: %v; due %v", got, l.due)
			}
		})
	}
}

func texts(records []record) string {
	var s []string
	for _, r := range records {
		s = append(s, strings.TrimPrefix(r.text, "gweinit: "))
	}
	return strings.Join(s, ", ")
}

// Long lines are limited earlier.
func TestLimitBytes(t *testing.T) {
	var l limiter
	long := record{from: source{name: "pump"}, text: strings.Repeat("x", 1<<10)}
	if got := flood(&l, 500, long, time.Now()); got != limitBytes>>10 {
		t.Errorf("got %d", got)
	}
}

// However many names there are, memory is bounded, and the kernel and PID 1
// have room.
func TestLimitSources(t *testing.T) {
	var l limiter
	now := time.Now()
	total := 0
	for i := range 5000 {
		name := fmt.Sprintf("p%d", i)
		total += flood(&l, 3, record{from: source{name: name}, name: name}, now)
	}
	if want := maxSources*3 + limitLines; total != want || len(l.counts) != maxSources+1 {
		t.Errorf("%d lines of %d sources, want %d", total, len(l.counts), want)
	}
	for _, s := range []source{kernel, gweinit} {
		if got := flood(&l, 100, record{from: s, name: s.name}, now); got != 100 {
			t.Errorf("%s: %d", s.name, got)
		}
	}
	now = now.Add(interval)
	if got, want := texts(l.ended(now, false)), fmt.Sprintf("%d lines of other programs left out", 15000-total); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if flood(&l, 1, record{from: source{name: "new"}}, now); len(l.counts) != 1 {
		t.Errorf("%d sources are kept", len(l.counts))
	}
}
