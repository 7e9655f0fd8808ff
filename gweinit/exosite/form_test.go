package exosite

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	for s, want := range map[string]time.Time{
		"0": time.Unix(0, 0), "1500000000": time.Unix(1500000000, 0), "1500000000.": time.Unix(1500000000, 0),
		"1500000000.25": time.Unix(1500000000, 250e6), "1.0000000019": time.Unix(1, 1), "253402300800": time.Unix(253402300800, 0),
	} {
		if got, err := parseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-1", "+1", "1e9", " 1", "1 ", ".5", "1.2.3", "1234567890123", "1,5", "1." + strings.Repeat("0", 31)} {
		if got, err := parseTime(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
	for at, want := range map[time.Time]string{
		time.Unix(1500000000, 0): "1500000000", time.Unix(1500000000, 999): "1500000000",
		time.Unix(1500000000, 1e6): "1500000000.001", time.Unix(0, 120e6): "0.12", time.Unix(1, 1000): "1.000001",
	} {
		if got := formatTime(at); got != want {
			t.Errorf("%v: %s", at, got)
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 25, 7, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", "", 0}, {"0", "", 0}, {" 7 ", "", 7 * time.Second}, {"600", "", maxRetryAfter}, {"601", "", maxRetryAfter}, {strings.Repeat("9", 40), "", maxRetryAfter},
		{"-1", "", 0}, {"1.5", "", 0}, {"soon", "", 0},
		{"Wed, 25 Nov 2026 07:00:30 GMT", "", 30 * time.Second},
		{"Wed, 25 Nov 2026 06:00:30 GMT", "", 0},
		{"Thu, 26 Nov 2026 07:00:30 GMT", "", maxRetryAfter},
		{"Thu, 01 Jan 1970 00:01:30 GMT", "Thu, 01 Jan 1970 00:01:00 GMT", 30 * time.Second},
	} {
		if got := parseRetryAfter(test.after, test.date, now); got != test.want {
			t.Errorf("%q: %v", test.after, got)
		}
	}
}

func FuzzForm(f *testing.F) {
	for _, s := range []string{"", "a=1&b=2", "a=%7B%22x%22%3A+1%7D", "a", "=", "&", "a=1&&b", "%zz=1", "a=%", "a=1\r\n", "a==", "\x00=\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		values, err := parseForm(body, 8)
		if err != nil {
			return
		}
		if len(values) > 8 {
			t.Fatalf("%d values", len(values))
		}
		var again form // what is read is written and read again
		for _, name := range slices.Sorted(maps.Keys(values)) {
			again.add(name, values[name])
		}
		if len(values) == 1 && values[""] == "" { // just "="
			return
		}
		got, err := parseForm(again.String(), 8)
		if err != nil || !maps.Equal(got, values) {
			t.Fatalf("%q: %q, then %q, %v", body, values, got, err)
		}
	})
}

func FuzzConflict(f *testing.F) {
	for _, s := range []string{"", "a=1500000000,1500000001.5&b=1", "a=1%2C2", "a=", "a=,", "a=1&a=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		times, err := parseConflict(body, 8)
		n := 0
		for _, list := range times {
			n += len(list)
		}
		if err == nil && (n == 0 || n > 8) {
			t.Fatalf("%q: %v", body, times)
		}
	})
}

func FuzzList(f *testing.F) {
	for _, s := range []string{"", "a\nb\n", "a\r\nb", "\n\n", "\r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		ids := parseList(body)
		if again := parseList(strings.Join(ids, "\n")); !slices.Equal(ids, again) {
			t.Fatalf("%q: %q, then %q", body, ids, again)
		}
	})
}

func FuzzInfo(f *testing.F) {
	for _, s := range []string{"", "application/gzip,691529,1513931066,", "a,1,2", "a,1,2,x,y", "a,-1,2,", "a,9223372036854775807,2,", ",,,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if info, err := parseInfo(body); err == nil && (info.Size < 0 || info.Updated.Unix() < 0 || strings.Contains(info.Type, ",")) {
			t.Fatalf("%q: %+v", body, info)
		}
	})
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"", "1500000000", "1500000000.25", "-1", "1e9", "999999999999.999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := parseTime(s)
		if err != nil {
			return
		}
		if again, err := parseTime(formatTime(at)); err != nil || !again.Equal(at.Truncate(time.Microsecond)) {
			t.Fatalf("%q: %v, then %v, %v", s, at, again, err)
		}
		if !parseDate(s).Equal(at) {
			t.Fatalf("%q: %v", s, parseDate(s))
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("7", "")
	f.Add("Wed, 25 Nov 2026 07:00:30 GMT", "Wed, 25 Nov 2026 07:00:00 GMT")
	f.Add("99999999999999999999", "x")
	f.Fuzz(func(t *testing.T, after, date string) {
		if d := parseRetryAfter(after, date, time.Unix(0, 0)); d < 0 || d > maxRetryAfter {
			t.Fatalf("%q, %q: %v", after, date, d)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"", "bytes 0-9/10", "bytes 5-5/*", "bytes */10", "bytes 9-0/10", "bytes 0-9223372036854775807/*", "bytes 0-10/10", "items 0-1/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, size, err := parseContentRange(s)
		if err == nil && (first < 0 || last < first || size != -1 && (size <= last || size > math.MaxInt64)) {
			t.Fatalf("%q: %d-%d/%d", s, first, last, size)
		}
	})
}

func FuzzServer(f *testing.F) {
	for _, s := range []string{"a.io", "a:1", "https://a/", "[::1]:8443", "::1", "http://[fe80::1%25eth0]", "u:p@a", ":", "]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := New(Options{Server: s})
		if err != nil {
			return
		}
		again, err := New(Options{Server: c.scheme + "://" + c.host})
		if err != nil || again.host != c.host || again.scheme != c.scheme || c.Host() == "" || strings.ContainsAny(c.host, "/ \r\n@") {
			t.Fatalf("%q: %q, then %v", s, c.host, err)
		}
	})
}
