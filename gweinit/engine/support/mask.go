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
