package report

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}

const gatewayStatus = `{
  "board": "rpi3", "version": "1.4.0", "slot": "a",
  "slots": {"good": "a", "trial": "b", "a": {"status": "good", "left": 8}, "b": {"status": "trial", "left": 3, "later": [1]}},
  "rollback": "2026-11-20T10:00:00Z: 1.5.0 did not check in",
  "failed": ["clock"], "memory": true,
  "network": {"links": [], "settings": {"trial": false, "reverted": "2026-11-20T09:00:00Z: reverted: no check-in", "error": "network.yaml: line 3: \"links\""}},
  "clock": {"source": "", "offset_ns": 17, "error": "lookup pool.ntp.org: no such host"},
  "selftest": {"pass": false, "serial": "GW-7", "mac": "52:54:00:12:34:56", "board": "rpi3", "version": "1.0.0", "storage": "ok", "network": "eth0: dhcp: no carrier", "later": 1}
}`

func gateway() Engine {
	return Engine{
		Version: "1.4.0",
		Programs: []Program{
			{Name: "gwe", Group: "gwe", State: "RUNNING", PID: 571, Uptime: 93784 * time.Second},
			{Name: "web_01", Group: "web", State: "FATAL", ExitStatus: 127},
			{Name: "web_00", Group: "web", State: "BACKOFF", ExitStatus: 1},
			{Name: "gmq", Group: "gmq", State: "RUNNING", PID: 579, Uptime: 20 * time.Second},
		},
		Status:   json.RawMessage(gatewayStatus),
		Errors:   []string{"install app.v1.tar.gz: status 3", "two\nlines & <more>\xff"},
		Commands: []any{map[string]string{"install": "app.v2.tar.gz", "state": "running"}},
	}
}

func TestEngineReport(t *testing.T) {
	for name, e := range map[string]Engine{
		"gateway":     gateway(),
		"workstation": {Version: "1.4.0"},
		"empty":       {Version: "1.4.0", Programs: []Program{}, Status: json.RawMessage(`{"board":"rpi3","clock":{"source":"ntp"}}`)},
	} {
		r, err := e.Report()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		golden(t, "engine_"+name+".json", r.Text+"\n")
		golden(t, "engine_"+name+".facts", r.Facts+"\n")
	}
}

func TestEngineFacts(t *testing.T) {
	facts := func(change func(*Engine)) string {
		e := gateway()
		change(&e)
		r, err := e.Report()
		if err != nil {
			t.Fatal(err)
		}
		return r.Facts
	}
	status := func(old, new string) func(*Engine) {
		return func(e *Engine) { e.Status = json.RawMessage(strings.Replace(gatewayStatus, old, new, 1)) }
	}
	before := facts(func(*Engine) {})
	for name, c := range map[string]struct {
		change func(*Engine)
		news   bool
	}{
		"uptime":           {func(e *Engine) { e.Programs[0].Uptime++; e.Programs[0].PID++ }, false},
		"order":            {func(e *Engine) { e.Programs[0], e.Programs[2] = e.Programs[2], e.Programs[0] }, false},
		"one more try":     {func(e *Engine) { e.Programs[2].State, e.Programs[2].ExitStatus = "STARTING", 0 }, false},
		"another poll":     {status("no such host", "timeout"), false},
		"clock's offset":   {status("17", "18"), false},
		"state":            {func(e *Engine) { e.Programs[0].State = "EXITED" }, true},
		"exit status":      {func(e *Engine) { e.Programs[1].ExitStatus++ }, true},
		"gone":             {func(e *Engine) { e.Programs = e.Programs[1:] }, true},
		"no supervisor":    {func(e *Engine) { e.Programs = nil }, true},
		"error":            {func(e *Engine) { e.Errors = e.Errors[1:] }, true},
		"command":          {func(e *Engine) { e.Commands = nil }, true},
		"clock":            {status(`"source": ""`, `"source": "ntp"`), true},
		"slots":            {status(`"left": 3`, `"left": 2`), true},
		"rollback":         {status(`did not check in`, `hung`), true},
		"version":          {func(e *Engine) { e.Version = "1.5.0" }, true},
		"network settings": {status("no check-in", "what"), true},
		"self-test":        {status("no carrier", "searching"), true},
	} {
		if after := facts(c.change); (after != before) != c.news {
			t.Errorf("%s: news %v, want %v\n%s\n%s", name, after != before, c.news, before, after)
		}
	}
}

type noJSON struct{}

func (noJSON) MarshalJSON() ([]byte, error) { return nil, errors.New("no") }

func TestEngineBounds(t *testing.T) {
	e := Engine{Version: strings.Repeat("\"", 1000), Programs: []Program{}}
	for i := range 5000 {
		e.Programs = append(e.Programs, Program{Name: fmt.Sprintf("%04d", i) + strings.Repeat("\"\xff", i%200), Group: "g", State: "RUNNING"})
		e.Errors = append(e.Errors, strings.Repeat("\\", 10000))
		e.Commands = append(e.Commands, strings.Repeat("x", 1000), noJSON{}, json.RawMessage("\"\xff\""))
	}
	failed := strings.TrimSuffix(strings.Repeat(`"`+strings.Repeat("f", 500)+`",`, 1000), ",")
	for _, slots := range []string{strings.Repeat("\xff", 4<<10-2), strings.Repeat("s", 64<<10)} {
		e.Status = json.RawMessage(`{"slots":"` + slots + `","failed":[` + failed + `],"rollback":"` + failed[1:200] + `","selftest":{"serial":"` + failed[1:200] + strings.Repeat(`\n`, 30<<10) + `"}}`)
		r, err := e.Report()
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Text) > 64<<10 || len(r.Text) < 60<<10 || !utf8.ValidString(r.Text) || !utf8.ValidString(r.Facts) {
			t.Errorf("%d bytes", len(r.Text))
		}
		var got engineReport
		if err := json.Unmarshal([]byte(r.Text), &got); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"4984 older errors", "968 more phases", "more commands", fmt.Sprintf("%d more programs", 5000-len(got.Apps))} {
			if !strings.Contains(got.Note, want) {
				t.Errorf("note %q lacks %q", got.Note, want)
			}
		}
		if !strings.Contains(strings.Join(got.Errors, "\n"), "report the command") {
			t.Errorf("errors %q", got.Errors)
		}
	}
	for _, bad := range []string{"{", "[]", `{"slot": 3, "board": "b"}`, "\xff"} {
		r, err := Engine{Version: "1", Status: json.RawMessage(bad)}.Report()
		if err != nil || !json.Valid([]byte(r.Text)) || !strings.Contains(r.Text, "gweinit.status: ") {
			t.Errorf("status %q: %s, %v", bad, r.Text, err)
		}
	}
}

func TestPrograms(t *testing.T) {
	programs, err := asPrograms([]any{
		map[string]any{"name": "gmq", "group": "gmq", "statename": "RUNNING", "pid": 579, "exitstatus": 0, "start": 1000, "now": 1020},
		map[string]any{"name": "w", "group": "web", "statename": "EXITED", "pid": 0, "exitstatus": 3, "start": 1000, "now": 1020},
		map[string]any{"name": "back", "pid": 7, "start": 1020, "now": 1000},
	})
	want := []Program{
		{Name: "gmq", Group: "gmq", State: "RUNNING", PID: 579, Uptime: 20 * time.Second},
		{Name: "w", Group: "web", State: "EXITED", ExitStatus: 3},
		{Name: "back", PID: 7},
	}
	if err != nil || fmt.Sprint(programs) != fmt.Sprint(want) {
		t.Errorf("%v, %v", programs, err)
	}
	if programs, err := asPrograms([]any{}); programs == nil || err != nil {
		t.Errorf("none: %v, %v", programs, err)
	}
	for _, odd := range []any{nil, "x", []any{"x"}} {
		if _, err := asPrograms(odd); err == nil {
			t.Errorf("%v: no error", odd)
		}
	}
}

func TestDuration(t *testing.T) {
	for seconds, want := range map[int64]string{
		-1: "0:00:00", 0: "0:00:00", 20: "0:00:20", 86399: "23:59:59", 86400: "1 day, 0:00:00", 93784: "1 day, 2:03:04", 10 * 86400: "10 days, 0:00:00",
	} {
		if got := duration(time.Duration(seconds) * time.Second); got != want {
			t.Errorf("%d s: %s, want %s", seconds, got, want)
		}
	}
}

func BenchmarkEngine(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := gateway().Report(); err != nil {
			b.Fatal(err)
		}
	}
}
