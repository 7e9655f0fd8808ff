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
	"os"
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

	mu       sync.Mutex
	current  []byte // network.yaml, nil if there is none
	good     []byte
	hasGood  bool
	recorded bool
	applied  time.Time
	trial    *time.Timer // nil when there is none
	status   Status
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
	current, n, err := s.load(currentFile)
	good, goodNetwork, goodErr := s.load(goodFile)
	s.current, s.good, s.hasGood = current, good, !errors.Is(goodErr, fs.ErrNotExist)
	if !s.hasGood {
		goodErr = nil
	}
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		err = nil
		if goodErr != nil { // nothing to go back to, as before the first check-in
			s.good, s.hasGood = nil, false
		}
	default:
		s.status.Error = err.Error()
		if n = goodNetwork; goodErr != nil { // a change is tried against what is applied
			s.good, n = nil, s.Image
		}
	}
	rejected, rejectedErr := readFile(filepath.Join(s.Dir, rejectedFile))
	line, rest, _ := bytes.Cut(rejected, []byte("\n"))
	if rejectedErr == nil && !bytes.Equal(rest, s.current) { // else the power went before it was reverted
		s.status.Reverted = string(bytes.TrimPrefix(line, []byte("# ")))
	}
	s.apply(n)
	if s.status.Error == "" {
		s.tryOut()
	}
	if errors.Is(rejectedErr, fs.ErrNotExist) {
		rejectedErr = nil
	}
	return errors.Join(err, goodErr, rejectedErr)
}

// load returns the text of a file and the settings that it leads to. For a file
// that is not there they are the image's, beside the error.
func (s *Settings) load(name string) (text []byte, n config.Network, err error) {
	path := filepath.Join(s.Dir, name)
	text, err = readFile(path)
	if err != nil {
		return nil, s.Image, err
	}
	if n, err = s.parse(text); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return text, n, err
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxSize {
		err = fmt.Errorf("%s has %d bytes, at most %d", path, info.Size(), maxSize)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// parse returns the settings that a network.yaml leads to.
func (s *Settings) parse(text []byte) (config.Network, error) {
	if len(text) == 0 {
		return s.Image, nil
	}
	n, err := config.ParseNetwork(text)
	if err != nil {
		return config.Network{}, err
	}
	return n.Over(s.Image), nil
}

func (s *Settings) apply(n config.Network) {
	s.applied = time.Now()
	s.Apply(n)
}

// tryOut begins a trial if the current settings are not the good ones.
func (s *Settings) tryOut() {
	if s.trial != nil {
		s.trial.Stop()
		s.trial = nil
	}
	s.status.Trial = s.hasGood && !bytes.Equal(s.current, s.good)
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
	n, err := s.parse(text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(text, s.current) && s.status.Error == "" {
		return nil
	}
	if err := s.write(currentFile, text); err != nil {
		return err
	}
	s.current, s.status = bytes.Clone(text), Status{}
	if err := durable.Remove(filepath.Join(s.Dir, rejectedFile)); err != nil {
		s.Log.Error("network settings", "err", err)
	}
	s.Log.Info("network settings changed")
	s.apply(n)
	s.tryOut()
	return nil
}

// Reload applies network.yaml as somebody has edited it.
func (s *Settings) Reload() error {
	text, err := readFile(filepath.Join(s.Dir, currentFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.Set(text)
}

// write writes a file; an empty network.yaml is none.
func (s *Settings) write(name string, text []byte) error {
	path := filepath.Join(s.Dir, name)
	if len(text) == 0 && name == currentFile {
		return durable.Remove(path)
	}
	return durable.WriteFile(path, text, 0o600)
}

// CheckedIn says that the gateway has just reached its cloud: the current
// settings are good. Right after a change that proves nothing, and the trial
// goes on: Status says so, and another check-in should follow.
func (s *Settings) CheckedIn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Error != "" || time.Since(s.applied) < settleTime {
		return // current is not what is applied, or hardly so
	}
	if s.trial != nil {
		s.trial.Stop()
		s.trial, s.status.Trial = nil, false
		s.Log.Info("network settings confirmed by a check-in")
	}
	if !s.hasGood || !bytes.Equal(s.current, s.good) {
		if err := s.write(goodFile, s.current); err != nil {
			s.Log.Error("network settings: remember that they are good", "err", err)
			return // the next check-in tries again
		}
		s.good, s.hasGood, s.recorded = s.current, true, false
	}
	if !s.recorded {
		if err := s.Record(s.good); err != nil {
			s.Log.Error("network settings: record them", "err", err)
			return
		}
		s.recorded = true
	}
}

// revert brings the good settings back.
func (s *Settings) revert() {
	s.trial, s.status.Trial = nil, false
	n, err := s.parse(s.good)
	if err != nil { // cannot be: it has been read before
		s.Log.Error("network settings: no check-in, and the good ones are of no use", "err", err)
		return
	}
	s.status.Reverted = fmt.Sprintf("%s: reverted: no check-in within %v", time.Now().UTC().Format(time.RFC3339), TrialTime)
	s.Log.Error("network settings", "reverted", fmt.Sprintf("no check-in within %v", TrialTime), "rejected", filepath.Join(s.Dir, rejectedFile))
	// The order: with the power gone in between, the next boot tries again.
	err = errors.Join(
		s.write(rejectedFile, append([]byte("# "+s.status.Reverted+"\n"), s.current...)),
		s.write(currentFile, s.good),
	)
	if err != nil {
		s.Log.Error("network settings: keep the good ones", "err", err)
	}
	s.current = s.good
	s.apply(n)
}

// Status says how the settings stand.
func (s *Settings) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}
