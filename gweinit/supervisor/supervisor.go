// Package supervisor hosts programs as Supervisor 4 (supervisord.org) does: its
// configuration, its states, its control interface. What is wrong about a
// program is that program's problem only.
//
// It differs from Supervisor, for the better of gateways:
//
//   - A program that leaves RUNNING again and again is started again more and
//     more slowly, in the state BACKOFF meanwhile (see longestWait).
//   - A program's processes end with it: when it is stopped, started again or
//     removed, what it has left behind is asked to end and then killed. With
//     cgroups (v2) nothing escapes that; else its process group is what counts.
//   - memory_limit, cpu_weight, pids_limit and root_directory are options.
//   - Logs never exceed their maxbytes and never block a program; see logfile.
//   - Programs that write to the same log file take turns in it.
//   - A command that is not in the program's own PATH is looked for in the
//     supervisor's, and $PATH in the value of PATH stands for that.
//   - A program with a log that cannot be written to runs nevertheless.
//   - Time is monotonic: a clock that is set changes neither waits nor uptimes.
//   - There are no event listeners, FastCGI programs or TCP ports; output between
//     Supervisor's capture tags stays in the log.
package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/reaper"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
	"github.com/exosite/gwe/gweinit/supervisor/logfile"
)

// Options are what a Supervisor works with.
type Options struct {
	// Load reads the configuration. At a reread an error changes nothing.
	Load    func() (*conf.Config, error)
	Reaper  *reaper.Reaper
	Log     *slog.Logger
	Environ []string // of the programs, NAME=VALUE
	// Cgroup is an empty group (v2) in which each process gets its own; "" for
	// none.
	Cgroup    string
	ServerURL string // for SUPERVISOR_SERVER_URL, as "unix:///run/supervisor.sock"
	MainLog   string // the file with the supervisor's own log, "" if there is none
	// ClearMainLog empties it; nil: that is not possible.
	ClearMainLog func() error
	// Essential names programs that the gateway needs: they do not become FATAL,
	// and come back when they were stopped by hand.
	Essential []string
	// Shutdown and Restart are what the methods of these names begin. They must
	// not wait for it.
	Shutdown, Restart func()

	// For tests.
	entered                       func(process string, state State)
	essentialWait                 time.Duration
	settledAfter, settledExpected time.Duration
}

// Supervisor keeps groups of processes as they are wanted.
type Supervisor struct {
	opt Options

	mu       sync.Mutex
	config   *conf.Config // as it was read last
	groups   map[string]*group
	down     bool // nothing is started any more
	logFiles map[string]*sharedLog

	syslog   syslogger
	updating sync.Mutex // one Update at a time
}

// group is a group of processes under control.
type group struct {
	conf      conf.Group
	processes []*process // by priority and name
}

// sharedLog is a log file and how many outputs go there.
type sharedLog struct {
	log   *logfile.Log
	users int
}

// New returns a Supervisor without processes.
func New(opt Options) *Supervisor {
	opt.essentialWait = cmp.Or(opt.essentialWait, essentialWait)
	opt.settledAfter = cmp.Or(opt.settledAfter, settledAfter)
	opt.settledExpected = cmp.Or(opt.settledExpected, settledExpected)
	return &Supervisor{opt: opt, config: &conf.Config{}, groups: map[string]*group{}, logFiles: map[string]*sharedLog{}}
}

// Start takes a configuration and starts its programs, in the order of their
// priorities. It does not wait for them to be RUNNING.
func (s *Supervisor) Start(config *conf.Config) {
	s.mu.Lock()
	s.config = config
	s.mu.Unlock()
	if !config.Supervisord.NoCleanup {
		s.removeAutoLogs(config.Supervisord)
	}
	var groups []*group
	for _, c := range config.Groups {
		if g, err := s.register(c); err == nil {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		s.autostart(g)
	}
}

// add takes a group under control and starts its programs.
func (s *Supervisor) add(c conf.Group) error {
	g, err := s.register(c)
	if err == nil {
		s.autostart(g)
	}
	return err
}

// errActive is the error of add and register if there is such a group already.
var errActive = errors.New("is already active")

// register takes a group under control.
func (s *Supervisor) register(c conf.Group) (*group, error) {
	s.mu.Lock()
	if s.groups[c.Name] != nil {
		s.mu.Unlock()
		return nil, errActive
	}
	g := &group{conf: c}
	s.groups[c.Name] = g
	s.mu.Unlock()
	var processes []*process
	for _, p := range c.Programs {
		processes = append(processes, newProcess(s, s.withAutoLogs(p), s.essential(c.Name)))
	}
	s.mu.Lock()
	g.processes = processes
	s.mu.Unlock()
	return g, nil
}

func (s *Supervisor) essential(group string) bool { return slices.Contains(s.opt.Essential, group) }

// autostart starts those programs of a group that are to start by themselves.
func (s *Supervisor) autostart(g *group) {
	for _, p := range g.processes {
		if !p.conf.Autostart && !p.essential {
			continue
		}
		// One whose start hangs on a disk must not keep the others.
		ctx, cancel := context.WithTimeout(context.Background(), spawnWait)
		if p.do(ctx, p.spawn) != nil {
			p.log().Error(fmt.Sprintf("the start of '%s' takes longer than %v", p.conf.Name, spawnWait))
		}
		cancel()
	}
}

// spawnWait is how long a start keeps those of the other programs waiting.
const spawnWait = 5 * time.Second

// errRunning is remove's error if not all processes have stopped.
var errRunning = errors.New("still running")

// remove takes a group whose processes have stopped out of control.
func (s *Supervisor) remove(name string) error {
	s.mu.Lock()
	g := s.groups[name]
	if g == nil {
		s.mu.Unlock()
		return errRemoved
	}
	for _, p := range g.processes {
		if !p.snapshot().State.stopped() {
			s.mu.Unlock()
			return errRunning
		}
	}
	delete(s.groups, name)
	s.mu.Unlock()
	for _, p := range g.processes {
		p.remove()
	}
	if s.essential(name) {
		time.AfterFunc(s.opt.essentialWait, func() { s.bringBack(name) })
	}
	return nil
}

// bringBack adds an essential group that somebody has removed.
func (s *Supervisor) bringBack(name string) {
	s.mu.Lock()
	config, down := s.config, s.down
	s.mu.Unlock()
	for _, g := range config.Groups {
		if g.Name == name && !down && s.add(g) == nil {
			s.opt.Log.Warn(fmt.Sprintf("%s was removed by hand %v ago; the gateway needs it", name, s.opt.essentialWait))
		}
	}
}

// reread reads the configuration, and returns the names of the groups that it
// would add, change and remove.
func (s *Supervisor) reread() (added, changed, removed []string, err error) {
	config, err := s.opt.Load()
	if err != nil {
		return nil, nil, nil, err
	}
	for _, w := range config.Warnings {
		s.opt.Log.Warn(w)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = config
	names := map[string]bool{}
	for _, g := range config.Groups {
		names[g.Name] = true
		switch active := s.groups[g.Name]; {
		case active == nil:
			added = append(added, g.Name)
		case !active.conf.Equal(g):
			changed = append(changed, g.Name)
		}
	}
	for _, g := range s.sorted() {
		if !names[g.conf.Name] {
			removed = append(removed, g.conf.Name)
		}
	}
	return added, changed, removed, nil
}

// Update rereads the configuration and makes the groups what it says. Those that
// have not changed are not touched.
func (s *Supervisor) Update(ctx context.Context) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	added, changed, removed, err := s.reread()
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(removed, changed) {
		if g, ok := s.find(name); ok {
			s.stopAll(ctx, g.processes)
			if err := s.remove(name); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
			s.opt.Log.Info(fmt.Sprintf("removed: %s", name))
		}
	}
	s.mu.Lock()
	config := s.config
	s.mu.Unlock()
	for _, g := range config.Groups {
		if slices.Contains(added, g.Name) || slices.Contains(changed, g.Name) {
			s.add(g)
			s.opt.Log.Info(fmt.Sprintf("added: %s", g.Name))
		}
	}
	return nil
}

// Stop stops all programs, the ones with the highest priority first, and starts
// none any more. It returns when all have stopped, or ctx ends.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
	s.stopAll(ctx, s.all())
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("stop the programs: %w", err)
	}
	for name := range s.snapshot() {
		s.remove(name)
	}
	return nil
}

// stopAll stops those of the processes that are up, those of the highest
// priority first and together.
func (s *Supervisor) stopAll(ctx context.Context, processes []*process) []outcome {
	processes = slices.Clone(processes)
	slices.SortStableFunc(processes, func(a, b *process) int { return -s.byPriority(a, b) })
	var results []outcome
	for len(processes) > 0 {
		n := 1
		for n < len(processes) && s.byPriority(processes[0], processes[n]) == 0 {
			n++
		}
		results = append(results, each(processes[:n], func(p *process) error {
			return p.stop(ctx, true)
		}, func(i info) bool { return i.State.wanted() })...)
		// One that was stopping already is waited for, too.
		for _, p := range processes[:n] {
			p.await(ctx)
		}
		processes = processes[n:]
	}
	return results
}

// byPriority compares by the groups' priorities, then the programs'.
func (s *Supervisor) byPriority(a, b *process) int {
	return cmp.Or(cmp.Compare(s.groupPriority(a), s.groupPriority(b)), cmp.Compare(a.conf.Priority, b.conf.Priority))
}

func (s *Supervisor) groupPriority(p *process) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[p.conf.Group]; g != nil {
		return g.conf.Priority
	}
	return 0
}

// outcome is what a method on a process has led to.
type outcome struct {
	p   *process
	err error
}

// each runs f for the processes in whose state it makes sense, at the same time.
func each(processes []*process, f func(*process) error, sensible func(info) bool) []outcome {
	var results []outcome
	for _, p := range processes {
		if sensible(p.snapshot()) {
			results = append(results, outcome{p: p})
		}
	}
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i].err = f(results[i].p) })
	}
	wg.Wait()
	return results
}

// sorted returns the groups by priority and name. The caller holds s.mu.
func (s *Supervisor) sorted() []*group {
	return slices.SortedFunc(maps.Values(s.groups), func(a, b *group) int {
		return cmp.Or(cmp.Compare(a.conf.Priority, b.conf.Priority), cmp.Compare(a.conf.Name, b.conf.Name))
	})
}

// all returns all processes, by the priorities of their groups and their own.
func (s *Supervisor) all() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*process
	for _, g := range s.sorted() {
		all = append(all, g.processes...)
	}
	return all
}

// find returns what is known of a group.
func (s *Supervisor) find(name string) (group, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.groups[name]
	if !ok {
		return group{}, false
	}
	return *g, true
}

func (s *Supervisor) snapshot() map[string]*group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.groups)
}

func (s *Supervisor) goingDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// cgroup makes the group of a process.
func (s *Supervisor) cgroup(c conf.Program) (*cgroup, error) {
	if s.opt.Cgroup == "" {
		if c.MemoryLimit > 0 || c.CPUWeight > 0 || c.PidsLimit > 0 {
			return nil, errors.New("its limits need one")
		}
		return nil, nil
	}
	// With the colon it is never the name of one of the kernel's files.
	return newCgroup(filepath.Join(s.opt.Cgroup, c.Group+":"+c.Name), c)
}

// log is where the supervisor tells about a process.
func (p *process) log() *slog.Logger { return p.s.opt.Log }
