package update

import (
	"fmt"
	"slices"
	"strings"
)

// Program is a hosted program, as far as the health of a trial goes.
type Program struct {
	Name string
	// Up: it is RUNNING, or has EXITED as expected. Down: it is FATAL, and will
	// not come back by itself. Neither: nobody knows yet.
	Up, Down bool
}

// Health compares the programs with those that were RUNNING before the update.
// waiting are those that are not up, hopeless those among them that will not be.
//
// One that the new firmware does not configure any more is not missed, unless its
// configuration has a mistake, which incomplete says: that may have left it out.
func Health(before []string, now []Program, incomplete bool) (waiting, hopeless []string) {
	for _, name := range before {
		i := slices.IndexFunc(now, func(p Program) bool { return p.Name == name })
		switch {
		case i < 0 && incomplete:
			waiting = append(waiting, name)
			hopeless = append(hopeless, name)
		case i >= 0 && !now[i].Up:
			waiting = append(waiting, name)
			if now[i].Down {
				hopeless = append(hopeless, name)
			}
		}
	}
	return waiting, hopeless
}

// NotUp says which programs an update has broken.
func NotUp(names []string) string {
	const most = 10
	more := ""
	if len(names) > most {
		names, more = names[:most], fmt.Sprintf(" and %d more", len(names)-most)
	}
	return "programs that ran before the update do not run: " + strings.Join(names, ", ") + more
}
