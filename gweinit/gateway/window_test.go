package gateway

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // not all hosts have the package
)

func TestParseWindow(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "02:00-04:30": true, "23:00-01:00": true, "00:00-23:59": true,
		"2:00-4:00": false, "02:00": false, "02:00-02:00": false, "02:00-24:00": false, "02:60-03:00": false,
		"02:00 - 04:00": false, "-": false, "02:00-04:00x": false, "\xff2:00-04:00": false,
	} {
		w, err := ParseWindow(text)
		if (err == nil) != ok || ok && w.String() != text || err != nil && !strings.Contains(err.Error(), "02:00-04:30") {
			t.Errorf("%q: %q, %v", text, w, err)
		}
	}
}

func TestWindow(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		window, at string // local
		until      time.Duration
	}{
		{"", "2026-01-15 12:00:00", 0},
		{"02:00-04:30", "2026-01-15 01:59:59", time.Second},
		{"02:00-04:30", "2026-01-15 02:00:00", 0},
		{"02:00-04:30", "2026-01-15 04:29:59", 0},
		{"02:00-04:30", "2026-01-15 04:30:00", 21*time.Hour + 30*time.Minute},
		{"23:00-01:00", "2026-01-15 23:30:00", 0},
		{"23:00-01:00", "2026-01-16 00:59:59", 0},
		{"23:00-01:00", "2026-01-16 01:00:00", 22 * time.Hour},
		{"02:00-04:30", "2026-12-31 12:00:00", 14 * time.Hour},
		// Clocks go forward at 02:00 on March 29, and back at 03:00 on October 25.
		{"04:00-05:00", "2026-03-28 12:00:00", 15 * time.Hour},
		{"02:00-04:00", "2026-03-29 01:30:00", 30 * time.Minute},
		{"02:15-02:45", "2026-03-29 01:30:00", 23*time.Hour + 45*time.Minute},
		{"04:00-05:00", "2026-10-24 12:00:00", 17 * time.Hour},
	} {
		w, err := ParseWindow(tt.window)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.ParseInLocation(time.DateTime, tt.at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		got := w.Until(at)
		if got != tt.until || w.Contains(at) != (tt.until == 0) || !w.Contains(at.Add(got)) {
			t.Errorf("%q at %s: until %v, want %v; contains %v", tt.window, tt.at, got, tt.until, w.Contains(at))
		}
	}
	// Wherever it is asked from, waiting leads into it.
	w, _ := ParseWindow("02:15-02:45")
	for at := time.Date(2026, 3, 27, 0, 0, 0, 0, berlin); at.Month() < 5; at = at.Add(17 * time.Minute) {
		if next := at.Add(w.Until(at)); !w.Contains(next) {
			t.Fatalf("from %v to %v, which is not in it", at, next)
		}
	}
}
