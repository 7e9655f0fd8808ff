package supervisorctl

import (
	"context"
	"slices"

	"github.com/exosite/gwe/gweinit/control"
)

func (c *ctl) avail(ctx context.Context, words []string) error {
	if err := c.noWords("avail", words); err != nil {
		return err
	}
	all, err := list(ctx, c, asAvailable, "getAllConfigInfo")
	if codeOf(err) == control.ShutdownState {
		return c.fail(exitGeneric, "ERROR: supervisor shutting down")
	}
	for _, p := range all {
		c.print(availableLine(p))
	}
	return err
}

func (c *ctl) reread(ctx context.Context, words []string) error {
	if err := c.noWords("reread", words); err != nil {
		return err
	}
	found, err := c.reloadConfig(ctx)
	switch codeOf(err) {
	case control.ShutdownState:
		return c.fail(exitGeneric, "ERROR: supervisor shutting down")
	case control.CantReread:
		return c.fail(exitGeneric, "ERROR: "+c.explain(err))
	}
	if err != nil {
		return err
	}
	what := map[string]string{}
	for _, name := range found.added {
		what[name] = "available"
	}
	for _, name := range found.changed {
		what[name] = "changed"
	}
	for _, name := range found.removed {
		what[name] = "disappeared"
	}
	names := slices.Concat(found.added, found.changed, found.removed)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		c.print(name + ": " + what[name])
	}
	if len(names) == 0 {
		c.print("No config updates to processes")
	}
	return nil
}

func (c *ctl) add(ctx context.Context, words []string) error {
	for _, name := range words {
		_, err := c.call(ctx, "addProcessGroup", name)
		switch code := codeOf(err); {
		case err == nil:
			c.print(name + ": added process group")
		case code == control.ShutdownState:
			c.print("ERROR: shutting down")
			c.exit = exitGeneric
		case code == control.AlreadyAdded: // as it should be
			c.print("ERROR: process group already active")
		case code == control.BadName:
			c.print("ERROR: no such process/group: " + name)
			c.exit = exitGeneric
		default:
			return err
		}
	}
	return nil
}

func (c *ctl) remove(ctx context.Context, words []string) error {
	for _, name := range words {
		_, err := c.call(ctx, "removeProcessGroup", name)
		switch code := codeOf(err); {
		case err == nil:
			c.print(name + ": removed process group")
		case code == control.StillRunning:
			c.print("ERROR: process/group still running: " + name)
			c.exit = exitGeneric
		case code == control.BadName:
			c.print("ERROR: no such process/group: " + name)
			c.exit = exitGeneric
		default:
			return err
		}
	}
	return nil
}

// update makes what runs what is configured: groups that are gone, then those
// that changed, then new ones.
func (c *ctl) update(ctx context.Context, words []string) error {
	found, err := c.reloadConfig(ctx)
	if codeOf(err) == control.ShutdownState {
		return c.fail(exitGeneric, "ERROR: already shutting down")
	}
	if err != nil {
		return err
	}
	if slices.Contains(words, "all") {
		words = nil
	}
	if err := c.checkGroups(ctx, words, found.added); err != nil {
		return err
	}
	wanted := func(group string) bool { return len(words) == 0 || slices.Contains(words, group) }
	for _, group := range found.removed {
		if wanted(group) {
			err = c.removeGroup(ctx, group)
		}
		if err != nil {
			return err
		}
	}
	for _, group := range found.changed {
		if wanted(group) {
			err = c.replaceGroup(ctx, group)
		}
		if err != nil {
			return err
		}
	}
	for _, group := range found.added {
		if !wanted(group) {
			continue
		}
		if _, err := c.call(ctx, "addProcessGroup", group); err != nil {
			return err
		}
		c.print(group + ": added process group")
	}
	return nil
}

// checkGroups says which groups are neither there nor new.
func (c *ctl) checkGroups(ctx context.Context, groups, added []string) error {
	if len(groups) == 0 {
		return nil
	}
	all, err := c.allProcesses(ctx)
	if err != nil {
		return err
	}
	for i, group := range groups {
		there := slices.ContainsFunc(all, func(p process) bool { return p.group == group })
		if !there && !slices.Contains(added, group) && !slices.Contains(groups[:i], group) {
			c.print("ERROR: no such group: " + group)
			c.exit = exitGeneric
		}
	}
	return nil
}

func (c *ctl) removeGroup(ctx context.Context, group string) error {
	results, err := c.stopGroup(ctx, group)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(results, func(r result) bool { return r.status == control.Failed }) {
		c.print(group + ": has problems; not removing")
		c.exit = exitGeneric
		return nil
	}
	if _, err := c.call(ctx, "removeProcessGroup", group); err != nil {
		return err
	}
	c.print(group + ": removed process group")
	return nil
}

func (c *ctl) replaceGroup(ctx context.Context, group string) error {
	if _, err := c.stopGroup(ctx, group); err != nil {
		return err
	}
	if _, err := c.call(ctx, "removeProcessGroup", group); err != nil {
		return err
	}
	if _, err := c.call(ctx, "addProcessGroup", group); err != nil {
		return err
	}
	c.print(group + ": updated process group")
	return nil
}

func (c *ctl) stopGroup(ctx context.Context, group string) ([]result, error) {
	results, err := list(ctx, c, asResult, "stopProcessGroup", group)
	if err == nil {
		c.print(group + ": stopped")
	}
	return results, err
}
