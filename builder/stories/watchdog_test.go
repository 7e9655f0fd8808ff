//go:build qemu

package stories

import (
	"io"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/slot"
)

// The watchdog leaves a gateway alone while PID 1 lives, and resets it when
// that has stopped.
func TestWatchdog(t *testing.T) {
	t.Parallel() // with the builds of TestReproducible: it waits, nearly all the time
	hardware := map[string]string{"qemu-arm64": "i6300ESB timer"}
	machines := map[string]*machine{}
	boots := map[string]string{}
	for _, name := range boards {
		b := buildOf(t, name)
		m := b.card(t).boot(t)
		m.ready(b, slot.A)
		m.shell()
		want := hardware[name]
		if want == "" {
			want = "Software Watchdog"
		}
		if got := m.runs("cat $(grep -lx active /sys/class/watchdog/*/state | sed 's/state/identity/')"); got != want {
			t.Errorf("%s: the watchdog is %q, want %q", name, got, want)
		}
		machines[name] = m
		boots[name] = m.runs("cat /proc/sys/kernel/random/boot_id")
	}
	time.Sleep(70 * time.Second) // more than its time
	for name, m := range machines {
		// Not by the uptime: on a busy host a malta has lost 43 s of it, one turn
		// of its 32-bit counter.
		if boot := m.runs("cat /proc/sys/kernel/random/boot_id"); boot != boots[name] {
			t.Errorf("%s: boot %q has become %q: it was reset", name, boots[name], boot)
		}
		io.WriteString(m, "cd /sys/fs/cgroup; mkdir stopped; echo 1 > stopped/cgroup.procs; echo 1 > stopped/cgroup.freeze\n")
	}
	stopped := time.Now()
	for name, m := range machines {
		m.sees(`(?m)^U-Boot 20`)
		after := time.Since(stopped)
		if t.Logf("%s: reset after at most %.0f s", name, after.Seconds()); after < 30*time.Second {
			t.Errorf("%s: reset too early", name)
		}
		m.ready(buildOf(t, name), slot.A)
	}
}
