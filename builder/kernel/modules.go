package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/exosite/gwe/gweinit/modules"
)

// Modules returns the files of the wanted modules and of all that they depend
// on, relative to dir (lib/modules/VERSION, with depmod's lists), in an order
// in which they can be loaded. What the kernel has built in needs no file, and
// "NAME?" is left out if the kernel lacks it.
func Modules(dir string, wanted []string) ([]string, error) {
	return files(dir, wanted, false)
}

// RootModules is Modules for a root, whose modprobe looks for more than it has
// been asked for: it adds what the modules use without depending on it, as a
// file system its checksum.
func RootModules(dir string, wanted []string) ([]string, error) {
	return files(dir, wanted, true)
}

func files(dir string, wanted []string, soft bool) ([]string, error) {
	lists, err := modules.Read(dir)
	if err != nil {
		return nil, err
	}
	var names, unknown []string
	for _, w := range wanted {
		name, optional := strings.CutSuffix(w, "?")
		if lists.Has(name) {
			names = append(names, name)
			continue
		}
		switch builtin, err := lists.Builtin(name); {
		case err != nil:
			return nil, err
		case !builtin && !optional:
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("kernel: modules: %s: not in kernel %s", strings.Join(unknown, ", "), filepath.Base(dir))
	}
	return lists.Files(soft, names...)
}

// Lists returns depmod's lists in dir, by their names, cut down to the modules
// in these files: what gweinit's modprobe reads.
func Lists(dir string, files []string) (map[string][]byte, error) {
	ours := map[string]bool{} // files and names
	for _, f := range files {
		ours[f], ours[modules.Name(f)] = true, true
	}
	lists := map[string][]byte{}
	for list, keep := range map[string]func(line string) bool{
		"modules.dep": func(line string) bool { // FILE: FILE...
			file, _, _ := strings.Cut(line, ":")
			return ours[file]
		},
		"modules.alias": func(line string) bool { // alias PATTERN NAME
			return ours[line[strings.LastIndexByte(line, ' ')+1:]]
		},
		"modules.softdep": func(line string) bool { // softdep NAME ...
			f := strings.Fields(line)
			return len(f) > 1 && ours[f[1]]
		},
		// All: a program that asks for one of them gets a yes.
		"modules.builtin": func(string) bool { return true },
	} {
		text, err := os.ReadFile(filepath.Join(dir, list))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var kept []byte
		for line := range bytes.Lines(text) {
			if keep(string(bytes.TrimRight(line, "\n"))) {
				kept = append(kept, line...)
			}
		}
		if len(kept) > 0 {
			lists[list] = kept
		}
	}
	return lists, nil
}
