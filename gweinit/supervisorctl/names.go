package supervisorctl

import (
	"context"
	"slices"
	"strings"
	"time"
)

// name is of a process in its group, or of all in it: "" is the process then.
type name struct{ group, process string }

// parseName takes NAME, GROUP:NAME, GROUP:* and GROUP:.
func parseName(text string) name {
	group, process, ok := strings.Cut(text, ":")
	switch {
	case !ok:
		return name{text, text}
	case process == "*":
		return name{group, ""}
	}
	return name{group, process}
}

// String returns the short name of a process that is alone in its group.
func (n name) String() string {
	switch n.process {
	case n.group:
		return n.group
	case "":
		return n.group + ":*"
	}
	return n.group + ":" + n.process
}

// completionTime is what somebody who types waits for the server.
const completionTime = 2 * time.Second

// completer completes words. It asks the server once between two commands.
type completer struct {
	*ctl
	asked     bool
	processes []process
}

// complete returns the last word of a line and what it may become.
func (k *completer) complete(line string) (word string, found []string) {
	words := strings.Fields(line)
	if len(words) > 0 && !strings.HasSuffix(line, " ") {
		word = words[len(words)-1]
		words = words[:len(words)-1]
	}
	about := aboutCommands
	if len(words) > 0 {
		command, _ := k.find(words[0])
		about = command.about
	}
	switch about {
	case aboutCommands:
		for _, command := range k.commands {
			if command.about != hidden {
				found = append(found, command.name)
			}
		}
	case aboutGroups:
		for _, p := range k.ask() {
			found = append(found, p.group)
		}
	case aboutProcesses:
		for _, p := range k.ask() {
			if p.process == p.group && !strings.Contains(word, ":") {
				found = append(found, p.process)
			} else {
				found = append(found, p.group+":"+p.process, p.group+":*")
			}
		}
	}
	found = slices.DeleteFunc(found, func(name string) bool { return !strings.HasPrefix(name, word) })
	slices.Sort(found)
	return word, slices.Compact(found)
}

func (k *completer) ask() []process {
	if !k.asked {
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		k.processes, _ = k.allProcesses(ctx) // no completion then
		k.asked = true
	}
	return k.processes
}

// forget is for after a command.
func (k *completer) forget() { k.asked, k.processes = false, nil }

// commonPrefix returns how all names begin. It does not end within a letter.
func commonPrefix(names []string) string {
	if len(names) == 0 {
		return ""
	}
	prefix := names[0]
	for _, name := range names[1:] {
		end := 0
		for i, r := range prefix {
			if !strings.HasPrefix(name[i:], string(r)) {
				break
			}
			end = i + len(string(r))
		}
		prefix = prefix[:end]
	}
	return prefix
}
