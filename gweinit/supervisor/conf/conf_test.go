package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// load loads a configuration with [supervisord] in front.
func load(t *testing.T, text string, opt Options) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.conf")
	if err := os.WriteFile(file, []byte("[supervisord]\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, opt)
	if c == nil || c.File != file {
		t.Fatalf("%+v, %v", c, err)
	}
	return c, err
}

func TestOptions(t *testing.T) {
	const text = "[program:a]\ncommand = %(ENV_X)s\nstderr_logfile_backups = 4\n"
	c, err := load(t, text, Options{Environ: []string{"X=1", "X=2"}, LogMaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Groups[0].Programs[0]
	if p.Command != "2" || p.Stdout != (Log{Auto: true, MaxBytes: 1 << 20}) || p.Stderr.Backups != 4 {
		t.Errorf("%+v", p)
	}
	c, err = load(t, text, Options{Environ: []string{"X=1"}, LogBackups: 3})
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Groups[0].Programs[0]; p.Stdout != (Log{Auto: true, MaxBytes: 50 << 20, Backups: 10}) {
		t.Errorf("%+v", p)
	}
}

func TestEqual(t *testing.T) {
	const text = "[program:a]\ncommand = c\nenvironment = A=1\nuser = 0\n"
	first, err := load(t, text, Options{})
	if err != nil {
		t.Fatal(err)
	}
	second, _ := load(t, text, Options{})
	second.Groups[0].Programs[0].Credential.Groups = nil
	if !first.Groups[0].Equal(second.Groups[0]) {
		t.Error("the same is not equal")
	}
	for _, line := range []string{"priority = 5", "command = d", "directory = /", "umask = 2", "autostart = 0", "autorestart = 0",
		"startsecs = 2", "startretries = 0", "stopwaitsecs = 0", "exitcodes = 1", "stopsignal = INT", "stopasgroup = 1",
		"killasgroup = 1", "user = nobody", "redirect_stderr = 1", "stdout_logfile = /tmp/x", "stderr_logfile = none",
		"stdout_logfile_backups = 1", "environment = A=2", "serverurl = x://y", "root_directory = /\nuser = root", "memory_limit = 1",
		"cpu_weight = 1", "pids_limit = 1", "process_name = b", "stderr_syslog = 1", "stdout_events_enabled = 1"} {
		other, err := load(t, text+line, Options{})
		if err != nil {
			t.Errorf("%s: %v", line, err)
		} else if first.Groups[0].Equal(other.Groups[0]) {
			t.Errorf("%s changes nothing", line)
		}
	}
	other, _ := load(t, text+"[program:b]\ncommand = c\n[group:a]\nprograms = a,b", Options{})
	if first.Groups[0].Equal(other.Groups[0]) {
		t.Error("a program more changes nothing")
	}
	// Each field of a program has to be compared.
	if n := reflect.TypeFor[Program]().NumField(); n != 28 {
		t.Errorf("Program has %d fields; look at Equal", n)
	}
}

// Nothing that is not a file of a reasonable size is read, nor waited for.
func TestFiles(t *testing.T) {
	folder := t.TempDir()
	big := filepath.Join(folder, "big")
	fifo := filepath.Join(folder, "fifo")
	if err := errors.Join(os.WriteFile(big, make([]byte, maxFile+1), 0o600), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for file, want := range map[string]string{big: "more than", fifo: "not a regular file", folder: "not a regular file",
		"/dev/zero": "not a regular file", filepath.Join(folder, "none"): "no such file"} {
		c, err := Load(file, Options{})
		if list, ok := err.(Errors); !ok || len(list) != 1 || c == nil || c.Supervisord.MinFDs != 1024 ||
			!strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), file+": ") {
			t.Errorf("%s: %v", file, err)
		}
		if client, err := LoadClient(file, Options{}); err == nil || client.Prompt != "supervisor" {
			t.Errorf("%s: %+v, %v", file, client, err)
		}
		c, err = load(t, "[include]\nfiles = "+file+"\n[program:a]\ncommand = c", Options{})
		if len(c.Groups) != 1 || err == nil == (want != "no such file") {
			t.Errorf("%s: %+v, %v", file, c, err)
		}
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
	if _, err := Load(filepath.Join(folder, "none"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// A short file must not need more memory or time than a gateway has.
func TestLimits(t *testing.T) {
	for name, text := range map[string]string{
		"long value":   "[program:a]\ncommand = %(program_name)1048577s",
		"long values":  "[program:a]\nnumprocs = 1000\nprocess_name = %(process_num)d\ncommand = c %(program_name)1000000s",
		"long twice":   "[program:a]\ncommand = %(program_name)1000000s%(program_name)1000000s",
		"processes":    strings.Repeat("[program:%d]\nnumprocs = 1000\nprocess_name = %(process_num)d\ncommand = c\n", 1) + manyPrograms(20),
		"environment":  "environment = " + manyVariables(20000) + "\n" + manyPrograms(10),
		"garbage":      strings.Repeat("x\n", 400000),
		"program list": "[group:g]\nprograms = " + strings.Repeat("a,", 400000),
		"sections":     strings.Repeat("[program:x]\n[a]\n", 50000),
	} {
		start := time.Now()
		c, err := load(t, text, Options{})
		if err == nil && name != "sections" {
			t.Errorf("%s: no error", name)
		} else if err != nil && len(err.(Errors)) > maxMessages+1 {
			t.Errorf("%s: %d errors", name, len(err.(Errors)))
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s: it took %v", name, d)
		}
		checkConfig(t, c)
	}
}

func manyPrograms(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "[program:p%d]\nnumprocs = 1000\nprocess_name = %%(process_num)d\ncommand = c\n", i)
	}
	return b.String()
}

func manyVariables(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "A%d=1,", i)
	}
	return b.String()
}

// A file that was written only in part gives what is there, or errors.
func TestTorn(t *testing.T) {
	const text = "[unix_http_server]\nfile = /tmp/s\nusername = u\npassword = p\n" +
		"[program:a]\ncommand = /bin/a\nuser = nobody\nenvironment = A=\"b, c\",\n  D=\"e\"\n[group:g]\nprograms = a\n"
	for i := range len(text) {
		c, err := load(t, text[:i], Options{})
		checkConfig(t, c)
		if err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	}
}

func TestErrorText(t *testing.T) {
	e := &Error{File: "f", Line: 3, Section: "program:a\x1b", Option: "o", Value: strings.Repeat("x", 300), Err: errors.New("wrong")}
	want := `f:3: ["program:a\x1b"] o = ` + strings.Repeat("x", 200) + "...: wrong"
	if e.Error() != want {
		t.Errorf("%s", e)
	}
	for want, e := range map[string]*Error{
		"wrong":            {Err: errors.New("wrong")},
		"f: wrong":         {File: "f", Err: errors.New("wrong")},
		"f:1: wrong":       {File: "f", Line: 1, Err: errors.New("wrong")},
		"f: [s]: wrong":    {File: "f", Section: "s", Err: errors.New("wrong")},
		"[s] o: wrong":     {Section: "s", Option: "o", Err: errors.New("wrong")},
		"[s] o = v: wrong": {Section: "s", Option: "o", Value: "v", Err: errors.New("wrong")},
	} {
		if e.Error() != want {
			t.Errorf("%s, not %s", e, want)
		}
	}
}

// The files of a root directory are not followed out of it.
func TestAccountsOfRoot(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/etc", 0o700), os.Symlink("/etc/passwd", root+"/etc/passwd")); err != nil {
		t.Fatal(err)
	}
	_, err := load(t, "[program:a]\ncommand = c\nuser = root\nroot_directory = "+root, Options{})
	if err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("%v", err)
	}
}
