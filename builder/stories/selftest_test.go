//go:build qemu

package stories

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/selftest"
	"github.com/exosite/gwe/gweinit/slot"
)

// selftest waits for the result of the self-test.
func (m *machine) selftest() selftest.Result {
	m.t.Helper()
	line := m.sees(`gweinit: selftest .*\n`)[0]
	r, ok := selftest.Parse(line)
	if !ok {
		m.t.Errorf("no result: %q", line)
	}
	return r
}

// A gateway that was made tests itself, and tells console and cloud: once, and again
// only if that is lost.
func TestSelftest(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		const serial = "GW-000123"
		e := startExosite(t, serial)
		c := e.card(t, b)
		c.enlarge(t, 1<<30)
		m := c.boot(t)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		got := m.selftest()
		m.prompted()
		want := selftest.Result{Pass: true, Serial: serial, Board: b.Board, Version: "1.0.0", Storage: selftest.OK, Network: selftest.OK,
			MAC: strings.ToUpper(m.runs("cat /sys/class/net/[eu]*/address"))}
		if got != want {
			t.Errorf("%v\nwant %v", got, want)
		}
		told := func() (r selftest.Result) {
			var status struct{ Selftest *selftest.Result }
			if err := json.Unmarshal([]byte(m.runs("gweinit call gweinit.status")), &status); err != nil || status.Selftest == nil {
				t.Fatalf("the status has %v, %v", status.Selftest, err)
			}
			return *status.Selftest
		}
		// The next check-in would be in hours. Who asks for the status before may be
		// taken for the engine.
		reported, _ := json.Marshal(want)
		took := e.until(m, "it is reported", func() bool { return strings.Contains(e.value("engine_report"), `"selftest":`+string(reported)) })
		if got := told(); got != want {
			t.Errorf("the status has %v, want %v", got, want)
		}
		m.waits("test -e /data/gwe/selftest.json -a ! -e /data/gwe/.selftest")
		anonymous, err := strconv.Atoi(m.runs("awk '/^RssAnon/{print $2}' /proc/1/status"))
		if err != nil || anonymous > 6<<10 {
			t.Errorf("PID 1 has %d kB of anonymous memory, %v; its budget is 6 MB", anonymous, err)
		}
		t.Logf("reported after %.1f s more; PID 1 has %d kB of anonymous memory; ready and self-test after %s",
			took.Seconds(), anonymous, m.runs(`dmesg | sed -n 's/^\[ *\([0-9.]*\)\] gweinit: \(ready\|selftest\).*/\1 s/p' | tr '\n' ' '`))

		io.WriteString(m, "reboot\n")
		m.ready(b, slot.A)
		m.shell()
		m.runs("sleep 10")
		if got := told(); got != want {
			t.Errorf("after a reboot the status has %v, want %v", got, want)
		}
		if n := strings.Count(m.Text(), "gweinit: selftest"); n != 1 {
			t.Errorf("%d results are on the console, want the one", n)
		}

		// The power went before it was written.
		m.runs("head -c 30 /data/gwe/selftest.json > /data/x; mv /data/x /data/gwe/selftest.json; echo half > /data/gwe/.selftest; sync")
		m.Kill()
		m = c.boot(t)
		m.ready(b, slot.A)
		if got := m.selftest(); got != want {
			t.Errorf("once more: %v, want %v", got, want)
		}
		m.prompted()
		m.waits("grep -q true /data/gwe/selftest.json && test ! -e /data/gwe/.selftest")
	})
}

// Without its cable a gateway does not pass, and says so, until it gets that. A card
// of the image's own size is large enough.
func TestSelftestWithoutCable(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		c := b.card(t)
		m, cable := c.bootMonitored(t)
		fmt.Fprintln(cable, "set_link net off")
		m.ready(b, slot.A)
		got := m.selftest()
		if got.Pass || got.Storage != selftest.OK || got.Boot != "" || !strings.Contains(got.Network, "0: dhcp: no carrier") || got.Serial != got.MAC || got.MAC == "" {
			t.Errorf("without a cable: %v", got)
		}
		t.Log(got)
		m.prompted()
		m.runs("test ! -e /data/gwe/selftest.json")
		start := time.Now()
		fmt.Fprintln(cable, "set_link net on")
		if got := m.selftest(); !got.Pass || got.Network != selftest.OK || got.Serial != got.MAC {
			t.Errorf("with a cable: %v", got)
		}
		t.Logf("pass %.1f s after the cable", time.Since(start).Seconds())
		m.prompted()
		m.waits("test -e /data/gwe/selftest.json")
	})
}
