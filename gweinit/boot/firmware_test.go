package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/powercut"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

func TestTailOfLog(t *testing.T) {
	dir := t.TempDir()
	if text, err := tailOfLog(filepath.Join(dir, "none")); text != "" || err != nil {
		t.Errorf("no log: %q, %v", text, err)
	}
	var log strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&log, "2026-11-25T10:00:00.000Z INFO  kernel: line %d\n", i)
		fmt.Fprintf(&log, "2026-11-25T10:00:00.000Z INFO  pump[77]: chatter\n")
	}
	log.WriteString("2026-11-25T10:00:01.000Z ERROR gweinit: the last one\n")
	path := filepath.Join(dir, "messages")
	if err := os.WriteFile(path, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := tailOfLog(path)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if err != nil || len(lines) != lastWords || !strings.HasSuffix(lines[lastWords-1], "the last one") || !strings.HasSuffix(lines[0], "kernel: line 4961") || strings.Contains(text, "chatter") {
		t.Errorf("%d lines, %v:\n%s", len(lines), err, text)
	}
}

func TestReadAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(path, make([]byte, 300<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readAll(path, 0, 0); err != nil {
		t.Error(err)
	}
	if err := readAll(path+"x", 0, 0); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
	if err := readAll(filepath.Dir(path), 0, 0); err == nil || !strings.Contains(err.Error(), "at byte 0, 4 times") {
		t.Errorf("a folder: %v", err)
	}
}

// Whatever comes of it, the root of this boot is none to pass the self-test with.
func TestDamagedRoot(t *testing.T) {
	read := fmt.Errorf("read /dev/dm-0: %w, at byte 7, 4 times", unix.EIO)
	for _, tt := range []struct {
		name    string
		prepare func(s *system)
		want    string // in the error
		reboots int
		reports bool
	}{
		{"on trial", func(*system) {}, "is damaged", 1, false},
		{"the other slot is good", func(s *system) {
			if err := s.firmware.Confirm(); err != nil {
				t.Fatal(err)
			}
		}, "is damaged", 1, false},
		{"the other slot cannot be taken", func(s *system) {
			if err := s.firmware.Confirm(); err != nil {
				t.Fatal(err)
			}
			s.firmware.Open = func() (update.Device, error) { return nil, errors.New("no disk") }
		}, "going on with it: ", 0, true},
	} {
		s := onTrial(t, powercut.New(nil, 8<<20))
		tt.prepare(s)
		err := s.damaged(read)
		if err == nil || !strings.Contains(err.Error(), "the root of slot b is damaged (read /dev/dm-0") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if damage, _ := s.rootDamage.Load().(string); len(s.signals) != tt.reboots || (damage != "") != tt.reports {
			t.Errorf("%s: %d reboots, damage %q", tt.name, len(s.signals), damage)
		}
	}
}

func TestStreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s streak
		got := ""
		for _, now := range "yyynyyyyyyn" {
			if s.lasts(now == 'y', 4*time.Second) {
				got += "!"
			} else {
				got += "."
			}
			time.Sleep(time.Second)
		}
		if want := "........!!."; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestHasReset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bootstatus")
	for text, want := range map[string]bool{"32\n": true, "0\n": false, "33": true, "1\n": false, "x": false, "": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hasReset(path); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if hasReset(path + "x") {
		t.Error("a watchdog that tells nothing has reset the machine")
	}
}

func TestOutcome(t *testing.T) {
	u := &update.Update{Version: "1.2.0", Slot: slot.B, State: update.Rejected, Reason: "pump is FATAL"}
	if got, want := outcome(u), "firmware 1.2.0 in slot b: rejected: pump is FATAL"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// disk is the partition ubenv, whose open and sync may be others'.
type disk struct {
	*powercut.Disk
	sync func() error
}

func (disk) Close() error { return nil }

func (d disk) Sync() error {
	if d.sync != nil {
		return d.sync()
	}
	return d.Disk.Sync()
}

// onTrial is a system whose slot b is on trial, for a minute.
func onTrial(t *testing.T, d *powercut.Disk, programs ...string) *system {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func() (update.Device, error) { return disk{d, nil}, nil }
	store := slot.NewStore(d)
	must(store.Save(slot.Fresh(slot.A, slot.Empty)))
	a := &update.Keeper{Open: open, Running: slot.A, Version: "1.0"}
	_, err := a.Arrive("")
	must(err)
	_, err = a.Begin("7-ab", "2.0", nil)
	must(err)
	must(a.Activate("7-ab", time.Minute, "", programs))
	st, err := store.Load()
	must(err)
	_, _, st = st.Next()
	must(store.Save(st))
	s := &system{
		firmware: &update.Keeper{Open: open, Running: slot.B, Version: "2.0"},
		slot:     slot.B, version: "2.0", signals: make(chan os.Signal, 8), zone: time.UTC,
	}
	must(s.firmware.Booted(false))
	must(arrive(s))
	return s
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ran     string // before the update
		prepare func(t *testing.T, s *system, d *powercut.Disk)
		after   time.Duration // until the verdict
		want    string        // update, and whether a reboot was asked for
	}{
		{"healthy", "", func(_ *testing.T, s *system, _ *powercut.Disk) { s.checkedIn.Store(true) }, 10 * time.Second, "confirmed, reboots: 0"},
		{"no check-in", "", func(*testing.T, *system, *powercut.Disk) {}, time.Minute, "postponed check-in, reboots: 1"},
		{"a program is gone, by a mistake in its configuration", "pump", func(_ *testing.T, s *system, _ *powercut.Disk) {
			s.checkedIn.Store(true)
			s.incomplete.Store(true)
		}, 10 * time.Second, "rejected programs, reboots: 1"},
		{"a reboot comes between", "", func(_ *testing.T, s *system, _ *powercut.Disk) { s.down.Store(true) }, 0, "trial, reboots: 0"},
		{"the confirmation is written, and told as an error", "", func(_ *testing.T, s *system, d *powercut.Disk) {
			s.checkedIn.Store(true)
			n := 1
			s.firmware.Open = func() (update.Device, error) {
				return disk{d, func() error {
					err := d.Sync()
					if n--; n == 0 {
						return errors.New("input/output error")
					}
					return err
				}}, nil
			}
		}, 11 * time.Second, "confirmed, reboots: 0"},
		{"the disk hangs", "", func(t *testing.T, s *system, _ *powercut.Disk) {
			hung := make(chan bool)
			t.Cleanup(func() { close(hung) })
			s.checkedIn.Store(true)
			s.firmware.Open = func() (update.Device, error) { <-hung; return nil, errors.New("it is over") }
		}, 135 * time.Second, "trial, reboots: 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := powercut.New(nil, 8<<20)
				s := onTrial(t, d, strings.Fields(tt.ran)...)
				s.rootRead.Store(new(error))
				tt.prepare(t, s, d)
				start := time.Now()
				verdict := make(chan time.Duration, 1)
				go func() {
					s.guard("judge", (*system).judge)
					verdict <- time.Since(start)
				}()
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				took := tt.after // of one that hangs only the reboot is seen
				select {
				case took = <-verdict:
				default:
				}
				u := s.firmware.Record().Update
				got := fmt.Sprintf("%s, reboots: %d", strings.TrimSpace(fmt.Sprintf("%s %s", u.State, u.Cause)), len(s.signals))
				if got != tt.want || took < tt.after || took > tt.after+5*time.Second {
					t.Errorf("after %v: %s; want after %v: %s", took, got, tt.after, tt.want)
				}
			})
		})
	}
}

// The boot state could not be had at ready. It is asked for again; a disk that
// hangs is left, one with errors is not.
func TestArriveLate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		open    func(d *powercut.Disk, hung chan bool) (update.Device, error)
		arrived bool
		reboots int
	}{
		{"it works again", func(d *powercut.Disk, _ chan bool) (update.Device, error) { return disk{d, nil}, nil }, true, 0},
		{"an error", func(*powercut.Disk, chan bool) (update.Device, error) {
			return nil, errors.New("input/output error")
		}, false, 0},
		{"it hangs", func(_ *powercut.Disk, hung chan bool) (update.Device, error) {
			<-hung
			return nil, errors.New("it is over")
		}, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, hung, over := powercut.New(nil, 8<<20), make(chan bool), false
				s := onTrial(t, d)
				s.firmware = &update.Keeper{Running: slot.B, Open: func() (update.Device, error) {
					if over {
						return disk{d, nil}, nil // or the test would not end
					}
					return tt.open(d, hung)
				}}
				go s.guard("arrive", (*system).arriveLate)
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := s.firmware.Arrived(); got != tt.arrived || len(s.signals) != tt.reboots {
					t.Errorf("arrived: %v, reboots: %d", got, len(s.signals))
				}
				over = true
				close(hung)
				time.Sleep(time.Hour)
			})
		})
	}
}
