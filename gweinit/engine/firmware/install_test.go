package firmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/ubenv"
	"github.com/exosite/gwe/gweinit/update"
)

var (
	littleOld = image{"1.0", noise(50, 3000), noise(51, 5000)}
	littleNew = image{"2.0", noise(52, 3100), noise(53, 5100)}
)

// little is a gateway with room for little images, and a source of the new one.
func little(t *testing.T) (*board, *memory) {
	public, private := newKey(t)
	b := newBoard(t, littleOld, 8<<10, 8<<10, public)
	return b, &memory{name: fileName, data: littleNew.pack(t, private, nil)}
}

func TestTakes(t *testing.T) {
	for name, want := range map[string]bool{"rpi3.v1.2.0.fw": true, "x.fw": true, "app.v1.tar.gz": false, "fw": false, "x.fw.gz": false} {
		if got := (&Installer{}).Takes(command.Item{Name: name}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What PID 1's record says when Install is called, and what that makes of it.
func TestFollow(t *testing.T) {
	for _, test := range []struct {
		name    string
		before  func(b *board) error
		during  func(b *board) error // some time later
		running slot.Name            // "": a
		output  string
		err     string // a part; "": none
		later   bool
		reboots int
	}{
		{name: "confirmed", running: slot.B, before: func(b *board) error { return b.keeper.Confirm() }, output: "firmware 2.0 confirmed in slot b"},
		{name: "rejected", running: slot.B, before: func(b *board) error {
			_, err := b.keeper.Fail(update.Programs, "app does not run", "the log")
			return err
		}, output: "the log", err: "firmware 2.0 was rejected (programs): app does not run"},
		{name: "confirmed while it waits", running: slot.B, during: func(b *board) error { return b.keeper.Confirm() }, output: "firmware 2.0 confirmed in slot b"},
		{name: "rejected by hand before it was booted", during: func(b *board) error { return b.keeper.Cancel("somebody has asked for it") },
			err: "firmware 2.0 was rejected (hand): somebody has asked for it", reboots: 1},
		{name: "the reboot does not come", during: func(b *board) error {
			time.Sleep(11 * time.Minute)
			return b.keeper.Cancel("enough")
		}, err: "enough", reboots: 3},
		{name: "another one comes instead", running: slot.B, before: func(b *board) error {
			_, err := b.keeper.Fail(update.CheckIn, "no check-in", "")
			if err == nil {
				_, err = b.start(slot.A, littleOld.version)
			}
			return err
		}, during: func(b *board) error {
			_, err := b.keeper.Begin("hand-1", "3.0", nil)
			return err
		}, err: "another firmware was installed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, source := little(t)
				b.onTrial(t, jobID)
				if test.running == slot.B {
					b.bootTrial(t)
				}
				if test.before != nil {
					if err := test.before(b); err != nil {
						t.Fatal(err)
					}
				}
				if test.during != nil {
					go func() {
						time.Sleep(90 * time.Second)
						if err := test.during(b); err != nil {
							t.Error(err)
						}
					}()
				}
				source.copied = 0
				output, err := b.installer(source).Install(t.Context(), job(fileName))
				if output != test.output || (err == nil) != (test.err == "") || err != nil && !contains(err.Error(), test.err) || isLater(err) != test.later || b.reboots != test.reboots {
					t.Errorf("%q, %v, %d reboots", output, err, b.reboots)
				}
				if source.copied > 0 {
					t.Errorf("fetched %d bytes", source.copied)
				}
			})
		})
	}
}

// tellingHost tells something else than PID 1 would, from the second time on.
type tellingHost struct {
	*board
	first  bool // from the first time on
	change func(*update.Status)
}

func (h *tellingHost) Firmware(ctx context.Context) (update.Status, error) {
	st, err := h.board.Firmware(ctx)
	if h.first {
		h.change(&st)
	}
	h.first = true
	return st, err
}

// What a trial is waited for no longer for.
func TestFollowEnds(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*update.Status)
		output string
		err    string
		later  bool
	}{
		{name: "confirmed, which is not noted", change: func(st *update.Status) { st.Slots.Good = slot.B }, output: "firmware 2.0 confirmed in slot b"},
		{name: "not activated", change: func(st *update.Status) { st.Slots.Trial = "" }, err: "slot b was not put on trial", later: true},
		{name: "a state of later", change: func(st *update.Status) { st.Update.State = "resting" }, err: `firmware 2.0 is "resting", which this Gateway Engine does not know`, later: true},
		{name: "no record", change: func(st *update.Status) { st.Update = nil }, err: "what became of the firmware is not known"},
		{name: "a new record", change: func(st *update.Status) { st.Update.ID = "" }, err: "what became of the firmware is not known"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, source := little(t)
				b.onTrial(t, jobID)
				i := b.installer(source)
				i.Host = &tellingHost{board: b, change: test.change}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				output, err := i.Install(ctx, job(fileName))
				if output != test.output || (err == nil) != (test.err == "") || err != nil && !contains(err.Error(), test.err) || isLater(err) != test.later {
					t.Errorf("%q, %v", output, err)
				}
				if source.copied > 0 || b.begun > 0 {
					t.Errorf("fetched %d bytes, begun %d times", source.copied, b.begun)
				}
			})
		})
	}
}

// Without a version to compare with, any would fit.
func TestUnknownFirmware(t *testing.T) {
	for name, change := range map[string]func(*update.Status){
		"version": func(st *update.Status) { st.Version = "" },
		"board":   func(st *update.Status) { st.Board = "" },
	} {
		b, source := little(t)
		i := b.installer(source)
		i.Host = &tellingHost{board: b, first: true, change: change}
		_, err := i.Install(t.Context(), job(fileName))
		if !isLater(err) || !contains(err.Error(), "PID 1 does not know which firmware runs") {
			t.Errorf("%s: %v", name, err)
		}
		if err := ByHand(t.Context(), i.Gateway, source, io.Discard); err == nil || !contains(err.Error(), "PID 1 does not know which firmware runs") {
			t.Errorf("%s, by hand: %v", name, err)
		}
		if source.copied > 0 || b.begun > 0 || b.reboots > 0 {
			t.Errorf("%s: fetched %d bytes, begun %d times, %d reboots", name, source.copied, b.begun, b.reboots)
		}
	}
}

// stateless takes no boot state while it fails.
type stateless struct {
	section
	fails *bool
}

func (s stateless) WriteAt(p []byte, off int64) (int, error) {
	if *s.fails && off%ubenv.Second < ubenv.Identity {
		return 0, errIO
	}
	return s.section.WriteAt(p, off)
}

// PID 1 notes that the slot is on trial, and then cannot write the boot state: it is
// activated again, until that can be written.
func TestNotActivated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, source := little(t)
		fails := false
		b.keeper.Open = func() (update.Device, error) { return stateless{b.section(slot.StatePartition), &fails}, nil }
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		i := b.installer(source)
		i.Settings = func() (time.Duration, string) {
			fails = true
			return update.DefaultLimit, ""
		}
		for range 3 {
			fails = false
			if _, err := i.Install(ctx, job(fileName)); !isLater(err) || !errors.Is(err, errIO) || b.state(t).Trial != "" {
				t.Fatalf("%v; %s", err, line(b.state(t)))
			}
		}
		fails = false
		source.copied = 0
		b.reboot = cancel
		_, err := b.installer(source).Install(ctx, job(fileName))
		if !errors.Is(err, context.Canceled) || b.reboots != 1 || b.state(t).Trial != slot.B || !b.holds(slot.B, littleNew) {
			t.Errorf("%v, %d reboots; %s", err, b.reboots, line(b.state(t)))
		}
		// Of the bundle there is all but its head.
		if most := int64(headBlock); source.copied > most {
			t.Errorf("fetched %d bytes, want at most %d", source.copied, most)
		}
	})
}

// onTrial activates the firmware in slot b, without a boot.
func (b *board) onTrial(t *testing.T, id string) {
	t.Helper()
	if _, err := b.keeper.Begin(id, littleNew.version, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.keeper.Activate(id, update.DefaultLimit, "", nil); err != nil {
		t.Fatal(err)
	}
}

func (b *board) bootTrial(t *testing.T) {
	t.Helper()
	if _, err := b.start(slot.B, littleNew.version); err != nil {
		t.Fatal(err)
	}
}

// One that is on trial is waited for, and one that is postponed gives way.
func TestOthers(t *testing.T) {
	b, source := little(t)
	b.onTrial(t, "other-0")
	if _, err := b.installer(source).Install(t.Context(), job(fileName)); !isLater(err) || !contains(err.Error(), "firmware 2.0", "other-0") || source.copied > 0 {
		t.Errorf("on trial: %v", err)
	}
	b.bootTrial(t)
	if _, err := b.keeper.Fail(update.CheckIn, "no check-in", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := b.start(slot.A, littleOld.version); err != nil {
		t.Fatal(err)
	}
	ctx, reboot := context.WithCancel(t.Context())
	b.reboot = reboot
	if _, err := b.installer(source).Install(ctx, job(fileName)); !errors.Is(err, context.Canceled) || b.reboots != 1 || !b.holds(slot.B, littleNew) {
		t.Errorf("postponed: %v", err)
	}
}

// What runs already is not installed again, unless by hand.
func TestRunningAlready(t *testing.T) {
	public, private := newKey(t)
	for _, test := range []struct {
		name string
		next image
		want bool
	}{
		{"the same", littleOld, true},
		{"the same version of something else", image{"1.0", littleOld.kernel, noise(60, 5000)}, false},
		{"the same of another version", image{"1.1", littleOld.kernel, littleOld.rootfs}, false},
	} {
		b := newBoard(t, littleOld, 8<<10, 8<<10, public)
		writes := b.disk.Writes
		ctx, reboot := context.WithCancel(t.Context())
		b.reboot = reboot
		output, err := b.installer(&memory{name: fileName, data: test.next.pack(t, private, nil)}).Install(ctx, job(fileName))
		switch {
		case test.want && (err != nil || output != "firmware 1.0 is running already" || b.disk.Writes != writes || b.begun > 0):
			t.Errorf("%s: %q, %v, %d writes", test.name, output, err, b.disk.Writes-writes)
		case !test.want && (!errors.Is(err, context.Canceled) || !b.holds(slot.B, test.next)):
			t.Errorf("%s: %q, %v", test.name, output, err)
		}
	}
}

// deafHost does not answer one of its methods.
type deafHost struct {
	*board
	method string
}

var errDeaf = errors.New("PID 1 does not answer")

func (h deafHost) Firmware(ctx context.Context) (update.Status, error) {
	if h.method == "firmware" {
		return update.Status{}, errDeaf
	}
	return h.board.Firmware(ctx)
}

func (h deafHost) Begin(ctx context.Context, id, version string) (slot.Name, error) {
	if h.method == "begin" {
		return "", errDeaf
	}
	return h.board.Begin(ctx, id, version)
}

func (h deafHost) Activate(ctx context.Context, id string, limit time.Duration, window string) error {
	if h.method == "activate" {
		return errDeaf
	}
	return h.board.Activate(ctx, id, limit, window)
}

func (h deafHost) Reboot(ctx context.Context) error {
	if h.method == "reboot" {
		return errDeaf
	}
	return h.board.Reboot(ctx)
}

// What PID 1 does not do now it may do later.
func TestHostFails(t *testing.T) {
	for _, method := range []string{"firmware", "begin", "activate", "reboot"} {
		b, source := little(t)
		i := b.installer(source)
		i.Host = deafHost{b, method}
		if _, err := i.Install(t.Context(), job(fileName)); !isLater(err) || !errors.Is(err, errDeaf) {
			t.Errorf("%s: %v", method, err)
		}
		ctx, reboot := context.WithCancel(t.Context())
		b.reboot = reboot
		if _, err := b.installer(source).Install(ctx, job(fileName)); !errors.Is(err, context.Canceled) || b.reboots != 1 {
			t.Errorf("%s, then: %v", method, err)
		}
	}
	b, _ := little(t)
	i := b.installer(nil)
	noConnection := command.Later(errors.New("the gateway has no connection yet"))
	i.Source = func(string) (Source, error) { return nil, noConnection }
	if _, err := i.Install(t.Context(), job(fileName)); !isLater(err) {
		t.Error(err)
	}
}

// Two processes do not write one slot.
func TestLock(t *testing.T) {
	b, source := little(t)
	unlock, err := b.gateway().lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.installer(source).Install(t.Context(), job(fileName)); !isLater(err) || !contains(err.Error(), "another process") || b.begun > 0 {
		t.Error(err)
	}
	unlock()
	ctx, reboot := context.WithCancel(t.Context())
	b.reboot = reboot
	if _, err := b.installer(source).Install(ctx, job(fileName)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// When the trial begins. Fake time starts at midnight UTC, and so do local times.
func TestWindow(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	for _, test := range []struct {
		name   string
		window string
		clock  time.Duration // after which the clock is set; less than 0: never
		change func(set func(string))
		begins time.Duration
	}{
		{name: "at once", begins: 0},
		{name: "at once, without a clock", clock: -1, begins: 0},
		{name: "in it", window: "23:00-01:00", begins: 0},
		{name: "later", window: "02:00-04:00", begins: 2 * time.Hour},
		{name: "clock is set before", window: "02:00-04:00", clock: time.Hour, begins: 2 * time.Hour},
		{name: "clock is set within", window: "02:00-04:00", clock: 3 * time.Hour, begins: 3 * time.Hour},
		{name: "clock is set after", window: "02:00-04:00", clock: 5 * time.Hour, begins: 26 * time.Hour},
		{name: "clock is never set", window: "02:00-04:00", clock: -1, begins: 24 * time.Hour},
		{name: "the setting changes", window: "02:00-04:00", begins: 30 * time.Minute, change: func(set func(string)) {
			time.Sleep(30 * time.Minute)
			set("")
		}},
		{name: "the setting is wrong", window: "whenever", begins: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, source := little(t)
				var setting atomic.Value
				setting.Store(test.window)
				window := func() string { return setting.Load().(string) }
				i := b.installer(source)
				i.Settings = func() (time.Duration, string) { return time.Hour, window() }
				var told []string
				j := job(fileName)
				j.Tell = func(text string) { told = append(told, text) }
				set := func() {
					path := i.path(clockFile)
					if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
						t.Error(err)
					}
				}
				start := time.Now()
				switch {
				case test.clock == 0:
					set()
				case test.clock > 0:
					time.AfterFunc(test.clock, set)
				}
				if test.change != nil {
					go test.change(func(s string) { setting.Store(s) })
				}
				ctx, cancel := context.WithCancel(t.Context())
				b.reboot = cancel
				if _, err := i.Install(ctx, j); !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				took := time.Since(start)
				if took < test.begins || took > test.begins+2*time.Minute {
					t.Errorf("after %v, want %v; %q", took, test.begins, told)
				}
				if st := b.state(t); st.Trial != slot.B || b.keeper.Record().Update.Limit != 3600 || b.keeper.Record().Update.Window != window() {
					t.Errorf("%s, %+v", line(st), b.keeper.Record().Update)
				}
				waits := strings.Contains(fmt.Sprint(told), "reboots in the window "+test.window)
				if waits != (test.begins > 0) || told[len(told)-1] != fileName+": verified, rebooting" {
					t.Errorf("told: %q", told)
				}
			})
		})
	}
	t.Run("not activated before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, source := little(t)
			i := b.installer(source)
			i.Settings = func() (time.Duration, string) { return time.Hour, "02:00-04:00" }
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if _, err := i.Install(ctx, job(fileName)); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if st := b.state(t); st.Trial != "" || st.B.Status != slot.Writing || !b.holds(slot.B, littleNew) {
				t.Error(line(st))
			}
		})
	})
}

func TestProgress(t *testing.T) {
	const size = 36_400_000
	for _, test := range []struct {
		name string
		pace time.Duration // for each percent
		from int64         // percent
		want []string
	}{
		{"slow", time.Minute, 0, []string{"0 %, 0.0 of 36.4 MB", "25 %, 9.1 of 36.4 MB", "50 %, 18.2 of 36.4 MB", "75 %, 27.3 of 36.4 MB", "verified, rebooting"}},
		{"fast", time.Millisecond, 0, []string{"0 %, 0.0 of 36.4 MB", "verified, rebooting"}},
		{"a minute", 600 * time.Millisecond, 0, []string{"0 %, 0.0 of 36.4 MB", "50 %, 18.2 of 36.4 MB", "verified, rebooting"}},
		{"goes on", time.Minute, 60, []string{"60 %, 21.8 of 36.4 MB", "75 %, 27.3 of 36.4 MB", "verified, rebooting"}},
		{"all is there", time.Minute, 100, []string{"100 %, 36.4 of 36.4 MB", "verified, rebooting"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var told []string
			p := &progress{name: "x.fw", tell: func(text string) { told = append(told, strings.TrimPrefix(text, "x.fw: ")) }}
			for percent := test.from; percent <= 100; percent++ {
				p.at(size/100*percent, size)
				time.Sleep(test.pace)
			}
			p.say("verified, rebooting")
			if !slices.Equal(told, test.want) {
				t.Errorf("%s: %q", test.name, told)
			}
		})
	}
}

// The manifest's own hashes may not fit each other, if who signs has mistakes.
func TestSignedMistake(t *testing.T) {
	public, private := newKey(t)
	b := newBoard(t, littleOld, 8<<10, 8<<10, public)
	wrong := forge(t, littleNew.pack(t, private, nil), private, func(m *bundle.Manifest) { m.Partitions[1].SHA256[0] ^= 1 })
	_, err := b.installer(&memory{name: fileName, data: wrong}).Install(t.Context(), job(fileName))
	if err == nil || isLater(err) || !contains(err.Error(), "pieces of its rootfs", "build it again") || b.state(t).Trial != "" {
		t.Error(err)
	}
}
