package syslog

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// record is a line that is to be written.
type record struct {
	time     time.Time
	priority int    // as syslog(3) has it, with or without a facility
	text     string // name and message, clean
	from     source
	name     string // of the source, for people
}

// Those that the package itself needs.
const (
	priError  = 3
	priWarn   = 4
	priNotice = 5
)

const levelError = "ERROR"

// levels are what the eight levels of syslog(3) are called here.
var levels = [8]string{levelError, levelError, levelError, levelError, "WARN ", "INFO ", "INFO ", "DEBUG"}

func (r record) level() string { return levels[r.priority&7] }

func (r record) appendTo(b []byte) []byte {
	b = r.time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z ")
	b = append(b, r.level()...)
	b = append(b, ' ')
	b = append(b, strings.TrimRight(r.text, " ")...)
	return append(b, '\n')
}

const (
	textLength = 2 << 10 // of a message
	nameLength = 64
	cut        = "..."
)

// clean returns a message as one line that shows what it consists of and does
// nothing to a terminal, cut to textLength.
func clean(s string) string {
	var b strings.Builder
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		c := s[:size]
		s = s[size:]
		switch {
		case r == '\n':
			c = `\n`
		case r == '\r':
			c = `\r`
		case r == utf8.RuneError && size == 1, r != '\t' && !unicode.IsGraphic(r):
			c = escape(c)
		}
		if b.Len()+len(c)+len(cut) > textLength {
			b.WriteString(cut)
			break
		}
		b.WriteString(c)
	}
	return b.String()
}

// escape returns each byte as \xNN.
func escape(s string) string {
	const digits = "0123456789abcdef"
	var b []byte
	for _, c := range []byte(s) {
		b = append(b, '\\', 'x', digits[c>>4], digits[c&15])
	}
	return string(b)
}

// cleanName returns a name that cannot be mistaken for one with a process ID,
// nor for a message.
func cleanName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsGraphic(r) || unicode.IsSpace(r) || strings.ContainsRune(":[]", r) {
			return '_'
		}
		return r
	}, s)
	if len(s) <= nameLength {
		return s
	}
	n := nameLength
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// cutName cuts "NAME[PID]: " or "NAME: " from a message. It returns an empty
// name if there is none, and an empty pid if there is no number.
func cutName(s string) (name, pid, text string) {
	i := strings.IndexFunc(s, func(r rune) bool {
		return strings.ContainsRune(":[]", r) || !unicode.IsGraphic(r) || unicode.IsSpace(r)
	})
	if i <= 0 {
		// musl has an empty name for a program that gives none.
		return "", "", strings.TrimPrefix(s, ": ")
	}
	name, text = s[:i], s[i:]
	if rest, ok := strings.CutPrefix(text, "["); ok {
		var ok bool
		if pid, text, ok = strings.Cut(rest, "]"); !ok || !isPID(pid) {
			return "", "", s
		}
		if text == "" {
			return name, pid, ""
		}
	}
	// Without a space behind the colon it may be a URL, or the time of day.
	switch rest, colon := strings.CutPrefix(text, ":"); {
	case colon && rest == "":
		return name, pid, ""
	case (colon || pid != "") && strings.HasPrefix(rest, " "):
		return name, pid, rest[1:]
	}
	return "", "", s
}

func isPID(s string) bool {
	return s != "" && len(s) <= 10 && strings.Trim(s, "0123456789") == ""
}
