package cga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/durable"
)

// BuildfileName is how CreateBuildfile calls what it makes.
const BuildfileName = "gwe-buildfile.json"

const maxBuildfile = 1 << 20 // bytes

// buildfile is the JSON of a buildfile.
type buildfile struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Includes []string `json:"includes"`
	Excludes []string `json:"excludes"`
	Pre      []string `json:"pre_build_cmds"`
	Post     []string `json:"post_build_cmds"`

	lines              map[string]int // of the keys
	includes, excludes []*glob
}

// CreateBuildfile makes a buildfile with what every app needs in a folder that
// has none, and returns its path. Without a name the app has that of the folder,
// and without a version it is 1.
func CreateBuildfile(dir, name, version string) (file string, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	file = filepath.Join(dir, BuildfileName)
	n := Name{name, version}
	if n.App == "" {
		n.App = filepath.Base(dir)
	}
	if n.Version == "" {
		n.Version = "1"
	}
	if err := n.check(); err != nil {
		return "", fmt.Errorf("create %s: %w", file, err)
	}
	b := buildfile{Name: n.App, Version: n.Version, Includes: []string{installScript}, Excludes: []string{}, Pre: []string{}, Post: []string{}}
	if _, err := os.Stat(filepath.Join(dir, supervisorConf)); err == nil {
		b.Includes = append(b.Includes, supervisorConf)
	}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", err
	}
	_, err = f.Write(append(text, '\n'))
	return file, errors.Join(err, f.Close())
}

// CheckBuildfile says what is wrong with a buildfile, and what it misses in its
// folder. The error is that of reading them.
func CheckBuildfile(file string) ([]Finding, error) {
	b, findings, err := readBuildfile(file)
	if err != nil || Failed(findings) {
		return findings, err
	}
	if findings = append(findings, b.check(Name{b.Name, b.Version})...); Failed(findings) {
		return findings, nil
	}
	members, err := b.collect(file)
	if err != nil {
		return findings, err
	}
	return append(findings, b.missing(members, len(b.Pre) > 0)...), nil
}

func readBuildfile(file string) (*buildfile, []Finding, error) {
	text, err := durable.ReadFile(file, maxBuildfile)
	if err != nil {
		return nil, nil, err
	}
	b, findings := parseBuildfile(text)
	return b, findings, nil
}

// parseBuildfile reads the JSON. With an error among the findings the buildfile
// is not to be used.
func parseBuildfile(text []byte) (*buildfile, []Finding) {
	b := &buildfile{lines: map[string]int{}}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	lineAt := func(offset int64) int { return 1 + bytes.Count(text[:min(offset, int64(len(text)))], []byte("\n")) }
	var all any
	if err := json.Unmarshal(text, &all); err != nil {
		line := 1
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			line = lineAt(max(e.Offset-1, 0))
		}
		return b, []Finding{at(Error, line, "this is no JSON: %v", err)}
	}
	if _, ok := all.(map[string]any); !ok {
		return b, []Finding{at(Error, 1, `want a JSON object, {"name": ...}`)}
	}
	var findings []Finding
	d := json.NewDecoder(bytes.NewReader(text))
	d.Token() // {; all of it is JSON, as it was read before
	for d.More() {
		token, err := d.Token()
		key, _ := token.(string)
		line := lineAt(d.InputOffset())
		var value json.RawMessage
		if err = errors.Join(err, d.Decode(&value)); err != nil {
			return b, append(findings, at(Error, line, "%v", err))
		}
		if before := b.lines[key]; before != 0 {
			findings = append(findings, at(Warning, line, "%q is given in line %d too; this one counts", key, before))
		}
		b.lines[key] = line
		findings = append(findings, b.set(key, line, value)...)
	}
	return b, findings
}

// at is a finding in a line.
func at(s Severity, line int, format string, args ...any) Finding {
	return Finding{s, fmt.Sprintf("line %d", line), fmt.Sprintf(format, args...)}
}

func (b *buildfile) set(key string, line int, value json.RawMessage) []Finding {
	var err error
	want := "a text"
	switch key {
	case "name":
		err = json.Unmarshal(value, &b.Name)
	case "version":
		// Versions such as 1 and 1.10 are written without quotes too.
		if len(value) > 0 && (value[0] == '-' || startsWithDigit(string(value))) {
			b.Version = string(value)
			return nil
		}
		err = json.Unmarshal(value, &b.Version)
	case "includes", "excludes", "pre_build_cmds", "post_build_cmds":
		want = "a list of texts"
		err = json.Unmarshal(value, map[string]*[]string{
			"includes": &b.Includes, "excludes": &b.Excludes, "pre_build_cmds": &b.Pre, "post_build_cmds": &b.Post}[key])
	default:
		return []Finding{at(Warning, line, "there is no key %q; it is ignored. There are name, version, includes, excludes, pre_build_cmds, post_build_cmds", key)}
	}
	if err != nil {
		return []Finding{at(Error, line, "%q: want %s", key, want)}
	}
	return nil
}

// check says what is wrong with the values, for a tarball of that name, and gets
// the globs ready.
func (b *buildfile) check(n Name) (findings []Finding) {
	fail := func(key, format string, args ...any) {
		f := Finding{Severity: Error, Text: fmt.Sprintf(format, args...)}
		if b.lines[key] > 0 {
			f.Entry = fmt.Sprintf("line %d", b.lines[key])
		}
		findings = append(findings, f)
	}
	if err := CheckApp(n.App); err != nil {
		fail("name", "%v", err)
	} else if err := checkVersion(n.Version); err != nil {
		fail("version", "%v", err)
	} else if err := n.check(); err != nil {
		fail("version", "%v", err)
	}
	if len(b.Includes) == 0 {
		fail("includes", `"includes" says nothing to put into the tarball`)
	}
	for _, list := range []struct {
		key      string
		patterns []string
		glob     func(string) (*glob, error)
		to       *[]*glob
	}{{"includes", b.Includes, include, &b.includes}, {"excludes", b.Excludes, exclude, &b.excludes}} {
		for _, pattern := range list.patterns {
			g, err := list.glob(pattern)
			if err != nil {
				fail(list.key, "%q in %q: %v", pattern, list.key, err)
				continue
			}
			*list.to = append(*list.to, g)
		}
	}
	return findings
}

// missing says which includes match no member, and which members there have to
// be. What commands may still make is worth a warning.
func (b *buildfile) missing(members []member, canCome bool) (findings []Finding) {
	severity, note := Error, ""
	if canCome {
		severity, note = Warning, ", unless pre_build_cmds make it"
	}
	for _, g := range b.includes {
		if slices.ContainsFunc(members, func(m member) bool { return g.match(m.name) }) {
			continue
		}
		s := severity
		if !g.literal() {
			s = Warning
		}
		findings = append(findings, at(s, b.lines["includes"], "%q in \"includes\" matches nothing%s", g.text, note))
	}
	if !slices.ContainsFunc(members, func(m member) bool {
		return m.name == installScript || m.name == setupScript || strings.Count(m.name, "/") == 1 && isMember(m.name)
	}) {
		findings = append(findings, Finding{Severity: severity, Text: "there is no install.sh in what is included" + note})
	}
	return findings
}
