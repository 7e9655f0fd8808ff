package rootfs

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// step is one addition to a tree.
type step func(t *Tree) error

func file(path, data string) step {
	return func(t *Tree) error { return t.File(path, 0o644, []byte(data), "overlay of "+path) }
}

func link(path, target string) step {
	return func(t *Tree) error { return t.Link(path, target, "overlay of "+path) }
}

func dir(path string) step {
	return func(t *Tree) error { return t.Dir(path, 0o755) }
}

// run adds steps to a new tree until one fails.
func run(steps ...step) (*Tree, error) {
	t := NewTree()
	for _, s := range steps {
		if err := s(t); err != nil {
			return t, err
		}
	}
	return t, nil
}

func TestTree(t *testing.T) {
	tests := map[string]struct {
		steps []step
		want  string // the tree in short; or, after "error: ", words of the error
	}{
		"parents":               {[]step{file("a/b/c", "1")}, "a/ a/b/ a/b/c=1"},
		"absolute":              {[]step{file("/etc//./hosts", "1")}, "etc/ etc/hosts=1"},
		"later file wins":       {[]step{file("a", "1"), file("a", "2")}, "a=2"},
		"file over link":        {[]step{file("b", "1"), link("a", "b"), file("a", "2")}, "a=2 b=1"},
		"link over file":        {[]step{file("a", "1"), link("a", "b")}, "a->b"},
		"folder twice":          {[]step{dir("a"), file("a/b", "1"), dir("a")}, "a/ a/b=1"},
		"usr-merge":             {[]step{link("bin", "usr/bin"), file("bin/sh", "1")}, "bin->usr/bin usr/ usr/bin/ usr/bin/sh=1"},
		"usr-merge, twice":      {[]step{link("sbin", "usr/sbin"), link("usr/sbin", "bin"), file("sbin/e2fsck", "1")}, "sbin->usr/sbin usr/ usr/bin/ usr/bin/e2fsck=1 usr/sbin->bin"},
		"folder through link":   {[]step{link("bin", "usr/bin"), dir("bin")}, "bin->usr/bin usr/ usr/bin/"},
		"absolute link":         {[]step{link("a", "/../b"), file("a/c", "1")}, "a->/../b b/ b/c=1"},
		"link up":               {[]step{link("a/b", "../c/"), file("a/b/d", "1")}, "a/ a/b->../c/ c/ c/d=1"},
		"dangling link":         {[]step{link("etc/mtab", "../proc/self/mounts")}, "etc/ etc/mtab->../proc/self/mounts"},
		"name begins with dots": {[]step{file("..a", "1"), link("b", "..a")}, "..a=1 b->..a"},
		"link below link":       {[]step{link("bin", "usr/bin"), link("bin/sh", "../bin/busybox")}, "bin->usr/bin usr/ usr/bin/ usr/bin/sh->../bin/busybox"},

		"dot dot":          {[]step{file("a/../b", "1")}, "error: .. is not allowed"},
		"NUL":              {[]step{file("a\x00", "1")}, "error: NUL and newline"},
		"newline":          {[]step{dir("a\nb")}, "error: NUL and newline"},
		"root":             {[]step{file("/", "1")}, "error: the root itself"},
		"link to the root": {[]step{link("a", "/"), dir("a")}, "error: the root itself"},
		"link out":         {[]step{link("a/b", "../../c")}, "error: leaves the root"},
		"link out, merged": {[]step{link("a/b/c", "/x"), link("a/b/c/d", "../../y")}, "error: leaves the root"},
		"empty link":       {[]step{link("a", "")}, "error: empty"},
		"link loop":        {[]step{link("a", "b"), link("b", "a"), file("a/c", "1")}, "error: loop overlay of a overlay of a/c"},
		"file over folder": {[]step{file("a/b", "1"), file("a", "2")}, "error: a file cannot replace the folder from overlay of a/b overlay of a:"},
		"link over folder": {[]step{dir("a"), link("a", "b")}, "error: a symlink cannot replace the folder from the builder"},
		"folder over file": {[]step{file("a", "1"), dir("a")}, "error: a folder cannot replace the file from overlay of a"},
		"below a file":     {[]step{file("a", "1"), file("a/b", "2")}, "error: a is a file, from overlay of a, overlay of a/b:"},
		"set-uid":          {[]step{func(t *Tree) error { return t.File("su", 0o755|fs.ModeSetuid, nil, "x") }}, "error: set-uid"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree, err := run(test.steps...)
			if words, ok := strings.CutPrefix(test.want, "error: "); ok {
				if err == nil {
					t.Fatalf("no error, but %s", short(tree))
				}
				for _, w := range strings.Split(words, " overlay") {
					if !strings.Contains(err.Error(), strings.TrimSpace(w)) {
						t.Errorf("error %q lacks %q", err, w)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := short(tree); got != test.want {
				t.Errorf("tree is\n%s, want\n%s", got, test.want)
			}
		})
	}
}

// short writes a tree in a line.
func short(t *Tree) string {
	var words []string
	for _, e := range t.List() {
		switch e.Mode.Type() {
		case 0:
			words = append(words, e.Path+"="+string(e.Data))
		case fs.ModeDir:
			words = append(words, e.Path+"/")
		case fs.ModeSymlink:
			words = append(words, e.Path+"->"+e.Target)
		default:
			words = append(words, e.Path+"!")
		}
	}
	return strings.Join(words, " ")
}

func TestOpen(t *testing.T) {
	tree, err := run(link("sbin", "usr/sbin"), link("usr/sbin", "bin"), file("usr/bin/a", "1"), link("b", "/sbin/a"), link("c", "c"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/bin/a", "/sbin/a", "b"} {
		e, err := tree.Open(name)
		if err != nil || e.Path != "usr/bin/a" || string(e.Data) != "1" {
			t.Errorf("Open(%s) is %+v, %v", name, e, err)
		}
	}
	if _, err := tree.Open("sbin/z"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a missing file: %v", err)
	}
	if _, err := tree.Open("c"); err == nil || !strings.Contains(err.Error(), "loop") {
		t.Errorf("Open of a loop: %v", err)
	}
}

func TestHash(t *testing.T) {
	base := []step{file("a", "1"), link("b", "a"), dir("c")}
	hash := func(steps ...step) string {
		tree, err := run(steps...)
		if err != nil {
			t.Fatal(err)
		}
		return tree.Hash()
	}
	want := hash(base...)
	if got := hash(base[2], base[1], base[0]); got != want {
		t.Error("the order of additions changes the hash")
	}
	if got := hash(append(base, func(t *Tree) error { return t.File("a", 0o644, []byte("1"), "elsewhere") })...); got != want {
		t.Error("the origin changes the hash")
	}
	seen := []string{want}
	for name, change := range map[string]step{
		"content": file("a", "2"),
		"mode":    func(t *Tree) error { return t.File("a", 0o755, []byte("1"), "x") },
		"owner":   func(t *Tree) error { return t.add(Entry{Path: "a", Mode: 0o644, Data: []byte("1"), GID: 42}) },
		"target":  link("b", "c"),
		"type":    file("b", ""),
		"name":    dir("d"),
		"sticky":  func(t *Tree) error { return t.Dir("c", 0o755|fs.ModeSticky) },
		"device":  func(t *Tree) error { return t.Device("a", 5, 1, 0o644) },
	} {
		got := hash(append(base[:3:3], change)...)
		if slices.Contains(seen, got) {
			t.Errorf("a change of %s does not change the hash", name)
		}
		seen = append(seen, got)
	}
}
