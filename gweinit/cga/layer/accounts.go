package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/durable"
)

// maxAccounts is how long an account file is at most, in bytes.
const maxAccounts = 1 << 20

// Accounts merges the users and groups of the base and of layers, the newest
// last: the base's lines, with what each layer has changed or added since the
// base that it was made on. Lines that a layer has removed stay. A file is written
// below target only if some layer has one of that name, and needed says whether
// any has. The error may be about one layer's file, which is left out then.
func Accounts(base string, dirs []string, target string) (needed bool, err error) {
	var errs []error
	for _, name := range accountFiles {
		text, mode, some, err := mergeAccounts(name, base, dirs)
		errs = append(errs, err)
		if !some {
			continue
		}
		needed = true
		errs = append(errs, writeAccounts(filepath.Join(target, name), text, mode))
	}
	if err := errors.Join(errs...); err != nil {
		return needed, fmt.Errorf("merge the accounts of the firmware and the apps: %w", err)
	}
	return needed, nil
}

func mergeAccounts(name, base string, dirs []string) (text []byte, mode os.FileMode, some bool, err error) {
	var errs []error
	read := func(path string) []byte {
		text, err := durable.ReadFile(path, maxAccounts)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		return text
	}
	mode = 0o600
	if info, err := os.Lstat(filepath.Join(base, name)); err == nil {
		mode = info.Mode().Perm()
	} else if name == "etc/passwd" || name == "etc/group" {
		mode = 0o644
	}
	merged := parseAccounts(name, read(filepath.Join(base, name)))
	for _, dir := range dirs {
		path := filepath.Join(dir, Root, name)
		if info, err := os.Lstat(path); err != nil || isWhiteout(info) {
			continue
		}
		before := len(errs)
		old, now := read(filepath.Join(dir, Base, name)), read(path)
		if len(errs) > before {
			continue
		}
		some = true
		merged.apply(parseAccounts(name, old), parseAccounts(name, now))
	}
	return merged.text(), mode, some, errors.Join(errs...)
}

// Inherit gives a layer, once its installer has ended, the users and groups that the
// version of its app before it had, where the installer was content with those and
// has left the file alone: seen is what it had above the base, a folder that Accounts
// has made of the base, the other apps and the version before; others is without
// that version, as for Describe. Each may be "".
func Inherit(dir, base, others, seen string) error {
	for _, name := range accountFiles {
		if err := inherit(name, dir, base, others, seen); err != nil {
			return fmt.Errorf("keep the accounts of an app in its layer %s: %w", dir, err)
		}
	}
	return nil
}

func inherit(name, dir, base, others, seen string) error {
	path := filepath.Join(dir, Root, name)
	// A link in place of the folder would lead out of the layer; Check refuses it.
	if info, err := lstat(filepath.Dir(path)); err != nil || info != nil && !info.IsDir() {
		return err
	}
	if info, err := lstat(path); err != nil || info != nil {
		return err
	}
	had, mode, err := readAccounts(name, seen, base)
	if err != nil || had == nil {
		return err
	}
	theirs, _, err := readAccounts(name, others, base)
	if err != nil || bytes.Equal(had, theirs) {
		return err
	}
	return writeAccounts(path, had, mode)
}

// readAccounts reads an account file of the first folder that has it; nil: none has.
func readAccounts(name string, dirs ...string) (text []byte, mode os.FileMode, err error) {
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		path := filepath.Join(dir, name)
		text, err := durable.ReadFile(path, maxAccounts)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return nil, 0, err
		}
		return text, info.Mode().Perm(), nil
	}
	return nil, 0, nil
}

// writeAccounts leaves a file alone that is right: an overlay may be using it.
func writeAccounts(path string, text []byte, mode os.FileMode) error {
	now, err := durable.ReadFile(path, maxAccounts)
	if info, statErr := os.Lstat(path); err == nil && statErr == nil && bytes.Equal(now, text) && info.Mode() == mode {
		return nil
	}
	if err := durable.MakeFolder(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, text, mode)
}

// fields is how many a line has, between its colons.
var fields = map[string]int{"etc/passwd": 7, "etc/group": 4, "etc/shadow": 9, "etc/gshadow": 4}

// accounts are the lines of a file.
type accounts struct {
	fields  int
	members bool // the last field is a list
	lines   []string
	byName  map[string]int // in lines; of two with one name the first counts
}

func parseAccounts(file string, text []byte) *accounts {
	a := &accounts{fields: fields[file], members: file == "etc/group" || file == "etc/gshadow", byName: map[string]int{}}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			a.add(line)
		}
	}
	return a
}

// add adds a line. One that has no name, such as a comment, is just kept.
func (a *accounts) add(line string) {
	name := accountName(line)
	if _, ok := a.byName[name]; !ok && name != "" && strings.Count(line, ":") == a.fields-1 {
		a.byName[name] = len(a.lines)
	}
	a.lines = append(a.lines, line)
}

func accountName(line string) string {
	name, _, _ := strings.Cut(line, ":")
	if strings.HasPrefix(name, "#") {
		return ""
	}
	return name
}

// apply changes a as old was changed to now.
func (a *accounts) apply(old, now *accounts) {
	for i, line := range now.lines {
		name := accountName(line)
		if n, ok := now.byName[name]; !ok || n != i {
			continue
		}
		before := ""
		if n, ok := old.byName[name]; ok {
			before = old.lines[n]
		}
		if line == before {
			continue
		}
		n, ok := a.byName[name]
		switch {
		case !ok:
			a.add(line)
		case a.lines[n] == before || !a.members:
			a.lines[n] = line
		default: // others have changed it, too
			a.lines[n] = joinMembers(a.lines[n], before, line)
		}
	}
}

// joinMembers is current with the members that line has more than before, and without
// those that it has less. What differs otherwise is as in line if it was changed
// there, else as in current.
func joinMembers(current, before, line string) string {
	cut := strings.LastIndexByte(line, ':') + 1
	head, members := line[:cut], line[cut:]
	had := strings.LastIndexByte(current, ':') + 1
	was := strings.LastIndexByte(before, ':') + 1
	if before[:was] == head {
		head = current[:had]
	}
	old, now := memberList(before[was:]), memberList(members)
	all := slices.DeleteFunc(memberList(current[had:]), func(m string) bool {
		return slices.Contains(old, m) && !slices.Contains(now, m)
	})
	for _, m := range now {
		if !slices.Contains(all, m) && !slices.Contains(old, m) {
			all = append(all, m)
		}
	}
	return head + strings.Join(all, ",")
}

func memberList(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(m string) bool { return m == "" })
}

func (a *accounts) text() []byte {
	var b bytes.Buffer
	for _, line := range a.lines {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.Bytes()
}
