// Package update keeps what there is to know about the latest update of the
// firmware beyond the boot state: which command asked for it, how its trial is
// going, and how it ended, for whichever firmware is running then.
//
// The boot state (package slot) decides what is booted; this record explains it. A
// Keeper takes the steps, each in both: first the record, which says what is about
// to be done, so that Settle can finish that after a power cut. Only a
// confirmation goes to the boot state first. Both are in the partition ubenv, where
// they outlive /data. PID 1 alone writes them.
package update

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/slot"
)

// State is how far an update has come.
type State string

const (
	Writing   State = "writing"   // the slot is being written
	Trial     State = "trial"     // the slot is to be booted, or was
	Postponed State = "postponed" // the trial ended without a check-in; there will be another
	Confirmed State = "confirmed"
	Rejected  State = "rejected"
)

// Done says whether nothing follows.
func (s State) Done() bool { return s == Confirmed || s == Rejected }

// Cause is why a trial was rejected or postponed.
type Cause string

const (
	Programs   Cause = "programs"   // one that ran before does not run any more
	CheckIn    Cause = "check-in"   // the cloud was not reached, and that is all
	NoBoot     Cause = "boot"       // PID 1 was never reached
	Hang       Cause = "hang"       // the watchdog has reset the gateway
	Corruption Cause = "corruption" // the root is damaged
	Power      Cause = "power"      // it was switched off, or crashed without a trace
	Reboots    Cause = "reboots"    // somebody has rebooted it, again and again
	Uncounted  Cause = "uncounted"  // U-Boot could not count its boots, and has not tried it
	ByHand     Cause = "hand"
)

const (
	// DefaultLimit is how long a trial has to be healthy in, from ready on.
	DefaultLimit = 15 * time.Minute
	MinLimit     = 10 * time.Second
	MaxLimit     = 24 * time.Hour

	// Retrials is how often a firmware that only has not checked in is tried
	// again.
	Retrials = 2

	maxLog    = 8 << 10 // bytes
	maxReason = 1 << 10
	maxBoots  = 32
)

// Record is what is kept. A later firmware may add to it, and the other slot has
// to read it; what that does not know is lost when it writes.
type Record struct {
	Update *Update `json:"update,omitempty"` // the latest; nil: there was none
	// Versions are those of the firmware in the slots, as far as they are known.
	Versions map[slot.Name]string `json:"versions,omitempty"`
	// Leaving says why the running slot, the confirmed one, is about to be left.
	Leaving string `json:"leaving,omitempty"`
	// Fallback says why the confirmed slot was left, the last time; "" after the
	// next update.
	Fallback string `json:"fallback,omitempty"`
}

// Update is one update of the firmware.
type Update struct {
	ID      string    `json:"id"` // of the command; whoever asked knows it by that
	Slot    slot.Name `json:"slot"`
	Version string    `json:"version"`
	From    string    `json:"from,omitempty"` // version
	State   State     `json:"state"`
	Cause   Cause     `json:"cause,omitempty"`
	Reason  string    `json:"reason,omitempty"` // for people
	Log     string    `json:"log,omitempty"`    // the last lines of a trial that failed
	// WasGood: the slot has what was confirmed before, and was not written.
	WasGood bool `json:"was_good,omitempty"`

	// Of the trial.
	Programs []string `json:"programs,omitempty"` // were RUNNING before
	Limit    int      `json:"limit,omitempty"`    // seconds
	Window   string   `json:"window,omitempty"`   // when it may reboot to be tried again
	Boots    []Boot   `json:"boots,omitempty"`    // in which PID 1 was reached
	Again    int      `json:"again,omitempty"`    // times that it was postponed
}

// Boot is one boot of a trial.
type Boot struct {
	Ready bool `json:"ready,omitempty"`
	// Ended is how, as far as that is known: "reboot", "watchdog", or "".
	Ended string `json:"ended,omitempty"`
}

const (
	endReboot   = "reboot"
	endWatchdog = "watchdog"
)

// Status is what PID 1 tells gwe.
type Status struct {
	Board   string      `json:"board"`
	Version string      `json:"version"`
	Slot    slot.Name   `json:"slot"`
	Slots   *slot.State `json:"slots"` // nil: the boot state is not known
	Record
}

// Running says whether the update has to be finished before another.
func (r *Record) Running() bool {
	return r.Update != nil && (r.Update.State == Trial || r.Update.State == Postponed)
}

// Begin notes that the slot is being written, for the command of this ID, and the
// programs that are RUNNING.
func (r *Record) Begin(id, version, from string, target slot.Name, programs []string) {
	r.Update = &Update{ID: id, Slot: target, Version: version, From: from, State: Writing, Programs: slices.Clone(programs)}
	r.setVersion(target, "")
}

// Activate notes that the slot, whose content is verified, is to be tried. The
// programs are those that are RUNNING, beside those that were before: after a power
// cut not all of them are up yet.
func (r *Record) Activate(id string, limit time.Duration, window string, programs []string) error {
	u := r.Update
	if u == nil || u.ID != id || u.State.Done() {
		return fmt.Errorf("activate: no update %q is being written: begin it first", id)
	}
	if limit < MinLimit || limit > MaxLimit {
		return fmt.Errorf("activate: a trial of %v; it takes %v to %v", limit, MinLimit, MaxLimit)
	}
	u.State, u.Cause, u.Reason, u.Log, u.Boots = Trial, "", "", "", nil
	u.Limit, u.Window = int(limit.Seconds()), window
	all := slices.Sorted(slices.Values(slices.Concat(u.Programs, programs)))
	u.Programs = slices.Compact(all)
	r.setVersion(u.Slot, u.Version)
	return nil
}

// Return notes that the other slot is to be tried as it is: somebody wants the
// firmware from before back.
func (r *Record) Return(id, from string, target slot.Name, limit time.Duration, programs []string) error {
	r.Update = &Update{ID: id, Slot: target, Version: r.Versions[target], From: from, State: Writing, WasGood: true}
	return r.Activate(id, limit, "", programs)
}

func (r *Record) setVersion(n slot.Name, version string) {
	versions := map[slot.Name]string{}
	for k, v := range r.Versions {
		versions[k] = v
	}
	if versions[n] = version; version == "" {
		delete(versions, n)
	}
	r.Versions = versions
}

// Booted notes a boot of slot running with this version: watchdog says that one
// has ended the boot before. It returns whether anything is new.
func (r *Record) Booted(running slot.Name, version string, watchdog bool) (changed bool) {
	if r.Versions[running] != version && version != "" {
		r.setVersion(running, version)
		changed = true
	}
	u := r.Update
	if u == nil || u.State != Trial {
		return changed
	}
	if n := len(u.Boots); n > 0 && watchdog && u.Boots[n-1].Ended == "" {
		u.Boots[n-1].Ended = endWatchdog
		changed = true
	}
	if u.Slot == running && len(u.Boots) < maxBoots {
		u.Boots = append(u.Boots, Boot{})
		u.Version = cmp.Or(u.Version, version)
		changed = true
	}
	return changed
}

// Ready notes that this boot of the trial has come to ready.
func (r *Record) Ready() { r.last(func(b *Boot) { b.Ready = true }) }

// Ended notes that this boot of the trial is about to end in good order.
func (r *Record) Ended() { r.last(func(b *Boot) { b.Ended = endReboot }) }

func (r *Record) last(do func(*Boot)) {
	if u := r.Update; u != nil && u.State == Trial && len(u.Boots) > 0 {
		do(&u.Boots[len(u.Boots)-1])
	}
}

// Confirm notes that the trial has gone well.
func (r *Record) Confirm() {
	if u := r.Update; u != nil {
		u.State, u.Cause, u.Reason = Confirmed, "", ""
	}
	r.Fallback = ""
}

// Fail notes why the trial is over, with the last lines of its log: it is
// postponed if all that is missing is a check-in and there was not much of that
// yet, else rejected. It returns which.
func (r *Record) Fail(cause Cause, reason, log string) State {
	u := r.Update
	if u == nil {
		return Rejected
	}
	u.State, u.Cause, u.Reason, u.Log = Rejected, cause, limited(reason, maxReason), limited(log, maxLog)
	if cause == CheckIn && u.Again < Retrials {
		u.State = Postponed
		u.Again++
	}
	return u.State
}

// end ends the trial in the boot state, as the record has it.
func (u *Update) end(st *slot.State) error {
	blameless := slices.Contains([]Cause{CheckIn, Power, Reboots, Uncounted, ByHand}, u.Cause)
	switch {
	case u.WasGood && blameless:
		return st.Spare()
	case u.State == Postponed:
		return st.Postpone()
	}
	return st.Reject()
}

// Settle makes record and boot state agree at the boot of slot running, after
// whatever has happened: first what the record says is made so in the boot state,
// then what the boot state tells goes to the record. log are the last lines from
// before this boot. It returns whether slot running has to be left: its trial is
// over.
//
// Both are to be written durably then, the record first.
func (r *Record) Settle(st *slot.State, running slot.Name, log string) (leave bool) {
	u := r.Update
	if st.Trial.Valid() && (u == nil || u.Slot != st.Trial || u.State == Writing || u.State == Confirmed) {
		// The record is lost: the boot state is what counts.
		u = &Update{Slot: st.Trial, Version: r.Versions[st.Trial], State: Trial, Limit: int(DefaultLimit.Seconds())}
		r.Update = u
	}
	if u == nil {
		return false
	}
	onTrial := st.Trial == u.Slot
	switch u.State {
	case Trial:
		switch {
		case onTrial && running == u.Slot: // it goes on
		case onTrial && st.TrialLeft == 0:
			r.Fail(u.usedUp(log))
			u.end(st)
		case onTrial:
			r.Fail(Uncounted, fmt.Sprintf("U-Boot could not count the boots of slot %s, and has not tried it", u.Slot), "")
			u.end(st)
		case st.Good == u.Slot: // confirmed, which could not be noted any more
			r.Confirm()
		case st.Slot(u.Slot).Status == slot.Bad: // both were not written at once
			r.Fail(Power, "the trial was ended", "")
		case u.Again > 0: // noted, and the power went before it was activated again
			u.State = Postponed
		case u.WasGood: // likewise
			r.Fail(ByHand, "the power went before it could be tried", "")
		default: // likewise, for the first time
			u.State = Writing
		}
	case Rejected, Postponed:
		if onTrial {
			u.end(st)
			return running == u.Slot
		}
	}
	status := st.Slot(u.Slot).Status
	if tryable := status == slot.Ready || status == slot.Good && u.WasGood; u.State == Postponed && (!tryable || running == u.Slot) {
		r.Fail(Power, fmt.Sprintf("slot %s is %s and cannot be tried again", u.Slot, status), u.Log)
	}
	return false
}

// usedUp says why a trial has used up its boots, and what is left of its log.
func (u *Update) usedUp(log string) (Cause, string, string) {
	what := fmt.Sprintf("%d boots of slot %s were used up", slot.TrialTries, u.Slot)
	watchdog, reboots, ready := 0, 0, 0
	for _, b := range u.Boots {
		switch b.Ended {
		case endWatchdog:
			watchdog++
		case endReboot:
			reboots++
		}
		if b.Ready {
			ready++
		}
	}
	switch n := len(u.Boots); {
	case n == 0:
		return NoBoot, what + ": it never came as far as PID 1; its kernel or its root does not start", ""
	case watchdog > 0:
		return Hang, fmt.Sprintf("%s: the watchdog has reset the gateway, in %d of them", what, watchdog), log
	case reboots == n:
		return Reboots, what + ": it was rebooted before it was healthy, each time", log
	default:
		return Power, fmt.Sprintf("%s: PID 1 was reached in %d of them and ready in %d, then the power went, or it crashed", what, n, ready), log
	}
}

// limited is text with the end of what is too long.
func limited(s string, most int) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "\uFFFD")
	if len(s) <= most {
		return s
	}
	return "..." + strings.ToValidUTF8(s[len(s)-most:], "")
}
