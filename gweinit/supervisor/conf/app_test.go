package conf

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// appFolder makes the folder of an app with files in its etc/supervisor/conf.d.
func appFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, AppConfigs, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestApps(t *testing.T) {
	main := filepath.Join(t.TempDir(), "supervisord.conf")
	if err := os.WriteFile(main, []byte("[supervisord]\n[program:gwe]\ncommand=gwe\n[program:own]\ncommand=own\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	accounts := t.TempDir()
	if err := os.MkdirAll(filepath.Join(accounts, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(accounts, "etc/passwd"), []byte("sine:x:700:700::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sine := appFolder(t, map[string]string{
		"sine.conf": "[DEFAULT]\npriority=5\n[supervisord]\nlogfile=/x\n[program:sine]\ncommand=/usr/local/bin/sine %(here)s\nuser=sine\n",
		".hidden":   "[program:hidden]\ncommand=x\n", "readme.txt": "no configuration",
	})
	bad := appFolder(t, map[string]string{
		"bad.conf":   "[program:bad]\ncommand=x\nstartsecs=soon\n[program:gwe]\ncommand=evil\n[program:sine]\ncommand=evil\n",
		"good.conf":  "[program:good]\ncommand=good\nstdout_logfile=/data/good/log\nstderr_logfile=/opt/log\n[program:rooted]\ncommand=x\nroot_directory=/\n[group:both]\nprograms=good,own\n",
		"wrong.conf": "no section\n",
	})
	if err := os.Symlink("/etc/passwd", filepath.Join(bad, AppConfigs, "link.conf")); err != nil {
		t.Fatal(err)
	}
	c, err := Load(main, Options{Apps: []App{
		{Name: "sine", Folder: sine, Root: "/run/apps/sine", Accounts: accounts, Revision: "7"},
		{Name: "bad", Folder: bad, Root: "/run/apps/bad", Revision: "8", Log: func(path string) string {
			if strings.HasPrefix(path, "/data/") {
				return "/host" + path
			}
			return ""
		}},
		{Name: "none", Folder: appFolder(t, nil), Root: "/run/apps/none"},
	}})
	programs := map[string]Program{}
	for _, g := range c.Groups {
		for _, p := range g.Programs {
			programs[p.Group+":"+p.Name] = p
		}
	}
	p := programs["sine:sine"]
	if p.Command != "/usr/local/bin/sine /etc/supervisor/conf.d" || p.RootDirectory != "/run/apps/sine" || p.App != "sine" || p.Revision != "7" || p.Priority != 5 || p.Credential == nil || p.Credential.UID != 700 {
		t.Errorf("sine is %+v, %+v", p, p.Credential)
	}
	if p := programs["both:good"]; p.RootDirectory != "/run/apps/bad" || p.App != "bad" || p.Stdout.File != "/host/data/good/log" || !p.Stderr.Auto {
		t.Errorf("good is %+v", p)
	}
	if p := programs["gwe:gwe"]; p.Command != "gwe" || p.App != "" || p.Priority != 999 {
		t.Errorf("gwe is %+v", p)
	}
	if p := programs["own:own"]; p.Command != "own" {
		t.Errorf("own is %+v", p)
	}
	if len(programs) != 4 {
		t.Errorf("programs %v", programs)
	}
	for _, want := range []string{"startsecs", "[program:gwe]: an app can have nothing of the name gwe", "[program:sine]: the app sine has", "wrong.conf:1", "link.conf: the file is left out", "there is no [program:own]", "an app has one already"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	if got := strings.Join(c.Warnings, "\n"); !strings.Contains(got, "an app has programs and groups only") || !strings.Contains(got, "logs of an app are below") {
		t.Errorf("warnings: %s", got)
	}
	q := p
	if q.Revision = "9"; p.Equal(q) {
		t.Error("another revision is no other program")
	}
}

// What an app has in its configuration costs the gateway and the apps before it
// nothing, and those after it only a name; each error has a file of the app that has
// to be changed.
func TestAppsAmongOthers(t *testing.T) {
	const sine = "[program:sine]\ncommand=sine\n"
	many := func(n int) string { return fmt.Sprintf("numprocs=%d\nprocess_name=%%(process_num)s\n", n) }
	wrong := strings.Repeat("no option\n", 3)
	for _, tt := range []struct {
		name, main string
		a, b       string   // of two apps
		want       []string // GROUP:PROCESS OF-APP; numbers are left out
		errA, errB string   // a part of the only error; "" for none
	}{
		{"each has its own", "[program:own]\ncommand=own\n", sine, "[program:b]\ncommand=b\n[group:bb]\nprograms=b\npriority=1\n",
			[]string{"bb:b b", "own:own ", "sine:sine a"}, "", ""},
		{"group with the name of a program", "[program:own]\ncommand=own\n", sine, "[group:own]\nprograms=foo\npriority=1\n[program:foo]\ncommand=evil\n",
			[]string{"own:own ", "sine:sine a"}, "", ":1: [group:own]: the firmware has a group or program of this name already"},
		{"program with the name of a group", "[group:own]\nprograms=x\n[program:x]\ncommand=x\n", sine, "\n[program:own]\ncommand=evil\npriority=1\n",
			[]string{"own:x ", "sine:sine a"}, "", ":2: [program:own]: the firmware has a group or program"},
		{"a blank in the name", "[program:own]\ncommand=own\n", "[program: own]\ncommand=evil\npriority=1\n", "[program: own ]\ncommand=evil\npriority=0\n",
			[]string{"own:own "}, ":1: [program: own]: the firmware has", ":1: [program: own ]: the firmware has"},
		{"group with the name of another app's program", "", sine, "[group:sine]\nprograms=foo\npriority=1\n[program:foo]\ncommand=evil\n",
			[]string{"sine:sine a"}, "", ":1: [group:sine]: the app a has a group or program"},
		{"program with the name of another app's group", "", "[group:sine]\nprograms=x\npriority=2000\n[program:x]\ncommand=x\n", sine,
			[]string{"sine:x a"}, "", ":1: [program:sine]: the app a has a group or program"},
		{"the same section", "", sine, sine, []string{"sine:sine a"}, "", ":1: [program:sine]: the app a has one of this name"},
		{"the name of a program that is wrong", "[group:own]\nprograms=x\npriority=soon\n[program:x]\ncommand=x\n", sine, "[program:own]\ncommand=evil\n",
			[]string{"sine:sine a"}, "", ":1: [program:own]: the firmware has"},
		{"two of its own", "", sine, "[group:b]\nprograms=x\n[program:x]\ncommand=x\n[program:b]\ncommand=b\npriority=5\n",
			[]string{"b:b b", "sine:sine a"}, "", ":1: [group:b]: two groups or programs have the name b"},
		{"two processes of a name", "", sine, "[group:b]\nprograms=x,y\n[program:x]\ncommand=x\nprocess_name=p\n[program:y]\ncommand=y\nprocess_name=p\n",
			[]string{"b:p b", "sine:sine a"}, "", ":1: [group:b]: two processes have the name p"},
		{"gwe", "", "[program:gwe]\ncommand=evil\n", "[group:gwe]\nprograms=foo\n", nil, "[program:gwe]: an app can have nothing", "[group:gwe]: an app can have nothing"},
		{"gmq", "", "[program: gmq]\ncommand=evil\n", sine, []string{"sine:sine b"}, "[program: gmq]: an app can have nothing", ""},
		{"all", "", "[program:all]\ncommand=evil\n", sine, []string{"sine:sine b"}, "[program:all]: an app can have nothing", ""},
		{"not the gateway's process name", "", "[group:a]\nprograms=x\n[program:x]\ncommand=x\nprocess_name=gwe\n", sine, []string{"a:gwe a", "sine:sine b"}, "", ""},
		{"many processes", "[program:own]\ncommand=own\n" + many(1000), "[program:x]\ncommand=x\n" + many(101), "[program:y]\ncommand=y\n" + many(100),
			[]string{"own:N ", "y:N b"}, "[program:x] numprocs = 101: more than 100 processes in all", ""},
		{"long values", "[program:own]\ncommand=own\n", "[program:x]\ncommand=x %(program_name)500000s\n" + many(3), sine,
			[]string{"own:own ", "sine:sine b"}, "too long together", ""},
		{"many wrong lines", "[program:own]\ncommand=own\nstartsecs=1\n", "[program:x]\n" + wrong, sine,
			[]string{"own:own ", "sine:sine b"}, "a.conf:2: [program:x]: the file is left out: a line without", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			main := filepath.Join(t.TempDir(), "supervisord.conf")
			if err := os.WriteFile(main, []byte("[supervisord]\n"+tt.main), 0o644); err != nil {
				t.Fatal(err)
			}
			a := appFolder(t, map[string]string{"a.conf": tt.a})
			b := appFolder(t, map[string]string{"b.conf": tt.b})
			c, err := Load(main, Options{Apps: []App{{Name: "a", Folder: a, Root: "/"}, {Name: "b", Folder: b, Root: "/"}}})
			seen := map[string]bool{}
			for _, g := range c.Groups {
				for _, p := range g.Programs {
					name := p.Name
					if strings.Trim(name, "0123456789") == "" {
						name = "N"
					}
					seen[g.Name+":"+name+" "+p.App] = true
				}
			}
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, tt.want) {
				t.Errorf("programs %q, want %q", got, tt.want)
			}
			list, _ := err.(Errors)
			for folder, want := range map[string]string{a: tt.errA, b: tt.errB} {
				found := false
				for _, e := range list {
					found = found || strings.HasPrefix(e.File, folder+"/") && want != "" && strings.Contains(e.Error(), want)
				}
				if want != "" && !found {
					t.Errorf("no error of %s with %q: %v", folder, want, err)
				}
			}
			for _, e := range list {
				if e.File == main && !strings.Contains(tt.main, "soon") || strings.HasPrefix(e.File, a) && tt.errA == "" || strings.HasPrefix(e.File, b) && tt.errB == "" {
					t.Errorf("an error of another: %v", e)
				}
			}
		})
	}
}

// An app with a thousand mistakes hides none of the gateway's, nor is one of them the
// gateway's.
func TestAppsWithManyErrors(t *testing.T) {
	main := filepath.Join(t.TempDir(), "supervisord.conf")
	if err := os.WriteFile(main, []byte("[supervisord]\n[program:own]\ncommand=own\nstartsecs=soon\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i := range 600 {
		fmt.Fprintf(&text, "[program:p%d]\ncommand=x\nstartsecs=soon\n", i)
	}
	folder := appFolder(t, map[string]string{"a.conf": text.String()})
	other := appFolder(t, map[string]string{"b.conf": "[program:b]\ncommand=b\nstartsecs=later\n"})
	_, err := Load(main, Options{Apps: []App{{Name: "a", Folder: folder, Root: "/"}, {Name: "b", Folder: other, Root: "/"}}})
	count := map[string]int{}
	list, _ := err.(Errors)
	for _, e := range list {
		count[e.File]++
	}
	want := map[string]int{main: 1, filepath.Join(folder, AppConfigs, "a.conf"): appShare.errs + 1, filepath.Join(other, AppConfigs, "b.conf"): 1}
	if !maps.Equal(count, want) {
		t.Errorf("errors %v, want %v", count, want)
	}
	if !strings.Contains(err.Error(), "a.conf: there is more than is listed") {
		t.Errorf("it does not say that there is more: %v", err)
	}
}
