package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/reaper"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
	"github.com/exosite/gwe/gweinit/supervisor/logfile"
)

// process keeps one process of a program as it is wanted. All its fields but
// those of info belong to its goroutine, run; others have it do something by do.
type process struct {
	s         *Supervisor
	conf      conf.Program
	essential bool // never FATAL, and back when it was stopped by hand
	cgroup    *cgroup
	out, err  *logfile.Log // err is out if they are one; nil: to /dev/null

	requests chan func()
	ended    chan struct{} // run has returned

	state    State
	running  *reaper.Process // nil: none is up
	pgid     int             // process group of the last one, as long as there is something in it
	stdin    *os.File        // what sendProcessStdin writes to
	readers  []*logfile.Reader
	leave    func()      // is called when it has ended
	timer    *time.Timer // of the state
	started  time.Time   // the last start
	since    time.Time   // of the state RUNNING
	deadline time.Time   // of a stop: then it is killed
	failures int         // starts in a row that failed
	restarts int         // starts in a row after RUNNING that were soon over
	retired  bool        // it is about to be removed, and does not start any more
	removed  bool
	waiters  []waiter

	mu   sync.Mutex
	info info // for others
}

// waiter waits for check to be true.
type waiter struct {
	check  func() (error, bool)
	result chan error
}

// info is what others may know of a process.
type info struct {
	State      State
	PID        int
	Started    moment
	Stopped    moment
	SpawnError string
	ExitStatus int // -1: by a signal
}

// moment is a point in time that keeps its distance to the others when the clock
// is set.
type moment struct {
	t    time.Time // with its monotonic reading
	unix int64     // as it was told last
}

func now() moment { return moment{t: time.Now()} }

// seconds returns the Unix time of the moment by the clock as it is now, 0 if
// there was none. It does not vary unless the clock was set.
func (m *moment) seconds() int64 {
	if m.t.IsZero() {
		return 0
	}
	unix := time.Now().Add(-time.Since(m.t)).Unix()
	if d := unix - m.unix; d < -1 || d > 1 {
		m.unix = unix
	}
	return m.unix
}

func newProcess(s *Supervisor, c conf.Program, essential bool) *process {
	p := &process{
		s: s, conf: c, essential: essential,
		requests: make(chan func()), ended: make(chan struct{}),
		timer: time.NewTimer(0),
	}
	p.timer.Stop()
	p.out, p.err = s.logs(c)
	go p.run()
	return p
}

// name is how Supervisor's clients call it.
func (p *process) name() string { return nameOf(p.conf.Group, p.conf.Name) }

// run does what is asked for and what happens, one after the other.
func (p *process) run() {
	defer p.end()
	for !p.removed {
		var exit <-chan struct{}
		if p.running != nil {
			exit = p.running.Done()
		}
		select {
		case f := <-p.requests:
			f()
		case <-exit:
			p.try(p.exited)
		case <-p.timer.C:
			p.try(p.timeout)
		}
	}
}

func (p *process) end() {
	p.timer.Stop()
	for _, w := range p.waiters {
		w.result <- errRemoved
	}
	close(p.ended)
}

// try runs f, and makes an error of a panic: this is PID 1.
func (p *process) try(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic about '%s': %v", p.conf.Name, r)
			p.log().Error(fmt.Sprintf("%v\n%s", err, debug.Stack()))
			if p.running == nil {
				p.rest(Unknown)
			}
		}
	}()
	f()
	return nil
}

// errRemoved is do's error once the process is not under control any more.
var errRemoved = errors.New("was removed")

// do has the process's goroutine run f, and waits for that. After an error f may
// run later still: what it writes to is not to be touched then.
func (p *process) do(ctx context.Context, f func()) error {
	done, err := p.ask(ctx, f)
	if err != nil {
		return err
	}
	return receive(ctx, done)
}

// ask has the process's goroutine run f. It returns when f begins, and the channel
// gets something when it ends; or f will not run.
func (p *process) ask(ctx context.Context, f func()) (<-chan error, error) {
	done := make(chan error, 1)
	select {
	case p.requests <- func() { done <- p.try(f) }:
		return done, nil
	case <-p.ended:
		return nil, errRemoved
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// snapshot returns what is known of the process now, and never waits.
func (p *process) snapshot() info {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.info.Started.seconds()
	p.info.Stopped.seconds()
	return p.info
}

func (p *process) update(f func(*info)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.info)
}

// enter changes the state, and tells those who wait for one.
func (p *process) enter(state State) {
	p.state = state
	p.update(func(i *info) { i.State = state })
	if p.s.opt.entered != nil {
		p.s.opt.entered(p.name(), state)
	}
	p.waiters = slices.DeleteFunc(p.waiters, waiter.done)
}

func (w waiter) done() bool {
	err, ok := w.check()
	if ok {
		w.result <- err
	}
	return ok
}

// result returns a channel that gets what check returns once that is true.
func (p *process) result(check func() (error, bool)) <-chan error {
	w := waiter{check, make(chan error, 1)}
	if !w.done() {
		p.waiters = append(p.waiters, w)
	}
	return w.result
}

// start starts the process by hand. It returns when it is RUNNING, or clearly
// does not get there; without wait, when it was started.
func (p *process) start(ctx context.Context, wait bool) error {
	outcome, err := p.begin(ctx)
	if err != nil || !wait {
		return err
	}
	return receive(ctx, outcome)
}

// begin starts the process by hand. The channel gets what becomes of it.
func (p *process) begin(ctx context.Context) (<-chan error, error) {
	var outcome <-chan error
	var err error
	if e := p.do(ctx, func() {
		if err = p.startable(); err != nil {
			return
		}
		p.failures, p.restarts = 0, 0
		p.spawn()
		if p.info.SpawnError != "" {
			err = control.NewFault(control.SpawnError, p.name())
			return
		}
		outcome = p.result(p.up)
	}); e != nil {
		return nil, e
	}
	return outcome, err
}

// receive waits for what result gets.
func receive(ctx context.Context, result <-chan error) error {
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startable returns the fault if a start by hand makes no sense.
func (p *process) startable() error {
	leave, err := p.prepare()
	if err == nil {
		_, _, err = p.executable()
		leave()
	}
	if err != nil {
		code := control.NotExecutable
		if errors.Is(err, os.ErrNotExist) {
			code = control.NoFile
		}
		return control.NewFault(code, err.Error())
	}
	switch {
	case p.state.wanted():
		return control.NewFault(control.AlreadyStarted, p.name())
	case p.state == Stopping, p.running != nil:
		return control.NewFault(control.Failed, p.name()+" is stopping")
	case p.retired:
		return errRemoved
	}
	return nil
}

// up is the outcome of a start.
func (p *process) up() (error, bool) {
	switch {
	case p.state == Running:
		return nil, true
	case p.state == Starting:
		return nil, false
	case p.info.SpawnError != "":
		return control.NewFault(control.SpawnError, p.name()), true
	}
	return control.NewFault(control.AbnormalTermination, p.name()), true
}

// stop stops the process. With wait it returns when it has ended.
func (p *process) stop(ctx context.Context, wait bool) error {
	stopped, err := p.halt(ctx)
	if err != nil || !wait {
		return err
	}
	return receive(ctx, stopped)
}

// halt begins to stop the process. The channel gets something when it has
// stopped, also together with the fault that it does not run: it may be stopping
// already.
func (p *process) halt(ctx context.Context) (<-chan error, error) {
	var stopped <-chan error
	var err error
	if e := p.do(ctx, func() {
		if p.state.wanted() {
			p.terminate()
		} else {
			err = control.NewFault(control.NotRunning, p.name())
			if p.running == nil { // of an EXITED program, say
				p.endLeftovers(time.Now())
			}
		}
		stopped = p.result(func() (error, bool) { return nil, p.state != Stopping })
	}); e != nil {
		return nil, e
	}
	return stopped, err
}

// terminate asks the process to end, in a state that is wanted.
func (p *process) terminate() {
	p.timer.Stop()
	if p.state == Backoff {
		p.endLeftovers(time.Now())
		p.rest(Stopped)
		return
	}
	wait := time.Duration(p.conf.StopWaitSecs) * time.Second
	p.deadline = time.Now().Add(wait)
	p.timer.Reset(wait)
	p.log().Info(fmt.Sprintf("waiting for %s to stop", p.conf.Name))
	p.enter(Stopping)
	p.kill(p.conf.StopSignal, p.conf.StopAsGroup)
}

// kill sends a signal to the process, or to all in its process group.
func (p *process) kill(sig syscall.Signal, group bool) {
	if err := p.s.opt.Reaper.Signal(p.running, sig, group); err != nil && !errors.Is(err, unix.ESRCH) {
		p.log().Error(fmt.Sprintf("signal %s to %s (%d): %v", unix.SignalName(sig), p.conf.Name, p.running.PID, err))
	}
}

// rest enters a state, STOPPED for instance, from which an essential program
// comes back.
func (p *process) rest(state State) {
	if p.essential {
		p.timer.Reset(p.s.opt.essentialWait)
	}
	p.enter(state)
}

// timeout is when the time of a state is over.
func (p *process) timeout() {
	switch p.state {
	case Starting:
		p.nowRunning()
	case Backoff:
		p.spawn()
	case Stopping:
		p.log().Warn(fmt.Sprintf("killing '%s' (%d) with SIGKILL", p.conf.Name, p.running.PID))
		p.kill(unix.SIGKILL, p.conf.KillAsGroup)
		p.timer.Reset(max(time.Duration(p.conf.StopWaitSecs)*time.Second, time.Second))
	case Stopped, Unknown:
		if p.retired {
			return
		}
		p.log().Warn(fmt.Sprintf("%s has been down for %v; the gateway needs it", p.conf.Name, p.s.opt.essentialWait))
		p.failures, p.restarts = 0, 0
		p.spawn()
	}
}

// spawn starts the process, from a state in which none is up.
func (p *process) spawn() {
	p.timer.Stop()
	p.update(func(i *info) {
		i.Started, i.SpawnError, i.ExitStatus = now(), "", 0
	})
	p.enter(Starting)
	p.endLeftovers(time.Now())
	if p.s.goingDown() {
		p.enter(Stopped)
		return
	}
	p.started = time.Now()
	if err := p.launch(); err != nil {
		p.log().Info("spawnerr: " + err.Error())
		p.failed(err.Error())
		return
	}
	p.log().Info(fmt.Sprintf("spawned: '%s' with pid %d", p.conf.Name, p.running.PID))
	p.update(func(i *info) { i.PID = p.running.PID })
	if p.conf.StartSecs == 0 {
		p.nowRunning()
		return
	}
	p.timer.Reset(time.Duration(p.conf.StartSecs)*time.Second - time.Since(p.started))
}

func (p *process) nowRunning() {
	p.failures, p.since = 0, time.Now()
	p.log().Info(fmt.Sprintf("success: %s entered RUNNING state, process has stayed up for > than %d seconds (startsecs)", p.conf.Name, p.conf.StartSecs))
	p.enter(Running)
}

// failed is after a start that did not lead to RUNNING.
func (p *process) failed(reason string) {
	p.update(func(i *info) { i.SpawnError = reason })
	p.failures++
	if p.failures > p.conf.StartRetries && !p.essential {
		p.failures = 0
		p.enter(Backoff)
		p.log().Info(fmt.Sprintf("gave up: %s entered FATAL state, too many start retries too quickly", p.conf.Name))
		p.enter(Fatal)
		return
	}
	p.timer.Reset(retryWait(p.failures, p.essential))
	p.enter(Backoff)
}

// exited is when the process has ended.
func (p *process) exited() {
	status, stdin, readers := p.running.Status(), p.stdin, p.readers
	p.running, p.stdin, p.readers = nil, nil, nil
	p.leave()
	p.timer.Stop()
	if stdin != nil {
		stdin.Close()
	}
	// What it wrote last is in the log before anybody is told of the end.
	for _, r := range readers {
		r.Drained(drainWait)
	}
	how, code := describe(status)
	if status.Signaled() && status.Signal() == unix.SIGKILL && p.cgroup.outOfMemory() {
		how += ", it was over its memory limit"
	}
	p.leftovers() // if there are none, the number of the process group is anybody's
	expected := slices.Contains(p.conf.ExitCodes, code)
	p.update(func(i *info) { i.PID, i.Stopped = 0, now() })

	switch {
	case p.state == Stopping:
		p.endLeftovers(p.deadline)
		p.update(func(i *info) { i.ExitStatus = code })
		p.logEnd(expected, fmt.Sprintf("stopped: %s (%s)", p.conf.Name, how))
		p.rest(Stopped)
	case p.state == Starting && time.Since(p.started) < time.Duration(p.conf.StartSecs)*time.Second:
		p.log().Warn(fmt.Sprintf("exited: %s (%s; not expected)", p.conf.Name, how))
		p.failed("Exited too quickly (process log may have details)")
	default:
		if p.state == Starting { // its timer was about to end
			p.nowRunning()
		}
		verdict := "expected"
		if !expected {
			verdict = "not expected"
			p.update(func(i *info) { i.SpawnError = fmt.Sprintf("Bad exit code %d", code) })
		}
		p.update(func(i *info) { i.ExitStatus = code })
		p.logEnd(expected, fmt.Sprintf("exited: %s (%s; %s)", p.conf.Name, how, verdict))
		p.enter(Exited)
		p.again(expected)
	}
}

// again starts a process that was RUNNING, if its autorestart says so.
func (p *process) again(expected bool) {
	if p.s.goingDown() || p.state != Exited {
		return
	}
	always := p.conf.Autorestart == conf.Always || p.essential
	if !always && (p.conf.Autorestart == conf.Never || expected) {
		return
	}
	settled := p.s.opt.settledAfter
	if expected {
		settled = p.s.opt.settledExpected
	}
	if time.Since(p.since) >= settled {
		p.restarts = 0
	}
	wait := crashWait(p.restarts)
	p.restarts++
	if wait == 0 {
		p.spawn()
		return
	}
	p.update(func(i *info) { i.SpawnError = fmt.Sprintf("Exited again soon, waiting %v before the next start", wait) })
	p.timer.Reset(wait)
	p.enter(Backoff)
}

func (p *process) logEnd(expected bool, text string) {
	if expected {
		p.log().Info(text)
	} else {
		p.log().Warn(text)
	}
}

// describe tells how a process has ended as Supervisor does, and its exit code,
// which is -1 after a signal.
func describe(status syscall.WaitStatus) (string, int) {
	if !status.Signaled() {
		return fmt.Sprintf("exit status %d", status.ExitStatus()), status.ExitStatus()
	}
	how := "terminated by " + unix.SignalName(status.Signal())
	if status.CoreDump() {
		how += " (core dumped)"
	}
	return how, -1
}

// signal sends a signal to the process and does not mean to end it.
func (p *process) signal(ctx context.Context, sig syscall.Signal) error {
	var err error
	if e := p.do(ctx, func() {
		if p.running == nil {
			err = control.NewFault(control.NotRunning, p.name())
			return
		}
		p.kill(sig, false)
	}); e != nil {
		return e
	}
	return err
}

// write writes to the standard input of the process.
func (p *process) write(ctx context.Context, text string) error {
	var stdin *os.File
	if err := p.do(ctx, func() {
		if p.running != nil && p.state != Stopping {
			stdin = p.stdin
		}
	}); err != nil {
		return err
	}
	if stdin == nil {
		return control.NewFault(control.NotRunning, p.name())
	}
	stdin.SetWriteDeadline(time.Now().Add(stdinWait))
	_, err := stdin.WriteString(text)
	switch {
	case errors.Is(err, unix.EPIPE), errors.Is(err, os.ErrClosed):
		return control.NewFault(control.NoFile, p.name())
	case errors.Is(err, os.ErrDeadlineExceeded):
		return control.NewFault(control.Failed, p.name()+" does not read its standard input")
	}
	return err
}

// retire sees to it that a process that is not up does not start any more, or
// reports that it is up.
func (p *process) retire(ctx context.Context) error {
	var err error
	done, e := p.ask(ctx, func() {
		if p.running != nil || !p.state.stopped() {
			err = errRunning
			return
		}
		p.retired = true
	})
	if e != nil {
		return e
	}
	return cmp.Or(<-done, err) // whatever ctx says: it must not retire after an error
}

// unretire undoes retire.
func (p *process) unretire() { p.do(context.Background(), func() { p.retired = false }) }

// remove ends the goroutine of a retired process, and what the process has left
// behind.
func (p *process) remove() {
	p.do(context.Background(), func() {
		p.removed = true
		p.endLeftovers(time.Now())
	})
	<-p.ended
	p.cgroup.remove()
	p.s.dropLogs(p)
}
