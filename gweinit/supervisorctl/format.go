package supervisorctl

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/exosite/gwe/gweinit/control"
)

// statusLines has as many columns for names as the longest needs.
func statusLines(processes []process) []string {
	width := 30
	for _, p := range processes {
		width = max(width, utf8.RuneCountInString(p.String()))
	}
	var lines []string
	for _, p := range processes {
		lines = append(lines, fmt.Sprintf("%-*s%-10s%s", width+3, p.name, p.stateName, p.description))
	}
	return lines
}

func availableLine(p available) string {
	inUse, start := "avail", "manual"
	if p.inUse {
		inUse = "in use"
	}
	if p.autostart {
		start = "auto"
	}
	return fmt.Sprintf("%-32s %-9s %-9s %d:%d", p.name, inUse, start, p.groupPriority, p.priority)
}

// format returns a result as a line, or an error for one that has none.
type format func(result) (string, error)

// formatResult makes a format of what is said about a success, and about those
// faults that can be expected.
func formatResult(success string, faults map[int]string) format {
	return func(r result) (string, error) {
		if r.status == control.Success {
			return r.String() + ": " + success, nil
		}
		if why, ok := faults[r.status]; ok {
			return fmt.Sprintf("%s: ERROR (%s)", r, why), nil
		}
		return "", fmt.Errorf("%s: %s", r, r.description)
	}
}

func startFormat() format {
	return formatResult("started", map[int]string{
		control.BadName:             "no such process",
		control.NoFile:              "no such file",
		control.NotExecutable:       "file is not executable",
		control.AlreadyStarted:      "already started",
		control.SpawnError:          "spawn error",
		control.AbnormalTermination: "abnormal termination",
	})
}

func signalFormat(success string) format {
	usual := formatResult(success, map[int]string{
		control.BadName:    "no such process",
		control.BadSignal:  "bad signal name",
		control.NotRunning: "not running",
	})
	return func(r result) (string, error) {
		if r.status == control.Failed {
			return r.description, nil
		}
		return usual(r)
	}
}

func clearFormat() format {
	return formatResult("cleared", map[int]string{
		control.BadName: "no such process",
		control.Failed:  "failed",
	})
}

// columns returns names as a table that is at most width wide and has as few
// rows as possible, with the names below each other.
func columns(names []string, width int) string {
	rows := 1
	var widths []int
	for ; ; rows++ {
		widths = columnWidths(names, rows)
		total := -2
		for _, w := range widths {
			total += w + 2
		}
		if total <= width || rows >= len(names) {
			break
		}
	}
	var b strings.Builder
	for row := range min(rows, len(names)) {
		for column, w := range widths {
			i := row + rows*column
			if i >= len(names) {
				break
			}
			if column > 0 {
				b.WriteString("  ")
			}
			if len(widths) == 1 {
				w = 0
			}
			fmt.Fprintf(&b, "%-*s", w, names[i])
		}
		b.WriteString("\n")
	}
	return b.String()
}

func columnWidths(names []string, rows int) []int {
	var widths []int
	for i, name := range names {
		if i%rows == 0 {
			widths = append(widths, 0)
		}
		last := &widths[len(widths)-1]
		*last = max(*last, utf8.RuneCountInString(name))
	}
	return widths
}
