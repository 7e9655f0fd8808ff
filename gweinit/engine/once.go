package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/exosite/gwe/gweinit/durable"
)

// once checks in, does the commands that are there, and reports them.
func (e *Engine) once(ctx context.Context) error {
	if err := e.load(); err != nil {
		return err
	}
	e.watcher = nil
	err := e.reach(ctx)
	e.attempts++
	e.note(err, 0)
	if err != nil {
		return err
	}
	for ctx.Err() == nil && e.queue.Step(ctx) {
	}
	ctx, cancel := context.WithTimeout(ctx, checkInLimit)
	defer cancel()
	err = e.reportOutcomes(ctx)
	e.addUsage()
	return err
}

// last is how it went, for "gwe --once" beside a running engine and for people.
type last struct {
	PID      int       `json:"pid"`
	Attempts int       `json:"attempts"` // since the engine was started
	Time     time.Time `json:"time"`
	Error    string    `json:"error,omitempty"`
	Next     time.Time `json:"next"`
}

// lastFile is in memory: it says too whether the engine has been there since
// the gateway was switched on.
const lastFile = "/run/gwe/last.json"

func (e *Engine) note(err error, wait time.Duration) {
	l := last{PID: os.Getpid(), Attempts: e.attempts, Time: time.Now().UTC(), Next: time.Now().Add(wait).UTC()}
	if err != nil {
		l.Error = err.Error()
	}
	text, _ := json.Marshal(l)
	path := filepath.Join(e.root, lastFile)
	e.problem("note the check-in", errors.Join(durable.MakeFolder(filepath.Dir(path), 0o755), durable.WriteFile(path, append(text, '\n'), 0o600)))
}
