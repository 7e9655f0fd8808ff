package gdc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/broker"
)

// MQTT by the same options, of a device with a device file.
func TestMQTT(t *testing.T) {
	w := newWorld(t)
	b, err := broker.Start(w.Server, "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	w.AddDevice("4321")
	if err := os.WriteFile("ca.pem", w.CA(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("device.ini", []byte("[device]\nmurano_host = mqtt://"+b.Addr()+"/\nmurano_id = 4321\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"-E", "ca.pem", "-f", "device.ini", "-m", "20"}
	for _, c := range []struct {
		args   []string
		in     string
		status int
		out    string
		errs   string
	}{
		{args: []string{"mqtt", "activate"}, out: `[0-9A-Za-z]{40}\n`},
		{args: []string{"mqtt", "activate"}, status: refused, errs: "enable"},
		{args: []string{"mqtt", "publish", "$resource/device_info", "-1"}, out: `rc=0, mid=1: -1\n`},
		{args: []string{"mqtt", "publish", "$resource/engine_report", "-"}, in: "a\nb\n", out: `rc=0, mid=1: a\nrc=0, mid=2: b\n`},
		{args: []string{"--json", "mqtt", "publish", "$resource.batch", `[{"timestamp":1526046488, "values": {"usage_report": 98.7}}]`}, out: `\{"mid":1,"value":".*"\}\n`},
	} {
		status, out, errs := w.gdc(c.in, append(base[:len(base):len(base)], c.args...)...)
		if status != c.status || !regexp.MustCompile("^"+c.out+"$").MatchString(out) || !strings.Contains(errs, c.errs) || c.errs == "" && errs != "" {
			t.Errorf("gdc %q: status %d, want %d\n%s%s", c.args, status, c.status, out, errs)
		}
	}
	for alias, want := range map[string]string{"device_info": "-1", "engine_report": "b", "usage_report": "98.7"} {
		if h, err := w.Cloud().History(w.Product(), "4321", alias); err != nil || len(h) == 0 || h[len(h)-1].Value != want {
			t.Errorf("%s: %v, %v", alias, h, err)
		}
	}

	// What the product sets is printed until gdc is ended, as text and as JSON.
	ctx, cancel := context.WithCancel(t.Context())
	var text, lines, errs output
	ended := make(chan int, 2)
	for args, out := range map[string]*output{"mqtt subscribe": &text, "-json mqtt subscribe": &lines} {
		go func() {
			ended <- run(ctx, append(base[:len(base):len(base)], strings.Fields(args)...), nil, out, &errs)
		}()
	}
	for n := 0; !strings.Contains(text.String(), "\n") || !strings.Contains(lines.String(), "\n"); n++ {
		if n == 1000 {
			t.Fatalf("nothing is printed; %s", errs.String())
		}
		if err := w.Cloud().Set(w.Product(), "4321", "update_interval", fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	for range 2 {
		if status := <-ended; status != done {
			t.Errorf("status %d, %s", status, errs.String())
		}
	}
	if line, _, _ := strings.Cut(text.String(), "\n"); !regexp.MustCompile(`^update_interval\.[0-9]{16}=[0-9]+$`).MatchString(line) {
		t.Errorf("%q", line)
	}
	var change struct {
		Alias, Value string
		Timestamp    int64
	}
	line, _, _ := strings.Cut(lines.String(), "\n")
	if err := json.Unmarshal([]byte(line), &change); err != nil || change.Alias != "update_interval" || change.Value == "" || change.Timestamp == 0 {
		t.Errorf("%q: %+v, %v", line, change, err)
	}
}

// output is read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
