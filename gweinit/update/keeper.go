package update

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/ubenv"
)

// ErrHangs is when the step before has not come to its end.
var ErrHangs = errors.New("boot state: the step before this one hangs in the disk: try again later, or switch the gateway off and on")

// stepWait is longer than a step takes on the slowest card.
const stepWait = 10 * time.Second

// ErrNoTrial is when the running slot is not on trial.
var ErrNoTrial = errors.New("reject: it is not on trial")

// Device is the partition ubenv, opened for a step.
type Device interface {
	ubenv.Device
	io.Closer
}

// Keeper takes the steps of updates, in boot state and record. It is safe for
// concurrent use; what it says of them is as they were written last, so that a
// disk that hangs delays no report.
type Keeper struct {
	Open    func() (Device, error)
	Running slot.Name // not valid: nothing can be done
	Version string    // of the running firmware

	steps sync.Mutex // held while a step is taken

	mu      sync.Mutex // held for a moment
	state   *slot.State
	record  Record
	arrived bool
}

// State returns the boot state; nil if it is not known.
func (k *Keeper) State() *slot.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state == nil {
		return nil
	}
	st := *k.state
	return &st
}

// Record returns the record.
func (k *Keeper) Record() Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record.clone()
}

func (r Record) clone() Record {
	if u := r.Update; u != nil {
		c := *u
		c.Programs, c.Boots = slices.Clone(u.Programs), slices.Clone(u.Boots)
		r.Update = &c
	}
	return r
}

// OnTrial says whether the running slot is, or that it is confirmed has not got to
// the record yet.
func (k *Keeper) OnTrial() bool {
	st, r := k.State(), k.Record()
	return st != nil && (st.OnTrial(k.Running) || r.unnoted(st, k.Running))
}

// unnoted says whether the boot state has a confirmation of the running slot that
// the record has not.
func (r *Record) unnoted(st *slot.State, running slot.Name) bool {
	return r.Update != nil && r.Update.State == Trial && r.Update.Slot == running && st.Good == running
}

// Arrived says whether Arrive was successful since the boot.
func (k *Keeper) Arrived() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.arrived
}

// open is a device with what it holds.
type open struct {
	Device
	states  *slot.Store
	records *Store
	state   slot.State
	record  Record
	lost    error // the boot state, both copies; this is a new one
	heal    bool  // then it is to be written
}

// step loads both, has them changed, and saves them if they were: the record first.
func (k *Keeper) step(do func(*open) error) error {
	if !k.Running.Valid() {
		return errors.New("the running slot is not known")
	}
	for start := time.Now(); !k.steps.TryLock(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > stepWait {
			return ErrHangs
		}
	}
	defer k.steps.Unlock()
	dev, err := k.Open()
	if err != nil {
		return err
	}
	defer dev.Close()
	o := &open{Device: dev, states: slot.NewStore(dev), records: NewStore(dev)}
	if o.record, err = o.records.Load(); err != nil {
		return err
	}
	if o.state, err = o.states.Load(); errors.Is(err, slot.ErrNoState) {
		o.lost, o.state = err, o.record.fresh(k.Running)
	} else if err != nil {
		return err
	}
	state, record := o.state, o.record.clone()
	if err := do(o); err != nil {
		return err
	}
	if err = k.saveRecord(o, record); err == nil {
		err = k.saveState(o, state)
	}
	if err != nil {
		k.reload(o) // it may be there nevertheless
	}
	return err
}

// fresh is the boot state in the place of one that is lost. Of the other slot
// nothing is known, so it is nothing to fall back to; but a trial goes on.
func (r *Record) fresh(running slot.Name) slot.State {
	if u := r.Update; u == nil || u.State != Trial || u.Slot != running {
		return slot.Fresh(running, slot.Bad)
	}
	st := slot.Fresh(running.Other(), slot.Ready)
	st.Trial = running
	return st
}

// reload takes what the disk has.
func (k *Keeper) reload(o *open) {
	state, err1 := o.states.Load()
	record, err2 := o.records.Load()
	if err1 != nil || err2 != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state, k.record = &state, record
}

func (k *Keeper) saveRecord(o *open, before Record) error {
	if !equal(o.record, before) {
		if err := o.records.Save(o.record); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.record = o.record.clone()
	return nil
}

func (k *Keeper) saveState(o *open, before slot.State) error {
	if o.heal || o.state != before {
		if err := o.states.Save(o.state); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	st := o.state
	k.state = &st
	return nil
}

func equal(a, b Record) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// Booted notes this boot, as early as possible; watchdog says that one has ended
// the boot before.
func (k *Keeper) Booted(watchdog bool) error {
	return k.step(func(o *open) error {
		o.record.Booted(k.Running, k.Version, watchdog)
		return nil
	})
}

// KeepBoots gives the confirmed slot, if that is the one that runs, all its boots
// back before this one is ready. A trial is not helped: it has to prove itself
// within its boots.
func (k *Keeper) KeepBoots() error {
	return k.step(func(o *open) error {
		if o.lost != nil || o.state.Good != k.Running {
			return nil
		}
		_, err := o.state.Refill(k.Running)
		return err
	})
}

// Arrival is what Arrive has found.
type Arrival struct {
	Lost     error  // the boot state, which was written anew
	Fallback string // why this slot has become the confirmed one, just now
	Leave    bool   // this slot's trial is over: reboot
	Ended    bool   // a trial has ended since the slot that runs was left; the record says how
}

// Arrive is called at each local ready: it refills the boots of the confirmed slot
// and settles an update. log are the last lines from before this boot. If chance has
// chosen this slot (slot.State.Refill), that is an error, and nothing to try again.
func (k *Keeper) Arrive(log string) (a Arrival, err error) {
	var chance error
	err = k.step(func(o *open) error {
		a.Lost, o.heal = o.lost, o.lost != nil
		before := o.record.Update
		running := before != nil && before.State == Trial
		if a.Leave = o.record.Settle(&o.state, k.Running, log); a.Leave {
			return nil
		}
		u := o.record.Update
		a.Ended = running && u.State != Trial && u.State != Writing
		var fellBack bool
		if fellBack, chance = o.state.Refill(k.Running); chance != nil {
			return nil
		}
		if fellBack {
			why := fmt.Sprintf("slot %s did not come up", k.Running.Other())
			a.Fallback = fmt.Sprintf("%s; fell back to slot %s, which is the confirmed one now", cmp.Or(o.record.Leaving, why), k.Running)
			o.record.Fallback = a.Fallback
		}
		o.record.Leaving = ""
		if o.state.OnTrial(k.Running) {
			o.record.Ready()
		}
		return nil
	})
	if err == nil {
		k.mu.Lock()
		k.arrived = true
		k.mu.Unlock()
		err = chance
	}
	return a, err
}

// ready says whether something can be put on trial: before Arrive that would be
// taken for a trial that U-Boot has not made.
func (k *Keeper) ready() error {
	if !k.Arrived() {
		return errors.New("the boot state has not been settled since the boot: try again later")
	}
	return nil
}

// Begin marks the other slot as being written, for the command of this ID, and
// returns it. programs are those that are RUNNING now. To begin again is no error,
// and changes nothing.
func (k *Keeper) Begin(id, version string, programs []string) (target slot.Name, err error) {
	target = k.Running.Other()
	err = k.step(func(o *open) error {
		u := o.record.Update
		if u != nil && u.State == Trial && u.ID != id { // what is postponed gives way
			return fmt.Errorf("begin: the firmware %s, of command %s, is on trial: wait for its end", u.Version, u.ID)
		}
		if u != nil && u.ID == id && u.Version == version && u.State == Writing && o.state.Slot(target).Status == slot.Writing {
			return nil
		}
		if err := o.state.Begin(k.Running, target); err != nil {
			return err
		}
		o.record.Begin(id, version, k.Version, target, programs)
		return nil
	})
	return target, err
}

// Activate has the next boot try the slot that was begun for this command, whose
// whole content has been verified. programs are those that are RUNNING now.
func (k *Keeper) Activate(id string, limit time.Duration, window string, programs []string) error {
	if err := k.ready(); err != nil {
		return err
	}
	return k.step(func(o *open) error {
		if err := o.record.Activate(id, limit, window, programs); err != nil {
			return err
		}
		return o.state.Activate(k.Running, o.record.Update.Slot)
	})
}

// Retry has the next boot try once more the firmware that was postponed.
func (k *Keeper) Retry(programs []string) error {
	if err := k.ready(); err != nil {
		return err
	}
	return k.step(func(o *open) error {
		u := o.record.Update
		noted := u != nil && u.State == Trial && u.Again > 0 && o.state.Trial != u.Slot // but not activated
		if u == nil || u.State != Postponed && !noted {
			return errors.New("try again: no firmware waits for that")
		}
		if err := o.record.Activate(u.ID, time.Duration(u.Limit)*time.Second, u.Window, programs); err != nil {
			return err
		}
		return o.state.Activate(k.Running, u.Slot)
	})
}

// Return has the next boot try the other slot as it is.
func (k *Keeper) Return(id string, limit time.Duration, programs []string) error {
	if err := k.ready(); err != nil {
		return err
	}
	return k.step(func(o *open) error {
		target := k.Running.Other()
		if st := o.state.Slot(target).Status; st != slot.Good {
			return fmt.Errorf("go back: slot %s is %s and not good", target, st)
		}
		if o.record.Running() {
			return fmt.Errorf("go back: the firmware %s is on trial: reject it first", o.record.Update.Version)
		}
		if err := o.record.Return(id, k.Version, target, limit, programs); err != nil {
			return err
		}
		return o.state.Activate(k.Running, target)
	})
}

// Confirm makes the running trial the confirmed firmware. It is the one step that
// goes to the boot state first: once that is written it cannot be undone.
func (k *Keeper) Confirm() error {
	return k.step(func(o *open) error {
		before := o.state
		if o.record.unnoted(&o.state, k.Running) {
			o.record.Confirm()
			return nil
		}
		if err := o.state.Confirm(k.Running); err != nil {
			return err
		}
		if o.state == before {
			return errors.New("confirm: it is confirmed already")
		}
		if err := k.saveState(o, before); err != nil {
			k.reload(o)
			return err
		}
		o.record.Confirm() // if that cannot be written, the next Confirm does it, or Settle
		return nil
	})
}

// Fail ends the running trial. It comes before the reboot that leaves the slot.
func (k *Keeper) Fail(cause Cause, reason, log string) (State, error) {
	var became State
	err := k.step(func(o *open) error {
		if !o.state.OnTrial(k.Running) {
			return fmt.Errorf("%w: slot %s", ErrNoTrial, k.Running)
		}
		if o.record.Update == nil { // it is lost
			o.record.Settle(&o.state, k.Running, "")
		}
		became = o.record.Fail(cause, reason, log)
		return o.record.Update.end(&o.state)
	})
	return became, err
}

// Cancel gives up the trial of the other slot, which has not been booted yet, or
// was postponed.
func (k *Keeper) Cancel(reason string) error {
	return k.step(func(o *open) error {
		if !o.record.Running() || o.record.Update.Slot == k.Running {
			return errors.New("reject: no firmware is on trial")
		}
		o.record.Fail(ByHand, reason, "")
		if o.state.Trial.Valid() {
			return o.record.Update.end(&o.state)
		}
		return nil
	})
}

// Damaged has the next boot take the other slot, since the root of the running one
// is damaged. It is an error if that one is no better.
func (k *Keeper) Damaged(reason string) error {
	return k.step(func(o *open) error {
		if err := o.state.Damaged(k.Running); err != nil {
			return err
		}
		o.record.Leaving = reason
		return nil
	})
}

// Ended notes that this boot ends in good order.
func (k *Keeper) Ended() error {
	if !k.OnTrial() {
		return nil
	}
	return k.step(func(o *open) error {
		o.record.Ended()
		return nil
	})
}
