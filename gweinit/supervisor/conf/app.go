package conf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// App is an application that has a root directory of its own, and in that a
// configuration of its programs. Nothing in there is about programs of others, and
// what is wrong in it costs them nothing: its errors have its files.
type App struct {
	Name string
	// Folder has what is the app's own of its root: AppConfigs below it are read.
	// Errors name files in it.
	Folder string
	// Root is the root directory of the programs, and Accounts the folder with the
	// etc/passwd and etc/group of their users, since Root may not be there yet.
	Root, Accounts string
	// Log returns where a log file of the app is for the supervisor, or "". Links
	// that lead there are not followed: the app has made them, for its own root.
	Log func(path string) string
	// Revision is of what is in Root: programs of another revision are others.
	Revision string
}

// AppConfigs are the files with an app's programs, below its root.
const AppConfigs = "etc/supervisor/conf.d"

const maxAppFiles = 50

// reserved are names of groups and programs that no app has, also where the gateway
// has none of them: gwe and gmq are Gateway Engine's, which are looked after by their
// names, and all is what supervisorctl calls all programs.
var reserved = []string{"gwe", "gmq", "all"}

// app reads the files of one app.
func (l *loader) app(a *App) {
	l.of(a)
	root, err := os.OpenRoot(a.Folder)
	if err != nil {
		l.fail(&Error{File: a.Folder, Err: cause(err)})
		return
	}
	defer root.Close()
	folder, err := root.Open(AppConfigs)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			l.fail(&Error{File: filepath.Join(a.Folder, AppConfigs), Err: cause(err)})
		}
		return
	}
	defer folder.Close()
	entries, err := folder.ReadDir(maxAppFiles + 1)
	if len(entries) > maxAppFiles {
		err = fmt.Errorf("more than %d files", maxAppFiles)
	}
	if err != nil && len(entries) == 0 {
		return // io.EOF: it is empty
	}
	if err != nil {
		l.fail(&Error{File: filepath.Join(a.Folder, AppConfigs), Err: err})
		return
	}
	for _, e := range entries {
		// The overlay's mark for a removed file is a device.
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".conf" || e.Type()&os.ModeCharDevice != 0 {
			continue
		}
		l.appFile(a, root, filepath.Join(AppConfigs, e.Name()))
	}
}

func (l *loader) appFile(a *App, root *os.Root, name string) {
	file := filepath.Join(a.Folder, name)
	text, err := readFile(root.OpenFile, name)
	if l.used.total += len(text); l.used.total > l.most.total {
		err = errors.New("those of the app are too long together")
	}
	doc := l.document(file, text, err)
	if doc == nil {
		return
	}
	for _, s := range doc.sections {
		s.app, s.defaults = a, doc.defaults
		switch name, ok := s.groupName(); {
		case !ok:
			l.warn(file, s.line, s.name, "", "an app has programs and groups only; it is ignored")
		case slices.Contains(reserved, name):
			l.fail(&Error{File: file, Line: s.line, Section: s.name, Err: fmt.Errorf("an app can have nothing of the name %s", name)})
		case l.doc.section(s.name) != nil:
			other := l.doc.section(s.name).owner()
			l.fail(&Error{File: file, Line: s.line, Section: s.name, Err: fmt.Errorf("%s has one of this name already", other)})
		default:
			l.doc.add(s)
		}
	}
}

// accountsOf returns the folder with the accounts of the users of a root directory.
func (s *section) accountsOf(root string) string {
	if s.app != nil && root == s.app.Root {
		return s.app.Accounts
	}
	return root
}

// here is the folder of a file as a program of the section sees it.
func (s *section) here(file string) (string, error) {
	if s.app != nil {
		file = strings.TrimPrefix(file, filepath.Clean(s.app.Folder))
	}
	return filepath.Abs(filepath.Dir(file))
}

// appLog takes the path of a log in an app's root. Its folder may come with the app,
// and later than this is read.
func (l *loader) appLog(a *App, r *reader, log namedLog) setter {
	return func(value string) error {
		path := filepath.Join("/", l.home(value))
		if log.File = a.Log(path); log.File == "" {
			log.Auto = true
			r.warn(log.name+"_logfile", "logs of an app are below /var, /data, /tmp or /run; it gets one in /var/log")
		}
		return nil
	}
}
