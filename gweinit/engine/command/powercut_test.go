package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var all = flag.Bool("all", false, "try all pairs of faults, which takes minutes")

// fault is what happens at a step of a story.
type fault int

const (
	power   fault = 1 + iota // it goes
	failure                  // the disk, the network or the installer returns an error
)

// story is a gateway and a cloud, in which something can go wrong at every step
// that lasts: a write to the gateway's disk, a request that the cloud has taken,
// and the commit of an installer.
type story struct {
	t     *testing.T
	path  string
	disk  []byte              // the queue's file; it is written when a boot reads it
	q     *Queue              // nil: the power is off
	times func(look int) bool // whether the cloud tells times, at this look
	pushs bool                // the cloud pushes each command, late, and again

	clock     int64  // of the cloud, in seconds; it goes on with each write there
	fetch     string // engine_fetch
	written   int64  // when
	last      string // command written, and when
	lastAt    int64
	statuses  []string
	installed []string // IDs of jobs that the installer has committed, durable
	twice     []string

	next   string // command that somebody writes at step at, or as soon as it may be
	at     int
	window bool // between the engine's read and its clearing, where the cloud cannot keep a command

	looks  int
	steps  int           // that have been
	faults map[int]fault // by step
}

// step is one that lasts: something may go wrong before it, or after.
func (s *story) step(do func()) error {
	if err := s.mark(); err != nil {
		return err
	}
	do()
	return s.mark()
}

func (s *story) mark() error {
	s.steps++
	// One that is written over a command that was not taken is the user's choice.
	if s.next != "" && s.steps >= s.at && !s.window && s.q != nil && len(s.q.state.Seen) > 0 {
		s.order(s.next)
		s.next = ""
	}
	switch s.faults[s.steps] {
	case power:
		panic(powerCut{fmt.Errorf("the power goes at step %d", s.steps)})
	case failure:
		return fmt.Errorf("failure at step %d", s.steps)
	}
	return nil
}

// order is a person's write of engine_fetch.
func (s *story) order(value string) {
	s.set(value)
	s.last, s.lastAt = value, s.written
}

func (s *story) set(value string) {
	s.clock += 10
	s.fetch, s.written = value, s.clock
}

func (s *story) Takes(item Item) bool {
	return strings.HasPrefix(item.Name, "app") || strings.HasPrefix(item.Name, "fw")
}

// other is an installer beside the first.
type other struct{ *story }

func (o other) Takes(item Item) bool { return strings.HasPrefix(item.Name, "fw") }

// Install commits in one step, as an installer has to.
func (s *story) Install(_ context.Context, job Job) (string, error) {
	if slices.Contains(s.installed, job.ID) {
		if !job.Again {
			s.twice = append(s.twice, job.ID)
		}
	} else if err := s.step(func() { s.installed = append(s.installed, job.ID) }); err != nil {
		return "", Later(err)
	}
	return "output of " + job.Items[0].Name, nil
}

// boot starts the engine.
func (s *story) boot() {
	os.Remove(s.path)
	if s.disk != nil {
		if err := os.WriteFile(s.path, s.disk, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	s.q = &Queue{
		Path: s.path, Log: slog.New(slog.DiscardHandler),
		Installers: []Installer{other{s}, s},
		write: func(_ string, data []byte, _ os.FileMode) error {
			return s.step(func() { s.disk = slices.Clone(data) })
		},
	}
	if err := s.q.Open(); err != nil {
		s.t.Fatal(err)
	}
}

// work is what the engine does at each check-in.
func (s *story) work() error {
	s.q.waiting = time.Time{} // there is time enough between two
	looked := s.look()
	for s.q.Step(context.Background()) {
	}
	if s.pushs {
		looked = errors.Join(looked, s.take(s.last, time.Unix(s.lastAt, 0)))
	}
	return errors.Join(looked, s.report())
}

// look is the engine's fetch.
func (s *story) look() error {
	s.looks++
	switch {
	case s.fetch == "":
		return s.q.Cleared()
	case s.times != nil && !s.times(s.looks):
		return s.take(s.fetch, time.Time{})
	}
	return s.take(s.fetch, time.Unix(s.written, 0))
}

// take is the engine's: it takes a command, and clears it if it is still there.
func (s *story) take(value string, at time.Time) error {
	if _, err := s.q.Take(value, at); err != nil {
		return err
	}
	if !s.q.Uncleared(value, at) {
		return nil
	}
	if s.fetch != "" {
		if s.fetch != value {
			return s.look()
		}
		s.window = true
		err := s.step(func() { s.set(""); s.window = false })
		s.window = false
		if err != nil {
			return err
		}
	}
	return s.q.Cleared()
}

// report is the engine's reportOutcomes.
func (s *story) report() error {
	for _, o := range s.q.Outcomes() {
		there := o.Sending && len(s.statuses) > 0 && s.statuses[len(s.statuses)-1] == o.Text
		if !o.Sending {
			if err := s.q.Sending(o.ID); err != nil {
				return err
			}
		}
		if !there {
			if err := s.step(func() { s.statuses = append(s.statuses, o.Text) }); err != nil {
				return err
			}
		}
		if err := s.q.Sent(o.ID); err != nil {
			return err
		}
	}
	return nil
}

// round is a check-in, after a boot if the power has gone.
func (s *story) round() {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(powerCut); !ok {
				panic(r)
			}
			s.q, s.window = nil, false
		}
	}()
	if s.q == nil {
		s.boot()
		if s.mark() != nil { // somebody may write before the first look
			return
		}
	}
	_ = s.work() // a failure is one of the story's: the next check-in tries again
}

// storyTest is a story and how it has to end.
type storyTest struct {
	name     string
	commands []string // each is written when the one before was told
	installs int
	told     []string // parts of fetch_status, in order
	times    func(look int) bool
	pushs    bool
	during   bool // the second command is written at any step of the first
}

// play plays it with these faults, and returns how many steps it had.
func (tt storyTest) play(t *testing.T, dir string, at int, faults map[int]fault) int {
	s := &story{t: t, path: filepath.Join(dir, "commands.json"), faults: faults, times: tt.times, pushs: tt.pushs, at: at}
	where := func() string {
		return fmt.Sprintf("faults (%d power, %d failure) %v, second command at step %d", power, failure, faults, at)
	}
	commands := tt.commands
	if tt.during {
		s.next, commands = commands[1], commands[:1]
	}
	for i, c := range commands {
		s.order(c)
		// Without times the same text is another command only once the clearing is
		// noted, so nobody writes it before.
		for round := 0; len(s.statuses) <= i || s.fetch != "" || s.next != "" || tt.during && len(s.statuses) < len(tt.told) ||
			tt.times != nil && (s.q == nil || s.q.state.Uncleared != ""); round++ {
			if round == 12 {
				t.Fatalf("%s: command %d is never told; installed %q, told %q, left %q, %+v", where(), i, s.installed, s.statuses, s.fetch, s.q)
			}
			if s.round(); round > 5 && s.next != "" { // the first has ended before that step
				s.order(s.next)
				s.next = ""
			}
		}
	}
	steps := s.steps
	// A boot after all that, and a check-in, change nothing.
	s.faults, s.q = nil, nil
	s.round()
	if len(s.installed) != tt.installs || len(s.twice) > 0 {
		t.Errorf("%s: installed %q, again %q, want %d", where(), s.installed, s.twice, tt.installs)
	}
	ok := len(s.statuses) == len(tt.told)
	for i, part := range tt.told {
		ok = ok && strings.Contains(s.statuses[i], part)
	}
	if !ok {
		t.Errorf("%s: told %q, want %q", where(), s.statuses, tt.told)
	}
	if s.fetch != "" || s.q.state.Uncleared != "" || len(s.q.state.Queue)+len(s.q.state.Outcomes) > 0 {
		t.Errorf("%s: left %q, %+v", where(), s.fetch, s.q.state)
	}
	return steps
}

// The power goes, or something fails, at every step between a command and the
// report of how it ended, once and twice: each command is done once, and told once.
func TestPowerCuts(t *testing.T) {
	a1, a2 := command("app.v1"), command("app.v2")
	in := func(names ...string) (told []string) {
		for _, n := range names {
			told = append(told, "installed: "+n)
		}
		return told
	}
	never := func(int) bool { return false }
	odd := func(look int) bool { return look%2 == 1 }
	even := func(look int) bool { return look%2 == 0 }
	var singles, pairs atomic.Int64
	t.Run("stories", func(t *testing.T) { // returns once the parallel ones have ended
		for _, tt := range []storyTest{
			{name: "one", commands: []string{a1}, installs: 1, told: in("app.v1")},
			{name: "two", commands: []string{a1, a2}, installs: 2, told: in("app.v1", "app.v2")},
			{name: "the same twice", commands: []string{a1, a1}, installs: 2, told: in("app.v1", "app.v1")},
			{name: "refused", commands: []string{"rubbish", a1}, installs: 1, told: []string{"refused: the command is no JSON", "installed: app.v1"}},
			{name: "nobody installs it", commands: []string{command("what")}, told: []string{"failed: what"}},
			{name: "two steps", commands: []string{command("app.v1", "app.v2", "fw.v3")}, installs: 2, told: in("fw.v3")},
			{name: "the second step fails", commands: []string{command("app.v1", "what", "fw.v3")}, installs: 1, told: []string{"failed: what: "}},
			{name: "no times", commands: []string{a1, a1}, installs: 2, told: in("app.v1", "app.v1"), times: never},
			{name: "times now and then", commands: []string{a1, a1}, installs: 2, told: in("app.v1", "app.v1"), times: odd},
			{name: "times then and now", commands: []string{a1, a1}, installs: 2, told: in("app.v1", "app.v1"), times: even},
			{name: "pushed too", commands: []string{a1, a1}, installs: 2, told: in("app.v1", "app.v1"), pushs: true},
			{name: "another meanwhile", commands: []string{a1, a2}, installs: 2, told: in("app.v1", "app.v2"), during: true},
			{name: "the same meanwhile", commands: []string{a1, a1}, installs: 2, told: in("app.v1", "app.v1"), during: true},
			{name: "rubbish meanwhile", commands: []string{command("app.v1", "fw.v1"), "rubbish"}, installs: 2, told: []string{"", ""}, during: true},
			{name: "another meanwhile, without times", commands: []string{a1, a2}, installs: 2, told: in("app.v1", "app.v2"), times: never, during: true},
			{name: "another meanwhile, pushed too", commands: []string{a1, a2}, installs: 2, told: in("app.v1", "app.v2"), pushs: true, during: true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				last := 1
				if tt.during {
					last = tt.play(t, dir, 1, nil)
				}
				for at := 1; at <= last; at++ {
					n := tt.play(t, dir, at, nil)
					for a := 1; a <= n && !t.Failed(); a++ {
						for _, fa := range []fault{power, failure} {
							if !*all && fa == failure && (at+a)%9 != 0 && tt.during {
								continue
							}
							// With a fault there are more steps: those of another boot.
							m := tt.play(t, dir, at, map[int]fault{a: fa})
							singles.Add(1)
							for b := a + 1; b <= m; b++ {
								for _, fb := range []fault{power, failure} {
									// Of what is not a pair of power cuts in one place, some.
									if !*all && (fa != power || fb != power) && (a+b)%16 != 0 || !*all && tt.during && (at+a+b)%97 != 0 {
										continue
									}
									tt.play(t, dir, at, map[int]fault{a: fa, b: fb})
									pairs.Add(1)
								}
							}
						}
					}
				}
			})
		}
	})
	t.Logf("%d faults alone, %d pairs of them", singles.Load(), pairs.Load())
}
