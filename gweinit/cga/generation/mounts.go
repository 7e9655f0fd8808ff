package generation

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/exosite/gwe/gweinit/mountinfo"
)

// usage is what of data/apps is in use: layers and, in rw, what apps have written,
// both by number.
type usage struct {
	layers, uppers map[int]bool
}

// used returns what mounted overlays use.
func (s *Store) used() (usage, error) {
	read := s.mounts
	if read == nil {
		read = mounts
	}
	text, err := read()
	if err != nil {
		return usage{}, err
	}
	return mounted(text, s.path(appsFolder)), nil
}

// mounts are those that this process sees, and PID 1, which mounts the apps.
func mounts() (string, error) {
	own, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	first, err := os.ReadFile("/proc/1/mountinfo")
	if errors.Is(err, fs.ErrPermission) { // on a workstation
		err = nil
	}
	return string(own) + string(first), err
}

// mounted returns what the overlays in a mountinfo use below a folder. A path
// in there is as it was given to mount(2): one that is not absolute, to keep the
// options short, is taken for one below the folder.
func mounted(text, folder string) usage {
	u := usage{map[int]bool{}, map[int]bool{}}
	for _, m := range mountinfo.Parse(text) {
		if m.Type != "overlay" {
			continue
		}
		for _, option := range m.Options {
			key, value, _ := strings.Cut(option, "=")
			switch strings.TrimSuffix(key, "+") { // "lowerdir+=" has one of several
			case "lowerdir", "upperdir", "workdir":
				for _, path := range paths(value) {
					u.add(path, folder)
				}
			}
		}
	}
	return u
}

func (u usage) add(path, folder string) {
	if filepath.IsAbs(path) {
		rel, ok := strings.CutPrefix(filepath.Clean(path), filepath.Clean(folder)+"/")
		if !ok {
			return
		}
		path = rel
	}
	first, rest, _ := strings.Cut(filepath.Clean(path), "/")
	numbers := u.layers
	if first == filepath.Base(rwFolder) {
		numbers = u.uppers
		first, _, _ = strings.Cut(rest, "/")
	}
	if n, ok := parseNumber(first); ok {
		numbers[n] = true
	}
}

// paths splits lowerdir, where a backslash is before a colon that separates nothing.
func paths(value string) (all []string) {
	var path strings.Builder
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && i+1 < len(value):
			i++
			path.WriteByte(value[i])
		case c == ':':
			all = append(all, path.String())
			path.Reset()
		default:
			path.WriteByte(c)
		}
	}
	return append(all, path.String())
}
