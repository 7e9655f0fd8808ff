package conf

import (
	"os"
	"path/filepath"
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
	for _, want := range []string{"startsecs", "[program:gwe]: the firmware has one of this name already", "[program:sine]: the app sine has", "wrong.conf:1", "link.conf: the file is left out", "there is no [program:own]", "an app has one already"} {
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
