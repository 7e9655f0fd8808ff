// Package layer is about what the installed version of an app has left on the
// disk: a folder DIR whose root/ is one layer of an overlay over the root file
// system of the firmware, its base.
//
//	DIR/root/           what install.sh changed: the upper of its overlay
//	DIR/base/etc/       the accounts without its own when it ran, if it has any
//	DIR/about.json      which base that was, and what of it the layer hides
//	DIR/var/ log/ data/ uppers of what lasts on /data, until Merge has moved them there
package layer

// Folders of a layer.
const (
	Root = "root"
	Base = "base"
	Var  = "var"
	Log  = "log"
	Data = "data"

	aboutFile = "about.json"
)

// Names are all that a layer may have.
var Names = []string{Root, Base, Var, Log, Data, aboutFile}
