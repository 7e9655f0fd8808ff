package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Overlay is a folder overlays/NAME: a file tree to lay over the root, and
// beside it overlay.yaml, which says what else the overlay brings.
type Overlay struct {
	Name string `yaml:"-"`
	Dir  string `yaml:"-"`

	Description string
	Release     bool              // may be in a release image; the default
	Needs       []string          // other overlays, which come before it
	Dirs        map[string]Mode   // folders, which git cannot hold empty
	Modes       map[string]Mode   // of the tree's files that are not plain 0644 or 0755 root:root
	Files       map[string]string // further files, each with its place in the project
	Packages    []PackageFiles
	Programs    []Program
	Modules     []string // of the kernel; "NAME?" is one that not every kernel has
	Applets     string   // path of the busybox whose applets are linked
}

// Mode is permissions and owner, written as octal digits and, if it isn't
// root's, the owner: "0600" or "0640 0:42".
type Mode struct {
	Perm     fs.FileMode
	UID, GID int
}

// PackageFiles says what to take from a Debian package.
type PackageFiles struct {
	Name   string
	Files  []PackageFile
	Concat []Concat
}

// PackageFile picks members of a package. From is a path.Match pattern on the
// member's name, where an element ** stands for any depth. To is a path; or,
// ending in a slash, the folder for what follows the pattern's fixed folders;
// or empty, for the member's own path.
type PackageFile struct {
	From   string
	To     string
	Except []string
}

// Concat makes the file To of all members that From matches, in the order of
// their names: a bundle of certificates.
type Concat struct {
	From string
	To   string
}

// Program is a main package of this module that the builder compiles for the
// board and adds at Path.
type Program struct {
	Package string
	Path    string
}

// LoadOverlay reads and checks dir's overlay.yaml. Errors name the file and
// the line.
func LoadOverlay(dir string) (*Overlay, error) {
	o := &Overlay{Name: filepath.Base(dir), Dir: dir, Release: true}
	data, err := os.ReadFile(o.file())
	if err != nil {
		return nil, fmt.Errorf("load overlay %s, which needs an overlay.yaml: %w", o.Name, err)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(o); err != nil && err != io.EOF {
		return nil, fmt.Errorf("load overlay %s: %s: %w", o.Name, o.file(), err)
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return nil, fmt.Errorf("load overlay %s: %s: one YAML document is expected, remove what follows the first", o.Name, o.file())
	}
	bad := func(value, format string, args ...any) error {
		return fmt.Errorf("load overlay %s: %s:%d: %q: %w", o.Name, o.file(), lineOf(data, value), value, fmt.Errorf(format, args...))
	}
	if err := o.check(bad); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *Overlay) file() string { return filepath.Join(o.Dir, "overlay.yaml") }

// UnmarshalYAML reads "MODE" or "MODE UID:GID".
func (m *Mode) UnmarshalYAML(n *yaml.Node) error {
	perm, owner, owned := strings.Cut(n.Value, " ")
	bits, err := strconv.ParseUint(perm, 8, 32)
	if err != nil || bits > 0o1777 {
		return fmt.Errorf("line %d: mode %q: want octal digits, at most 1777, as in 0600 or \"0640 0:42\"", n.Line, n.Value)
	}
	if owned {
		uid, gid, _ := strings.Cut(owner, ":")
		u, err1 := strconv.ParseUint(uid, 10, 16)
		g, err2 := strconv.ParseUint(gid, 10, 16)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("line %d: owner %q: want UID:GID in numbers: %w", n.Line, owner, err)
		}
		m.UID, m.GID = int(u), int(g)
	}
	m.Perm = fs.FileMode(bits & 0o777)
	if bits&0o1000 != 0 {
		m.Perm |= fs.ModeSticky
	}
	return nil
}

// lineOf returns the line of the first key or value in a YAML document that
// reads value, or 1: once decoded, a value no longer knows its line.
func lineOf(data []byte, value string) int {
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil {
		return 1
	}
	var find func(n *yaml.Node) int
	find = func(n *yaml.Node) int {
		if n.Kind == yaml.ScalarNode && n.Value == value {
			return n.Line
		}
		for _, c := range n.Content {
			if line := find(c); line > 0 {
				return line
			}
		}
		return 0
	}
	return max(1, find(&doc))
}

// check makes an error of the first bad value with bad.
func (o *Overlay) check(bad func(value, format string, args ...any) error) error {
	if o.Description == "" {
		return bad("description", "missing: say in a line what the overlay is for")
	}
	for i, name := range o.Needs {
		switch {
		case name == o.Name:
			return bad(name, "an overlay cannot need itself")
		case slices.Contains(o.Needs[:i], name):
			return bad(name, "needed twice")
		}
	}
	var paths, patterns []string
	for _, modes := range []map[string]Mode{o.Dirs, o.Modes} {
		for _, p := range slices.Sorted(maps.Keys(modes)) {
			if modes[p].Perm == 0 {
				return bad(p, "the mode is missing, as in 0755")
			}
			paths = append(paths, p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(o.Files)) {
		paths = append(paths, p, o.Files[p])
	}
	if o.Applets != "" {
		paths = append(paths, o.Applets)
	}
	for _, p := range o.Programs {
		if p.Package == "" {
			return bad(p.Path, "a program needs its package, as in ./gweinit")
		}
		paths = append(paths, p.Path)
	}
	seen := map[string]bool{}
	for _, p := range o.Packages {
		switch {
		case p.Name == "":
			return bad("packages", "a package without a name")
		case seen[p.Name]:
			return bad(p.Name, "listed twice: put what is taken from it into one entry")
		case len(p.Files)+len(p.Concat) == 0:
			return bad(p.Name, "nothing is taken from this package: list files or concat")
		}
		seen[p.Name] = true
		for _, f := range p.Files {
			patterns = append(append(patterns, f.From), f.Except...)
			to, folder := strings.CutSuffix(f.To, "/")
			if to != "" && !folder && isWild(f.From) {
				return bad(f.To, "%s can match several files: end the folder they go to with a /", f.From)
			}
			if f.To != "" {
				paths = append(paths, to)
			}
		}
		for _, c := range p.Concat {
			patterns, paths = append(patterns, c.From), append(paths, c.To)
		}
	}
	listed := map[string]bool{}
	for _, m := range o.Modules {
		name := strings.ReplaceAll(strings.TrimSuffix(m, "?"), "-", "_") // the same to the kernel
		switch {
		case !isModule(name):
			return bad(m, "a module's name is expected, without folder and .ko, and with a ? behind it if a kernel may lack it")
		case listed[name]:
			return bad(m, "this module is listed twice")
		}
		listed[name] = true
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return bad(p, "%w", err)
		}
	}
	for _, p := range slices.Concat(paths, patterns) {
		if c, err := clean(p); err != nil {
			return bad(p, "%w", err)
		} else if c != p {
			return bad(p, "write it %s, relative to the root", c)
		}
	}
	return nil
}

// isModule tells whether name can be that of a kernel module.
func isModule(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return name != ""
}

// AddFiles adds the overlay's tree and its dirs. A file is 0755 if it is
// executable, else 0644, and root's, unless modes says otherwise. Folders
// come with the files in them: git doesn't keep others, so they don't count.
func (o *Overlay) AddFiles(t *Tree) error {
	modes := maps.Clone(o.Modes)
	err := filepath.WalkDir(o.Dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || file == o.file() {
			return err
		}
		name, err := filepath.Rel(o.Dir, file)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		switch d.Type() {
		case fs.ModeSymlink:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			return t.Link(name, target, file)
		case 0:
			return addFile(t, name, file, modes)
		}
		return fmt.Errorf("%s is neither a file, a folder nor a symlink (%v): remove it", file, d.Type())
	})
	if err != nil {
		return fmt.Errorf("add the files of overlay %s: %w", o.Name, err)
	}
	project := filepath.Dir(filepath.Dir(o.Dir))
	for _, name := range slices.Sorted(maps.Keys(o.Files)) {
		if err := addFile(t, name, filepath.Join(project, o.Files[name]), modes); err != nil {
			return fmt.Errorf("%s: files: %s: %w", o.file(), name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		return fmt.Errorf("%s: modes: %s is no file of the overlay", o.file(), name)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Dirs)) {
		m := o.Dirs[name]
		if err := t.add(Entry{Path: name, Mode: fs.ModeDir | m.Perm, UID: m.UID, GID: m.GID, From: o.file()}); err != nil {
			return err
		}
	}
	return nil
}

// addFile adds a file under a name. Its entry in modes, if any, is used up.
func addFile(t *Tree, name, file string, modes map[string]Mode) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	m, ok := modes[name]
	if !ok {
		m.Perm = normal(info.Mode())
	}
	delete(modes, name)
	return t.add(Entry{Path: name, Mode: m.Perm, UID: m.UID, GID: m.GID, Data: data, From: file})
}

// normal returns the permissions of a file whose origin may have had any.
func normal(m fs.FileMode) fs.FileMode {
	if m&0o111 != 0 {
		return 0o755
	}
	return 0o644
}
