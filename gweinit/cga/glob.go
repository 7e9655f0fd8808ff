package cga

import (
	"errors"
	"path"
	"slices"
	"strings"
)

// glob is a pattern for paths: * ? [a-z] within a part of it, and ** for any
// number of parts. What matches a folder matches all that is in it.
type glob struct {
	text   string
	parts  []string
	hidden bool // * ? ** match names that begin with a dot too
	deep   bool // it matches at any depth
}

// include is a glob as shells have it: * does not match hidden files.
func include(pattern string) (*glob, error) { return newGlob(pattern) }

// exclude is a glob that matches hidden files too, and without a slash at any
// depth, so that *.pyc excludes all of them.
func exclude(pattern string) (*glob, error) {
	g, err := newGlob(pattern)
	if g != nil {
		g.hidden, g.deep = true, !strings.Contains(strings.TrimSuffix(pattern, "/"), "/")
	}
	return g, err
}

func newGlob(pattern string) (*glob, error) {
	parts := strings.Split(pattern, "/")
	switch {
	case pattern == "":
		return nil, errors.New("it is empty")
	case parts[0] == "" || slices.Contains(parts, ".."):
		return nil, errors.New("it leads out of the buildfile's folder")
	}
	clean := path.Clean(pattern)
	g := &glob{text: clean}
	for part := range strings.SplitSeq(clean, "/") {
		if part == "**" && len(g.parts) > 0 && g.parts[len(g.parts)-1] == "**" {
			continue // they would only make it slow
		}
		if _, err := path.Match(part, ""); err != nil {
			return nil, errors.New("it is no pattern: a [ without ], or a \\ at the end")
		}
		g.parts = append(g.parts, part)
	}
	return g, nil
}

// literal says whether it can match only one name.
func (g *glob) literal() bool { return !strings.ContainsAny(g.text, `*?[\`) }

// match says whether it matches a path, or a folder above it.
func (g *glob) match(name string) bool {
	if g.text == "." {
		return true
	}
	parts := strings.Split(name, "/")
	for end := 1; end <= len(parts); end++ {
		if g.matchParts(g.parts, parts[:end]) || g.deep && g.matchParts(g.parts, parts[end-1:end]) {
			return true
		}
	}
	return false
}

func (g *glob) matchParts(pattern, name []string) bool {
	if len(pattern) == 0 || len(name) == 0 {
		return len(name) == 0 && (len(pattern) == 0 || len(pattern) == 1 && pattern[0] == "**")
	}
	hidden := name[0][0] == '.' && !g.hidden && pattern[0][0] != '.'
	if pattern[0] == "**" {
		return g.matchParts(pattern[1:], name) || !hidden && g.matchParts(pattern, name[1:])
	}
	ok, _ := path.Match(pattern[0], name[0]) // checked before
	return ok && !hidden && g.matchParts(pattern[1:], name[1:])
}
