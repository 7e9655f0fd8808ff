package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
	"github.com/exosite/gwe/gweinit/supervisor/logfile"
)

// apiVersion is Supervisor's of its XML-RPC interface, and version that of the
// Supervisor whose behaviour this is: clients look at both.
const (
	apiVersion = "3.0"
	version    = "4.2.5"
)

// Methods are those of Supervisor 4 (supervisord.org/api.html), which are in the
// namespace "supervisor".
func (s *Supervisor) Methods() map[string]control.Method {
	methods := map[string]control.Method{}
	// add adds a method under its name and older ones.
	add := func(names string, m control.Method) {
		run := m.Run
		m.Run = func(ctx context.Context, args []any) (any, error) {
			if s.goingDown() {
				return nil, control.NewFault(control.ShutdownState, "")
			}
			return run(ctx, args)
		}
		for name := range strings.FieldsSeq(names) {
			methods["supervisor."+name] = m
		}
	}
	s.addAbout(add)
	s.addConfig(add)
	s.addRun(add)
	s.addLogs(add)
	return methods
}

type adder func(names string, m control.Method)

var (
	nameParam   = control.Text("name")
	waitParam   = control.Param{Name: "wait", Type: control.Boolean, Default: true}
	signalParam = control.Text("signal")
)

// constant is a method that returns always the same.
func constant(help string, result control.Type, value any) control.Method {
	return control.Method{Help: help, Result: result, Run: func(context.Context, []any) (any, error) { return value, nil }}
}

// addAbout adds what is about the supervisor itself.
func (s *Supervisor) addAbout(add adder) {
	add("getAPIVersion getVersion", constant("The version of this interface.", control.String, apiVersion))
	add("getSupervisorVersion", constant("The version of Supervisor that this behaves like.", control.String, version))
	add("getPID", constant("The PID of the supervisor.", control.Int, os.Getpid()))
	add("getState", constant("The state of the supervisor: statecode and statename.", control.Struct,
		map[string]any{"statecode": 1, "statename": "RUNNING"})) // in any other it answers nothing
	add("getIdentification", control.Method{Help: "The identifier of the configuration.", Result: control.String, Run: func(context.Context, []any) (any, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.config.Supervisord.Identifier, nil
	}})
	add("shutdown", control.Method{Help: "Shuts the supervisor down. As PID 1 that is an orderly reboot.", Result: control.Boolean, Run: func(context.Context, []any) (any, error) {
		s.opt.Shutdown()
		return true, nil
	}})
	add("restart", control.Method{Help: "Restarts the supervisor. As PID 1 it rereads the configuration and makes the programs what it says.", Result: control.Boolean, Run: func(context.Context, []any) (any, error) {
		s.opt.Restart()
		return true, nil
	}})
	add("sendRemoteCommEvent", control.Method{
		Help: "Sends an event to listeners, of which there are none.", Result: control.Boolean,
		Params: []control.Param{control.Text("type"), control.Text("data")},
		Run:    func(context.Context, []any) (any, error) { return true, nil },
	})
}

// addConfig adds what is about the configuration.
func (s *Supervisor) addConfig(add adder) {
	add("reloadConfig", control.Method{Help: "Rereads the configuration: the names of groups added, changed and removed by it.", Result: control.Array, Run: func(context.Context, []any) (any, error) {
		added, changed, removed, err := s.reread()
		if err != nil {
			return nil, control.NewFault(control.CantReread, err.Error())
		}
		return []any{[]any{list(added), list(changed), list(removed)}}, nil
	}})
	add("addProcessGroup", control.Method{Help: "Takes a group of the configuration under control.", Result: control.Boolean, Params: []control.Param{nameParam}, Run: func(_ context.Context, args []any) (any, error) {
		name := args[0].(string)
		s.mu.Lock()
		config := s.config
		s.mu.Unlock()
		for _, g := range config.Groups {
			if g.Name != name {
				continue
			}
			s.changes.Lock()
			defer s.changes.Unlock()
			if s.add(g) != nil {
				return nil, control.NewFault(control.AlreadyAdded, name)
			}
			return true, nil
		}
		return nil, control.NewFault(control.BadName, name)
	}})
	add("removeProcessGroup", control.Method{Help: "Takes a group whose processes have stopped out of control.", Result: control.Boolean, Params: []control.Param{nameParam}, Run: func(ctx context.Context, args []any) (any, error) {
		name := args[0].(string)
		s.changes.Lock()
		defer s.changes.Unlock()
		switch err := s.remove(ctx, name); {
		case errors.Is(err, errRunning):
			return nil, control.NewFault(control.StillRunning, name)
		case err != nil:
			return nil, control.NewFault(control.BadName, name)
		}
		return true, nil
	}})
	add("getAllConfigInfo", control.Method{Help: "What the configuration says of all processes.", Result: control.Array, Run: func(context.Context, []any) (any, error) {
		return s.configInfo(), nil
	}})
}

// addRun adds what is about processes.
func (s *Supervisor) addRun(add adder) {
	add("getProcessInfo", control.Method{Help: "What there is to know of a process.", Result: control.Struct, Params: []control.Param{nameParam}, Run: func(_ context.Context, args []any) (any, error) {
		p, err := s.process(args[0].(string))
		if err != nil {
			return nil, err
		}
		return p.describe(), nil
	}})
	add("getAllProcessInfo", control.Method{Help: "What there is to know of all processes.", Result: control.Array, Run: func(context.Context, []any) (any, error) {
		all := s.all()
		slices.SortFunc(all, func(a, b *process) int {
			return slices.Compare([]string{a.conf.Group, a.conf.Name}, []string{b.conf.Group, b.conf.Name})
		})
		infos := []any{}
		for _, p := range all {
			infos = append(infos, p.describe())
		}
		return infos, nil
	}})
	start := func(ctx context.Context, processes []*process, args []any) []any {
		return results(s.startAll(ctx, processes, args[0].(bool)))
	}
	stop := func(ctx context.Context, processes []*process, args []any) []any {
		if args[0].(bool) {
			return results(s.stopAll(ctx, processes))
		}
		return results(each(processes, func(p *process) error { return p.stop(ctx, false) }))
	}
	signal := func(ctx context.Context, processes []*process, args []any) []any {
		return results(each(processes, func(p *process) error { return signalBy(ctx, p, args[0].(string)) }))
	}
	s.addVerb(add, "start", "Starts", waitParam, start, func(ctx context.Context, p *process, args []any) error {
		return p.start(ctx, args[0].(bool))
	})
	s.addVerb(add, "stop", "Stops", waitParam, stop, func(ctx context.Context, p *process, args []any) error {
		return p.stop(ctx, args[0].(bool))
	})
	s.addVerb(add, "signal", "Sends a signal, by name or number, to", signalParam, signal, func(ctx context.Context, p *process, args []any) error {
		return signalBy(ctx, p, args[0].(string))
	})
	add("sendProcessStdin", control.Method{Help: "Writes to the standard input of a process.", Result: control.Boolean, Params: []control.Param{nameParam, control.Text("chars")}, Run: func(ctx context.Context, args []any) (any, error) {
		p, err := s.process(args[0].(string))
		if err != nil {
			return nil, err
		}
		return true, p.write(ctx, args[1].(string))
	}})
}

// addVerb adds the three methods that do something to a process, to a group and
// to all.
func (s *Supervisor) addVerb(add adder, verb, does string, param control.Param,
	toAll func(context.Context, []*process, []any) []any, toOne func(context.Context, *process, []any) error) {
	group := func(ctx context.Context, name string, args []any) (any, error) {
		g, ok := s.find(name)
		if !ok {
			return nil, control.NewFault(control.BadName, name)
		}
		return toAll(ctx, g.processes, args), nil
	}
	add(verb+"Process", control.Method{Help: does + " a process, or a group by GROUP:*.", Result: control.Boolean, Params: []control.Param{nameParam, param}, Run: func(ctx context.Context, args []any) (any, error) {
		name := args[0].(string)
		if g, p := splitName(name); p == "" {
			return group(ctx, g, args[1:])
		}
		p, err := s.process(name)
		if err != nil {
			return nil, err
		}
		return true, toOne(ctx, p, args[1:])
	}})
	add(verb+"ProcessGroup", control.Method{Help: does + " all processes of a group.", Result: control.Array, Params: []control.Param{nameParam, param}, Run: func(ctx context.Context, args []any) (any, error) {
		return group(ctx, args[0].(string), args[1:])
	}})
	all := verb + "AllProcesses"
	add(all, control.Method{Help: does + " all processes.", Result: control.Array, Params: []control.Param{param}, Run: func(ctx context.Context, args []any) (any, error) {
		return toAll(ctx, s.all(), args), nil
	}})
}

// startAll starts those of the processes that are not up, one after the other,
// and waits for all together.
func (s *Supervisor) startAll(ctx context.Context, processes []*process, wait bool) []outcome {
	var results []outcome
	var ups []<-chan error
	for _, p := range processes {
		if !p.snapshot().State.wanted() {
			up, err := p.begin(ctx)
			results, ups = append(results, outcome{p, err}), append(ups, up)
		}
	}
	for i := range results {
		if wait && results[i].err == nil {
			results[i].err = receive(ctx, ups[i])
		}
	}
	return results
}

// results is what a client gets of outcomes.
func results(outcomes []outcome) []any {
	list := []any{}
	for _, o := range outcomes {
		status, description := control.Success, "OK"
		if o.err != nil {
			status, description = control.Failed, o.err.Error()
			if fault := (control.Fault{}); errors.As(o.err, &fault) {
				status = fault.Code
			}
		}
		list = append(list, map[string]any{
			"name": o.p.conf.Name, "group": o.p.conf.Group, "status": status, "description": description,
		})
	}
	return list
}

// signalBy sends a signal by its name or number.
func signalBy(ctx context.Context, p *process, name string) error {
	sig, ok := signalNumber(name)
	if !ok {
		return control.NewFault(control.BadSignal, name)
	}
	return p.signal(ctx, sig)
}

func signalNumber(name string) (syscall.Signal, bool) {
	name = strings.ToUpper(strings.TrimSpace(name))
	if n, err := strconv.Atoi(name); err == nil {
		return syscall.Signal(n), n > 0 && (unix.SignalName(syscall.Signal(n)) != "")
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	sig := unix.SignalNum(name)
	return sig, sig != 0
}

// process finds a process by its name.
func (s *Supervisor) process(name string) (*process, error) {
	groupName, processName := splitName(name)
	if g, ok := s.find(groupName); ok && processName != "" {
		for _, p := range g.processes {
			if p.conf.Name == processName {
				return p, nil
			}
		}
	}
	return nil, control.NewFault(control.BadName, name)
}

// splitName splits "group:process". "group:*" and "group:" are a whole group;
// "name" is the process of this name in the group of this name.
func splitName(name string) (group, process string) {
	group, process, ok := strings.Cut(name, ":")
	switch {
	case !ok:
		return name, name
	case process == "*":
		return group, ""
	}
	return group, process
}

func nameOf(group, process string) string {
	if group == process {
		return process
	}
	return group + ":" + process
}

// describe is the process for clients, with Supervisor's keys.
func (p *process) describe() map[string]any {
	i := p.snapshot()
	start, stop := i.Started.unix, i.Stopped.unix
	return map[string]any{
		"name": p.conf.Name, "group": p.conf.Group,
		"start": number(start), "stop": number(stop), "now": number(time.Now().Unix()),
		"state": int(i.State), "statename": i.State.String(),
		"spawnerr": i.SpawnError, "exitstatus": i.ExitStatus,
		"logfile": p.conf.Stdout.File, "stdout_logfile": p.conf.Stdout.File, "stderr_logfile": p.stderrFile(),
		"pid": i.PID, "description": i.text(p.conf.Name, start, stop),
	}
}

// Process is a process as PID 1 sees it.
type Process struct {
	Name     string
	State    State
	Expected bool          // EXITED: by one of its exit codes
	Lasting  bool          // it is started at each boot
	Up       time.Duration // RUNNING: for so long
	Ended    bool          // it has, at least once
}

// Processes returns all of them.
func (s *Supervisor) Processes() []Process {
	var list []Process
	for _, p := range s.all() {
		i := p.snapshot()
		list = append(list, Process{
			Name: p.name(), State: i.State, Expected: slices.Contains(p.conf.ExitCodes, i.ExitStatus),
			Lasting: p.conf.Autostart || p.essential, Up: time.Since(i.Started.t), Ended: !i.Stopped.t.IsZero(),
		})
	}
	return list
}

func (p *process) stderrFile() string {
	if p.conf.RedirectStderr {
		return ""
	}
	return p.conf.Stderr.File
}

// text describes the state as "supervisorctl status" shows it.
func (i info) text(name string, start, stop int64) string {
	switch i.State {
	case Running:
		return fmt.Sprintf("pid %d, uptime %s", i.PID, uptime(time.Since(i.Started.t)))
	case Fatal, Backoff:
		if i.SpawnError == "" {
			return fmt.Sprintf("unknown error (try \"tail %s\")", name)
		}
		return i.SpawnError
	case Stopped, Exited:
		switch {
		case start == 0:
			return "Not started"
		case stop == 0: // it was never up
			stop = start
		}
		return time.Unix(stop, 0).Format("Jan 02 03:04 PM")
	}
	return ""
}

// uptime is a time as Python prints it: "1 day, 2:03:04".
func uptime(up time.Duration) string {
	seconds := int64(up / time.Second)
	text := fmt.Sprintf("%d:%02d:%02d", seconds/3600%24, seconds/60%60, seconds%60)
	switch days := seconds / 86400; {
	case days == 1:
		return "1 day, " + text
	case days > 1:
		return fmt.Sprintf("%d days, %s", days, text)
	}
	return text
}

// number makes an int of XML-RPC of n, which has 32 bits.
func number(n int64) int { return int(max(min(n, 1<<31-1), -1<<31)) }

func list(names []string) []any {
	l := []any{}
	for _, n := range names {
		l = append(l, n)
	}
	return l
}

// configInfo describes the processes of the configuration, with Supervisor's keys.
func (s *Supervisor) configInfo() []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := []any{}
	for _, g := range s.config.Groups {
		for _, c := range g.Programs {
			d := map[string]any{
				"group": g.Name, "name": c.Name, "group_prio": g.Priority, "process_prio": c.Priority,
				"inuse": s.groups[g.Name] != nil, "command": c.Command,
				"autostart": c.Autostart, "startsecs": c.StartSecs, "startretries": c.StartRetries,
				"exitcodes": ints(c.ExitCodes), "stopsignal": int(c.StopSignal), "stopwaitsecs": c.StopWaitSecs,
				"killasgroup": c.KillAsGroup, "redirect_stderr": c.RedirectStderr,
				"directory": orNone(c.Directory), "serverurl": orNone(c.ServerURL), "uid": any("none"),
			}
			if c.Credential != nil {
				d["uid"] = c.Credential.UID
			}
			logInfo(d, "stdout", c.Stdout)
			logInfo(d, "stderr", c.Stderr)
			infos = append(infos, d)
		}
	}
	slices.SortStableFunc(infos, func(a, b any) int {
		return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
	})
	return infos
}

func logInfo(d map[string]any, channel string, l conf.Log) {
	file := orNone(l.File)
	if l.Auto {
		file = "auto"
	}
	d[channel+"_logfile"] = file
	d[channel+"_logfile_maxbytes"] = number(l.MaxBytes)
	d[channel+"_logfile_backups"] = l.Backups
	d[channel+"_capture_maxbytes"] = number(l.CaptureMaxBytes)
	d[channel+"_events_enabled"] = l.Events
	d[channel+"_syslog"] = l.Syslog
}

func ints(list []int) []any {
	l := []any{}
	for _, n := range list {
		l = append(l, n)
	}
	return l
}

func orNone(s string) any {
	if s == "" {
		return "none"
	}
	return s
}

// addLogs adds what is about logs.
func (s *Supervisor) addLogs(add adder) {
	part := []control.Param{{Name: "offset", Type: control.Int}, {Name: "length", Type: control.Int}}
	named := append([]control.Param{nameParam}, part...)
	add("readLog readMainLog", control.Method{Help: "A part of the supervisor's own log; a negative offset counts from its end.", Result: control.String, Params: part, Run: func(_ context.Context, args []any) (any, error) {
		return readLog(s.opt.MainLog, args)
	}})
	add("clearLog", control.Method{Help: "Empties the supervisor's own log.", Result: control.Boolean, Run: func(context.Context, []any) (any, error) {
		if s.opt.ClearMainLog == nil {
			return nil, control.NewFault(control.Failed, s.opt.MainLog+" is not only the supervisor's")
		}
		return true, s.opt.ClearMainLog()
	}})
	for _, channel := range []string{"stdout", "stderr"} {
		reads, tails := "readProcessStdoutLog readProcessLog", "tailProcessStdoutLog tailProcessLog"
		if channel == "stderr" {
			reads, tails = "readProcessStderrLog", "tailProcessStderrLog"
		}
		add(reads, control.Method{Help: "A part of a process's " + channel + " log; a negative offset counts from its end.", Result: control.String, Params: named, Run: func(_ context.Context, args []any) (any, error) {
			file, err := s.logFile(args[0].(string), channel)
			if err != nil {
				return nil, err
			}
			return readLog(file, args[1:])
		}})
		add(tails, control.Method{Help: "What is new in a process's " + channel + " log since offset: text, the next offset, and whether some was left out.", Result: control.Array, Params: named, Run: func(_ context.Context, args []any) (any, error) {
			file, err := s.logFile(args[0].(string), channel)
			if err != nil {
				return nil, err
			}
			if file == "" {
				return []any{"", 0, false}, nil
			}
			text, offset, overflow := logfile.Tail(file, int64(args[1].(int)), int64(args[2].(int)))
			return []any{string(text), number(offset), overflow}, nil
		}})
	}
	add("clearProcessLogs clearProcessLog", control.Method{Help: "Empties the logs of a process.", Result: control.Boolean, Params: []control.Param{nameParam}, Run: func(_ context.Context, args []any) (any, error) {
		p, err := s.process(args[0].(string))
		if err != nil {
			return nil, err
		}
		return true, p.clearLogs()
	}})
	add("clearAllProcessLogs", control.Method{Help: "Empties the logs of all processes.", Result: control.Array, Run: func(context.Context, []any) (any, error) {
		return results(each(s.all(), (*process).clearLogs)), nil
	}})
}

func (p *process) clearLogs() error {
	for _, l := range slices.Compact([]*logfile.Log{p.out, p.err}) {
		if l == nil {
			continue
		}
		if err := l.Clear(); err != nil {
			p.log().Error(fmt.Sprintf("clear the log of '%s': %v", p.conf.Name, err))
			return control.NewFault(control.Failed, p.name())
		}
	}
	return nil
}

// logFile returns the file of an output, which is "" if there is none.
func (s *Supervisor) logFile(name, channel string) (string, error) {
	p, err := s.process(name)
	if err != nil {
		return "", err
	}
	if channel == "stderr" {
		return p.stderrFile(), nil
	}
	return p.conf.Stdout.File, nil
}

// readLog reads a part of a log: args are the offset and the length.
func readLog(file string, args []any) (any, error) {
	if _, err := os.Stat(file); file == "" || err != nil {
		return nil, control.NewFault(control.NoFile, file)
	}
	text, err := logfile.Read(file, int64(args[0].(int)), int64(args[1].(int)))
	switch {
	case errors.Is(err, logfile.ErrBadArguments):
		return nil, control.NewFault(control.BadArguments, "")
	case err != nil:
		return nil, control.NewFault(control.Failed, "")
	}
	return string(text), nil
}
