package gateway

import (
	"fmt"
	"time"
)

// Window is a part of each day, in local time, in which a gateway may reboot by
// itself. The zero Window is all of each day.
type Window struct{ from, to time.Duration } // since midnight; equal: all of it

// ParseWindow reads "HH:MM-HH:MM", which may go over midnight. "" is all of each
// day.
func ParseWindow(text string) (Window, error) {
	if text == "" {
		return Window{}, nil
	}
	var w Window
	const clock = "15:04"
	if len(text) == 2*len(clock)+1 && text[len(clock)] == '-' {
		from, err1 := time.Parse(clock, text[:len(clock)])
		to, err2 := time.Parse(clock, text[len(clock)+1:])
		if err1 == nil && err2 == nil {
			w = Window{sinceMidnight(from), sinceMidnight(to)}
		}
	}
	if w.from == w.to {
		return Window{}, fmt.Errorf("window %.40q: want HH:MM-HH:MM, two times of a day such as 02:00-04:30, or nothing", text)
	}
	return w, nil
}

// String is what ParseWindow reads.
func (w Window) String() string {
	if w.from == w.to {
		return ""
	}
	clock := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", d/time.Hour, d%time.Hour/time.Minute) }
	return clock(w.from) + "-" + clock(w.to)
}

// Contains says whether a time, by the clock of its location, is in the window,
// whose end is not.
func (w Window) Contains(t time.Time) bool {
	now := sinceMidnight(t)
	switch {
	case w.from == w.to:
		return true
	case w.from < w.to:
		return w.from <= now && now < w.to
	}
	return w.from <= now || now < w.to
}

// Until is how long it is to the window from t on; 0 in it.
func (w Window) Until(t time.Time) time.Duration {
	if w.Contains(t) {
		return 0
	}
	// Where clocks are put forward over the whole window it is missing that day.
	for day := range 3 {
		y, m, d := t.Date()
		start := time.Date(y, m, d+day, int(w.from/time.Hour), int(w.from%time.Hour/time.Minute), 0, 0, t.Location())
		if start.After(t) && w.Contains(start) {
			return start.Sub(t)
		}
	}
	return 24 * time.Hour
}

// sinceMidnight is what the clock shows.
func sinceMidnight(t time.Time) time.Duration {
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
}
