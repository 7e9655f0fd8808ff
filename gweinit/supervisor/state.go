package supervisor

import (
	"time"
)

// State is that of a process, with Supervisor's numbers.
type State int

const (
	Stopped  State = 0   // not started yet, or stopped by somebody
	Starting State = 10  // up, but not for startsecs yet
	Running  State = 20  // up for longer
	Backoff  State = 30  // ended too soon or too often; starts again after a while
	Stopping State = 40  // was asked to end
	Exited   State = 100 // ended by itself, after it was Running
	Fatal    State = 200 // did not come up however often it was started
	Unknown  State = 1000
)

var stateNames = map[State]string{
	Stopped: "STOPPED", Starting: "STARTING", Running: "RUNNING", Backoff: "BACKOFF",
	Stopping: "STOPPING", Exited: "EXITED", Fatal: "FATAL", Unknown: "UNKNOWN",
}

func (s State) String() string { return stateNames[s] }

// wanted are the states in which a process is, or is about to be, up.
func (s State) wanted() bool { return s == Starting || s == Running || s == Backoff }

// stopped are the states in which nothing happens any more.
func (s State) stopped() bool { return s == Stopped || s == Exited || s == Fatal || s == Unknown }

const (
	// A program that leaves RUNNING is started again at once, as Supervisor does.
	// One that does so again and again waits before each start: 1, 2, 4 ...
	// seconds, up to longestWait. It is forgiven once it has stayed RUNNING for
	// settledAfter; settledExpected is for programs that end with an expected
	// code, which some do on purpose to be started again.
	longestWait     = time.Minute
	settledAfter    = time.Minute
	settledExpected = 10 * time.Second

	// essentialWait is how long an essential program that was stopped by hand
	// stays so.
	essentialWait = 10 * time.Minute
)

// crashWait is how long to wait before the next start of a program that has
// left RUNNING, restarts times in a row before.
func crashWait(restarts int) time.Duration {
	if restarts == 0 {
		return 0
	}
	return min(time.Second<<min(restarts-1, 30), longestWait)
}

// retryWait is how long to wait after the nth start in a row that failed:
// n seconds, as Supervisor has it.
func retryWait(n int, essential bool) time.Duration {
	wait := time.Duration(n) * time.Second
	if essential {
		wait = min(wait, longestWait)
	}
	return wait
}
