// Package apps tests the examples in Python, and the client of Exosite's that
// the overlay python brings for them, with the host's Python. They are here and
// not beside it, as whatever is in the overlay's folder is on the gateway.
package apps

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/exosite/spec"
	"github.com/exosite/gwe/gweinit/gateway"
)

const sn = "GW-1"

// world is a gateway's files, and its cloud.
type world struct {
	t *testing.T
	*exositetest.Server
	cloud *cloud.Cloud
	root  string
	files gateway.Files
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c, err := cloud.Open(cloud.Options{Dir: t.TempDir(), Resources: []spec.Resource{
		{Alias: "a"}, {Alias: "b"}, {Alias: "command", Settable: true}, {Alias: "coffee_level", Format: "number"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := exositetest.Start(exositetest.Options{Cloud: c, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.AddDevice(sn)
	root := t.TempDir()
	w := &world{t, s, c, root, gateway.Files{Dir: filepath.Join(root, gateway.Dir)}}
	w.set(gateway.GatewayFile, gateway.DeviceSection, "vendor", s.Product())
	w.set(gateway.GatewayFile, gateway.DeviceSection, "model", s.Product())
	w.set(gateway.EngineFile, gateway.ExositeSection, "host", s.HTTPSAddr())
	w.set(gateway.EngineFile, gateway.ExositeSection, "ca", gateway.Dir+"/ca.pem")
	if err := os.WriteFile(filepath.Join(w.files.Dir, "ca.pem"), s.CA(), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) set(file, section, key, value string) {
	w.t.Helper()
	if err := w.files.Set(gateway.Change{File: file, Section: section, Key: key, Value: value}); err != nil {
		w.t.Fatal(err)
	}
}

// activate does what the gateway does, again and again.
func (w *world) activate() (cik string) {
	w.t.Helper()
	if err := w.cloud.Enable(w.Product(), sn, ""); err != nil {
		w.t.Fatal(err)
	}
	cik, err := w.cloud.Activate(w.Product(), sn, "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.set(gateway.GatewayFile, gateway.DeviceSection, "cik", cik)
	return cik
}

func (w *world) newest(alias string) string {
	w.t.Helper()
	points, err := w.cloud.History(w.Product(), sn, alias)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(points) == 0 {
		return ""
	}
	return points[len(points)-1].Value
}

// python is a command of the host's Python that finds what the overlay has.
func (w *world) python(args ...string) *exec.Cmd {
	w.t.Helper()
	lib, err := filepath.Abs("../overlays/python/usr/lib/python3/dist-packages")
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("python3", args...)
	cmd.Dir = w.t.TempDir()
	cmd.Env = append(os.Environ(), "PYTHONPATH="+lib, "PYTHONDONTWRITEBYTECODE=1", "GWE_ROOT="+w.root)
	return cmd
}

// runner returns a function that runs programs in one process, one after the
// other, and returns what they print. In them HTTP and the like are the world's.
func (w *world) runner() (run func(script string) (out string)) {
	w.t.Helper()
	cmd := w.python("-u", "-W", "error", "-W", "ignore::ResourceWarning", "-c", `
import contextlib, io, json, sys, traceback
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(json.loads(line), {})
        except Exception:
            traceback.print_exc(file=out)
    print(json.dumps(out.getvalue()))
`)
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			w.t.Error(err)
		}
	})
	head := fmt.Sprintf("HTTP, HTTPS, CA, PRODUCT = %q, %q, %q, %q\n", w.HTTPAddr(), w.HTTPSAddr(), filepath.Join(w.files.Dir, "ca.pem"), w.Product())
	programs, outputs := json.NewEncoder(in), json.NewDecoder(out)
	return func(script string) (out string) {
		if err := programs.Encode(head + script); err != nil {
			w.t.Fatal(err)
		}
		if err := outputs.Decode(&out); err != nil {
			w.t.Fatal(err)
		}
		return out
	}
}

// The programs of Gateway Engine's documentation, and what else there is.
func TestExositeAPI(t *testing.T) {
	w := newWorld(t)
	cik := w.activate()
	run := w.runner()
	for _, tt := range []struct{ name, script, want string }{
		{"write", "r = api.http_write('a', 'x=1 & ü%')\nprint(r)\nprint(r.success, r.code, r.online, r.authorized)",
			"Response code: 204, Response body: '', success: True\nTrue 204 True True\n"},
		{"read", "r = api.http_read(['a', 'b'])\nprint(r.code, r.body, r.values)", "200 a=x=1 & ü% {'a': 'x=1 & ü%'}\n"},
		{"read one", "print(api.http_read('a').values['a'])", "x=1 & ü%\n"},
		{"read nothing", "r = api.http_read('b')\nprint(r.code, r.success, repr(r.body), r.values)", "204 True '' {}\n"},
		{"write multiple", "api.http_write_multiple({'a': 1.5, 'b': {'k': [1]}})\nprint(api.http_read(['a', 'b']).values)", "{'a': '1.5', 'b': '{\"k\": [1]}'}\n"},
		{"write bytes", "api.http_write('a', b'\\xc3\\xbc')\nprint(api.http_read(['a']).body)", "a=ü\n"},
		{"read write", "print(api.http_read_write(['a'], {'a': 2, 'b': None}).values)", "{'a': '2'}\n"},
		{"record", "print(api.http_record({'a': {1000: 'x', 1001.5: 'y'}, 'b': {1000: 'z'}}).code)", "204\n"},
		{"record again", "r = api.http_record({'a': {1000: 'x', 1003: 'y'}, 'b': {1000: 'z'}})\nprint(r.code, r.conflict, r.success, r.get_conflict_timestamps())",
			"409 True False [1000.0, 1000.0]\n"},
		{"long poll", "from exo.api import last_modified\nr = api._http_long_poll('a', 5000, 5000)\nprint(r.code, list(r.values), last_modified(r) > 1e9)", "200 ['a'] True\n"},
		{"long poll in vain", "r = api.http_long_poll('b', 100)\nprint(r.code, r.body, r.success, r.online)", "304 Not modified False True\n"},
		{"timestamp", "print(abs(int(api.exosite_timestamp().body) - time.time()) < 10)", "True\n"},
		{"unknown credential", "bad = ExositeAPI(cik='0' * 40, url=HTTPS, cacert=CA)\nr = bad.http_write('a', 1)\nprint(r.code, r.authorized, bad.activated())", "401 False False\n"},
		{"no credential", "r = ExositeAPI(url='127.0.0.1:1').http_read('a')\nprint(r.code, r.authorized)", "401 False\n"},
		{"without TLS", "print(ExositeAPI(cik=CIK, url='http://' + HTTP).http_write('a', 3).code)", "204\n"},
		{"nobody there", "r = ExositeAPI(cik=CIK, url='http://127.0.0.1:1').http_write('a', 3)\nprint(r.code, r.online, r.success)", "0 False False\n"},
		{"server of somebody", "r = ExositeAPI(cik=CIK, url=HTTPS).http_write('a', 666)\nprint(r.code, r.online, 'certificate' in r.body)", "0 False True\n"},
		{"older generation", "old = ExositeAPI(cik=CIK, vendor=PRODUCT, model=PRODUCT, url=HTTPS, cacert=CA)\nprint(old.http_record({'a': {2000: 'x'}, 'b': {2000: 'z'}}).code)\n" +
			"print(old.http_record({'a': {2000: 'x'}, 'b': {2000: 'z', 2002: 'y'}}).get_conflict_timestamps())", "204\n[2000.0, 2000.0]\n"},
		{"bad URL", "try:\n  ExositeAPI(cik=CIK, url='ftp://x')\nexcept ValueError as e:\n  print(e)", "url 'ftp://x': want a host, host:port, or one of these behind https:// or http://\n"},
		{"nothing to read", "try:\n  api.http_read([])\nexcept ValueError as e:\n  print(e)", "there is no alias to read\n"},
		{"activation hides the credential", "from exo.handlers import Response\nprint(Response('activate', 200, CIK))",
			"Response code: 200, Response body: '" + cik[:8] + "*', success: True\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Without an address it is the gateway's own server.
			if got := run("import time\nfrom exo.api import ExositeAPI\nCIK = '" + cik + "'\napi = ExositeAPI(cik=CIK)\n" + tt.script); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := w.newest("a"); got == "666" {
		t.Error("a server that is not trusted got a value")
	}
}

// What goes wrong on the way is tried again, and never an exception.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	cik := w.activate()
	if err := w.cloud.CreateContent(w.Product(), "app.v1.tar.gz", "for you", false); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("0123456789", 20000)
	if err := w.cloud.Upload(w.Product(), "app.v1.tar.gz", "text/plain", strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	run := w.runner()
	const download = "r = api.http_content_download('app.v1.tar.gz', 'here')\nprint(r.code, os.listdir())\n" +
		"print(open('here').read() == '0123456789' * 20000)\nos.remove('here')"
	for _, tt := range []struct {
		name   string
		fault  exositetest.Fault
		script string
		want   string
	}{
		{"busy", exositetest.Fault{Call: "write", Times: 2, Status: 503}, "print(api.http_write('a', 1).code)", "204\n"},
		{"busy for long", exositetest.Fault{Call: "write", Times: 3, Status: 503}, "r = api.http_write('a', 1)\nprint(r.code, r.online, r.success)", "503 True False\n"},
		{"too many requests", exositetest.Fault{Call: "write", Times: 1, Status: 429, RetryAfter: "1"},
			"t = time.monotonic()\nprint(api.http_write('a', 1).code, time.monotonic() - t >= 1)", "204 True\n"},
		{"not to be tried again", exositetest.Fault{Call: "write", Times: 1, Status: 400}, "print(api.http_write('a', 1).code)", "400\n"},
		{"connection lost", exositetest.Fault{Call: "write", Times: 1, Drop: true}, "print(api.http_write('a', 1).code)", "204\n"},
		{"kept connection lost", exositetest.Fault{Call: "write", Times: 1, Drop: true}, "api.http_read('a')\nprint(api.http_write('a', 1).code)", "204\n"},
		{"torn answer", exositetest.Fault{Call: "read", Times: 1, DropAfter: 2}, "print(api.http_read('a').body)", "a=1\n"},
		{"silence", exositetest.Fault{Call: "read", Times: 1, Hang: true}, "print(api.http_read('a').body)", "a=1\n"},
		{"content", exositetest.Fault{}, "print(api.http_content_list().body.split())\nprint(api.http_content_info('app.v1.tar.gz').body.split(',')[:2])\n" + download,
			"['app.v1.tar.gz']\n['text/plain', '200000']\n200 ['here']\nTrue\n"},
		{"torn content", exositetest.Fault{Call: "content", Times: 1, DropAfter: 150000}, download, "206 ['here']\nTrue\n"},
		{"torn content, no ranges", exositetest.Fault{Call: "content", Times: 2, DropAfter: 150000, IgnoreRange: true}, download, "206 ['here']\nTrue\n"},
		{"no such content", exositetest.Fault{}, "r = api.http_content_download('none', 'here')\nprint(r.success, os.listdir())", "False []\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer w.ClearFaults()
			if tt.fault != (exositetest.Fault{}) {
				w.Fault(tt.fault)
			}
			if got := run("import os, time\nfrom exo.api import ExositeAPI\napi = ExositeAPI(cik='" + cik + "', timeout=5)\n" + tt.script); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A device of its own activates itself, and keeps what it gets.
func TestDevice(t *testing.T) {
	w := newWorld(t)
	w.AddDevice("SENSOR-1")
	file := filepath.Join(w.root, "sensor.cfg")
	const text = "# of the sensor\ncik = ''\nvendor = %s\nmodel = %[1]s\nuuid = SENSOR-1\nactivation_retry_interval = 1\n"
	if err := os.WriteFile(file, fmt.Appendf(nil, text, w.Product()), 0o640); err != nil {
		t.Fatal(err)
	}
	w.Fault(exositetest.Fault{Call: "activate", Times: 1, Status: 409})
	script := `
import time
from exo.device import Device
class Sensor(Device):
    def __init__(self):
        Device.__init__(self, 'temp_sensor_v1', '` + file + `', url=HTTPS, cacert=CA)
    def report_tmp(self):
        return self.http_write('a', 21.5)
d = Sensor()
print(d.report_tmp().code, d.activated())
t = time.monotonic()
while not d.activated():
    d.activate()
print(time.monotonic() - t > 0.9)
print(d.report_tmp().code, Sensor().report_tmp().code, len(d.cik()), d.uuid())
`
	if got, want := w.runner()(script), "401 False\nTrue\n204 204 40 SENSOR-1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	cik, err := w.cloud.Device(w.Product(), "SENSOR-1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	want := strings.Replace(fmt.Sprintf(text, w.Product()), "''", cik.CIK, 1)
	if err != nil || string(got) != want {
		t.Errorf("the file is %q, %v, want %q", got, err, want)
	}
}

// What is on the wire is what Exosite's documentation has.
func TestHeaders(t *testing.T) {
	var got []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		line := r.Method + " " + r.RequestURI + " " + string(body)
		for _, name := range []string{"User-Agent", "X-Exosite-CIK", "Content-Type", "Accept", "Request-Timeout", "If-Modified-Since"} {
			line += " " + r.Header.Get(name)
		}
		got = append(got, strings.Join(strings.Fields(line), " "))
		w.WriteHeader(204)
	}))
	defer s.Close()
	w := newWorld(t)
	w.runner()(`
from exo.api import ExositeAPI
api = ExositeAPI(cik='C' * 40, url='` + s.URL + `', user_agent='coffee-v1')
api.http_read_write(['a b', 'c'], {'x&y': 'ü=1'})
api.http_long_poll('a', 250000.0, 1600000000.5)
ExositeAPI(uuid='SN', url='` + s.URL + `').http_activate()
`)
	const cik, form = "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC", "application/x-www-form-urlencoded; charset=utf-8"
	want := []string{
		"POST /onep:v1/stack/alias?a%20b&c x%26y=%C3%BC%3D1 coffee-v1 " + cik + " " + form + " " + form,
		"GET /onep:v1/stack/alias?a coffee-v1 " + cik + " " + form + " 250000 1600000000",
		"POST /provision/activate id=SN ExositeAPI " + form,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// As the gateway it waits for the credential that the gateway gets, also for a
// new one, and never takes it away by an activation.
func TestGatewayDevice(t *testing.T) {
	w := newWorld(t)
	cmd := w.python("-u", "-c", `
from exo.device import Device
from GatewayEngine.utils import gwe_cik, gwe_conf
D = Device('GWE-crash-report', gwe_conf())
print(D.http_write('a', 'early').code, repr(gwe_cik()))
input()
print(D.http_write('a', 'first').code, gwe_cik() == D.cik())
input()
print(D.http_write('a', 'second').code, D.activate())
`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"401 ''", "204 True", "204 True"} {
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("got %q, want %q", lines.Text(), want)
		}
		w.activate()
		fmt.Fprintln(in)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := w.newest("a"); got != "second" {
		t.Errorf("the cloud has %q", got)
	}
	for _, r := range w.Requests() {
		if r.Call == "activate" {
			t.Errorf("it has activated the gateway: %+v", r)
		}
	}
}

// The example reports what changes, once.
func TestCoffeeReporter(t *testing.T) {
	w := newWorld(t)
	w.activate()
	program, err := filepath.Abs("coffee-reporter/report_coffee.py")
	if err != nil {
		t.Fatal(err)
	}
	level := filepath.Join(w.root, "level")
	cmd := w.python("-u", program, level, "0.05")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for _, tt := range []struct{ level, want string }{{"80\n", "80"}, {"x", ""}, {"45", "45"}, {"1000", "100"}} {
		if err := os.WriteFile(level, []byte(tt.level), 0o644); err != nil {
			t.Fatal(err)
		}
		if tt.want == "" {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		line := "coffee_level=" + tt.want + ": Response code: 204, Response body: '', success: True"
		if !lines.Scan() || lines.Text() != line {
			t.Errorf("got %q, want %q", lines.Text(), line)
		}
		if got := w.newest("coffee_level"); got != tt.want {
			t.Errorf("the cloud has %q, want %q", got, tt.want)
		}
	}
}
