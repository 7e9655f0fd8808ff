package syslog

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"plain", "water level 7", "water level 7"},
		{"nothing", "", ""},
		{"a tab", "a\tb", "a\tb"},
		{"lines", "a\nb\r\n2026-11-24T23:16:17.517Z INFO  kernel: c", `a\nb\r\n2026-11-24T23:16:17.517Z INFO  kernel: c`},
		{"a backslash", `C:\new`, `C:\new`},
		{"a terminal's colors", "\x1b[31mred\x7f", `\x1b[31mred\x7f`},
		{"other languages", "Füllstand 7 µm, 水位", "Füllstand 7 µm, 水位"},
		{"not UTF-8", "F\xfcllstand\xe6\xb0", `F\xfcllstand\xe6\xb0`},
		{"a line of Unicode's", "a\u2028b\u0085c", `a\xe2\x80\xa8b\xc2\x85c`},
		{"right to left", "a\u202eb", `a\xe2\x80\xaeb`},
		{"NUL", "a\x00b", `a\x00b`},
		{"long", strings.Repeat("x", 3000), strings.Repeat("x", 2045) + "..."},
		{"cut between characters", strings.Repeat("水", 1000), strings.Repeat("水", 681) + "..."},
		{"cut between escapes", strings.Repeat("\n", 3000), strings.Repeat(`\n`, 1022) + "..."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := clean(tt.text); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestCleanName(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"pump", "pump"},
		{"", ""},
		{"kernel: x[1]", "kernel__x_1_"},
		{"a\nb\x1b\xff", "a_b__"},
		{"Füllstand", "Füllstand"},
		{strings.Repeat("ü", 100), strings.Repeat("ü", 32)},
		{"x" + strings.Repeat("ü", 100), "x" + strings.Repeat("ü", 31)},
	} {
		if got := cleanName(tt.name); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestLevels(t *testing.T) {
	at := time.Date(2026, 11, 25, 0, 16, 17, 517_900_000, time.FixedZone("", 3600))
	for priority, want := range []string{
		"ERROR x", "ERROR x", "ERROR x", "ERROR x", "WARN  x", "INFO  x", "INFO  x", "DEBUG x",
	} {
		for _, facility := range []int{0, 1, 23} {
			got := string(record{time: at, priority: facility<<3 | priority, text: "x"}.appendTo(nil))
			if want := "2026-11-24T23:16:17.517Z " + want + "\n"; got != want {
				t.Errorf("%d: got %q, want %q", priority, got, want)
			}
		}
	}
}

// checkLine tells what is wrong with a record as a line, if anything is.
func checkLine(r record) string {
	line := string(r.appendTo(nil))
	text, ended := strings.CutSuffix(line, "\n")
	switch {
	case !ended, !utf8.ValidString(line):
		return "no text"
	case len(line) > 25+6+nameLength+12+2+textLength+1:
		return "too long"
	}
	for _, c := range text {
		if c != '\t' && !unicode.IsGraphic(c) {
			return "not to be printed"
		}
	}
	return ""
}
