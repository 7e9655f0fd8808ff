//go:build qemu

package stories

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/gweinit/cga/cgatest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/exosite/spec"
	"github.com/exosite/gwe/gweinit/slot"
)

// exosite is the emulator, for one gateway.
type exosite struct {
	*exositetest.Server
	t      *testing.T
	cloud  *cloud.Cloud
	dir    string
	serial string
}

// startExosite starts it for one gateway, whose apps write to aliases of their own.
func startExosite(t *testing.T, serial string, aliases ...string) *exosite {
	t.Helper()
	e := &exosite{t: t, dir: t.TempDir(), serial: serial}
	resources := spec.GWE()
	for _, alias := range aliases {
		resources = append(resources, spec.Resource{Alias: alias})
	}
	var err error
	if e.cloud, err = cloud.Open(cloud.Options{Dir: filepath.Join(e.dir, "cloud"), Resources: resources}); err != nil {
		t.Fatal(err)
	}
	e.start("127.0.0.1:0")
	t.Cleanup(func() { e.Close(); e.cloud.Close() })
	if err := e.cloud.AddSerials(e.Product(), cloud.Serial{SN: serial}); err != nil {
		t.Fatal(err)
	}
	e.enable()
	return e
}

func (e *exosite) start(addr string) {
	e.t.Helper()
	var err error
	if e.Server, err = exositetest.Start(exositetest.Options{Cloud: e.cloud, HTTPS: addr, Dir: e.dir}); err != nil {
		e.t.Fatal(err)
	}
}

// card is one of a build whose gateway reports to the emulator.
func (e *exosite) card(t *testing.T, b *build) *card {
	t.Helper()
	c := b.card(t)
	c.provision(t, "serial: "+e.serial+"\n"+e.settings())
	return c
}

// settings are those of all gateways that report to it.
func (e *exosite) settings() string {
	_, port, _ := net.SplitHostPort(e.HTTPSAddr())
	return fmt.Sprintf("product: %s\nexosite:\n  host: 10.0.2.2:%s\n  ca: |\n    %s\n",
		e.Product(), port, strings.ReplaceAll(strings.TrimSpace(string(e.CA())), "\n", "\n    "))
}

// enable has the gateway activate, again if it has been: its CIK is no good then.
func (e *exosite) enable() {
	e.t.Helper()
	if err := e.cloud.Enable(e.Product(), e.serial, "story"); err != nil {
		e.t.Fatal(err)
	}
}

func (e *exosite) set(alias, value string) {
	e.t.Helper()
	if err := e.cloud.Set(e.Product(), e.serial, alias, value); err != nil {
		e.t.Fatal(err)
	}
}

func (e *exosite) cik() string {
	e.t.Helper()
	info, err := e.cloud.Device(e.Product(), e.serial)
	if err != nil {
		e.t.Fatal(err)
	}
	return info.CIK
}

func (e *exosite) history(alias string) []cloud.Point {
	e.t.Helper()
	points, err := e.cloud.History(e.Product(), e.serial, alias)
	if err != nil {
		e.t.Fatal(err)
	}
	return points
}

// value is the newest one.
func (e *exosite) value(alias string) string {
	e.t.Helper()
	points := e.history(alias)
	if len(points) == 0 {
		return ""
	}
	return points[len(points)-1].Value
}

// until waits for something to come true, and returns how long it took.
func (e *exosite) until(m *machine, what string, true func() bool) time.Duration {
	e.t.Helper()
	start := time.Now()
	for !true() {
		if time.Since(start) > 3*time.Minute {
			requests, _ := json.Marshal(e.Requests())
			e.t.Fatalf("%s does not happen; the last requests:\n%s\nthe gateway's log:\n%s", what, requests[max(0, len(requests)-4000):], m.runs("supervisorctl status; tail -n 15 /var/log/*.log"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// outcomes counts the reports of how commands ended.
func (e *exosite) outcomes(part string) (n int) {
	for _, p := range e.history("fetch_status") {
		if strings.Contains(p.Value, part) {
			n++
		}
	}
	return n
}

// A gateway is switched on, its clock at 1970: it activates, reports, does what
// it is told, and goes on to do so whatever the cloud, the network and the power
// do.
func TestEngine(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		const serial = "GW-7"
		e := startExosite(t, serial)
		c := e.card(t, b)
		e.set("update_interval", "5")
		old := func(o *qemu.Options) { o.Args = append(o.Args, "-rtc", "base=1970-01-02T00:00:00") }
		m := c.boot(t, old)
		if rest := m.ready(b, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()

		// It activates, though the clock is not set, and reports.
		e.until(m, "the first report", func() bool { return e.value("engine_report") != "" })
		first := e.cik()
		if got := m.runs("test ! -e /run/clock-set; gwe -C"); got != first {
			t.Errorf("gwe -C says %s, the cloud %s", got, first)
		}
		e.until(m, "update_interval is taken", func() bool { return e.value("update_interval") == "" })
		m.waits("gwe -e | grep -q '^update_interval *= *5$'")
		// The supervisor was asked before gwe had run for a second, maybe.
		e.until(m, "gwe is reported as RUNNING", func() bool {
			var r struct {
				Apps []map[string]struct{ Status, Version string }
			}
			json.Unmarshal([]byte(e.value("engine_report")), &r)
			return len(r.Apps) == 1 && r.Apps[0]["gwe"].Status == "RUNNING" && r.Apps[0]["gwe"].Version == "1.0.0"
		})
		var reported struct {
			Firmware struct{ Version, Board, Slot string }
			Slots    struct{ Good string }
			Errors   []string
		}
		if err := json.Unmarshal([]byte(e.value("engine_report")), &reported); err != nil {
			t.Error(err)
		}
		if got, want := fmt.Sprint(reported), fmt.Sprintf("{{1.0.0 %s a} {a} [clock: not set", b.Board); !strings.HasPrefix(got, want) {
			t.Errorf("reported: %s, want %s...\n%s", got, want, e.value("engine_report"))
		}
		var device struct{ Uname, DF, Free, IPAddrs string }
		if err := json.Unmarshal([]byte(e.value("device_info")), &device); err != nil || !strings.HasPrefix(device.Uname, "Linux ") ||
			!strings.Contains(device.DF, "/data") || !strings.Contains(device.Free, "Mem:") || !strings.Contains(device.IPAddrs, "10.0.2.15") {
			t.Errorf("device_info: %v\n%s", err, e.value("device_info"))
		}
		if used := e.value("usage_report"); !strings.Contains(used, `"eth0":{"gwe":{`) {
			t.Errorf("usage_report: %s", used)
		}

		// A command is taken at once, and done, though the cloud has its troubles.
		e.Fault(exositetest.Fault{Call: "contentinfo", Times: 1, Status: 503})
		e.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 100_000})
		e.Fault(exositetest.Fault{Call: "write", Times: 1, Drop: true})
		first1 := cgatest.Tarball(t, cgatest.Script("sha256sum noise | cut -d' ' -f1 > /data/installed\n"), noise(300_000))
		sum := fmt.Sprintf("%x", sha256.Sum256(first1))
		e.offer("first.v1.tar.gz", first1)
		m.runs("gwe --set-update-interval 600") // it is pushed
		m.waits("grep -q 'settings changed' /var/log/gwe.log")
		e.set("engine_fetch", `{"install": [{"name": "first.v1.tar.gz", "sha256": "`+sum+`"}]}`)
		took := e.until(m, "the command is taken", func() bool { return e.value("engine_fetch") == "" })
		e.until(m, "the command is done", func() bool { return e.outcomes("installed: first.v1.tar.gz") == 1 })
		if got, want := m.runs("cat /data/shared/installed"), fmt.Sprintf("%x", sha256.Sum256([]byte(noise(300_000).Text))); got != want {
			t.Errorf("installed is %s, want %s", got, want)
		}
		anonymous, err := strconv.Atoi(m.runs("awk '/^RssAnon/{print $2}' /proc/$(supervisorctl pid gwe)/status"))
		if err != nil || anonymous > 8<<10 {
			t.Errorf("gwe has %d kB of anonymous memory, %v; its budget is 8 MB", anonymous, err)
		}
		t.Logf("a command was taken after %v; gwe has %d kB of anonymous memory", took.Round(time.Millisecond), anonymous)

		// One that cannot be is refused, and one that nobody can do fails.
		e.set("engine_fetch", `{"install": [{"name": "../first.v1.tar.gz"}]}`)
		e.until(m, "a bad command is refused", func() bool { return e.outcomes("refused: install: entry 1") == 1 && e.value("engine_fetch") == "" })
		time.Sleep(1100 * time.Millisecond)
		e.set("engine_fetch", `{"install": [{"name": "none.v1.tar.gz"}]}`)
		e.until(m, "a command without content fails", func() bool { return e.outcomes("failed: none.v1.tar.gz") == 1 })

		// Its CIK ends, and then the whole server for a while.
		m.runs("gwe --set-update-interval 2 --set-act-retry-interval 2")
		e.enable()
		e.until(m, "it activates again", func() bool { cik := e.cik(); return cik != "" && cik != first })
		second := e.cik()
		addr := e.HTTPSAddr()
		e.Close()
		m.waits("grep -q 'msg=\"check in\"' /var/log/gwe.log")
		e.start(addr)
		e.until(m, "it checks in again", func() bool { return len(e.Requests()) > 3 })
		m.waits("test $(gwe -C) = " + second)

		// PID 1 knows that the cloud was reached, support gets a bundle, and the
		// CIK is in no log.
		m.runs("test -e /data/gwe/network.good.yaml")
		if got := m.runs("f=$(gwe --support-bundle) && zcat $f | tar -t | grep -c -e engine_report -e commands.json; zcat $f | grep -c -a " + second + " || true"); got != "2\n0" {
			t.Errorf("support bundle: %s", got)
		}
		m.runs("! grep -r -q -e " + first + " -e " + second + " /var/log")

		// The power goes at any moment between taking a command and telling how
		// it ended: it is done once, and told.
		e.offer("power.v1.tar.gz", cgatest.Tarball(t, cgatest.Script("sleep 1; echo power >> /data/installed; sleep 1\n"), noise(200_000)))
		for cut := range 3 {
			before := e.outcomes("installed: power.v1.tar.gz")
			e.set("engine_fetch", `{"install": [{"name": "power.v1.tar.gz"}]}`)
			e.until(m, "the command is taken", func() bool { return e.value("engine_fetch") == "" })
			time.Sleep(time.Duration(cut)*900*time.Millisecond + rand.N(500*time.Millisecond))
			m.Kill()
			m = c.boot(t, old)
			m.ready(b, slot.A)
			m.shell()
			e.until(m, "the command is done and told", func() bool { return e.outcomes("installed: power.v1.tar.gz") == before+1 })
			if got := m.runs("grep -c power /data/shared/installed"); got != strconv.Itoa(cut+1) {
				t.Errorf("after %d commands and cuts it is installed %s times:\n%s", cut+1, got, m.runs("cat /data/shared/installed"))
			}
			time.Sleep(1100 * time.Millisecond)
		}

		// /data is lost, and the CIK is not.
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
		c.damage(t, slot.DataPartition, 0, 1<<20)
		activations := e.activations()
		m = c.boot(t, old)
		m.ready(b, slot.A)
		m.shell()
		m.runs("test ! -e /data/shared/installed")
		e.until(m, "it checks in with the CIK from before", func() bool { return m.runs("cat /run/gwe/last.json 2>/dev/null || true") != "" })
		if got := m.runs("gwe -C"); got != second || e.activations() != activations {
			t.Errorf("the CIK is %.8s after %d activations, was %.8s after %d", got, e.activations(), second, activations)
		}
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
	})
}

// activations counts them.
func (e *exosite) activations() (n int) {
	e.t.Helper()
	log, err := e.cloud.Log(e.Product(), e.serial)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, entry := range log {
		if strings.HasPrefix(entry.Text, "activated") {
			n++
		}
	}
	return n
}
