package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// walk calls visit for each member of a package.
type walk = func(visit func(h *tar.Header, r io.Reader) error) error

// AddPackage adds what the overlay takes from the Debian package pkg, whose
// members each visits in order; each may be called twice. A pattern without a
// member is an error: the package has changed, or there is a typo.
func (o *Overlay) AddPackage(t *Tree, pkg string, each walk) error {
	i := slices.IndexFunc(o.Packages, func(p PackageFiles) bool { return p.Name == pkg })
	if i < 0 {
		return fmt.Errorf("add package %s: %s does not list it", pkg, o.file())
	}
	if err := o.Packages[i].add(t, each); err != nil {
		return fmt.Errorf("add package %s, as %s asks: %w", pkg, o.file(), err)
	}
	return nil
}

func (p *PackageFiles) add(t *Tree, each walk) error {
	from := "package " + p.Name
	found := map[string]bool{}              // patterns that matched
	links := map[string][]string{}          // hard links to add, by the member that holds their content
	parts := map[string]map[string][]byte{} // of a concat's To, by member
	for _, c := range p.Concat {
		parts[c.To] = map[string][]byte{}
	}
	err := each(func(h *tar.Header, r io.Reader) error {
		name := memberName(h.Name)
		var to, into []string
		for _, f := range p.Files {
			if f.picks(name) {
				to = append(to, f.place(name))
				found[f.From] = found[f.From] || h.Typeflag != tar.TypeDir
			}
		}
		for _, c := range p.Concat {
			if match(c.From, name) {
				into = append(into, c.To)
			}
		}
		switch {
		case h.Typeflag == tar.TypeDir || len(to)+len(into) == 0:
			return nil
		case h.Typeflag == tar.TypeReg:
			data, err := io.ReadAll(r)
			if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			for _, c := range into {
				parts[c][name] = data
			}
			return addAll(t, to, h, data, from)
		case h.Typeflag == tar.TypeSymlink && len(into) == 0:
			for _, to := range to {
				if err := t.Link(to, h.Linkname, from); err != nil {
					return err
				}
			}
			return nil
		case h.Typeflag == tar.TypeLink && len(into) == 0:
			target := memberName(h.Linkname)
			links[target] = append(links[target], to...)
			return nil
		}
		return fmt.Errorf("%s is of tar type %q: only files and links can be taken, only files concatenated", name, h.Typeflag)
	})
	if err != nil {
		return err
	}
	for _, f := range p.Files {
		if !found[f.From] {
			return fmt.Errorf("no member matches %s: list the package with dpkg-deb -c", f.From)
		}
	}
	for _, c := range p.Concat {
		if len(parts[c.To]) == 0 {
			return fmt.Errorf("no member matches %s: list the package with dpkg-deb -c", c.From)
		}
		var all []byte
		for _, name := range slices.Sorted(maps.Keys(parts[c.To])) {
			all = append(append(all, bytes.TrimRight(parts[c.To][name], "\n")...), '\n')
		}
		if err := t.File(c.To, 0o644, all, from); err != nil {
			return err
		}
	}
	return addHardLinks(t, links, each, from)
}

// addHardLinks gives each hard link a copy of its content (which squashfs
// stores once). The member that holds it may not be one that was picked, so
// the package is read again.
func addHardLinks(t *Tree, links map[string][]string, each walk, from string) error {
	if len(links) == 0 {
		return nil
	}
	err := each(func(h *tar.Header, r io.Reader) error {
		name := memberName(h.Name)
		to, ok := links[name]
		if !ok || h.Typeflag != tar.TypeReg {
			return nil
		}
		delete(links, name)
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		return addAll(t, to, h, data, from)
	})
	if err != nil {
		return err
	}
	for target, to := range links {
		return fmt.Errorf("%s is a hard link to %s, which the package does not have", to[0], target)
	}
	return nil
}

// addAll adds one member's data at each of the paths to.
func addAll(t *Tree, to []string, h *tar.Header, data []byte, from string) error {
	for _, to := range to {
		if err := t.File(to, normal(h.FileInfo().Mode()), data, from); err != nil {
			return err
		}
	}
	return nil
}

// memberName returns a tar member's name ("./usr/bin/x") as patterns see it.
func memberName(name string) string { return path.Clean("/" + name)[1:] }

func (f *PackageFile) picks(name string) bool {
	return match(f.From, name) && !slices.ContainsFunc(f.Except, func(p string) bool { return match(p, name) })
}

// place returns where in the tree the member name goes.
func (f *PackageFile) place(name string) string {
	switch {
	case f.To == "":
		return name
	case !strings.HasSuffix(f.To, "/"):
		return f.To
	}
	fixed := strings.TrimSuffix(f.From, f.rest())
	return f.To + strings.TrimPrefix(name, fixed)
}

// rest returns From without the folders before its first wildcard.
func (f *PackageFile) rest() string {
	parts := strings.Split(f.From, "/")
	i := slices.IndexFunc(parts, isWild)
	if i < 0 {
		i = len(parts) - 1
	}
	return path.Join(parts[i:]...)
}

func isWild(pattern string) bool { return strings.ContainsAny(pattern, `*?[\`) }

// match is path.Match, where an element ** stands for any number of elements,
// at the end for at least one.
func match(pattern, name string) bool {
	return matchParts(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

func matchParts(pattern, name []string) bool {
	switch {
	case len(pattern) == 0 || len(name) == 0:
		return len(pattern) == len(name)
	case pattern[0] == "**":
		return len(pattern) == 1 || matchParts(pattern[1:], name) || matchParts(pattern, name[1:])
	}
	ok, err := path.Match(pattern[0], name[0])
	return ok && err == nil && matchParts(pattern[1:], name[1:])
}
