// Package kernel takes what an image needs out of a Debian kernel: the kernel
// itself as U-Boot can start it, and the modules with what they depend on.
package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Modules returns the files of the wanted modules and of all that they depend
// on, relative to dir (lib/modules/VERSION, with depmod's lists), in an order
// in which they can be loaded. What the kernel has built in needs no file.
func Modules(dir string, wanted []string) ([]string, error) {
	deps, err := readDeps(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := readBuiltin(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	files := map[string]string{} // by name
	for f := range deps {
		files[moduleName(f)] = f
	}
	var order []string
	var add func(file string)
	add = func(file string) {
		if slices.Contains(order, file) {
			return
		}
		// modules.dep is transitively closed, but in no order.
		for _, d := range deps[file] {
			add(d)
		}
		if !slices.Contains(order, file) {
			order = append(order, file)
		}
	}
	var unknown []string
	for _, m := range wanted {
		name := strings.ReplaceAll(m, "-", "_")
		switch file, ok := files[name]; {
		case ok:
			add(file)
		case !builtin[name]:
			unknown = append(unknown, m)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("kernel: modules: %s: not in kernel %s", strings.Join(unknown, ", "), filepath.Base(dir))
	}
	return order, nil
}

// moduleName is the name under which the kernel knows a module's file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readDeps reads modules.dep: "FILE: FILE FILE ...".
func readDeps(file string) (map[string][]string, error) {
	deps := map[string][]string{}
	err := eachLine(file, func(line string) error {
		mod, rest, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("%q has no colon", line)
		}
		deps[mod] = strings.Fields(rest)
		return nil
	})
	return deps, err
}

func readBuiltin(file string) (map[string]bool, error) {
	names := map[string]bool{}
	err := eachLine(file, func(line string) error {
		names[moduleName(line)] = true
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return names, nil
	}
	return names, err
}

func eachLine(file string, do func(string) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if err := do(lines.Text()); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
