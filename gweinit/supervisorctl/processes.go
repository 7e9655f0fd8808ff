package supervisorctl

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/exosite/gwe/gweinit/control"
)

func (c *ctl) status(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		if err == errSaid {
			c.exit = exitStatusUnknown
		}
		return err
	}
	all, err := c.allProcesses(ctx)
	if err != nil {
		return err
	}
	shown := all
	if len(words) > 0 && !slices.Contains(words, "all") {
		shown = nil
		for _, word := range words {
			n := parseName(word)
			before := len(shown)
			for _, p := range all {
				if p.group == n.group && (n.process == "" || p.process == n.process) {
					shown = append(shown, p)
				}
			}
			if len(shown) > before {
				continue
			}
			if n.process == "" {
				c.print(n.group + ": ERROR (no such group)")
			} else {
				c.print(word + ": ERROR (no such process)")
			}
			c.exit = exitStatusUnknown
		}
	}
	for _, line := range statusLines(shown) {
		c.print(line)
	}
	if slices.ContainsFunc(shown, process.stopped) {
		c.exit = exitStatusNotRunning
	}
	return nil
}

func (c *ctl) pid(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	switch {
	case len(words) == 0:
		pid, err := c.text(ctx, "getPID")
		if err != nil {
			return err
		}
		c.print(pid)
		return nil
	case slices.Contains(words, "all"):
		all, err := c.allProcesses(ctx)
		for _, p := range all {
			c.print(strconv.Itoa(p.pid))
		}
		return err
	}
	for _, word := range words {
		info, err := c.call(ctx, "getProcessInfo", word)
		switch {
		case codeOf(err) == control.BadName:
			c.print("No such process " + word)
			c.exit = exitGeneric
			continue
		case err != nil:
			return err
		}
		fields, ok := info.(map[string]any)
		if !ok {
			return odd(info)
		}
		p := asProcess(fields)
		c.print(strconv.Itoa(p.pid))
		if p.pid == 0 {
			c.exit = exitNotRunning
		}
	}
	return nil
}

func (c *ctl) start(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	if len(words) == 0 {
		return c.misused(exitInvalid, "Error: start requires a process name", "start")
	}
	return c.each(ctx, words, deed{
		all: "startAllProcesses", group: "startProcessGroup", one: "startProcess",
		format: startFormat(), fine: control.AlreadyStarted, noGroup: exitInvalid,
	})
}

func (c *ctl) stop(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	if len(words) == 0 {
		return c.misused(exitGeneric, "Error: stop requires a process name", "stop")
	}
	return c.each(ctx, words, deed{
		all: "stopAllProcesses", group: "stopProcessGroup", one: "stopProcess",
		format: signalFormat("stopped"), fine: control.NotRunning, noGroup: exitGeneric,
	})
}

// restart stops all before it starts the first, and starts also what was stopped
// before.
func (c *ctl) restart(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	if len(words) == 0 {
		return c.misused(exitGeneric, "Error: restart requires a process name", "restart")
	}
	if err := c.stop(ctx, words); err != nil {
		return err
	}
	return c.start(ctx, words)
}

func (c *ctl) signal(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	if len(words) < 2 {
		return c.misused(exitGeneric, "Error: signal requires a signal name and a process name", "signal")
	}
	return c.each(ctx, words[1:], deed{
		all: "signalAllProcesses", group: "signalProcessGroup", one: "signalProcess",
		args: []any{words[0]}, format: signalFormat("signalled"), noGroup: exitGeneric,
	})
}

func (c *ctl) clear(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	if len(words) == 0 {
		return c.misused(exitGeneric, "Error: clear requires a process name", "clear")
	}
	return c.each(ctx, words, deed{all: "clearAllProcessLogs", one: "clearProcessLogs", format: clearFormat()})
}

// deed is something to do to processes.
type deed struct {
	all, group, one string // methods; without one for a group it is as a process
	args            []any  // behind the name, if there is one
	format          format
	fine            int // a fault that means that there was nothing to do
	noGroup         int // exit status if a group is not known
}

// each does the deed to all that the words name. It goes on after a fault that
// can be expected.
func (c *ctl) each(ctx context.Context, words []string, d deed) error {
	if slices.Contains(words, "all") {
		results, err := list(ctx, c, asResult, d.all, d.args...)
		if err != nil {
			return err
		}
		return c.results(results, d)
	}
	for _, word := range words {
		n := parseName(word)
		do := c.one
		if n.process == "" && d.group != "" {
			do = c.group
		}
		if err := do(ctx, n, word, d); err != nil {
			return err
		}
	}
	return nil
}

func (c *ctl) group(ctx context.Context, n name, _ string, d deed) error {
	results, err := list(ctx, c, asResult, d.group, append([]any{n.group}, d.args...)...)
	if codeOf(err) == control.BadName {
		c.print(n.group + ": ERROR (no such group)")
		c.exit = d.noGroup
		return nil
	}
	if err != nil {
		return err
	}
	return c.results(results, d)
}

func (c *ctl) one(ctx context.Context, n name, word string, d deed) error {
	r := result{name: n, status: control.Success}
	_, err := c.call(ctx, d.one, append([]any{word}, d.args...)...)
	var fault control.Fault
	if errors.As(err, &fault) {
		r.status, r.description = fault.Code, fault.Text
	} else if err != nil {
		return err
	}
	return c.results([]result{r}, d)
}

// results prints what became of processes.
func (c *ctl) results(results []result, d deed) error {
	for _, r := range results {
		line, err := d.format(r)
		if err != nil {
			return err
		}
		c.print(line)
		switch r.status {
		case control.Success, d.fine:
		case control.SpawnError, control.AbnormalTermination, control.NotRunning:
			c.exit = exitNotRunning
		default:
			c.exit = exitGeneric
		}
	}
	return nil
}
