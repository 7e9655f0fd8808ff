package exositetest

import (
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

func TestParseForm(t *testing.T) {
	for _, tt := range []struct {
		body string
		want []field
		err  string
	}{
		{"", nil, ""},
		{"b=2&a=1&b=3", []field{{"b", "2"}, {"a", "1"}, {"b", "3"}}, ""},
		{"&a=1&&b=&", []field{{"a", "1"}, {"b", ""}}, ""},
		{"a%20b=c+d%3D%26=", []field{{"a b", "c d=&="}}, ""},
		{"a=1;b=2", []field{{"a", "1;b=2"}}, ""},
		{"a=1&b", nil, `"b" at byte 4: want NAME=VALUE`},
		{"a=%", nil, `"%" is not a percent-encoded byte`},
		{"%4=1", nil, `in the name, "%4" is not`},
		{"%ff=1", nil, "the name is not UTF-8"},
	} {
		got, err := parseForm(tt.body)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: got %v, want %s", tt.body, err, tt.err)
			}
		} else if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %q, %v", tt.body, got, err)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int64 // µs, -1: an error
		back string
	}{
		{"0", 0, "0"},
		{"1513931066", 1513931066e6, "1513931066"},
		{"1513931066.5", 15139310665e5, "1513931066.5"},
		{"0001.000001", 1000001, "1.000001"},
		{"1.0000019", 1000001, "1.000001"},
		{"1.0", 1e6, "1"},
		{"253402300799", 253402300799e6, "253402300799"},
		{"", -1, ""}, {".5", -1, ""}, {"1.", -1, ""}, {"-1", -1, ""}, {"+1", -1, ""}, {"1e9", -1, ""}, {" 1", -1, ""}, {"1.2.3", -1, ""}, {"1.-5", -1, ""}, {"1234567890123", -1, ""}, {"0x10", -1, ""},
	} {
		got, err := parseTime(tt.text)
		if (err != nil) != (tt.want < 0) || err == nil && (got.UnixMicro() != tt.want || formatTime(got) != tt.back) {
			t.Errorf("%q: got %v, %v", tt.text, got, err)
		}
	}
}

func TestParseSince(t *testing.T) {
	date := time.Date(2017, 12, 25, 10, 0, 0, 0, time.UTC)
	for _, s := range []string{fmt.Sprint(date.Unix()), "Mon, 25 Dec 2017 10:00:00 GMT", "Monday, 25-Dec-17 10:00:00 GMT", " Mon Dec 25 10:00:00 2017 "} {
		if got, err := parseSince(s); err != nil || !got.Equal(date) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	if got, err := parseSince(""); err != nil || !got.IsZero() {
		t.Errorf("none: %v, %v", got, err)
	}
}

func FuzzParseForm(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "a%20b=c+d", "%", "a", "=1", "a=%ff", "&&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		fields, err := parseForm(body)
		if err != nil {
			return
		}
		var parts []string
		for _, x := range fields {
			parts = append(parts, url.QueryEscape(x.name)+"="+url.QueryEscape(x.value))
		}
		again, err := parseForm(strings.Join(parts, "&"))
		if err != nil || !reflect.DeepEqual(again, fields) {
			t.Errorf("%q became %q, %v", fields, again, err)
		}
	})
}

func FuzzParseAliases(f *testing.F) {
	for _, s := range []string{"a&b", "a=&b", "a=1", "%20", "a&a", "%z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		aliases, err := parseAliases(query)
		if err != nil {
			return
		}
		var parts []string
		for _, a := range aliases {
			parts = append(parts, url.QueryEscape(a))
		}
		if again, err := parseAliases(strings.Join(parts, "&")); err != nil || !reflect.DeepEqual(again, aliases) {
			t.Errorf("%q became %q, %v", aliases, again, err)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	for _, s := range []string{"alias=a&1=x&2.5=y&alias=b&3=z", "1=x", "alias=a", "alias=&1=x", "alias=a&1.=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		fields, err := parseForm(body)
		if err != nil {
			return
		}
		points, err := parseRecord(fields)
		if err != nil {
			if points != nil {
				t.Error("points beside an error")
			}
			return
		}
		var again []field
		for _, p := range points {
			again = append(again, field{"alias", p.Alias}, field{formatTime(p.Time), p.Value})
		}
		if got, err := parseRecord(again); err != nil || !reflect.DeepEqual(got, points) {
			t.Errorf("%q became %q, %v", points, got, err)
		}
	})
}

func FuzzParseSeries(f *testing.F) {
	f.Add("a", "1=x&2.25=y")
	f.Add("", "1=x")
	f.Add("a", "alias=b")
	f.Fuzz(func(t *testing.T, alias, body string) {
		fields, err := parseForm(body)
		if err != nil {
			return
		}
		points, err := parseSeries(alias, fields)
		if err == nil && len(points) != len(fields) {
			t.Errorf("%d points of %d fields", len(points), len(fields))
		}
		for _, p := range points {
			if p.Alias != alias || p.Time.Unix() < 0 {
				t.Errorf("%+v", p)
			}
		}
	})
}

func FuzzParseSerials(f *testing.F) {
	for _, s := range []string{"a,b\nc\n", "\"a\"\"\",b", "\ufeffa", "a,b,c", "\"", "a\r\nb", ","} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		serials, err := parseSerials(body)
		if err != nil {
			return
		}
		var rows [][]string
		for _, s := range serials {
			if strings.ContainsAny(s.SN+s.Extra, "\r\ufeff") {
				return // CSV does not keep them
			}
			rows = append(rows, []string{s.SN, s.Extra})
		}
		if again, err := parseSerials(formatCSV(rows...)); err != nil || !reflect.DeepEqual(again, serials) {
			t.Errorf("%q became %q, %v", serials, again, err)
		}
	})
}

func TestFormatClashes(t *testing.T) {
	at := func(alias string, sec, nsec int64) cloud.Point {
		return cloud.Point{Alias: alias, Time: time.Unix(sec, nsec)}
	}
	got := formatClashes([]cloud.Point{at("b&", 5, 0), at("a", 1, 5e8), at("b&", 7, 1000)})
	if want := "b%26=5,7.000001&a=1.5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
