package slot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/powercut"
)

func good(n Name, other Status) State { return Fresh(n, other) }

func TestOperations(t *testing.T) {
	trialB := good(A, Ready)
	trialB.Trial, trialB.TrialLeft = B, 2
	countedDown := good(A, Good)
	countedDown.A.Left = 3
	usedUp := good(A, Good)
	usedUp.A.Left = 0
	damaged := good(A, Good).with(A, Bad)

	for _, tt := range []struct {
		name string
		from State
		op   func(*State) error
		want string // like describe, or "error: " and a part of it
	}{
		{"begin on an empty slot", good(A, Empty), func(s *State) error { return s.Begin(A, B) }, "good=a trial= 0 a=good/8 b=writing/0"},
		{"begin on an older firmware", good(B, Good), func(s *State) error { return s.Begin(B, A) }, "good=b trial= 0 a=writing/0 b=good/8"},
		{"begin ends a trial that has not been booted", trialB, func(s *State) error { return s.Begin(A, B) }, "good=a trial= 0 a=good/8 b=writing/0"},
		{"begin on the running slot", good(A, Empty), func(s *State) error { return s.Begin(A, A) }, "error: never written"},
		{"begin during a trial", trialB, func(s *State) error { return s.Begin(B, A) }, "error: on trial"},
		{"begin on the confirmed slot from a fallback before ready", good(A, Good), func(s *State) error { return s.Begin(B, A) }, "error: has not reached ready"},
		{"begin on no slot", good(A, Good), func(s *State) error { return s.Begin(A, "c") }, "error: no slot"},

		{"activate what was written", good(A, Writing), func(s *State) error { return s.Activate(A, B) }, "good=a trial=b 3 a=good/8 b=ready/0"},
		{"activate again", trialB, func(s *State) error { return s.Activate(A, B) }, "good=a trial=b 3 a=good/8 b=ready/0"},
		{"activate the older firmware: a rollback by hand", good(A, Good), func(s *State) error { return s.Activate(A, B) }, "good=a trial=b 3 a=good/8 b=ready/0"},
		{"activate an empty slot", good(A, Empty), func(s *State) error { return s.Activate(A, B) }, "error: write it first"},
		{"activate a rejected slot", good(A, Bad), func(s *State) error { return s.Activate(A, B) }, "error: write it first"},
		{"activate the running slot", good(A, Bad), func(s *State) error { return s.Activate(A, A) }, "error: running already"},
		{"activate during a trial", trialB, func(s *State) error { return s.Activate(B, A) }, "error: confirmed already"},

		{"confirm the trial", trialB, func(s *State) error { return s.Confirm(B) }, "good=b trial= 0 a=good/8 b=good/8"},
		{"confirm twice", good(B, Good), func(s *State) error { return s.Confirm(B) }, "good=b trial= 0 a=good/0 b=good/8"},
		{"confirm what is not on trial", good(A, Good), func(s *State) error { return s.Confirm(B) }, "error: not on trial"},

		{"reject the trial", trialB, func(s *State) error { return s.Reject() }, "good=a trial= 0 a=good/8 b=bad/0"},
		{"reject nothing", good(A, Good), func(s *State) error { return s.Reject() }, "error: no slot is on trial"},

		{"postpone the trial", trialB, func(s *State) error { return s.Postpone() }, "good=a trial= 0 a=good/8 b=ready/0"},
		{"postpone nothing", good(A, Good), func(s *State) error { return s.Postpone() }, "error: no slot is on trial"},
		{"activate what was postponed", good(A, Ready), func(s *State) error { return s.Activate(A, B) }, "good=a trial=b 3 a=good/8 b=ready/0"},

		{"spare the trial", trialB, func(s *State) error { return s.Spare() }, "good=a trial= 0 a=good/8 b=good/8"},
		{"spare nothing", good(A, Good), func(s *State) error { return s.Spare() }, "error: no slot is on trial"},

		{"leave a damaged slot", good(B, Good), func(s *State) error { return s.Damaged(B) }, "good=b trial= 0 a=good/0 b=bad/0"},
		{"leave a damaged slot for an empty one", good(A, Empty), func(s *State) error { return s.Damaged(A) }, "error: slot b is empty and not good"},
		{"leave a damaged slot for one on trial", trialB, func(s *State) error { return s.Damaged(A) }, "error: slot b is ready and not good"},

		{"refill the confirmed slot", countedDown, func(s *State) error { return refill(s, A, false) }, "good=a trial= 0 a=good/8 b=good/0"},
		{"refill during a trial leaves the trial alone", trialB, func(s *State) error { return refill(s, B, false) }, "good=a trial=b 2 a=good/8 b=ready/0"},
		{"refill before the trial is booted", trialB, func(s *State) error { return refill(s, A, false) }, "good=a trial=b 2 a=good/8 b=ready/0"},
		{"refill after a fallback", usedUp, func(s *State) error { return refill(s, B, true) }, "good=b trial= 0 a=good/0 b=good/8"},
		{"refill after a fallback from a damaged slot", damaged, func(s *State) error { return refill(s, B, true) }, "good=b trial= 0 a=bad/8 b=good/8"},
		{"refill when the last resort has come up", Fresh(A, Writing).with(A, Bad), func(s *State) error { return refill(s, A, false) }, "good=a trial= 0 a=good/8 b=writing/0"},
		{"refill when the other last resort has come up", Fresh(A, Writing).with(A, Bad), func(s *State) error { return refill(s, B, true) }, "good=b trial= 0 a=bad/8 b=good/8"},
		{"refill of a damaged slot that chance has booted", damaged, func(s *State) error { return refill(s, A, false) }, "good=a trial= 0 a=bad/8 b=good/0"},
		{"refill of an older slot that chance has booted", countedDown, func(s *State) error { return refill(s, B, false) }, "error: left as it is"},
		{"refill of a rejected slot that chance has booted", good(A, Bad), func(s *State) error { return refill(s, B, false) }, "error: left as it is"},
		{"refill of a half-written slot that chance has booted", good(A, Writing), func(s *State) error { return refill(s, B, false) }, "error: left as it is"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.from
			err := tt.op(&s)
			got := describe(s)
			if err != nil {
				got = "error: " + err.Error()
				if s != tt.from {
					t.Errorf("the failed operation changed the state to %s", describe(s))
				}
			}
			if want, isErr := strings.CutPrefix(tt.want, "error: "); isErr {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %s, want an error with %q", got, want)
				}
			} else if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// The whole table is compared with the real U-Boot, in the stories.
func TestNext(t *testing.T) {
	trial := good(A, Ready)
	trial.Trial, trial.TrialLeft = B, 1
	over := trial
	over.TrialLeft = 0
	usedUp := good(B, Good)
	usedUp.B.Left = 0
	empty := usedUp
	empty.A.Status = Empty
	for _, tt := range []struct {
		name string
		from State
		want string
	}{
		{"good", good(A, Empty), "[a] good, good=a trial= 0 a=good/7 b=empty/0"},
		{"a trial", trial, "[b] trial, good=a trial=b 0 a=good/8 b=ready/0"},
		{"a trial without tries", over, "[a] good, good=a trial=b 0 a=good/7 b=ready/0"},
		{"fallback", usedUp.with(A, Good).left(A, 3), "[a] fallback, good=b trial= 0 a=good/2 b=good/0"},
		{"refilled", empty, "[b] good, good=b trial= 0 a=empty/0 b=good/7"},
		{"too many", good(A, Empty).left(A, 0xff), "[a] good, good=a trial= 0 a=good/7 b=empty/0"},
		{"last resort", good(B, Bad).with(B, Writing), "[b a] lastresort, good=b trial= 0 a=bad/0 b=writing/8"},
	} {
		order, why, after := tt.from.Next()
		if got := fmt.Sprintf("%v %s, %s", order, why, describe(after)); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func (s State) left(n Name, left uint32) State {
	s.Slot(n).Left = left
	return s
}

// with returns s with another status of slot n.
func (s State) with(n Name, status Status) State {
	s.Slot(n).Status = status
	return s
}

func refill(s *State, running Name, wantFellBack bool) error {
	got, err := s.Refill(running)
	if err == nil && got != wantFellBack {
		return fmt.Errorf("fell back: %v, want %v", got, wantFellBack)
	}
	return err
}

func describe(s State) string {
	return fmt.Sprintf("good=%s trial=%s %d a=%s/%d b=%s/%d", s.Good, s.Trial, s.TrialLeft, s.A.Status, s.A.Left, s.B.Status, s.B.Left)
}

// What we write is what U-Boot's own tool writes.
func TestEncodeIsMkenvimage(t *testing.T) {
	s := State{Seq: 0x1f, Good: A, Trial: B, TrialLeft: 3, A: Slot{Good, 8}, B: Slot{Ready, 0}}
	dir := t.TempDir()
	text := "V=1\nSEQ=1f\nGOOD=a\nTRIAL=b\nT_LEFT=3\nA_STATE=good\nA_LEFT=8\nB_STATE=ready\nB_LEFT=0\n"
	if err := os.WriteFile(filepath.Join(dir, "env.txt"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "env")
	cmd := exec.Command("mkenvimage", "-p", "0", "-s", fmt.Sprint(CopySize), "-o", out, filepath.Join(dir, "env.txt"))
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mkenvimage (package u-boot-tools): %v\n%s", err, msg)
	}
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Encode(); !bytes.Equal(got, want) {
		t.Errorf("Encode differs from mkenvimage:\n%q\n%q", got[:120], want[:120])
	}
	back, err := Decode(want)
	if err != nil || back != s {
		t.Errorf("Decode of mkenvimage's file: %+v, %v; want %+v", back, err, s)
	}
}

func TestDecodeGarbled(t *testing.T) {
	for _, tt := range []struct{ name, vars, want string }{
		{"no version", "SEQ=1 GOOD=a", "error: version"},
		{"a later version", "V=2 SEQ=1 GOOD=a", "error: version"},
		{"no sequence number", "V=1 GOOD=a", "error: SEQ"},
		{"sequence number with a sign", "V=1 SEQ=-1 GOOD=a", "error: SEQ"},
		{"no good slot", "V=1 SEQ=1", "error: GOOD"},
		{"a slot that does not exist", "V=1 SEQ=1 GOOD=c", "error: GOOD"},
		{"hexadecimal numbers", "V=1 SEQ=ff GOOD=a A_STATE=good A_LEFT=a", "good=a trial= 0 a=good/10 b=bad/0"},
		{"unknown status is bad, bad number is 0", "V=1 SEQ=1 GOOD=b B_STATE=fine B_LEFT=x TRIAL=q T_LEFT=", "good=b trial= 0 a=bad/0 b=bad/0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Decode(env(strings.Fields(tt.vars)...))
			got := describe(s)
			if want, isErr := strings.CutPrefix(tt.want, "error: "); isErr {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %s, %v; want an error with %q", got, err, want)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
	if _, err := Decode(make([]byte, 10)); err == nil {
		t.Error("10 bytes decode as a boot state")
	}
}

func env(vars ...string) []byte {
	buf := make([]byte, CopySize)
	copy(buf[4:], strings.Join(vars, "\x00"))
	binary.LittleEndian.PutUint32(buf, crc32.ChecksumIEEE(buf[4:]))
	return buf
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("V=1\x00SEQ=ff\x00GOOD=a\x00TRIAL=b\x00T_LEFT=3\x00A_STATE=good\x00"))
	f.Add([]byte("V=1\x00SEQ=\x00GOOD"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		buf := make([]byte, CopySize)
		copy(buf[4:], data)
		binary.LittleEndian.PutUint32(buf, crc32.ChecksumIEEE(buf[4:]))
		s, err := Decode(buf)
		if err != nil {
			return
		}
		again, err := Decode(s.Encode())
		if err != nil || again != s {
			t.Errorf("%+v encodes to %+v, %v", s, again, err)
		}
	})
}

func newDisk() *powercut.Disk { return powercut.New(nil, 8<<20) }

// Power goes anywhere in an update: always the state from before or the one
// after, and the one after once Update says so.
func TestPowerCutDuringSave(t *testing.T) {
	cuts := 0
	erased := bytes.NewReader(bytes.Repeat([]byte{0xff}, SecondCopy+CopySize))
	for saves := 1; saves <= 4; saves++ { // each copy is the one to overwrite, blank and in use
		d := powercut.New(erased, 8<<20)
		for range saves {
			if err := NewStore(d).Save(good(A, Writing)); err != nil {
				t.Fatal(err)
			}
		}
		n, err := powercut.Each(d, func(d *powercut.Disk) error {
			_, err := NewStore(d).Update(func(s *State) error { return s.Activate(A, B) })
			return err
		}, func(name string, after *powercut.Disk, err error) {
			store := NewStore(after)
			got, loadErr := store.Load()
			if loadErr != nil {
				t.Fatalf("%s: %v", name, loadErr)
			}
			activated := got.Trial == B && got.TrialLeft == TrialTries && got.B.Status == Ready
			untouched := got.Trial == "" && got.B.Status == Writing
			if !activated && !untouched || err == nil && !activated {
				t.Fatalf("%s: update says %v, the state is %s", name, err, describe(got))
			}
			// Whatever is left, the next save works.
			if err := store.Save(good(B, Good)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if next, err := store.Load(); err != nil || next.Good != B || next.Seq != got.Seq+1 {
				t.Fatalf("%s: saved after it: %+v, %v", name, next, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		cuts += n
	}
	t.Logf("%d power cuts survived", cuts)
}

func TestStore(t *testing.T) {
	d := newDisk()
	store := NewStore(d)
	_, err := store.Load()
	if !errors.Is(err, ErrNoState) {
		t.Fatalf("an erased partition: %v, want ErrNoState", err)
	}
	for i := 1; i <= 0x101; i++ { // over 9, a, f, 10, ff, 100
		s := good(A, Empty)
		s.A.Left = uint32(i)
		if err := store.Save(s); err != nil {
			t.Fatal(err)
		}
		got, err := store.Load()
		if err != nil || got.Seq != uint32(i) || got.A.Left != uint32(i) {
			t.Fatalf("after save %#x: %+v, %v", i, got, err)
		}
	}
	// The newest copy is damaged: the one before counts.
	first := make([]byte, CopySize) // 0x101 is odd
	if _, err := d.ReadAt(first, 0); err != nil {
		t.Fatal(err)
	}
	first[100] ^= 1
	if _, err := d.WriteAt(first, 0); err != nil {
		t.Fatal(err)
	}
	got, err := store.Load()
	if err != nil || got.Seq != 0x100 {
		t.Fatalf("with the newest copy damaged: %+v, %v", got, err)
	}
	if err := store.Save(got); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAt(first, 0); err != nil {
		t.Fatal(err)
	}
	if st, err := Decode(first); err != nil || st.Seq != 0x101 {
		t.Errorf("the damaged copy is not the one that was overwritten: %+v, %v", st, err)
	}
}

// A disk that cannot be read has not lost its state.
func TestLoadUnreadable(t *testing.T) {
	d := newDisk()
	if err := NewStore(d).Save(good(A, Good)); err != nil {
		t.Fatal(err)
	}
	if _, err := NewStore(blindDisk{d}).Load(); err == nil || errors.Is(err, ErrNoState) {
		t.Errorf("got %v, want an error that is not ErrNoState", err)
	}
}

type blindDisk struct{ *powercut.Disk }

func (blindDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

// A disk that takes writes and forgets them is noticed.
func TestSaveReadsBack(t *testing.T) {
	store := NewStore(deafDisk{newDisk()})
	if err := store.Save(good(A, Empty)); err == nil || !strings.Contains(err.Error(), "reads back differently") {
		t.Errorf("got %v", err)
	}
}

type deafDisk struct{ *powercut.Disk }

func (deafDisk) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
