package supervisor

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// What a program finds when it starts.
func TestSurroundings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, `environment=COMMON=1,OWN=0
[program:x]
command=sh -c 'umask; pwd; id -u; id -G; echo $OWN$COMMON $WORLD $SUPERVISOR_ENABLED $SUPERVISOR_PROCESS_NAME $SUPERVISOR_GROUP_NAME $SUPERVISOR_SERVER_URL "$QUOTED"; ls -l /proc/self/fd; ps -o pgid= -p $$; echo $$'
directory=`+dir+`
user=www-data
umask=027
startsecs=0
environment=OWN=2,QUOTED="a, b",OWN=3
[program:y]
command=sh -c 'umask'
startsecs=0
[group:g]
programs=x
`, func(o *Options) { o.ServerURL = "unix:///s" })
	w.passes("g:x", "STARTING RUNNING EXITED")
	w.passes("y", "STARTING RUNNING EXITED")
	www, err := user.Lookup("www-data")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`^0027
%s
%s
%s
31 %s 1 x g unix:///s a, b
total 0
.* 0 -> pipe:.*
.* 1 -> pipe:.*
.* 2 -> pipe:.*
.* 3 -> /proc/.*
 *(\d+)
(\d+)
$`, dir, www.Uid, www.Gid, w.dir)
	got := regexp.MustCompile(want).FindStringSubmatch(w.logged("g:x"))
	if got == nil || got[1] != got[2] {
		t.Errorf("%s\nwant %s", w.logged("g:x"), want)
	}
	if w.logged("y") != "0022\n" || unix.Umask(0o22) != 0o22 {
		t.Errorf("the umask of one program has become that of another (%s) or ours", w.logged("y"))
	}
}

// Commands are found as Supervisor does, and where configurations in the field
// expect it.
func TestCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"own/tool": 0o755, "own/plain": 0o644, "theirs/other": 0o755, "own/folder/x": 0o755} {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	own, theirs := dir+"/own", dir+"/theirs"
	for _, tt := range []struct{ command, path, want string }{
		{"other", "", theirs + "/other"},
		{"tool", "", "can't find command 'tool'"},
		{"tool -x 'a b'", own, own + "/tool"},
		{"other", own, theirs + "/other"}, // Supervisor does not find it
		{"other", own + ":$PATH", theirs + "/other"},
		{"tool", "$PATH:" + own, own + "/tool"},
		{"plain", own, "command at '" + own + "/plain' is not executable"},
		{"folder", own, "command at '" + own + "/folder' is a directory"},
		{own + "/tool", "", own + "/tool"},
		{"/no/such", "", "can't find command '/no/such'"},
		{"own/tool", "", "own/tool"}, // from the program's directory
		{"'own/tool", "", "can't parse command"},
	} {
		c := conf.Program{Command: tt.command, Directory: dir, Environment: map[string]string{}}
		if tt.path != "" {
			c.Environment["PATH"] = tt.path
		}
		p := &process{s: New(Options{Environ: []string{"PATH=" + theirs}}), conf: c}
		got, argv, err := p.executable()
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.want) || err == nil && argv[0] != strings.Fields(tt.command)[0] {
			t.Errorf("%s with PATH=%s: %s, %q; want %s", tt.command, tt.path, got, argv, tt.want)
		}
	}
	p := &process{s: New(Options{Environ: []string{"PATH=/bin:/usr/bin"}}), conf: conf.Program{Environment: map[string]string{"PATH": "${PATH}:/usr/local/bin"}}}
	if env := strings.Join(p.environment(), " "); !strings.Contains(env, "PATH=/bin:/usr/bin:/usr/local/bin") {
		t.Error(env)
	}
}

// A program sees its root directory only, and is found in there: links do not
// lead out.
func TestRootDirectory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"usr", "tmp", "work"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sh": "/bin/sh", "out": "/../../../../etc/hostname"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("/usr", root+"/usr", "", unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root+"/usr", unix.MNT_DETACH) })
	w := newWorld(t, "[program:x]\ncommand=sh -c 'ls /; pwd'\nstartsecs=0\nroot_directory="+root+
		"\n[program:link]\ncommand=/sh -c pwd\ndirectory=/work\nstartsecs=0\nroot_directory="+root+
		"\n[program:escape]\ncommand=/out\nautostart=false\nroot_directory="+root)
	w.passes("x", "STARTING RUNNING EXITED")
	w.passes("link", "STARTING RUNNING EXITED")
	if got, want := w.logged("x"), "bin\nlib\nlib64\nout\nsh\ntmp\nusr\nwork\n/\n"; got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	if got := w.logged("link"); got != "/work\n" {
		t.Errorf("%q", got)
	}
	w.expect("fault 20: NO_FILE: can't find command '/out'", "startProcess", "escape")
}

// A start that fails says why, also in the log, where people look first.
func TestFailedStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `[program:folder]
command=sleep 1
directory=/no/such
autostart=false
startretries=0
[program:interpreter]
command=%(here)s/script
autostart=false
startretries=0
[program:garbage]
command=%(here)s/garbage
autostart=false
startretries=0
`)
	os.WriteFile(w.dir+"/script", []byte("#!/no/such/interpreter\n"), 0o755)
	os.WriteFile(w.dir+"/garbage", []byte("\x00\x01\x02"), 0o755)
	for name, want := range map[string]string{
		"folder":      "couldn't chdir to /no/such: ENOENT",
		"interpreter": "couldn't exec " + w.dir + "/script: ENOENT: " + w.dir + "/script or the interpreter that it names is missing",
		"garbage":     "couldn't exec " + w.dir + "/garbage: ENOEXEC",
	} {
		w.expect("fault 50: SPAWN_ERROR: "+name, "startProcess", name)
		w.passes(name, "STARTING BACKOFF FATAL")
		if got := w.info(name)["description"]; got != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
		file, _ := w.logFile(name, "stderr")
		w.eventually("the log says it", func() bool {
			text, _ := os.ReadFile(file)
			return string(text) == "supervisor: "+want+"\nsupervisor: child process was not spawned\n"
		})
	}
}

// Outputs that share a file take turns; what goes nowhere costs nothing.
func TestLogs(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "folder")
	w := newWorld(t, `[program:both]
command=sh -c 'i=0; while test $i -lt 2000; do echo "out %(process_num)d $i"; echo "err %(process_num)d $i" >&2; i=$((i+1)); done'
process_name=%(process_num)s
numprocs=2
startsecs=0
stdout_logfile=%(here)s/both.log
stderr_logfile=%(here)s/both.log
stdout_logfile_maxbytes=20KB
stdout_logfile_backups=9
[program:none]
command=sh -c 'x=$(readlink /proc/$$/fd/1); echo $x > none; echo lost'
directory=%(here)s
startsecs=0
stdout_logfile=NONE
redirect_stderr=true
[program:unwritable]
command=sh -c 'yes | head -n 1000000; exec sleep 100'
stdout_logfile=`+folder+`/log
[program:noisy]
command=sh -c 'yes abcdefghi & exec sleep 100'
stdout_logfile=%(here)s/noisy.log
stdout_logfile_maxbytes=100KB
stdout_logfile_backups=1
`, func(o *Options) { // its folder goes away once the configuration is read
		load := o.Load
		o.Load = func() (*conf.Config, error) {
			os.Mkdir(folder, 0o755)
			defer os.Remove(folder)
			return load()
		}
	})
	for _, name := range []string{"both:0", "both:1", "none"} {
		w.passes(name, "STARTING RUNNING EXITED")
	}
	var all string
	for i := 9; i > 0; i-- {
		all += w.read(fmt.Sprintf("both.log.%d", i))
	}
	all += w.read("both.log")
	lines := regexp.MustCompile(`(?m)^(out|err) [01] \d+$`).FindAllString(all, -1)
	if len(lines) != 8000 || len(all) != len(strings.Join(lines, "\n"))+1 {
		t.Errorf("%d whole lines of 8000, %d bytes", len(lines), len(all))
	}
	if got := w.read("none"); got != "/dev/null\n" {
		t.Errorf("the output of none is %s", got)
	}
	// A program is not blocked by a log that cannot be written.
	w.passes("unwritable", "STARTING RUNNING")
	w.eventually("it has written all", func() bool {
		pid := w.info("unwritable")["pid"].(int)
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return string(comm) == "sleep\n"
	})
	w.passes("noisy", "STARTING RUNNING")
	for range 20 {
		time.Sleep(20 * time.Millisecond)
		for _, name := range []string{"noisy.log", "noisy.log.1"} {
			if info, err := os.Stat(filepath.Join(w.dir, name)); err == nil && info.Size() > 100<<10 {
				t.Fatalf("%s has %d bytes", name, info.Size())
			}
		}
	}
	w.expect(true, "stopProcess", "noisy")
}

func TestSyslog(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld(t, "[program:x]\ncommand=sh -c 'echo one; echo two >&2'\nstartsecs=0\nstdout_syslog=true\nstdout_logfile=NONE\nredirect_stderr=true", func(o *Options) {
		o.devLog = socket
	})
	w.passes("x", "STARTING RUNNING EXITED")
	buf := make([]byte, 1000)
	for _, want := range []string{"one", "two"} {
		l.SetReadDeadline(time.Now().Add(patience))
		n, err := l.Read(buf)
		if !regexp.MustCompile(`^<14>\w{3} [ \d]\d \d\d:\d\d:\d\d x: ` + want + `$`).Match(buf[:n]) {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
}

// Standard input that nobody reads, and one that was closed.
func TestStdin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[program:closed]\ncommand=sh -c 'exec <&-; exec sleep 100'\n[program:deaf]\ncommand=sleep 100")
	w.passes("closed", "STARTING RUNNING")
	w.passes("deaf", "STARTING RUNNING")
	w.expect("fault 20: NO_FILE: closed", "sendProcessStdin", "closed", "x")
	w.expect("fault 30: FAILED: deaf does not read its standard input", "sendProcessStdin", "deaf", strings.Repeat("x", 1<<20))
}
