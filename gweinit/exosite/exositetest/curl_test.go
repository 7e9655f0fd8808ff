package exositetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The lines of curl that Exosite's documentation has, run with curl itself.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("curl is missing: make setup installs it")
	}
	s := New(t)
	p, owner := s.Product(), s.Cloud().Owner()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, s.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.v1.tar.gz"), []byte("0123456789\x00\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	device, current := "https://"+p+".m2.exosite.com", "https://"+p+".m2.exosite.io"
	cik := ""
	curl := func(args ...string) string {
		t.Helper()
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "<CIK>", cik)
		}
		// Names are Exosite's; the connection goes to the emulator.
		args = append([]string{"-q", "-sS", "--noproxy", "*", "--max-time", "60", "--cacert", ca, "--connect-to", p + ".m2.exosite.com::" + s.HTTPSAddr(), "--connect-to", p + ".m2.exosite.io::" + s.HTTPSAddr(), "--connect-to", "m2.exosite.com::" + s.HTTPSAddr(), "-w", "[%{http_code}]"}, args...)
		c := exec.Command("curl", args...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("curl %q: %v, %s", args, err, out)
		}
		return string(out)
	}
	key, ownerKey := "X-Exosite-CIK: <CIK>", "X-Exosite-CIK: "+owner
	form, accept := "Content-Type: application/x-www-form-urlencoded; charset=utf-8", "Accept: application/x-www-form-urlencoded; charset=utf-8"
	check := func(want string, args ...string) {
		t.Helper()
		if got := curl(args...); got != want {
			t.Errorf("curl %q: got %q, want %q", args, got, want)
		}
	}
	models := "https://m2.exosite.com/provision/manage/model/"
	contents := "https://m2.exosite.com/provision/manage/content/" + p + "/"
	check("[205]", models+p+"/", "-H", "X-Exosite-Token: "+owner, "-H", form, "-d", "add=true&sn=00:2F:AC:43:55:A0&extra=x")
	check("[205]", models+p+"/00:2F:AC:43:55:A0", "-H", ownerKey, "-d", "enable=true")
	check(p+"\n[200]", models, "-H", ownerKey)
	cik = strings.TrimSuffix(curl(device+"/provision/activate", "-H", form, "-d", "vendor="+p+"&model="+p+"&sn=00:2F:AC:43:55:A0"), "[200]")
	if len(cik) != 40 {
		t.Fatalf("activation: %q", cik)
	}
	check("[204]", device+"/onep:v1/stack/alias", "-H", key, "-H", accept, "-d", "fetch_status=1")
	check("[204]", device+"/onep:v1/stack/alias", "-H", key, "--data-urlencode", "engine_report={\"a\": \"&=%+\"}")
	check("fetch_status=1[200]", device+"/onep:v1/stack/alias?fetch_status", "-H", key, "-H", accept)
	check("engine_report=%7B%22a%22%3A+%22%26%3D%25%2B%22%7D[200]", current+"/onep:v1/stack/alias?engine_report&update_interval", "-H", key)
	check("fetch_status=2[200]", device+"/onep:v1/stack/alias?fetch_status", "-H", key, "-H", accept, "-d", "fetch_status=2")
	check("engine_report=%7B%22a%22%3A+%22%26%3D%25%2B%22%7D[200]", device+"/onep:v1/stack/alias?engine_report", "-H", key, "-H", "Request-Timeout: 30000", "-H", "If-Modified-Since: 1408088308")
	check("[304]", device+"/onep:v1/stack/alias?engine_fetch", "-H", key, "-H", "Request-Timeout: 10")
	check("[204]", current+"/onep:v1/stack/record", "-H", key, "-d", "alias=fetch_status&1506379000=a&1506379010=b")
	check("fetch_status=1506379000[409]", device+"/onep:v1/stack/alias/fetch_status", "-H", key, "-d", "1506379000=a")

	check("[205]", contents, "-H", ownerKey, "-d", "id=app.v1.tar.gz&meta=about")
	check("[205]", contents+"app.v1.tar.gz", "-H", ownerKey, "-H", "Content-Type: application/gzip", "--data-binary", "@app.v1.tar.gz")
	check("app.v1.tar.gz\n[200]", contents, "-H", ownerKey)
	check("app.v1.tar.gz\n[200]", current+"/provision/download", "-H", key)
	if got := curl(device+"/provision/download?vendor="+p+"&model="+p+"&id=app.v1.tar.gz&info=true", "-H", key); !strings.HasPrefix(got, "application/gzip,12,") || !strings.HasSuffix(got, ",about[200]") {
		t.Errorf("info: %s", got)
	}
	check("[200]", device+"/provision/download?vendor="+p+"&model="+p+"&id=app.v1.tar.gz", "-H", key, "-o", "got", "-r", "0-4", "-w", "[200]")
	if got, err := os.ReadFile(filepath.Join(dir, "got")); err != nil || string(got) != "01234" {
		t.Errorf("range: %q, %v", got, err)
	}
	check("[206]", current+"/provision/download?id=app.v1.tar.gz", "-H", key, "-o", "got", "-C", "-") // goes on
	if got, err := os.ReadFile(filepath.Join(dir, "got")); err != nil || string(got) != "0123456789\x00\xff" {
		t.Errorf("goes on: %q, %v", got, err)
	}
	check("[205]", "-X", "DELETE", contents+"app.v1.tar.gz", "-H", ownerKey)
	check("[205]", models+p+"/", "-H", ownerKey, "-H", "Content-Type: text/csv; charset=utf-8", "--data-binary", "s1,first\ns2,second\n")
	check("00:2F:AC:43:55:A0,"+rid(t, s, "00:2F:AC:43:55:A0")+",x,activated\ns1,,first,unused\ns2,,second,unused\n[200]", models+p+"/?offset=0&limit=10&status=true", "-H", ownerKey)
	check("[205]", models+p+"/", "-H", ownerKey, "-d", "remove=true", "--data-urlencode", "sn[]=s1", "--data-urlencode", "sn[]=s2")
	check("[205]", "-X", "DELETE", models+p+"/00:2F:AC:43:55:A0", "-H", ownerKey)
	if got := curl(device+"/onep:v1/stack/alias?fetch_status", "-H", key); !strings.HasSuffix(got, "[401]") {
		t.Errorf("removed: %s", got)
	}
	if got := curl(current + "/timestamp"); len(got) != len("1513931066[200]") {
		t.Errorf("timestamp: %s", got)
	}
	emulator := "http://" + s.HTTPAddr() + "/emulator/"
	if got := curl(emulator+"faults", "-d", `{"call":"timestamp","times":1,"status":503,"retry_after":"5"}`); !strings.HasSuffix(got, "[201]") {
		t.Errorf("fault: %s", got)
	}
	check("[503]", current+"/timestamp")
	if got := curl(emulator + "requests"); !strings.HasSuffix(got, "[200]") || strings.Contains(got, cik) || strings.Contains(got, owner) {
		t.Errorf("requests: %s", got)
	}
}

func rid(t *testing.T, s *Server, sn string) string {
	t.Helper()
	d, err := s.Cloud().Device(s.Product(), sn)
	if err != nil {
		t.Fatal(err)
	}
	return d.RID
}
