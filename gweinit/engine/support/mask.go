package support

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
)

// mask takes secrets out of texts.
type mask struct {
	secrets [][]byte // the longest first
	first   [256]bool
	base64  [][]byte
}

const (
	// shortSecret is how long a secret must be at least: a shorter one would be
	// everywhere, and its mask could contain it.
	shortSecret = 6
	shown       = 8  // characters of a CIK
	cikSize     = 40 // characters
)

func newMask(secrets []string) *mask {
	m := &mask{}
	for _, s := range secrets {
		m.add(s)
	}
	return m
}

func (m *mask) add(s string) {
	secret := []byte(strings.TrimSpace(s))
	if len(secret) < shortSecret || slices.ContainsFunc(m.secrets, func(o []byte) bool { return bytes.Equal(o, secret) }) {
		return
	}
	m.secrets = append(m.secrets, secret)
	slices.SortStableFunc(m.secrets, func(a, b []byte) int { return len(b) - len(a) })
	m.first[secret[0]], m.first['%'], m.first['\\'] = true, true, true
	if secret[0] == ' ' {
		m.first['+'] = true
	}
	// In base64 a secret has three forms: by how many bytes are before it. The
	// characters that neighbours have a part in are not known.
	for before := range 3 {
		whole := append(make([]byte, before), secret...)
		text := base64.RawStdEncoding.EncodeToString(whole)
		text = text[(before*8+5)/6:]
		if len(whole)%3 != 0 {
			text = text[:len(text)-1]
		}
		for _, form := range []string{text, strings.NewReplacer("+", "-", "/", "_").Replace(text)} {
			if !slices.ContainsFunc(m.base64, func(o []byte) bool { return string(o) == form }) {
				m.base64 = append(m.base64, []byte(form))
			}
		}
	}
}

// text returns a text without secrets: b itself if there are none, else another
// one. Done again it changes nothing.
func (m *mask) text(b []byte) []byte {
	for range 10 {
		// What is left beside a mask may form a secret with it.
		masked := m.pass(b)
		if bytes.Equal(masked, b) {
			return b
		}
		b = masked
	}
	return []byte("*") // a text that was made to be difficult
}

func (m *mask) line(s string) string { return string(m.text([]byte(s))) }

// pass does all that there is to do once, each on what the one before has left.
func (m *mask) pass(b []byte) []byte {
	b = maskKeys(b)
	b = m.maskSecrets(b)
	b = maskWords(b)
	b = maskURLs(b)
	return maskValues(b)
}

// edit is a copy of a text with parts of it replaced. It has none until there is
// a part.
type edit struct {
	from []byte
	to   []byte
	done int // bytes of from that are in to
	any  bool
}

func (e *edit) replace(start, end int, with string) {
	if string(e.from[start:end]) == with {
		return
	}
	if !e.any {
		e.any, e.to = true, make([]byte, 0, len(e.from)+len(with))
	}
	e.to = append(append(e.to, e.from[e.done:start]...), with...)
	e.done = end
}

func (e *edit) bytes() []byte {
	if !e.any {
		return e.from
	}
	return append(e.to, e.from[e.done:]...)
}

// Keys in PEM. Lines of a log may be between the lines of a key, and a part of
// it may be missing: mostKey on that side go, then.
const (
	mostKey    = 64 << 10
	keyRemoved = "[private key removed]"
)

var (
	pemBegin  = []byte("-----BEGIN ")
	pemEnd    = []byte("-----END ")
	pemKey    = []byte("PRIVATE KEY-----")
	pemBase64 = []byte("LS0tLS1CRUdJTi") // "-----BEGIN " in base64
)

// pemMarker returns the next begin or end of a private key: where it is, and
// which of them; start is -1 if there is none.
func pemMarker(b []byte, from int) (start, end int, begins bool) {
	for from < len(b) {
		at := bytes.Index(b[from:], []byte("-----"))
		if at < 0 {
			break
		}
		at += from
		rest := b[at:]
		begins = bytes.HasPrefix(rest, pemBegin)
		if begins || bytes.HasPrefix(rest, pemEnd) {
			label := rest[len(pemEnd):min(len(rest), 80)]
			if n := bytes.Index(label, pemKey); n >= 0 && bytes.IndexByte(label[:n], '\n') < 0 {
				return at, at + len(pemEnd) + n + len(pemKey), begins
			}
		}
		from = at + 1
	}
	return -1, -1, false
}

// maskKeys removes private keys.
func maskKeys(b []byte) []byte {
	e := edit{from: b}
	for at := 0; ; {
		start, end, begins := pemMarker(b, at)
		if start < 0 {
			break
		}
		if !begins { // its begin was cut off
			start = max(e.done, start-mostKey)
		} else if last, lastEnd, again := pemMarker(b, end); last >= 0 && !again && last-end <= mostKey {
			end = lastEnd
		} else if last >= 0 {
			end = min(last, end+mostKey)
		} else {
			end = min(len(b), end+mostKey)
		}
		e.replace(start, end, keyRemoved)
		at = end
	}
	b = e.bytes()
	e = edit{from: b}
	for at := 0; ; {
		n := bytes.Index(b[at:], pemBase64)
		if n < 0 {
			return e.bytes()
		}
		start := at + n
		for at = start; at < len(b) && isBase64(b[at]); at++ {
		}
		e.replace(start, at, "*")
	}
}

// maskSecrets masks the given secrets: as they are, percent-encoded as a whole or
// in part, with the escapes of JSON and Go, and in base64.
func (m *mask) maskSecrets(b []byte) []byte {
	if len(m.secrets) == 0 {
		return b
	}
	e := edit{from: b}
	for at := 0; at < len(b); at++ {
		if !m.first[b[at]] {
			continue
		}
		for _, secret := range m.secrets {
			n, whole := match(b[at:], secret)
			// The file may have been cut within the secret.
			if !whole && (n < len(b)-at || n <= shown || len(secret) < 2*shown) {
				continue
			}
			e.replace(at, at+n, abbreviated(secret))
			at += n - 1
			break
		}
	}
	b = e.bytes()
	for _, form := range m.base64 {
		e := edit{from: b}
		for at := 0; ; {
			n := bytes.Index(b[at:], form)
			if n < 0 {
				break
			}
			// The whole word goes: its ends have parts of the secret, and the rest
			// may be a user's name.
			start, end := at+n, at+n+len(form)
			for start > at && isBase64(b[start-1]) {
				start--
			}
			for end < len(b) && isBase64(b[end]) {
				end++
			}
			e.replace(start, end, "*")
			at = end
		}
		b = e.bytes()
	}
	return b
}

// match says how many bytes of b are secret or a beginning of it.
func match(b, secret []byte) (n int, whole bool) {
	if bytes.HasPrefix(b, secret) {
		return len(secret), true
	}
	for _, escaped := range []func(b []byte, c byte) int{percent, backslash} {
		i, n := 0, 0
		for ; i < len(secret) && n < len(b); i++ {
			if length := escaped(b[n:], secret[i]); length > 0 {
				n += length
			} else if b[n] == secret[i] {
				n++
			} else {
				break
			}
		}
		if i == len(secret) || n == len(b) {
			return n, i == len(secret)
		}
	}
	return 0, false
}

// percent returns the length of c at the beginning of b as URLs and forms have
// it, 0 if it is not there.
func percent(b []byte, c byte) int {
	switch {
	case len(b) >= 3 && b[0] == '%' && unhex(b[1:3]) == int(c):
		return 3
	case b[0] == '+' && c == ' ':
		return 1
	}
	return 0
}

// backslash is percent for the escapes of JSON and Go.
func backslash(b []byte, c byte) int {
	switch {
	case len(b) < 2 || b[0] != '\\':
	case len(b) >= 6 && b[1] == 'u' && unhex(b[2:4]) == 0 && unhex(b[4:6]) == int(c):
		return 6
	case len(b) >= 4 && b[1] == 'x' && unhex(b[2:4]) == int(c):
		return 4
	case b[1] == c && !isWord(c):
		return 2
	}
	return 0
}

// unhex is the value of two hexadecimal digits, -1 if they are none.
func unhex(b []byte) int {
	v := 0
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			v = v<<4 | int(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			v = v<<4 | int(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return v
}

// abbreviated is what of a secret may be seen.
func abbreviated(secret []byte) string {
	if len(secret) < 2*shown || slices.ContainsFunc(secret[:shown], func(c byte) bool { return !isWord(c) }) {
		return "*"
	}
	return string(secret[:shown]) + "*"
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isWord(c byte) bool   { return isDigit(c) || isLetter(c) }
func isBase64(c byte) bool { return isWord(c) || strings.IndexByte("+/-_=", c) >= 0 }
func isKey(c byte) bool    { return isWord(c) || c == '_' || c == '-' || c == '.' }
func isBlank(c byte) bool  { return c == ' ' || c == '\t' }
func isQuote(c byte) bool  { return c == '"' || c == '\'' || c == '`' }

// maskWords masks every word that has the form of a CIK: 40 letters and digits.
// Those that are known are hexadecimal, but newer tokens need not be.
func maskWords(b []byte) []byte {
	e := edit{from: b}
	for at := 0; at < len(b); {
		// An escape is not a part of the word behind it: %3D, \n, \u003d, \x3d.
		if n := escape(b[at:]); n > 0 {
			at += n
			continue
		}
		start, digits, letters := at, false, false
		for at < len(b) && isWord(b[at]) {
			digits, letters = digits || isDigit(b[at]), letters || isLetter(b[at])
			at++
		}
		if at-start == cikSize && digits && letters {
			e.replace(start, at, string(b[start:start+shown])+"*")
		}
		if at == start {
			at++
		}
	}
	return e.bytes()
}

// escape returns the length of the escape with which b begins, 0 if it does not.
func escape(b []byte) int {
	switch {
	case len(b) >= 3 && b[0] == '%' && unhex(b[1:3]) >= 0:
		return 3
	case len(b) < 2 || b[0] != '\\':
		return 0
	case b[1] == 'u' && len(b) >= 6 && unhex(b[2:6]) >= 0:
		return 6
	case b[1] == 'x' && len(b) >= 4 && unhex(b[2:4]) >= 0:
		return 4
	}
	return 2
}

// maskURLs masks the password in scheme://user:password@host.
func maskURLs(b []byte) []byte {
	e := edit{from: b}
	for at := 0; ; {
		n := bytes.Index(b[at:], []byte("://"))
		if n < 0 {
			return e.bytes()
		}
		at += n + 3
		colon := -1
		for i := at; i < len(b) && b[i] > ' ' && !isQuote(b[i]) && b[i] != '/' && i-at < 500; i++ {
			if b[i] == ':' && colon < 0 {
				colon = i
			}
			if b[i] == '@' && colon >= 0 {
				e.replace(colon+1, i, "*")
				at = i
				break
			}
		}
	}
}

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
