package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/engine/report"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/gateway"
)

// The resources of a gateway.
const (
	engineReport   = "engine_report"
	deviceInfo     = "device_info"
	usageReport    = "usage_report"
	engineFetch    = "engine_fetch"
	fetchStatus    = "fetch_status"
	updateInterval = "update_interval"
)

const (
	// checkInLimit is for one check-in, on the slowest network.
	checkInLimit = 10 * time.Minute
	// activationLimit is for one activation.
	activationLimit = 3 * time.Minute
	// lookAgain is when the commands are looked for again after one that was
	// pushed: times have whole seconds, and a second command of the same second
	// is not pushed.
	lookAgain = 2 * time.Second
	// maxNewer is how many values of engine_fetch one looks through for the newest:
	// there are two for each command.
	maxNewer = 40
	// resend is how old a report gets whose facts have not changed.
	resend = time.Hour
)

// cloud is Exosite, as far as the engine uses it: *exosite.Client is one.
type cloud interface {
	Activate(ctx context.Context, serial string) (cik string, err error)
	WriteRead(ctx context.Context, writes []exosite.Value, aliases ...string) (map[string]string, error)
	Wait(ctx context.Context, alias string, since time.Time, timeout time.Duration) (value string, modified time.Time, err error)
	Timestamp(ctx context.Context) (time.Time, error)
	CIK() string
	Close()
}

// host is what the engine runs on: PID 1, on a gateway.
type host interface {
	// Status is gweinit.status; nil if there is no PID 1 of ours.
	Status(ctx context.Context) json.RawMessage
	// Programs are those that are hosted; nil if nobody hosts any.
	Programs(ctx context.Context) []report.Program
	// CheckedIn tells that the cloud was reached.
	CheckedIn(ctx context.Context) error
	// KeepIdentity has the settings kept where the loss of /data does not
	// reach. If that does not take Gateway.cfg any more, its text is given.
	KeepIdentity(ctx context.Context, gatewayText string) error
}

// Engine is Gateway Engine: it reports to the cloud and does what that orders.
// All but the watcher and the execution of commands is one goroutine.
type Engine struct {
	root     string // all files are below it
	version  string
	log      *slog.Logger
	level    *slog.LevelVar
	host     host
	files    gateway.Files
	queue    *command.Queue
	meter    *exosite.Meter
	schedule schedule
	// connect makes the client for the settings, and the watcher of
	// engine_fetch, which is nil if nothing is pushed.
	connect   func(gateway.Settings) (cloud, watcher, error)
	installed func() ([]report.App, error) // nil: there are no apps
	changes   <-chan struct{}              // the settings may have been changed; may be nil
	asked     <-chan os.Signal             // somebody wants a check-in now; may be nil

	settings gateway.Settings
	cloud    cloud
	watcher  watcher
	endWatch context.CancelFunc // nil: nothing is watched
	since    time.Time          // what was written later is for the watcher
	notices  chan notice
	kick     chan struct{}

	progress  atomic.Pointer[string] // of a command, for fetch_status
	unstored  *credential            // the CIK, if it is not on the disk
	unkept    bool                   // PID 1 has not kept the settings yet
	problems  map[string]string      // what is wrong for longer, by what it is about
	used      exosite.Report         // bytes that are in no file yet
	sent      map[string]sentReport
	attempts  int // check-ins tried
	failures  int // of them in a row
	succeeded int
	delay     time.Duration // of the watcher, at most, after the first check-in
}

// sentReport is a report that the cloud has.
type sentReport struct {
	facts string
	at    time.Time
}

// notice is what the watcher tells.
type notice struct {
	value string // of engine_fetch
	at    time.Time
	look  bool  // something was written: check in
	err   error // nothing is pushed for now; nil: it works (again)
}

// problem notes what is wrong with something, or, if err is nil, that nothing
// is. The report says so.
func (e *Engine) problem(about string, err error) {
	if err == nil {
		delete(e.problems, about)
		return
	}
	if e.problems[about] != err.Error() {
		e.log.Error(about, "err", err)
	}
	e.problems[about] = err.Error()
}

// load reads the settings, and connects by them if what matters for that has
// changed.
func (e *Engine) load() error {
	_, err := e.reload()
	return err
}

// reload is load, and says whether there is another client.
func (e *Engine) reload() (another bool, err error) {
	s, problems, err := e.files.Load()
	e.problem("settings", errors.Join(append(problems, err)...))
	if err != nil {
		return false, err
	}
	e.level.Set(slogLevel(s.DebugLevel))
	if e.unstored != nil && e.unstored.holds(s) {
		s.CIK, s.Iface = e.settings.CIK, e.settings.Iface
	} else {
		e.unstored = nil
	}
	before := e.settings
	e.settings = s
	// These don't need another client.
	s.DebugLevel, s.UpdateInterval, s.ActivationRetry = before.DebugLevel, before.UpdateInterval, before.ActivationRetry
	s.Trial, s.Window = before.Trial, before.Window
	if e.cloud != nil && s == before {
		return false, nil
	}
	e.disconnect()
	c, w, err := e.connect(e.settings)
	e.problem("connect", err)
	if err != nil {
		return true, err
	}
	e.cloud, e.watcher = c, w
	clear(e.sent) // it may be another device, or another cloud
	return true, nil
}

// disconnect gives the client up: the next check-in makes another.
func (e *Engine) disconnect() {
	e.stopWatch()
	if e.cloud != nil {
		e.cloud.Close()
		e.cloud = nil
	}
}

// Run runs the engine until ctx ends. The first check-in comes within spread.
func (e *Engine) Run(ctx context.Context, spread time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() {
		e.stopWatch()
		cancel()
		<-done
		e.addUsage()
	}()
	go func() {
		defer close(done)
		e.queue.Run(ctx)
	}()
	// What is wrong with the settings is told at the first attempt.
	if err := e.load(); err == nil && e.cloud.CIK() == "" {
		spread = min(spread, startSpread)
	}
	e.delay = spread / 2
	wait := e.schedule.first(spread, e.settings.UpdateInterval)
	next, due := time.NewTimer(wait), time.Now().Add(wait)
	look := time.NewTimer(time.Hour)
	look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.changes:
			before := e.settings
			another, err := e.reload()
			if before != e.settings {
				e.log.Info("settings changed")
			}
			if before.UpdateInterval != e.settings.UpdateInterval && e.failures == 0 {
				// It may come sooner; many changes do not put it off.
				next.Reset(min(time.Until(due), e.schedule.next(e.settings.UpdateInterval)))
			}
			if before.ActivationRetry != e.settings.ActivationRetry && e.cloud != nil && e.cloud.CIK() == "" {
				next.Reset(min(time.Until(due), e.schedule.activation(e.settings.ActivationRetry)))
			}
			if err != nil || !another {
				continue
			}
		case n := <-e.notices:
			if n.look {
				e.pushed(ctx, n)
				look.Reset(lookAgain)
				break
			}
			if e.problem("push", n.err); !errors.Is(n.err, exosite.ErrBadCIK) {
				continue
			}
		case <-look.C:
		case <-e.kick:
		case <-e.asked:
		case <-next.C:
		}
		wait := e.attempt(ctx)
		next.Reset(wait)
		due = time.Now().Add(wait)
	}
}

// pushed takes a command at once. The check-in that follows finds it, if that
// fails.
func (e *Engine) pushed(ctx context.Context, n notice) {
	if e.cloud == nil { // the watcher has told it just before it was stopped
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	e.problem(engineFetch, e.take(ctx, n.value, n.at, false))
}

// attempt tries a check-in, and returns when the next one is due.
func (e *Engine) attempt(ctx context.Context) time.Duration {
	err := e.reach(ctx)
	if ctx.Err() != nil {
		return time.Hour
	}
	e.attempts++
	wait, activating := time.Duration(0), errors.As(err, new(activationError))
	switch {
	case err == nil:
		if e.failures > 0 {
			e.log.Info("checked in again", "failures", e.failures)
		}
		e.failures = 0
		e.succeeded++
		if wait = e.schedule.next(e.settings.UpdateInterval); e.succeeded == 1 {
			wait = e.schedule.second(e.settings.UpdateInterval)
		}
		e.log.Debug("checked in", "next in", wait.Round(time.Second))
		e.watch(ctx)
	case activating:
		e.failures++
		wait = e.schedule.activation(e.settings.ActivationRetry)
		e.log.Error("activate", "err", err, "again in", wait.Round(time.Second))
	default:
		e.failures++
		wait = e.schedule.retry(e.failures, e.settings.UpdateInterval)
		e.log.Error("check in", "err", err, "again in", wait.Round(time.Second))
	}
	e.note(err, wait)
	return wait
}

// activationError is one of activating, which has an interval of its own.
type activationError struct{ error }

func (a activationError) Unwrap() error { return a.error }

// reach checks in, and activates the gateway before if it has to. A CIK that was
// refused stays until there is a new one, and is tried again: a server may have
// been wrong.
func (e *Engine) reach(ctx context.Context) error {
	if e.cloud == nil {
		if err := e.load(); err != nil {
			return err
		}
	}
	err := e.tryCIK(ctx)
	if errors.Is(err, exosite.ErrUntrusted) {
		e.disconnect() // the files with the certificates may be others the next time
	}
	return err
}

func (e *Engine) tryCIK(ctx context.Context) error {
	if e.cloud.CIK() != "" || e.settings.Certificate != "" {
		err := e.checkIn(ctx)
		if !errors.Is(err, exosite.ErrBadCIK) {
			return err
		}
		e.log.Warn("the cloud does not know the CIK any more: activating again", "err", err)
	}
	e.stopWatch() // it has to begin anew, with the new CIK
	if err := e.activate(ctx); err != nil {
		return activationError{err}
	}
	err := e.checkIn(ctx)
	if errors.Is(err, exosite.ErrBadCIK) { // a new one each time would help nobody
		return activationError{err}
	}
	return err
}

// checkIn reports, asks what is to be done, and takes that.
func (e *Engine) checkIn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkInLimit)
	defer cancel()
	e.store(ctx)
	if e.watcher != nil && e.endWatch == nil {
		// What is written after this is for the watcher.
		now, err := e.cloud.Timestamp(ctx)
		if err != nil {
			return err
		}
		e.since = now.Add(-time.Second)
	}
	reports := e.reports(ctx)
	var writes []exosite.Value
	for _, alias := range slices.Sorted(maps.Keys(reports)) {
		writes = append(writes, exosite.Value{Alias: alias, Value: reports[alias].Text})
	}
	values, err := e.cloud.WriteRead(ctx, writes, engineFetch, updateInterval)
	if refusal(err) && len(writes) > 0 { // commands have to get through nevertheless: one may be what helps
		e.problem("report", err)
		values, err = e.cloud.WriteRead(ctx, nil, engineFetch, updateInterval)
	} else if err == nil {
		e.problem("report", nil)
	}
	if err != nil {
		return err
	}
	for alias, r := range reports {
		e.sent[alias] = sentReport{r.Facts, time.Now()} // or refused: not again for an hour
	}
	e.problem("tell PID 1 of the check-in", e.host.CheckedIn(ctx))
	// One that fails does not keep the others from being done. What the cloud
	// refuses for good is a problem to report, but no reason to try again soon.
	var errs []error
	for _, part := range []struct {
		about string
		err   error
	}{
		{updateInterval + " in the cloud", e.setInterval(ctx, values[updateInterval])},
		{engineFetch, e.fetch(ctx, values[engineFetch])},
		{"progress", e.reportProgress(ctx)},
		{fetchStatus, e.reportOutcomes(ctx)},
	} {
		if e.problem(part.about, part.err); !refusal(part.err) {
			errs = append(errs, part.err)
		}
	}
	e.store(ctx)
	return errors.Join(errs...)
}

// refusal says whether the cloud will not have it, now or later.
func refusal(err error) bool {
	status := (*exosite.StatusError)(nil)
	return errors.As(err, &status) && status.Final()
}

// setInterval stores a new update_interval, and clears it in the cloud.
func (e *Engine) setInterval(ctx context.Context, value string) error {
	if value == "" {
		return nil
	}
	interval, err := gateway.ParseInterval(strings.TrimSpace(value))
	if err != nil {
		e.problem(updateInterval, fmt.Errorf("%.40q cannot be used, want %w", value, err))
	} else {
		seconds := strconv.Itoa(int(interval.Seconds()))
		err := e.files.Set(gateway.Change{File: gateway.EngineFile, Section: gateway.EngineSection, Key: updateInterval, Value: seconds})
		if e.settings.UpdateInterval = interval; err != nil {
			e.problem(updateInterval, fmt.Errorf("%s cannot be stored: %w", seconds, err))
			return nil // the next check-in tries again
		}
		e.log.Info("new update interval", "seconds", seconds)
		e.problem(updateInterval, nil)
		e.unkept = true
	}
	_, err = e.cloud.WriteRead(ctx, []exosite.Value{{Alias: updateInterval}})
	return err
}

// watch has the watcher tell of commands as they are written.
func (e *Engine) watch(ctx context.Context) {
	if e.watcher == nil || e.endWatch != nil {
		return
	}
	ctx, e.endWatch = context.WithCancel(ctx)
	w, since, delay := e.watcher, e.since, time.Duration(0)
	if e.succeeded == 1 {
		delay = e.schedule.between(0, e.delay)
	}
	go func() {
		sleep(ctx, delay)
		w.watch(ctx, since, func(n notice) {
			if ctx.Err() != nil {
				return
			}
			select {
			case e.notices <- n:
			case <-ctx.Done():
			}
		})
	}()
}

func (e *Engine) stopWatch() {
	if e.endWatch != nil {
		e.endWatch()
		e.endWatch = nil
	}
}
