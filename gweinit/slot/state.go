// Package slot keeps the boot state: which of the two firmware slots is
// confirmed, which one is on trial, and how many boots each has left.
//
// The state lives in the raw partition ubenv and is read and written by
// U-Boot's boot.scr and by PID 1, nobody else. U-Boot only counts down; the
// operations below, each one durable write, are PID 1's:
//
//	          begin             activate            confirm
//	empty ─┐
//	bad   ─┼──────────► writing ─────────► ready ─────────────► good
//	good  ─┘                               │  ▲               (is GOOD)
//	                     reject: bad ◄─────┤  │ activate
//	                                       └──┘ postpone
//
// A slot that is being written or on trial never replaces GOOD, so whatever
// happens to it, GOOD is still there to boot.
package slot

import "fmt"

// Name names a slot, A or B. The zero value means no slot.
type Name string

const (
	A Name = "a"
	B Name = "b"
)

// Other returns the slot that n is not.
func (n Name) Other() Name {
	switch n {
	case A:
		return B
	case B:
		return A
	}
	return ""
}

// Valid reports whether n is A or B.
func (n Name) Valid() bool { return n == A || n == B }

// Status is what is known of a slot's content.
type Status string

const (
	Empty   Status = "empty"   // never written
	Writing Status = "writing" // a write has begun: the content is anything
	Ready   Status = "ready"   // written and verified, not confirmed yet
	Good    Status = "good"    // has been confirmed on this device
	Bad     Status = "bad"     // was rejected
)

const (
	// BootTries is what a confirmed slot's Left is refilled to: this many
	// boots in a row that do not reach ready, and the other slot is taken.
	BootTries = 8
	// TrialTries is the number of boots that a trial gets.
	TrialTries = 3
)

// Slot is the boot state of one slot.
type Slot struct {
	Status Status
	Left   uint32 // boots left before U-Boot takes the other slot
}

// State is the whole boot state.
type State struct {
	Seq       uint32 // of the copy it was read from
	Good      Name   // the confirmed slot
	Trial     Name   // the slot on trial, or ""
	TrialLeft uint32 // boots that the trial has left
	A, B      Slot
}

// Slot returns the state of slot n, which must be valid.
func (s *State) Slot(n Name) *Slot {
	if n == B {
		return &s.B
	}
	return &s.A
}

// Fresh is the state of a device of which only running is known to be good:
// one that has just been manufactured, or has lost both copies of its state.
// other is what is known of the other slot.
func Fresh(running Name, other Status) State {
	s := State{Good: running}
	*s.Slot(running) = Slot{Good, BootTries}
	*s.Slot(running.Other()) = Slot{Status: other}
	return s
}

// OnTrial reports whether running was booted as the trial.
func (s *State) OnTrial(running Name) bool {
	return s.Trial == running && running != s.Good && s.Slot(running).Status == Ready
}

// Begin marks target as being written. It comes before the first byte.
func (s *State) Begin(running, target Name) error {
	switch {
	case !target.Valid():
		return fmt.Errorf("begin: no slot %q", target)
	case target == running:
		return fmt.Errorf("begin: slot %s is running and is never written", target)
	case s.OnTrial(running):
		return fmt.Errorf("begin: slot %s is on trial: confirm or reject it first", running)
	case target == s.Good:
		return fmt.Errorf("begin: slot %s is the confirmed slot: the running slot %s has not reached ready", target, running)
	}
	if s.Trial == target {
		s.endTrial()
	}
	*s.Slot(target) = Slot{Status: Writing}
	return nil
}

// Activate puts target, whose whole content has been verified, on trial: the
// next boot takes it.
func (s *State) Activate(running, target Name) error {
	switch {
	case !target.Valid():
		return fmt.Errorf("activate: no slot %q", target)
	case target == running:
		return fmt.Errorf("activate: slot %s is running already", target)
	case target == s.Good:
		return fmt.Errorf("activate: slot %s is confirmed already", target)
	case s.OnTrial(running):
		return fmt.Errorf("activate: slot %s is on trial: confirm or reject it first", running)
	}
	switch t := s.Slot(target); t.Status {
	case Writing, Ready, Good:
		*t = Slot{Status: Ready}
	default:
		return fmt.Errorf("activate: slot %s is %s: write it first", target, t.Status)
	}
	s.Trial, s.TrialLeft = target, TrialTries
	return nil
}

// Confirm makes the running trial the confirmed slot.
func (s *State) Confirm(running Name) error {
	if running == s.Good {
		return nil
	}
	if !s.OnTrial(running) {
		return fmt.Errorf("confirm: slot %s is %s and not on trial", running, s.Slot(running).Status)
	}
	s.settle(running)
	return nil
}

// Reject ends the trial and marks its slot bad. It comes before the reboot
// that leaves the slot.
func (s *State) Reject() error {
	if !s.Trial.Valid() {
		return fmt.Errorf("reject: no slot is on trial")
	}
	*s.Slot(s.Trial) = Slot{Status: Bad}
	s.endTrial()
	return nil
}

// Postpone ends the trial and leaves its slot ready: what was written there is as
// good as before, and Activate tries it again.
func (s *State) Postpone() error {
	if !s.Trial.Valid() {
		return fmt.Errorf("postpone: no slot is on trial")
	}
	s.endTrial()
	return nil
}

// Spare ends the trial of a slot that was good before, and is so again: nothing has
// turned out that speaks against it.
func (s *State) Spare() error {
	if !s.Trial.Valid() {
		return fmt.Errorf("spare: no slot is on trial")
	}
	*s.Slot(s.Trial) = Slot{Good, BootTries}
	s.endTrial()
	return nil
}

// Damaged marks the running slot, whose root has turned out to be damaged, as
// bad, so that the next boot takes the other one. That has to be good: a damaged
// slot is better than none.
func (s *State) Damaged(running Name) error {
	if other := s.Slot(running.Other()); other.Status != Good {
		return fmt.Errorf("leave slot %s: slot %s is %s and not good", running, running.Other(), other.Status)
	}
	*s.Slot(running) = Slot{Status: Bad}
	return nil
}

// Refill is called at each local ready. It gives the confirmed slot all its
// boots back, so that power cuts never add up to losing it.
//
// A slot that runs because the confirmed one is used up or not good is the one
// that U-Boot fell back to; it becomes the confirmed one, and fellBack is
// true. When the confirmed slot could have been booted, U-Boot failed to read
// the state, and chance has chosen: then nothing changes, the error says so,
// and the next boot is by the state again.
func (s *State) Refill(running Name) (fellBack bool, err error) {
	confirmed, other := s.Slot(s.Good), s.Slot(s.Good.Other())
	switch {
	case running == s.Good:
		if other.Status != Good { // it has come up, and there is no better one
			confirmed.Status = Good
		}
		confirmed.Left = BootTries
	case s.OnTrial(running):
		confirmed.Left = BootTries
	case confirmed.Status == Good && confirmed.Left > 0:
		return false, fmt.Errorf("slot %s (%s) was booted though slot %s is confirmed and has %d boots left: U-Boot could not read the boot state; it is left as it is", running, s.Slot(running).Status, s.Good, confirmed.Left)
	default:
		s.settle(running)
		return true, nil
	}
	return false, nil
}

func (s *State) settle(n Name) {
	*s.Slot(n) = Slot{Good, BootTries}
	s.Good = n
	if s.Trial == n {
		s.endTrial()
	}
}

func (s *State) endTrial() { s.Trial, s.TrialLeft = "", 0 }
