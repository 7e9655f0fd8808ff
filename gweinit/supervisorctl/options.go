package supervisorctl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// options are those of the command line.
type options struct {
	values map[string]string // by the long name
	help   bool
	args   []string // the command
}

type option struct {
	short byte
	long  string
	takes bool // a value
}

func known() []option {
	return []option{
		{'c', "configuration", true},
		{'h', "help", false},
		{'?', "", false},
		{'i', "interactive", false},
		{'s', "serverurl", true},
		{'u', "username", true},
		{'p', "password", true},
		{'r', "history-file", true},
	}
}

// parseOptions does what Python's getopt does, which flag cannot: -cFILE, and
// long names that are not complete.
func parseOptions(args []string) (options, error) {
	o := options{values: map[string]string{}}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		var err error
		if strings.HasPrefix(arg, "--") {
			args, err = o.long(arg[2:], args)
		} else {
			args, err = o.short(arg[1:], args)
		}
		if err != nil || o.help {
			return o, err
		}
	}
	o.args = args
	return o, nil
}

// short takes letters, the last of which may have a value, and returns the
// arguments that are left.
func (o *options) short(letters string, args []string) ([]string, error) {
	for i := range len(letters) {
		name := "-" + letters[i:i+1]
		var found *option
		for _, k := range known() {
			if k.short == letters[i] {
				found = &k
			}
		}
		switch {
		case found == nil:
			return args, fmt.Errorf("option %s not recognized", name)
		case !found.takes:
			if err := o.set(*found, name, ""); err != nil {
				return args, err
			}
		case i+1 < len(letters):
			return args, o.set(*found, name, letters[i+1:])
		case len(args) == 0:
			return args, fmt.Errorf("option %s requires argument", name)
		default:
			return args[1:], o.set(*found, name, args[0])
		}
	}
	return args, nil
}

// long takes one name, with its value if that is behind a "=".
func (o *options) long(text string, args []string) ([]string, error) {
	text, value, has := strings.Cut(text, "=")
	name := strings.ReplaceAll(text, "_", "-") // Supervisor takes --history_file only
	var found []option
	for _, k := range known() {
		if k.long == name {
			found = []option{k}
			break
		}
		if strings.HasPrefix(k.long, name) && k.long != "" {
			found = append(found, k)
		}
	}
	switch {
	case len(found) == 0:
		return args, fmt.Errorf("option --%s not recognized", text)
	case len(found) > 1:
		return args, fmt.Errorf("option --%s not a unique prefix", text)
	case has && !found[0].takes:
		return args, fmt.Errorf("option --%s must not have an argument", found[0].long)
	case found[0].takes && !has:
		if len(args) == 0 {
			return args, fmt.Errorf("option --%s requires argument", found[0].long)
		}
		value, args = args[0], args[1:]
	}
	return args, o.set(found[0], "--"+found[0].long, value)
}

func (o *options) set(k option, name, value string) error {
	if k.long == "help" || k.long == "" {
		o.help = true
		return nil
	}
	if o.given(k.long) {
		return fmt.Errorf("conflicting command line option '%s'", name)
	}
	o.values[k.long] = value
	return nil
}

func (o *options) given(name string) bool {
	_, ok := o.values[name]
	return ok
}

// settings are the options, with what the configuration says of them.
type settings struct{ url, user, password, prompt, history string }

func (o options) settings(w world) (settings, error) {
	s, err := o.configured(w)
	if err != nil {
		return s, err
	}
	s.url = cmp.Or(s.url, "unix://"+control.Socket)
	s.prompt = cmp.Or(s.prompt, "supervisor")
	for name, to := range map[string]*string{
		"serverurl": &s.url, "username": &s.user, "password": &s.password, "history-file": &s.history,
	} {
		if value, ok := o.values[name]; ok {
			*to = value
		}
	}
	return s, nil
}

// configured reads the configuration. One that nobody asked for may be wrong: a
// gateway in trouble needs supervisorctl most.
func (o options) configured(w world) (settings, error) {
	if file, ok := o.values["configuration"]; ok {
		return o.readConfig(file, w)
	}
	for _, file := range w.configs {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s, err := o.readConfig(file, w)
		if err != nil {
			fmt.Fprintf(w.stderr, "Warning: %v\n", err)
		}
		return s, nil
	}
	return settings{}, nil
}

// readConfig returns what a file says about supervisorctl, as far as it is good,
// and what is not.
func (o options) readConfig(file string, w world) (settings, error) {
	c, err := conf.LoadClient(file, conf.Options{Environ: w.environ})
	if o.given("serverurl") {
		c.ServerURL = ""
	}
	if c.ServerURL != "" {
		if _, bad := socketOf(c.ServerURL); bad != nil {
			c.ServerURL = ""
			err = errors.Join(err, fmt.Errorf("%s: %w", file, bad))
		}
	}
	return settings{c.ServerURL, c.Username, c.Password, c.Prompt, c.HistoryFile}, err
}

// socketOf returns where a server listens.
func socketOf(url string) (string, error) {
	socket, ok := strings.CutPrefix(url, "unix://")
	if !ok || !strings.HasPrefix(socket, "/") || strings.ContainsRune(socket, 0) {
		return "", fmt.Errorf("serverurl %q: only unix:///path is possible here", url)
	}
	return socket, nil
}
