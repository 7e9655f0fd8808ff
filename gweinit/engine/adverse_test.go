package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/broker"
	"github.com/exosite/gwe/gweinit/gateway"
)

// checkIns counts them.
func (w *world) checkIns() (n int) {
	for _, r := range w.Requests() {
		if strings.Contains(r.Path, "engine_fetch&update_interval") {
			n++
		}
	}
	return n
}

// A cloud that takes the CIK for check-ins but not for pushes is not besieged, and
// the report says what is wrong.
func TestPushRefused(t *testing.T) {
	for _, push := range []string{"poll", "mqtt"} {
		t.Run(push, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b, _, _ := w.engine()
			w.Fault(exositetest.Fault{Call: "poll", Status: 401})
			if push == "mqtt" {
				other := exositetest.New(t) // it does not know the CIK
				server, err := broker.Start(other, "127.0.0.1:0", nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { server.Close() })
				_, b.mqttPort, _ = net.SplitHostPort(server.Addr())
				if err := os.WriteFile(filepath.Join(w.root, gateway.Dir, "keys/ca.pem"), append(w.CA(), other.CA()...), 0o600); err != nil {
					t.Fatal(err)
				}
				w.change(gateway.Change{File: gateway.EngineFile, Section: "exosite", Key: "push", Value: "mqtt"})
			}
			w.run(b)
			w.until("the report says so", func() bool { return strings.Contains(w.value("engine_report"), "push: ") })
			time.Sleep(2 * time.Second)
			if n := w.checkIns(); n > 3 {
				t.Errorf("%d check-ins in about 2 s", n)
			}
		})
	}
}

// A push by MQTT goes on with the CIK of another activation.
func TestPushAfterActivation(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	b.schedule.random = func(time.Duration) time.Duration { return 0 }
	server, err := broker.Start(w.Server, "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	_, b.mqttPort, _ = net.SplitHostPort(server.Addr())
	w.change(gateway.Change{File: gateway.EngineFile, Section: "exosite", Key: "push", Value: "mqtt"})
	w.run(b)
	w.until("it checks in", func() bool { return w.value("engine_report") != "" })
	time.Sleep(500 * time.Millisecond)
	first := w.settings().CIK
	if err := w.Cloud().Enable(w.Product(), serial, "test"); err != nil {
		t.Fatal(err)
	}
	w.until("it activates again", func() bool { cik := w.settings().CIK; return cik != "" && cik != first })
	time.Sleep(500 * time.Millisecond)
	w.set("engine_fetch", `{"install": [{"name": "nobody.can"}]}`)
	w.until("a command is taken", func() bool { return w.value("engine_fetch") == "" })
}

// A CIK that could not be stored does not get to the device that the gateway
// becomes meanwhile.
func TestUnstoredOtherDevice(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	beside := filepath.Join(w.root, gateway.Dir, ".Gateway.cfg.new/full")
	if err := os.MkdirAll(beside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(beside)); err != nil {
		t.Fatal(err)
	}
	w.AddDevice("GW-8")
	c, err := exosite.New(b.client.Load().Options())
	if err != nil {
		t.Fatal(err)
	}
	cik, err := c.Activate(t.Context(), "GW-8")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if status := run([]string{"--set-uuid", "GW-8", "-c", cik}, w.root, tasks{keepIdentity: func(string) error { return nil }}, &out, &errs); status != 0 {
		t.Fatal(&errs)
	}
	if err := errors.Join(b.load(), b.reach(t.Context())); err != nil {
		t.Fatal(err)
	}
	if s := w.settings(); s.CIK != cik || s.UUID != "GW-8" || b.cloud.CIK() != cik {
		t.Errorf("stored: %s with CIK %.8s, want GW-8's %.8s", s.UUID, s.CIK, cik)
	}
}

// Reports and outcomes that the cloud never takes keep no command out.
func TestRefusedReports(t *testing.T) {
	w := newWorld(t)
	b, h, _ := w.engine()
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.set("engine_fetch", `{"install": [{"name": "a.test"}]}`)
	h.status = `{"board": "x"}`
	w.Fault(exositetest.Fault{Call: "readwrite", Status: 413})
	if err := b.reach(t.Context()); err != nil || w.value("engine_fetch") != "" || !strings.Contains(b.problems["report"], "413") {
		t.Errorf("a report is too large: %v; the command is %q; %q", err, w.value("engine_fetch"), b.problems)
	}
	for b.queue.Step(t.Context()) {
	}
	w.Fault(exositetest.Fault{Call: "write", Times: 1, Status: 400})
	if err := b.reach(t.Context()); err != nil || len(b.queue.Outcomes()) > 0 || !strings.Contains(b.problems["fetch_status"], "400") {
		t.Errorf("an outcome is refused: %v; %d wait; %q", err, len(b.queue.Outcomes()), b.problems)
	}
}

// What is written while a command is taken is not cleared with it.
func TestCommandsInOneSecond(t *testing.T) {
	w := newWorld(t)
	i := new(installer)
	b, _, _ := w.engine(i)
	w.upload("a.test", "alpha")
	w.upload("b.test", "beta")
	if err := b.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.set("engine_fetch", `{"install": [{"name": "a.test"}]}`)
	first := w.value("engine_fetch")
	_, at, err := b.newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.set("engine_fetch", `{"install": [{"name": "b.test"}]}`)
	if err := b.take(t.Context(), first, at, false); err != nil {
		t.Fatal(err)
	}
	for b.queue.Step(t.Context()) {
	}
	if i.String() != "a.test=alpha, b.test=beta" || w.value("engine_fetch") != "" {
		t.Errorf("installed %q, left %q", i, w.value("engine_fetch"))
	}
}

// A server that does not say when a value was written: its text has to do.
func TestNoTimes(t *testing.T) {
	w := newWorld(t)
	i := new(installer)
	b, _, _ := w.engine(i)
	w.upload("a.test", "alpha")
	w.Fault(exositetest.Fault{Call: "poll", Status: 200, Body: "engine_fetch=%7B%7D"})
	for n := range 2 {
		w.set("engine_fetch", `{"install": [{"name": "a.test"}]}`)
		for range 3 {
			if err := b.reach(t.Context()); err != nil {
				t.Fatal(err)
			}
			for b.queue.Step(t.Context()) {
			}
		}
		if got := len(i.done); got != n+1 || w.value("engine_fetch") != "" {
			t.Errorf("after %d commands %d are installed, left is %q", n+1, got, w.value("engine_fetch"))
		}
	}
}

// Changes of the interval do not put a check-in off.
func TestManyChanges(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	interval := func(n int) {
		w.change(gateway.Change{File: gateway.EngineFile, Section: "engine", Key: "update_interval", Value: fmt.Sprint(n)})
	}
	interval(2)
	w.run(b)
	w.until("it checks in", func() bool { return w.checkIns() > 0 })
	for n := range 12 {
		time.Sleep(400 * time.Millisecond)
		interval(2 + n%2)
	}
	if n := w.checkIns(); n < 3 {
		t.Errorf("%d check-ins in 5 s, with an interval of 2 to 3 s", n)
	}
}

// Certificates that are replaced in their place count at the next attempt.
func TestReplacedCA(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	ca := filepath.Join(w.root, gateway.Dir, "keys/ca.pem")
	if err := os.WriteFile(ca, exositetest.New(t).CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.change(gateway.Change{File: gateway.GatewayFile, Section: "device", Key: "cik", Value: strings.Repeat("a", 40)})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := b.reach(ctx); !errors.Is(err, exosite.ErrUntrusted) {
		t.Fatalf("another CA: %v", err)
	}
	if err := os.WriteFile(ca, w.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.reach(t.Context()); err != nil {
		t.Errorf("the right one in its place: %v", err)
	}
}

// PID 1 that is busy keeps the settings at a later check-in.
func TestKeptLater(t *testing.T) {
	w := newWorld(t)
	b, h, _ := w.engine()
	h.keptError = errors.New("PID 1 is busy")
	if err := b.reach(t.Context()); err != nil || !strings.Contains(b.problems["keep the identity"], "busy") {
		t.Fatalf("%v, %q", err, b.problems)
	}
	h.keptError = nil
	kept := h.kept
	for range 2 {
		if err := b.reach(t.Context()); err != nil || len(b.problems) > 0 {
			t.Fatalf("%v, %q", err, b.problems)
		}
	}
	if h.kept != kept+1 {
		t.Errorf("PID 1 was asked %d times more, want 1", h.kept-kept)
	}
}

// A cloud that gives CIKs and refuses them gets no new activation with each
// check-in.
func TestCIKsThatAreNoGood(t *testing.T) {
	w := newWorld(t)
	b, _, _ := w.engine()
	b.schedule.random = func(time.Duration) time.Duration { return 0 }
	w.Fault(exositetest.Fault{Call: "readwrite", Status: 401})
	w.Fault(exositetest.Fault{Call: "timestamp", Delay: 1})
	w.change(gateway.Change{File: gateway.EngineFile, Section: "engine", Key: "update_interval", Value: "1"})
	if wait := b.attempt(t.Context()); wait != 4*time.Minute {
		t.Errorf("again after %v", wait)
	}
}

// An engine that does not say which process it is gets no signal: 0 would be all
// of the caller's group.
func TestUnknownProcess(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, runFolder), 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, _, err := lock(filepath.Join(root, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := os.Truncate(filepath.Join(root, lockFile), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", os.Args[0]+" --once; echo alive $?")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "BE_GWE=1", "GWE_ROOT="+root)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("alive 1")) {
		t.Errorf("%v: %s", err, out)
	}
}
