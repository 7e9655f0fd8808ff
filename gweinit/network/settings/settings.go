// Package settings keeps the network settings of a gateway, network.yaml.
//
// A change may cut a gateway off from those who could undo it. Once a gateway
// has checked in, each change is on trial: it has to bring a check-in within
// TrialTime, or the settings from before come back.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/durable"
)

// TrialTime is how long changed settings may go without a check-in.
const TrialTime = 10 * time.Minute

// settleTime is how soon after a change a check-in can still have come over
// the network from before.
const settleTime = 5 * time.Second

// maxSize is more than ParseNetwork takes.
const maxSize = 64 << 10

// Files, in the folder of the settings. No network.yaml, and a good one that is
// empty, are the settings of the image.
const (
	currentFile  = "network.yaml"
	goodFile     = "network.good.yaml" // with which the gateway has checked in
	rejectedFile = "network.rejected.yaml"
)

// Options are what Settings need. The functions must not call Settings.
type Options struct {
	Dir    string                  // /data/gwe
	Image  config.Network          // for what network.yaml does not say
	Apply  func(config.Network)    // sets up the network
	Record func(text []byte) error // keeps the good network.yaml outside of /data, too; empty: there is none
	Log    *slog.Logger
}

// Settings are the network settings. Methods may be called from any goroutine.
type Settings struct {
	Options

	recording sync.Mutex

	mu       sync.Mutex
	current  document // network.yaml
	good     document // to go back to
	hasGood  bool
	recorded bool
	changed  time.Time   // by Set
	trial    *time.Timer // nil when there is none
	status   Status
}

// document is the text of a network.yaml, empty if there is none, and what it
// leads to.
type document struct {
	text    []byte
	network config.Network
}

// Status is for reports.
type Status struct {
	Trial    bool   `json:"trial"`              // a check-in has to follow
	Error    string `json:"error,omitempty"`    // why network.yaml is not used
	Reverted string `json:"reverted,omitempty"` // the last change was undone: when and why
}

// Start reads the settings and applies them. What cannot be read or understood
// is an error, and the good settings, else those of the image, are applied.
func (s *Settings) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err, goodErr error
	s.current, _, err = s.load(currentFile)
	s.good, s.hasGood, goodErr = s.load(goodFile)
	if goodErr != nil && err == nil {
		s.hasGood = false // nothing to go back to, as before the first check-in
	}
	rejected, rejectedErr := readFile(filepath.Join(s.Dir, rejectedFile))
	// The current text in it is of a revert that the power cut short.
	if line, text, ok := bytes.Cut(rejected, []byte("\n")); ok && !bytes.Equal(text, s.current.text) {
		s.status.Reverted = string(bytes.TrimPrefix(line, []byte("# ")))
	}
	if err != nil {
		s.status.Error = err.Error()
		s.Apply(s.good.network)
	} else {
		s.Apply(s.current.network)
		s.tryOut()
	}
	return errors.Join(err, goodErr, rejectedErr)
}

// load reads a document. One that is not there, or of no use, is as an empty
// one: that leads to the settings of the image.
func (s *Settings) load(name string) (d document, there bool, err error) {
	path := filepath.Join(s.Dir, name)
	text, err := readFile(path)
	if err == nil {
		if d, err = s.parse(text); err == nil {
			return d, text != nil, nil
		}
		err = fmt.Errorf("%s: %w", path, err)
	}
	return document{nil, s.Image}, true, err
}

// readFile returns nil for a file that is not there.
func readFile(path string) ([]byte, error) {
	text, err := durable.ReadFile(path, maxSize)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return text, err
}

func (s *Settings) parse(text []byte) (document, error) {
	if len(text) == 0 {
		return document{nil, s.Image}, nil
	}
	n, err := config.ParseNetwork(text)
	if err != nil {
		return document{}, err
	}
	return document{bytes.Clone(text), n.Over(s.Image)}, nil
}

// tryOut begins a trial if the current settings are not the good ones.
func (s *Settings) tryOut() {
	if s.trial != nil {
		s.trial.Stop()
		s.trial = nil
	}
	s.status.Trial = s.hasGood && !bytes.Equal(s.current.text, s.good.text)
	if !s.status.Trial {
		return
	}
	s.Log.Info("network settings on trial", "for", TrialTime)
	var timer *time.Timer
	timer = time.AfterFunc(TrialTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.trial == timer { // else it has ended meanwhile
			s.revert()
		}
	})
	s.trial = timer
}

// Set makes text network.yaml, durably, and applies it. An error says that
// nothing has changed; the settings are checked before.
func (s *Settings) Set(text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set(text)
}

// Reload applies network.yaml as somebody has edited it.
func (s *Settings) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := readFile(filepath.Join(s.Dir, currentFile))
	if err != nil {
		return err
	}
	return s.set(text)
}

func (s *Settings) set(text []byte) error {
	d, err := s.parse(text)
	if err != nil {
		return err
	}
	if bytes.Equal(text, s.current.text) && s.status.Error == "" {
		return nil
	}
	if err := s.write(currentFile, text); err != nil {
		return err
	}
	s.current, s.status, s.changed = d, Status{}, time.Now()
	if err := durable.Remove(filepath.Join(s.Dir, rejectedFile)); err != nil {
		s.Log.Error("network settings", "err", err)
	}
	s.Log.Info("network settings changed")
	s.Apply(d.network)
	s.tryOut()
	return nil
}

// write writes a file. An empty network.yaml is written, too: one that is
// missing comes back from the identity record.
func (s *Settings) write(name string, text []byte) error {
	return durable.WriteFile(filepath.Join(s.Dir, name), text, 0o600)
}

// CheckedIn says that the gateway has just reached its cloud: the current
// settings are good. Right after a change that proves nothing, and the trial
// goes on: Status says so, and another check-in should follow.
func (s *Settings) CheckedIn() {
	if s.confirm() {
		s.record()
	}
}

// confirm is false if nothing is confirmed.
func (s *Settings) confirm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Error != "" || time.Since(s.changed) < settleTime {
		return false // current is not what is applied, or hardly so
	}
	if s.trial != nil {
		s.trial.Stop()
		s.trial, s.status.Trial = nil, false
		s.Log.Info("network settings confirmed by a check-in")
	}
	if !s.hasGood || !bytes.Equal(s.current.text, s.good.text) {
		if err := s.write(goodFile, s.current.text); err != nil {
			s.Log.Error("network settings: remember that they are good", "err", err)
			return false // the next check-in tries again
		}
		s.good, s.hasGood, s.recorded = s.current, true, false
	}
	return true
}

// record has the good settings recorded. That may take its time, for which
// nobody else has to wait.
func (s *Settings) record() {
	s.recording.Lock()
	defer s.recording.Unlock()
	s.mu.Lock()
	good, done := s.good.text, s.recorded
	s.mu.Unlock()
	if done {
		return
	}
	if err := s.Record(good); err != nil {
		s.Log.Error("network settings: record them", "err", err)
		return // the next check-in tries again
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recorded = bytes.Equal(good, s.good.text)
}

// revert brings the good settings back.
func (s *Settings) revert() {
	reason := fmt.Sprintf("no check-in within %v", TrialTime)
	s.trial, s.status = nil, Status{Reverted: fmt.Sprintf("%s: reverted: %s", time.Now().UTC().Format(time.RFC3339), reason)}
	s.Log.Error("network settings", "reverted", reason, "rejected", filepath.Join(s.Dir, rejectedFile))
	// The order: with the power gone in between, the next boot tries again.
	err := errors.Join(
		s.write(rejectedFile, append([]byte("# "+s.status.Reverted+"\n"), s.current.text...)),
		s.write(currentFile, s.good.text),
	)
	if err != nil {
		s.Log.Error("network settings: keep the good ones", "err", err)
	}
	s.current = s.good
	s.Apply(s.current.network)
}

// Status says how the settings stand.
func (s *Settings) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}
