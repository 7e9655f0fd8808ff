package cga

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// app is a folder that could be an app: the top level, or one below it.
type app struct {
	install, setup bool
	linked         bool   // install.sh is another file's
	firstLine      string // of install.sh, otherwise
	conf           []byte
}

// isMember says whether a name is one that an app is known by.
func isMember(name string) bool {
	if strings.Count(name, "/") > 1 {
		return false
	}
	switch path.Base(name) {
	case installScript, setupScript, supervisorConf:
		return true
	}
	return false
}

// app returns the app that a file says something of; nil: none. Which one is it,
// the end of the archive tells.
func (w *walker) app(name string) (*app, error) {
	if !isMember(name) {
		return nil, nil
	}
	dir := path.Dir(name)
	if w.apps[dir] == nil {
		if len(w.apps) == maxFolders {
			return nil, w.stop(name, "more than %d folders have an install.sh, setup.py or supervisor.conf", maxFolders)
		}
		w.apps[dir] = &app{}
	}
	return w.apps[dir], nil
}

func (w *walker) member(name string, a *app, data []byte) error {
	switch path.Base(name) {
	case installScript:
		a.install = true
		a.firstLine, _, _ = strings.Cut(string(data), "\n")
	case setupScript:
		a.setup = true
	case supervisorConf:
		if len(data) > maxConf {
			return w.refuse(name, "it has more than %d bytes", maxConf)
		}
		a.conf = append([]byte{}, data...)
	}
	return nil
}

// judge looks at the archive as a whole.
func (w *walker) judge() error {
	for _, name := range slices.Sorted(maps.Keys(w.links)) {
		if err := w.checkLink(name); err != nil {
			return err
		}
	}
	dir := w.choose()
	for _, other := range slices.Sorted(maps.Keys(w.apps)) {
		if other != dir && w.apps[other].conf != nil {
			w.find(Warning, path.Join(other, supervisorConf), "it is not beside the app's install.sh, and nobody reads it")
		}
	}
	if w.contents.Entries == 0 {
		return w.refuse("", "the archive is empty")
	}
	if dir == "" {
		return w.refuse("", "there is no install.sh and no setup.py, neither at the top level nor in one folder there")
	}
	a := w.apps[dir]
	w.contents.Conf = a.conf
	if dir != "." {
		w.contents.Dir = dir
	}
	if !a.install {
		w.contents.Entry = setupScript
		w.find(Warning, path.Join(dir, setupScript), "without an install.sh the gateway needs a Python for it")
		return nil
	}
	w.contents.Entry = installScript
	return w.checkInstall(path.Join(dir, installScript), a)
}

// choose returns the folder of the app, "." or one at the top level; "": none.
func (w *walker) choose() string {
	if a := w.apps["."]; a != nil && (a.install || a.setup) {
		return "."
	}
	for _, has := range []func(*app) bool{
		func(a *app) bool { return a.install },
		func(a *app) bool { return a.setup },
	} {
		var dirs []string
		for dir, a := range w.apps {
			if has(a) {
				dirs = append(dirs, dir)
			}
		}
		if len(dirs) == 1 {
			return dirs[0]
		}
	}
	return ""
}

// checkInstall says what is in the way of running install.sh.
func (w *walker) checkInstall(name string, a *app) error {
	k, at := w.seen[name], name
	for range maxHops {
		if k != link {
			break
		}
		to := w.links[at]
		for step := range steps(at, to) {
			at = step
		}
		k = w.seen[at]
	}
	switch k {
	case executable:
	case file:
		return w.refuse(name, "its x bit is not set: chmod +x install.sh")
	default:
		return w.refuse(name, "the link does not lead to a file")
	}
	if !a.linked {
		w.checkShebang(name, a.firstLine)
	}
	return nil
}

func (w *walker) checkShebang(name, line string) {
	rest, ok := strings.CutPrefix(line, "#!")
	interpreter, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), " ")
	switch {
	case strings.HasPrefix(line, "\ufeff"):
		w.find(Error, name, "it begins with a byte order mark, so that the kernel does not see its #!")
	case strings.HasPrefix(line, "\x7fELF"):
		w.find(Warning, name, "it is a binary: it has to be that of the gateway's processor")
	case !ok:
		w.find(Error, name, "its first line is not #!/bin/sh")
	case strings.HasSuffix(line, "\r"):
		w.find(Error, name, "its lines end with CR and LF, as on Windows: the kernel looks for an interpreter with CR in its name")
	case !path.IsAbs(interpreter):
		w.find(Error, name, "its first line has to name an interpreter, such as #!/bin/sh")
	case interpreter != "/bin/sh":
		w.find(Warning, name, "its interpreter %s has to be on the gateway", printable(interpreter))
	}
}
