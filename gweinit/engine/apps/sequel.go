package apps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/sandbox"
	"github.com/exosite/gwe/gweinit/gateway"
)

// all is what all installers have asked for.
func all(wishes []sandbox.Wish) (sum sandbox.Wish) {
	for _, w := range wishes {
		sum.Restart = append(sum.Restart, w.Restart...)
		sum.Signals = append(sum.Signals, w.Signals...)
		sum.All = sum.All || w.All
		sum.Reboot = sum.Reboot || w.Reboot
		sum.Poweroff = sum.Poweroff || w.Poweroff
	}
	slices.Sort(sum.Restart)
	sum.Restart = slices.Compact(sum.Restart)
	return sum
}

// sequel is what comes after the commit. It is in the generation until it is done, so
// that a power cut in between loses nothing of it.
type sequel struct {
	Settings []gateway.Change `json:"settings,omitempty"`
	Wish     sandbox.Wish     `json:"wish"`
	Apps     []string         `json:"apps"` // that were changed
}

// maxSequel is its longest text, in bytes: the generation's file has a limit.
const maxSequel = 8 << 10

// encode returns its text, "" if there is nothing to do.
func (s sequel) encode() (string, error) {
	if len(s.Settings) == 0 && len(s.Wish.Restart) == 0 && len(s.Wish.Signals) == 0 && !s.Wish.All {
		return "", nil
	}
	text, err := json.Marshal(s)
	if err == nil && len(text) > maxSequel {
		err = fmt.Errorf("the installers want more than this can note: %d settings to be changed, %d programs restarted, %d signals sent", len(s.Settings), len(s.Wish.Restart), len(s.Wish.Signals))
	}
	return string(text), err
}

// follow does what comes after the commit. What fails is told; programs that were not
// restarted are so by the next boot.
func (i *Installer) follow(ctx context.Context, done generation.Done, tell func(format string, args ...any)) {
	problem := func(err error) {
		if err != nil {
			tell("%v", err)
		}
	}
	var s sequel
	if done.Follow != "" {
		problem(json.Unmarshal([]byte(done.Follow), &s))
	}
	if len(s.Settings) > 0 {
		if err := (gateway.Files{Dir: i.path(gateway.Dir)}).Set(s.Settings...); err != nil {
			problem(err)
			return // it is tried again when the engine starts
		}
		problem(i.Host.KeepIdentity(ctx, ""))
	}
	problem(i.Host.SwitchGeneration(ctx))
	if done.Follow == "" {
		return
	}
	if done.Boot == bootID() && !done.Reboot { // a boot has started all programs
		problem(i.restart(ctx, s))
		for _, signal := range s.Wish.Signals {
			_, err := i.Host.Call(ctx, "supervisor.signalProcess", signal.Process, signal.Name)
			problem(err)
		}
	}
	tx, err := i.store().Begin()
	if err == nil {
		done.Follow = ""
		tx.Done(done)
		err = tx.Commit()
	}
	problem(err)
}

// own are Gateway Engine's programs, which no installer stops.
var own = []string{"gwe", "gmq"}

// restart restarts what installers have started or stopped, but for what they have
// just brought.
func (i *Installer) restart(ctx context.Context, s sequel) error {
	wish := s.Wish
	if len(wish.Restart) == 0 && !wish.All {
		return nil
	}
	answer, err := i.Host.Call(ctx, "supervisor.getAllProcessInfo")
	if err != nil {
		return err
	}
	list, _ := answer.([]any)
	var errs []error
	for _, item := range list {
		p, _ := item.(map[string]any)
		group, _ := p["group"].(string)
		name, _ := p["name"].(string)
		full := name
		if group != name {
			full = group + ":" + name
		}
		asked := slices.ContainsFunc(wish.Restart, func(w string) bool { return w == full || w == group+":*" || w == group })
		up := p["statename"] == "RUNNING" || p["statename"] == "STARTING" || p["statename"] == "BACKOFF"
		fresh := slices.Contains(s.Apps, group)
		if slices.Contains(own, group) || fresh || !asked && !(wish.All && up) {
			continue
		}
		if up {
			_, err := i.Host.Call(ctx, "supervisor.stopProcess", full, true)
			errs = append(errs, err)
		}
		_, err := i.Host.Call(ctx, "supervisor.startProcess", full, false)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bootID is one for each boot.
func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}
