package syslog

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// source is whose lines are counted together. It isn't a process: a shell's
// loop starts a logger for each line, and a program that crashes a new one.
type source struct {
	kmsg bool   // it came through the kernel
	uid  uint32 // otherwise, the user: none can use up the lines of another's
	name string
}

var (
	kernel  = source{kmsg: true, name: "kernel"}
	gweinit = source{kmsg: true, name: "gweinit"}
	// others share one count when there are very many sources.
	others = source{uid: math.MaxUint32, name: "other programs"}
)

// A source may log so much in an interval. The kernel's log has up to 1500
// lines after the start, which are all read at once.
const (
	interval   = 30 * time.Second
	limitLines = 500
	limitBytes = 64 << 10
	kmsgLines  = 2000
	kmsgBytes  = 256 << 10
	maxSources = 64
)

// limiter counts the lines of each source, so that none wears out the flash or
// pushes all others out of the files.
type limiter struct {
	counts map[source]*count
	due    time.Time // the first end of an interval that left lines out, or zero
}

type count struct {
	end          time.Time // of the interval
	lines, bytes int
	left         int    // lines left out
	name         string // whose
}

// allow counts a line and reports whether it may be written.
func (l *limiter) allow(r record, now time.Time) bool {
	c := l.count(r.from, now)
	if c.left == 0 && !now.Before(c.end) {
		*c = count{end: now.Add(interval)}
	}
	lines, bytes := limitLines, limitBytes
	if r.from.kmsg {
		lines, bytes = kmsgLines, kmsgBytes
	}
	if c.lines < lines && c.bytes < bytes {
		c.lines++
		c.bytes += len(r.text)
		return true
	}
	if c.left++; c.left == 1 {
		c.name = r.name
		if l.due.IsZero() || c.end.Before(l.due) {
			l.due = c.end
		}
	} else if c.name != r.name {
		c.name = r.from.name // of several processes
	}
	return false
}

// count returns the count for a source.
func (l *limiter) count(s source, now time.Time) *count {
	if c := l.counts[s]; c != nil {
		return c
	}
	if l.counts == nil {
		l.counts = map[source]*count{}
	}
	if len(l.counts) >= maxSources {
		for s, c := range l.counts {
			if c.left == 0 && !now.Before(c.end) {
				delete(l.counts, s)
			}
		}
	}
	if len(l.counts) >= maxSources && s != kernel && s != gweinit {
		s = others
	}
	c := l.counts[s]
	if c == nil {
		c = &count{end: now.Add(interval)}
		l.counts[s] = c
	}
	return c
}

// ended returns a line for each interval that has ended and has left lines out,
// or that does so now.
func (l *limiter) ended(now time.Time, all bool) []record {
	if l.due.IsZero() || !all && now.Before(l.due) {
		return nil
	}
	var notes []record
	l.due = time.Time{}
	for s, c := range l.counts {
		switch {
		case c.left == 0:
		case all || !now.Before(c.end):
			if s == others {
				c.name = s.name
			}
			notes = append(notes, own(priWarn, "%d lines of %s left out", c.left, c.name))
			delete(l.counts, s)
		case l.due.IsZero() || c.end.Before(l.due):
			l.due = c.end
		}
	}
	slices.SortFunc(notes, func(a, b record) int { return cmp.Compare(a.text, b.text) })
	return notes
}
