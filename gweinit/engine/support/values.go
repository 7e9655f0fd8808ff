package support

import (
	"bytes"
	"slices"
	"strings"
)

// keyWords are what names of secrets contain, in lower case.
var keyWords = [][]byte{
	[]byte("password"), []byte("passwd"), []byte("passphrase"), []byte("psk"), []byte("secret"), []byte("token"), []byte("cik"),
	[]byte("credential"), []byte("authorization"), []byte("private_key"), []byte("privatekey"), []byte("private-key"),
	[]byte("apikey"), []byte("api_key"), []byte("api-key"),
}

// maskValues masks the values of keys that contain a keyWord: in INI, YAML, JSON,
// KEY=VALUE, and --KEY VALUE.
func maskValues(b []byte) []byte {
	e := edit{from: b}
	lower := slices.Clone(b)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c | 0x20
		}
	}
	v := values{edit: &e, b: b}
	var next [16]int // where each keyWord is next
	for i := range keyWords {
		next[i] = -1
	}
	for at := 0; ; {
		found := len(b)
		for i, word := range keyWords {
			if next[i] < at {
				if n := bytes.Index(lower[at:], word); n >= 0 {
					next[i] = at + n
				} else {
					next[i] = len(b)
				}
			}
			found = min(found, next[i])
		}
		if found == len(b) {
			return e.bytes()
		}
		at = v.mask(at, found)
	}
}

// values masks those of a text from its beginning to its end.
type values struct {
	*edit
	b       []byte
	lineEnd int // of a line that was looked at: lines may be long
}

// endOfLine returns where the line with the byte at ends.
func (v *values) endOfLine(at int) int {
	if at > v.lineEnd || v.lineEnd == 0 {
		v.lineEnd = len(v.b)
		if n := bytes.IndexByte(v.b[at:], '\n'); n >= 0 {
			v.lineEnd = at + n
		}
	}
	end := v.lineEnd
	for end > at && v.b[end-1] == '\r' {
		end--
	}
	return end
}

// longIndent is how far a key may be indented. It is more for lists in lists.
const longIndent = 200

// mask masks the value of the key in which there is a word, and returns where to
// go on.
func (v *values) mask(from, word int) int {
	e, b := v.edit, v.b
	key, end := word, word
	for key > from && isKey(b[key-1]) {
		key--
	}
	for end < len(b) && isKey(b[end]) {
		end++
	}
	at, quoted := end, false
	if n := quote(b[at:]); n > 0 {
		at, quoted = at+n, true
	}
	behind := at
	for at < len(b) && isBlank(b[at]) {
		at++
	}
	switch {
	case at < len(b) && (b[at] == '=' || b[at] == ':'):
		at++
		if at < len(b) && b[at] == '=' { // := and ==
			at++
		}
		for at < len(b) && isBlank(b[at]) {
			at++
		}
	case b[key] == '-' && at > behind && !quoted:
	default:
		return end
	}

	lineStart := max(0, key-longIndent)
	newline := bytes.LastIndexByte(b[lineStart:key], '\n')
	lineStart += newline + 1
	before := bytes.TrimLeft(b[lineStart:key], " \t-#;")
	first := (newline >= 0 || lineStart == 0) && (len(before) == 0 || string(before) == "export ")
	lineEnd := v.endOfLine(at)
	value := b[at:lineEnd]

	if first && !quoted {
		// INI and YAML: to the line's end, and what is indented below.
		stop := indented(b, lineEnd, key-lineStart)
		if len(bytes.TrimSpace(b[at:stop])) > 0 && !harmless(value, stop > lineEnd) {
			e.replace(at, stop, "*")
		}
		return max(stop, end)
	}
	if len(value) == 0 {
		return end
	}
	if n := quote(value); n > 0 {
		// To the same quote. Without one the line's end is the end.
		open := value[:n]
		stop := len(value)
		for i := n; i < len(value); i++ {
			if value[i] != open[n-1] {
				continue
			}
			slashes := 0
			for i-slashes > n && value[i-slashes-1] == '\\' {
				slashes++
			}
			if slashes <= n-1 {
				stop = i - slashes
				break
			}
		}
		if inner := value[n:stop]; len(inner) > 0 && !harmless(inner, false) {
			e.replace(at+n, at+stop, "*")
		}
		return at + stop
	}
	if value[0] == '{' || value[0] == '[' {
		stop := closing(b[at:])
		if quoted {
			e.replace(at, at+stop, `"*"`)
		} else {
			e.replace(at, at+stop, "*")
		}
		return at + stop
	}
	stop := 0
	if flow := lastByte(before); !quoted && (flow == '{' || flow == ',') { // of YAML: blanks are a part of it
		for stop < len(value) && value[stop] != ',' && value[stop] != '}' {
			stop++
		}
	} else {
		for words := 1; words > 0; words-- {
			start := stop
			for stop < len(value) && !isBlank(value[stop]) && !isQuote(value[stop]) && !(quoted && strings.IndexByte(",}]", value[stop]) >= 0) {
				stop++
			}
			// The secret of "Authorization: Basic ..." is the next word.
			switch strings.ToLower(string(value[start:stop])) {
			case "basic", "bearer", "digest", "token":
				if stop < len(value) && isBlank(value[stop]) {
					words, stop = 2, stop+1
				}
			}
		}
	}
	for stop > 0 && (value[stop-1] == '\\' || isBlank(value[stop-1])) { // of \" behind it
		stop--
	}
	if stop > 0 && !harmless(value[:stop], false) {
		if quoted {
			e.replace(at, at+stop, `"*"`)
		} else {
			e.replace(at, at+stop, "*")
		}
	}
	return at + stop
}

// harmless reports whether a value is a mask already. One of a CIK stays, as it
// tells which it was.
func harmless(value []byte, more bool) bool {
	if more {
		return false
	}
	value = bytes.TrimSpace(value)
	if len(value) == shown+1 && value[shown] == '*' {
		return !slices.ContainsFunc(value[:shown], func(c byte) bool { return !isWord(c) })
	}
	return string(value) == "*" || string(value) == `"*"`
}

// quote returns the length of the quote with which b begins, 0 if it does not.
// In a text within a text it has backslashes before it.
func quote(b []byte) int {
	n := 0
	for n < len(b) && b[n] == '\\' {
		n++
	}
	if n < len(b) && isQuote(b[n]) {
		return n + 1
	}
	return 0
}

func lastByte(b []byte) byte {
	b = bytes.TrimRight(b, " \t\"'")
	if len(b) == 0 {
		return 0
	}
	return b[len(b)-1]
}

// indentOf is how far a line is indented.
func indentOf(line []byte) int {
	return len(line) - len(bytes.TrimLeft(line, " \t"))
}

// indented returns the end of the lines after the one that ends at end, which are
// indented more than that: they belong to its value.
func indented(b []byte, end, indent int) int {
	stop := end
	for at := end; at < len(b); {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 {
			break
		}
		at += n + 1
		line := b[at:]
		if n := bytes.IndexByte(line, '\n'); n >= 0 {
			line = line[:n]
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			if indentOf(line) <= indent {
				break
			}
			stop = at + len(bytes.TrimRight(line, "\r"))
		}
		at += len(line)
	}
	return stop
}

// closing returns the length of the list or object with which b begins.
func closing(b []byte) int {
	depth := 0
	var in byte
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case in != 0:
			if c == '\\' {
				i++
			} else if c == in {
				in = 0
			}
		case c == '"':
			in = c
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(b)
}

// maskEnvironment masks the values in the options environment of Supervisor's
// configuration, but not their names.
func maskEnvironment(b []byte) []byte {
	e := edit{from: b}
	at := 0
	for line := range bytes.Lines(b) {
		start := at
		at += len(line)
		name, _, ok := bytes.Cut(line, []byte("="))
		if colon := bytes.IndexByte(line, ':'); colon >= 0 && (!ok || colon < len(name)) {
			name, ok = line[:colon], true
		}
		if !ok || !strings.EqualFold(string(bytes.Trim(name, " \t;#")), "environment") || start < e.done {
			continue
		}
		value := start + len(name) + 1
		end := start + len(bytes.TrimRight(line, "\r\n"))
		stop := indented(b, end, indentOf(line))
		e.replace(value, stop, " "+strings.Join(variables(b[value:stop]), ","))
	}
	return e.bytes()
}

// variables returns NAME=* for each of the variables.
func variables(b []byte) []string {
	var all []string
	for len(bytes.TrimSpace(b)) > 0 {
		name, rest, ok := bytes.Cut(b, []byte("="))
		name = bytes.Trim(name, ", \t\r\n")
		if !ok || slices.ContainsFunc(name, func(c byte) bool { return !isWord(c) && c != '_' }) || len(name) > 40 {
			return append(all, "*") // it is not understood: none of it is shown
		}
		all = append(all, string(name)+"=*")
		rest = bytes.TrimLeft(rest, " \t\r\n")
		if len(rest) > 0 && isQuote(rest[0]) {
			n := bytes.IndexByte(rest[1:], rest[0])
			if n < 0 {
				return all
			}
			rest = rest[n+2:]
		}
		_, b, _ = bytes.Cut(rest, []byte(","))
	}
	return all
}
