package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// gateway is a firmware with apps, the lowest first.
type gateway struct {
	*installed
	apps   []app
	layers int
}

type app struct{ name, dir string }

// adduser is as busybox has it: the first number that is free.
const adduser = `
	touch etc/passwd etc/shadow etc/group
	has() { grep -q "^$1:" etc/passwd; }
	adduser() {
		has $1 && return 1
		n=100; while grep -q "^[^:]*:[^:]*:$n:" etc/passwd; do n=$((n+1)); done
		echo "$1:x:$n:$n::/:/bin/sh" >> etc/passwd
		echo "$1:!:::::::" >> etc/shadow
	}
	join() { sed -i "s/^$2:.*:$/&$1/; t; s/^$2:.*/&,$1/" etc/group; }
`

func without(apps []app, name string) []app {
	return slices.DeleteFunc(slices.Clone(apps), func(a app) bool { return a.name == name })
}

func dirsOf(apps []app) (dirs []string) {
	for _, a := range apps {
		dirs = append(dirs, a.dir)
	}
	return dirs
}

// install does what the engine does, and returns the layer.
func (g *gateway) install(name, script string) app {
	g.t.Helper()
	g.layers++
	a := app{name, filepath.Join(g.tmp, fmt.Sprint("layer", g.layers))}
	mkdir(g.t, a.dir)
	others, seen := filepath.Join(a.dir, "others"), filepath.Join(a.dir, "seen")
	theirs := without(g.apps, name)
	dirs := dirsOf(theirs)
	_, err := Accounts(g.base, dirs, others)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, old := range g.apps {
		if old.name == name {
			dirs = append(dirs, old.dir)
		}
	}
	lower := g.base
	for _, other := range theirs {
		lower = filepath.Join(other.dir, Root) + ":" + lower
	}
	needed, err := Accounts(g.base, dirs, seen)
	if err != nil {
		g.t.Fatal(err)
	}
	if needed {
		lower = seen + ":" + lower
	}
	run(g.t, filepath.Join(a.dir, Root), lower, script)
	if err := Check(a.dir, g.base); err != nil {
		g.t.Fatal(err)
	}
	if err := Inherit(a.dir, g.base, others, seen); err != nil {
		g.t.Fatal(err)
	}
	if err := Describe(a.dir, g.base, "1.0", others); err != nil {
		g.t.Fatal(err)
	}
	g.apps = append(theirs, a)
	return a
}

func (g *gateway) uninstall(name string) { g.apps = without(g.apps, name) }

// users are those of the gateway, with their numbers, in order; and who is in the
// group dialout.
func (g *gateway) users() string {
	g.t.Helper()
	target := filepath.Join(g.tmp, "accounts")
	if err := os.RemoveAll(target); err != nil {
		g.t.Fatal(err)
	}
	if _, err := Accounts(g.base, dirsOf(g.apps), target); err != nil {
		g.t.Fatal(err)
	}
	var users []string
	members := ""
	for _, file := range []string{"etc/passwd", "etc/group"} {
		text, _, err := readAccounts(file, target, g.base)
		if err != nil {
			g.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if file == "etc/passwd" {
				users = append(users, f[0]+"="+f[2])
			} else if f[0] == "dialout" {
				members = f[3]
			}
		}
	}
	slices.Sort(users)
	return strings.Join(users, " ") + " dialout=" + members
}

// An app has the users that its installer has made, and nobody else's: neither an
// upgrade nor another app's end changes that.
func TestAccountsOfApps(t *testing.T) {
	const (
		plain  = adduser + "adduser $APP"
		guard  = adduser + "has $APP || adduser $APP"
		member = adduser + "has $APP || { adduser $APP; join $APP dialout; }"
		none   = "echo x > x"
	)
	for _, tt := range []struct {
		name string
		do   func(g *gateway, as func(name, script string) app)
		want string
	}{
		{"two", func(g *gateway, as func(name, script string) app) { as("a", plain); as("b", plain) }, "a=100 b=101 root=0 dialout="},
		{"an upgrade with a guard", func(g *gateway, as func(name, script string) app) {
			as("a", plain)
			as("b", plain)
			as("a", guard)
		}, "a=100 b=101 root=0 dialout="},
		{"and the other app goes", func(g *gateway, as func(name, script string) app) {
			as("a", member)
			as("b", member)
			as("a", member)
			g.uninstall("b")
		}, "a=100 root=0 dialout=a"},
		{"and the app goes", func(g *gateway, as func(name, script string) app) {
			as("a", member)
			as("b", member)
			as("a", member)
			g.uninstall("a")
		}, "b=101 root=0 dialout=b"},
		{"an upgrade of the other one", func(g *gateway, as func(name, script string) app) {
			as("a", plain)
			as("b", plain)
			as("b", guard)
			as("b", guard)
			g.uninstall("a")
		}, "b=101 root=0 dialout="},
		{"an upgrade that does nothing about users", func(g *gateway, as func(name, script string) app) {
			as("a", member)
			as("a", none)
			as("a", none)
		}, "a=100 root=0 dialout=a"},
		{"an upgrade with one more", func(g *gateway, as func(name, script string) app) {
			as("b", plain)
			as("a", plain)
			as("a", adduser+"has $APP || adduser $APP; adduser more")
			g.uninstall("b")
		}, "a=101 more=102 root=0 dialout="},
		{"an upgrade that removes its own", func(g *gateway, as func(name, script string) app) {
			as("a", plain)
			as("b", plain)
			as("a", "sed -i /^a:/d etc/passwd etc/shadow")
		}, "b=101 root=0 dialout="},
		{"one that has none", func(g *gateway, as func(name, script string) app) { as("a", plain); as("b", none); g.uninstall("a") }, "root=0 dialout="},
		{"newer firmware", func(g *gateway, as func(name, script string) app) {
			as("a", member)
			tree(t, g.base, "etc/passwd=root:x:0:0:root:/root:/bin/sh\nnew:x:101:101::/:/bin/sh\n", "etc/group=root:x:0:\ndialout:x:20:new\n")
			as("b", member) // sees the firmware's and a's
			as("a", guard)
		}, "a=100 b=102 new=101 root=0 dialout=new,b,a"},
		{"newer firmware and all go", func(g *gateway, as func(name, script string) app) {
			as("a", member)
			tree(t, g.base, "etc/passwd=root:x:0:0:root:/root:/bin/sh\nnew:x:101:101::/:/bin/sh\n", "etc/group=root:x:0:\ndialout:x:20:new\n")
			as("b", member)
			as("a", guard)
			g.uninstall("a")
			g.uninstall("b")
		}, "new=101 root=0 dialout=new"},
		{"rollback", func(g *gateway, as func(name, script string) app) {
			old := as("a", member)
			as("b", member)
			as("a", adduser+"adduser more")
			g.apps = append([]app{old}, without(g.apps, "a")...)
		}, "a=100 b=101 root=0 dialout=a,b"},
		{"rollback of what was uninstalled", func(g *gateway, as func(name, script string) app) {
			as("a", member)
			old := as("b", member)
			g.uninstall("b")
			as("a", guard)
			g.apps = append(g.apps, old)
		}, "a=100 b=101 root=0 dialout=a,b"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			w := newInstalled(t, "etc/passwd=root:x:0:0:root:/root:/bin/sh\n", "etc/group=root:x:0:\ndialout:x:20:\n", "etc/shadow=root:*:::::::\n")
			if err := os.Chmod(filepath.Join(w.base, "etc/shadow"), 0o600); err != nil {
				t.Fatal(err)
			}
			g := &gateway{installed: w}
			tt.do(g, func(name, script string) app { return g.install(name, "APP="+name+";"+script) })
			if got := g.users(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			for _, a := range g.apps {
				if info, err := os.Lstat(filepath.Join(a.dir, Root, "etc/shadow")); err == nil && info.Mode() != 0o600 {
					t.Errorf("%s: the shadow file has %v", a.name, info.Mode())
				}
			}
		})
	}
}

// A layer gets only files in which the version before had something of its own.
func TestInherit(t *testing.T) {
	tmp := t.TempDir()
	base, others, seen, dir := filepath.Join(tmp, "base"), filepath.Join(tmp, "others"), filepath.Join(tmp, "seen"), filepath.Join(tmp, "1")
	tree(t, base, "etc/passwd=root", "etc/group=group", "etc/shadow=shadow", "etc/gshadow=g")
	tree(t, others, "etc/group=group and b's")
	tree(t, seen, "etc/passwd=root and a's", "etc/group=group and b's", "etc/gshadow=g and a's")
	tree(t, dir, "root/etc/gshadow=the installer's")
	for range 2 {
		if err := Inherit(dir, base, others, seen); err != nil {
			t.Fatal(err)
		}
		if got := dump(t, dir); got != "root/ 755\nroot/etc/ 755\nroot/etc/gshadow=the installer's\nroot/etc/passwd=root and a's\n" {
			t.Errorf("got\n%s", got)
		}
	}
	empty := filepath.Join(tmp, "2")
	tree(t, empty, "root/")
	for _, none := range [][2]string{{"", ""}, {others, others}, {filepath.Join(tmp, "missing"), filepath.Join(tmp, "missing")}} {
		if err := Inherit(empty, base, none[0], none[1]); err != nil {
			t.Error(err)
		}
	}
	if got := dump(t, empty); got != "root/ 755\n" {
		t.Errorf("got\n%s", got)
	}
	link := filepath.Join(tmp, "3")
	tree(t, link, "root/etc>../../outside")
	tree(t, tmp, "outside/")
	if err := Inherit(link, base, others, seen); err != nil {
		t.Error(err)
	}
	if got := dump(t, filepath.Join(tmp, "outside")); got != "" {
		t.Errorf("outside:\n%s", got)
	}
	tree(t, tmp, "bad/etc/passwd/")
	if err := Inherit(empty, base, others, filepath.Join(tmp, "bad")); err == nil || !strings.Contains(err.Error(), "bad/etc/passwd") {
		t.Errorf("got %v", err)
	}
}
