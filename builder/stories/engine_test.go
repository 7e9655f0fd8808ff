//go:build qemu

package stories

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/slot"
)

// storyInstaller is compiled into the image's gwe: it installs NAME.story, by
// adding a line to a file, which is its whole transaction. It takes its time, so
// that the power can go in the middle.
const storyInstaller = `package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/engine/command"
)

func init() { installers = append(installers, story{}) }

type story struct{}

func (story) Takes(name string) bool { return strings.HasSuffix(name, ".story") }

func (story) Install(ctx context.Context, job command.Job) (string, error) {
	const file = "/data/installed"
	done, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	line := ""
	for _, item := range job.Items {
		path, err := job.Fetch(ctx, item)
		if err != nil {
			return "", err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf("%s %s %x\n", job.ID, item.Name, sha256.Sum256(text))
	}
	if job.Again && strings.Contains(string(done), job.ID+" ") {
		return "was there", nil
	}
	time.Sleep(time.Second)
	if err := durable.WriteFile(file, append(done, line...), 0o600); err != nil {
		return "", err
	}
	time.Sleep(time.Second)
	return "took " + fmt.Sprint(len(job.Items)), nil
}
`

// exosite is the emulator, for one gateway.
type exosite struct {
	*exositetest.Server
	t      *testing.T
	cloud  *cloud.Cloud
	dir    string
	serial string
}

func startExosite(t *testing.T, serial string) *exosite {
	t.Helper()
	e := &exosite{t: t, dir: t.TempDir(), serial: serial}
	var err error
	if e.cloud, err = cloud.Open(cloud.Options{Dir: filepath.Join(e.dir, "cloud")}); err != nil {
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

// upload makes a content, of which nothing compresses, and returns its SHA-256.
func (e *exosite) upload(name string, size int) string {
	e.t.Helper()
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	err := e.cloud.CreateContent(e.Product(), name, "", false)
	if err == nil {
		err = e.cloud.Upload(e.Product(), name, "application/octet-stream", bytes.NewReader(data))
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// until waits for something to come true, and returns how long it took.
func (e *exosite) until(m *machine, what string, true func() bool) time.Duration {
	e.t.Helper()
	start := time.Now()
	for !true() {
		if time.Since(start) > 3*time.Minute {
			requests, _ := json.Marshal(e.Requests())
			e.t.Fatalf("%s does not happen; the last requests:\n%s\nthe gateway's log:\n%s", what, requests[max(0, len(requests)-4000):], m.runs("tail -n 30 /var/log/gwe.log"))
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
	eachThorough(t, func(t *testing.T, b *build) {
		dir := projectCopy(t)
		if err := os.WriteFile(filepath.Join(dir, "gweinit/engine/story.go"), []byte(storyInstaller), 0o644); err != nil {
			t.Fatal(err)
		}
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		manifest, err := image.Build(t.Context(), image.Options{
			Project: dir, Board: b.Board, Overlays: []string{"base", "busybox", "dev"}, Version: "1.0.0",
			Cache: filepath.Join(cache, "gateway-engine"), Out: out, Mirrors: mirrors(), Log: t.Logf,
		})
		if err != nil {
			t.Fatal(err)
		}
		b = &build{manifest, b.board, out}

		const serial = "GW-7"
		e := startExosite(t, serial)
		_, port, _ := net.SplitHostPort(e.HTTPSAddr())
		c := b.card(t)
		c.provision(t, fmt.Sprintf("product: %s\nserial: %s\nexosite:\n  host: 10.0.2.2:%s\n  ca: |\n    %s\n",
			e.Product(), serial, port, strings.ReplaceAll(strings.TrimSpace(string(e.CA())), "\n", "\n    ")))
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
		sum := e.upload("first.story", 300_000)
		m.runs("gwe --set-update-interval 600") // it is pushed
		m.waits("grep -q 'settings changed' /var/log/gwe.log")
		e.set("engine_fetch", `{"install": [{"name": "first.story", "sha256": "`+sum+`"}]}`)
		took := e.until(m, "the command is taken", func() bool { return e.value("engine_fetch") == "" })
		e.until(m, "the command is done", func() bool { return e.outcomes("installed: first.story") == 1 })
		if got := m.runs("cut -d' ' -f2,3 /data/installed"); got != "first.story "+sum {
			t.Errorf("installed: %s, want first.story %s", got, sum)
		}
		anonymous, err := strconv.Atoi(m.runs("awk '/^RssAnon/{print $2}' /proc/$(supervisorctl pid gwe)/status"))
		if err != nil || anonymous > 8<<10 {
			t.Errorf("gwe has %d kB of anonymous memory, %v; its budget is 8 MB", anonymous, err)
		}
		t.Logf("a command was taken after %v; gwe has %d kB of anonymous memory", took.Round(time.Millisecond), anonymous)

		// One that cannot be is refused, and one that nobody can do fails.
		e.set("engine_fetch", `{"install": [{"name": "../first.story"}]}`)
		e.until(m, "a bad command is refused", func() bool { return e.outcomes("refused: install: entry 1") == 1 && e.value("engine_fetch") == "" })
		time.Sleep(1100 * time.Millisecond)
		e.set("engine_fetch", `{"install": [{"name": "none.story"}]}`)
		e.until(m, "a command without content fails", func() bool { return e.outcomes("failed: none.story") == 1 })

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
		e.upload("power.story", 200_000)
		for cut := range 3 {
			before := e.outcomes("installed: power.story")
			e.set("engine_fetch", `{"install": [{"name": "power.story"}]}`)
			e.until(m, "the command is taken", func() bool { return e.value("engine_fetch") == "" })
			time.Sleep(time.Duration(cut)*900*time.Millisecond + rand.N(500*time.Millisecond))
			m.Kill()
			m = c.boot(t, old)
			m.ready(b, slot.A)
			m.shell()
			e.until(m, "the command is done and told", func() bool { return e.outcomes("installed: power.story") == before+1 })
			if got := m.runs("grep -c power.story /data/installed"); got != strconv.Itoa(cut+1) {
				t.Errorf("after %d commands and cuts it is installed %s times:\n%s", cut+1, got, m.runs("cat /data/installed"))
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
		m.runs("test ! -e /data/installed")
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
