package cga

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	marker  = ".v" // between name and version
	tarball = ".tar.gz"

	maxApp     = 100 // bytes
	maxVersion = 80  // bytes; a file name has 255, and needs room for what is added to it
)

// reserved are no names of apps: programs of Gateway Engine itself, and what
// supervisorctl takes for every program.
var reserved = []string{"gwe", "gmq", "all"}

// Name is what the file name of a tarball says.
type Name struct{ App, Version string }

// ParseName takes the name of a tarball's file, without its folder, apart:
// NAME.vVERSION.tar.gz.
//
// Names and versions may have ".v" in them. What counts is the last one with a
// digit behind it, as in my.vendor.v1.2; where there is none, the last one.
func ParseName(file string) (Name, error) {
	text, ok := strings.CutSuffix(file, tarball)
	at := -1
	for i := range text {
		if ok && strings.HasPrefix(text[i:], marker) && startsWithDigit(text[i+len(marker):]) {
			at = i
		}
	}
	if at < 0 && ok {
		at = strings.LastIndex(text, marker)
	}
	if at < 0 {
		return Name{}, fmt.Errorf("%.200q is no name of an app's tarball: want NAME.vVERSION.tar.gz", file)
	}
	n := Name{App: text[:at], Version: text[at+len(marker):]}
	if err := errors.Join(CheckApp(n.App), checkVersion(n.Version)); err != nil {
		return Name{}, fmt.Errorf("%.200q is no name of an app's tarball: %w", file, err)
	}
	return n, nil
}

// File is the name of the tarball.
func (n Name) File() string { return n.App + marker + n.Version + tarball }

// check says whether there can be a tarball of that name. One that reads back as
// another, such as a version 1.v2, would be installed under that one.
func (n Name) check() error {
	if err := errors.Join(CheckApp(n.App), checkVersion(n.Version)); err != nil {
		return err
	}
	if other, err := ParseName(n.File()); err != nil || other != n {
		return fmt.Errorf("%s would be read as version %s of %s: change the name or the version", n.File(), other.Version, other.App)
	}
	return nil
}

// CheckApp says whether an app can have that name. It becomes the name of a
// program, of files and of folders.
func CheckApp(name string) error {
	if slices.ContainsFunc(reserved, func(r string) bool { return strings.EqualFold(r, name) }) {
		return fmt.Errorf("the app's name %q is taken by Gateway Engine itself", name)
	}
	return checkWord("the app's name", name, maxApp)
}

func checkVersion(version string) error { return checkWord("the version", version, maxVersion) }

// checkWord says whether text can be a part of a file name, and stand in
// supervisor.conf and on a command line as it is.
func checkWord(what, text string, max int) error {
	switch {
	case text == "":
		return fmt.Errorf("%s is empty", what)
	case len(text) > max:
		return fmt.Errorf("%s has %d bytes, at most %d are taken", what, len(text), max)
	case text[0] == '.' || text[0] == '-':
		return fmt.Errorf("%s %q begins with %q", what, text, text[:1])
	case strings.ContainsFunc(text, func(r rune) bool { return !isWordRune(r) }):
		return fmt.Errorf("%s %q has something else in it than letters, digits and . - _ + ~", what, text)
	}
	return nil
}

func isWordRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+~", r)
}

func startsWithDigit(text string) bool { return text != "" && text[0] >= '0' && text[0] <= '9' }
