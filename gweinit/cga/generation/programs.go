package generation

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/exosite/gwe/gweinit/cga/view"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// Programs are the apps of a generation that have some, for the configuration of the
// supervisor; accounts is the folder with the users of all. A library may be anybody's:
// its change is one of all programs.
func (s *Store) Programs(g Generation, accounts string) (apps []conf.App) {
	var libraries strings.Builder
	for _, a := range g.Apps {
		if a.Layer > 0 && !a.Program {
			fmt.Fprintf(&libraries, " %d", a.Layer)
		}
	}
	for _, a := range g.Apps {
		if !a.Program {
			continue
		}
		apps = append(apps, conf.App{
			Name: a.Name, Folder: s.Layer(a.Layer).Root(), Root: view.ProgramRoot(s.Root, a.Name), Accounts: accounts,
			Log:      func(path string) string { return view.LogFile(s.Root, path) },
			Revision: strconv.Itoa(a.Layer) + libraries.String(),
		})
	}
	return apps
}
