package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/exosite/gwe/gweinit/engine/report"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/usage"
)

// reports returns the reports that are due.
func (e *Engine) reports(ctx context.Context) map[string]report.Report {
	all := e.allReports(ctx)
	for alias, r := range all {
		last, ok := e.sent[alias]
		if ok && last.facts == r.Facts && time.Since(last.at) < resend {
			delete(all, alias)
		}
	}
	return all
}

// allReports returns the reports as they are now. One that cannot be made is
// missing.
func (e *Engine) allReports(ctx context.Context) map[string]report.Report {
	all := map[string]report.Report{}
	add := func(alias string, r report.Report, err error) {
		if e.problem(alias, err); err == nil {
			all[alias] = r
		}
	}
	device, err := report.Device(cmp.Or(e.root, "/"))
	add(deviceInfo, device, err)
	// Its facts are none: it changes with each request.
	used, err := e.addUsage()
	text := []byte("{}")
	if err == nil {
		text, err = json.Marshal(used)
	}
	add(usageReport, report.Report{Text: string(text)}, err)

	state := report.Engine{Version: e.version, Status: e.host.Status(ctx), Programs: e.host.Programs(ctx)}
	if e.installed != nil {
		state.Apps, err = e.installed()
		e.problem("apps", err)
	}
	for _, c := range e.queue.Status() {
		state.Commands = append(state.Commands, c)
	}
	for _, about := range slices.Sorted(maps.Keys(e.problems)) {
		state.Errors = append(state.Errors, about+": "+e.problems[about])
	}
	engine, err := state.Report()
	add(engineReport, engine, err)
	return all
}

// addUsage adds what was used to the gateway's usage, which it returns.
func (e *Engine) addUsage() (exosite.Report, error) {
	e.used = e.used.Add(e.meter.Take())
	sum, err := usage.Add(filepath.Join(e.root, usage.File), e.used)
	if err == nil {
		e.used = nil
	}
	return sum, err
}
