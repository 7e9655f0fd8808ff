package conf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// maxFile is the most that a file may have, in bytes.
const maxFile = 1 << 20

// maxLineErrors is how many wrong lines of a file are told one by one.
const maxLineErrors = 20

// defaultSection has defaults for all other sections.
const defaultSection = "DEFAULT"

// option is an option as it is in the file.
type option struct {
	file  string
	line  int
	key   string // lower case
	value string
}

// section is a section with all that was given under its name.
type section struct {
	name    string
	file    string // of its first header
	line    int
	options map[string]option
	broken  bool            // it has lines that could not be understood
	known   map[string]bool // the options that were asked for

	app      *App     // whose it is; nil: the gateway's
	defaults *section // the app's; nil: those of the document
}

func newSection(name, file string, line int) *section {
	return &section{name: name, file: file, line: line,
		options: map[string]option{}, known: map[string]bool{}}
}

// document is what one or more files say. sections is in their order.
type document struct {
	sections []*section
	defaults *section
	index    map[string]*section // by name, with defaults
}

func newDocument() *document {
	defaults := newSection(defaultSection, "", 0)
	return &document{defaults: defaults, index: map[string]*section{defaultSection: defaults}}
}

// section returns the section with a name, or nil.
func (d *document) section(name string) *section { return d.index[name] }

func (d *document) add(s *section) {
	d.index[s.name] = s
	d.sections = append(d.sections, s)
}

func (d *document) remove(name string) {
	delete(d.index, name)
	d.sections = slices.DeleteFunc(d.sections, func(s *section) bool { return s.name == name })
}

// merge adds what a later file says.
func (d *document) merge(later *document) {
	for _, from := range append(slices.Clone(later.sections), later.defaults) {
		to := d.section(from.name)
		if to == nil {
			d.add(from)
			continue
		}
		to.broken = to.broken || from.broken
		for key, o := range from.options {
			to.options[key] = o
		}
	}
}

// iniParser has the state between two lines.
type iniParser struct {
	file    string
	doc     *document
	errs    Errors
	skipped int // errors that are not in errs

	current *section
	key     string   // of the option that lines can continue
	lines   []string // of its value
	indent  int      // of the option's first line
}

// parseINI reads the dialect of Python 3.11's RawConfigParser with the inline
// comment prefixes ";" and "#", and strict=False. A line that is wrong is an
// error and makes its section broken. file is the name for errors.
func parseINI(file, text string) (*document, Errors) {
	p := &iniParser{file: file, doc: newDocument()}
	text = strings.TrimPrefix(text, "\ufeff")
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	number := 0
	for line := range strings.Lines(text) {
		number++
		p.line(number, line)
	}
	p.flush()
	if p.skipped > 0 {
		p.errs = append(p.errs, &Error{File: file, Err: fmt.Errorf("%d more lines are wrong", p.skipped)})
	}
	return p.doc, p.errs
}

func (p *iniParser) line(number int, line string) {
	end := commentStart(line)
	value := strip(line[:max(end, 0)])
	if end < 0 {
		value = strip(line)
	}
	if value == "" {
		// An empty line belongs to the value, a comment does not.
		if end < 0 && p.key != "" {
			p.lines = append(p.lines, "")
		}
		return
	}
	indent := utf8.RuneCountInString(line) -
		utf8.RuneCountInString(strings.TrimLeftFunc(line, isSpace))
	if p.key != "" && indent > p.indent {
		p.lines = append(p.lines, value)
		return
	}
	p.flush()
	p.indent = indent
	if value[0] == '[' {
		p.header(number, value)
	} else {
		p.option(number, value)
	}
}

// commentStart returns where the comment of a line begins, or -1. As in Python
// both prefixes are searched in step, each from one occurrence to its next, and
// the search ends with the step that finds a comment: in "a;b ;c #d" the
// comment is "#d".
func commentStart(line string) int {
	text := strings.TrimLeftFunc(line, isSpace)
	if text != "" && (text[0] == '#' || text[0] == ';') {
		return 0
	}
	semicolon, hash := 0, 0
	for semicolon >= 0 || hash >= 0 {
		start := -1
		for _, s := range []struct {
			from   *int
			prefix byte
		}{{&semicolon, ';'}, {&hash, '#'}} {
			at := nextPrefix(line, *s.from, s.prefix)
			*s.from = at + 1
			if at < 0 {
				*s.from = -1
			} else if before, _ := utf8.DecodeLastRuneInString(line[:at]); isSpace(before) {
				if start < 0 || at < start {
					start = at
				}
			}
		}
		if start >= 0 {
			return start
		}
	}
	return -1
}

func nextPrefix(line string, from int, prefix byte) int {
	if from < 0 {
		return -1
	}
	i := strings.IndexByte(line[from:], prefix)
	if i < 0 {
		return -1
	}
	return from + i
}

// header begins a section. All up to the last "]" is its name.
func (p *iniParser) header(number int, line string) {
	end := strings.LastIndexByte(line, ']')
	if end < 2 {
		problem := "a section header without ]"
		if end == 1 {
			problem = "a section header without a name"
		}
		// What follows would get into the section before it.
		p.current = newSection(line, p.file, number)
		p.fail(number, problem)
		return
	}
	name := line[1:end]
	if p.current = p.doc.section(name); p.current == nil {
		p.current = newSection(name, p.file, number)
		p.doc.add(p.current)
	}
}

// option begins an option: up to the first "=" or ":" it is its name.
func (p *iniParser) option(number int, line string) {
	i := strings.IndexAny(line, "=:")
	switch {
	case p.current == nil:
		p.fail(number, "text before the first section")
	case i < 0:
		p.fail(number, "a line without = or :")
	case i == 0:
		p.fail(number, "no name before "+line[:1])
	default:
		p.key = strings.ToLower(strip(line[:i]))
		p.lines = []string{strip(line[i+1:])}
		p.current.options[p.key] = option{file: p.file, line: number, key: p.key}
	}
}

// flush ends the value of the option.
func (p *iniParser) flush() {
	if p.key == "" {
		return
	}
	o := p.current.options[p.key]
	o.value = strings.TrimRightFunc(strings.Join(p.lines, "\n"), isSpace)
	p.current.options[p.key] = o
	p.key, p.lines = "", nil
}

func (p *iniParser) fail(number int, text string) {
	e := &Error{File: p.file, Line: number, Err: errors.New(text)}
	if p.current != nil {
		p.current.broken = true
		if p.current.name[0] != '[' {
			e.Section = p.current.name
		}
	}
	if len(p.errs) == maxLineErrors {
		p.skipped++
		return
	}
	p.errs = append(p.errs, e)
}

// isSpace is str.isspace of Python.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}

func strip(s string) string {
	return strings.TrimFunc(s, isSpace)
}

func unprintable(r rune) bool {
	return r == utf8.RuneError || !unicode.IsPrint(r)
}

// open opens a file for reading without waiting, for what is not a file.
type open func(name string, flag int, perm os.FileMode) (*os.File, error)

// readFile reads a regular file that is not too big. It waits for nothing.
func readFile(open open, name string) (string, error) {
	f, err := open(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", cause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", cause(err)
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", cause(err)
	}
	if len(text) > maxFile {
		return "", fmt.Errorf("more than %d bytes", maxFile)
	}
	return string(text), nil
}

// cause leaves out what errors of files say besides the reason, because the
// message has the file already.
func cause(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}
