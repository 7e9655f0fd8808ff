package layer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// firmware is a base as that of a gateway.
func firmware(t testing.TB) *installed {
	w := newInstalled(t,
		"usr/bin/gweinit=program", "usr/bin/gwe>gweinit", "usr/bin/init>/usr/bin/gweinit", "usr/bin/busybox=box", "usr/bin/sh>busybox", "usr/bin/su=su",
		"bin>usr/bin", "usr/sbin>bin", "usr/lib/python3/a.py=a", "usr/lib/python3/b.py=b", "usr/share/", "usr/local/bin/",
		"etc/passwd=root:x:0:0:root:/root:/bin/sh\n", "etc/group=root:x:0:\n", "etc/hosts=hosts", "etc/supervisor/conf.d/gwe.conf=gwe",
		"etc/gweinit/keys/key.pub=key", "var/", "tmp/", "root/", "init=file")
	if err := os.Chmod(filepath.Join(w.base, "usr/bin/su"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"nothing", "true", ""},
		{"an app", "mkdir -p opt/app usr/lib/app; echo x > opt/app/x; cp usr/bin/busybox usr/local/bin/app; ln -s app usr/local/bin/b; mkfifo opt/app/pipe", ""},
		{"its program", "echo x > etc/supervisor/conf.d/app.conf", ""},
		{"changes a file", "echo more >> usr/bin/busybox; echo more >> etc/hosts; chmod 600 usr/lib/python3/a.py", ""},
		{"users", "echo app:x:100:100::/:/bin/sh >> etc/passwd", ""},
		{"removes below etc", "rm etc/hosts; rm -r etc/gweinit; mkdir etc/gweinit", ""},
		{"a library anew", "rm -r usr/lib/python3; mkdir usr/lib/python3; echo new > usr/lib/python3/a.py", ""},
		{"an empty folder anew", "rmdir usr/share; mkdir usr/share; rmdir tmp; mkdir tmp", ""},
		{"the owner of a link", "chown -h 1:1 usr/bin/gwe bin", ""},
		{"set-uid as in the base", "echo more >> usr/bin/su; chmod 4755 usr/bin/su", ""},
		{"set-gid folder", "mkdir opt; chmod 2775 opt", ""},

		{"rm -rf", "rm -rf ./* 2>&1", "/bin: it is a part of the firmware, and was removed"},
		{"removes a file", "rm usr/bin/busybox", "/usr/bin/busybox: it is a part of the firmware, and was removed"},
		{"deep down", "rm usr/lib/python3/b.py", "/usr/lib/python3/b.py: it is a part of the firmware, and was removed"},
		{"removes etc", "rm -r etc", "/etc: it is a part of the firmware, and was removed"},
		{"etc anew", "rm -r etc; mkdir etc", "/etc: it is a folder of the firmware, and was removed and made anew"},
		{"a folder anew", "rm -r usr/bin; mkdir usr/bin", "/usr/bin: it is a folder of the firmware, and was removed and made anew"},
		{"a folder by a link", "rm -r usr/bin; ln -s lib usr/bin", "/usr/bin: it is a part of the firmware, and was replaced by a link"},
		{"a top folder by a file", "rm -r root; echo x > root", "/root: it is a part of the firmware, and was replaced by a file"},
		{"a top file by a folder", "rm init; mkdir init", "/init: it is a part of the firmware, and was replaced by a folder"},
		{"a link by a folder", "rm bin; mkdir bin", "/bin: it is a part of the firmware, and was replaced by a folder"},
		{"a deeper link by a folder", "rm usr/sbin; mkdir usr/sbin", "/usr/sbin: it is a part of the firmware, and was replaced by a folder"},
		{"a link elsewhere", "ln -sfn usr/lib bin", "/bin: it is a part of the firmware, and was replaced by a link"},
		{"gweinit", "echo x > usr/bin/gweinit", "/usr/bin/gweinit: it is Gateway Engine itself, and was replaced"},
		{"gweinit's mode", "chmod 700 usr/bin/gweinit", "/usr/bin/gweinit: it is Gateway Engine itself, and was replaced"},
		{"gwe", "rm usr/bin/gwe; echo x > usr/bin/gwe", "/usr/bin/gwe: it is Gateway Engine itself, and was replaced"},
		{"init", "ln -sf busybox usr/bin/init", "/usr/bin/init: it is Gateway Engine itself, and was replaced"},
		{"a program of the firmware", "echo x > etc/supervisor/conf.d/gwe.conf", "/etc/supervisor/conf.d/gwe.conf: it configures a program of the firmware"},
		{"without a program of the firmware", "rm etc/supervisor/conf.d/gwe.conf", "/etc/supervisor/conf.d/gwe.conf: it configures a program of the firmware"},
		{"a device", "mkdir opt; mknod opt/null c 1 3", "/opt/null: it is a device node"},
		{"a block device", "mkdir opt; mknod opt/disk b 0 0", "/opt/disk: it is a device node"},
		{"set-uid", "cp usr/bin/busybox usr/bin/up; chmod 4755 usr/bin/up", "/usr/bin/up: it is set-uid or set-gid"},
		{"set-gid", "cp usr/bin/busybox usr/bin/up; chmod 2755 usr/bin/up", "/usr/bin/up: it is set-uid or set-gid"},
		{"more than in the base", "chmod 6755 usr/bin/su", "/usr/bin/su: it is set-uid or set-gid"},
		{"set-uid of another", "chown 5 usr/bin/su; chmod 4755 usr/bin/su", "/usr/bin/su: it is set-uid or set-gid"},
		{"passwd is a link", "ln -sf hosts etc/passwd", "/etc/passwd: it has to stay a file"},
		{"no group", "rm etc/group", "/etc/group: it has to stay a file"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			w := firmware(t)
			w.install(tt.script)
			err := Check(w.dir, w.base)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
				t.Errorf("%v, want %q\n%s", err, tt.want, dump(t, filepath.Join(w.dir, Root)))
			}
		})
	}
}

// The files of other apps are below the layer, too.
func TestCheckOtherApps(t *testing.T) {
	w := firmware(t)
	other := filepath.Join(w.tmp, "4")
	tree(t, other, "usr/bin/other=x", "opt/other/file=x", "etc/supervisor/conf.d/other.conf=x")
	run(t, filepath.Join(w.dir, Root), other+":"+w.base, "rm usr/bin/other etc/supervisor/conf.d/other.conf; rm -r opt/other; mkdir opt/other; chmod 4755 opt/other")
	if err := Check(w.dir, w.base); err != nil {
		t.Error(err)
	}
}

func TestCheckFails(t *testing.T) {
	w := firmware(t)
	w.install("echo x > x")
	for _, tt := range [][2]string{{w.dir, filepath.Join(w.tmp, "missing")}, {filepath.Join(w.tmp, "missing"), w.base}} {
		if err := Check(tt[0], tt[1]); err == nil || !strings.Contains(err.Error(), "missing") {
			t.Errorf("%q: %v", tt, err)
		}
	}
}

func TestEmpty(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		want         bool
	}{
		{"nothing", "true", true},
		{"came and went", "echo x > usr/bin/x; rm usr/bin/x; mkdir -p opt/x; rm -r opt", true},
		{"what Python compiled", "mkdir usr/lib/python3/__pycache__; echo x > usr/lib/python3/__pycache__/a.pyc", true},
		{"a file", "mkdir opt; echo x > opt/x", false},
		{"a link", "ln -s x usr/bin/x", false},
		{"a folder", "mkdir usr/lib/x", false},
		{"the mode of a folder", "chmod 700 usr/lib", false},
		{"the owner of a folder", "chown 5 usr/lib", false},
		{"a whiteout", "rm etc/hosts", false},
		{"an opaque folder", "rm -r etc/gweinit; mkdir etc/gweinit", false},
		{"a file compiled elsewhere", "echo x > usr/lib/python3/a.pyc", false},
	} {
		w := firmware(t)
		w.install(tt.script)
		if empty, err := Empty(w.dir, w.base); empty != tt.want || err != nil {
			t.Errorf("%s: %v, %v\n%s", tt.name, empty, err, dump(t, filepath.Join(w.dir, Root)))
		}
	}
	if _, err := Empty(t.TempDir(), t.TempDir()); err == nil {
		t.Error("a layer without a root: no error")
	}
}
