package conf

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
)

// Load reads a configuration and what it includes. The config is never nil:
// what is wrong is left out of it and is in the error, an Errors, one for each
// problem. Relative paths are those of the process.
func Load(file string, opt Options) (*Config, error) {
	l := newLoader(file, opt)
	text, err := readFile(os.OpenFile, file)
	if err != nil {
		l.fail(&Error{File: file, Err: err})
		return l.finish(&Config{Supervisord: newSupervisord()}), l.result()
	}
	l.parse(text)
	l.include()
	for i := range opt.Apps {
		l.app(&opt.Apps[i])
	}
	return l.config(opt), l.result()
}

// parse reads the text of the main file.
func (l *loader) parse(text string) {
	doc, errs := parseINI(l.file, text)
	for _, e := range errs {
		l.fail(e)
	}
	l.doc = doc
}

// config makes a Config of the document.
func (l *loader) config(opt Options) *Config {
	l.of(nil)
	c := &Config{Supervisord: l.supervisord()}
	l.names = l.names.withEnv(c.Supervisord.Environment)
	if l.doc.defaults.broken {
		// A program without its defaults could do harm, e.g. as root.
		l.fail(&Error{File: l.file, Section: defaultSection,
			Err: errors.New("no programs and no socket, because they could need the lines that are wrong")})
		return l.finish(c)
	}
	c.Socket = l.socket()
	c.Groups = l.groups(opt, c.Supervisord.Environment)
	l.others()
	return l.finish(c)
}

// finish adds what is the same for each result.
func (l *loader) finish(c *Config) *Config {
	c.File = l.file
	l.warnings.sort()
	for _, w := range l.warnings {
		c.Warnings = append(c.Warnings, w.Error())
	}
	return c
}

func hostname() string {
	name, _ := os.Hostname() // Supervisor has "" too if there is none
	return name
}

// newSupervisord returns Supervisor's defaults.
func newSupervisord() Supervisord {
	return Supervisord{
		Umask: 0o022, LogMaxBytes: 50 << 20, LogBackups: 10, LogLevel: "info",
		MinFDs: 1024, MinProcs: 200, Identifier: "supervisor",
	}
}

// supervisord reads [supervisord].
func (l *loader) supervisord() Supervisord {
	d := newSupervisord()
	s := l.doc.section("supervisord")
	if s == nil {
		l.fail(&Error{File: l.file, Err: errors.New("there is no section [supervisord]")})
		return d
	}
	r := &reader{l: l, s: s, names: l.names}
	r.apply([]setting{
		{"minfds", count(&d.MinFDs)},
		{"minprocs", count(&d.MinProcs)},
		{"directory", l.folder(&d.Directory)},
		{"user", l.user(&d.Credential, "")},
		{"umask", permissions(&d.Umask)},
		{"logfile", l.inFolder(&d.Logfile)},
		{"logfile_maxbytes", size(&d.LogMaxBytes)},
		{"logfile_backups", count(&d.LogBackups)},
		{"loglevel", logLevel(&d.LogLevel)},
		{"pidfile", l.inFolder(&d.Pidfile)},
		{"identifier", text(&d.Identifier)},
		{"nodaemon", boolean(&d.Nodaemon)},
		{"silent", boolean(&d.Silent)},
		{"childlogdir", l.folder(&d.ChildLogDir)},
		{"nocleanup", boolean(&d.NoCleanup)},
		{"strip_ansi", boolean(&d.StripANSI)},
		{"environment", r.environment(&d.Environment)},
	})
	if d.Logfile != "" && d.Logfile != "syslog" {
		d.Logfile = l.normal(d.Logfile)
	}
	if d.Pidfile != "" {
		d.Pidfile = l.normal(d.Pidfile)
	}
	l.unknown(s)
	return d
}

// environment takes an environment option.
func (r *reader) environment(to *map[string]string) setter {
	return func(value string) error {
		env, unused, err := parseEnvironment(value)
		if err != nil {
			return err
		}
		for _, name := range unused {
			r.warn("environment", "what follows the value of "+short(name)+
				" is ignored, because it is not a comma; the value needs quotes")
		}
		*to = env
		return nil
	}
}

// socket reads [unix_http_server].
func (l *loader) socket() *Socket {
	s := l.doc.section("unix_http_server")
	if s == nil || s.broken {
		return nil
	}
	socket := &Socket{Chmod: 0o700, UID: -1, GID: -1}
	r := &reader{l: l, s: s, names: l.names}
	r.apply([]setting{
		{"file", text(&socket.File)},
		{"chmod", permissions(&socket.Chmod)},
		{"chown", l.owner(&socket.UID, &socket.GID)},
		{"username", text(&socket.Username)},
		{"password", text(&socket.Password)},
	})
	l.unknown(s)
	_, username := r.lookup("username")
	_, password := r.lookup("password")
	switch {
	case r.failed:
	case strip(socket.File) == "":
		r.fail("file", errors.New("the path of the socket is missing"))
	case username && !password:
		r.fail("password", errors.New("username without password"))
	case password && !username:
		r.fail("username", errors.New("password without username"))
	case username && socket.Username == "":
		r.fail("username", errors.New("it is empty, so anyone could connect"))
	}
	if r.failed {
		return nil
	}
	socket.File = l.normal(strip(socket.File))
	return socket
}

// groups reads all programs and groups, the gateway's first: an app cannot take a
// name from it, nor from an app before it. A program that is in a group has none of
// its own.
func (l *loader) groups(opt Options, env map[string]string) []Group {
	p := &programs{loader: l, opt: opt, env: env, grouped: map[string]bool{}, taken: map[string]*section{}}
	var groups []Group
	take := func(a *App) {
		for _, g := range p.ofOwner(a) {
			groups = append(groups, g.Group)
		}
	}
	take(nil)
	for i := range opt.Apps {
		take(&opt.Apps[i])
	}
	slices.SortStableFunc(groups, Group.compare)
	return groups
}

// others warns of the sections that are not read, and of unknown options.
func (l *loader) others() {
	for _, s := range l.doc.sections {
		l.of(s.app)
		kind, _, named := strings.Cut(s.name, ":")
		switch {
		case named && (kind == "program" || kind == "group"):
			if !s.broken {
				l.unknown(s)
			}
		case kind == "rpcinterface" && named:
		case !named && (kind == "supervisord" || kind == "supervisorctl" ||
			kind == "include" || kind == "unix_http_server"):
		case kind == "eventlistener" || kind == "fcgi-program" || kind == "inet_http_server" ||
			kind == "unix_http_server" || kind == "ctlplugin":
			l.warn(s.file, s.line, s.name, "", "not supported; it is ignored")
		default:
			text := "there is no such section; it is ignored"
			kinds := map[string]bool{"supervisord": true, "supervisorctl": true, "include": true,
				"unix_http_server": true, "program:": true, "group:": true}
			if name := nearest(strip(strings.ToLower(kind)), kinds); name != "" {
				text += " (did you mean [" + name + "]?)"
			}
			l.warn(s.file, s.line, s.name, "", text)
		}
	}
}

// overlay returns an environment with the variables of another over it.
func overlay(env, over map[string]string) map[string]string {
	all := maps.Clone(env)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, over)
	return all
}
