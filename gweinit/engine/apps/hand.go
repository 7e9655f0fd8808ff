package apps

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"

	"github.com/exosite/gwe/gweinit/cga"
	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/engine/command"
)

// InstallFiles installs tarballs for somebody who looks on at out, all or none. If an
// installer wants a reboot, that is the last step.
func (i *Installer) InstallFiles(ctx context.Context, files []string, out io.Writer) error {
	t := task{id: handID(), show: out}
	for _, file := range files {
		name, err := cga.ParseName(filepath.Base(file))
		if err != nil {
			return err
		}
		t.changes = append(t.changes, change{do: command.Install, app: name.App, name: name, file: file})
	}
	return i.byHand(ctx, t, "installed", out)
}

// Uninstall removes apps, all or none.
func (i *Installer) Uninstall(ctx context.Context, names []string, out io.Writer) error {
	return i.byHand(ctx, task{id: handID(), show: out, changes: about(command.Uninstall, names)}, "uninstalled", out)
}

// Rollback changes apps for the version before, all or none.
func (i *Installer) Rollback(ctx context.Context, names []string, out io.Writer) error {
	return i.byHand(ctx, task{id: handID(), show: out, changes: about(command.Rollback, names)}, "rolled back", out)
}

// handID is the ID of a task that nobody else has ordered.
func handID() string {
	id := make([]byte, 8)
	rand.Read(id)
	return fmt.Sprintf("hand-%x", id)
}

func about(do string, names []string) (changes []change) {
	for _, name := range names {
		changes = append(changes, change{do: do, app: name})
	}
	return changes
}

func (i *Installer) byHand(ctx context.Context, t task, done string, out io.Writer) error {
	seen := map[string]bool{}
	for _, c := range t.changes {
		if seen[c.app] {
			return fmt.Errorf("%s is there twice", c.app)
		}
		seen[c.app] = true
	}
	result, err := i.do(ctx, t)
	if err != nil {
		return err
	}
	current, _ := i.store().Current()
	for _, c := range t.changes {
		version := ""
		if app, ok := current.App(c.app); ok {
			version = " " + app.Version
		}
		fmt.Fprintf(out, "%s: %s%s\n", done, c.app, version)
	}
	if result.reboot {
		fmt.Fprintln(out, "the gateway reboots, as an installer has asked for")
		return i.Host.Reboot(context.WithoutCancel(ctx))
	}
	return nil
}

// Listed is an installed app.
type Listed struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Kind     string `json:"kind"`               // program, library or one-off
	Previous string `json:"previous,omitempty"` // version that a rollback brings back
}

// Kind of an app.
func kind(a generation.App) string {
	switch {
	case a.Program:
		return "program"
	case a.Layer > 0:
		return "library"
	}
	return "one-off"
}

// List returns what is installed. With an error it is what is known nevertheless.
func (i *Installer) List() (list []Listed, err error) {
	if err := i.checkPlace(); err != nil {
		return nil, err
	}
	current, err := i.store().Current()
	for _, a := range current.Apps {
		l := Listed{Name: a.Name, Version: a.Version, Kind: kind(a)}
		for _, p := range current.Previous {
			if p.Name == a.Name {
				l.Previous = p.Version
			}
		}
		list = append(list, l)
	}
	return list, err
}

// Print prints a list.
func Print(list []Listed, asJSON bool, out io.Writer) {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if list == nil {
			list = []Listed{}
		}
		e.Encode(list)
		return
	}
	if len(list) == 0 {
		fmt.Fprintln(out, "no apps are installed")
		return
	}
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "app\tversion\tkind\tbefore\t")
	for _, l := range list {
		before := l.Previous
		if before == "" {
			before = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", l.Name, l.Version, l.Kind, before)
	}
	t.Flush()
}
