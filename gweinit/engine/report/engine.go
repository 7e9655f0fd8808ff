// Package report writes what the engine tells the cloud about the gateway: the
// texts of the resources engine_report and device_info.
package report

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/selftest"
)

// Report is a report's text, and what of it matters.
type Report struct {
	Text string // JSON in UTF-8
	// Facts is the same without what changes by itself, such as uptimes, pids and
	// small changes of memory: reports with the same Facts tell nothing new.
	Facts string
}

// Program is a process of a program, as Supervisor's getAllProcessInfo tells it.
type Program struct {
	Name, Group string        // of most programs the same
	State       string        // "RUNNING"
	ExitStatus  int           // of the last run
	PID         int           // 0: it does not run
	Uptime      time.Duration // 0: it does not run
}

// name is the one by which supervisorctl knows it.
func (p Program) name() string {
	if p.Group == "" || p.Group == p.Name {
		return p.Name
	}
	return p.Group + ":" + p.Name
}

// Programs asks the supervisor for all programs: an empty list if it has none.
func Programs(ctx context.Context, c control.Client) ([]Program, error) {
	answer, err := c.Call(ctx, "supervisor.getAllProcessInfo")
	if err != nil {
		return nil, err
	}
	return asPrograms(answer)
}

func asPrograms(answer any) ([]Program, error) {
	list, ok := answer.([]any)
	if !ok {
		return nil, fmt.Errorf("call supervisor.getAllProcessInfo: the answer is a %T, want a list", answer)
	}
	programs := []Program{}
	for _, item := range list {
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("call supervisor.getAllProcessInfo: a %T is in the answer, want structures", item)
		}
		var p Program
		p.Name, _ = fields["name"].(string)
		p.Group, _ = fields["group"].(string)
		p.State, _ = fields["statename"].(string)
		p.ExitStatus, _ = fields["exitstatus"].(int)
		p.PID, _ = fields["pid"].(int)
		now, _ := fields["now"].(int)
		start, _ := fields["start"].(int)
		if p.PID != 0 && start > 0 {
			p.Uptime = time.Duration(max(int64(now)-int64(start), 0)) * time.Second
		}
		programs = append(programs, p)
	}
	return programs, nil
}

// Engine is what there is to report about the gateway's programs and firmware.
type Engine struct {
	Version  string    // of the firmware
	Programs []Program // nil: no supervisor could be asked
	Apps     []App
	Status   json.RawMessage // what PID 1 tells by gweinit.status; nil: there is none, as on a workstation
	Errors   []string        // pending ones of the engine, newest last
	Commands []any           // queued or running ones, each as it marshals itself to JSON
}

// App is an installed app. Its program has its name.
type App struct {
	Name, Version string
	// Stale are files of it that hide newer ones of the firmware.
	Stale []string
}

// Limits of an engine_report, in bytes of its JSON unless they say otherwise.
const (
	maxEngine   = 64 << 10
	maxCommands = 16 << 10
	maxSlots    = 4 << 10
	maxErrors   = 16  // of the engine itself
	maxFailed   = 32  // phases
	maxText     = 400 // of an error, before it is escaped
	maxName     = 100 // of a name
	maxStale    = 8   // files of an app
	noteSize    = 200 // for the keys around "note", and how many programs are left out
)

// status is what of gweinit.status is reported.
type status struct {
	Board    string          `json:"board"`
	Version  string          `json:"version"`
	Slot     string          `json:"slot"`
	Slots    json.RawMessage `json:"slots"`
	Rollback string          `json:"rollback"`
	Damage   string          `json:"damage"`
	Failed   []string        `json:"failed"`
	Memory   bool            `json:"memory"`
	Network  struct {
		Settings struct {
			Error    string `json:"error"`
			Reverted string `json:"reverted"`
		} `json:"settings"`
	} `json:"network"`
	Clock *struct {
		Source string `json:"source"`
		Error  string `json:"error"`
	} `json:"clock"`
	Selftest *selftest.Result `json:"selftest"`
}

type firmware struct {
	Version string `json:"version"`
	Board   string `json:"board,omitempty"`
	Slot    string `json:"slot,omitempty"`
}

type app struct {
	Status     string `json:"status"`
	ExitStatus int    `json:"exitstatus"`
	Uptime     string `json:"uptime"`
	Version    string `json:"version"`
	// Stale are files of the app that hide newer ones of the firmware.
	Stale []string `json:"stale,omitempty"`
}

// engineReport is the JSON of an engine_report.
type engineReport struct {
	Apps     []json.RawMessage `json:"apps"` // each an object with one app
	Firmware firmware          `json:"firmware"`
	Slots    json.RawMessage   `json:"slots,omitempty"`
	Rollback string            `json:"rollback,omitempty"`
	Failed   []string          `json:"failed,omitempty"`
	Memory   bool              `json:"memory,omitempty"`
	Selftest *selftest.Result  `json:"selftest,omitempty"` // nil: the gateway has none yet
	Errors   []string          `json:"errors,omitempty"`
	Commands []json.RawMessage `json:"commands,omitempty"`
	Note     string            `json:"note,omitempty"`
}

// Report returns the engine_report, at most 64 KiB: "note" says what had no
// place. A status that is not understood is one of its errors.
func (e Engine) Report() (Report, error) {
	r := engineReport{Apps: []json.RawMessage{}, Firmware: firmware{Version: short(e.Version)}}
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }

	for _, text := range e.Errors[max(0, len(e.Errors)-maxErrors):] {
		r.Errors = append(r.Errors, short(text))
	}
	if n := len(e.Errors) - maxErrors; n > 0 {
		note("%d older errors", n)
	}

	var st status
	if len(e.Status) > 0 {
		if err := json.Unmarshal(e.Status, &st); err != nil {
			r.Errors = append(r.Errors, short("gweinit.status: "+err.Error()))
		}
	}
	r.Firmware.Version = cmp.Or(r.Firmware.Version, short(st.Version))
	r.Firmware.Board, r.Firmware.Slot = short(st.Board), short(st.Slot)
	r.Rollback, r.Memory = short(st.Rollback), st.Memory
	if r.Selftest = st.Selftest; r.Selftest != nil {
		for _, text := range []*string{&r.Selftest.Serial, &r.Selftest.MAC, &r.Selftest.Board, &r.Selftest.Version, &r.Selftest.Storage, &r.Selftest.Network, &r.Selftest.Boot} {
			*text = short(*text)
		}
	}
	if st.Damage != "" {
		r.Errors = append(r.Errors, short(st.Damage))
	}
	if len(st.Slots) > maxSlots {
		note("slots, of %d bytes", len(st.Slots))
	} else if !bytes.Equal(st.Slots, []byte("null")) {
		r.Slots = st.Slots
	}
	for _, phase := range st.Failed[:min(len(st.Failed), maxFailed)] {
		r.Failed = append(r.Failed, cut(phase, maxName))
	}
	if n := len(st.Failed) - maxFailed; n > 0 {
		note("%d more phases that failed", n)
	}
	for _, text := range []string{st.Network.Settings.Reverted, st.Network.Settings.Error} {
		if text != "" {
			r.Errors = append(r.Errors, short("network settings: "+text))
		}
	}

	var bad error
	size := 0
	for i, command := range e.Commands {
		text, err := encode(command)
		if err != nil {
			bad = fmt.Errorf("report the command %d: %w", i+1, err)
			continue
		}
		if size += len(text); size > maxCommands {
			note("%d more commands", len(e.Commands)-i)
			break
		}
		r.Commands = append(r.Commands, text)
	}

	if bad != nil {
		r.Errors = append(r.Errors, short(bad.Error()))
	}

	facts := r // without apps and clock yet
	if st.Clock != nil && st.Clock.Source == "" {
		const notSet = "clock: not set"
		facts.Errors = append(slices.Clone(r.Errors), notSet)
		text := notSet
		if st.Clock.Error != "" { // this changes with every poll
			text += ": " + st.Clock.Error
		}
		r.Errors = append(r.Errors, short(text))
	}

	if e.Programs == nil {
		note("no supervisor could be asked for programs")
	}
	rest, err := encode(r)
	if err != nil {
		return Report{}, fmt.Errorf("engine_report: %w", err)
	}
	left := maxEngine - len(rest) - noteSize
	for _, n := range notes {
		left -= len(n)
	}
	programs := slices.SortedFunc(slices.Values(withApps(e.Programs, e.Apps)), func(a, b Program) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name))
	})
	facts.Apps = make([]json.RawMessage, 0, len(programs))
	for i, p := range programs {
		app := appOf(p, e.Apps)
		text, err := p.encode(cmp.Or(app.Version, e.Version), duration(p.Uptime), app.Stale)
		if err != nil {
			return Report{}, fmt.Errorf("engine_report: program %s: %w", p.name(), err)
		}
		if left -= len(text) + 1; left < 0 {
			note("%d more programs", len(programs)-i)
			break
		}
		fact, err := p.steady().encode(app.Version, "", app.Stale)
		if err != nil {
			return Report{}, fmt.Errorf("engine_report: program %s: %w", p.name(), err)
		}
		r.Apps, facts.Apps = append(r.Apps, text), append(facts.Apps, fact)
	}
	r.Note = strings.Join(notes, "; ")
	facts.Note = r.Note
	return finish(r, facts)
}

// steady is the program with one state for all its tries to start: a program that
// cannot start would be news every few seconds.
func (p Program) steady() Program {
	if p.State == "BACKOFF" || p.State == "STARTING" {
		p.State, p.ExitStatus = "STARTING", 0
	}
	return p
}

func (p Program) encode(version, uptime string, stale []string) (json.RawMessage, error) {
	a := app{Status: cut(p.State, maxName), ExitStatus: p.ExitStatus, Uptime: uptime, Version: short(version)}
	for _, path := range stale[:min(len(stale), maxStale)] {
		a.Stale = append(a.Stale, cut(path, maxName))
	}
	return encode(map[string]app{cut(p.name(), maxName): a})
}

// withApps adds the apps that have no program: libraries, and those that ran once.
func withApps(programs []Program, apps []App) []Program {
	all := slices.Clone(programs)
	for _, a := range apps {
		if !slices.ContainsFunc(programs, func(p Program) bool { return p.of(a) }) {
			all = append(all, Program{Name: a.Name, Group: a.Name, State: "INSTALLED"})
		}
	}
	return all
}

// of says whether it is a program of an app.
func (p Program) of(a App) bool { return cmp.Or(p.Group, p.Name) == a.Name }

func appOf(p Program, apps []App) App {
	if i := slices.IndexFunc(apps, p.of); i >= 0 {
		return apps[i]
	}
	return App{}
}

// finish makes a Report of what is in its text and its facts.
func finish(text, facts any) (Report, error) {
	t, err := encode(text)
	if err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	f, err := encode(facts)
	if err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	return Report{Text: string(t), Facts: string(f)}, nil
}

// encode is json.Marshal without escapes for HTML. What was JSON already may be
// other than UTF-8 before.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.ToValidUTF8(bytes.TrimSuffix(b.Bytes(), []byte("\n")), []byte("\uFFFD")), nil
}

func short(text string) string { return cut(text, maxText) }

// cut returns a text of n bytes at most, with "..." where it was cut, that is one
// line of UTF-8.
func cut(text string, n int) string {
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), 4*n)], "?"))
	if len(text) > n {
		text = strings.ToValidUTF8(text[:n-3], "") + "..."
	}
	return text
}

// duration is a time as Python prints it: "1 day, 2:03:04".
func duration(d time.Duration) string {
	seconds := int64(max(d, 0) / time.Second)
	text := fmt.Sprintf("%d:%02d:%02d", seconds/3600%24, seconds/60%60, seconds%60)
	switch days := seconds / 86400; {
	case days == 1:
		return "1 day, " + text
	case days > 1:
		return fmt.Sprintf("%d days, %s", days, text)
	}
	return text
}
