package debian

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Package is one version of a binary package.
type Package struct {
	Name          string
	Version       string
	Arch          string // "all" for packages of every architecture
	Source        string
	SourceVersion string
	BuiltUsing    []SourceRef // other sources with a part in it: linked statically, or what was signed
	SHA256        string      // of the .deb, in hexadecimal
	Size          int64       // of the .deb, in bytes
	Depends       string      // as in the package's control file
}

// SourceRef is a version of a source package.
type SourceRef struct {
	Name, Version string
}

// String writes it as Built-Using does.
func (s SourceRef) String() string { return s.Name + " (= " + s.Version + ")" }

// ParseSourceRef reads what String writes.
func ParseSourceRef(text string) (SourceRef, error) {
	name, version, _ := strings.Cut(strings.TrimSuffix(text, ")"), " (= ")
	s := SourceRef{name, version}
	if s.String() != text || !isName(name) || !isVersion(version) {
		return SourceRef{}, fmt.Errorf("%q is not a source package as in \"name (= version)\"", text)
	}
	return s, nil
}

// DependsOn returns the name of the first dependency that starts with prefix: how a package
// that stands for the newest of its kind tells which one that is.
func (p Package) DependsOn(prefix string) (string, error) {
	for _, d := range strings.FieldsFunc(p.Depends, func(c rune) bool { return c == ',' || c == '|' }) {
		d = strings.TrimSpace(d)
		if i := strings.IndexAny(d, " \t\n(:["); i >= 0 {
			d = d[:i]
		}
		if d != "" && strings.HasPrefix(d, prefix) {
			return d, nil
		}
	}
	return "", fmt.Errorf("package %s %s depends on nothing named %s*, only on: %s", p.Name, p.Version, prefix, p.Depends)
}

// check tells whether p, which may come from a file, can be part of a path and of a command.
func (p Package) check() error {
	if !isName(p.Name) || !isVersion(p.Version) || !isWord(p.Arch) || !isSHA256(p.SHA256) || p.Size <= 0 {
		return fmt.Errorf("package %q version %q of %q, SHA-256 %q, %d bytes: not a valid package", p.Name, p.Version, p.Arch, p.SHA256, p.Size)
	}
	return nil
}

// newPackage reads a stanza of an index of packages.
func newPackage(s stanza) (Package, error) {
	p := Package{
		Name: s["package"], Version: s["version"], Arch: s["architecture"],
		Source: s["source"], SHA256: s["sha256"], Depends: s["depends"],
	}
	var err error
	if p.Size, err = strconv.ParseInt(s["size"], 10, 64); err != nil {
		return Package{}, fmt.Errorf("package %q: field Size: %w", p.Name, err)
	}
	if p.Source == "" {
		p.Source = p.Name
	}
	// "name (version)" if the versions differ, as for binary rebuilds and signed kernels.
	name, version, differs := strings.Cut(p.Source, " (")
	p.Source, p.SourceVersion = name, p.Version
	if differs {
		p.SourceVersion = strings.TrimSuffix(version, ")")
	}
	for _, field := range []string{"built-using", "static-built-using"} {
		for text := range strings.SplitSeq(s[field], ",") {
			if text = strings.Join(strings.Fields(text), " "); text == "" {
				continue
			}
			ref, err := ParseSourceRef(text)
			if err != nil {
				return Package{}, fmt.Errorf("package %q: field %s: %w", p.Name, field, err)
			}
			if !slices.Contains(p.BuiltUsing, ref) {
				p.BuiltUsing = append(p.BuiltUsing, ref)
			}
		}
	}
	return p, p.check()
}

// stanza is one paragraph of a Debian control file (deb822): values by lower-case field name.
// The lines of a folded value are joined by newlines.
type stanza map[string]string

// parseStanzas reads a Debian control file.
func parseStanzas(text string) ([]stanza, error) {
	var all []stanza
	var now stanza
	field := ""
	n := 0
	for line := range strings.Lines(text) {
		n++
		folded := line[0] == ' ' || line[0] == '\t'
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case line == "":
			now, field = nil, ""
			continue
		case line[0] == '#':
			continue
		case folded:
			if field == "" {
				return nil, fmt.Errorf("line %d: a continuation of no field", n)
			}
			now[field] += "\n" + strings.TrimLeft(line, " \t")
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		field = strings.ToLower(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("line %d: no field name: %.40q", n, line)
		}
		if now == nil {
			now = stanza{}
			all = append(all, now)
		}
		if _, twice := now[field]; twice {
			return nil, fmt.Errorf("line %d: field %s twice", n, name)
		}
		now[field] = strings.TrimSpace(value)
	}
	return all, nil
}

func isName(s string) bool { return matches(`^[a-z0-9][a-z0-9+.-]+$`, s) }

func isVersion(s string) bool { return matches(`^[0-9A-Za-z][0-9A-Za-z.+:~-]*$`, s) }

func isSHA256(s string) bool { return matches(`^[0-9a-f]{64}$`, s) }

// isWord is for architectures and suites.
func isWord(s string) bool { return matches(`^[a-z0-9][a-z0-9.-]*$`, s) }

func matches(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }

// escapeVersion makes a version part of a file name, as apt does.
func escapeVersion(v string) string { return strings.ReplaceAll(v, ":", "%3a") }
