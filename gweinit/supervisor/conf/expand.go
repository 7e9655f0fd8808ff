package conf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxExpanded is the most that an expanded value, a width or a precision may
// have, in bytes.
const maxExpanded = 1 << 20

const envPrefix = "ENV_"

// names are what %(name)s can name.
type names struct {
	text    map[string]string
	numbers map[string]int
	env     []map[string]string // for ENV_X; the last that has X wins
}

// with returns the names and one more.
func (n names) with(name, value string) names {
	text := maps.Clone(n.text)
	if text == nil {
		text = map[string]string{}
	}
	text[name] = value
	n.text = text
	return n
}

// withEnv returns the names and the variables of an environment.
func (n names) withEnv(env map[string]string) names {
	n.env = append(slices.Clip(n.env), env)
	return n
}

func (n names) find(name string) (text string, number int, isNumber bool, err error) {
	if text, ok := n.text[name]; ok {
		return text, 0, false, nil
	}
	if number, ok := n.numbers[name]; ok {
		return "", number, true, nil
	}
	if variable, ok := strings.CutPrefix(name, envPrefix); ok {
		for _, env := range slices.Backward(n.env) {
			if text, ok := env[variable]; ok {
				return text, 0, false, nil
			}
		}
		return "", 0, false, fmt.Errorf("no environment variable %s for %%(%s)", short(variable), short(name))
	}
	known := slices.AppendSeq(slices.Collect(maps.Keys(n.text)), maps.Keys(n.numbers))
	slices.Sort(known)
	return "", 0, false, fmt.Errorf("no name %%(%s); there are %s, ENV_*", short(name), strings.Join(known, ", "))
}

// conversion is a part of a format: %(key)-+ #0WIDTH.PRECISIONverb.
type conversion struct {
	key                             string
	minus, plus, space, sharp, zero bool
	width, precision                int // precision -1: none
	verb                            rune
}

// expand replaces %(name)s and the like, as the % operator of Python does with
// a dictionary, for the verbs s, d, i, u, o, x and X.
func expand(format string, n names) (string, error) {
	var b strings.Builder
	for format != "" {
		text, rest, found := strings.Cut(format, "%")
		b.WriteString(text)
		if !found {
			break
		}
		if strings.HasPrefix(rest, "%") {
			b.WriteByte('%')
			format = rest[1:]
			continue
		}
		c, rest, err := parseConversion(rest)
		if err != nil {
			return "", err
		}
		value, err := c.value(n)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		if b.Len() > maxExpanded {
			return "", errTooLong
		}
		format = rest
	}
	if b.Len() > maxExpanded {
		return "", errTooLong
	}
	return b.String(), nil
}

var errTooLong = fmt.Errorf("more than %d bytes with its names expanded", maxExpanded)

// parseConversion reads what follows a "%".
func parseConversion(s string) (c conversion, rest string, err error) {
	if !strings.HasPrefix(s, "(") {
		return c, "", errors.New("a % without (NAME); write %% for a per cent sign")
	}
	end := closing(s)
	if end < 0 {
		return c, "", errors.New("%( without )")
	}
	c.key = s[1:end]
	s = c.flags(s[end+1:])
	if c.width, s, err = digits(s); err != nil {
		return c, "", err
	}
	c.precision = -1
	if strings.HasPrefix(s, ".") {
		if c.precision, s, err = digits(s[1:]); err != nil {
			return c, "", err
		}
	}
	if s != "" && strings.IndexByte("hlL", s[0]) >= 0 {
		s = s[1:]
	}
	verb, size := utf8.DecodeRuneInString(s)
	if size == 0 {
		return c, "", fmt.Errorf("%%(%s) without s or d after it", short(c.key))
	}
	c.verb = verb
	return c, s[size:], nil
}

// closing returns where the parenthesis ends with which s begins, or -1.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func (c *conversion) flags(s string) (rest string) {
	for i := range len(s) {
		switch s[i] {
		case '-':
			c.minus = true
		case '+':
			c.plus = true
		case ' ':
			c.space = true
		case '#':
			c.sharp = true
		case '0':
			c.zero = true
		default:
			return s[i:]
		}
	}
	return ""
}

// digits reads a number at the beginning of s; there need not be one.
func digits(s string) (number int, rest string, err error) {
	for s != "" && s[0] >= '0' && s[0] <= '9' {
		if number = number*10 + int(s[0]-'0'); number > maxExpanded {
			return 0, "", errors.New("a width or precision that is too big")
		}
		s = s[1:]
	}
	return number, s, nil
}

func (c conversion) value(n names) (string, error) {
	text, number, isNumber, err := n.find(c.key)
	if err != nil {
		return "", err
	}
	switch c.verb {
	case 's':
		if isNumber {
			text = strconv.Itoa(number)
		}
		return c.pad("", firstRunes(text, c.precision), false), nil
	case 'd', 'i', 'u', 'o', 'x', 'X':
		if !isNumber {
			return "", fmt.Errorf("%%(%s) is not a number; write s, not %c", short(c.key), c.verb)
		}
		return c.number(number), nil
	}
	return "", fmt.Errorf("%%(%s) with %q after it, not s or d", short(c.key), c.verb)
}

func (c conversion) number(value int) string {
	base, prefix := 10, ""
	switch c.verb {
	case 'o':
		base, prefix = 8, "0o"
	case 'x', 'X':
		base, prefix = 16, "0x"
	}
	text := strconv.FormatInt(int64(value), base)
	sign := ""
	if value < 0 {
		sign, text = "-", text[1:]
	} else if c.plus {
		sign = "+"
	} else if c.space {
		sign = " "
	}
	if missing := c.precision - len(text); missing > 0 {
		text = strings.Repeat("0", missing) + text
	}
	if c.sharp && base != 10 {
		sign += prefix
	}
	if c.verb == 'X' {
		sign, text = strings.ToUpper(sign), strings.ToUpper(text)
	}
	return c.pad(sign, text, c.zero)
}

// pad returns text with the width; zeros go between the sign and the text.
func (c conversion) pad(sign, text string, zero bool) string {
	missing := c.width - len(sign) - utf8.RuneCountInString(text)
	switch {
	case missing <= 0:
		return sign + text
	case c.minus:
		return sign + text + strings.Repeat(" ", missing)
	case zero:
		return sign + strings.Repeat("0", missing) + text
	}
	return strings.Repeat(" ", missing) + sign + text
}

// firstRunes returns the first characters of text, or all if most is negative.
func firstRunes(text string, most int) string {
	if most < 0 {
		return text
	}
	for i := range text {
		if most == 0 {
			return text[:i]
		}
		most--
	}
	return text
}
