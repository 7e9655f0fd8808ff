package supervisorctl

import (
	"context"
	"fmt"
)

// What the server answers, with types. What is missing in a structure is empty.

// process is an item of getAllProcessInfo.
type process struct {
	name
	state                  int
	stateName, description string
	pid                    int
}

func asProcess(fields map[string]any) process {
	var p process
	p.group, _ = fields["group"].(string)
	p.process, _ = fields["name"].(string)
	p.state, _ = fields["state"].(int)
	p.stateName, _ = fields["statename"].(string)
	p.description, _ = fields["description"].(string)
	p.pid, _ = fields["pid"].(int)
	return p
}

// stopped are states in which a process does not run and will not by itself.
func (p process) stopped() bool {
	switch p.state {
	case 0, 100, 200, 1000: // STOPPED, EXITED, FATAL, UNKNOWN
		return true
	}
	return false
}

func (c *ctl) allProcesses(ctx context.Context) ([]process, error) {
	return list(ctx, c, asProcess, "getAllProcessInfo")
}

// result is what became of a process: a fault's code and text, or Success.
type result struct {
	name
	status      int
	description string
}

func asResult(fields map[string]any) result {
	var r result
	r.group, _ = fields["group"].(string)
	r.process, _ = fields["name"].(string)
	r.status, _ = fields["status"].(int)
	r.description, _ = fields["description"].(string)
	return r
}

// available is an item of getAllConfigInfo.
type available struct {
	name
	inUse, autostart        bool
	groupPriority, priority int
}

func asAvailable(fields map[string]any) available {
	var p available
	p.group, _ = fields["group"].(string)
	p.process, _ = fields["name"].(string)
	p.inUse, _ = fields["inuse"].(bool)
	p.autostart, _ = fields["autostart"].(bool)
	p.groupPriority, _ = fields["group_prio"].(int)
	p.priority, _ = fields["process_prio"].(int)
	return p
}

// list calls a method whose answer is a list of structures.
func list[T any](ctx context.Context, c *ctl, as func(map[string]any) T, method string, args ...any) ([]T, error) {
	answer, err := c.call(ctx, method, args...)
	if err != nil {
		return nil, err
	}
	values, ok := answer.([]any)
	if !ok {
		return nil, odd(answer)
	}
	var items []T
	for _, v := range values {
		fields, ok := v.(map[string]any)
		if !ok {
			return nil, odd(answer)
		}
		items = append(items, as(fields))
	}
	return items, nil
}

// changes are what reloadConfig found: names of groups.
type changes struct{ added, changed, removed []string }

func (c *ctl) reloadConfig(ctx context.Context) (changes, error) {
	var found changes
	answer, err := c.call(ctx, "reloadConfig")
	if err != nil {
		return found, err
	}
	outer, _ := answer.([]any)
	if len(outer) != 1 {
		return found, odd(answer)
	}
	lists, _ := outer[0].([]any)
	if len(lists) != 3 {
		return found, odd(answer)
	}
	for i, to := range []*[]string{&found.added, &found.changed, &found.removed} {
		list, ok := lists[i].([]any)
		if !ok {
			return found, odd(answer)
		}
		for _, v := range list {
			name, ok := v.(string)
			if !ok {
				return found, odd(answer)
			}
			*to = append(*to, name)
		}
	}
	return found, nil
}

// text calls a method whose answer is printed as it is.
func (c *ctl) text(ctx context.Context, method string, args ...any) (string, error) {
	answer, err := c.call(ctx, method, args...)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer), nil
}

func odd(answer any) error { return fmt.Errorf("the server's answer is odd: %v", answer) }
