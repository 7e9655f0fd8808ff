package cga

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrNoSection says that a supervisor.conf has no section [supervisord]. Gateway
// Engine did not recognize such a file.
var ErrNoSection = errors.New("there is no section [supervisord]")

// defaults are what Gateway Engine gives a program that does not say otherwise.
var defaults = []struct{ name, value string }{
	{"command", "command"}, // which always fails
	{"redirect_stderr", "true"},
	{"stdout_logfile", "/var/log/APP.log"},
	{"stdout_logfile_maxbytes", "200KB"},
	{"stdout_logfile_backups", "1"},
}

// ProgramConf makes an app's supervisor.conf the configuration of a program for
// the supervisor: its section [supervisord] becomes [program:APP], and has the
// defaults of what is not given. A section [program:APP] is taken too, no other.
// The rest of the text stays, with its comments, in Unix's lines. The values are
// not looked at; Supervisor takes the last where there are several.
//
// What stops Supervisor from reading the file is an error; it wraps ErrNoSection
// if there is only nothing for this app in it. The warnings are about lines.
func ProgramConf(app string, text []byte) (conf []byte, warnings []string, err error) {
	if err := CheckApp(app); err != nil {
		return nil, nil, err
	}
	p := confParser{app: app, given: map[string]int{}}
	s := strings.TrimPrefix(string(text), "\ufeff")
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	number := 0
	for line := range strings.Lines(s) {
		number++
		if err := p.line(strings.TrimSuffix(line, "\n")); err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if p.section == "" {
		return nil, nil, ErrNoSection
	}
	if p.given["command"] == 0 {
		p.warnings = append(p.warnings, "there is no command: Gateway Engine's placeholder always fails")
	}
	for _, d := range defaults {
		if p.given[d.name] == 0 {
			p.out.WriteString(d.name + " = " + strings.Replace(d.value, "APP", app, 1) + "\n")
		}
	}
	return []byte(p.out.String()), p.warnings, nil
}

// confParser has the state between two lines. It takes them as the parser of
// gweinit/supervisor/conf does, which is that of Python.
type confParser struct {
	app      string
	section  string         // the one that there is so far
	given    map[string]int // options: lines
	inValue  bool           // a line can continue the value of an option
	indent   int            // of the option's first line
	number   int
	warnings []string
	out      strings.Builder
}

func (p *confParser) line(line string) error {
	p.number++
	value := strings.TrimFunc(withoutComment(line), isSpace)
	indent := utf8.RuneCountInString(line) - utf8.RuneCountInString(strings.TrimLeftFunc(line, isSpace))
	switch {
	case value == "", p.inValue && indent > p.indent:
	case value[0] == '[':
		return p.header(value)
	default:
		p.inValue, p.indent = true, indent
		if err := p.option(value); err != nil {
			return err
		}
	}
	p.out.WriteString(line + "\n")
	return nil
}

// header takes the beginning of a section. All up to the last "]" is its name.
func (p *confParser) header(value string) error {
	end := strings.LastIndexByte(value, ']')
	if end < 2 {
		return fmt.Errorf("a section header without a name or ]: %s", printable(value))
	}
	name := value[1:end]
	switch {
	case name != "supervisord" && name != "program:"+p.app:
		if p.section == "" && strings.HasPrefix(name, "program:") {
			return fmt.Errorf("[%s] is another program's: %w, which would become [program:%s]", printable(name), ErrNoSection, p.app)
		}
		return fmt.Errorf("[%s]: want one section, [supervisord], which becomes [program:%s]", printable(name), p.app)
	case p.section != "" && p.section != name:
		return fmt.Errorf("[%s] and [%s] are the same program: want one of them", p.section, name)
	}
	p.section, p.inValue = name, false
	p.out.WriteString("[program:" + p.app + "]\n")
	return nil
}

// option takes the first line of an option: up to the first "=" or ":" is its
// name, in any case.
func (p *confParser) option(value string) error {
	i := strings.IndexAny(value, "=:")
	switch {
	case p.section == "":
		return fmt.Errorf("%w before it", ErrNoSection)
	case i < 0:
		return fmt.Errorf("a line without = or :, %s", printable(value))
	case i == 0:
		return fmt.Errorf("no name before %s", value[:1])
	}
	name := strings.ToLower(strings.TrimFunc(value[:i], isSpace))
	if before := p.given[name]; before != 0 {
		p.warnings = append(p.warnings, fmt.Sprintf("line %d: %s is given in line %d too; this one counts", p.number, printable(name), before))
	}
	p.given[name] = p.number
	return nil
}

// withoutComment returns a line up to its comment. As in Python both prefixes
// are searched in step, each from one occurrence to its next, and the search ends
// with the step that finds a comment: in "a;b ;c #d" the comment is "#d".
func withoutComment(line string) string {
	text := strings.TrimLeftFunc(line, isSpace)
	if text != "" && (text[0] == '#' || text[0] == ';') {
		return ""
	}
	semicolon, hash := 0, 0
	for semicolon >= 0 || hash >= 0 {
		start := -1
		for _, s := range []struct {
			from   *int
			prefix byte
		}{{&semicolon, ';'}, {&hash, '#'}} {
			if *s.from < 0 {
				continue
			}
			at := strings.IndexByte(line[*s.from:], s.prefix)
			if at < 0 {
				*s.from = -1
				continue
			}
			at += *s.from
			*s.from = at + 1
			if before, _ := utf8.DecodeLastRuneInString(line[:at]); isSpace(before) && (start < 0 || at < start) {
				start = at
			}
		}
		if start >= 0 {
			return line[:start]
		}
	}
	return line
}

// isSpace is str.isspace of Python.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
