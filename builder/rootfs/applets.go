package rootfs

import (
	"bytes"
	"fmt"
	"path"
)

// AddApplets adds a symlink beside the busybox at the tree's path busybox for
// each of its applets, except where the tree already has something: call it
// last. One folder is enough, since in overlays/base /bin, /sbin and /usr/sbin
// all lead to /usr/bin.
func AddApplets(t *Tree, busybox string) error {
	e, err := t.Open(busybox)
	if err != nil {
		return fmt.Errorf("link applets: %w", err)
	}
	names, err := applets(e.Data)
	if err != nil {
		return fmt.Errorf("link applets of %s from %s: %w", e.Path, e.From, err)
	}
	dir, base := path.Split(e.Path)
	for _, name := range names {
		if name == "init" || name == "linuxrc" { // PID 1 is ours
			continue
		}
		if _, ok := t.entries[dir+name]; ok {
			continue
		}
		if err := t.Link(dir+name, base, "applets of "+e.From); err != nil {
			return err
		}
	}
	return nil
}

// applets reads the names out of a busybox binary, which cannot be asked on
// the build host: it is for another CPU. The binary holds them sorted, each
// ended by a NUL, from "[" and "[[" on; the first that is no larger name ends
// the list.
func applets(elf []byte) ([]string, error) {
	start := []byte("[\x00[[\x00")
	most := 0
	for at := 0; ; at++ {
		i := bytes.Index(elf[at:], start)
		if i < 0 {
			break
		}
		at += i
		names := []string{"[", "[["}
		rest := elf[at+len(start):]
		for {
			word, after, ok := bytes.Cut(rest, []byte{0})
			if !ok || !isApplet(word) || string(word) <= names[len(names)-1] {
				break
			}
			names, rest = append(names, string(word)), after
		}
		// A whole busybox has hundreds; fewer is some other text.
		if len(names) >= 100 {
			return names, nil
		}
		most = max(most, len(names))
	}
	return nil, fmt.Errorf("no list of applets (the longest candidate has %d names, 100 are expected): is it a busybox?", most)
}

// isApplet tells whether word can be the name of an applet.
func isApplet(word []byte) bool {
	for _, c := range word {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '+' && c != '-' {
			return false
		}
	}
	return len(word) > 0
}
