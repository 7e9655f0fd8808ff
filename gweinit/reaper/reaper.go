// Package reaper starts processes and waits for all children of this one,
// also those that it did not start: what PID 1 and any subreaper has to do.
//
// A process has one Reaper, and nothing else in it may wait for children
// (os/exec's Wait, os.Process.Wait): whoever asks the kernel first gets the
// exit status, and the other an error.
package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Reaper waits for children. Make one with New.
type Reaper struct {
	mu      sync.Mutex
	started map[int]*Process
	forking int                        // Starts under way: their processes are not in started yet
	early   map[int]syscall.WaitStatus // of unknown processes that ended meanwhile
	idle    bool                       // the kernel has said that there are no children
	closed  bool
	changed chan struct{}
}

// Process is a process that was started by a Reaper.
type Process struct {
	PID    int
	done   chan struct{}
	status syscall.WaitStatus
}

// Done is closed when the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status is how the process ended. Valid after Done.
func (p *Process) Status() syscall.WaitStatus { return p.status }

// New returns a Reaper that waits for children from now on.
func New() *Reaper {
	r := &Reaper{started: map[int]*Process{}, early: map[int]syscall.WaitStatus{}, changed: make(chan struct{}, 1)}
	// One is enough: signals of the same kind coalesce, each means "look".
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, syscall.SIGCHLD)
	go func() {
		r.reap() // what ended before
		for range sigchld {
			r.reap()
		}
	}()
	return r
}

// Start starts a process. attr is that of syscall.ForkExec. It may take long, as
// exec(2) reads the program; other processes are waited for meanwhile.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Process, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, fmt.Errorf("start %s: %w", path, ErrClosed)
	}
	r.forking++
	r.mu.Unlock()

	pid, err := syscall.ForkExec(path, argv, attr)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.forking--
	status, ended := r.early[pid]
	delete(r.early, pid)
	if r.forking == 0 {
		clear(r.early)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p := &Process{PID: pid, done: make(chan struct{})}
	if ended {
		p.status = status
		close(p.done)
		return p, nil
	}
	r.started[pid] = p
	r.idle = false
	return p, nil
}

// Signal sends a signal to a process, or to its process group. One that was
// waited for already gets none (ESRCH): its number may be another's by now.
func (r *Reaper) Signal(p *Process, sig syscall.Signal, group bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started[p.PID] != p {
		return syscall.ESRCH
	}
	if group {
		return syscall.Kill(-p.PID, sig)
	}
	return syscall.Kill(p.PID, sig)
}

// ErrClosed is Start's error after Close.
var ErrClosed = errors.New("going down, no process is started any more")

// Close makes Start fail from now on. Children are still waited for.
func (r *Reaper) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// Changed gets a value after children have ended. It is for one reader.
func (r *Reaper) Changed() <-chan struct{} { return r.changed }

// Idle reports whether there are no children left, as of the last exit.
func (r *Reaper) Idle() bool {
	r.reap()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.idle
}

func (r *Reaper) reap() {
	for {
		r.mu.Lock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			r.mu.Unlock()
			continue
		}
		r.idle = errors.Is(err, syscall.ECHILD) && r.forking == 0
		p := r.started[pid]
		delete(r.started, pid)
		if p == nil && pid > 0 && r.forking > 0 {
			r.early[pid] = status
		}
		r.mu.Unlock()
		if err != nil || pid <= 0 {
			return
		}
		if p != nil {
			p.status = status
			close(p.done)
		}
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
}
