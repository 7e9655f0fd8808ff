// Package cga is what is known of custom gateway applications before they are
// installed: how their tarballs are called, what is in them, and how they are
// built. It is the same on a gateway and on a developer's workstation.
package cga

import "fmt"

// Severity is how bad a finding is.
type Severity int

// An app with an error does not install; one with warnings may not do what it is
// thought to.
const (
	Warning Severity = iota
	Error
)

func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Finding is what a check has found.
type Finding struct {
	Severity Severity
	Entry    string // of the tarball, or "line 3" of a buildfile; "": the whole of it
	Text     string
}

func (f Finding) String() string {
	if f.Entry == "" {
		return fmt.Sprintf("%v: %s", f.Severity, f.Text)
	}
	return fmt.Sprintf("%v: %s: %s", f.Severity, f.Entry, f.Text)
}
