package conf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxIncluded is how many files a configuration can include.
const maxIncluded = 1000

// include reads the files that [include] names. A file that has an error is
// left out.
func (l *loader) include() {
	s := l.doc.section("include")
	if s == nil {
		return
	}
	var files string
	r := &reader{l: l, s: s, names: l.names}
	r.apply([]setting{{"files", text(&files)}})
	l.unknown(s)
	if _, ok := r.lookup("files"); !ok {
		r.fail("files", errors.New("it is missing"))
	}
	base, err := filepath.Abs(filepath.Dir(l.file))
	if err != nil {
		r.fail("files", err)
	}
	if r.failed {
		return
	}
	read := 0
	for _, pattern := range strings.FieldsFunc(files, isSpace) {
		if !filepath.IsAbs(pattern) {
			pattern = strings.TrimRight(base, "/") + "/" + pattern
		}
		matches := glob(pattern)
		if len(matches) == 0 {
			r.warn("files", fmt.Sprintf("no file matches %s", short(pattern)))
		}
		for _, name := range matches {
			if read++; read > maxIncluded {
				r.fail("files", fmt.Errorf("more than %d files", maxIncluded))
				return
			}
			l.includeFile(name)
		}
	}
}

func (l *loader) includeFile(name string) {
	text, err := readFile(os.OpenFile, name)
	doc := l.document(name, text, err)
	if doc == nil {
		return
	}
	if s := doc.section("include"); s != nil {
		l.warn(name, s.line, s.name, "", "an included file includes no others; it is ignored")
		doc.remove(s.name)
	}
	l.doc.merge(doc)
}

// document returns what a file beside the main one says, by its text or the error of
// reading it: nil if it is left out, for an error.
func (l *loader) document(file, text string, err error) *document {
	doc, errs := (*document)(nil), Errors{{File: file, Err: err}}
	if err == nil {
		doc, errs = parseINI(file, text)
	}
	for i, e := range errs {
		if i == 0 {
			e.Err = fmt.Errorf("the file is left out: %w", e.Err)
		}
		l.fail(e)
	}
	if len(errs) > 0 {
		return nil
	}
	return doc
}

const magic = "*?["

// glob returns the paths that match a pattern, sorted, as glob.glob of Python
// does: without ** and backslashes, and hidden files only if asked for.
func glob(pattern string) []string {
	if !strings.ContainsAny(pattern, magic) {
		if _, err := os.Lstat(pattern); err != nil {
			return nil
		}
		return []string{pattern}
	}
	folder, last := filepath.Split(pattern)
	folders := []string{folder}
	if strings.ContainsAny(folder, magic) {
		folders = glob(strings.TrimRight(folder, "/"))
	}
	match := goPattern(last)
	var paths []string
	for _, folder := range folders {
		if !strings.ContainsAny(last, magic) {
			path := filepath.Join(folder, last)
			if _, err := os.Lstat(path); err == nil && (last != "" || isDir(path)) {
				paths = append(paths, path)
			}
			continue
		}
		entries, _ := os.ReadDir(folder) // as far as it goes
		for _, entry := range entries {
			name := entry.Name()
			ok, err := filepath.Match(match, name)
			if ok && err == nil && (name[0] != '.' || last[0] == '.') {
				paths = append(paths, filepath.Join(folder, name))
			}
		}
	}
	slices.Sort(paths)
	return paths
}

// goPattern returns the pattern for filepath.Match that matches what fnmatch of
// Python does: [!x] excludes, a [ that is not closed is itself.
func goPattern(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		end := 0
		if pattern[i] == '[' {
			end = classEnd(pattern[i:])
		}
		switch {
		case end > 0:
			b.WriteString(goClass(pattern[i+1 : i+end]))
			i += end
		case pattern[i] == '[' || pattern[i] == '\\':
			b.WriteByte('\\')
			fallthrough
		default:
			b.WriteByte(pattern[i])
		}
	}
	return b.String()
}

// classEnd returns where the class of characters ends that s begins, or 0.
func classEnd(s string) int {
	from := 1
	if strings.HasPrefix(s[from:], "!") {
		from++
	}
	if strings.HasPrefix(s[from:], "]") {
		from++
	}
	if i := strings.IndexByte(s[from:], ']'); i >= 0 {
		return from + i
	}
	return 0
}

// goClass returns a class of characters. Ranges from a later to an earlier
// character are empty, so a class can be: [^] matches all, [] nothing.
func goClass(class string) string {
	class, not := strings.CutPrefix(class, "!")
	var b strings.Builder
	for c := []rune(class); len(c) > 0; {
		low, high, n := c[0], c[0], 1
		if len(c) > 2 && c[1] == '-' {
			high, n = c[2], 3
		}
		if low <= high {
			fmt.Fprintf(&b, `\%c-\%c`, low, high)
		}
		c = c[n:]
	}
	switch {
	case not && b.Len() == 0:
		return "?"
	case not:
		return "[^" + b.String() + "]"
	}
	return "[" + b.String() + "]" // [] is an error of filepath.Match
}
