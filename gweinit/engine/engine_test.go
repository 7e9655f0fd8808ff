package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/engine/report"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/broker"
	"github.com/exosite/gwe/gweinit/gateway"
)

// TestMain lets the test be the program gwe, as another process.
func TestMain(m *testing.M) {
	if os.Getenv("BE_GWE") != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

const serial = "GW-7"

// world is a gateway and its cloud.
type world struct {
	*exositetest.Server
	t    testing.TB
	root string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{exositetest.New(t), t, t.TempDir()}
	w.AddDevice(serial)
	ca := filepath.Join(w.root, gateway.Dir, "keys/ca.pem")
	if err := os.MkdirAll(filepath.Dir(ca), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, w.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.change(
		gateway.Change{File: gateway.GatewayFile, Section: "device", Key: "vendor", Value: w.Product()},
		gateway.Change{File: gateway.GatewayFile, Section: "device", Key: "model", Value: w.Product()},
		gateway.Change{File: gateway.GatewayFile, Section: "device", Key: "uuid", Value: serial},
		gateway.Change{File: gateway.EngineFile, Section: "exosite", Key: "host", Value: w.HTTPSAddr()},
		gateway.Change{File: gateway.EngineFile, Section: "exosite", Key: "ca", Value: "/data/gwe/keys/ca.pem"},
	)
	return w
}

func (w *world) files() gateway.Files { return gateway.Files{Dir: filepath.Join(w.root, gateway.Dir)} }

func (w *world) change(changes ...gateway.Change) {
	w.t.Helper()
	if err := w.files().Set(changes...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) settings() gateway.Settings {
	w.t.Helper()
	s, problems, err := w.files().Load()
	if err != nil || problems != nil {
		w.t.Fatal(problems, err)
	}
	return s
}

func (w *world) set(alias, value string) {
	w.t.Helper()
	if err := w.Cloud().Set(w.Product(), serial, alias, value); err != nil {
		w.t.Fatal(err)
	}
}

// values are all that a resource has had.
func (w *world) values(alias string) (values []string) {
	w.t.Helper()
	points, err := w.Cloud().History(w.Product(), serial, alias)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range points {
		values = append(values, p.Value)
	}
	return values
}

func (w *world) value(alias string) string {
	w.t.Helper()
	all := w.values(alias)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

func (w *world) calls() (calls []string) {
	for _, r := range w.Requests() {
		calls = append(calls, fmt.Sprintf("%s %d", r.Call, r.Status))
	}
	return calls
}

// until waits for something to come true.
func (w *world) until(what string, true func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !true() {
		if time.Since(start) > 20*time.Second {
			w.t.Fatalf("%s does not happen; the requests: %q", what, w.calls())
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// installer notes what it has installed.
type installer struct {
	mu   sync.Mutex
	done []string
}

func (i *installer) Takes(item command.Item) bool { return strings.HasSuffix(item.Name, ".test") }

func (i *installer) Install(ctx context.Context, job command.Job) (string, error) {
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
		line += item.Name + "=" + string(text) + " "
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.done = append(i.done, strings.TrimSpace(line))
	return "did it\n", nil
}

func (i *installer) String() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return strings.Join(i.done, ", ")
}

func (w *world) upload(name, text string) {
	w.t.Helper()
	err := w.Cloud().CreateContent(w.Product(), name, "", false)
	if err == nil {
		err = w.Cloud().Upload(w.Product(), name, "text/plain", strings.NewReader(text))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// fakeHost is PID 1.
type fakeHost struct {
	status          string
	checkedIn, kept int
	keptText        string
	keptError       error
}

func (h *fakeHost) Status(context.Context) json.RawMessage    { return json.RawMessage(h.status) }
func (h *fakeHost) Programs(context.Context) []report.Program { return nil }
func (h *fakeHost) CheckedIn(context.Context) error           { h.checkedIn++; return nil }
func (h *fakeHost) KeepIdentity(_ context.Context, text string) error {
	h.kept++
	h.keptText = text
	return h.keptError
}

// engine is one that has been started, and the log of it.
func (w *world) engine(installers ...command.Installer) (*assembled, *fakeHost, *bytes.Buffer) {
	w.t.Helper()
	log := new(bytes.Buffer)
	h := &fakeHost{}
	b := assemble(w.root, log)
	b.queue.Installers = installers
	b.host = h
	if err := b.open(); err != nil {
		w.t.Fatal(err)
	}
	return b, h, log
}

// The first check-in activates, stores the CIK, and reports; the next costs
// next to nothing.
func TestFirstCheckIn(t *testing.T) {
	w := newWorld(t)
	b, h, log := w.engine()
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, _ := w.Cloud().Device(w.Product(), serial)
	if s := w.settings(); s.CIK != info.CIK || s.CIK == "" || s.UUID != serial {
		t.Errorf("stored: %+v", s)
	}
	if h.checkedIn != 1 || h.keptText != "" {
		t.Errorf("PID 1 heard of %d check-ins, and kept the identity %d times", h.checkedIn, h.kept)
	}
	for _, alias := range []string{"engine_report", "device_info", "usage_report"} {
		if text := w.value(alias); !json.Valid([]byte(text)) {
			t.Errorf("%s: %q", alias, text)
		}
	}
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	requests := w.Requests()
	if last := requests[len(requests)-1]; last.In != 0 || last.Call != "read" || len(w.values("device_info")) != 1 {
		t.Errorf("the second check-in is %+v", last)
	}
	if strings.Contains(log.String(), info.CIK) || !strings.Contains(log.String(), "activated") {
		t.Errorf("the log:\n%s", log)
	}

	// What changes is reported at once.
	h.status = `{"board": "rpi3", "version": "1", "slot": "b"}`
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.values("engine_report"); len(got) != 2 || !strings.Contains(got[1], `"slot":"b"`) {
		t.Errorf("engine_report: %q", got)
	}
}

// A CIK that is refused is replaced if the product allows it, and else kept.
func TestBadCIK(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := w.settings().CIK

	w.Fault(exositetest.Fault{Call: "read", Times: 1, Status: 401})
	w.Fault(exositetest.Fault{Call: "readwrite", Times: 1, Status: 401})
	err := b.reach(t.Context())
	if !errors.As(err, new(activationError)) || !errors.Is(err, exosite.ErrNotEnabled) {
		t.Errorf("a server that is wrong: %v", err)
	}
	w.ClearFaults()
	if err := b.reach(t.Context()); err != nil || w.settings().CIK != first {
		t.Errorf("then: %v, with the CIK %.8s, was %.8s", err, w.settings().CIK, first)
	}

	if err := w.Cloud().Enable(w.Product(), serial, "test"); err != nil {
		t.Fatal(err)
	}
	if err := b.reach(t.Context()); err != nil || w.settings().CIK == first {
		t.Errorf("enabled again: %v, with the CIK %.8s, was %.8s", err, w.settings().CIK, first)
	}
}

// A CIK counts even if it cannot be stored, and the report says so.
func TestDiskIsFull(t *testing.T) {
	w := newWorld(t)
	b, h, _ := w.engine()
	if err := b.load(); err != nil {
		t.Fatal(err)
	}
	// In place of a disk that takes nothing: what is written beside cannot be.
	beside := filepath.Join(w.root, gateway.Dir, ".Gateway.cfg.new/full")
	if err := os.MkdirAll(beside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.value("engine_report"); !strings.Contains(got, "store the CIK: ") {
		t.Errorf("the report: %s", got)
	}
	if !strings.Contains(h.keptText, b.cloud.CIK()) || !strings.Contains(h.keptText, serial) {
		t.Errorf("PID 1 keeps %q", h.keptText)
	}
	if err := os.RemoveAll(filepath.Dir(beside)); err != nil {
		t.Fatal(err)
	}
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := w.settings(); s.CIK == "" || s.CIK != b.cloud.CIK() || h.keptText != "" {
		t.Errorf("the next check-in has not stored it: %q", s.CIK)
	}
}

func TestUpdateInterval(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	for _, c := range []struct {
		value   string
		seconds int // that count then
		problem string
	}{
		{"60", 60, ""},
		{" 61\n", 61, ""},
		{"1", 1, ""},
		{"0", 1, "want whole seconds from 1 to 2592000"},
		{"-5", 1, "want whole seconds"},
		{"an hour", 1, `"an hour" cannot be used`},
		{"9223372036854775807", 1, "want whole seconds"},
		{"18446744074", 1, "want whole seconds"},
		{"2592001", 1, "want whole seconds"},
		{"2592000", 2592000, ""},
	} {
		w.set("update_interval", c.value)
		if err := b.reach(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.settings().UpdateInterval; got != time.Duration(c.seconds)*time.Second || got != b.Engine.settings.UpdateInterval || w.value("update_interval") != "" {
			t.Errorf("%q: the interval is %v, stored %v, in the cloud is left %q", c.value, b.Engine.settings.UpdateInterval, got, w.value("update_interval"))
		}
		if got := b.problems["update_interval"]; (got == "") != (c.problem == "") || !strings.Contains(got, c.problem) {
			t.Errorf("%q: the problem %q, want %q", c.value, got, c.problem)
		}
	}
}

// Commands by check-in: taken, done and told once, with whatever goes wrong in
// the cloud.
func TestCommandWithFaults(t *testing.T) {
	for name, fault := range map[string]exositetest.Fault{
		"none":                           {Call: "record", Delay: 1},
		"the clearing is refused":        {Call: "write", Times: 1, Status: 400},
		"its answer is lost":             {Call: "write", Times: 1, Drop: true},
		"its time cannot be asked for":   {Call: "poll", Times: 100, Status: 404},
		"nor now":                        {Call: "poll", Times: 3, Status: 503},
		"the download breaks off":        {Call: "content", Times: 1, DropAfter: 2},
		"the download is another":        {Call: "contentinfo", Times: 1, Status: 503},
		"the outcome is taken, and lost": {Call: "write", Times: 1, Drop: true, Serial: serial},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			i := new(installer)
			b, _, log := w.engine(i)
			w.upload("a.test", "alpha")
			if err := b.reach(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Fault(fault)
			w.set("engine_fetch", `{"install": [{"name": "a.test"}]}`)
			for range 6 {
				b.reach(t.Context())
				for b.queue.Step(t.Context()) {
				}
			}
			if i.String() != "a.test=alpha" {
				t.Errorf("installed: %q\n%s", i, log)
			}
			outcomes := w.values("fetch_status")
			if len(outcomes) != 1 || !strings.HasPrefix(outcomes[0], "did it\ngwe: command ") || !strings.HasSuffix(outcomes[0], " installed: a.test") {
				t.Errorf("told: %q\n%s", outcomes, log)
			}
			if got := w.value("engine_fetch"); got != "" {
				t.Errorf("engine_fetch is still %q", got)
			}
			if left, err := os.ReadDir(filepath.Join(w.root, downloadFolder)); err != nil || len(left) > 0 {
				t.Errorf("left of the download: %v, %v", left, err)
			}
			// The same again is another command.
			time.Sleep(1100 * time.Millisecond)
			w.set("engine_fetch", `{"install": [{"name": "a.test"}]}`)
			for range 3 {
				b.reach(t.Context())
				for b.queue.Step(t.Context()) {
				}
			}
			if i.String() != "a.test=alpha, a.test=alpha" {
				t.Errorf("installed after the second command: %q", i)
			}
		})
	}
}

// run runs the engine until the test ends.
func (w *world) run(b *assembled) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	changes, err := folderChanges(ctx, b.files.Dir)
	if err != nil {
		w.t.Fatal(err)
	}
	b.changes = changes
	done := make(chan struct{})
	go func() { b.Run(ctx, 0); close(done) }()
	w.t.Cleanup(func() { cancel(); <-done })
}

// A command is taken at once, by long poll and by MQTT, and so is the next one
// of the same second.
func TestPush(t *testing.T) {
	for _, push := range []string{"poll", "mqtt"} {
		t.Run(push, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			i := new(installer)
			b, _, _ := w.engine(i)
			w.change(gateway.Change{File: gateway.EngineFile, Section: "exosite", Key: "push", Value: push})
			watching := func() bool { return strings.Contains(fmt.Sprint(w.calls()), "timestamp") }
			if push == "mqtt" {
				server, err := broker.Start(w.Server, "127.0.0.1:0", nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { server.Close() })
				_, b.mqttPort, _ = net.SplitHostPort(server.Addr())
				watching = func() bool {
					time.Sleep(500 * time.Millisecond) // it connects
					return w.value("engine_report") != ""
				}
			}
			w.upload("a.test", "alpha")
			w.upload("b.test", "beta")
			w.run(b)
			w.until("it watches", watching)
			time.Sleep(100 * time.Millisecond)
			w.set("engine_fetch", `{"install": [{"name": "a.test"}]}`)
			took := w.until("the command is taken", func() bool { return w.value("engine_fetch") == "" })
			w.set("engine_fetch", `{"install": [{"name": "b.test"}]}`)
			w.until("both are done", func() bool { return len(w.values("fetch_status")) == 2 })
			if i.String() != "a.test=alpha, b.test=beta" {
				t.Errorf("installed: %q", i)
			}
			t.Logf("taken after %v", took)
			if took > 3*time.Second {
				t.Errorf("it was taken after %v only", took)
			}
		})
	}
}

// Settings count when they are changed, without a restart.
func TestSettingsChange(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	w.change(gateway.Change{File: gateway.EngineFile, Section: "exosite", Key: "push", Value: "off"})
	w.run(b)
	w.until("it checks in", func() bool { return w.value("engine_report") != "" })
	before := len(w.Requests())

	// Another device, by the command.
	w.AddDevice("GW-8")
	var out, errs bytes.Buffer
	if status := run([]string{"--set-uuid", "GW-8", "-t", "1"}, w.root, tasks{keepIdentity: func(string) error { return nil }}, &out, &errs); status != 0 {
		t.Fatalf("status %d: %s%s", status, &out, &errs)
	}
	w.until("the other one is activated", func() bool {
		info, err := w.Cloud().Device(w.Product(), "GW-8")
		return err == nil && info.CIK != "" && w.settings().CIK == info.CIK
	})
	w.until("it checks in each second", func() bool { return len(w.Requests()) > before+6 })

	// Rubbish does not stop it.
	file := filepath.Join(w.root, gateway.Dir, gateway.EngineFile)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(string(text)+"\n[engine\nupdate_interval = soon\n\x00\x01"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.until("the report says so", func() bool {
		points, _ := w.Cloud().History(w.Product(), "GW-8", "engine_report")
		return len(points) > 0 && strings.Contains(points[len(points)-1].Value, "settings: ")
	})
}

// A gateway that waits for its activation takes another interval at once.
func TestActivationRetryChanges(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	w.Fault(exositetest.Fault{Call: "activate", Status: 409, Times: 1})
	w.run(b)
	w.until("it is refused", func() bool { return readLast(w.root).Error != "" })
	w.change(gateway.Change{File: gateway.EngineFile, Section: "engine", Key: "activation_retry_interval", Value: "1"})
	w.until("it activates", func() bool { return w.settings().CIK != "" })
}

// The server is away, comes back, and nobody has to do anything.
func TestServerAway(t *testing.T) {
	w := newWorld(t)
	b, h, log := w.engine()
	b.schedule.random = func(below time.Duration) time.Duration { return 0 }
	w.Fault(exositetest.Fault{Status: 400})
	wait := []string{}
	for range 4 {
		wait = append(wait, b.attempt(t.Context()).String())
	}
	// Not activated: by the interval of that.
	if got := fmt.Sprint(wait); got != "[4m0s 4m0s 4m0s 4m0s]" {
		t.Errorf("waits before activation: %s", got)
	}
	w.ClearFaults()
	if got := b.attempt(t.Context()); got != 24*time.Minute || h.checkedIn != 1 { // a tenth of 4 h, after the first
		t.Errorf("after it came back: %v, %d check-ins\n%s", got, h.checkedIn, log)
	}
	w.Fault(exositetest.Fault{Status: 400})
	wait = nil
	for range 9 {
		wait = append(wait, b.attempt(t.Context()).String())
	}
	if got := fmt.Sprint(wait); got != "[7.5s 15s 30s 1m0s 2m0s 4m0s 7m30s 7m30s 7m30s]" {
		t.Errorf("waits: %s", got)
	}
	if l := readLast(w.root); l.Attempts != 14 || !strings.Contains(l.Error, "400") || l.PID != os.Getpid() {
		t.Errorf("last: %+v", l)
	}
}

// A gateway that is told nothing waits, and a workstation says what is missing.
func TestUnprovisioned(t *testing.T) {
	root := t.TempDir()
	var out, errs bytes.Buffer
	if status := serve(root, true, &out, &errs); status != 1 || !strings.Contains(errs.String(), "--set-product-id") {
		t.Errorf("no product: %d, %s", status, &errs)
	}
	files := gateway.Files{Dir: filepath.Join(root, gateway.Dir)}
	if err := files.Set(gateway.Change{File: gateway.GatewayFile, Section: "device", Key: "vendor", Value: "p"}); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	if status := serve(root, false, &out, &errs); status != 1 || !strings.Contains(errs.String(), "--set-uuid") || !strings.Contains(errs.String(), "--set-iface") {
		t.Errorf("no serial number: %d, %s", status, &errs)
	}
	if err := os.MkdirAll(filepath.Join(root, "etc/gweinit"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := assemble(root, new(bytes.Buffer))
	b.host = &fakeHost{}
	if err := b.open(); err != nil {
		t.Fatal(err)
	}
	if wait := b.attempt(t.Context()); wait < time.Minute || !strings.Contains(readLast(root).Error, "serial number") {
		t.Errorf("it tries again after %v, %+v", wait, readLast(root))
	}
}

// Without a serial number it is the address of the link that is named, else of
// the gateway's first, which is remembered.
func TestSerial(t *testing.T) {
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var link net.Interface
	for _, l := range links {
		if len(l.HardwareAddr) == 6 && l.Flags&net.FlagLoopback == 0 {
			link = l
		}
	}
	if link.Name == "" {
		t.Fatalf("this machine has no link with an address, which the test needs: %v", links)
	}
	mac := strings.ToUpper(link.HardwareAddr.String())
	w := newWorld(t)
	w.AddDevice(mac)
	w.change(gateway.Change{File: gateway.GatewayFile, Section: "device", Key: "uuid"})
	b, h, _ := w.engine()
	h.status = fmt.Sprintf(`{"network": {"links": [{"name": "eth9", "state": "absent"}, {"name": %q, "mac": %q}]}}`, link.Name, mac)
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := w.Cloud().Device(w.Product(), mac); err != nil || w.settings().CIK != info.CIK || w.settings().Iface != link.Name {
		t.Errorf("%+v, %v; stored %+v", info, err, w.settings())
	}
}

// gwe as a program: one check-in by itself, or by the engine that is running.
func TestOnce(t *testing.T) {
	w := newWorld(t)
	gwe := func(args ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "BE_GWE=1", "GWE_ROOT="+w.root)
		return cmd
	}
	w.set("engine_fetch", `{"install": [{"name": "nobody.can"}]}`)
	if out, err := gwe("--once").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("\nchecked in\n")) {
		t.Fatalf("%v: %s", err, out)
	}
	if got := w.value("fetch_status"); !strings.Contains(got, "failed: nobody.can: ") || w.value("engine_fetch") != "" {
		t.Errorf("the command: %q", got)
	}
	engine := gwe()
	var log bytes.Buffer
	engine.Stderr = &log
	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	w.until("it runs", func() bool {
		text, _ := os.ReadFile(filepath.Join(w.root, lockFile))
		return strings.TrimSpace(string(text)) == fmt.Sprint(engine.Process.Pid)
	})
	time.Sleep(200 * time.Millisecond) // until it hears signals
	before := len(w.Requests())
	if out, err := gwe("-o").CombinedOutput(); err != nil || string(out) != "checked in, by the engine that is running\n" || len(w.Requests()) == before {
		t.Errorf("beside one that runs: %v: %s", err, out)
	}
	if out, err := gwe().CombinedOutput(); err == nil || !bytes.Contains(out, []byte("running already")) {
		t.Errorf("a second one: %v: %s", err, out)
	}
	w.Fault(exositetest.Fault{Status: 403})
	if out, err := gwe("-o").CombinedOutput(); err == nil || !bytes.Contains(out, []byte("403")) {
		t.Errorf("with a cloud that refuses: %v: %s", err, out)
	}
	engine.Process.Signal(syscall.SIGTERM)
	if err := engine.Wait(); err != nil {
		t.Errorf("TERM: %v\n%s", err, &log)
	}
	w.ClearFaults()
	if out, err := gwe("--support-bundle=-").Output(); err != nil || !bytes.HasPrefix(out, []byte{0x1f, 0x8b}) {
		t.Errorf("support bundle: %v, %d bytes", err, len(out))
	}
	file := filepath.Join(t.TempDir(), "bundle")
	if out, err := gwe("--support-bundle=" + file).Output(); err != nil || string(out) != file+"\n" {
		t.Errorf("support bundle: %v: %s", err, out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("support bundle: %v, %v", info, err)
	}
}
