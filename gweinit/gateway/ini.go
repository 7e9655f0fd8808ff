package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// INI is the text of an INI file, which people edit and a crash may have
// garbled: whatever it is, what can be read of it is. Each line stands for
// itself: a [section], an "option = value" or "option: value", or a comment. A
// value may be in single or double quotes; a comment behind it begins with a
// blank and ; or #. Names are the same in upper and lower case, and of options
// that are there twice the last counts. Changes leave all other lines as they
// are.
type INI struct {
	mark  string // with which editors of Windows begin files
	lines []line
}

type line struct {
	text    string // with its end
	section string // that it is in, or begins
	kind    kind
	setting
}

type kind int

const (
	other  kind = iota // empty, or a comment
	header             // begins a section
	option
	noINI  // a mistake, or cut off
	noText // left by a crash
)

// setting is an option's line taken apart.
type setting struct {
	key, value string
	from, to   int // where the value is in the line, with its quotes
}

// ParseINI reads the text of an INI file.
func ParseINI(text []byte) *INI {
	f := &INI{}
	section := ""
	all := string(text)
	if bare, ok := strings.CutPrefix(all, "\ufeff"); ok {
		f.mark, all = all[:len(all)-len(bare)], bare
	}
	for text := range strings.Lines(all) {
		l := parseLine(text, section)
		f.lines = append(f.lines, l)
		section = l.section
	}
	return f
}

func parseLine(text, section string) line {
	l := line{text: text, section: section}
	trimmed := strings.TrimSpace(text)
	switch {
	case strings.ContainsFunc(strings.TrimRight(text, "\r\n"), control):
		l.kind = noText
	case trimmed == "" || trimmed[0] == ';' || trimmed[0] == '#':
	case trimmed[0] == '[':
		name, _, ok := strings.Cut(trimmed[1:], "]")
		l.kind, l.section = header, strings.TrimSpace(name)
		if !ok {
			l.kind, l.section = noINI, trimmed // what follows is not of the section before
		}
	default:
		l.kind = noINI
		if s, ok := parseSetting(text); ok {
			l.kind, l.setting = option, s
		}
	}
	return l
}

// control says whether r is in no line of text.
func control(r rune) bool { return r != '\t' && unicode.IsControl(r) }

func parseSetting(text string) (s setting, ok bool) {
	at := strings.IndexAny(text, "=:")
	if at < 0 {
		return s, false
	}
	s.key = strings.Trim(text[:at], " \t'\"")
	rest := text[at+1:]
	rest = rest[:valueEnd(rest)]
	s.value = strings.TrimSpace(rest)
	s.from = len(text[:at+1]) + len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
	s.to = s.from + len(s.value)
	if n := quoted(s.value); n > 0 && n == len(s.value) {
		s.value = s.value[1 : n-1]
	}
	return s, s.key != ""
}

// valueEnd returns where the value at the beginning of rest ends: where the
// comment behind it begins, or the line ends.
func valueEnd(rest string) int {
	start := len(rest) - len(strings.TrimLeft(rest, " \t"))
	if end := start + quoted(rest[start:]); end > start {
		behind := strings.TrimSpace(rest[end:])
		if behind == "" || behind[0] == ';' || behind[0] == '#' {
			return end
		}
	}
	for i := 1; i < len(rest); i++ {
		if (rest[i] == ';' || rest[i] == '#') && (rest[i-1] == ' ' || rest[i-1] == '\t') {
			return i
		}
	}
	return len(strings.TrimRight(rest, "\r\n"))
}

// quoted returns the length of the quotes at the beginning of s and what is in
// them, or 0.
func quoted(s string) int {
	if s == "" || s[0] != '\'' && s[0] != '"' {
		return 0
	}
	if i := strings.IndexByte(s[1:], s[0]); i >= 0 {
		return i + 2
	}
	return 0
}

// Value returns the value of an option, "" if there is none.
func (f *INI) Value(section, key string) string {
	if i := f.find(section, key); i >= 0 {
		return f.lines[i].value
	}
	return ""
}

// Differences returns the options of a file that are others after than before, and
// new ones.
func Differences(file string, before, after []byte) (changes []Change) {
	old, new := ParseINI(before), ParseINI(after)
	seen := map[string]bool{}
	for _, l := range new.lines {
		id := strings.ToLower(l.section + "\x00" + l.key)
		if l.kind != option || seen[id] {
			continue
		}
		seen[id] = true
		if value := new.Value(l.section, l.key); value != old.Value(l.section, l.key) {
			changes = append(changes, Change{File: file, Section: l.section, Key: l.key, Value: value})
		}
	}
	return changes
}

// find returns the index of the option's line, or -1.
func (f *INI) find(section, key string) int {
	at := -1
	for i, l := range f.lines {
		if l.is(section, key) {
			at = i
		}
	}
	return at
}

func (l line) is(section, key string) bool {
	return l.kind == option && strings.EqualFold(l.section, section) && strings.EqualFold(l.key, key)
}

// Set gives an option a value. One that there is keeps its place and the
// comment behind it; a new one comes last in its section, a new section last in
// the file. A value that no line can hold is an error, and nothing is changed;
// what Value returns can always be set.
func (f *INI) Set(section, key, value string) error {
	written, err := quote(value)
	if err != nil {
		return fmt.Errorf("[%s] %s: %w", section, key, err)
	}
	if i := f.find(section, key); i >= 0 && f.lines[i].value == value {
		return nil
	}
	f.clean()
	if i := f.find(section, key); i >= 0 {
		l := f.lines[i]
		before, behind := l.text[:l.from], l.text[l.to:]
		if strings.HasSuffix(before, " =") || strings.HasSuffix(before, " :") {
			before += " "
		}
		if behind != "" && strings.TrimSpace(behind[:1]) != "" {
			behind = " " + behind
		}
		f.lines[i] = parseLine(before+written+behind, l.section)
		return nil
	}
	f.add(section, key+" = "+written)
	return nil
}

// add adds a line at the end of a section, and the section if there is none.
func (f *INI) add(section, text string) {
	eol := "\n"
	last := -1 // line of the section that is not empty
	for i, l := range f.lines {
		if strings.HasSuffix(l.text, "\r\n") {
			eol = "\r\n"
		}
		if strings.EqualFold(l.section, section) && strings.TrimSpace(l.text) != "" {
			last = i
		}
	}
	var added []line
	if last < 0 {
		last = len(f.lines) - 1
		if last >= 0 && strings.TrimSpace(f.lines[last].text) != "" {
			added = append(added, parseLine(eol, ""))
		}
		added = append(added, parseLine("["+section+"]"+eol, ""))
	}
	added = append(added, parseLine(text+eol, section))
	if last >= 0 && !strings.HasSuffix(f.lines[last].text, "\n") {
		f.lines[last].text += eol
	}
	f.lines = slices.Insert(f.lines, last+1, added...)
}

// clean takes out what nobody can have written: it is not kept in a file that
// is changed.
func (f *INI) clean() {
	f.lines = slices.DeleteFunc(f.lines, func(l line) bool { return l.kind == noText })
}

// quote returns a value as it is written.
func quote(value string) (string, error) {
	if strings.ContainsFunc(value, control) {
		return "", errors.New("the value cannot be written: it has line ends or other control characters")
	}
	for _, written := range []string{value, "'" + value + "'", `"` + value + `"`} {
		const before = "key = "
		s, ok := parseSetting(before + written + " # comment")
		if ok && written != "" && s.value == value && s.to == len(before+written) {
			return written, nil
		}
	}
	return "", errors.New("the value cannot be written: it needs quotes, and has both kinds of them")
}

// Delete takes an option out.
func (f *INI) Delete(section, key string) {
	if f.find(section, key) >= 0 {
		f.clean()
		f.lines = slices.DeleteFunc(f.lines, func(l line) bool { return l.is(section, key) })
	}
}

// Text returns the text of the file: the same that was read if no change was
// made.
func (f *INI) Text() []byte {
	out := bytes.NewBufferString(f.mark)
	for _, l := range f.lines {
		out.WriteString(l.text)
	}
	return out.Bytes()
}

// maxProblems is how many lines Problems names.
const maxProblems = 3

// Problems returns what could not be read, without what is written there: that
// may be a CIK.
func (f *INI) Problems() (problems []error) {
	n := 0
	for i, l := range f.lines {
		if l.kind != noINI && l.kind != noText {
			continue
		}
		if n++; n > maxProblems {
			continue
		}
		why := "has control characters"
		if l.kind == noINI {
			why = `is no [section], no "option = value" and no comment`
		}
		problems = append(problems, fmt.Errorf("line %d %s; it is passed over", i+1, why))
	}
	if n > maxProblems {
		problems = append(problems, fmt.Errorf("%d more such lines", n-maxProblems))
	}
	return problems
}
