package layer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestStale(t *testing.T) {
	w := firmware(t)
	w.install(`
		echo mine > usr/bin/busybox; echo mine >> etc/hosts; echo mine > usr/lib/python3/a.py; chmod 700 usr/lib/python3/b.py
		ln -sf other usr/bin/sh; rm etc/gweinit/keys/key.pub
		echo app:x:5:5::/:/bin/sh >> etc/passwd
		echo x > usr/bin/app; echo x > usr/bin/later`)
	if err := Describe(w.dir, w.base, "1.0", ""); err != nil {
		t.Fatal(err)
	}
	want := func(version string, paths ...string) {
		t.Helper()
		if got, err := Stale(w.dir, w.base, version); !slices.Equal(got, paths) || err != nil {
			t.Errorf("%q, %v, want %q", got, err, paths)
		}
	}
	want("1.0")
	want("1.1") // newer, with the same files
	tree(t, w.base, "usr/lib/python3/a.py=newer", "usr/lib/python3/c.py=not hidden", "usr/bin/later=it is the firmware's now", "etc/gweinit/keys/key.pub=newer, and removed",
		"etc/passwd=newer, and merged", "etc/hosts=newer")
	for _, name := range []string{"usr/bin/sh", "usr/lib/python3/b.py"} {
		if err := os.Remove(filepath.Join(w.base, name)); err != nil {
			t.Fatal(err)
		}
	}
	tree(t, w.base, "usr/bin/sh>dash")
	want("1.0") // it is not looked at
	want("1.1", "/etc/hosts", "/usr/bin/later", "/usr/bin/sh", "/usr/lib/python3/a.py")

	// What was the base's is kept.
	if got := dump(t, filepath.Join(w.dir, Base)); got != "etc/ 700\netc/group=root:x:0:\n\netc/passwd=root:x:0:0:root:/root:/bin/sh\n\n" {
		t.Errorf("base:\n%s", got)
	}
	about := filepath.Join(w.dir, aboutFile)
	for _, text := range []string{"", "{", `{"base": 5}`} {
		if err := os.WriteFile(about, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := Stale(w.dir, w.base, "1.1"); got != nil || err == nil || !strings.Contains(err.Error(), about) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestAccounts(t *testing.T) {
	const (
		root = "root:x:0:0:root:/root:/bin/sh\n"
		app  = "app:x:100:100::/:/bin/sh\n"
	)
	type made struct{ old, now string } // a layer, and the base that it was made on
	for _, tt := range []struct {
		name, file, base string
		layers           []made
		want             string // "": no file
	}{
		{"no layer has one", "passwd", root, []made{{}}, ""},
		{"no layer", "passwd", root, nil, ""},
		{"one adds", "passwd", root, []made{{root, root + app}}, root + app},
		{"the firmware adds", "passwd", root + "new:x:7:7::/:/bin/sh\n", []made{{root, root + app}}, root + "new:x:7:7::/:/bin/sh\n" + app},
		{"the firmware changes", "passwd", "root:x:0:0:root:/home:/bin/ash\n", []made{{root, root + app}}, "root:x:0:0:root:/home:/bin/ash\n" + app},
		{"the firmware removes", "passwd", "", []made{{root, root + app}}, app},
		{"one changes", "passwd", root, []made{{root, "root:x:0:0:root:/root:/bin/bash\n"}}, "root:x:0:0:root:/root:/bin/bash\n"},
		{"both change", "passwd", "root:x:0:0:new:/root:/bin/sh\n", []made{{root, "root:x:0:0:root:/root:/bin/bash\n"}}, "root:x:0:0:root:/root:/bin/bash\n"},
		{"one removes", "passwd", root, []made{{root, app}}, root + app},
		{"two add", "passwd", root, []made{{root, root + app}, {root, root + app + "b:x:101:101::/:/bin/sh\n"}}, root + app + "b:x:101:101::/:/bin/sh\n"},
		{"the last wins", "passwd", root, []made{{root, root + app}, {root, root + "app:x:200:200::/:/bin/sh\n"}}, root + "app:x:200:200::/:/bin/sh\n"},
		{"no base at all", "passwd", "", []made{{"", app}}, app},
		{"comments, rubbish, twice", "passwd", "# the base\n" + root, []made{{root, "# mine\nrubbish\n:x:\n" + root + app + "app:x:9:9::/:/second\n\n"}}, "# the base\n" + root + app},
		{"no newline at the end", "passwd", strings.TrimSpace(root), []made{{root, root + strings.TrimSpace(app)}}, root + app},
		{"members of both", "group", "dial:x:20:gwe,new\n", []made{{"dial:x:20:gwe\n", "dial:x:20:gwe,app\n"}}, "dial:x:20:gwe,new,app\n"},
		{"members of two", "group", "dial:x:20:\n", []made{{"dial:x:20:\n", "dial:x:20:a\n"}, {"dial:x:20:\n", "dial:x:20:b\n"}}, "dial:x:20:a,b\n"},
		{"members, and a number", "group", "dial:x:21:new\n", []made{{"dial:x:20:\n", "dial:x:20:a\n"}}, "dial:x:21:new,a\n"},
		{"members, and the app's number", "group", "dial:x:20:new\n", []made{{"dial:x:20:\n", "dial:x:30:a\n"}}, "dial:x:30:new,a\n"},
		{"a member less", "group", "dial:x:20:a,b\n", []made{{"dial:x:20:a,b\n", "dial:x:20:a\n"}}, "dial:x:20:a\n"},
		{"members of an app that is gone", "group", "dial:x:20:new\n", []made{{"dial:x:20:b,old\n", "dial:x:20:b,a\n"}}, "dial:x:20:new,a\n"},
		{"a member less, and others more", "group", "dial:x:20:b,new\n", []made{{"dial:x:20:b\n", "dial:x:20:a\n"}}, "dial:x:20:new,a\n"},
		{"a group of both", "group", "app:x:8:new\n", []made{{"", "app:x:9:a\n"}}, "app:x:9:new,a\n"},
		{"shadow", "shadow", "root:*:1:0:9:7:::\n", []made{{"root:*:1:0:9:7:::\n", "root:*:1:0:9:7:::\napp:!:1:0:9:7:::\n"}}, "root:*:1:0:9:7:::\napp:!:1:0:9:7:::\n"},
		{"gshadow", "gshadow", "g:!::a\n", []made{{"g:!::\n", "g:!::b\n"}}, "g:!::a,b\n"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			tmp := t.TempDir()
			base, target := filepath.Join(tmp, "base"), filepath.Join(tmp, "target")
			file := "etc/" + tt.file
			if tt.base != "" {
				tree(t, base, file+"="+tt.base)
			}
			var dirs []string
			for i, l := range tt.layers {
				dir := filepath.Join(tmp, string(rune('1'+i)))
				tree(t, dir, Root+"/")
				if l.old != "" {
					tree(t, dir, filepath.Join(Base, file)+"="+l.old)
				}
				if l.now != "" {
					tree(t, dir, filepath.Join(Root, file)+"="+l.now)
				}
				dirs = append(dirs, dir)
			}
			needed, err := Accounts(base, dirs, target)
			if needed != (tt.want != "") || err != nil {
				t.Errorf("needed %v, %v", needed, err)
			}
			if tt.want == "" {
				if _, err := os.Lstat(target); err == nil {
					t.Error("something was written")
				}
				return
			}
			data, err := os.ReadFile(filepath.Join(target, file))
			if string(data) != tt.want || err != nil {
				t.Errorf("%q, %v, want %q", data, err, tt.want)
			}
			if got := strings.Count(dump(t, target), "\n"); got != 2+strings.Count(tt.want, "\n") {
				t.Errorf("more than %s:\n%s", tt.file, dump(t, target))
			}
		})
	}
}

// The mode is the base's, a file that is right is left alone, and one that cannot be
// read costs one layer's users only.
func TestAccountsFiles(t *testing.T) {
	tmp := t.TempDir()
	base, target, good, bad := filepath.Join(tmp, "base"), filepath.Join(tmp, "target"), filepath.Join(tmp, "1"), filepath.Join(tmp, "2")
	tree(t, base, "etc/shadow=root:*:1:0:9:7:::\n")
	tree(t, good, "root/etc/shadow=app:*:1:0:9:7:::\n")
	tree(t, bad, "root/etc/shadow/")
	if err := os.Chmod(filepath.Join(base, "etc/shadow"), 0o640); err != nil {
		t.Fatal(err)
	}
	needed, err := Accounts(base, []string{good, bad}, target)
	if !needed || err == nil || !strings.Contains(err.Error(), filepath.Join(bad, "root/etc/shadow")) {
		t.Errorf("%v, %v", needed, err)
	}
	path := filepath.Join(target, "etc/shadow")
	before, err := os.Lstat(path)
	if err != nil || before.Mode() != 0o640 {
		t.Fatal(before, err)
	}
	if _, err := Accounts(base, []string{good}, target); err != nil {
		t.Error(err)
	}
	if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
		t.Error("the file was written again", err)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:\n", "root:x:0:a\n", "root:x:0:b\n", true)
	f.Add("a:b:c:d:e:f:g\n#\n", "\n\n", "a:::::::\x00\xff", false)
	f.Fuzz(func(t *testing.T, base, old, now string, group bool) {
		file := "etc/passwd"
		if group {
			file = "etc/group"
		}
		a := parseAccounts(file, []byte(base))
		a.apply(parseAccounts(file, []byte(old)), parseAccounts(file, []byte(now)))
		again := parseAccounts(file, a.text())
		// Everybody who was there still is, and everybody who was added.
		for _, had := range []*accounts{parseAccounts(file, []byte(base)), parseAccounts(file, []byte(now))} {
			for name := range had.byName {
				_, before := parseAccounts(file, []byte(old)).byName[name]
				_, inBase := parseAccounts(file, []byte(base)).byName[name]
				if _, ok := again.byName[name]; !ok && (inBase || !before) {
					t.Errorf("%q is gone: %q", name, a.text())
				}
			}
		}
		if string(again.text()) != string(a.text()) {
			t.Errorf("%q becomes %q", a.text(), again.text())
		}
	})
}
