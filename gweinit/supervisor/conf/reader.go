package conf

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxTotal is the most that all expanded values of a configuration have, in
// bytes: a short file can name long values for many processes.
const maxTotal = 64 << 20

// maxMessages is the most errors, and warnings, that are listed. A garbled file
// could have one for each line, and they all get into a log.
const maxMessages = 500

// share is what the sections of one owner, the gateway or an app, can have of
// something; and what they have needed of it.
type share struct {
	errs, warnings int
	total          int // bytes of expanded values, and of an app's files
	processes      int
}

// Each app has a share of its own, so that what is too much in one costs the gateway
// and the other apps nothing.
var (
	gatewayShare = share{errs: maxMessages, warnings: maxMessages, total: maxTotal, processes: maxProcesses}
	appShare     = share{errs: 50, warnings: 50, total: 1 << 20, processes: 100}
)

// maxValue is the most of a value that is in an error, in bytes.
const maxValue = 200

// loader collects what a configuration says and what is wrong with it.
type loader struct {
	file     string
	environ  map[string]string
	names    names // for all sections
	doc      *document
	errs     Errors
	warnings Errors
	said     map[string]bool // errors and warnings: once is enough
	accounts map[string]accountsOrError

	most   share // of the owner of what is read now
	used   *share
	shares map[*App]*share // what each has used
}

func newLoader(file string, opt Options) *loader {
	l := &loader{
		file:     file,
		environ:  map[string]string{},
		doc:      newDocument(),
		said:     map[string]bool{},
		accounts: map[string]accountsOrError{},
		shares:   map[*App]*share{},
	}
	l.of(nil)
	for _, variable := range opt.Environ {
		name, value, ok := strings.Cut(variable, "=")
		if ok && utf8.ValidString(value) {
			l.environ[name] = value
		}
	}
	l.names = names{
		text: map[string]string{"host_node_name": hostname()},
		env:  []map[string]string{l.environ},
	}
	return l
}

// of makes an app, or with nil the gateway, the owner of what is read now.
func (l *loader) of(a *App) {
	l.most = gatewayShare
	if a != nil {
		l.most = appShare
	}
	if l.shares[a] == nil {
		l.shares[a] = &share{}
	}
	l.used = l.shares[a]
}

func (l *loader) fail(e *Error) {
	if len(e.Value) > maxValue {
		e.Value = strings.ToValidUTF8(e.Value[:maxValue], "") + "..."
	}
	// An indented password is a part of the option before it.
	if e.Option == "environment" || strings.Contains(strings.ToLower(e.Option+e.Value), "password") {
		e.Value = ""
	}
	l.errs = l.add(l.errs, e, &l.used.errs, l.most.errs)
}

func (l *loader) warn(file string, line int, section, option, text string) {
	e := &Error{File: file, Line: line, Section: section, Option: option, Err: errors.New(text)}
	l.warnings = l.add(l.warnings, e, &l.used.warnings, l.most.warnings)
}

// add adds a message that is new to a list, which has so many of the owner by now.
func (l *loader) add(list Errors, e *Error, count *int, most int) Errors {
	text := e.Error()
	if *count > most || l.said[text] {
		return list
	}
	if *count == most { // of that file, which says whose problem it is
		e = &Error{File: e.File, Line: math.MaxInt32, Err: errors.New("there is more than is listed")}
	}
	*count++
	l.said[text] = true
	return append(list, e)
}

// result returns the errors by file and line.
func (l *loader) result() error {
	if len(l.errs) == 0 {
		return nil
	}
	l.errs.sort()
	return l.errs
}

// setting is an option that a section can have, and what takes its value.
type setting struct {
	name string
	set  setter
}

// reader reads the options of one section.
type reader struct {
	l      *loader
	s      *section
	names  names
	failed bool
}

// lookup returns an option of the section or of [DEFAULT].
func (r *reader) lookup(name string) (option, bool) {
	if o, ok := r.s.options[name]; ok {
		return o, true
	}
	defaults := r.l.doc.defaults
	if r.s.defaults != nil {
		defaults = r.s.defaults
	}
	o, ok := defaults.options[name]
	return o, ok
}

// know makes options known without reading them.
func (r *reader) know(settings []setting) {
	for _, s := range settings {
		r.s.known[s.name] = true
	}
}

// apply reads options. What is wrong with one is an error, and leaves its
// default.
func (r *reader) apply(settings []setting) {
	r.know(settings)
	for _, s := range settings {
		if o, ok := r.lookup(s.name); ok {
			value, err := r.expand(o)
			if err == nil {
				err = s.set(value)
			}
			if err != nil {
				r.fail(o.key, err)
			}
		}
	}
}

// expand returns the value of an option with its names expanded.
func (r *reader) expand(o option) (string, error) {
	if !utf8.ValidString(o.value) || strings.IndexByte(o.value, 0) >= 0 {
		return "", errors.New("not UTF-8, or with NUL")
	}
	folder, err := r.s.here(o.file)
	if err != nil {
		return "", err
	}
	value, err := expand(o.value, r.names.with("here", folder))
	if err != nil && o.key == "password" {
		// The error would have a part of it.
		err = errors.New("a % that is not %% or followed by a name that is known")
	}
	if r.l.used.total += len(value); r.l.used.total > r.l.most.total {
		return "", errors.New("the values of all programs are too long together")
	}
	return value, err
}

// fail records that an option is wrong, which may also not be given.
func (r *reader) fail(name string, err error) {
	r.failed = true
	o, ok := r.lookup(name)
	if !ok {
		o = option{file: r.s.file, line: r.s.line, key: name}
	}
	r.l.fail(&Error{File: o.file, Line: o.line, Section: r.s.name, Option: o.key, Value: o.value, Err: err})
}

func (r *reader) warn(name, text string) {
	o, ok := r.lookup(name)
	if !ok {
		o = option{file: r.s.file, line: r.s.line, key: name}
	}
	r.l.warn(o.file, o.line, r.s.name, o.key, text)
}

// unknown warns of the options of a section that nothing asked for, if the
// section was read.
func (l *loader) unknown(s *section) {
	if len(s.known) == 0 {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(s.options)) {
		if s.known[key] {
			continue
		}
		text := "there is no such option; it is ignored"
		if name := nearest(key, s.known); name != "" {
			text += " (did you mean " + name + "?)"
		}
		o := s.options[key]
		l.warn(o.file, o.line, s.name, key, text)
	}
}

// nearest returns the one of the names that a typing error can have made into
// key, or "".
func nearest(key string, names map[string]bool) string {
	const most = 2
	best, found := most+1, ""
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if len(key) > 2*most && len(key) <= len(name)+most {
			if d := distance(key, name); d < best {
				best, found = d, name
			}
		}
	}
	return found
}

// distance returns how many bytes have to be put in, taken out or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
