package update

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/powercut"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/ubenv"
	"github.com/exosite/gwe/gweinit/ubenv/sealed"
)

// device is the partition ubenv of a gateway.
type device struct{ *powercut.Disk }

func (device) Close() error { return nil }

func keeper(d *powercut.Disk, running slot.Name) *Keeper {
	return &Keeper{Open: func() (Device, error) { return device{d}, nil }, Running: running, Version: map[slot.Name]string{slot.A: "1.0", slot.B: "2.0"}[running]}
}

// newGateway is one of which slot a is confirmed and runs.
func newGateway(t testing.TB, other slot.Status) *powercut.Disk {
	t.Helper()
	d := powercut.New(nil, 8<<20)
	if err := slot.NewStore(d).Save(slot.Fresh(slot.A, other)); err != nil {
		t.Fatal(err)
	}
	return d
}

// boot does what U-Boot does, and then PID 1 up to ready.
func boot(t testing.TB, d *powercut.Disk, watchdog bool, log string) (*Keeper, Arrival) {
	t.Helper()
	k := uboot(t, d)
	if err := k.Booted(watchdog); err != nil {
		t.Fatal(err)
	}
	a, err := k.Arrive(log)
	if err != nil {
		t.Fatal(err)
	}
	return k, a
}

// uboot chooses a slot and counts the boot.
func uboot(t testing.TB, d *powercut.Disk) *Keeper {
	t.Helper()
	store := slot.NewStore(d)
	st, err := store.Load()
	if err != nil {
		t.Fatal(err)
	}
	order, _, after := st.Next()
	if after != st {
		if err := store.Save(after); err != nil {
			t.Fatal(err)
		}
	}
	return keeper(d, order[0])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// install has slot b written and activated, by a keeper in slot a.
func install(t testing.TB, k *Keeper) {
	t.Helper()
	target, err := k.Begin("7-ab", "2.0", []string{"meter"})
	if err != nil || target != slot.B {
		t.Fatalf("begin: slot %s, %v", target, err)
	}
	must(t, k.Activate("7-ab", time.Minute, "02:00-04:00", []string{"gwe", "pump"}))
}

func summary(k *Keeper) string {
	st, r := k.State(), k.Record()
	s := fmt.Sprintf("good=%s trial=%s/%d a=%s b=%s", st.Good, st.Trial, st.TrialLeft, st.A.Status, st.B.Status)
	if u := r.Update; u != nil {
		s += fmt.Sprintf("; %s to %s in %s: %s %s", u.ID, u.Version, u.Slot, u.State, u.Cause)
	}
	return strings.TrimSpace(s)
}

func expect(t *testing.T, k *Keeper, want string) {
	t.Helper()
	if got := summary(k); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUpdateIsConfirmed(t *testing.T) {
	d := newGateway(t, slot.Empty)
	k, _ := boot(t, d, false, "")
	if k.OnTrial() {
		t.Error("the only firmware is on trial")
	}
	install(t, k)
	expect(t, k, "good=a trial=b/3 a=good b=ready; 7-ab to 2.0 in b: trial")
	if _, err := k.Begin("8-cd", "3.0", nil); err == nil || !strings.Contains(err.Error(), "2.0, of command 7-ab, is on trial") {
		t.Errorf("another update meanwhile: %v", err)
	}

	k, a := boot(t, d, false, "")
	if !k.OnTrial() || a != (Arrival{}) {
		t.Fatalf("the trial: %+v", a)
	}
	u := k.Record().Update
	if got := fmt.Sprintf("%v %d %s %s %v", u.Programs, u.Limit, u.Window, u.From, u.Boots); got != "[gwe meter pump] 60 02:00-04:00 1.0 [{true }]" {
		t.Errorf("the trial knows %s", got)
	}
	must(t, k.Confirm())
	expect(t, k, "good=b trial=/0 a=good b=good; 7-ab to 2.0 in b: confirmed")
	if err := k.Confirm(); err == nil {
		t.Error("confirmed twice")
	}
	if got := fmt.Sprint(k.Record().Versions); got != "map[a:1.0 b:2.0]" {
		t.Errorf("versions: %s", got)
	}
	k, a = boot(t, d, false, "")
	expect(t, k, "good=b trial=/0 a=good b=good; 7-ab to 2.0 in b: confirmed")

	// And back.
	must(t, k.Return("hand-1", time.Minute, nil))
	expect(t, k, "good=b trial=a/3 a=ready b=good; hand-1 to 1.0 in a: trial")
	k, _ = boot(t, d, false, "")
	must(t, k.Confirm())
	expect(t, k, "good=a trial=/0 a=good b=good; hand-1 to 1.0 in a: confirmed")
}

func TestTrialFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		// trial is what happens in each boot of the trial, until the other slot
		// is booted.
		trial func(t *testing.T, boot int, k *Keeper) (ended bool)
		end   func(k *Keeper) error
		reset bool // the watchdog has ended each
		want  string
		log   string
		says  string
	}{
		{"programs", nil, func(k *Keeper) error { _, err := k.Fail(Programs, "pump is FATAL", "last"); return err }, false,
			"good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected programs", "last", "pump is FATAL"},
		{"a damaged root", nil, func(k *Keeper) error { _, err := k.Fail(Corruption, "EIO", "last"); return err }, false,
			"good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected corruption", "last", "EIO"},
		{"no check-in", nil, func(k *Keeper) error { _, err := k.Fail(CheckIn, "none", "last"); return err }, false,
			"good=a trial=/0 a=good b=ready; 7-ab to 2.0 in b: postponed check-in", "last", "none"},
		{"it never comes up", func(*testing.T, int, *Keeper) bool { return true }, nil, false,
			"good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected boot", "", "never came as far as PID 1"},
		{"it hangs", func(t *testing.T, n int, k *Keeper) bool { must(t, k.Booted(n > 0)); return true }, nil, true,
			"good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected hang", "end of the log", "in 3 of them"},
		{"the power goes", func(t *testing.T, n int, k *Keeper) bool {
			must(t, k.Booted(false))
			_, err := k.Arrive("")
			must(t, err)
			return true
		}, nil, false,
			"good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected power", "end of the log", "reached in 3 of them and ready in 3"},
		{"somebody reboots it", func(t *testing.T, n int, k *Keeper) bool {
			must(t, k.Booted(false))
			_, err := k.Arrive("")
			must(t, err)
			must(t, k.Ended())
			return true
		}, nil, false, "good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected reboots", "end of the log", "rebooted before it was healthy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newGateway(t, slot.Empty)
			k, _ := boot(t, d, false, "")
			install(t, k)
			if tt.end != nil {
				k, _ = boot(t, d, false, "")
				must(t, tt.end(k))
			} else {
				for n := range slot.TrialTries {
					k := uboot(t, d)
					if k.Running != slot.B {
						t.Fatalf("boot %d: slot %s", n, k.Running)
					}
					tt.trial(t, n, k)
				}
			}
			k, a := boot(t, d, tt.reset, "end of the log")
			expect(t, k, tt.want)
			u := k.Record().Update
			if u.Log != tt.log || !strings.Contains(u.Reason, tt.says) || a.Ended != (tt.end == nil) || a.Fallback != "" {
				t.Errorf("reason %q, log %q, %+v", u.Reason, u.Log, a)
			}
			if k.Running != slot.A {
				t.Errorf("slot %s is running", k.Running)
			}
			again, _ := boot(t, d, false, "another log")
			if summary(again) != tt.want || again.Record().Update.Log != tt.log {
				t.Errorf("the boot after that makes it %s, log %q", summary(again), again.Record().Update.Log)
			}
		})
	}
}

// A firmware that does not check in is tried three times in all, without being
// written again.
func TestNoCheckIn(t *testing.T) {
	d := newGateway(t, slot.Empty)
	k, _ := boot(t, d, false, "")
	install(t, k)
	for n := range 1 + Retrials {
		k, _ = boot(t, d, false, "")
		became, err := k.Fail(CheckIn, "no check-in", "")
		if want := map[bool]State{true: Postponed, false: Rejected}[n < Retrials]; err != nil || became != want {
			t.Fatalf("trial %d: %s, %v, want %s", n+1, became, err, want)
		}
		k, _ = boot(t, d, false, "")
		if k.Running != slot.A {
			t.Fatalf("trial %d: slot %s is running after it", n+1, k.Running)
		}
		if err := k.Retry([]string{"gwe"}); (err == nil) != (n < Retrials) {
			t.Fatalf("trial %d: again: %v", n+1, err)
		}
	}
	expect(t, k, "good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected check-in")
}

// What waits for another trial gives way to another update, and to somebody's wish.
func TestPostponedGivesWay(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(*Keeper) error
		want string
	}{
		"another update": {func(k *Keeper) error { _, err := k.Begin("8-cd", "3.0", nil); return err }, "good=a trial=/0 a=good b=writing; 8-cd to 3.0 in b: writing"},
		"cancelled":      {func(k *Keeper) error { return k.Cancel("no") }, "good=a trial=/0 a=good b=ready; 7-ab to 2.0 in b: rejected hand"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newGateway(t, slot.Empty)
			k, _ := boot(t, d, false, "")
			install(t, k)
			k, _ = boot(t, d, false, "")
			_, err := k.Fail(CheckIn, "no check-in", "")
			must(t, err)
			k, _ = boot(t, d, false, "")
			must(t, tt.do(k))
			expect(t, k, tt.want)
		})
	}
}

// A damaged root is left if the other slot is good, and that is remembered.
func TestDamaged(t *testing.T) {
	d := newGateway(t, slot.Good)
	k, _ := boot(t, d, false, "")
	must(t, k.Damaged("the root of slot a is damaged"))
	k, a := boot(t, d, false, "")
	const want = "the root of slot a is damaged; fell back to slot b, which is the confirmed one now"
	if k.Running != slot.B || a.Fallback != want {
		t.Errorf("slot %s, %+v", k.Running, a)
	}
	k, a = boot(t, d, false, "")
	if k.Record().Fallback != want || a.Fallback != "" {
		t.Errorf("later: %q, %+v", k.Record().Fallback, a)
	}
	if err := k.Damaged("so is this one"); err == nil {
		t.Error("slot b is left for one that is bad")
	}
	install2 := func() { // slot a is repaired by an update
		_, err := k.Begin("9-ef", "1.0", nil)
		must(t, err)
		must(t, k.Activate("9-ef", time.Minute, "", nil))
		k, _ = boot(t, d, false, "")
		must(t, k.Confirm())
	}
	install2()
	if f := k.Record().Fallback; f != "" {
		t.Errorf("after the next update: %q", f)
	}
}

// U-Boot boots the confirmed slot though a trial is to come: it could not write.
func TestUncountableTrial(t *testing.T) {
	d := newGateway(t, slot.Empty)
	k, _ := boot(t, d, false, "")
	install(t, k)
	k = keeper(d, slot.A)
	must(t, k.Booted(false))
	a, err := k.Arrive("")
	must(t, err)
	expect(t, k, "good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected uncounted")
	if !a.Ended {
		t.Errorf("%+v", a)
	}
}

// U-Boot could not read the state, and has booted the other slot.
func TestChance(t *testing.T) {
	d := newGateway(t, slot.Good)
	k := keeper(d, slot.B)
	must(t, k.Booted(false))
	_, err := k.Arrive("")
	if err == nil || !strings.Contains(err.Error(), "U-Boot could not read the boot state") || !k.Arrived() {
		t.Errorf("got %v, arrived: %v", err, k.Arrived())
	}
	expect(t, k, "good=a trial=/0 a=good b=good")
}

// The record, or the boot state, is lost in the middle of a trial.
func TestLost(t *testing.T) {
	for name, tt := range map[string]struct {
		at   int64
		want string
	}{
		"record":     {ubenv.Update, "good=a trial=b/2 a=good b=ready;  to 2.0 in b: trial"},
		"boot state": {ubenv.BootState, "good=a trial=b/0 a=good b=ready; 7-ab to 2.0 in b: trial"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newGateway(t, slot.Empty)
			k, _ := boot(t, d, false, "")
			install(t, k)
			k = uboot(t, d)
			for _, off := range []int64{tt.at, tt.at + ubenv.Second} {
				_, err := d.WriteAt([]byte(strings.Repeat("garbage!", 64)), off)
				must(t, err)
			}
			k = keeper(d, k.Running)
			must(t, k.Booted(false))
			a, err := k.Arrive("")
			must(t, err)
			expect(t, k, tt.want)
			if (a.Lost != nil) != (name == "boot state") {
				t.Errorf("%+v", a)
			}
		})
	}
}

// The power goes at each write of each step: what is there then is from before the
// step or after it, record and boot state agree after the next boot, and U-Boot
// never takes a slot that is being written.
func TestPowerCuts(t *testing.T) {
	type step struct {
		name  string
		do    func(k *Keeper) error
		found []string // states of the update after the next boot; the last is that of a step that was done
	}
	prepare := func(t *testing.T, steps ...func(*Keeper) error) *powercut.Disk {
		d := newGateway(t, slot.Good)
		for _, s := range steps {
			k, _ := boot(t, d, false, "")
			must(t, s(k))
		}
		return d
	}
	begin := func(k *Keeper) error { _, err := k.Begin("7-ab", "2.0", []string{"meter"}); return err }
	activate := func(k *Keeper) error { return k.Activate("7-ab", time.Minute, "", []string{"gwe"}) }
	fail := func(cause Cause) func(*Keeper) error {
		return func(k *Keeper) error { _, err := k.Fail(cause, "reason", "log"); return err }
	}
	retry := func(k *Keeper) error { return k.Retry(nil) }
	cuts := 0
	for _, tt := range []struct {
		step   step
		before []func(*Keeper) error
	}{
		{step{"begin", begin, []string{"", "writing"}}, nil},
		{step{"activate", activate, []string{"writing", "trial"}}, []func(*Keeper) error{begin}},
		{step{"confirm", (*Keeper).Confirm, []string{"trial", "confirmed"}}, []func(*Keeper) error{begin, activate}},
		{step{"reject", fail(Programs), []string{"trial", "rejected"}}, []func(*Keeper) error{begin, activate}},
		{step{"postpone", fail(CheckIn), []string{"trial", "postponed"}}, []func(*Keeper) error{begin, activate}},
		{step{"try again", retry, []string{"postponed", "trial"}}, []func(*Keeper) error{begin, activate, fail(CheckIn)}},
		{step{"go back", func(k *Keeper) error { return k.Return("hand-1", time.Minute, nil) }, []string{"", "rejected", "trial"}}, nil},
		{step{"leave a damaged slot", func(k *Keeper) error { return k.Damaged("damaged") }, []string{""}}, nil},
		{step{"cancel", func(k *Keeper) error { return k.Cancel("no") }, []string{"postponed", "rejected"}}, []func(*Keeper) error{begin, activate, fail(CheckIn)}},
	} {
		t.Run(tt.step.name, func(t *testing.T) {
			start := prepare(t, tt.before...)
			boot(t, start, false, "") // the step is taken some time after ready
			st, err := slot.NewStore(start).Load()
			must(t, err)
			running := st.Good
			if st.Trial.Valid() {
				running = st.Trial
			}
			seen := map[string]bool{}
			n, err := powercut.Each(start, func(d *powercut.Disk) error {
				k := keeper(d, running)
				k.arrived = true
				return tt.step.do(k)
			}, func(name string, after *powercut.Disk, err error) {
				st, loadErr := slot.NewStore(after).Load()
				if loadErr != nil {
					t.Fatalf("%s: %v", name, loadErr)
				}
				order, why, _ := st.Next()
				if s := st.Slot(order[0]).Status; why == "lastresort" || s == slot.Writing || s == slot.Bad || s == slot.Empty {
					t.Fatalf("%s: U-Boot boots slot %s, which is %s (%s): %s", name, order[0], s, why, describe(st))
				}
				k, a := boot(t, after, false, "")
				for range 3 { // it leaves the trial that is over
					if !a.Leave {
						break
					}
					k, a = boot(t, after, false, "")
				}
				got := ""
				if u := k.Record().Update; u != nil {
					got = string(u.State)
				}
				if seen[got] = true; !slices.Contains(tt.step.found, got) {
					t.Fatalf("%s: the update is %q after the next boot, want one of %q", name, got, tt.step.found)
				}
				if err == nil && got != tt.step.found[len(tt.step.found)-1] {
					t.Fatalf("%s: the step was done, and the update is %q", name, got)
				}
				agree(t, name, k)
			})
			must(t, err)
			for _, want := range tt.step.found[len(tt.step.found)-1:] {
				if !seen[want] {
					t.Errorf("the update has never been %q", want)
				}
			}
			cuts += n
		})
	}
	t.Logf("%d power cuts survived", cuts)
}

// failing is a disk on which one write or sync fails, and no other: lands says
// whether it has done its work all the same.
type failing struct {
	*powercut.Disk
	n     *int
	lands bool
}

func (failing) Close() error { return nil }

func (f failing) fails() bool { *f.n--; return *f.n == 0 }

func (f failing) WriteAt(p []byte, off int64) (int, error) {
	if f.fails() {
		if f.lands {
			f.Disk.WriteAt(p, off)
		}
		return 0, errors.New("input/output error")
	}
	return f.Disk.WriteAt(p, off)
}

func (f failing) Sync() error {
	if f.fails() {
		if f.lands {
			f.Disk.Sync()
		}
		return errors.New("input/output error")
	}
	return f.Disk.Sync()
}

// A write fails once, and PID 1 goes on: whoever wanted the step takes it again,
// without a boot, and gets there.
func TestWritesThatFail(t *testing.T) {
	begin := func(k *Keeper) error { _, err := k.Begin("7-ab", "2.0", nil); return err }
	activate := func(k *Keeper) error { return k.Activate("7-ab", time.Minute, "", nil) }
	fail := func(k *Keeper) error {
		_, err := k.Fail(CheckIn, "no check-in", "")
		if errors.Is(err, ErrNoTrial) { // it is over, on the disk
			return nil
		}
		return err
	}
	n := 0
	for _, tt := range []struct {
		name   string
		before []func(*Keeper) error
		do     func(*Keeper) error
		want   string
	}{
		{"begin", nil, begin, "good=a trial=/0 a=good b=writing; 7-ab to 2.0 in b: writing"},
		{"activate", []func(*Keeper) error{begin}, activate, "good=a trial=b/3 a=good b=ready; 7-ab to 2.0 in b: trial"},
		{"confirm", []func(*Keeper) error{begin, activate}, func(k *Keeper) error {
			if err := k.Confirm(); err != nil && k.OnTrial() {
				return err
			}
			return nil
		}, "good=b trial=/0 a=good b=good; 7-ab to 2.0 in b: confirmed"},
		{"postpone", []func(*Keeper) error{begin, activate}, fail, "good=a trial=/0 a=good b=ready; 7-ab to 2.0 in b: postponed check-in"},
		{"try again", []func(*Keeper) error{begin, activate, fail}, func(k *Keeper) error {
			if err := k.Retry(nil); err != nil && k.Record().Update.State != Trial {
				return err
			} else if err != nil && !k.State().Trial.Valid() {
				return err
			}
			return nil
		}, "good=a trial=b/3 a=good b=ready; 7-ab to 2.0 in b: trial"},
	} {
		for _, lands := range []bool{false, true} {
			for i := 1; ; i++ {
				d := newGateway(t, slot.Empty)
				k, _ := boot(t, d, false, "")
				for _, s := range tt.before {
					must(t, s(k))
					k, _ = boot(t, d, false, "")
				}
				left := i
				k.Open = func() (Device, error) { return failing{d, &left, lands}, nil }
				err := tt.do(k)
				for range 3 {
					if err != nil {
						err = tt.do(k)
					}
				}
				must(t, err)
				if got := summary(k); got != tt.want {
					t.Errorf("%s, write %d fails (it lands: %v):\ngot  %s\nwant %s", tt.name, i, lands, got, tt.want)
				}
				disk, err := slot.NewStore(d).Load()
				must(t, err)
				if got := describe(*k.State()); got != describe(disk) {
					t.Errorf("%s, write %d fails: PID 1 thinks %s, the disk has %s", tt.name, i, got, describe(disk))
				}
				if n++; left > 0 {
					break
				}
			}
		}
	}
	t.Logf("%d failures survived", n)
}

// The slot that waits for another trial cannot be tried any more: nobody waits for
// ever.
func TestPostponedAndLost(t *testing.T) {
	d := newGateway(t, slot.Empty)
	k, _ := boot(t, d, false, "")
	install(t, k)
	k, _ = boot(t, d, false, "")
	_, err := k.Fail(CheckIn, "no check-in", "the log")
	must(t, err)
	boot(t, d, false, "")
	for _, off := range []int64{ubenv.BootState, ubenv.BootState + ubenv.Second} {
		_, err := d.WriteAt(make([]byte, slot.CopySize), off)
		must(t, err)
	}
	k = keeper(d, slot.A)
	must(t, k.Booted(false))
	_, err = k.Arrive("")
	must(t, err)
	expect(t, k, "good=a trial=/0 a=good b=bad; 7-ab to 2.0 in b: rejected power")
}

// Both copies of the boot state are lost during the trial of slot a, which U-Boot
// boots then: the trial goes on, and the firmware from before stays the good one.
func TestLostInTrialOfA(t *testing.T) {
	d := powercut.New(nil, 8<<20)
	must(t, slot.NewStore(d).Save(slot.Fresh(slot.B, slot.Good)))
	k, _ := boot(t, d, false, "")
	_, err := k.Begin("7-ab", "3.0", nil)
	must(t, err)
	must(t, k.Activate("7-ab", time.Minute, "", []string{"gwe"}))
	for _, off := range []int64{ubenv.BootState, ubenv.BootState + ubenv.Second} {
		_, err := d.WriteAt(make([]byte, slot.CopySize), off)
		must(t, err)
	}
	k = keeper(d, slot.A)
	must(t, k.Booted(false))
	a, err := k.Arrive("")
	must(t, err)
	if a.Lost == nil || !k.OnTrial() {
		t.Errorf("%+v, on trial: %v", a, k.OnTrial())
	}
	expect(t, k, "good=b trial=a/0 a=ready b=good; 7-ab to 3.0 in a: trial")
}

// Who tries the firmware from before does not lose it.
func TestReturnKeepsTheOtherSlot(t *testing.T) {
	fails := func(cause Cause) func(*testing.T, *powercut.Disk, *Keeper) *Keeper {
		return func(t *testing.T, d *powercut.Disk, _ *Keeper) *Keeper {
			k, _ := boot(t, d, false, "")
			_, err := k.Fail(cause, "reason", "")
			must(t, err)
			k, _ = boot(t, d, false, "")
			return k
		}
	}
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, d *powercut.Disk, k *Keeper) *Keeper
		want string
	}{
		{"somebody changes his mind", func(t *testing.T, d *powercut.Disk, k *Keeper) *Keeper { must(t, k.Cancel("no")); return k },
			"good=a trial=/0 a=good b=good; hand-1 to  in b: rejected hand"},
		{"no check-in", fails(CheckIn), "good=a trial=/0 a=good b=good; hand-1 to 2.0 in b: postponed check-in"},
		{"a program is missing", fails(Programs), "good=a trial=/0 a=good b=bad; hand-1 to 2.0 in b: rejected programs"},
		{"U-Boot cannot count", func(t *testing.T, d *powercut.Disk, _ *Keeper) *Keeper {
			k := keeper(d, slot.A)
			must(t, k.Booted(false))
			_, err := k.Arrive("")
			must(t, err)
			return k
		}, "good=a trial=/0 a=good b=good; hand-1 to  in b: rejected uncounted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newGateway(t, slot.Good)
			k, _ := boot(t, d, false, "")
			must(t, k.Return("hand-1", time.Minute, nil))
			k = tt.end(t, d, k)
			expect(t, k, tt.want)
		})
	}
}

func describe(st slot.State) string {
	return fmt.Sprintf("good=%s trial=%s/%d a=%s/%d b=%s/%d", st.Good, st.Trial, st.TrialLeft, st.A.Status, st.A.Left, st.B.Status, st.B.Left)
}

// agree checks record and boot state against each other, after ready.
func agree(t *testing.T, name string, k *Keeper) {
	t.Helper()
	st, u := k.State(), k.Record().Update
	if (u != nil && u.State == Trial) != st.Trial.Valid() || st.Trial.Valid() && st.Trial != u.Slot {
		t.Fatalf("%s: %s", name, summary(k))
	}
	if u != nil && u.State == Postponed && st.Slot(u.Slot).Status != slot.Ready {
		t.Fatalf("%s: %s", name, summary(k))
	}
	if st.Slot(st.Good).Status != slot.Good || st.Slot(st.Good).Left != slot.BootTries {
		t.Fatalf("%s: the confirmed slot: %s", name, describe(*st))
	}
}

func TestHealth(t *testing.T) {
	now := []Program{{"gwe", true, false}, {"pump", false, true}, {"meter", false, false}}
	for _, tt := range []struct {
		name       string
		before     string
		incomplete bool
		want       string
	}{
		{"all well", "gwe", false, "[] []"},
		{"nothing ran before", "", false, "[] []"},
		{"one is FATAL, one on its way", "gwe pump meter", false, "[pump meter] [pump]"},
		{"one was taken out of the firmware", "gwe valve", false, "[] []"},
		{"one was left out by mistake", "gwe valve", true, "[valve] [valve]"},
	} {
		waiting, hopeless := Health(strings.Fields(tt.before), now, tt.incomplete)
		if got := fmt.Sprint(waiting, hopeless); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if got := NotUp(strings.Fields("a b c d e f g h i j k l")); !strings.HasSuffix(got, "h, i, j and 2 more") {
		t.Errorf("%q", got)
	}
}

func TestRefusals(t *testing.T) {
	d := newGateway(t, slot.Empty)
	k, _ := boot(t, d, false, "")
	for name, err := range map[string]error{
		"begin it first":       k.Activate("7-ab", time.Minute, "", nil),
		"no firmware waits":    k.Retry(nil),
		"is empty":             k.Return("hand", time.Minute, nil),
		"confirmed already":    k.Confirm(),
		"not on trial: slot a": second(k.Fail(Programs, "", "")),
		"no firmware is on":    k.Cancel(""),
		"slot b is empty and":  k.Damaged(""),
		"is not known":         keeper(d, "").KeepBoots(),
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
	if _, err := k.Begin("7-ab", "2.0", []string{"meter"}); err != nil {
		t.Error(err)
	}
	if err := k.Activate("7-ab", time.Second, "", nil); err == nil || !strings.Contains(err.Error(), "10s to 24h") {
		t.Errorf("a trial of a second: %v", err)
	}
	k.Open = func() (Device, error) { return nil, os.ErrPermission }
	if err := k.KeepBoots(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"update":{"id":"7-ab","slot":"b","state":"trial","boots":[{}]},"versions":{"a":"1"}}`))
	f.Add([]byte(`{"update":{"slot":"c"}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > copySize-sealed.Overhead {
			return
		}
		r, _, err := decode(sealed.Encode(magic, version, 1, payload, copySize))
		if err != nil {
			return
		}
		st := slot.Fresh(slot.A, slot.Ready)
		st.Trial = slot.B
		r.Booted(slot.B, "2", true)
		r.Settle(&st, slot.A, "log")
		if !st.Good.Valid() || st.Slot(st.Good).Status != slot.Good {
			t.Errorf("settled: %s", describe(st))
		}
	})
}
