package supervisorctl

import (
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/durable"
)

const (
	maxHistory     = 500 // lines
	maxHistoryFile = 1 << 20
)

// history is the commands that were typed, the newest last.
type history struct {
	entries []string
	adds    bool // else the line is an answer
	changed bool
}

// Add, Len and At are for the editor.
func (h *history) Add(line string) {
	n := len(h.entries)
	if !h.adds || strings.TrimSpace(line) == "" || n > 0 && h.entries[n-1] == line {
		return
	}
	h.entries = append(h.entries, line)
	h.changed = true
	h.bound()
}

func (h *history) Len() int { return len(h.entries) }

func (h *history) At(i int) string { return h.entries[len(h.entries)-1-i] }

func (h *history) bound() {
	h.entries = slices.Delete(h.entries, 0, max(0, len(h.entries)-maxHistory))
}

// load reads a file of lines, as readline writes it too.
func (h *history) load(file string) error {
	data, err := durable.ReadFile(file, maxHistoryFile)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			h.entries = append(h.entries, line)
		}
	}
	h.bound()
	return nil
}

func (h *history) save(file string) error {
	return durable.WriteFile(file, []byte(strings.Join(h.entries, "\n")+"\n"), 0o600)
}
