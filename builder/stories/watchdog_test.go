//go:build qemu

package stories

import (
	"io"
	"strconv"
	"strings"
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
	}
	time.Sleep(70 * time.Second) // more than its time
	for name, m := range machines {
		if up, err := strconv.ParseFloat(strings.Fields(m.runs("cat /proc/uptime"))[0], 64); err != nil || up < 70 {
			t.Errorf("%s: uptime %v, %v: it was reset", name, up, err)
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
