package modules

import "bytes"

// match reports whether an alias's pattern matches all of s, as fnmatch(3)
// does without flags: unlike path.Match's, its * and ? also match a slash. The
// characters - and _ are the same, except between brackets.
func match(pattern []byte, s string) bool {
	p, i := 0, 0
	star, from := -1, 0 // behind the last *, and where in s what follows it was tried
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			star, from = p, i
			continue
		}
		if n, ok := matchOne(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		// Only the last * has to be tried again: those before it have found
		// the earliest place for what follows them.
		if star < 0 {
			return false
		}
		from++
		p, i = star, from
	}
	return len(bytes.Trim(pattern[p:], "*")) == 0
}

// matchOne matches what the pattern begins with, of length n and not a *, with
// a character.
func matchOne(pattern []byte, c byte) (n int, ok bool) {
	if len(pattern) == 0 {
		return 0, false
	}
	switch {
	case pattern[0] == '?':
		return 1, true
	case pattern[0] == '[':
		if n, ok := matchClass(pattern, c); n > 0 {
			return n, ok
		}
	case pattern[0] == '\\' && len(pattern) > 1:
		return 2, same(pattern[1], c)
	}
	return 1, same(pattern[0], c)
}

// matchClass matches a class such as [0-9a] or [!x]. Without an end it is none,
// and n is 0.
func matchClass(pattern []byte, c byte) (n int, ok bool) {
	n = 1
	negated := n < len(pattern) && (pattern[n] == '!' || pattern[n] == '^')
	if negated {
		n++
	}
	for first := true; n < len(pattern); first = false {
		lo := pattern[n]
		if lo == ']' && !first {
			return n + 1, ok != negated
		}
		hi := lo
		if n+2 < len(pattern) && pattern[n+1] == '-' && pattern[n+2] != ']' {
			hi = pattern[n+2]
			n += 2
		}
		n++
		ok = ok || lo <= c && c <= hi
	}
	return 0, false
}

func same(a, b byte) bool {
	return a == b || (a == '-' || a == '_') && (b == '-' || b == '_')
}
