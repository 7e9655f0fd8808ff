// Package rootfs merges overlays and Debian packages into one file tree, and
// writes that tree as the root's squashfs or as an initramfs. The same tree
// always gives the same bytes.
package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Tree is a file tree in memory: what the root will hold, by clean slash path
// without leading slash. The root itself has no entry; it is 0755 root:root.
type Tree struct {
	entries map[string]*Entry
}

// Entry is one file, folder, symlink or character device of a Tree.
type Entry struct {
	Path         string      // real path: no symlinks in its parents
	Mode         fs.FileMode // type and permissions
	UID, GID     int
	Data         []byte // of a file
	Target       string // of a symlink
	Major, Minor uint32 // of a device
	From         string // where it came from, for messages
}

// NewTree returns an empty tree.
func NewTree() *Tree {
	return &Tree{entries: map[string]*Entry{}}
}

// Dir adds a folder, or changes the mode of the one that is there.
func (t *Tree) Dir(path string, mode fs.FileMode) error {
	return t.add(Entry{Path: path, Mode: fs.ModeDir | mode, From: "the builder"})
}

// File adds a file, in place of a file or symlink already there. The tree
// keeps data, uncopied; from says where it came from, for messages.
func (t *Tree) File(path string, mode fs.FileMode, data []byte, from string) error {
	return t.add(Entry{Path: path, Mode: mode, Data: data, From: from})
}

// Link adds a symlink, in place of a file or symlink already there. It may
// dangle, but a relative target may not climb above the root.
func (t *Tree) Link(path, target, from string) error {
	return t.add(Entry{Path: path, Mode: fs.ModeSymlink | 0o777, Target: target, From: from})
}

// Device adds a character device. The initramfs needs /dev/console before any
// devtmpfs is mounted, or init starts without standard output.
func (t *Tree) Device(path string, major, minor uint32, mode fs.FileMode) error {
	return t.add(Entry{Path: path, Mode: fs.ModeDevice | fs.ModeCharDevice | mode, Major: major, Minor: minor, From: "the builder"})
}

// Open returns the entry at name, every symlink on the way followed. The
// error is fs.ErrNotExist when there is none.
func (t *Tree) Open(name string) (Entry, error) {
	p, err := clean(name)
	if err == nil {
		p, err = t.resolve(p)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("open %s in the tree: %w", name, err)
	}
	e, ok := t.entries[p]
	if !ok {
		return Entry{}, fmt.Errorf("open %s in the tree: %w", name, fs.ErrNotExist)
	}
	return *e, nil
}

// List returns all entries, parents before what they hold.
func (t *Tree) List() []Entry {
	list := make([]Entry, 0, len(t.entries))
	for _, p := range slices.Sorted(maps.Keys(t.entries)) {
		list = append(list, *t.entries[p])
	}
	return list
}

// Hash returns the hex SHA-256 of everything that reaches the image (not of
// the origins): the key under which a build may be cached.
func (t *Tree) Hash() string {
	h := sha256.New()
	for _, e := range t.List() {
		fmt.Fprintf(h, "%q %o %d:%d %d,%d %q %d\n", e.Path, uint32(e.Mode), e.UID, e.GID, e.Major, e.Minor, e.Target, len(e.Data))
		h.Write(e.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// add puts e into the tree, with its parents.
func (t *Tree) add(e Entry) error {
	if err := t.place(&e); err != nil {
		return fmt.Errorf("add %s from %s: %w", e.Path, e.From, err)
	}
	return nil
}

func (t *Tree) place(e *Entry) error {
	if e.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return fmt.Errorf("mode %v: set-uid and set-gid are not allowed in the root", e.Mode)
	}
	name, err := clean(e.Path)
	if err != nil {
		return err
	}
	// A folder may be named through a symlink to it (a package's bin/, where
	// bin -> usr/bin); anything else replaces the symlink of its name.
	real := ""
	if e.Mode.IsDir() {
		real, err = t.resolve(name)
	} else {
		real, err = t.resolve(path.Dir(name) + "/.") // the dot insists on a folder
		real = path.Join(real, path.Base(name))
	}
	if err != nil {
		return err
	}
	if real == "" {
		return errors.New("it leads to the root itself")
	}
	if e.Mode.Type() == fs.ModeSymlink {
		if err := checkTarget(real, e.Target); err != nil {
			return err
		}
	}
	if old, ok := t.entries[real]; ok && old.Mode.IsDir() != e.Mode.IsDir() {
		return fmt.Errorf("a %s cannot replace the %s from %s: remove one of the two", kind(e.Mode), kind(old.Mode), old.From)
	}
	for dir := path.Dir(real); dir != "."; dir = path.Dir(dir) {
		if t.entries[dir] == nil {
			t.entries[dir] = &Entry{Path: dir, Mode: fs.ModeDir | 0o755, From: e.From}
		}
	}
	e.Path = real
	t.entries[real] = e
	return nil
}

// resolve follows every symlink in name, as the kernel would with the tree as
// its root. What doesn't exist (yet) is taken as it is named.
func (t *Tree) resolve(name string) (string, error) {
	at := ""
	links := 0
	rest := strings.Split(name, "/")
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = strings.TrimPrefix(path.Dir("/"+at), "/")
			continue
		}
		next := path.Join(at, part)
		e, ok := t.entries[next]
		switch {
		case ok && e.Mode.Type() == fs.ModeSymlink:
			if links++; links > 40 { // the kernel's own limit
				return "", fmt.Errorf("too many symlinks, is there a loop? the last is %s -> %s from %s", next, e.Target, e.From)
			}
			if path.IsAbs(e.Target) {
				at = ""
			}
			rest = append(strings.Split(e.Target, "/"), rest...)
		case ok && !e.Mode.IsDir() && len(rest) > 0:
			return "", fmt.Errorf("%s is a %s, from %s, so nothing can be below it", next, kind(e.Mode), e.From)
		default:
			at = next
		}
	}
	return at, nil
}

// clean returns name as the tree's keys are written.
func clean(name string) (string, error) {
	if strings.ContainsAny(name, "\x00\n") {
		return "", fmt.Errorf("path %q: NUL and newline are not allowed", name)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("path %q: .. is not allowed", name)
	}
	p := path.Clean("/" + name)[1:]
	if p == "" {
		return "", fmt.Errorf("path %q is the root itself", name)
	}
	return p, nil
}

// checkTarget refuses symlinks at name that could lead out of a folder the
// image is unpacked into.
func checkTarget(name, target string) error {
	if target == "" || strings.ContainsAny(target, "\x00\n") {
		return fmt.Errorf("symlink target %q: empty, NUL and newline are not allowed", target)
	}
	if path.IsAbs(target) {
		return nil
	}
	to := path.Join(path.Dir(name), target)
	if to == ".." || strings.HasPrefix(to, "../") {
		return fmt.Errorf("symlink target %s leaves the root: take out a ../", target)
	}
	return nil
}

// kind names an entry's type in messages.
func kind(m fs.FileMode) string {
	switch m.Type() {
	case 0:
		return "file"
	case fs.ModeDir:
		return "folder"
	case fs.ModeSymlink:
		return "symlink"
	}
	return "device"
}
