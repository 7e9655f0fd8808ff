package bundle

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

var versionPattern = regexp.MustCompile(`^[0-9]([0-9A-Za-z.+~-]{0,62}[0-9A-Za-z.+~])?$`)

// CheckVersion makes sure that a version can be ordered as Debian orders its
// versions, and be part of a file's name: so it has no epoch.
func CheckVersion(v string) error {
	if !versionPattern.MatchString(v) {
		return fmt.Errorf("version %.70q: want a digit first, then letters, digits, and . + ~ - (like 1.2.0), at most 64, no - at the end", v)
	}
	return nil
}

// CompareVersions compares as dpkg does: it returns -1 if a is older than b, 0
// if none is older, and 1 if b is. Epochs count, should there be any.
// See deb-version(7).
func CompareVersions(a, b string) int {
	ea, ua, ra := splitVersion(a)
	eb, ub, rb := splitVersion(b)
	return cmp.Or(comparePart(ea, eb), comparePart(ua, ub), comparePart(ra, rb))
}

// splitVersion splits [EPOCH:]UPSTREAM[-REVISION].
func splitVersion(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares by turns what comes before the next digit, character by
// character, and the number that follows.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for startsOther(a) || startsOther(b) {
			if c := cmp.Compare(rank(a), rank(b)); c != 0 {
				return c
			}
			a, b = a[1:], b[1:] // of the same rank, which is not that of an end
		}
		var na, nb string
		na, a = number(a)
		nb, b = number(b)
		if c := cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(na, nb)); c != 0 {
			return c
		}
	}
	return 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func startsOther(s string) bool { return s != "" && !isDigit(s[0]) }

// rank orders what s starts with: a tilde, the end or a digit, letters, the rest.
func rank(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case 'A' <= s[0] && s[0] <= 'Z' || 'a' <= s[0] && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

// number cuts the digits that s starts with off, leading zeros as well.
func number(s string) (digits, rest string) {
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}
