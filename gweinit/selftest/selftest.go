// Package selftest is the result of a gateway's test of itself, and the line on
// its console by which a production line knows it.
package selftest

import (
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"unicode/utf8"
)

// OK is what Storage and Network are if nothing is wrong with them.
const OK = "ok"

// Result is what a gateway has found out about itself.
type Result struct {
	Pass    bool   `json:"pass"` // never without both being OK, and no Boot
	Serial  string `json:"serial"`
	MAC     string `json:"mac"`
	Board   string `json:"board"`
	Version string `json:"version"` // of the firmware
	Storage string `json:"storage"` // OK, or what is wrong, for a person
	Network string `json:"network"`
	Boot    string `json:"boot,omitempty"` // what else is wrong, if anything is
}

// key is one "key=value" of the line.
type key struct {
	name  string
	value *string
	most  int  // bytes that the value has as it is printed
	rare  bool // it is not printed if it has no value
}

// keys are those of the line, in order.
func (r *Result) keys() []key {
	return []key{
		{"serial", &r.Serial, 128, false}, // as provision.yaml allows
		{"mac", &r.MAC, 20, false},
		{"board", &r.Board, 32, false},
		{"version", &r.Version, 48, false},
		{"storage", &r.Storage, 90, false},
		{"network", &r.Network, 90, false},
		{"boot", &r.Boot, 90, true},
	}
}

// begin is how a line begins, with "pass" or "fail" behind it.
const begin = "selftest "

// String returns the line, ASCII without a line break. Serial lines lose bytes, and
// a serial number that lacks one looks like another: "sum" at its end is the
// CRC-32 (IEEE) of what is before " sum".
func (r Result) String() string {
	line := begin + "fail"
	if r.passed() {
		line = begin + "pass"
	}
	for _, k := range r.keys() {
		if k.rare && *k.value == "" {
			continue
		}
		line += " " + k.name + "=" + quoted(*k.value, k.most)
	}
	return fmt.Sprintf("%s sum=%08x", line, crc32.ChecksumIEEE([]byte(line)))
}

func (r Result) passed() bool { return r.Pass && r.Storage == OK && r.Network == OK && r.Boot == "" }

// quoted returns a value as it is if it is a plain word, else quoted as in Go, and
// cut to the most bytes.
func quoted(value string, most int) string {
	for keep := min(len(value), most); ; keep-- {
		text := value
		if keep < len(value) {
			if keep > 0 && !utf8.RuneStart(value[keep]) {
				continue
			}
			text = value[:keep] + "..."
		}
		if !isWord(text) {
			text = strconv.QuoteToASCII(text)
		}
		if len(text) <= most {
			return text
		}
	}
}

func isWord(text string) bool {
	for _, c := range []byte(text) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._:@+~/", c) >= 0:
		default:
			return false
		}
	}
	return text != ""
}

// Parse finds the result in a line of a console, whatever else is in it. One that
// is torn or garbled is none.
func Parse(line string) (Result, bool) {
	for {
		at := strings.Index(line, begin)
		if at < 0 {
			return Result{}, false
		}
		line = line[at:]
		if r, ok := parse(line); ok {
			return r, true
		}
		line = line[len(begin):]
	}
}

// parse reads the result that a line begins with.
func parse(line string) (r Result, ok bool) {
	rest := line[len(begin):]
	if rest, r.Pass = strings.CutPrefix(rest, "pass"); !r.Pass {
		if rest, ok = strings.CutPrefix(rest, "fail"); !ok {
			return Result{}, false
		}
	}
	for _, k := range r.keys() {
		if rest, ok = strings.CutPrefix(rest, " "+k.name+"="); !ok {
			if k.rare {
				continue
			}
			return Result{}, false
		}
		if *k.value, rest, ok = cutValue(rest); !ok {
			return Result{}, false
		}
	}
	summed := line[:len(line)-len(rest)]
	if !strings.HasPrefix(rest, fmt.Sprintf(" sum=%08x", crc32.ChecksumIEEE([]byte(summed)))) {
		return Result{}, false
	}
	return r, r.Pass == r.passed()
}

// cutValue returns the value that text begins with, and what is behind it.
func cutValue(text string) (value, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		value, _, _ = strings.Cut(text, " ")
		return value, text[len(value):], isWord(value)
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", "", false
	}
	value, err = strconv.Unquote(quoted)
	return value, text[len(quoted):], err == nil
}
