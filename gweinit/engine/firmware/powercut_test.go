package firmware

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/exosite/gwe/gweinit/powercut"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

var updateGolden = flag.Bool("update", false, "write testdata/boot-states anew")

// story is an update from the command to its end, over all its boots.
type story struct {
	name     string
	old, new image
	b        slot.Status // of slot b before; good: it has an older firmware
	fails    []update.Cause
	dead     bool // the new one does not come as far as PID 1
	outcome  string
	end      string // the boot state
	pairs    bool   // first cuts are followed by second ones

	bundle []byte
	root   string

	mu     sync.Mutex
	states map[string]bool // that were booted
}

// older is what slot b may have.
var older = image{"0.9", noise(90, 2000), noise(91, 4000)}

// life is a gateway, from one power cut to the next.
type life struct {
	*story
	*board
}

func (s *story) life(d *powercut.Disk) *life {
	size := func(old, new []byte) int64 { return int64(max(len(old), len(new))+5*sector) &^ (sector - 1) }
	return &life{s, &board{disk: d, kernel: size(s.old.kernel, s.new.kernel), rootfs: size(s.old.rootfs, s.new.rootfs), root: s.root}}
}

// start is the disk when the command comes.
func (s *story) start(t *testing.T) *powercut.Disk {
	l := s.life(nil)
	l.disk = powercut.New(nil, stateSize+2*l.kernel+2*l.rootfs)
	l.fill(t, slot.A, s.old)
	if s.b == slot.Good {
		l.fill(t, slot.B, older)
	}
	for range 2 { // both copies, as in the factory
		l.setState(t, slot.Fresh(slot.A, s.b))
	}
	return l.disk
}

// run lives until the command has an outcome.
func (l *life) run() (outcome string, err error) {
	for range 12 {
		outcome, err := l.boot()
		if err != nil || outcome != "" {
			return outcome, err
		}
	}
	return "", fmt.Errorf("%w: no end after 12 boots", errWrong)
}

// boot is one boot, from U-Boot to the reboot.
func (l *life) boot() (outcome string, err error) {
	store := slot.NewStore(l.section(slot.StatePartition))
	st, err := store.Load()
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	l.states[line(st)] = true
	l.mu.Unlock()
	order, why, after := st.Next()
	n := order[0]
	version := ""
	for _, i := range []image{older, l.old, l.new} {
		if l.holds(n, i) {
			version = i.version
		}
	}
	if status := st.Slot(n).Status; why == "lastresort" || version == "" || version == older.version || status != slot.Good && status != slot.Ready {
		return "", fmt.Errorf("%w: boots slot %s (%s), which has firmware %q; %s", errWrong, n, why, version, line(st))
	}
	if err := store.Save(after); err != nil {
		return "", err
	}
	if l.dead && version == l.new.version {
		return "", nil
	}
	arrival, err := l.board.start(n, version)
	if err != nil {
		return "", err
	}
	if arrival.Leave {
		return "", l.keeper.Ended()
	}
	if arrival.Lost != nil || arrival.Fallback != "" {
		return "", fmt.Errorf("%w: %+v", errWrong, arrival)
	}
	u := l.keeper.Record().Update
	switch {
	case l.keeper.OnTrial() && u.Again < len(l.fails):
		if _, err := l.keeper.Fail(l.fails[u.Again], "as the story goes", "the last words"); err != nil {
			return "", err
		}
		return "", l.keeper.Ended()
	case l.keeper.OnTrial():
		if err := l.keeper.Confirm(); err != nil {
			return "", err
		}
	case u != nil && u.State == update.Postponed:
		if err := l.keeper.Retry([]string{"app"}); err != nil {
			return "", err
		}
		return "", l.keeper.Ended()
	}
	return l.install()
}

func (l *life) install() (outcome string, err error) {
	ctx, reboot := context.WithCancel(context.Background())
	defer reboot()
	l.reboot = reboot
	output, err := l.installer(&memory{name: fileName, data: l.bundle}).Install(ctx, job(fileName))
	switch {
	case l.lost():
		return "", powercut.ErrPower
	case err != nil && ctx.Err() != nil:
		return "", l.keeper.Ended()
	case isLater(err):
		return "", fmt.Errorf("%w: later: %w", errWrong, err)
	case err != nil:
		return "failed: " + err.Error() + ": " + output, nil
	}
	return output, nil
}

// lost says whether there is no power.
func (l *life) lost() bool {
	_, err := l.disk.ReadAt(make([]byte, 1), 0)
	return errors.Is(err, powercut.ErrPower)
}

// right says whether a life has come to its right end.
func (l *life) right(outcome string, err error) error {
	if err != nil {
		return err
	}
	st, err := slot.NewStore(l.section(slot.StatePartition)).Load()
	switch {
	case err != nil:
		return err
	case outcome != l.outcome:
		return fmt.Errorf("%w outcome: %s", errWrong, outcome)
	case line(st) != l.end:
		return fmt.Errorf("%w state at the end: %s", errWrong, line(st))
	case !l.holds(slot.A, l.old):
		return fmt.Errorf("%w: slot a was written", errWrong)
	}
	return nil
}

// live goes on after a cut, and says whether the end is right, and stays so.
func (s *story) live(d *powercut.Disk) error {
	l := s.life(d)
	outcome, err := l.run()
	if err := l.right(outcome, err); err != nil {
		return err
	}
	// The queue may not have noted it any more.
	l = s.life(d)
	again, err := l.run()
	if err := l.right(again, err); err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	return nil
}

func stories(t *testing.T) []*story {
	public, private := newKey(t)
	old := image{"1.0", noise(1, 3000), noise(2, 5000)}
	next := image{"2.0", noise(3, 3100), noise(4, 6000)}
	sameKernel := image{"2.0", old.kernel, noise(5, 6500)}
	large := image{"2.0", noise(6, 3100), append(make([]byte, 2<<20), noise(7, 1<<20+100_000)...)}
	const (
		confirmed = "firmware 2.0 confirmed in slot b"
		good      = "GOOD=b TRIAL= T_LEFT=0 A_STATE=good A_LEFT=8 B_STATE=good B_LEFT=8"
		bad       = "GOOD=a TRIAL= T_LEFT=0 A_STATE=good A_LEFT=8 B_STATE=bad B_LEFT=0"
	)
	all := []*story{
		{name: "confirmed", old: old, new: next, b: slot.Empty, outcome: confirmed, end: good, pairs: true},
		{name: "rejected", old: old, new: next, b: slot.Good, fails: []update.Cause{update.Programs}, pairs: true,
			outcome: "failed: firmware 2.0 was rejected (programs): as the story goes: the last words", end: bad},
		{name: "postponed", old: old, new: sameKernel, b: slot.Bad, fails: []update.Cause{update.CheckIn}, outcome: confirmed, end: good, pairs: true},
		{name: "postponed too often", old: old, new: next, b: slot.Empty, fails: []update.Cause{update.CheckIn, update.CheckIn, update.CheckIn},
			outcome: "failed: firmware 2.0 was rejected (check-in): as the story goes: the last words", end: bad},
		{name: "does not start", old: old, new: next, b: slot.Empty, dead: true, pairs: true,
			outcome: "failed: firmware 2.0 was rejected (boot): 3 boots of slot b were used up: it never came as far as PID 1; its kernel or its root does not start: ", end: bad},
		{name: "of several pieces", old: old, new: large, b: slot.Empty, outcome: confirmed, end: good},
	}
	for _, s := range all {
		s.bundle, s.root, s.states = s.new.pack(t, private, nil), t.TempDir(), map[string]bool{}
		writeKey(t, s.root, public)
	}
	return all
}

// The power goes in every write and sync of an update, from the command to its
// outcome, U-Boot's included, and of the unsynced writes all, some, none or torn ones
// are there after it; and once more during what follows that. U-Boot always finds a
// slot with one whole firmware, and the command always has one and the same outcome.
func TestPowerCut(t *testing.T) {
	all := stories(t)
	t.Run("stories", func(t *testing.T) {
		for _, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s.cut(t)
			})
		}
	})
	states := map[string]bool{}
	for _, s := range all {
		maps.Copy(states, s.states)
		if len(s.states) == 0 {
			return // it was not asked for
		}
	}
	compareGolden(t, "testdata/boot-states", strings.Join(slices.Sorted(maps.Keys(states)), "\n")+"\n")
	t.Logf("%d boot states", len(states))
}

func (s *story) cut(t *testing.T) {
	failed := 0
	fail := func(format string, args ...any) {
		t.Errorf(format, args...)
		if failed++; failed > 10 {
			t.FailNow()
		}
	}
	op := func(d *powercut.Disk) error {
		l := s.life(d)
		outcome, err := l.run()
		return l.right(outcome, err)
	}
	check := func(name string, d *powercut.Disk, err error) {
		if errors.Is(err, errWrong) {
			fail("%s: before the cut: %v", name, err)
		}
		if err := s.live(d); err != nil {
			fail("%s: %v", name, err)
		}
	}
	seconds, n := 0, 0
	firsts, err := powercut.Each(s.start(t), op, func(first string, d *powercut.Disk, err error) {
		check(first, d.Copy(), err)
		if !s.pairs {
			return
		}
		_, err = powercut.Each(d, op, func(second string, d *powercut.Disk, err error) {
			if n++; n%2 == 0 { // all of them find nothing else, and take twice as long
				seconds++
				check(first+"; then "+second, d, err)
			}
		})
		if err != nil {
			fail("%s; then none: %v", first, err)
		}
	})
	if err != nil {
		fail("without a power cut: %v", err)
	}
	t.Logf("%d power cuts survived, and %d pairs", firsts, seconds)
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s is not right any more (-update writes it anew); now:\n%s", path, got)
	}
}
