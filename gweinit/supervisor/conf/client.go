package conf

import (
	"errors"
	"os"
	"strings"
)

// LoadClient reads [supervisorctl] of a file, as supervisorctl does: without
// includes and without looking at the other sections, except for [DEFAULT].
// What is wrong has its default in the client and is in the error, an Errors.
func LoadClient(file string, opt Options) (Client, error) {
	c := Client{Prompt: "supervisor"}
	l := newLoader(file, opt)
	data, err := readFile(os.OpenFile, file)
	if err != nil {
		l.fail(&Error{File: file, Err: err})
		return c, l.result()
	}
	doc, errs := parseINI(file, data)
	l.doc = doc
	s := doc.section("supervisorctl")
	if s == nil {
		l.fail(&Error{File: file, Err: errors.New("there is no section [supervisorctl]")})
		return c, l.result()
	}
	for _, e := range errs {
		if e.Section == s.name || e.Section == defaultSection {
			l.fail(e)
		}
	}
	r := &reader{l: l, s: s, names: l.names}
	r.apply([]setting{
		{"serverurl", text(&c.ServerURL)},
		{"username", text(&c.Username)},
		{"password", text(&c.Password)},
		{"prompt", text(&c.Prompt)},
		{"history_file", text(&c.HistoryFile)},
	})
	if path, ok := strings.CutPrefix(c.ServerURL, "unix://"); ok {
		c.ServerURL = "unix://" + l.normal(path)
	}
	if c.HistoryFile != "" {
		c.HistoryFile = l.normal(c.HistoryFile)
	}
	return c, l.result()
}
