package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const cik = "e469e336ff9c8ed9176bc05ed7fa40daaaaaaaaa"

var defaults = Settings{DebugLevel: "INFO", UpdateInterval: 4 * time.Hour, ActivationRetry: 5 * time.Minute, Push: "poll", Trial: 15 * time.Minute}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func TestLoad(t *testing.T) {
	for _, c := range []struct {
		name            string
		gateway, engine string
		want            func(*Settings)
		problems        []string // parts of them, in order
	}{
		{name: "no files"},
		{"everything", "[device]\ncik = " + cik + "\nmodel = m\nvendor = v\nuuid = GW 1\niface = eth1\n",
			"[engine]\ndebug_level = warning\nupdate_interval = 1\nactivation_retry_interval = 2592000\nuser_agent = 'a ; b'\n" +
				"[exosite]\nhost = http://h:1/\nca = /ca\ncertificate = /c\nkey = /k\npush = MQTT\n[firmware]\ntrial = 86400\nwindow = 22:30-04:00\n",
			func(s *Settings) {
				*s = Settings{CIK: cik, Model: "m", Vendor: "v", UUID: "GW 1", Iface: "eth1", DebugLevel: "WARNING", UpdateInterval: time.Second, ActivationRetry: 30 * 24 * time.Hour,
					UserAgent: "a ; b", Host: "http://h:1/", CA: "/ca", Certificate: "/c", Key: "/k", Push: "mqtt", Trial: 24 * time.Hour, Window: "22:30-04:00"}
			}, nil},
		{name: "empty values", gateway: "[device]\ncik = ''\nmodel = \"\"\nvendor =\n", engine: "[engine]\ndebug_level = ''\nupdate_interval = ''\n[exosite]\npush = ''\n"},
		{name: "the defaults as files", gateway: string(Defaults(GatewayFile)), engine: string(Defaults(EngineFile))},
		{"of Windows", "\ufeff[device]\r\nuuid: s ; door\r\niface = 'eth0'\r\n", "[engine]\r\nupdate_interval = 60\r\n",
			func(s *Settings) { s.UUID, s.Iface, s.UpdateInterval = "s", "eth0", time.Minute }, nil},
		{"values that cannot be used", "[device]\ncik = " + cik + "\xff\nuuid = s\n", "[engine]\nupdate_interval = 0\nactivation_retry_interval = 5m\ndebug_level = loud\n[exosite]\npush = pull\n[firmware]\ntrial = 9\nwindow = 2-4\n",
			func(s *Settings) { s.UUID = "s" },
			[]string{"Gateway.cfg: [device] cik: it cannot be used, want printable characters; none counts", `Engine.config: [engine] debug_level: "loud" cannot be used, want DEBUG, INFO, WARNING, ERROR or CRITICAL; "INFO" counts`,
				`[engine] update_interval: "0" cannot be used, want whole seconds from 1 to 2592000; "14400" counts`, `activation_retry_interval: "5m"`, `[exosite] push: "pull" cannot be used, want poll, mqtt or off; "poll"`,
				`[firmware] trial: "9" cannot be used, want whole seconds from 10 to 86400; "900" counts`, `[firmware] window: "2-4" cannot be used, want HH:MM-HH:MM; none counts`}},
		{"intervals", "", "[engine]\nupdate_interval = 2592001\nactivation_retry_interval = 99999999999999999999\n", nil, []string{`"2592001"`, `"99999999999999999999"`}},
		{"a long value", "", "[exosite]\npush = " + strings.Repeat("x", 1000), nil, []string{`xxx..." cannot be used`}},
		{"torn", "\ufeff[device]\nuuid = s\n[mo", "[engine]\nupdate_interval = 60\ndebug_l", func(s *Settings) { s.UUID, s.UpdateInterval = "s", time.Minute },
			[]string{"Gateway.cfg: line 3 is no [section]", "Engine.config: line 3 is no [section]"}},
		{"garbage", "\x00\x00\x00\xff\xfe", "a\nb\nc\nd\ne\n", nil, []string{"Gateway.cfg: line 1 has control characters", "line 1", "line 2", "line 3", "2 more such lines"}},
		{"too long", "[device]\nuuid = s\n" + strings.Repeat("\n", maxFile), "", nil, []string{"Gateway.cfg: it has more than 65536 bytes"}},
	} {
		f := Files{t.TempDir()}
		if c.gateway != "" {
			write(t, filepath.Join(f.Dir, GatewayFile), c.gateway)
		}
		if c.engine != "" {
			write(t, filepath.Join(f.Dir, EngineFile), c.engine)
		}
		want := defaults
		if c.want != nil {
			c.want(&want)
		}
		got, problems, err := f.Load()
		if got != want || err != nil || len(problems) != len(c.problems) {
			t.Errorf("%s: %+v, %q, %v\nwant %+v", c.name, got, problems, err, want)
			continue
		}
		for i, p := range problems {
			if !strings.Contains(p.Error(), c.problems[i]) || strings.Contains(p.Error(), cik) || len(p.Error()) > 300 {
				t.Errorf("%s: %q, want %q", c.name, p, c.problems[i])
			}
		}
	}
}

func TestLoadFails(t *testing.T) {
	f := Files{t.TempDir()}
	write(t, filepath.Join(f.Dir, "other"), "[device]\nuuid = s\n")
	if err := os.Symlink("other", filepath.Join(f.Dir, GatewayFile)); err != nil {
		t.Fatal(err)
	}
	if s, _, err := f.Load(); err == nil || !strings.Contains(err.Error(), GatewayFile+" is no regular file") {
		t.Errorf("a link: %+v, %v", s, err)
	}
	if err := f.Set(Change{GatewayFile, "device", "uuid", "t"}); err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("a link: %v", err)
	}
	if got := read(t, filepath.Join(f.Dir, "other")); got != "[device]\nuuid = s\n" {
		t.Errorf("behind the link: %q", got)
	}
}

func TestSet(t *testing.T) {
	f := Files{filepath.Join(t.TempDir(), "data", "gwe")}
	at := func(name string) string { return filepath.Join(f.Dir, name) }
	if err := f.Set(Change{EngineFile, "engine", "update_interval", "60"}, Change{GatewayFile, "device", "cik", cik}, Change{GatewayFile, "device", "iface", ""}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, at(GatewayFile)) + read(t, at(EngineFile)); got != "[device]\ncik = "+cik+"\niface = ''\n[engine]\nupdate_interval = 60\n" {
		t.Errorf("%q", got)
	}
	for name, want := range map[string]fs.FileMode{f.Dir: fs.ModeDir | 0o700, at(GatewayFile): 0o600, at(EngineFile): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}

	// What does not change is not written.
	old := time.Unix(1e9, 0)
	for _, name := range []string{GatewayFile, EngineFile} {
		if err := os.Chtimes(at(name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Set(Change{EngineFile, "engine", "update_interval", "60"}, Change{GatewayFile, "device", "uuid", "s"}); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(at(EngineFile))
	if err != nil || !info.ModTime().Equal(old) {
		t.Errorf("written without a change: %v, %v", info.ModTime(), err)
	}
	if got := read(t, at(GatewayFile)); got != "[device]\ncik = "+cik+"\niface = ''\nuuid = s\n" {
		t.Errorf("%q", got)
	}

	// All or nothing.
	before := read(t, at(GatewayFile))
	for _, wrong := range []Change{{EngineFile, "engine", "user_agent", "a\nb"}, {"Other.cfg", "a", "b", "c"}} {
		err := f.Set(Change{GatewayFile, "device", "uuid", "t"}, wrong)
		if err == nil || !strings.Contains(err.Error(), wrong.File) || read(t, at(GatewayFile)) != before {
			t.Errorf("%v: %v, %q", wrong, err, read(t, at(GatewayFile)))
		}
	}

	// What a power cut and a crash have left.
	write(t, at("."+GatewayFile+".new"), "torn")
	write(t, at(EngineFile), strings.Repeat("\x00", maxFile+1))
	if err := f.Set(Change{GatewayFile, "device", "uuid", "t"}, Change{EngineFile, "engine", "update_interval", "7"}); err != nil {
		t.Error(err)
	}
	write(t, at(GatewayFile), read(t, at(GatewayFile))+"#"+strings.Repeat("x", maxFile-len(read(t, at(GatewayFile)))-1))
	if err := f.Set(Change{GatewayFile, "device", "iface", "eth0"}); err != nil {
		t.Error(err)
	}
	if got := read(t, at(GatewayFile)) + read(t, at(EngineFile)); got != "[device]\niface = eth0\n[engine]\nupdate_interval = 7\n" {
		t.Errorf("%.200q", got)
	}
	if names, err := filepath.Glob(at(".*")); err != nil || len(names) > 0 {
		t.Errorf("left: %q, %v", names, err)
	}
}

// A change is decided on what is there, and returned.
func TestUpdate(t *testing.T) {
	f := Files{t.TempDir()}
	for i := range 3 {
		made, err := f.Update(func(s Settings) []Change {
			if s.UUID == "xx" {
				return nil
			}
			return []Change{{GatewayFile, DeviceSection, "uuid", s.UUID + "x"}}
		})
		if err != nil || len(made) != min(1, 2-i) {
			t.Errorf("%d: %v, %v", i, made, err)
		}
	}
}

// TestConcurrentSet has this process and others change one file: nothing is lost.
func TestConcurrentSet(t *testing.T) {
	const each = 20
	if dir := os.Getenv("GATEWAY_TEST_DIR"); dir != "" { // one of the others
		for i := range each {
			if err := (Files{dir}).Set(Change{EngineFile, "test", os.Getenv("GATEWAY_TEST_KEY") + fmt.Sprint(i), "1"}); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	dir := t.TempDir()
	var wait sync.WaitGroup
	for n := range 2 {
		wait.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestConcurrentSet$")
			cmd.Env = append(os.Environ(), "GATEWAY_TEST_DIR="+dir, fmt.Sprintf("GATEWAY_TEST_KEY=process%d_", n))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
		wait.Go(func() {
			for i := range each {
				if err := (Files{dir}).Set(Change{EngineFile, "test", fmt.Sprintf("goroutine%d_%d", n, i), "1"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if n := strings.Count(read(t, filepath.Join(dir, EngineFile)), " = 1\n"); n != 4*each {
		t.Errorf("%d options, want %d", n, 4*each)
	}
}

func TestSameDevice(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b Settings
		want bool
	}{
		{"nothing", Settings{}, Settings{}, true},
		{"other things", Settings{UUID: "s", CIK: "a", Host: "h"}, Settings{UUID: "s"}, true},
		{"vendor", Settings{Vendor: "p"}, Settings{Vendor: "q"}, false},
		{"model", Settings{Model: "p"}, Settings{}, false},
		{"uuid", Settings{UUID: "s"}, Settings{UUID: "t"}, false},
		{"a uuid for the first time", Settings{Iface: "eth0"}, Settings{UUID: "t", Iface: "eth0"}, false},
		{"link", Settings{Iface: "eth0"}, Settings{Iface: "eth1"}, false},
		{"the default link may be the same", Settings{}, Settings{Iface: "eth1"}, true},
		{"link beside a uuid", Settings{UUID: "s", Iface: "eth0"}, Settings{UUID: "s", Iface: "eth1"}, true},
	} {
		if SameDevice(c.a, c.b) != c.want || SameDevice(c.b, c.a) != c.want {
			t.Errorf("%s: not %v", c.name, c.want)
		}
	}
}

// FuzzLoad: whatever is in the files they load, and what is set then is there.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{"[device]\ncik = abc\n", "0=0\\#", "x\n[device]\n  a = \"\"\"b\nc\"\"\"\n", "#\n;\n[device]\n- = a\n`b=c` = d\n", "[device]\nuuid = 'a';b", "\ufeff[device]\r\nuuid:;\r\n",
		"[device\n[x]\nuuid=\x00", "[device]\nuuid\t=\"'\" # '\n", "\ufeff\ufeff[device]"} {
		f.Add([]byte(text), "GW-1")
	}
	f.Add([]byte("[device]\nuuid = a ; b"), " ;'")
	f.Fuzz(func(t *testing.T, text []byte, value string) {
		files := Files{t.TempDir()}
		path := filepath.Join(files.Dir, GatewayFile)
		write(t, path, string(text))
		write(t, filepath.Join(files.Dir, EngineFile), string(text))
		if _, _, err := files.Load(); err != nil {
			t.Fatal(err)
		}
		change := Change{GatewayFile, DeviceSection, "uuid", value}
		before := ParseINI(text)
		if got := before.Text(); !bytes.Equal(got, text) {
			t.Errorf("%q becomes %q", text, got)
		}
		if err := before.Set("device", "uuid", before.Value("device", "uuid")); err != nil {
			t.Errorf("%q: its own value: %v", text, err)
		}
		if err := files.Set(change); err != nil {
			if got := read(t, path); got != string(text) {
				t.Errorf("%q becomes %q, %v", text, got, err)
			}
			return
		}
		once := read(t, path)
		if got := ParseINI([]byte(once)).Value("device", "uuid"); got != value {
			t.Errorf("%q becomes %q: the value is %q, want %q", text, once, got, value)
		}
		for _, key := range []string{"cik", "vendor"} {
			if got, want := ParseINI([]byte(once)).Value("device", key), ParseINI(text).Value("device", key); got != want {
				t.Errorf("%q becomes %q: %s is %q, was %q", text, once, key, got, want)
			}
		}
		if err := files.Set(change); err != nil || read(t, path) != once {
			t.Errorf("%q the second time: %q, %v", once, read(t, path), err)
		}
	})
}

func TestParseRelease(t *testing.T) {
	for _, tt := range []struct {
		text string
		want map[string]string
	}{
		{"", map[string]string{}},
		{"NAME=\"Gateway Engine\"\nID=gwe\nIMAGE_ID=qemu-arm64\nIMAGE_VERSION=1.2.0+3.gabcdef0.dirty\n",
			map[string]string{"NAME": "Gateway Engine", "ID": "gwe", "IMAGE_ID": "qemu-arm64", "IMAGE_VERSION": "1.2.0+3.gabcdef0.dirty"}},
		{"# ID=no\n\n  ID='a b'  \r\nno line\nURL=http://x/?a=b", map[string]string{"ID": "a b", "URL": "http://x/?a=b"}},
		{"EMPTY=\nQUOTED=\"\"\n", map[string]string{"EMPTY": "", "QUOTED": ""}},
	} {
		if got := ParseRelease(tt.text); !maps.Equal(got, tt.want) {
			t.Errorf("%q:\ngot  %q\nwant %q", tt.text, got, tt.want)
		}
	}
}
