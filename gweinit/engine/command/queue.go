package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/exosite/gwe/gweinit/durable"
)

const (
	maxState    = 8 << 20 // bytes of the queue's file: what is limited below has room, at its longest
	maxQueue    = 32      // commands that wait
	maxSeen     = 64      // commands that are known if they come again
	maxOutcomes = 32      // that wait to be reported
	maxOutput   = 8 << 10 // bytes of what an installer has to tell
	maxReason   = 2 << 10 // bytes of an error

	maxTries  = 40 // of a command that could be done later, about a day and a half
	firstWait = 30 * time.Second
	longest   = time.Hour
)

// state is the queue's file. A later firmware may add to it, and the other slot
// has to read it.
type state struct {
	// Seen are the keys of the newest commands.
	Seen []string `json:"seen,omitempty"`
	// Uncleared is the key of the command whose value may still be in the
	// cloud.
	Uncleared string    `json:"uncleared,omitempty"`
	Queue     []queued  `json:"queue,omitempty"`
	Outcomes  []Outcome `json:"outcomes,omitempty"`
}

// queued is a command that was taken.
type queued struct {
	ID      string `json:"id"`
	Items   []Item `json:"items"`
	Done    int    `json:"done,omitempty"`    // items
	Started bool   `json:"started,omitempty"` // Install was called for the next items
	Starts  int    `json:"starts,omitempty"`  // how often, without an answer
	Tries   int    `json:"tries,omitempty"`
	Output  string `json:"output,omitempty"` // of the items that are done
	Error   string `json:"error,omitempty"`  // of the last try
}

// Outcome is what fetch_status gets when a command is done.
type Outcome struct {
	ID   string `json:"id"`
	Text string `json:"text"`
	// Sending says that the text may be there already.
	Sending bool `json:"sending,omitempty"`
}

// Status is a command as engine_report shows it.
type Status struct {
	ID    string   `json:"id"`
	Names []string `json:"names"`
	State string   `json:"state"` // queued, installing, waiting
	Error string   `json:"error,omitempty"`
}

// Queue holds the commands that were taken, in a file. It is safe for concurrent
// use; Run is for one goroutine.
type Queue struct {
	Path       string
	Installers []Installer
	// Fetch downloads an item for Job.Fetch. Files of commands that are done
	// are Forget's.
	Fetch  func(ctx context.Context, id string, item Item) (path string, err error)
	Forget func(id string)
	// Told is called with what Job.Tell was, as a line that names the command;
	// nil: nobody wants to know.
	Told func(line string)
	// Changed is called, not from within a call of the Queue, when there is an
	// outcome to report.
	Changed func()
	Log     *slog.Logger

	write func(path string, data []byte, mode os.FileMode) error // tests have another

	mu      sync.Mutex
	state   state
	busy    bool // an Install runs
	wake    chan struct{}
	waiting time.Time // the head is not tried before
}

// Open reads the queue's file. The error is for a report: the queue works, but a
// garbled file was put aside, as NAME.garbled.
func (q *Queue) Open() error {
	q.wake = make(chan struct{}, 1)
	if q.write == nil {
		q.write = durable.WriteFile
	}
	data, err := durable.ReadFile(q.Path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var st state
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	if err == nil {
		err = st.check()
	}
	if err != nil {
		err = fmt.Errorf("read the commands in %s: %w; they are forgotten, and what is in engine_fetch is taken again", q.Path, err)
		return errors.Join(err, os.Rename(q.Path, q.Path+".garbled"))
	}
	q.state = st
	return nil
}

// check says whether a state can be worked with.
func (s state) check() error {
	for _, c := range s.Queue {
		if err := (Item{Name: c.ID}).check(); err != nil { // it becomes that of a folder
			return fmt.Errorf("a command's ID: %w", err)
		}
		if c.Done < 0 || c.Done >= len(c.Items) || c.Tries < 0 || c.Starts < 0 {
			return fmt.Errorf("command %.80q has %d of %d items done, in %d tries", c.ID, c.Done, len(c.Items), c.Tries)
		}
		for _, item := range c.Items {
			if err := item.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// save changes the state, durably, or not at all.
func (q *Queue) save(change func(*state)) error {
	next := state{
		Seen: slices.Clone(q.state.Seen), Uncleared: q.state.Uncleared,
		Queue: slices.Clone(q.state.Queue), Outcomes: slices.Clone(q.state.Outcomes),
	}
	change(&next)
	next.Seen = next.Seen[max(0, len(next.Seen)-maxSeen):]
	next.Outcomes = next.Outcomes[max(0, len(next.Outcomes)-maxOutcomes):]
	data, err := json.Marshal(next)
	for err == nil && len(data) >= maxState && len(next.Outcomes) > 0 { // a file that is too long would not be read
		next.Outcomes = next.Outcomes[1:]
		data, err = json.Marshal(next)
	}
	if err != nil {
		return err
	}
	if err := q.write(q.Path, append(data, '\n'), 0o600); err != nil {
		return err
	}
	q.state = next
	return nil
}

// Take takes the command in a value of engine_fetch that was written at this
// time, zero if that is not known. It returns once the command is on the disk, or
// was before: then the value can be cleared, and Cleared called. A command that
// is none has an outcome that says why.
func (q *Queue) Take(value string, at time.Time) (taken bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	id := key(value, at)
	if slices.Contains(q.state.Seen, id) {
		return false, nil
	}
	if q.uncleared(value, at) {
		if timed(at) { // it may be pushed once more with this time, after it was cleared
			err = q.save(func(s *state) { s.Seen = append(s.Seen, id) })
		}
		if err != nil {
			return false, fmt.Errorf("note when a command was written: %w", err)
		}
		return false, nil
	}
	items, bad := Parse(value)
	if bad == nil && len(q.state.Queue) >= maxQueue {
		bad = fmt.Errorf("%d commands wait already", maxQueue)
	}
	if !timed(at) { // it may come again
		id = fmt.Sprintf("x%x-%s", rand.Uint64(), strings.TrimPrefix(id, "0-"))
	}
	err = q.save(func(s *state) {
		s.Seen = append(s.Seen, id)
		s.Uncleared = id
		if bad != nil {
			s.Outcomes = append(s.Outcomes, Outcome{ID: id, Text: statusLine(id, "refused: "+reason(bad))})
		} else {
			s.Queue = append(s.Queue, queued{ID: id, Items: items})
		}
	})
	if err != nil {
		return false, fmt.Errorf("take a command: %w", err)
	}
	if bad != nil {
		q.Log.Warn("command refused", "id", id, "why", bad)
	} else {
		q.Log.Info("command taken", "id", id, "install", names(items))
	}
	q.poke()
	return true, nil
}

// uncleared says whether this is the command that may not be cleared yet. If it is
// not known when it was written, the same text is the same command. HTTP and MQTT
// may not round its time in the same way.
func (q *Queue) uncleared(value string, at time.Time) bool {
	prefix, sum, _ := strings.Cut(q.state.Uncleared, "-")
	_, other, _ := strings.Cut(key(value, at), "-")
	if q.state.Uncleared == "" || sum != other {
		return false
	}
	seconds, err := strconv.ParseInt(prefix, 10, 64)
	return !timed(at) || err != nil || at.Unix()-seconds >= -2 && at.Unix()-seconds <= 2
}

// Uncleared says whether the value is that of the newest command, which may not be
// cleared yet.
func (q *Queue) Uncleared(value string, at time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.uncleared(value, at)
}

// Cleared says that the value of the newest command is no longer in the cloud.
func (q *Queue) Cleared() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state.Uncleared == "" {
		return nil
	}
	return q.save(func(s *state) { s.Uncleared = "" })
}

// Newest is when the newest command that was taken was written, as far as that is
// known; zero if nothing is.
func (q *Queue) Newest() (newest time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range q.state.Seen {
		prefix, _, _ := strings.Cut(id, "-")
		if seconds, err := strconv.ParseInt(prefix, 10, 64); err == nil && seconds > newest.Unix() {
			newest = time.Unix(seconds, 0)
		}
	}
	return newest
}

// Outcomes returns what is to be reported, in order.
func (q *Queue) Outcomes() []Outcome {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.state.Outcomes)
}

// Sending says that an outcome is about to be reported. If the engine ends
// meanwhile, Outcomes tells later that it may have been.
func (q *Queue) Sending(id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.save(func(s *state) {
		for i := range s.Outcomes {
			s.Outcomes[i].Sending = s.Outcomes[i].Sending || s.Outcomes[i].ID == id
		}
	})
}

// Sent forgets an outcome that was reported.
func (q *Queue) Sent(id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.save(func(s *state) {
		s.Outcomes = slices.DeleteFunc(s.Outcomes, func(o Outcome) bool { return o.ID == id })
	})
}

// Status returns the commands that are not done yet.
func (q *Queue) Status() []Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []Status
	for i, c := range q.state.Queue {
		st := Status{ID: c.ID, Names: names(c.Items[c.Done:]), State: "queued", Error: c.Error}
		if i == 0 && q.busy {
			st.State = "installing"
		} else if i == 0 && time.Now().Before(q.waiting) {
			st.State = "waiting"
		}
		all = append(all, st)
	}
	return all
}

// Holds says whether the files of a command are still needed.
func (q *Queue) Holds(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.state.Queue, func(c queued) bool { return c.ID == id })
}

func names(items []Item) (names []string) {
	for _, item := range items {
		names = append(names, item.label())
	}
	return names
}

// done says what was done, by verbs.
func done(items []Item) string {
	var parts []string
	for _, verb := range []struct{ do, done string }{{Uninstall, "uninstalled"}, {Rollback, "rolled back"}, {Install, "installed"}} {
		var names []string
		for _, item := range items {
			if item.Do == verb.do {
				names = append(names, item.Name)
			}
		}
		if names != nil {
			parts = append(parts, verb.done+": "+strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// Order puts a command of the gateway's own into the queue, unless it is there
// already, or how it ended is still to be reported.
func (q *Queue) Order(id string, items ...Item) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if slices.ContainsFunc(q.state.Queue, func(c queued) bool { return c.ID == id }) ||
		slices.ContainsFunc(q.state.Outcomes, func(o Outcome) bool { return o.ID == id }) || len(q.state.Queue) >= maxQueue {
		return nil
	}
	if err := q.save(func(s *state) { s.Queue = append(s.Queue, queued{ID: id, Items: items}) }); err != nil {
		return fmt.Errorf("order %s: %w", id, err)
	}
	q.poke()
	return nil
}

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Run does the commands one after the other, until ctx ends.
func (q *Queue) Run(ctx context.Context) {
	for {
		for ctx.Err() == nil && q.Step(ctx) {
		}
		q.mu.Lock()
		var timer <-chan time.Time
		if len(q.state.Queue) > 0 {
			// Also one that could not be saved.
			timer = time.After(max(time.Until(q.waiting), time.Second))
		}
		q.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		case <-timer:
		}
	}
}

// Step does the next part of the first command, and says whether something was
// done: not if there is none, or it has to wait.
func (q *Queue) Step(ctx context.Context) bool {
	q.mu.Lock()
	if len(q.state.Queue) == 0 || time.Now().Before(q.waiting) {
		q.mu.Unlock()
		return false
	}
	c := q.state.Queue[0]
	installer, items := q.next(c)
	job := Job{ID: fmt.Sprintf("%s-%d", c.ID, c.Done), Items: items, Again: c.Started}
	job.Fetch = func(ctx context.Context, item Item) (string, error) { return q.Fetch(ctx, c.ID, item) }
	job.Tell = func(text string) {
		if q.Told != nil {
			q.Told(statusLine(c.ID, reason(errors.New(text))))
		}
	}
	if installer != nil {
		job.Starts = c.Starts + 1
		if err := q.save(func(s *state) { s.Queue[0].Started, s.Queue[0].Starts = true, job.Starts }); err != nil {
			q.Log.Error("begin a command", "id", c.ID, "err", err)
			q.waiting = time.Now().Add(firstWait)
			q.mu.Unlock()
			return false
		}
	}
	q.busy = true
	q.mu.Unlock()

	var output string
	err := fmt.Errorf("this firmware has nothing that installs such a file: %.200q", items[0].label())
	if installer != nil {
		output, err = install(ctx, installer, job)
	}

	q.mu.Lock()
	q.busy = false
	defer q.mu.Unlock()
	if ctx.Err() != nil && err != nil {
		// The engine ends, in good order; the next one is told that it was begun.
		if saveErr := q.save(func(s *state) { s.Queue[0].Starts = c.Starts }); saveErr != nil {
			q.Log.Error("note the end", "id", c.ID, "err", saveErr)
		}
		return false
	}
	return q.end(c, items, output, err)
}

// next returns the items at the head of a command that go together, and who
// installs them, which is nil if nobody does.
func (q *Queue) next(c queued) (Installer, []Item) {
	who := func(item Item) Installer {
		for _, i := range q.Installers {
			if i.Takes(item) {
				return i
			}
		}
		return nil
	}
	first, n := who(c.Items[c.Done]), 1
	for c.Done+n < len(c.Items) && who(c.Items[c.Done+n]) == first {
		n++
	}
	return first, c.Items[c.Done : c.Done+n]
}

// install calls an installer, whose panic is an error like any other, also one in
// the methods of its error.
func install(ctx context.Context, i Installer, job Job) (output string, err error) {
	defer func() {
		if r := recover(); r != nil {
			if r, ok := r.(powerCut); ok {
				panic(r)
			}
			output, err = string(debug.Stack()), fmt.Errorf("panic: %v", r)
		}
	}()
	output, err = i.Install(ctx, job)
	again := errors.As(err, new(later))
	if err != nil {
		err = errors.New(reason(err))
	}
	if again {
		err = Later(err)
	}
	return output, err
}

// powerCut is for tests.
type powerCut struct{ error }

// end notes how a part of the first command ended. q.mu is held.
func (q *Queue) end(c queued, items []Item, output string, err error) bool {
	output = limited(output)
	if again := (later{}); errors.As(err, &again) && c.Tries < maxTries-1 {
		wait := min(firstWait<<min(c.Tries, 20), longest)
		q.waiting = time.Now().Add(wait/2 + rand.N(wait/2))
		q.Log.Warn("command has to wait", "id", c.ID, "err", err, "until", q.waiting.UTC().Format(time.RFC3339))
		if err := q.save(func(s *state) {
			s.Queue[0].Tries++
			s.Queue[0].Starts = 0
			s.Queue[0].Error = reason(again)
		}); err != nil {
			q.Log.Error("note a try", "id", c.ID, "err", err)
		}
		return true
	}
	last := c.Done+len(items) == len(c.Items)
	what := strings.Join(names(items), ", ")
	result := done(items)
	if err != nil {
		result = fmt.Sprintf("failed: %s: %s", what, reason(err))
		if rest := c.Items[c.Done+len(items):]; len(rest) > 0 {
			result += "; not tried: " + strings.Join(names(rest), ", ")
		}
	}
	text := c.Output + withNewline(output)
	saved := q.save(func(s *state) {
		if err == nil && !last {
			s.Queue[0] = queued{ID: c.ID, Items: c.Items, Done: c.Done + len(items), Output: limited(text + statusLine(c.ID, result) + "\n")}
			return
		}
		s.Queue = s.Queue[1:]
		s.Outcomes = append(s.Outcomes, Outcome{ID: c.ID, Text: limited(text) + statusLine(c.ID, result)})
	})
	if saved != nil {
		q.Log.Error("note that a command is done", "id", c.ID, "err", saved)
		q.waiting = time.Now().Add(firstWait)
		return false
	}
	q.Log.Info("command", "id", c.ID, "result", result)
	q.waiting = time.Time{}
	if err != nil || last {
		if q.Forget != nil {
			q.Forget(c.ID)
		}
		if q.Changed != nil {
			go q.Changed()
		}
	}
	return true
}

// statusLine is the last line of what fetch_status gets. The ID makes it one of
// its own.
func statusLine(id, result string) string { return fmt.Sprintf("gwe: command %s %s", id, result) }

func withNewline(s string) string {
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return s
}

// reason is an error as a part of a status line: it is one line, and not too long.
func reason(err error) string {
	s := strings.ToValidUTF8(strings.TrimSpace(err.Error()), "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ReplaceAll(s, "\n", "; "))
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "..."
	}
	return s
}

// limited is text with the end of what is too long, which says more than the
// beginning.
func limited(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) <= maxOutput {
		return s
	}
	s = s[len(s)-maxOutput:]
	for !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return "...\n" + s
}
