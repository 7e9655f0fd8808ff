package cga

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// entry takes one entry. The error is that of refuse, or of the file system.
func (w *walker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // git archive has one
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return w.refuse(h.Name, "%v", err)
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return w.refuse(h.Name, "it has no name")
		}
		return nil
	}
	isFile := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse || h.Typeflag == tar.TypeCont
	if isFile && strings.HasPrefix(path.Base(name), "._") {
		return nil // what macOS keeps of a file beside it
	}
	k := file
	switch {
	case h.Typeflag == tar.TypeDir, isFile && strings.HasSuffix(h.Name, "/") && h.Size == 0: // old archives
		k, isFile = folder, false
	case isFile && h.Mode&0o111 != 0:
		k = executable
	case isFile:
	case h.Typeflag == tar.TypeSymlink:
		k = link
	case h.Typeflag == tar.TypeLink:
	case h.Typeflag == tar.TypeChar, h.Typeflag == tar.TypeBlock:
		return w.refuse(name, "it is a device")
	case h.Typeflag == tar.TypeFifo:
		return w.refuse(name, "it is a FIFO")
	default:
		return w.refuse(name, "it is of a kind (%q) that no app needs", h.Typeflag)
	}
	if h.Mode&0o6000 != 0 {
		if k != folder {
			return w.refuse(name, "it is set-uid or set-gid")
		}
		// Folders that a team shares have it, and here it means nothing.
		w.find(Warning, name, "its set-gid bit is not kept")
	}
	if ok, err := w.claim(name, k); !ok {
		return err
	}
	switch {
	case k == folder:
		return w.folder(name, h)
	case k == link:
		return w.link(name, h)
	case h.Typeflag == tar.TypeLink:
		return w.hardLink(name, h)
	}
	a, err := w.app(name)
	if err != nil {
		return err
	}
	return w.content(name, h, r, a)
}

// cleanName returns the name of an entry as a path from the top level; ".": the
// top level itself.
func cleanName(name string) (string, error) {
	if err := checkPath(name); err != nil {
		return "", err
	}
	if name[0] == '/' {
		return "", errors.New("it is an absolute path")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New(`it has ".." in it`)
		}
		if len(part) > maxComponent {
			return "", fmt.Errorf("a part of the name has %d bytes, at most %d are taken", len(part), maxComponent)
		}
	}
	return path.Clean(name), nil
}

func checkPath(name string) error {
	switch {
	case name == "":
		return errors.New("it has no name")
	case len(name) > maxPath:
		return fmt.Errorf("the path has %d bytes, at most %d are taken", len(name), maxPath)
	case !utf8.ValidString(name):
		return errors.New("the name is not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == 0x2028 || r == 0x2029 }):
		return errors.New("the name has control characters")
	}
	return nil
}

// claim takes a name, and the folders above it that are not there yet. It is not
// ok if the name cannot be taken; then the error is that of refuse.
func (w *walker) claim(name string, k kind) (ok bool, err error) {
	for i := range name {
		if name[i] != '/' {
			continue
		}
		above := name[:i]
		switch w.seen[above] {
		case implied, folder:
		case 0:
			if ok, err := w.add(above, implied); !ok {
				return false, err
			}
			if w.root != nil {
				if err := w.root.Mkdir(above, 0o755); err != nil {
					return false, err
				}
			}
		default:
			return false, w.refuse(name, "%s, which it is below, is %v", above, w.seen[above])
		}
	}
	switch was := w.seen[name]; {
	case was == implied && k == folder:
		w.seen[name] = folder
		return true, nil
	case was == implied:
		return false, w.refuse(name, "it is there twice, as a folder and as %v", k)
	case was != 0:
		return false, w.refuse(name, "it is there twice")
	}
	return w.add(name, k)
}

func (w *walker) add(name string, k kind) (ok bool, err error) {
	size := int64(0)
	if k == implied || k == folder {
		size = block
	}
	if w.contents.Entries++; w.contents.Entries > w.limits.Entries {
		return false, w.stop(name, "there are more than %d entries", w.limits.Entries)
	}
	if w.names += len(name); w.names > maxNames {
		return false, w.stop(name, "the names of all entries have more than %d bytes", maxNames)
	}
	if err := w.take(name, size); err != nil {
		return false, err
	}
	// A part of another entry's name would keep the whole of it.
	name = strings.Clone(name)
	w.seen[name] = k
	return true, nil
}

// take counts bytes, before anything of them is written.
func (w *walker) take(name string, size int64) error {
	blocks := size / block // size can be as large as there are
	if size%block != 0 {
		blocks++
	}
	if blocks > (w.limits.Bytes-w.contents.Bytes)/block {
		return w.stop(name, "with it the archive takes more than %d bytes", w.limits.Bytes)
	}
	w.contents.Bytes += blocks * block
	return nil
}

func (w *walker) folder(name string, h *tar.Header) error {
	if w.root == nil {
		return nil
	}
	// It is there already if an earlier entry is in it. Installers have to get
	// into it, whatever the archive says.
	if err := w.root.Mkdir(name, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	return w.root.Chmod(name, permissions(h)|0o700)
}

func permissions(h *tar.Header) os.FileMode { return os.FileMode(h.Mode & 0o777) }

// link takes a symbolic link. Nothing is ever written through it: claim refuses
// what would be below it.
func (w *walker) link(name string, h *tar.Header) error {
	target := h.Linkname
	if err := checkPath(target); err != nil {
		return w.refuse(name, "what the link points to: %v", err)
	}
	if path.IsAbs(target) {
		return w.refuse(name, "the link points out of the archive, to %s", target)
	}
	for at := range steps(name, target) {
		if at == ".." {
			return w.refuse(name, "the link points out of the archive, to %s", target)
		}
	}
	if w.names += len(target); w.names > maxNames {
		return w.stop(name, "the names of all entries have more than %d bytes", maxNames)
	}
	w.links[name] = target
	if err := w.linkedMember(name); err != nil {
		return err
	}
	if w.root == nil {
		return nil
	}
	return w.root.Symlink(target, name)
}

// steps are the paths that the target of a link leads through, one after the
// other and the last one at its end, if none of them is a link; "..": outside.
func steps(name, target string) iter.Seq[string] {
	return func(yield func(string) bool) {
		at := path.Dir(name)
		for part := range strings.SplitSeq(target, "/") {
			if part == "" || part == "." {
				continue
			}
			if at = path.Join(at, part); !yield(at) || at == ".." {
				return
			}
		}
	}
}

// checkLink refuses a link that leads through another one: what ".." is then,
// only the kernel knows. One to a link is a name for it, as libraries have them.
func (w *walker) checkLink(name string) error {
	before := ""
	for at := range steps(name, w.links[name]) {
		if w.seen[before] == link {
			return w.refuse(name, "the link leads through %s, which is a link too", before)
		}
		before = at
	}
	return nil
}

// hardLink takes a hard link. The one that it is a name for may not be given
// another content by it.
func (w *walker) hardLink(name string, h *tar.Header) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return w.refuse(name, "the hard link's target: %v", err)
	}
	k := w.seen[target]
	if k != file && k != executable || target == name {
		return w.refuse(name, "it is a hard link to %s, which is no file that came before it", printable(target))
	}
	w.seen[name] = k
	if err := w.linkedMember(name); err != nil {
		return err
	}
	if w.root == nil {
		return nil
	}
	return w.root.Link(target, name)
}

// linkedMember takes what an app is known by if it is a link.
func (w *walker) linkedMember(name string) error {
	a, err := w.app(name)
	if a == nil {
		return err
	}
	switch path.Base(name) {
	case supervisorConf:
		return w.refuse(name, "it is a link: want a file")
	case setupScript:
		a.setup = true
	case installScript:
		a.install, a.linked = true, true
	}
	return nil
}

// content takes the content of a file; a is not nil if it is of the members that
// an app is known by.
func (w *walker) content(name string, h *tar.Header, r io.Reader, a *app) error {
	if err := w.take(name, h.Size); err != nil {
		return err
	}
	var to io.Writer = io.Discard
	var f *os.File
	if w.root != nil {
		var err error
		if f, err = w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer f.Close()
		to = f
	}
	var kept keeper
	if a != nil {
		kept.max = maxFirstLine
		if path.Base(name) == supervisorConf {
			kept.max = maxConf + 1
		}
		to = io.MultiWriter(to, &kept)
	}
	if err := w.copy(to, name, r); err != nil {
		return err
	}
	if a != nil {
		if err := w.member(name, a, kept.data); err != nil {
			return err
		}
	}
	if f == nil {
		return nil
	}
	// Whatever the umask says.
	if err := f.Chmod(permissions(h)); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// Python compiles a module again if its time is another one.
	if sec := h.ModTime.Unix(); sec < 0 || sec > math.MaxUint32 {
		return nil
	}
	return w.root.Chtimes(name, h.ModTime, h.ModTime)
}

// copy copies with the walker's own buffer. What cannot be read is refused, what
// cannot be written is an error.
func (w *walker) copy(to io.Writer, name string, r io.Reader) error {
	for {
		n, err := r.Read(w.buf)
		if n > 0 {
			if _, err := to.Write(w.buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return w.broken(name, err)
		}
	}
}
