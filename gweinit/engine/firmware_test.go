package engine

import (
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

func TestPrintSlots(t *testing.T) {
	confirmed := slot.Fresh(slot.A, slot.Empty)
	trial := slot.Fresh(slot.A, slot.Ready)
	trial.Trial, trial.TrialLeft = slot.B, 2
	for name, tt := range map[string]struct {
		st   update.Status
		want string
	}{
		"as it was made": {update.Status{Slot: slot.A, Slots: &confirmed, Record: update.Record{Versions: map[slot.Name]string{slot.A: "1.0.0"}}}, `
slot   state   version   boots left
a      good    1.0.0     8            confirmed, running
b      empty   -         0
`},
		"on trial": {update.Status{Slot: slot.B, Slots: &trial, Record: update.Record{
			Versions: map[slot.Name]string{slot.A: "1.0.0", slot.B: "1.1.0"},
			Update:   &update.Update{ID: "7-ab", Slot: slot.B, From: "1.0.0", Version: "1.1.0", State: update.Trial},
		}}, `
slot   state   version   boots left
a      good    1.0.0     8            confirmed
b      ready   1.1.0     2            on trial, running
update from 1.0.0 to 1.1.0 in slot b, command 7-ab: trial
`},
		"after a failure": {update.Status{Slot: slot.A, Slots: &confirmed, Record: update.Record{
			Fallback: "fell back to slot a",
			Update:   &update.Update{ID: "7-ab", Slot: slot.B, From: "1.0.0", Version: "1.1.0", State: update.Rejected, Cause: update.Programs, Reason: "pump is FATAL"},
		}}, `
slot   state   version   boots left
a      good    -         8            confirmed, running
b      empty   -         0
update from 1.0.0 to 1.1.0 in slot b, command 7-ab: rejected
  programs: pump is FATAL
fell back to slot a
`},
		"without a boot state": {update.Status{Slot: slot.A, Version: "1.0.0"}, `
slot a is running, with 1.0.0; the boot state is not known
`},
	} {
		var out strings.Builder
		printSlots(&out, tt.st)
		got := ""
		for line := range strings.Lines(out.String()) {
			got += strings.TrimRight(line, " \n") + "\n"
		}
		if want := tt.want[1:]; got != want {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
	}
}
