package boot

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/exosite/gwe/gweinit/clock"
)

// A reboot in the middle of a boot, when the clock shows no more than the time
// of the build, does not replace the later one that was stored.
func TestStoreClock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock")
	s := &system{}
	for _, step := range []struct {
		name   string
		change func()
		stored bool
	}{
		{"there is no clock yet", func() {}, false},
		{"it has not looked at the stored time", func() {
			s.clock = clock.New(clock.Options{File: file, RTC: "/dev/null", Log: slog.New(slog.DiscardHandler), Set: func(string) {}})
		}, false},
		{"it has", func() { s.clockKept.Store(true) }, true},
	} {
		step.change()
		if err := storeClock(s); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if _, err := os.Stat(file); (err == nil) != step.stored {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}
