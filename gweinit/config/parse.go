package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Error is what is wrong with a document, for the person who wrote it.
type Error struct {
	// Lines have a problem each, in the order of the document and the first
	// ten at most: "line 7: network.links[0].mtu: ...".
	Lines []string
}

// Error has all on one line.
func (e *Error) Error() string { return strings.Join(e.Lines, "; ") }

// problem is one thing that is wrong.
type problem struct {
	line int    // from 1; 0 if it is about the whole document
	key  string // such as "network.links[0].mtu", or ""
	text string
}

func (p problem) String() string {
	s := p.text
	if p.key != "" {
		s = p.key + ": " + s
	}
	if p.line > 0 {
		s = fmt.Sprintf("line %d: %s", p.line, s)
	}
	return s
}

const (
	maxProblems = 10
	maxDepth    = 8 // of lists and mappings in each other; the schema has 6
)

// document collects what is wrong with a document while it is read.
type document struct {
	problems []problem
	more     int
}

func (d *document) add(p problem) {
	if len(d.problems) == 10*maxProblems { // bounds the memory, the rest is sorted
		d.more++
		return
	}
	d.problems = append(d.problems, p)
}

func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	var lines []string
	for _, p := range d.problems[:min(len(d.problems), maxProblems)] {
		lines = append(lines, p.String())
	}
	if more := d.more + len(d.problems) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return &Error{lines}
}

// open returns the root of the document, a mapping, or nil if there is nothing
// in it but comments. Its values are kept as they are written, so that
// "serial: 0012" is no number; all that YAML has beside mappings, lists and
// plain values is refused.
func (d *document) open(text []byte) *yaml.Node {
	if len(text) > maxText {
		d.add(problem{text: fmt.Sprintf("it has %d bytes, at most %d are allowed", len(text), maxText)})
		return nil
	}
	if line := notText(text); line > 0 {
		d.add(problem{line: line, text: "this is not UTF-8 text; save the file with that encoding"})
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	err := dec.Decode(&root)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		var second yaml.Node
		if err = dec.Decode(&second); err == nil {
			err = fmt.Errorf("yaml: line %d: a second document begins; put everything into one, without \"---\"", second.Line)
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		d.add(syntaxProblem(err))
		return nil
	}
	d.plain(root.Content[0], 1)
	if len(d.problems) > 0 {
		return nil
	}
	if n := root.Content[0]; !isNull(n) || n.Value != "" {
		return n
	}
	return nil // "---" and nothing behind it
}

// notText returns the line, from 1, of the first character that is no text in
// UTF-8: those of UTF-16 have NULs. It returns 0 if there is none.
func notText(text []byte) int {
	line := 1
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\n':
			line++
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\t' && r != '\r', r == 0x7f:
			return line
		}
		text = text[n:]
	}
	return 0
}

// syntaxProblem is what the YAML library says: "yaml: line 3: ...".
func syntaxProblem(err error) problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, what, _ := strings.Cut(rest, ": ")
		if line, err := strconv.Atoi(number); err == nil && line > 0 {
			return problem{line: line, text: what}
		}
	}
	return problem{text: text}
}

// plain refuses what makes a document mean something else than a person sees
// in it.
func (d *document) plain(n *yaml.Node, depth int) {
	refuse := func(what string) { d.add(problem{line: n.Line, text: what}) }
	switch {
	case depth > maxDepth:
		refuse(fmt.Sprintf("lists or mappings are nested more than %d deep", maxDepth))
		return
	case n.Kind == yaml.AliasNode:
		refuse("aliases (\"*\") are not allowed; write the value itself")
		return
	case n.Anchor != "":
		refuse("anchors (\"&\") are not allowed")
	case n.Style&yaml.TaggedStyle != 0:
		refuse("tags (\"!\") are not allowed")
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Tag == "!!merge" {
			d.add(problem{line: c.Line, text: "merge keys (\"<<\") are not allowed; write the keys themselves"})
			continue
		}
		d.plain(c, depth+1)
	}
}

// field is a value in a document, and the way there.
type field struct {
	doc  *document
	node *yaml.Node
	key  string
}

// failf adds a problem with the value, which the text should quote. It returns
// false.
func (f field) failf(format string, args ...any) bool {
	f.doc.add(problem{line: f.node.Line, key: f.key, text: fmt.Sprintf(format, args...)})
	return false
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// want fails with what the value is instead of something.
func (f field) want(what string) bool {
	switch {
	case isNull(f.node):
		return f.failf("has no value; give one or remove the line")
	case f.node.Kind == yaml.MappingNode:
		return f.failf("has keys, want %s", what)
	case f.node.Kind == yaml.SequenceNode && f.key == "":
		return f.failf("the document is a list, want %s", what)
	case f.node.Kind == yaml.SequenceNode:
		return f.failf("is a list, want %s", what)
	}
	return f.failf("%s is not %s", quote(f.node.Value), what)
}

// text returns the value as it is written, not empty: what YAML calls a number
// or a boolean is text too.
func (f field) text() (string, bool) {
	if f.node.Kind != yaml.ScalarNode || isNull(f.node) {
		return "", f.want("text")
	}
	if f.node.Value == "" {
		return "", f.failf("is empty; give a value or remove the line")
	}
	return f.node.Value, true
}

// checked returns a text that good says yes to; what describes those.
func (f field) checked(good func(string) bool, what string) string {
	s, ok := f.text()
	if ok && !good(s) {
		f.failf("%s is not %s", quote(s), what)
		return ""
	}
	return s
}

// oneOf returns a text that is one of these.
func (f field) oneOf(values ...string) string {
	return f.checked(func(s string) bool { return slices.Contains(values, s) }, "one of "+strings.Join(values, ", "))
}

// number returns a decimal number, 0 if it is none.
func (f field) number(least, most int) int {
	what := fmt.Sprintf("a number from %d to %d", least, most)
	if f.node.Kind != yaml.ScalarNode || f.node.Tag != "!!int" {
		f.want(what)
		return 0
	}
	n, err := strconv.Atoi(f.node.Value) // YAML knows 0x10, 0o7, 1_000 as well
	if err != nil || n < least || n > most || strconv.Itoa(n) != f.node.Value {
		f.want(what)
		return 0
	}
	return n
}

// list returns the values of a list.
func (f field) list(most int) []field {
	if f.node.Kind != yaml.SequenceNode {
		f.want("a list")
		return nil
	}
	if len(f.node.Content) > most {
		f.failf("has %d entries, at most %d are allowed", len(f.node.Content), most)
		return nil
	}
	list := make([]field, 0, len(f.node.Content))
	for i, n := range f.node.Content {
		list = append(list, field{f.doc, n, fmt.Sprintf("%s[%d]", f.key, i)})
	}
	return list
}

// object returns the values of a mapping by their keys, which must be among
// the known ones.
func (f field) object(known ...string) map[string]field {
	if f.node.Kind != yaml.MappingNode {
		f.want("keys with values")
		return nil
	}
	values := map[string]field{}
	for i := 0; i+1 < len(f.node.Content); i += 2 {
		key, value := f.node.Content[i], f.node.Content[i+1]
		path := strings.TrimPrefix(f.key+"."+key.Value, ".")
		at := field{f.doc, key, path}
		_, twice := values[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			field{f.doc, key, f.key}.failf("a key is a list or a mapping, want text")
		case !slices.Contains(known, key.Value):
			at.key = strings.TrimPrefix(f.key+"."+word(key.Value), ".")
			if isWiFi(key.Value) {
				at.failf("this firmware has no Wi-Fi yet; remove it")
				continue
			}
			at.failf("unknown key; known here: %s", strings.Join(known, ", "))
		case twice:
			at.failf("is given twice, first on line %d", values[key.Value].node.Line)
		default:
			values[key.Value] = field{f.doc, value, path}
		}
	}
	return values
}

// isWiFi says whether a key looks like one of those that people know from
// other systems: the unit would never be seen in the network.
func isWiFi(key string) bool {
	key = strings.ToLower(key)
	for _, begin := range []string{"wifi", "wi-fi", "wi_fi", "wlan", "wireless", "wpa", "ssid", "bssid", "psk", "passphrase", "access-point", "access_point"} {
		if strings.HasPrefix(key, begin) {
			return true
		}
	}
	return false
}

// word is a key as it is if it looks like one, else quoted.
func word(s string) string {
	plain := func(r rune) bool {
		return r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z'
	}
	if s != "" && len(s) <= 40 && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return quote(s)
}

// quote is a value for an error: on one line, and not too long.
func quote(s string) string {
	const most = 60
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "..."
}

// text returns a node for a value that is to be read back as it is.
func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.Contains(s, "\n") {
		n.Style = yaml.LiteralStyle
	}
	return n
}

func number(n int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(n)}
}

// texts returns a list with one node for each value.
func texts[T any](values []T, text func(T) *yaml.Node) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range values {
		n.Content = append(n.Content, text(v))
	}
	return n
}

// mapping is a node to which keys are added.
type mapping struct{ yaml.Node }

func newMapping() *mapping { return &mapping{yaml.Node{Kind: yaml.MappingNode}} }

func (m *mapping) add(key string, value *yaml.Node) {
	m.Content = append(m.Content, text(key), value)
}

// addText adds a text that is given.
func (m *mapping) addText(key, value string) {
	if value != "" {
		m.add(key, text(value))
	}
}

// encode returns the document below its first line, a comment.
func (m *mapping) encode(comment string) []byte {
	var buf bytes.Buffer
	buf.WriteString(comment)
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	err := errors.Join(enc.Encode(&m.Node), enc.Close())
	if err != nil {
		return buf.Bytes() // it cannot be: a buffer takes everything, and the nodes are ours
	}
	return buf.Bytes()
}
