// Package modules loads kernel modules: those for the devices that the machine
// has or gets, and, as modprobe, those that the kernel or a program asks for.
//
// It is not u-root's kmodule: that knows no aliases, doesn't find modules whose
// file has both - and _ in its name (nls_iso8859-1), reads each module into
// memory to load it, and adds 850 kB of decompressors to gweinit.
package modules

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Lists is what depmod(8) has written about a folder of modules. Only the
// short list, of what depends on what, is in memory. It is for one goroutine.
type Lists struct {
	dir   string
	deps  map[string][]string // by file, relative to dir
	files map[string]string   // by name
	buf   []byte              // for each
}

// Read reads the lists of dir, as in /usr/lib/modules/6.1.0-50-arm64.
func Read(dir string) (*Lists, error) {
	l := &Lists{dir, map[string][]string{}, map[string]string{}, make([]byte, 4<<10)}
	err := l.each("modules.dep", func(line []byte) error {
		file, needs, ok := strings.Cut(string(line), ":")
		if !ok {
			return fmt.Errorf("%q has no colon", line)
		}
		l.deps[file] = strings.Fields(needs)
		l.files[Name(file)] = file
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Name is the name under which the kernel knows the module in a file.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return plain(name)
}

// plain is a module's name as the kernel writes it: people also write -.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Has reports whether there is a file for the module of this name.
func (l *Lists) Has(name string) bool { return l.files[plain(name)] != "" }

// Builtin reports whether the kernel itself contains the module.
func (l *Lists) Builtin(name string) (bool, error) {
	found := false
	err := l.each("modules.builtin", func(file []byte) error {
		found = found || Name(string(file)) == plain(name)
		return nil
	})
	return found, ifExists(err)
}

// Find returns the names of the modules that are wanted, by their name or by
// an alias such as a device's modalias. What is unknown finds none.
func (l *Lists) Find(wanted ...string) ([]string, error) {
	found := make([][]string, len(wanted))
	for i, w := range wanted {
		if l.Has(w) {
			found[i] = []string{plain(w)}
		}
	}
	named := slices.Clone(found)
	err := l.each("modules.alias", func(line []byte) error {
		pattern, name := cutAlias(line)
		for i, w := range wanted {
			if named[i] == nil && match(pattern, w) && l.Has(string(name)) {
				found[i] = append(found[i], plain(string(name)))
			}
		}
		return nil
	})
	var names []string
	for _, name := range slices.Concat(found...) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, ifExists(err)
}

// cutAlias takes "alias PATTERN NAME" apart.
func cutAlias(line []byte) (pattern, name []byte) {
	rest, ok := bytes.CutPrefix(line, []byte("alias "))
	i := bytes.LastIndexByte(rest, ' ')
	if !ok || i < 0 {
		return nil, nil
	}
	return rest[:i], rest[i+1:]
}

// Files returns the files of the named modules and of all that they depend on,
// relative to the folder, in an order in which they load. Soft adds what they
// want to have loaded before without needing its symbols, as ext4 its checksum.
func (l *Lists) Files(soft bool, names ...string) ([]string, error) {
	before := map[string][]string{}
	if soft {
		var err error
		if before, err = l.softDeps(); err != nil {
			return nil, err
		}
	}
	var order []string
	seen := map[string]bool{}
	var add func(file string) error
	add = func(file string) error {
		if seen[file] {
			return nil
		}
		seen[file] = true
		wanted, err := l.Find(before[Name(file)]...)
		if err != nil {
			return err
		}
		for _, name := range wanted {
			if err := add(l.files[name]); err != nil {
				return err
			}
		}
		// modules.dep is transitively closed, but in no order.
		for _, dep := range l.deps[file] {
			if err := add(dep); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range names {
		if !l.Has(name) {
			return nil, fmt.Errorf("%s has no module %s", l.dir, name)
		}
		if err := add(l.files[plain(name)]); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// softDeps returns the names and aliases that modules want to have loaded
// before them: "softdep NAME pre: WORD... post: WORD...".
func (l *Lists) softDeps() (map[string][]string, error) {
	before := map[string][]string{}
	err := l.each("modules.softdep", func(line []byte) error {
		f := strings.Fields(string(line))
		if len(f) < 3 || f[0] != "softdep" {
			return nil
		}
		pre := false
		for _, word := range f[2:] {
			if strings.HasSuffix(word, ":") {
				pre = word == "pre:"
			} else if pre {
				before[plain(f[1])] = append(before[plain(f[1])], word)
			}
		}
		return nil
	})
	return before, ifExists(err)
}

// each calls do with the lines of a list. They are bytes in a buffer that is
// kept: as strings, a list of aliases is 100 kB of garbage for each event.
func (l *Lists) each(list string, do func(line []byte) error) error {
	file := filepath.Join(l.dir, list)
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(l.buf, bufio.MaxScanTokenSize)
	for lines.Scan() {
		if err := do(lines.Bytes()); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// ifExists is for the lists that depmod leaves out, or that a test does.
func ifExists(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
