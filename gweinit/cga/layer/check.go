package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Check refuses what an installer must not do to the base, a folder. The error
// names the path. What it does to files of other apps is its own affair, as it was
// in Gateway Engine: the last one wins.
func Check(dir, base string) error {
	top := filepath.Join(dir, Root)
	return walk(top, base, func(e entry) error {
		why, err := refusal(top, base, e)
		if err == nil && why != "" {
			err = fmt.Errorf("/%s: %s", e.path, why)
		}
		return err
	})
}

// confFolder has the programs of the supervisor.
const confFolder = "etc/supervisor/conf.d"

// accountFiles are merged by Accounts. They have to be files.
var accountFiles = []string{"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"}

// refusal says why an entry is refused; "": it is not.
func refusal(top, base string, e entry) (string, error) {
	free := strings.HasPrefix(e.path, "etc/") || strings.HasPrefix(e.path, "var/")
	switch {
	case filepath.Dir(e.path) == confFolder && e.base != nil:
		return "it configures a program of the firmware, and was changed or removed", nil
	case slices.Contains(accountFiles, e.path) && !e.info.Mode().IsRegular():
		return "it has to stay a file", nil
	case isWhiteout(e.info):
		if e.base != nil && !free {
			return "it is a part of the firmware, and was removed", nil
		}
		return "", nil
	case e.info.Mode()&os.ModeDevice != 0:
		return "it is a device node", nil
	case e.info.Mode().IsRegular() && e.info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 && !samePrivilege(e):
		return "it is set-uid or set-gid", nil
	case e.base == nil:
		return "", nil
	}
	same, err := sameLink(top, base, e)
	if err != nil || same {
		return "", err
	}
	engine, err := isEngine(base, e)
	if err != nil || engine {
		return "it is Gateway Engine itself, and was replaced", err
	}
	if e.depth > 2 || free {
		return "", nil
	}
	return coarse(top, base, e)
}

// coarse is about the folders /NAME and /NAME/NAME, which are too much to lose.
// Deeper ones are replaced as the libraries in them are.
func coarse(top, base string, e entry) (string, error) {
	if e.info.Mode().Type() != e.base.Mode().Type() || e.base.Mode()&os.ModeSymlink != 0 {
		if e.depth == 1 || e.base.IsDir() || e.base.Mode()&os.ModeSymlink != 0 {
			return "it is a part of the firmware, and was replaced by " + kind(e.info), nil
		}
		return "", nil
	}
	if !e.info.IsDir() {
		return "", nil
	}
	opaque, err := isOpaque(filepath.Join(top, e.path))
	if err != nil || !opaque {
		return "", err
	}
	names, err := namesIn(filepath.Join(base, e.path))
	if err != nil || len(names) == 0 {
		return "", err
	}
	return "it is a folder of the firmware, and was removed and made anew", nil
}

// samePrivilege says whether the base gives the same to who runs it.
func samePrivilege(e entry) bool {
	if e.base == nil || !e.base.Mode().IsRegular() {
		return false
	}
	const bits = os.ModeSetuid | os.ModeSetgid
	owner := func(info os.FileInfo) [2]uint32 {
		st := info.Sys().(*syscall.Stat_t)
		return [2]uint32{st.Uid, st.Gid}
	}
	return e.info.Mode()&bits&^e.base.Mode() == 0 && owner(e.info) == owner(e.base)
}

// sameLink says whether it is a link as in the base: one whose owner was set.
func sameLink(top, base string, e entry) (bool, error) {
	if e.info.Mode()&e.base.Mode()&os.ModeSymlink == 0 {
		return false, nil
	}
	here, err := os.Readlink(filepath.Join(top, e.path))
	if err != nil {
		return false, err
	}
	there, err := os.Readlink(filepath.Join(base, e.path))
	return here == there, err
}

// isEngine says whether the base has gweinit there, or a link to it: gwe, init,
// supervisorctl and so on.
func isEngine(base string, e entry) (bool, error) {
	if e.path == "usr/bin/gweinit" {
		return true, nil
	}
	if e.base.Mode()&os.ModeSymlink == 0 {
		return false, nil
	}
	target, err := os.Readlink(filepath.Join(base, e.path))
	return filepath.Base(target) == "gweinit", err
}

// kind names what an entry is.
func kind(info os.FileInfo) string {
	switch {
	case info.IsDir():
		return "a folder"
	case info.Mode()&os.ModeSymlink != 0:
		return "a link"
	case info.Mode().IsRegular():
		return "a file"
	}
	return "something else"
}
