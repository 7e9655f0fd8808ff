package boot

import (
	"os"
	"testing"
	"time"
)

// The main loop pets the watchdog while a phase takes its time, and it alone
// does so: a phase cannot keep a dead main loop alive.
func TestPetsDuringPhases(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tick := make(chan time.Time)
	s := &system{tick: tick}
	s.watchdog.dev.Store(w)
	err = s.do(phase{run: func(*system) error {
		for range 3 {
			tick <- time.Time{}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.watchdog.disarm(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, _ := r.Read(buf)
	if got := string(buf[:n]); got != "\x00\x00\x00V" {
		t.Errorf("the watchdog got %q, want to be petted three times and disarmed", got)
	}
	if err := (&watchdog{}).pet(); err != nil {
		t.Errorf("no watchdog: %v", err)
	}
}

func TestKernelArg(t *testing.T) {
	for _, tt := range []struct{ cmdline, want string }{
		{"", ""},
		{"console=ttyS0 gwe.slot=a quiet\n", "a"},
		{"gwe.slot=a gwe.slot=b", "b"},
		{"xgwe.slot=a gwe.slots=a gwe.slot", ""},
		{"gwe.slot=", ""},
	} {
		if got := kernelArg(tt.cmdline, "gwe.slot"); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.cmdline, got, tt.want)
		}
	}
}
