package gdc

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
)

const sn = "GW-000123"

// world is an emulator with an activated device, and a folder.
type world struct {
	*exositetest.Server
	t   *testing.T
	cik string
	dir string
}

func newWorld(t *testing.T) *world {
	w := &world{Server: exositetest.New(t), t: t, dir: t.TempDir()}
	t.Chdir(w.dir)
	w.AddDevice(sn)
	status, out, errs := w.gdc("", "-H", w.url(), "-u", sn, "http", "activate")
	if w.cik = strings.TrimSpace(out); status != done || len(w.cik) != 40 {
		t.Fatalf("activation: %d, %q, %q", status, out, errs)
	}
	return w
}

func (w *world) url() string { return "http://" + w.HTTPAddr() + "/" }

// gdc runs a command line.
func (w *world) gdc(in string, args ...string) (status int, out, errs string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	var o, e bytes.Buffer
	status = run(ctx, args, strings.NewReader(in), &o, &e)
	if strings.Contains(e.String(), w.cik) && w.cik != "" {
		w.t.Errorf("gdc %q shows the CIK: %s", args, e.String())
	}
	return status, o.String(), e.String()
}

// TestCommands is a session as the documentation has it: the lines of both
// forms, one after the other, H and K being host and token.
func TestCommands(t *testing.T) {
	w := newWorld(t)
	for i, c := range []struct {
		args   string
		in     string
		status int
		out    string // a regular expression
		errs   string
	}{
		{args: "H K http read device_info", status: nothing, out: `\[204\] No content\n`},
		{args: "H write CIK device_info 21.5", out: `\[204\] No content\n`},
		{args: "H read CIK device_info", out: `device_info=21.5\n`},
		{args: "H K http write device_info -4.5", out: `\[204\] No content\n`},
		{args: "H K http read engine_report device_info usage_report", out: `device_info=-4.5\n`},
		{args: "H K http write engine_report -", in: "a=b&c\nümlaut + 100%\n", out: `\[204\] No content\n\[204\] No content\n`},
		{args: "H K http read device_info engine_report", out: `device_info=-4.5\nengine_report=ümlaut \+ 100%\n`},
		{args: "H K --json http read device_info", out: `\{"status":200,"values":\{"device_info":"-4.5"\}\}\n`},
		{args: "-json H K http read usage_report", status: nothing, out: `\{"status":204\}\n`},
		{args: "H K http write no_such_alias x", out: `\[204\] No content\n`},
		{args: "H K http record 1527272454 usage_report a", out: `\[204\] No content\n`},
		{args: "H K http record 1527272456.5 usage_report b", out: `\[204\] No content\n`},
		{args: "H K http record 1527272454 usage_report c", status: refused, errs: "1 of \"usage_report\" were not stored"},
		{args: "H K http --json record 1527272456.5 usage_report c", status: refused, out: `\{"clashes":\{"usage_report":\[1527272456.5\]\},.*"status":409\}\n`},
		{args: "H K http poll usage_report 10000 1527272454", out: `\[200\] usage_report=b\n`},
		{args: "H K --json http poll usage_report 10000 1527272454", out: `\{"modified":1527272456,"status":200,"values":\{"usage_report":"b"\}\}\n`},
		{args: "H K http poll usage_report 20", status: nothing, out: `\[304\] Not modified\n`},
		{args: "H K http timestamp", out: `[0-9]{10}\n`},
		{args: "H K http content list", out: ``},
		{args: "H K --json http content list", out: `\{"content":\[\],"status":200\}\n`},
		{args: "H K http content info none", status: refused, errs: "none"},
		{args: "H K http content download none", status: refused, errs: "none"},
		{args: "H -u GW-1 http activate", status: refused, errs: "GW-1"},
		{args: "H -u GW-000123 http activate", status: refused, errs: "GW-000123"},
		{args: "H -k 0123456789012345678901234567890123456789 http read device_info", status: badCIK, errs: "CIK"},
		{args: "H -k 0123456789012345678901234567890123456789 --json http read device_info", status: badCIK, out: `\{"error":".*","status":401\}\n`},

		{args: "", status: badUsage, errs: "no command"},
		{args: "H http", status: badUsage, errs: "no command"},
		{args: "H http reed", status: badUsage, errs: `unknown command "http reed"`},
		{args: "reed", status: badUsage, errs: `unknown command "reed"`},
		{args: "read", status: badUsage, errs: "no CIK"},
		{args: "read CIK", status: badUsage, errs: "read takes ALIAS..."},
		{args: "write CIK a", status: badUsage, errs: "write takes ALIAS VALUE"},
		{args: "H K http write a b c", status: badUsage, errs: "takes ALIAS VALUE, not 3"},
		{args: "H K http timestamp now", status: badUsage, errs: "takes no arguments"},
		{args: "H K http poll a soon", status: badUsage, errs: "1 to 300000"},
		{args: "H K http poll a 300001", status: badUsage, errs: "1 to 300000"},
		{args: "H K http record yesterday a b", status: badUsage, errs: "seconds since 1970"},
		{args: "H http activate", status: badUsage, errs: "no -u"},
		{args: "H K -f none.ini http timestamp", status: failed, errs: "none.ini"},
		{args: "-H ftp://x K http timestamp", status: badUsage, errs: "want https"},
		{args: "H K http record nan a b", status: badUsage, errs: "seconds since 1970"},
		{args: "H K -m 0 http timestamp", status: badUsage, errs: "timeout 0"},
		{args: "H K -m nan http timestamp", status: badUsage, errs: "timeout NaN"},
		{args: "H K -m inf http timestamp", status: badUsage, errs: "timeout +Inf"},
		{args: "-H a_b:x K http timestamp", status: badUsage, errs: "a_b"},
		{args: "H K http write device_info -json", out: `\[204\] No content\n`},
		{args: "H K http read device_info", out: `device_info=-json\n`},
		{args: "-H http://x/y K http timestamp", status: badUsage, errs: "nothing behind it"},
		{args: "H -E none.pem http timestamp", status: failed, errs: "none.pem"},
		{args: "--no-such", status: badUsage, errs: "unknown flag"},
	} {
		var args []string
		for _, a := range strings.Fields(c.args) {
			switch a {
			case "H":
				args = append(args, "-H", w.url())
			case "K":
				args = append(args, "-k", w.cik)
			case "CIK":
				args = append(args, w.cik)
			default:
				args = append(args, a)
			}
		}
		status, out, errs := w.gdc(c.in, args...)
		if status != c.status || !regexp.MustCompile("^"+c.out+"$").MatchString(out) || !strings.Contains(errs, c.errs) || c.errs == "" && errs != "" {
			t.Errorf("%d: gdc %s: status %d, want %d\n%s%s", i, c.args, status, c.status, out, errs)
		}
	}
}

func TestNoServer(t *testing.T) {
	status, out, errs := (&world{t: t}).gdc("", "-H", "http://127.0.0.1:1", "-m", "1", "http", "timestamp")
	if status != failed || out != "" || !strings.Contains(errs, "127.0.0.1:1") {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
}

// Commands by TLS, with the emulator's CA.
func TestTLS(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile("ca.pem", w.CA(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("ca.pem", "link.pem"); err != nil {
		t.Fatal(err)
	}
	status, out, errs := w.gdc("", "-H", "https://"+w.HTTPSAddr(), "-E", "link.pem", "-k", w.cik, "http", "write", "device_info", "x")
	if status != done {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
	status, out, errs = w.gdc("", "-H", w.HTTPSAddr(), "-k", w.cik, "-m", "20", "http", "write", "device_info", "x")
	if status != failed || !strings.Contains(errs, "certificate") {
		t.Errorf("without the CA: %d, %q, %q", status, out, errs)
	}
	if err := os.WriteFile("ca.pem", []byte("no certificate"), 0o644); err != nil {
		t.Fatal(err)
	}
	status, _, errs = w.gdc("", "-H", w.HTTPSAddr(), "-E", "ca.pem", "http", "timestamp")
	if status != failed || !strings.Contains(errs, "there is none in ca.pem") {
		t.Errorf("a CA that is none: %d, %q", status, errs)
	}
}

// A device file has all that is needed; activation completes it.
func TestDeviceFile(t *testing.T) {
	w := newWorld(t)
	w.AddDevice("4321")
	text := "# of the lab\n[device]\nmurano_host = " + w.url() + "\nmurano_id = 4321\nwatchlist = config_io ; both\ncik = old\n\n[other]\nkey = value # x\n"
	if err := os.WriteFile("device.ini", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status, token, errs := w.gdc("", "-f", "device.ini", "http", "activate")
	if status != done || len(token) != 41 {
		t.Fatalf("activate: %d, %q, %q", status, token, errs)
	}
	for _, args := range []string{"-f device.ini http write device_info x", "-f device.ini http read device_info"} {
		if status, out, errs := w.gdc("", strings.Fields(args)...); status != done {
			t.Errorf("%s: %d, %q, %q", args, status, out, errs)
		}
	}
	got, err := os.ReadFile("device.ini")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# of the lab", "murano_token", strings.TrimSpace(token), "config_io ; both", "value # x"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the device file has no %q:\n%s", want, got)
		}
	}
	if info, err := os.Stat("device.ini"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// The gateway's own files are meant by "-f gwe", and by the older form.
func TestGateway(t *testing.T) {
	w := newWorld(t)
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GWE_ROOT", w.dir)
	write("data/gwe/Gateway.cfg", "[device]\ncik = "+w.cik+"\nmodel = "+w.Product()+"\nvendor = "+w.Product()+"\nuuid = "+sn+"\niface = ''\n")
	write("data/gwe/Engine.config", "[exosite]\nhost = "+w.HTTPSAddr()+"\nca = /data/gwe/keys/exosite-ca.pem\n")
	write("data/gwe/keys/exosite-ca.pem", string(w.CA()))
	for _, c := range []struct {
		args   string
		status int
		out    string
	}{
		{"-f gwe http write device_info 1", done, "[204] No content\n"},
		{"-f gwe http read device_info", done, "device_info=1\n"},
		{"read " + w.cik + " device_info", done, "device_info=1\n"},
		{"-f gwe http content list", done, ""},
		{"-f gwe http activate", badUsage, ""},
	} {
		if status, out, errs := w.gdc("", strings.Fields(c.args)...); status != c.status || out != c.out {
			t.Errorf("gdc %s: %d, %q, %q", c.args, status, out, errs)
		}
	}

	// Without a host of its own it is its product's, in both forms.
	write("data/gwe/Engine.config", "[engine]\ndebug_level = INFO\n")
	for _, args := range [][]string{{"read", w.cik, "device_info"}, {"-f", "gwe", "http", "timestamp"}} {
		o := options{timeout: 1}
		c, _, err := o.parse(args, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSession(o, c, nil, printer{})
		if err != nil || s.host != w.Product()+".m2.exosite.io" {
			t.Errorf("gdc %q asks %+v, %v", args, s, err)
		}
	}
}

// On a gateway it is counted what gdc uses, also by calls that fail.
func TestUsage(t *testing.T) {
	w := newWorld(t)
	t.Setenv("GWE_ROOT", w.dir)
	file := filepath.Join(w.dir, "run/gwe/usage.json")
	run := func(want int, args ...string) {
		t.Helper()
		if status, _, errs := w.gdc("", append([]string{"-H", w.url()}, args...)...); status != want {
			t.Errorf("gdc %q: %d, %q", args, status, errs)
		}
	}
	run(done, "http", "timestamp")
	if _, err := os.Stat(filepath.Join(w.dir, "run")); err == nil {
		t.Error("a workstation counts")
	}
	if err := os.MkdirAll(filepath.Join(w.dir, "etc/gweinit"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(badUsage, "http", "poll", "a", "soon")
	if _, err := os.Stat(file); err == nil {
		t.Error("no call, and it is counted")
	}
	run(done, "http", "timestamp")
	run(done, "http", "timestamp")
	run(badCIK, "-k", strings.Repeat("0", 40), "http", "read", "device_info")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r exosite.Report
	if err := json.Unmarshal(text, &r); err != nil || len(r) != 1 {
		t.Fatalf("%s: %v", text, err)
	}
	for _, link := range r {
		c := link.Consumers["gdc"]
		if link.TopConsumer != "gdc" || c["timestamp"].Num != 2 || c["read"].Num != 1 || c["read"].TotRx < 100 || c["timestamp"].TotTx < 100 {
			t.Errorf("%s", text)
		}
	}
	// A folder that it cannot write to is no failure.
	if err := os.RemoveAll(filepath.Join(w.dir, "run")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "run"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run(done, "http", "timestamp")
}

// A download survives connections that break, servers without ranges, and an
// end of gdc itself.
func TestDownload(t *testing.T) {
	w := newWorld(t)
	content := make([]byte, 300_000)
	rand.Read(content)
	c := w.Cloud()
	upload := func(name string, data []byte) {
		t.Helper()
		if err := c.CreateContent(w.Product(), name, "v1", false); err != nil {
			t.Fatal(err)
		}
		if err := c.Upload(w.Product(), name, "application/gzip", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	upload("app.v1.tar.gz", content)
	upload("empty", nil)
	upload("a/b", []byte("x"))
	base := []string{"-H", w.url(), "-k", w.cik}
	gdc := func(args ...string) (int, string, string) {
		t.Helper()
		return w.gdc("", append(slices.Clone(base), args...)...)
	}
	file := func(name string, want []byte) {
		t.Helper()
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v", name, len(got), err)
		}
		os.Remove(name)
		for _, left := range []string{name + ".part", name + ".part.state"} {
			if _, err := os.Stat(left); err == nil {
				t.Errorf("%s is left", left)
			}
		}
	}
	status, out, errs := gdc("http", "content", "info", "app.v1.tar.gz")
	if status != done || !regexp.MustCompile(`^application/gzip,300000,[0-9]+,v1\n$`).MatchString(out) {
		t.Errorf("info: %d, %q, %q", status, out, errs)
	}
	if status, out, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != done || out != "" {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
	file("app.v1.tar.gz", content)
	if status, out, errs := gdc("--json", "http", "content", "download", "app.v1.tar.gz", "-o", "other"); status != done || out != "{\"file\":\"other\",\"size\":300000,\"status\":200}\n" {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
	file("other", content)
	if status, out, errs := gdc("http", "content", "download", "app.v1.tar.gz", "-o", "-"); status != done || out != string(content) {
		t.Errorf("%d, %d bytes, %q", status, len(out), errs)
	}
	if status, _, errs := gdc("http", "content", "download", "empty"); status != done {
		t.Errorf("empty: %d, %q", status, errs)
	}
	file("empty", nil)
	if status, _, errs := gdc("http", "content", "download", "a/b"); status != badUsage {
		t.Errorf("a/b: %d, %q", status, errs)
	}

	// Half of it is there, of an interrupted gdc.
	w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 123_456})
	w.Fault(exositetest.Fault{Call: "content", Times: 1, Status: 404})
	if status, _, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != refused {
		t.Errorf("interrupted: %d, %q", status, errs)
	}
	before := len(w.Requests())
	if status, _, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != done {
		t.Errorf("resumed: %d, %q", status, errs)
	}
	file("app.v1.tar.gz", content)
	if last := w.Requests(); len(last) != before+3 || last[before+1].Out != int64(len(content)-123_456) {
		t.Errorf("%d requests", len(last)-before)
	}
	// A part that nothing is known of.
	if err := os.WriteFile("app.v1.tar.gz.part", make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != done {
		t.Errorf("another's part: %d, %q", status, errs)
	}
	file("app.v1.tar.gz", content)

	// Connections that break, and a server without ranges.
	w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 100_000})
	w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 50_000})
	w.Fault(exositetest.Fault{Call: "content", Times: 1, IgnoreRange: true, DropAfter: 250_000})
	before = len(w.Requests())
	if status, _, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != done {
		t.Errorf("with broken connections: %d, %q", status, errs)
	}
	file("app.v1.tar.gz", content)
	if n := len(w.Requests()) - before; n != 6 {
		t.Errorf("with broken connections: %d requests, want 6", n)
	}
	// One that brings nothing ends it; what there is stays for the next time.
	w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 100_000})
	w.Fault(exositetest.Fault{Call: "content", Status: 404})
	if status, _, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != refused || !strings.Contains(errs, "app.v1.tar.gz.part") {
		t.Errorf("with content that goes away: %d, %q", status, errs)
	}
	if info, err := os.Stat("app.v1.tar.gz.part"); err != nil || info.Size() != 100_000 {
		t.Errorf("%v, %v", info, err)
	}
	w.ClearFaults()
	if status, _, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != done {
		t.Errorf("the next time: %d, %q", status, errs)
	}
	file("app.v1.tar.gz", content)

	// Another upload of the same size, in the middle.
	info, err := c.ContentInfo(w.Product(), "app.v1.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 100_000})
	w.Fault(exositetest.Fault{Call: "content", Status: 404})
	gdc("http", "content", "download", "app.v1.tar.gz")
	w.ClearFaults()
	time.Sleep(time.Until(info.Updated.Truncate(time.Second).Add(time.Second))) // its time counts in seconds
	other := bytes.Repeat([]byte("x"), len(content))
	if err := c.Upload(w.Product(), "app.v1.tar.gz", "application/gzip", bytes.NewReader(other)); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := gdc("http", "content", "download", "app.v1.tar.gz"); status != done {
		t.Errorf("another upload: %d, %q", status, errs)
	}
	file("app.v1.tar.gz", other)
}

// A signal ends gdc while nothing comes by standard input.
func TestSignalAtInput(t *testing.T) {
	w := newWorld(t)
	in, out := io.Pipe()
	defer out.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var printed output
	go func() {
		ended <- run(ctx, []string{"-H", w.url(), "-k", w.cik, "http", "write", "device_info", "-"}, in, &printed, io.Discard)
	}()
	io.WriteString(out, "one\n")
	for start := time.Now(); printed.String() == ""; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("nothing is written")
		}
	}
	cancel()
	select {
	case status := <-ended:
		if status != failed {
			t.Errorf("status %d", status)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
}

func TestHelp(t *testing.T) {
	status, out, errs := (&world{t: t}).gdc("", "-h")
	if status != done || errs != "" {
		t.Errorf("%d, %q", status, errs)
	}
	for _, c := range commands() {
		if !strings.Contains(out, c.words) || !strings.Contains(out, c.help) {
			t.Errorf("the help has no %q", c.words)
		}
	}
	for _, want := range []string{"Exit status", "gdc write $(gwe -C)", "--cacert"} {
		if !strings.Contains(out, want) {
			t.Errorf("the help has no %q", want)
		}
	}
}

func TestWithToken(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "\n[device]\nmurano_token = T\n",
		"[other]\nx=1\n":                   "[other]\nx=1\n\n[device]\nmurano_token = T\n",
		"[device]":                         "[device]\nmurano_token = T\n",
		"# c\n[device]\n a = 1 ; x\nodd\n": "# c\n[device]\nmurano_token = T\n a = 1 ; x\nodd\n",
		"[device]\nmurano_token: old\ncik = old\nb=2\n[z]\ncik = theirs\n": "[device]\nmurano_token = T\nb=2\n[z]\ncik = theirs\n",
		"a = 1\r\n[device]\r\nb = 2\r\n":                                   "a = 1\r\n[device]\r\nmurano_token = T\nb = 2\r\n",
	} {
		if got := withToken(text, "T"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestSplitHost(t *testing.T) {
	for text, want := range map[string][3]string{
		"a.m2.exosite.io":          {"", "a.m2.exosite.io", ""},
		"a.m2.exosite.io:443":      {"", "a.m2.exosite.io", "443"},
		"https://a.m2.exosite.io/": {"https://", "a.m2.exosite.io", ""},
		"mqtt://a:8883/":           {"mqtt://", "a", "8883"},
		"http://[::1]:80":          {"http://", "::1", "80"},
		"[::1]:80":                 {"", "::1", "80"},
		"[::1]":                    {"", "::1", ""},
		"::1":                      {"", "::1", ""},
	} {
		scheme, host, port, err := splitHost(text)
		if got := [3]string{scheme, host, port}; err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"https://", "ftp://a", "https://a/b", "https://a?b", "https://u:p@a", "https://a b"} {
		if _, _, _, err := splitHost(text); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-H\x00host\x00http\x00write\x00a\x00-5")
	f.Add("-json\x00read\x00cik\x00a")
	f.Fuzz(func(t *testing.T, line string) {
		o := options{}
		var errs bytes.Buffer
		c, args, err := o.parse(strings.Split(line, "\x00"), &errs)
		if err == nil && !o.help && (len(args) < c.min || c.run == nil) {
			t.Errorf("%q: %v, %q", line, c.words, args)
		}
	})
}

// What a machine reads is JSON whatever happens.
func TestJSON(t *testing.T) {
	w := newWorld(t)
	for _, args := range []string{"http read a", "http timestamp", "http content info x", "http activate", "nothing"} {
		_, out, errs := w.gdc("", append([]string{"--json", "-H", w.url(), "-k", w.cik}, strings.Fields(args)...)...)
		if !json.Valid([]byte(out)) || errs != "" {
			t.Errorf("%s: %q, %q", args, out, errs)
		}
	}
}
