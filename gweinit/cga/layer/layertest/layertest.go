// Package layertest has a layer.Disk whose power goes, for tests of everything on
// /data that has to survive that. The device does not contain it.
//
// It is a model of a file system in memory, and real files in a folder that follow
// it, for the code that reads them. In the model
//
//   - what a file contains, and its attributes, last after a WriteFile (which syncs
//     the file) or a Sync;
//   - what a folder contains, its attributes, and those of what is in it, last
//     after a SyncFolder or Sync;
//   - a rename is one thing, also between two folders: as soon as one of them is
//     synced, both are. Other changes are lost or kept folder by folder, in any
//     order. (ext4 does better: its journal has an order.)
package layertest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/layer"
)

// Keep is what a power cut leaves of that which was not synced.
type Keep int

const (
	All        Keep = iota // everything
	Names                  // names and attributes, but not what is in files
	Attributes             // modes, owners and extended attributes only
	None                   // nothing
)

// Keeps are all of them.
var Keeps = []Keep{All, Names, Attributes, None}

func (k Keep) String() string {
	return [...]string{"all kept", "names kept", "attributes kept", "nothing kept"}[k]
}

// Disk is a folder that tells what a power cut would leave of it. It is for one
// goroutine.
type Disk struct {
	Dir string
	// OnStep is called, if it is not nil, before everything that changes something or
	// makes it last. Image then says what is left if the power goes now.
	OnStep func(step string)
	// Broken are calls that do nothing, to see that a test finds that out: "Sync",
	// "SyncFolder".
	Broken []string

	root    *node
	renames []rename // not synced yet
}

// node is a file, folder or link.
type node struct {
	now, last content // as programs see it, and as it is after a power cut
}

type content struct {
	mode     os.FileMode // with the type
	uid, gid int
	data     string // or the target of a link
	xattrs   map[string]string
	children map[string]*node // nil: no folder
}

func (c content) clone() content {
	c.xattrs, c.children = maps.Clone(c.xattrs), maps.Clone(c.children)
	return c
}

type rename struct{ from, to *node }

// New returns a disk that is an empty folder in memory.
func New(t testing.TB) *Disk {
	dir := t.TempDir()
	if err := unix.Mount("layertest", dir, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatalf("mount a file system in memory on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	root := content{mode: os.ModeDir | 0o755, children: map[string]*node{}}
	return &Disk{Dir: dir, root: &node{root, root.clone()}}
}

// Image is what lasts on a disk.
type Image struct{ root *node }

// Image returns what is on the disk if the power goes now.
func (d *Disk) Image(keep Keep) Image {
	return Image{d.root.after(keep, map[*node]*node{})}
}

// after returns a copy of what is left.
func (n *node) after(keep Keep, done map[*node]*node) *node {
	if c := done[n]; c != nil {
		return c
	}
	left := n.left(keep).clone()
	c := &node{}
	done[n] = c
	for name, child := range left.children {
		left.children[name] = child.after(keep, done)
	}
	c.now, c.last = left, left.clone()
	return c
}

// left is what is left of a node itself.
func (n *node) left(keep Keep) content {
	c := n.now
	switch keep {
	case None:
		c = n.last
	case Attributes:
		c.data, c.children = n.last.data, n.last.children
	case Names:
		c.data = n.last.data
	}
	return c
}

// Restore makes the disk, and the files, those of an image.
func (d *Disk) Restore(i Image) error {
	d.root = i.root.after(All, map[*node]*node{})
	d.renames = nil
	names, err := os.ReadDir(d.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(d.Dir, name.Name())); err != nil {
			return err
		}
	}
	return d.root.restore(d.Dir)
}

func (n *node) restore(path string) error {
	c := n.now
	for name, child := range c.children {
		if err := child.create(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	for name, value := range c.xattrs {
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s on %s: %w", name, path, err)
		}
	}
	if c.mode&os.ModeSymlink != 0 {
		return nil
	}
	return layer.OS{}.Set(path, layer.Attributes{Mode: c.mode &^ os.ModeType, UID: c.uid, GID: c.gid})
}

func (n *node) create(path string) error {
	var err error
	switch c := n.now; {
	case c.children != nil:
		err = os.Mkdir(path, 0o700)
	case c.mode&os.ModeSymlink != 0:
		err = os.Symlink(c.data, path)
	case c.mode&os.ModeDevice != 0:
		err = unix.Mknod(path, unix.S_IFCHR, 0)
	default:
		err = os.WriteFile(path, []byte(c.data), 0o600)
	}
	if err != nil {
		return err
	}
	return n.restore(path)
}

// Dump tells what an image has, a line each: mode, owner, extended attributes,
// content.
func (d *Disk) Dump(keep Keep) string {
	return string(d.root.dump(nil, "", keep))
}

func (n *node) dump(b []byte, path string, keep Keep) []byte {
	c := n.left(keep)
	b = append(append(b, path...), ' ')
	b = append(b, c.mode.String()...)
	b = strconv.AppendInt(append(b, ' '), int64(c.uid), 10)
	b = strconv.AppendInt(append(b, ':'), int64(c.gid), 10)
	for _, name := range slices.Sorted(maps.Keys(c.xattrs)) {
		b = append(append(append(append(b, ' '), name...), '='), c.xattrs[name]...)
	}
	if c.data != "" {
		b = strconv.AppendQuote(append(b, ' '), c.data)
	}
	b = append(b, '\n')
	for _, name := range slices.Sorted(maps.Keys(c.children)) {
		b = c.children[name].dump(b, path+"/"+name, keep)
	}
	return b
}

// step is where the power may go.
func (d *Disk) step(format string, args ...any) {
	if d.OnStep != nil {
		d.OnStep(strings.ReplaceAll(fmt.Sprintf(format, args...), d.Dir, ""))
	}
}

// find returns the node at a path and the folder it is in; nil if there is none.
func (d *Disk) find(path string) (n, parent *node, name string) {
	rel, err := filepath.Rel(d.Dir, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		panic(path + " is not on the disk " + d.Dir)
	}
	n = d.root
	if rel == "." {
		return n, nil, ""
	}
	for name := range strings.SplitSeq(rel, "/") {
		if n == nil {
			return nil, nil, ""
		}
		parent, n = n, n.now.children[name]
	}
	return n, parent, filepath.Base(rel)
}

// put makes something new, after the same was made on the disk.
func (d *Disk) put(path string, c content) {
	_, parent, name := d.find(path)
	last := c.clone()
	last.data = ""
	clear(last.children)
	if c.mode&(os.ModeSymlink|os.ModeDevice) != 0 {
		last.data = c.data
	}
	parent.now.children[name] = &node{c, last}
}

func (d *Disk) syncFolder(n *node) {
	for done := map[*node]bool{}; n != nil; {
		done[n] = true
		n.last.children = maps.Clone(n.now.children)
		n.syncAttributes()
		for _, child := range n.now.children {
			child.syncAttributes()
		}
		n = nil
		for _, r := range d.renames {
			if done[r.from] != done[r.to] {
				n = r.from
				if done[r.from] {
					n = r.to
				}
				break
			}
		}
	}
}

func (n *node) syncAttributes() {
	data, children := n.last.data, n.last.children
	n.last = n.now.clone()
	n.last.data, n.last.children = data, children
}

func (n *node) sync() {
	n.last = n.now.clone()
	for _, child := range n.now.children {
		child.sync()
	}
}

// The rest are the methods of a layer.Disk, and Write.

func (d *Disk) MakeFolder(path string, mode os.FileMode) error {
	if n, _, _ := d.find(path); n != nil && n.now.children != nil {
		return nil
	}
	if err := d.MakeFolder(filepath.Dir(path), mode); err != nil {
		return err
	}
	if err := d.Mkdir(path, layer.Attributes{Mode: mode}); err != nil {
		return err
	}
	return d.SyncFolder(filepath.Dir(path))
}

// WriteFile has the steps of durable.WriteFile.
func (d *Disk) WriteFile(path string, data []byte, mode os.FileMode) error {
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if n, _, _ := d.find(beside); n != nil {
		if err := d.Remove(beside); err != nil {
			return err
		}
	}
	if err := d.Write(beside, string(data), mode); err != nil {
		return err
	}
	d.step("sync %s", beside)
	n, _, _ := d.find(beside)
	n.last = n.now.clone()
	if err := d.Rename(beside, path); err != nil {
		return err
	}
	return d.SyncFolder(filepath.Dir(path))
}

// Write writes a file as programs do, without a sync.
func (d *Disk) Write(path, data string, mode os.FileMode) error {
	d.step("write %s", path)
	d.put(path, content{mode: mode, data: data})
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Link makes a symbolic link.
func (d *Disk) Link(path, target string) error {
	d.step("link %s", path)
	d.put(path, content{mode: os.ModeSymlink | 0o777, data: target})
	return os.Symlink(target, path)
}

// Whiteout makes what overlayfs does for something that is removed.
func (d *Disk) Whiteout(path string) error {
	d.step("whiteout %s", path)
	d.put(path, content{mode: os.ModeDevice | os.ModeCharDevice})
	if err := unix.Mknod(path, unix.S_IFCHR, 0); err != nil {
		return err
	}
	return nil
}

// SetXattr sets an extended attribute.
func (d *Disk) SetXattr(path, name, value string) error {
	d.step("set %s of %s", name, path)
	n, _, _ := d.find(path)
	if n.now.xattrs == nil {
		n.now.xattrs = map[string]string{}
	}
	n.now.xattrs[name] = value
	return unix.Lsetxattr(path, name, []byte(value), 0)
}

func (d *Disk) SyncFolder(dir string) error {
	d.step("sync folder %s", dir)
	if n, _, _ := d.find(dir); !slices.Contains(d.Broken, "SyncFolder") {
		d.syncFolder(n)
	}
	_, err := os.Stat(dir)
	return err
}

func (d *Disk) Sync(dir string) error {
	d.step("sync %s", dir)
	if !slices.Contains(d.Broken, "Sync") {
		d.root.sync()
		d.renames = nil
	}
	_, err := os.Stat(dir)
	return err
}

func (d *Disk) Mkdir(path string, a layer.Attributes) error {
	d.step("mkdir %s", path)
	if err := (layer.OS{}).Mkdir(path, a); err != nil {
		return err
	}
	d.put(path, content{mode: os.ModeDir | a.Mode, uid: a.UID, gid: a.GID, children: map[string]*node{}})
	return nil
}

func (d *Disk) Set(path string, a layer.Attributes) error {
	d.step("set %s to %v", path, a)
	n, _, _ := d.find(path)
	n.now.mode, n.now.uid, n.now.gid = n.now.mode&os.ModeType|a.Mode, a.UID, a.GID
	return layer.OS{}.Set(path, a)
}

func (d *Disk) Rename(from, to string) error {
	d.step("rename %s to %s", from, to)
	if err := (layer.OS{}).Rename(from, to); err != nil {
		return err
	}
	n, fromFolder, fromName := d.find(from)
	_, toFolder, toName := d.find(to)
	delete(fromFolder.now.children, fromName)
	toFolder.now.children[toName] = n
	d.renames = append(d.renames, rename{fromFolder, toFolder})
	return nil
}

func (d *Disk) Remove(path string) error {
	d.step("remove %s", path)
	if err := (layer.OS{}).Remove(path); err != nil {
		return err
	}
	_, parent, name := d.find(path)
	delete(parent.now.children, name)
	return nil
}

// RemoveAll is a step for each name in the folder, and one for the folder itself.
func (d *Disk) RemoveAll(path string) error {
	n, parent, base := d.find(path)
	if n == nil || parent == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(n.now.children)) {
		d.step("remove all of %s", filepath.Join(path, name))
		if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
			return err
		}
		delete(n.now.children, name)
	}
	d.step("remove %s", path)
	delete(parent.now.children, base)
	return os.Remove(path)
}

func (d *Disk) RemoveXattr(path, name string) error {
	d.step("remove %s of %s", name, path)
	n, _, _ := d.find(path)
	delete(n.now.xattrs, name)
	return layer.OS{}.RemoveXattr(path, name)
}
