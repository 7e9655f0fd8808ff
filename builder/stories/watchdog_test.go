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
	t.Parallel() // it is waiting, nearly all the time
	identity := map[string]string{"qemu-arm64": "i6300ESB timer"}
	eachBoard(t, func(t *testing.T, b *build) {
		m := b.card(t).boot(t)
		m.ready(b, slot.A)
		m.shell()
		want := identity[b.Board]
		if want == "" {
			want = "Software Watchdog"
		}
		if got := m.runs("grep -l active /sys/class/watchdog/*/state | sed 's/state/identity/' | xargs cat"); got != want {
			t.Errorf("the watchdog is %q, want %q", got, want)
		}
		time.Sleep(75 * time.Second) // more than its time
		if up, err := strconv.ParseFloat(strings.Fields(m.runs("cat /proc/uptime"))[0], 64); err != nil || up < 75 {
			t.Errorf("uptime %v, %v: it was reset", up, err)
		}
		io.WriteString(m, "mkdir /sys/fs/cgroup/stopped; echo 1 > /sys/fs/cgroup/stopped/cgroup.procs; echo 1 > /sys/fs/cgroup/stopped/cgroup.freeze\n")
		stopped := time.Now()
		m.sees(`(?m)^U-Boot 20`)
		t.Logf("reset after %.0f s", time.Since(stopped).Seconds())
		m.ready(b, slot.A)
	})
}
