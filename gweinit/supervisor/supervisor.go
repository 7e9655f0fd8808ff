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
//     cgroups (v2) only a program that leaves its own on purpose escapes that;
//     else its process group is what counts.
//   - memory_limit, cpu_weight, pids_limit and root_directory are options.
//   - Logs never exceed their maxbytes and never block a program; see logfile.
//   - Programs that write to the same log file take turns in it.
//   - A command that is not in the program's own PATH is looked for in the
//     supervisor's, and $PATH in the value of PATH stands for that.
//   - A program with a log that cannot be written to runs nevertheless.
//   - The log of an app's program gets another file if a symbolic link leads there:
//     the app means what that is in its own root directory.
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
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/control"
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
	Cgroup string
	// PidsLimit is that of programs without a pids_limit, but for the essential
	// ones: one program must not take what all together may have. 0: none.
	PidsLimit int
	// Prepare is called before a program of an app starts, and makes its root
	// directory; idle says that nothing of the app is up or about to be. There is
	// one call for an app at a time. nil: there are no apps.
	Prepare   func(p conf.Program, idle bool) error
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
	essentialWait, stopMost       time.Duration
	settledAfter, settledExpected time.Duration
	devLog                        string
}

// Supervisor keeps groups of processes as they are wanted.
type Supervisor struct {
	opt Options

	// changes is held while groups are added and removed, which takes its time.
	// It comes before mu.
	changes sync.Mutex

	mu       sync.Mutex   // never held for long
	config   *conf.Config // as it was read last
	groups   map[string]*group
	down     bool // nothing is started any more
	logFiles map[logKey]*sharedLog
	tenants  map[string]*tenants // by the name of the app

	syslog syslogger
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
	opt.stopMost = cmp.Or(opt.stopMost, stopMost)
	opt.settledAfter = cmp.Or(opt.settledAfter, settledAfter)
	opt.settledExpected = cmp.Or(opt.settledExpected, settledExpected)
	opt.devLog = cmp.Or(opt.devLog, devLog)
	return &Supervisor{opt: opt, syslog: syslogger{path: opt.devLog}, config: &conf.Config{}, groups: map[string]*group{}, logFiles: map[logKey]*sharedLog{}, tenants: map[string]*tenants{}}
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
	s.changes.Lock()
	defer s.changes.Unlock()
	var groups []*group
	for _, c := range config.Groups { // all are known before the first starts
		if g, err := s.register(c); err == nil {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		s.autostart(g)
	}
}

// add takes a group under control and starts its programs. The caller holds
// changes.
func (s *Supervisor) add(c conf.Group) error {
	g, err := s.register(c)
	if err == nil {
		s.autostart(g)
	}
	return err
}

// errActive is the error of add and register if there is such a group already.
var errActive = errors.New("is already active")

// register takes a group under control. The caller holds changes.
func (s *Supervisor) register(c conf.Group) (*group, error) {
	if _, ok := s.find(c.Name); ok {
		return nil, errActive
	}
	g := &group{conf: c}
	for _, p := range c.Programs {
		g.processes = append(g.processes, newProcess(s, s.withAutoLogs(p), s.essential(c.Name)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[c.Name] = g
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

// errRunning is remove's error if not all processes have stopped, and errUnknown
// if there is no such group.
var (
	errRunning = errors.New("still running")
	errUnknown = errors.New("no such group")
)

// remove takes a group whose processes have stopped out of control. After an error
// it is as it was. The caller holds changes.
func (s *Supervisor) remove(ctx context.Context, name string) error {
	g, ok := s.find(name)
	if !ok {
		return errUnknown
	}
	for i, p := range g.processes {
		if err := p.retire(ctx); err != nil {
			for _, p := range g.processes[:i] {
				p.unretire()
			}
			return err
		}
	}
	s.mu.Lock()
	delete(s.groups, name)
	s.mu.Unlock()
	each(g.processes, func(p *process) error { p.remove(); return nil })
	if s.essential(name) {
		time.AfterFunc(s.opt.essentialWait, func() { s.bringBack(name) })
	}
	return nil
}

// bringBack adds an essential group that somebody has removed.
func (s *Supervisor) bringBack(name string) {
	defer func() {
		if bug := recover(); bug != nil {
			s.opt.Log.Error(fmt.Sprintf("bring %s back: panic: %v\n%s", name, bug, debug.Stack()))
		}
	}()
	s.changes.Lock()
	defer s.changes.Unlock()
	s.mu.Lock()
	config, down := s.config, s.down
	s.mu.Unlock()
	for _, g := range config.Groups {
		if g.Name == name && !down && s.add(g) == nil {
			s.opt.Log.Warn(fmt.Sprintf("%s has been removed for %v; the gateway needs it", name, s.opt.essentialWait))
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
// have not changed are not touched. A group whose processes do not stop in time stays
// as it is, and is in the error; the others are changed all the same.
func (s *Supervisor) Update(ctx context.Context) error {
	s.changes.Lock()
	defer s.changes.Unlock()
	added, changed, removed, err := s.reread()
	if err != nil {
		return err
	}
	old := slices.Concat(removed, changed)
	var processes []*process
	for _, name := range old {
		if g, ok := s.find(name); ok {
			processes = append(processes, g.processes...)
		}
	}
	for _, batch := range s.batches(processes) {
		ctx, cancel := context.WithTimeout(ctx, s.stopLimit(batch))
		s.stopAll(ctx, batch)
		cancel()
	}
	var errs []error
	for _, name := range old {
		// One whose start hangs on a disk answers nothing.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), spawnWait)
		err := s.remove(ctx, name)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", name, err))
			changed = slices.DeleteFunc(changed, func(c string) bool { return c == name })
			continue
		}
		s.opt.Log.Info(fmt.Sprintf("removed: %s", name))
	}
	s.mu.Lock()
	config := s.config
	s.mu.Unlock()
	for _, g := range config.Groups {
		if !slices.Contains(added, g.Name) && !slices.Contains(changed, g.Name) {
			continue
		}
		if err := s.add(g); err != nil {
			errs = append(errs, fmt.Errorf("add %s: %w", g.Name, err))
			continue
		}
		s.opt.Log.Info(fmt.Sprintf("added: %s", g.Name))
	}
	return errors.Join(errs...)
}

const (
	// An update waits for a process that is to end as long as its stopwaitsecs are,
	// and for stopSpare, until it was killed and what it has left behind has ended,
	// but for stopMost at most: a process can hang in the kernel, and stopwaitsecs be
	// years. Gateway Engine waits for 5 minutes.
	stopSpare = leftoverMost + killWait + time.Second
	stopMost  = 4 * time.Minute
)

// stopLimit is how long an update waits for processes to stop.
func (s *Supervisor) stopLimit(processes []*process) time.Duration {
	secs := 0
	for _, p := range processes {
		secs = max(secs, p.conf.StopWaitSecs)
	}
	return min(time.Duration(secs)*time.Second+stopSpare, s.opt.stopMost)
}

// Stop stops all programs, the ones with the highest priority first, and starts
// none any more. It returns when all have stopped, or ctx ends.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
	s.stopAll(ctx, s.all())
	for _, p := range s.all() {
		if !p.snapshot().State.stopped() {
			return fmt.Errorf("stop the programs: %s has not stopped in time", p.name())
		}
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	s.mu.Lock()
	names := slices.Collect(maps.Keys(s.groups))
	s.mu.Unlock()
	for _, name := range names {
		s.remove(context.Background(), name)
	}
	return nil
}

// stopAll stops those of the processes that are up, those of the highest
// priority first and together. If ctx has a deadline, no priority uses up the
// time of the others.
func (s *Supervisor) stopAll(ctx context.Context, processes []*process) []outcome {
	var results []outcome
	batches := s.batches(processes)
	for i, batch := range batches {
		ctx, cancel := share(ctx, len(batches)-i)
		results = append(results, each(batch, func(p *process) error {
			stopped, err := p.halt(ctx)
			if stopped == nil {
				return err
			}
			return cmp.Or(err, receive(ctx, stopped))
		})...)
		cancel()
	}
	return results
}

// share returns a context that ends after one of n equal parts of the time that
// is left.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

// batches returns the processes by priority, those of the highest first.
func (s *Supervisor) batches(processes []*process) [][]*process {
	processes = slices.Clone(processes)
	slices.SortStableFunc(processes, func(a, b *process) int { return -s.byPriority(a, b) })
	var batches [][]*process
	for i, p := range processes {
		if i == 0 || s.byPriority(p, processes[i-1]) != 0 {
			batches = append(batches, nil)
		}
		last := len(batches) - 1
		batches[last] = append(batches[last], p)
	}
	return batches
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

// each runs f for all processes at the same time. Those about which it says that
// they do not run are left out.
func each(processes []*process, f func(*process) error) []outcome {
	results := make([]outcome, len(processes))
	var wg sync.WaitGroup
	for i, p := range processes {
		wg.Go(func() { results[i] = outcome{p, guarded(p, f)} })
	}
	wg.Wait()
	return slices.DeleteFunc(results, func(o outcome) bool {
		fault := control.Fault{}
		return errors.As(o.err, &fault) && fault.Code == control.NotRunning
	})
}

// guarded makes an error of a panic.
func guarded(p *process, f func(*process) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic about '%s': %v", p.conf.Name, r)
			p.log().Error(fmt.Sprintf("%v\n%s", err, debug.Stack()))
		}
	}()
	return f(p)
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

func (s *Supervisor) goingDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// makeCgroup makes the group of a process.
func (s *Supervisor) makeCgroup(c conf.Program) (*cgroup, error) {
	if s.opt.Cgroup == "" {
		if c.MemoryLimit > 0 || c.CPUWeight > 0 || c.PidsLimit > 0 {
			return nil, errors.New("its limits need one")
		}
		return nil, nil
	}
	// With the colon it is never the name of one of the kernel's files.
	if c.PidsLimit == 0 && !s.essential(c.Group) {
		c.PidsLimit = s.opt.PidsLimit
	}
	return newCgroup(filepath.Join(s.opt.Cgroup, c.Group+":"+c.Name), c)
}

// log is where the supervisor tells about a process.
func (p *process) log() *slog.Logger { return p.s.opt.Log }
