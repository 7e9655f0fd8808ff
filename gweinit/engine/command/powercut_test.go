package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// story is a gateway and a cloud, in which the power can go at every step that
// lasts: a write to the gateway's disk, and a request that the cloud has taken.
type story struct {
	t    *testing.T
	path string
	q    *Queue

	clock     int64  // of the cloud, in seconds; it goes on with each write there
	fetch     string // engine_fetch
	written   int64  // when
	statuses  []string
	installed []string // IDs of jobs that the installer has committed, durable
	twice     []string

	steps int   // that have been
	cuts  []int // steps at which the power goes
}

// step is one that lasts: the power may go before it, or after.
func (s *story) step(do func()) {
	s.cut()
	do()
	s.cut()
}

func (s *story) cut() {
	s.steps++
	if slices.Contains(s.cuts, s.steps) {
		panic(powerCut{fmt.Errorf("the power goes at step %d", s.steps)})
	}
}

func (s *story) set(value string) {
	s.clock++
	s.fetch, s.written = value, s.clock
}

func (s *story) Takes(name string) bool {
	return strings.HasPrefix(name, "app") || strings.HasPrefix(name, "fw")
}

// other is an installer beside the first.
type other struct{ *story }

func (o other) Takes(name string) bool { return strings.HasPrefix(name, "fw") }

// Install commits in one step, as an installer has to.
func (s *story) Install(_ context.Context, job Job) (string, error) {
	if slices.Contains(s.installed, job.ID) {
		if !job.Again {
			s.twice = append(s.twice, job.ID)
		}
		return "output of " + job.Items[0].Name, nil
	}
	s.step(func() { s.installed = append(s.installed, job.ID) })
	return "output of " + job.Items[0].Name, nil
}

// boot starts the engine.
func (s *story) boot() {
	s.q = &Queue{
		Path: s.path, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Installers: []Installer{other{s}, s},
		write: func(path string, data []byte, mode os.FileMode) (err error) {
			s.step(func() { err = os.WriteFile(path, data, mode) })
			return err
		},
	}
	if err := s.q.Open(); err != nil {
		s.t.Fatal(err)
	}
}

// work is what the engine does at each check-in.
func (s *story) work() {
	s.must(s.check())
	for s.q.Step(context.Background()) {
	}
	for _, o := range s.q.Outcomes() {
		there := o.Sending && len(s.statuses) > 0 && s.statuses[len(s.statuses)-1] == o.Text
		if !o.Sending {
			s.must(s.q.Sending(o.ID))
		}
		if !there {
			s.step(func() { s.statuses = append(s.statuses, o.Text) })
		}
		s.must(s.q.Sent(o.ID))
	}
}

// check reads engine_fetch, takes it, and clears it.
func (s *story) check() error {
	if s.fetch == "" {
		return s.q.Cleared()
	}
	if _, err := s.q.Take(s.fetch, time.Unix(s.written, 0)); err != nil {
		return err
	}
	s.step(func() { s.set("") })
	return s.q.Cleared()
}

func (s *story) must(err error) {
	if err != nil {
		s.t.Fatal(err)
	}
}

// powered runs until the power goes; it says whether that happened.
func (s *story) powered(run func()) (cut bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(powerCut); !ok {
				panic(r)
			}
			cut = true
		}
	}()
	run()
	return false
}

// The power goes at every step between a command and the report of how it ended,
// once and twice: each command is done once, and told once.
func TestPowerCuts(t *testing.T) {
	install := func(names ...string) string {
		var items []string
		for _, n := range names {
			items = append(items, fmt.Sprintf(`{"name": %q}`, n))
		}
		return `{"install": [` + strings.Join(items, ",") + `]}`
	}
	total := 0
	for _, tt := range []struct {
		name     string
		commands []string // each is written when the one before was told
		installs int
		told     []string // parts of fetch_status, in order
	}{
		{"one", []string{install("app.v1")}, 1, []string{"installed: app.v1"}},
		{"two", []string{install("app.v1"), install("app.v2")}, 2, []string{"installed: app.v1", "installed: app.v2"}},
		{"the same twice", []string{install("app.v1"), install("app.v1")}, 2, []string{"installed: app.v1", "installed: app.v1"}},
		{"refused", []string{"rubbish", install("app.v1")}, 1, []string{"refused: the command is no JSON", "installed: app.v1"}},
		{"nobody installs it", []string{install("what")}, 0, []string{"failed: what"}},
		{"two steps", []string{install("app.v1", "app.v2", "fw.v3")}, 2, []string{"installed: fw.v3"}},
		{"the second step fails", []string{install("app.v1", "what", "fw.v3")}, 1, []string{"failed: what: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			play := func(cuts ...int) (steps int) {
				s := &story{t: t, path: filepath.Join(dir, "commands.json"), cuts: cuts}
				os.Remove(s.path)
				for i, command := range tt.commands {
					s.set(command)
					for round := 0; len(s.statuses) <= i || s.fetch != ""; round++ {
						if round == 10 {
							t.Fatalf("cuts at %v: command %d is never told; told %q", cuts, i, s.statuses)
						}
						if !s.powered(func() {
							if s.q == nil {
								s.boot()
							}
							s.work()
						}) {
							continue
						}
						s.q = nil
					}
				}
				// A boot after all that, and a check-in, change nothing.
				s.cuts = nil
				s.boot()
				s.work()
				if len(s.installed) != tt.installs || len(s.twice) > 0 {
					t.Errorf("cuts at %v: installed %q, again %q, want %d", cuts, s.installed, s.twice, tt.installs)
				}
				if len(s.statuses) != len(tt.told) {
					t.Errorf("cuts at %v: told %q, want %q", cuts, s.statuses, tt.told)
				}
				for i, part := range tt.told {
					if i < len(s.statuses) && !strings.Contains(s.statuses[i], part) {
						t.Errorf("cuts at %v: told %q, want %q", cuts, s.statuses[i], part)
					}
				}
				if s.fetch != "" || s.q.state.Uncleared != "" || len(s.q.state.Queue)+len(s.q.state.Outcomes) > 0 {
					t.Errorf("cuts at %v: left %q, %+v", cuts, s.fetch, s.q.state)
				}
				return s.steps
			}
			n := play()
			for a := 1; a <= n; a++ {
				// With one cut there are more steps: those of the second boot.
				m := play(a)
				total++
				for b := a + 1; b <= m; b++ {
					play(a, b)
					total++
				}
			}
		})
	}
	t.Logf("%d power cuts and pairs of them", total)
}
