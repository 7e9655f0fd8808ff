package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// overlay writes an overlay folder and loads it.
func overlay(t *testing.T, yaml string, files map[string]string) (*Overlay, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "demo")
	all := map[string]string{"overlay.yaml": yaml}
	maps.Copy(all, files)
	for name, data := range all {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			if err := os.Symlink(target, file); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mode := os.FileMode(0o600) // git keeps no more than the x bit
		if strings.HasPrefix(data, "#!") {
			mode = 0o700
		}
		if err := os.WriteFile(file, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	return LoadOverlay(dir)
}

func TestLoadOverlayErrors(t *testing.T) {
	const head = "description: a test\n"
	tests := map[string]struct{ yaml, want string }{ // want: words that end in a |
		"unknown key":         {head + "realease: false\n", "line 2|realease"},
		"unknown package key": {head + "packages:\n  - name: a\n    fles: []\n", "line 4|fles"},
		"unknown file key":    {head + "packages:\n  - name: a\n    files:\n      - {form: a}\n", "line 5|form"},
		"same key twice":      {head + "applets: a\napplets: b\n", "line 3|applets"},
		"not a bool":          {head + "release: maybe\n", "line 2|maybe"},
		"no description":      {"", "description|missing"},
		"two documents":       {head + "---\na: b\n", "one YAML document"},
		"no YAML":             {"\t", "yaml"},
		"bad mode":            {head + "modes: {etc/shadow: 0888}\n", "line 2|0888"},
		"set-uid":             {head + "modes:\n  bin/su: 4755\n", "line 3|4755"},
		"bad owner":           {head + "dirs: {a: 0755 www}\n", "line 2|www"},
		"no mode":             {head + "dirs:\n  tmp:\n", ":3:|tmp|mode is missing"},
		"bad dir":             {head + "dirs: {a/../b: 0755}\n", ":2:|a/../b"},
		"absolute mode":       {head + "modes:\n  /etc/shadow: 0600\n", ":3:|etc/shadow, relative"},
		"root as applets":     {head + "applets: /\n", ":2:|root itself"},
		"program, no package": {head + "programs: [{path: usr/bin/x}]\n", ":2:|usr/bin/x|./gweinit"},
		"program, no path":    {head + "programs: [{package: ./x}]\n", "root itself"},
		"package, no name":    {head + "packages: [{files: [{from: a}]}]\n", ":2:|without a name"},
		"package twice":       {head + "packages:\n- {name: a, files: [{from: a}]}\n- {name: a, files: [{from: b}]}\n", "\"a\"|twice"},
		"nothing taken":       {head + "packages:\n- {name: abc}\n", ":3:|abc|nothing is taken"},
		"no from":             {head + "packages: [{name: abc, files: [{to: b}]}]\n", "root itself"},
		"bad pattern":         {head + "packages:\n- name: abc\n  files: [{from: 'usr/[a'}]\n", ":4:|usr/[a|syntax error"},
		"bad except":          {head + "packages:\n- name: abc\n  files: [{from: usr, except: [../a]}]\n", ":4:|../a"},
		"bad to":              {head + "packages:\n- name: abc\n  files: [{from: usr, to: b//c}]\n", ":4:|b/c"},
		"many to one file":    {head + "packages:\n- name: abc\n  files: [{from: usr/*.x, to: lib}]\n", ":4:|end the folder"},
		"module as a file":    {head + "modules:\n  - can\n  - net/can.ko\n", ":4:|net/can.ko|without folder"},
		"no module":           {head + "modules: ['?']\n", ":2:|name is expected"},
		"optional twice over": {head + "modules:\n  - can??\n", ":3:|can??"},
		"module twice":        {head + "modules:\n  - can_raw\n  - can\n  - can-raw?\n", ":5:|can-raw?|twice"},
		"needs itself":        {head + "needs:\n  - base\n  - demo\n", ":4:|demo|itself"},
		"needs twice":         {head + "needs: [base, dev, base]\n", "base|needed twice"},
		"concat, no to":       {head + "packages:\n- name: abc\n  concat: [{from: a}]\n", "root itself"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := overlay(t, test.yaml, nil)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range append(strings.Split(test.want, "|"), "demo/overlay.yaml") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
	if _, err := LoadOverlay(t.TempDir()); err == nil || !strings.Contains(err.Error(), "overlay.yaml") {
		t.Errorf("no overlay.yaml: %v", err)
	}
}

func TestAddFiles(t *testing.T) {
	o, err := overlay(t, "description: a test\ndirs: {tmp: 1777, usr/bin: 0755, sbin/x: 0700 1:2}\nmodes: {etc/shadow: 0640 0:42}\n", map[string]string{
		"etc/shadow":       "root:*:\n",
		"etc/overlay.yaml": "copied",
		"etc/run":          "#!/bin/sh\n",
		"etc/mtab":         "-> ../proc/self/mounts",
		"sbin":             "-> usr/sbin",
	})
	if err != nil {
		t.Fatal(err)
	}
	if !o.Release || o.Name != "demo" {
		t.Errorf("loaded %+v", o)
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "empty/folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	tree := NewTree()
	if err := o.AddFiles(tree); err != nil {
		t.Fatal(err)
	}
	const want = "etc/ etc/mtab->../proc/self/mounts etc/overlay.yaml=copied etc/run=#!/bin/sh\n etc/shadow=root:*:\n sbin->usr/sbin tmp/ usr/ usr/bin/ usr/sbin/ usr/sbin/x/"
	if got := short(tree); got != want {
		t.Errorf("tree is\n%q, want\n%q", got, want)
	}
	for path, want := range map[string]string{"etc/shadow": "-rw-r----- 0:42", "etc/run": "-rwxr-xr-x 0:0", "etc/overlay.yaml": "-rw-r--r-- 0:0", "tmp": "dtrwxrwxrwx 0:0", "usr/sbin/x": "drwx------ 1:2"} {
		e := tree.entries[path]
		if got := fmt.Sprintf("%v %d:%d", e.Mode, e.UID, e.GID); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}

	fifo := filepath.Join(o.Dir, "etc/fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.AddFiles(NewTree()); err == nil || !strings.Contains(err.Error(), fifo) {
		t.Errorf("with a FIFO: %v", err)
	}
}

func TestAddFilesUnusedMode(t *testing.T) {
	o, err := overlay(t, "description: a test\nmodes: {etc/shadwo: 0600}\n", map[string]string{"etc/shadow": ""})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.AddFiles(NewTree()); err == nil || !strings.Contains(err.Error(), "etc/shadwo") {
		t.Errorf("a mode without a file: %v", err)
	}
}

// member is a member of a package.
type member struct {
	tar.Header
	content string
}

// pkg returns the walk over a package's tar with these members.
func pkg(t *testing.T, members ...member) walk {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		m.Size = int64(len(m.content))
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return func(visit func(h *tar.Header, r io.Reader) error) error {
		r := tar.NewReader(bytes.NewReader(b.Bytes()))
		for {
			h, err := r.Next()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := visit(h, r); err != nil {
				return err
			}
		}
	}
}

func TestAddPackage(t *testing.T) {
	demo := pkg(t,
		member{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		member{tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		member{tar.Header{Name: "./bin/su", Typeflag: tar.TypeReg, Mode: 0o4711}, "su"},
		member{tar.Header{Name: "./bin/hard", Typeflag: tar.TypeLink, Linkname: "./bin/su"}, ""},
		member{tar.Header{Name: "./bin/soft", Typeflag: tar.TypeSymlink, Linkname: "su"}, ""},
		member{tar.Header{Name: "./usr/share/z/a", Typeflag: tar.TypeReg, Mode: 0o600}, "za"},
		member{tar.Header{Name: "./usr/share/z/b/c", Typeflag: tar.TypeReg, Mode: 0o644}, "zc"},
		member{tar.Header{Name: "./usr/share/z/x/d", Typeflag: tar.TypeReg, Mode: 0o644}, "zd"},
		member{tar.Header{Name: "./crt/b.crt", Typeflag: tar.TypeReg, Mode: 0o644}, "B"},
		member{tar.Header{Name: "./crt/a.crt", Typeflag: tar.TypeReg, Mode: 0o644}, "A\n\n"},
		member{tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar}, ""},
	)
	tests := map[string]struct{ yaml, want string }{
		"same path":     {"files: [{from: bin/su}]", "bin/ bin/su=su"},
		"other path":    {"files: [{from: bin/su, to: usr/bin/sudo}]", "usr/ usr/bin/ usr/bin/sudo=su"},
		"folder":        {"files: [{from: bin/su, to: opt/}]", "opt/ opt/su=su"},
		"links":         {"files: [{from: bin/*}]", "bin/ bin/hard=su bin/soft->su bin/su=su"},
		"hard link":     {"files: [{from: bin/hard, to: su}]", "su=su"},
		"depth, except": {"files: [{from: usr/share/z/**, except: [usr/share/z/x/**]}]", "usr/ usr/share/ usr/share/z/ usr/share/z/a=za usr/share/z/b/ usr/share/z/b/c=zc"},
		"depth, folder": {"files: [{from: usr/**/z/**, to: z/}]", "z/ z/share/ z/share/z/ z/share/z/a=za z/share/z/b/ z/share/z/b/c=zc z/share/z/x/ z/share/z/x/d=zd"},
		"middle":        {"files: [{from: usr/**/c, to: z/}]", "z/ z/share/ z/share/z/ z/share/z/b/ z/share/z/b/c=zc"},
		"concat":        {"concat: [{from: crt/*.crt, to: etc/all.crt}]", "etc/ etc/all.crt=A\nB\n"},
		"concat, files": {"files: [{from: crt/a.crt}]\n  concat: [{from: crt/*, to: all}]", "all=A\nB\n crt/ crt/a.crt=A\n\n"},

		"no match":      {"files: [{from: bin/su}, {from: bin/sh}]", "error: bin/sh"},
		"only a folder": {"files: [{from: bin}]", "error: no member matches bin"},
		"no crt":        {"concat: [{from: crt/*.pem, to: all}]", "error: crt/*.pem"},
		"device":        {"files: [{from: dev/*}]", "error: dev/null"},
		"concat links":  {"concat: [{from: bin/*, to: all}]", "error: bin/hard"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := overlay(t, "description: a test\npackages:\n- name: demo\n  "+test.yaml+"\n", nil)
			if err != nil {
				t.Fatal(err)
			}
			tree := NewTree()
			err = o.AddPackage(tree, "demo", demo)
			if words, ok := strings.CutPrefix(test.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "package demo") {
					t.Errorf("error %v, want one with %q", err, words)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := short(tree); got != test.want {
				t.Errorf("tree is\n%q, want\n%q", got, test.want)
			}
			for _, e := range tree.List() {
				if m := e.Mode; m.IsRegular() && m != normal(m) {
					t.Errorf("%s has mode %v", e.Path, m)
				}
			}
			if err := o.AddPackage(tree, "other", demo); err == nil {
				t.Error("a package that isn't listed: no error")
			}
		})
	}
}

// The repository's own overlays load, and fit over each other.
func TestOverlays(t *testing.T) {
	tree := NewTree()
	for _, name := range []string{"base", "busybox", "libc", "python", "dev", "fieldbus"} {
		o, err := LoadOverlay(filepath.Join("../../overlays", name))
		if err != nil {
			t.Fatal(err)
		}
		if o.Release == (name == "dev") {
			t.Errorf("%s: release is %v", name, o.Release)
		}
		if err := o.AddFiles(tree); err != nil {
			t.Fatal(err)
		}
		for _, p := range o.Programs {
			if err := tree.File(p.Path, 0o755, []byte("program"), p.Package); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, want := range map[string]string{
		"sbin/init": "-rwxr-xr-x", "sbin/modprobe": "-rwxr-xr-x", "etc/gweinit/console": "-rwxr-xr-x",
		"usr/lib/python3/dist-packages/exo/api.py": "-rw-r--r--",
		"etc/shadow": "-rw-------", "etc/passwd": "-rw-r--r--", "root": "drwx------", "tmp": "dtrwxrwxrwx", "lib": "drwxr-xr-x",
	} {
		if e, err := tree.Open(path); err != nil || e.Mode.String() != want {
			t.Errorf("%s is %v, want %s: %v", path, e.Mode, want, err)
		}
	}
}
