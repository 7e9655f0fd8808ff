package conf

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
)

const (
	maxNumProcs  = 1000  // of a program
	maxProcesses = 10000 // of all
)

// programs reads the programs of a configuration.
type programs struct {
	*loader
	opt     Options
	env     map[string]string   // of [supervisord]
	grouped map[string]bool     // sections of programs that groups name
	taken   map[string]*section // the names of groups
}

// plan is what the processes of a program have in common.
type plan struct {
	Program
	numProcs, first int
}

// ownGroup is a group and the section that it is of.
type ownGroup struct {
	Group
	s *section
}

// ofOwner reads the programs and groups of an app, or with nil of the gateway, after those
// that come before it. By priority, then name.
func (p *programs) ofOwner(a *App) []ownGroup {
	p.of(a)
	var groups []ownGroup
	add := func(s *section, g Group, ok bool) {
		if ok && p.free(s) {
			groups = append(groups, ownGroup{g, s})
		}
	}
	for _, s := range p.doc.sections {
		if s.app == a && strings.HasPrefix(s.name, "group:") {
			g, ok := p.group(s)
			add(s, g, ok)
		}
	}
	for _, s := range p.doc.sections {
		if s.app == a && strings.HasPrefix(s.name, "program:") && !p.grouped[s.name] {
			g, ok := p.single(s)
			add(s, g, ok)
		}
	}
	slices.SortStableFunc(groups, func(a, b ownGroup) int { return a.compare(b.Group) })
	seen := map[string]bool{}
	groups = slices.DeleteFunc(groups, func(g ownGroup) bool {
		if seen[g.Name] {
			p.fail(&Error{File: g.s.file, Line: g.s.line, Section: g.s.name, Err: fmt.Errorf(
				"two groups or programs have the name %s; only the first by priority is there (Supervisor does this silently)", short(g.Name))})
			return true
		}
		seen[g.Name] = true
		return false
	})
	// The name is also that of a section that has an error: it will be good again.
	for _, s := range p.doc.sections {
		if name, ok := s.groupName(); ok && s.app == a && !p.grouped[s.name] && p.taken[name] == nil {
			p.taken[name] = s
		}
	}
	return groups
}

// groupName returns the name of the group that a section makes, if it is about
// programs and these are in no other.
func (s *section) groupName() (string, bool) {
	kind, name, _ := strings.Cut(s.name, ":")
	return strip(name), kind == "group" || kind == "program"
}

// free says whether the name of the group of a section is nobody's who comes before
// its owner.
func (p *programs) free(s *section) bool {
	name, _ := s.groupName()
	other := p.taken[name]
	if other != nil {
		p.fail(&Error{File: s.file, Line: s.line, Section: s.name, Err: fmt.Errorf("%s has a group or program of this name already", other.owner())})
	}
	return other == nil
}

// owner says whose the section is.
func (s *section) owner() string {
	if s.app == nil {
		return "the firmware"
	}
	return "the app " + s.app.Name
}

func (g Group) compare(h Group) int {
	return cmp.Or(cmp.Compare(g.Priority, h.Priority), cmp.Compare(g.Name, h.Name))
}

// single reads a program that is in no group: it is its own.
func (p *programs) single(s *section) (Group, bool) {
	name, err := checkName(strings.TrimPrefix(s.name, "program:"))
	if err != nil {
		p.fail(&Error{File: s.file, Line: s.line, Section: s.name, Err: err})
		return Group{}, false
	}
	g := Group{Name: name, Priority: 999}
	list, ok := p.read(s, name)
	g.Programs = p.sorted(s, list)
	r := p.reader(s, name, name) // numprocs can be 0
	r.apply([]setting{{"priority", priority(&g.Priority)}})
	return g, ok
}

// group reads a [group:x] and its programs.
func (p *programs) group(s *section) (Group, bool) {
	g := Group{Priority: 999}
	var names []string
	r := &reader{l: p.loader, s: s, names: p.names}
	r.apply([]setting{
		{"programs", func(value string) error {
			if strings.Count(value, ",") > maxProcesses {
				return fmt.Errorf("more than %d programs", maxProcesses)
			}
			if value != "" {
				names = strings.Split(value, ",")
			}
			return nil
		}},
		{"priority", priority(&g.Priority)},
	})
	var err error
	if g.Name, err = checkName(strings.TrimPrefix(s.name, "group:")); err != nil {
		p.fail(&Error{File: s.file, Line: s.line, Section: s.name, Err: err})
		r.failed = true
	}
	if len(names) == 0 && !r.failed {
		r.warn("programs", "the group has none")
	}
	var list []Program
	for _, name := range names {
		program := p.doc.section("program:" + strip(name))
		if program == nil || program.app != s.app {
			failed := r.failed
			r.fail("programs", p.unknownProgram(strip(name)))
			r.failed = failed // the other programs are good
			continue
		}
		p.grouped[program.name] = true
		if g.Name != "" {
			processes, _ := p.read(program, g.Name)
			list = append(list, processes...)
		}
	}
	g.Programs = p.sorted(s, list)
	return g, !r.failed && !s.broken
}

func (p *programs) unknownProgram(name string) error {
	if p.doc.section("fcgi-program:"+name) != nil {
		return fmt.Errorf("[fcgi-program:%s] is not supported", short(name))
	}
	return fmt.Errorf("there is no [program:%s]", short(name))
}

// sorted sorts the processes of a group and leaves out those whose name is
// there before.
func (p *programs) sorted(s *section, list []Program) []Program {
	slices.SortStableFunc(list, func(a, b Program) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(q Program) bool {
		if seen[q.Name] {
			p.fail(&Error{File: s.file, Line: s.line, Section: s.name, Err: fmt.Errorf(
				"two processes have the name %s; only the first is there (Supervisor drops one silently)", short(q.Name))})
			return true
		}
		seen[q.Name] = true
		return false
	})
}

// read returns the processes of a [program:x] within a group; ok is false if
// anything is wrong with it.
func (p *programs) read(s *section, group string) (list []Program, ok bool) {
	if s.broken {
		return nil, false // the error of its line is there
	}
	name, err := checkName(strings.TrimPrefix(s.name, "program:"))
	if err != nil {
		p.fail(&Error{File: s.file, Line: s.line, Section: s.name, Err: err})
		return nil, false
	}
	r := p.reader(s, name, group)
	r.know(append(p.settings(r, &Program{}), setting{name: "environment"}))
	plan := p.plan(r, name, group)
	if p.used.processes += plan.numProcs; p.used.processes > p.most.processes {
		r.fail("numprocs", fmt.Errorf("more than %d processes in all", p.most.processes))
		return nil, false
	}
	if r.failed {
		p.process(r, plan, plan.first) // it may have errors too
		return nil, false
	}
	for i := range plan.numProcs {
		q := p.process(r, plan, plan.first+i)
		if r.failed {
			return nil, false
		}
		list = append(list, q)
	}
	return list, true
}

func (p *programs) reader(s *section, name, group string) *reader {
	return &reader{l: p.loader, s: s,
		names: p.names.with("program_name", name).with("group_name", group)}
}

// plan reads what all processes of a program have in common.
func (p *programs) plan(r *reader, name, group string) plan {
	log := Log{Auto: true, MaxBytes: 50 << 20, Backups: 10}
	if p.opt.LogMaxBytes > 0 {
		log.MaxBytes, log.Backups = p.opt.LogMaxBytes, p.opt.LogBackups
	}
	q := plan{numProcs: 1, Program: Program{
		Name: name, Group: group, Section: name,
		Umask: -1, Priority: 999, Autostart: true, Autorestart: Unexpected,
		StartSecs: 1, StartRetries: 3, StopWaitSecs: 10,
		ExitCodes: []int{0}, StopSignal: syscall.SIGTERM,
		Stdout: log, Stderr: log,
	}}
	r.apply([]setting{
		{"priority", priority(&q.Priority)},
		{"autostart", boolean(&q.Autostart)},
		{"autorestart", restart(&q.Autorestart)},
		{"startsecs", count(&q.StartSecs)},
		{"startretries", count(&q.StartRetries)},
		{"stopsignal", stopSignal(&q.StopSignal)},
		{"stopwaitsecs", count(&q.StopWaitSecs)},
		{"stopasgroup", boolean(&q.StopAsGroup)},
		{"exitcodes", exitCodes(&q.ExitCodes)},
		{"redirect_stderr", boolean(&q.RedirectStderr)},
		{"numprocs", number(&q.numProcs, 0, maxNumProcs)},
		{"numprocs_start", number(&q.first, 0, math.MaxInt32-maxNumProcs)},
		{"stdout_capture_maxbytes", size(&q.Stdout.CaptureMaxBytes)},
		{"stdout_events_enabled", boolean(&q.Stdout.Events)},
		{"stderr_capture_maxbytes", size(&q.Stderr.CaptureMaxBytes)},
		{"stderr_events_enabled", boolean(&q.Stderr.Events)},
		{"serverurl", serverURL(&q.ServerURL)},
		{"umask", permissions(&q.Umask)},
		{"root_directory", rootFolder(&q.RootDirectory)},
		{"memory_limit", size(&q.MemoryLimit)},
		{"cpu_weight", optional(&q.CPUWeight, 10000)},
		{"pids_limit", optional(&q.PidsLimit, math.MaxInt32)},
	})
	if a := r.s.app; a != nil {
		if _, ok := r.lookup("root_directory"); ok {
			r.fail("root_directory", errors.New("an app has one already, with all that is installed"))
		}
		q.App, q.Revision, q.RootDirectory = a.Name, a.Revision, a.Root
	}
	q.KillAsGroup = q.StopAsGroup
	r.apply([]setting{
		{"killasgroup", boolean(&q.KillAsGroup)},
		{"user", p.user(&q.Credential, r.s.accountsOf(q.RootDirectory))}, // after root_directory
	})
	if q.StopAsGroup && !q.KillAsGroup {
		r.fail("killasgroup", errors.New("it cannot be false if stopasgroup is true"))
	}
	return q
}

func serverURL(to *string) setter {
	return func(value string) error {
		if strings.EqualFold(strip(value), "AUTO") {
			value = ""
		}
		*to = value
		return nil
	}
}

// settings are the options that each process reads with its own names, besides
// environment, which has some of them.
func (p *programs) settings(r *reader, q *Program) []setting {
	settings := []setting{
		{"directory", text(&q.Directory)},
		{"command", command(&q.Command)},
		{"process_name", func(value string) (err error) {
			q.Name, err = checkName(value)
			return err
		}},
	}
	for _, log := range q.logs() {
		settings = append(settings,
			setting{log.name + "_syslog", boolean(&log.Syslog)},
			setting{log.name + "_logfile", p.logfile(r, log)}, // after that
			setting{log.name + "_logfile_backups", count(&log.Backups)},
			setting{log.name + "_logfile_maxbytes", size(&log.MaxBytes)})
	}
	return settings
}

// namedLog is a log and what its options begin with.
type namedLog struct {
	name string
	*Log
}

func (p *Program) logs() []namedLog {
	return []namedLog{{"stdout", &p.Stdout}, {"stderr", &p.Stderr}}
}

// process reads what can differ between the processes of a program.
func (p *programs) process(r *reader, plan plan, number int) Program {
	q := plan.Program
	common := r.names
	defer func() { r.names = common }()
	r.names.numbers = map[string]int{"process_num": number, "numprocs": plan.numProcs}
	failed := r.failed
	r.failed = false
	r.apply([]setting{{"environment", r.environment(&q.Environment)}})
	if r.failed {
		return q // the others could need its names
	}
	r.failed = failed
	r.names = r.names.withEnv(q.Environment)
	q.Environment = overlay(p.env, q.Environment)
	p.used.total += 32 * len(q.Environment) // each process has its own

	r.apply(p.settings(r, &q))
	checkProcessName(r, plan)
	if _, ok := r.lookup("command"); !ok {
		r.fail("command", errors.New("it is missing"))
	}
	checkLogs(r, &q)
	return q
}

// checkProcessName checks what process_name has to be before its expansion.
func checkProcessName(r *reader, plan plan) {
	o, ok := r.lookup("process_name")
	_, err := checkName(o.value)
	switch {
	case ok && err != nil:
		r.fail("process_name", err)
	case plan.numProcs > 1 && !strings.Contains(o.value, "%(process_num)"):
		r.fail("process_name", errors.New("%(process_num) must be in it if numprocs is more than 1"))
	}
}

func checkLogs(r *reader, q *Program) {
	for _, log := range q.logs() {
		if log.Auto && log.MaxBytes == 0 {
			r.warn(log.name+"_logfile_maxbytes", "without a limit the log can fill the file system")
		}
	}
	if q.RedirectStderr {
		if q.Stderr.File != "" {
			r.warn("stderr_logfile", "it is ignored because of redirect_stderr")
		}
		q.Stderr.File, q.Stderr.Auto = "", false
	}
}

func command(to *string) setter {
	return func(value string) error {
		words, err := Split(value)
		if err != nil {
			return err
		}
		if len(words) == 0 || words[0] == "" {
			return errors.New("it is empty")
		}
		*to = value
		return nil
	}
}

// logfile takes a path, AUTO, NONE, off or syslog.
func (p *programs) logfile(r *reader, log namedLog) setter {
	return func(value string) error {
		log.Auto = false
		switch strings.ToLower(value) {
		case "none", "off":
		case "auto":
			log.Auto = true
		case "syslog":
			r.warn(log.name+"_logfile", "syslog is deprecated here; write "+log.name+"_syslog = true")
			log.Syslog = true
		default:
			if a := r.s.app; a != nil {
				return p.appLog(a, r, log)(value)
			}
			return p.inFolder(&log.File)(value)
		}
		return nil
	}
}
