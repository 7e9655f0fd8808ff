package modules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const usage = `usage: modprobe [-q] NAME [PARAMETER=VALUE...]
       modprobe [-q] -a NAME...
Load the kernel module NAME, or those with the alias NAME, and what they need.
  -a  all arguments are names
  -q  say nothing if there is no such module
`

// Main is modprobe(8) as far as the kernel uses it, and programs commonly do.
// It returns 0 if what was asked for is there now, 1 if not, and 2 if it
// doesn't understand its arguments. The kernel itself calls it, as
// "modprobe -q -- net-pf-29" when a program opens a CAN socket.
func Main(args []string) int {
	r, err := parseArgs(args)
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "modprobe: %v\n%s", err, usage)
		return 2
	case r.help:
		fmt.Print(usage)
		return 0
	}
	l, err := newLoader()
	if err != nil {
		if !r.quiet || !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(os.Stderr, "modprobe: %v\n", err)
		}
		return 1
	}
	status := 0
	for _, name := range r.names {
		if err := l.load(name, r.params); err != nil {
			status = 1
			if !r.quiet || !errors.Is(err, errUnknown) {
				fmt.Fprintf(os.Stderr, "modprobe: %v\n", err)
			}
		}
	}
	return status
}

// request is modprobe's arguments.
type request struct {
	names       []string
	params      string
	quiet, help bool
}

func parseArgs(args []string) (request, error) {
	var r request
	all := false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		options := args[0][1:]
		args = args[1:]
		if options == "-" {
			break
		}
		for _, o := range options {
			switch o {
			case 'q':
				r.quiet = true
			case 'a':
				all = true
			case 'h':
				r.help = true
			default:
				return r, fmt.Errorf("unknown option -%s", options)
			}
		}
	}
	switch {
	case r.help:
		return r, nil
	case len(args) == 0 || args[0] == "":
		return r, errors.New("which module?")
	case all:
		r.names = args
		return r, nil
	}
	r.names = args[:1]
	var params []string
	for _, a := range args[1:] {
		name, value, ok := strings.Cut(a, "=")
		if !ok || name == "" {
			return r, fmt.Errorf("%q is no PARAMETER=VALUE; more than one module needs -a", a)
		}
		if strings.ContainsAny(value, " \t\n") && !strings.Contains(value, `"`) {
			a = fmt.Sprintf(`%s="%s"`, name, value) // the kernel splits at spaces
		}
		params = append(params, a)
	}
	r.params = strings.Join(params, " ")
	return r, nil
}

// loader loads modules into the running kernel.
type loader struct {
	lists  *Lists
	loaded func(name string) bool
	insert func(file, params string) error
}

func newLoader() (*loader, error) {
	dir, err := runningDir()
	if err != nil {
		return nil, err
	}
	lists, err := Read(dir)
	return &loader{lists, isLoaded, insert}, err
}

// errUnknown is the error for what is neither a module's name nor its alias.
var errUnknown = errors.New("no such module")

// load loads the modules that are wanted, by name or alias, with what they
// need. The parameters are for them only.
func (l *loader) load(wanted, params string) error {
	if l.loaded(plain(wanted)) { // perhaps by the initramfs, from a file that is gone
		return nil
	}
	names, err := l.lists.Find(wanted)
	if err != nil {
		return fmt.Errorf("%s: %w", wanted, err)
	}
	if len(names) == 0 {
		builtin, err := l.lists.Builtin(wanted)
		if err == nil && !builtin {
			err = errUnknown
		}
		if err != nil {
			return fmt.Errorf("%s: %w", wanted, err)
		}
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, l.loadModule(name, params))
	}
	return errors.Join(errs...)
}

func (l *loader) loadModule(name, params string) error {
	if l.loaded(name) {
		return nil
	}
	files, err := l.lists.Files(true, name)
	if err != nil {
		return err
	}
	// What comes before may fail: if the module can't do without, it fails, too.
	var errs []error
	for i, file := range files {
		last := i == len(files)-1
		if !last && l.loaded(Name(file)) {
			continue
		}
		p := ""
		if last {
			p = params
		}
		err := l.insert(filepath.Join(l.lists.dir, file), p)
		if err != nil {
			errs = append(errs, fmt.Errorf("load module %s: %w", Name(file), err))
		} else if last {
			return nil
		}
	}
	return errors.Join(errs...)
}

// runningDir is the folder of the running kernel's modules.
func runningDir() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return filepath.Join("/usr/lib/modules", unix.ByteSliceToString(u.Release[:])), nil
}

// isLoaded reports whether a module is loaded and has started.
func isLoaded(name string) bool {
	state, err := os.ReadFile(filepath.Join("/sys/module", name, "initstate"))
	return err == nil && strings.TrimSpace(string(state)) == "live"
}

func insert(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), params, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
