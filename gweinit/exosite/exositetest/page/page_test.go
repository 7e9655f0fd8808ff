package page

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/exosite/spec"
)

const product = "a1b2c3d4e5f60000"

func open(t testing.TB) *cloud.Cloud {
	t.Helper()
	c, err := cloud.Open(cloud.Options{Dir: t.TempDir(), Resources: append(spec.GWE(),
		spec.Resource{Alias: "temperature", Format: "number"}, spec.Resource{Alias: "mode", Format: "string", Settable: true})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.CreateProduct(product); err != nil {
		t.Fatal(err)
	}
	return c
}

// activated is a device that has its CIK.
func activated(t testing.TB, c *cloud.Cloud, sn string) *cloud.Device {
	t.Helper()
	if err := c.AddSerials(product, cloud.Serial{SN: sn}); err != nil {
		t.Fatal(err)
	}
	if err := c.Enable(product, sn, "test"); err != nil {
		t.Fatal(err)
	}
	cik, err := c.Activate(product, sn, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	d, ok := c.ByCIK(cik)
	if !ok {
		t.Fatal("the device's CIK is not known")
	}
	return d
}

func write(t testing.TB, d *cloud.Device, alias, value string) {
	t.Helper()
	if _, err := d.Write(cloud.Value{Alias: alias, Value: value}); err != nil {
		t.Fatal(err)
	}
}

// ask makes a call and decodes what it answers.
func ask(t *testing.T, h http.Handler, method, target, body string, into any) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s %s: %v in %q", method, target, err, w.Body)
		}
	}
	return w
}

func TestFiles(t *testing.T) {
	h := New(open(t), product)
	index := ask(t, h, "GET", "/", "", nil)
	if index.Code != http.StatusOK || index.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("/: %d, %s", index.Code, index.Header().Get("Content-Type"))
	}
	entries, err := web.ReadDir("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		w := ask(t, h, "GET", "/page/"+e.Name(), "", nil)
		if w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("%s: %d with %d bytes", e.Name(), w.Code, w.Body.Len())
		}
		if got := w.Header().Get("Content-Type"); got == "" || got != types[path.Ext(e.Name())] {
			t.Errorf("%s has type %q", e.Name(), got)
		}
		if strings.Contains(w.Body.String(), "innerHTML") {
			t.Errorf("%s makes markup of texts", e.Name())
		}
	}
	for name, want := range map[string]string{"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := index.Header().Get(name); !strings.Contains(got, want) {
			t.Errorf("%s is %q, without %q", name, got, want)
		}
	}
	for _, target := range []string{"/other", "/page/", "/page/../page.go", "/page/web"} {
		if w := ask(t, h, "GET", target, "", nil); w.Code == http.StatusOK {
			t.Errorf("%s is there: %q", target, w.Body)
		}
	}
}

type list struct {
	Total, Found, Offset int
	Devices              []device
	Now                  time.Time
}

func TestPaging(t *testing.T) {
	c := open(t)
	h := New(c, product)
	var serials []cloud.Serial
	for i := range 500 {
		serials = append(serials, cloud.Serial{SN: fmt.Sprintf("sn%03d", i), Extra: fmt.Sprintf("Rack %d", i%7)})
	}
	if err := c.AddSerials(product, serials...); err != nil {
		t.Fatal(err)
	}
	activated(t, c, "zz")
	for _, test := range []struct {
		query               string
		found, n            int
		first, last, status string
	}{
		{"", 501, 50, "sn000", "sn049", "unused"},
		{"offset=50", 501, 50, "sn050", "sn099", "unused"},
		{"offset=480", 501, 21, "sn480", "zz", "unused"},
		{"limit=5", 501, 5, "sn000", "sn004", "unused"},
		{"limit=9999", 501, maxLimit, "sn000", "sn199", "unused"},
		{"limit=0", 501, 0, "", "", ""},
		{"offset=99999", 501, 0, "", "", ""},
		{"filter=SN00", 10, 10, "sn000", "sn009", "unused"},
		{"filter=rack+3&limit=1", 71, 1, "sn003", "sn003", "unused"},
		{"filter=+activated+", 1, 1, "zz", "zz", "activated"},
		{"filter=%3Cscript%3E", 0, 0, "", "", ""},
		{"sort=seen&limit=1", 501, 1, "zz", "zz", "activated"},
		{"sort=status&limit=1", 501, 1, "zz", "zz", "activated"},
	} {
		var got list
		if w := ask(t, h, "GET", "/page/devices?"+test.query, "", &got); w.Code != http.StatusOK {
			t.Errorf("%s: %d", test.query, w.Code)
		}
		if got.Total != 501 || got.Found != test.found || len(got.Devices) != test.n {
			t.Errorf("%q: %d devices of %d of %d, want %d of %d of 501", test.query, len(got.Devices), got.Found, got.Total, test.n, test.found)
			continue
		}
		if test.n > 0 && (got.Devices[0].SN != test.first || got.Devices[test.n-1].SN != test.last || string(got.Devices[0].Status) != test.status) {
			t.Errorf("%q: from %s (%s) to %s", test.query, got.Devices[0].SN, got.Devices[0].Status, got.Devices[test.n-1].SN)
		}
	}
}

func TestListReports(t *testing.T) {
	c := open(t)
	h := New(c, product)
	d := activated(t, c, "a")
	write(t, d, "engine_report", `{"apps":[]}`)
	write(t, d, "engine_report", `{"apps":[{"x":{}}]}`)
	write(t, d, "device_info", strings.Repeat("x", maxInList+1))
	write(t, d, "fetch_status", "not in the list")
	var got list
	w := ask(t, h, "GET", "/page/devices", "", &got)
	if r := got.Devices[0].Reports; len(r) != 1 || r["engine_report"].Value != `{"apps":[{"x":{}}]}` || r["engine_report"].Time.IsZero() {
		t.Errorf("reports: %v", r)
	}
	if w.Body.Len() > 2000 {
		t.Errorf("the list has %d bytes", w.Body.Len())
	}
}

func TestErrors(t *testing.T) {
	c := open(t)
	h := New(c, product)
	activated(t, c, "a")
	if err := c.AddSerials(product, cloud.Serial{SN: "unused"}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method, target, body string
		code                 int
		says                 string
	}{
		{"GET", "/page/devices?offset=-1", "", 400, `offset "-1"`},
		{"GET", "/page/devices?limit=many", "", 400, `limit "many"`},
		{"GET", "/page/devices?sort=colour", "", 400, "want sn, seen or status"},
		{"POST", "/page/devices", `{"sn":"a"}`, 409, "is there already"},
		{"POST", "/page/devices", `{"sn":""}`, 400, "serial number"},
		{"POST", "/page/devices", `{"sn":"b,c"}`, 400, "no comma"},
		{"POST", "/page/devices", `{"sn":`, 400, "JSON"},
		{"POST", "/page/devices", `{"sn":"b"} more`, 400, "behind it"},
		{"POST", "/page/devices", `{"serial":"b"}`, 400, "unknown field"},
		{"POST", "/page/devices", `{"sn":"` + strings.Repeat("x", maxRequest) + `"}`, 413, "too large"},
		{"POST", "/page/devices/enable", `{"sn":["b"]}`, 404, "unknown"},
		{"POST", "/page/devices/disable", `{"sn":["b"]}`, 404, "unknown"},
		{"POST", "/page/devices/remove", `{"sn":["a","b"]}`, 404, "unknown"},
		{"GET", "/page/device?sn=b", "", 404, "unknown"},
		{"GET", "/page/history?sn=b&alias=mode", "", 404, "unknown"},
		{"GET", "/page/history?sn=a&alias=colour", "", 404, "unknown"},
		{"PUT", "/page/value?sn=a&alias=engine_report", "x", 403, "not settable"},
		{"PUT", "/page/value?sn=a&alias=colour", "x", 404, "unknown"},
		{"PUT", "/page/value?sn=unused&alias=mode", "x", 404, "has to be enabled first"},
		{"PUT", "/page/value?sn=a&alias=mode", strings.Repeat("x", cloud.MaxValue+1), 413, "too large"},
		{"PUT", "/page/content?id=", "x", 400, "content"},
		{"PUT", "/page/content?id=a%2Cb", "x", 400, "no comma"},
		{"GET", "/page/content?id=none", "", 404, "unknown"},
		{"DELETE", "/page/content?id=none", "", 404, "unknown"},
	} {
		var got struct{ Error string }
		w := ask(t, h, test.method, test.target, test.body, &got)
		if w.Code != test.code || !strings.Contains(got.Error, test.says) {
			t.Errorf("%s %s %.30s: %d %q, want %d and %q", test.method, test.target, test.body, w.Code, got.Error, test.code, test.says)
		}
	}
	if _, err := c.Device(product, "a"); err != nil {
		t.Errorf("a device was removed together with one that there is not: %v", err)
	}
	if w := ask(t, h, "POST", "/page/device?sn=a", "", nil); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST to a device: %d", w.Code)
	}
	other := New(c, "no-such-product")
	if w := ask(t, other, "GET", "/page/contents", "", nil); w.Code != http.StatusNotFound {
		t.Errorf("content of a product that there is not: %d", w.Code)
	}
}

// A serial number can be anything that a person may type or an attacker send.
func TestHostileSerialNumbers(t *testing.T) {
	c := open(t)
	h := New(c, product)
	for _, sn := range []string{
		`<img src=x onerror=alert(1)>`, `</script><script>alert(1)</script>`, `"'&;`, `../../etc/passwd`, `..`, `.`, `a/b?c#d`, `%2e%2e`,
		"\u202egnp.exe", "\u2028", `00:2F:AC:43:55:A0`, ` blank `, `data: x`, `日本語`, `\`, `{"sn":"x"}`,
	} {
		body, err := json.Marshal(map[string]string{"sn": sn, "extra": sn})
		if err != nil {
			t.Fatal(err)
		}
		if w := ask(t, h, "POST", "/page/devices", string(body), nil); w.Code != http.StatusNoContent {
			t.Errorf("add %q: %d %s", sn, w.Code, w.Body)
			continue
		}
		var got struct{ Device device }
		w := ask(t, h, "GET", "/page/device?sn="+url.QueryEscape(sn), "", &got)
		if got.Device.SN != sn || got.Device.Extra != sn || got.Device.Status != cloud.NotActivated {
			t.Errorf("%q: %+v", sn, got.Device)
		}
		if strings.ContainsAny(w.Body.String(), "<>") || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%q could be taken for markup: %s", sn, w.Body)
		}
		if w := ask(t, h, "PUT", "/page/value?alias=mode&sn="+url.QueryEscape(sn), "on", nil); w.Code != http.StatusNoContent {
			t.Errorf("write to %q: %d %s", sn, w.Code, w.Body)
		}
		sns, _ := json.Marshal(serials{[]string{sn}})
		if w := ask(t, h, "POST", "/page/devices/remove", string(sns), nil); w.Code != http.StatusNoContent {
			t.Errorf("remove %q: %d %s", sn, w.Code, w.Body)
		}
	}
	if n := len(c.Devices(product)); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

func TestDevice(t *testing.T) {
	c := open(t)
	h := New(c, product)
	d := activated(t, c, "a")
	info, err := c.Device(product, "a")
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Device device }
	w := ask(t, h, "GET", "/page/device?sn=a", "", &got)
	if want := info.CIK[:8] + "*"; got.Device.CIK != want {
		t.Errorf("CIK %q, want %q", got.Device.CIK, want)
	}
	if strings.Contains(w.Body.String(), info.CIK[:9]) {
		t.Error("more of the CIK than 8 characters is in the answer")
	}
	if len(got.Device.Log) == 0 || got.Device.RID == "" || got.Device.Activated.IsZero() {
		t.Errorf("device: %+v", got.Device)
	}

	// A command, as the product's side writes it and the device takes it.
	if w := ask(t, h, "PUT", "/page/value?sn=a&alias=engine_fetch", `{"install":[]}`, nil); w.Code != http.StatusNoContent {
		t.Fatalf("write: %d %s", w.Code, w.Body)
	}
	if p, _ := d.Read("engine_fetch"); p.Value != `{"install":[]}` {
		t.Errorf("the device reads %q", p.Value)
	}
	write(t, d, "engine_fetch", "")
	var history struct{ Points []point }
	ask(t, h, "GET", "/page/history?sn=a&alias=engine_fetch", "", &history)
	if p := history.Points; len(p) != 2 || p[0].Value != `{"install":[]}` || p[1].Value != "" || !p[1].Time.After(p[0].Time) {
		t.Errorf("history: %+v", p)
	}
	ask(t, h, "GET", "/page/history?sn=a&alias=temperature", "", &history)
	if history.Points == nil || len(history.Points) != 0 {
		t.Errorf("history of what was never written: %+v", history.Points)
	}

	for what, want := range map[string]cloud.Status{"disable": cloud.Disabled, "enable": cloud.NotActivated} {
		if w := ask(t, h, "POST", "/page/devices/"+what, `{"sn":["a"]}`, nil); w.Code != http.StatusNoContent {
			t.Fatalf("%s: %d %s", what, w.Code, w.Body)
		}
		if info, _ := c.Device(product, "a"); what == "disable" && info.Status != want {
			t.Errorf("after %s: %s", what, info.Status)
		}
	}
	var p struct {
		Product   string
		Resources []resource
	}
	ask(t, h, "GET", "/page/product", "", &p)
	if p.Product != product || !slices.Contains(p.Resources, resource{"mode", "string", true}) || !slices.Contains(p.Resources, resource{"temperature", "number", false}) {
		t.Errorf("product: %+v", p)
	}
}

func TestContent(t *testing.T) {
	c := open(t)
	h := New(c, product)
	put := func(body, kind string, r io.Reader) int {
		req := httptest.NewRequest("PUT", "/page/content?meta=first&id="+url.QueryEscape(body), r)
		req.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	const id = `a "b" <c> ü.html`
	if code := put(id, "text/html", strings.NewReader("<script>alert(1)</script>")); code != http.StatusNoContent {
		t.Fatalf("upload: %d", code)
	}
	if code := put(id, "", strings.NewReader("second")); code != http.StatusNoContent {
		t.Fatalf("second upload: %d", code)
	}
	var got struct{ Contents []content }
	ask(t, h, "GET", "/page/contents", "", &got)
	if len(got.Contents) != 1 || got.Contents[0].ID != id || got.Contents[0].Size != 6 || got.Contents[0].Meta != "first" || got.Contents[0].Type != "application/octet-stream" || !got.Contents[0].Uploaded {
		t.Errorf("contents: %+v", got.Contents)
	}
	w := ask(t, h, "GET", "/page/content?id="+url.QueryEscape(id), "", nil)
	header := w.Header()
	if w.Body.String() != "second" || !strings.HasPrefix(header.Get("Content-Disposition"), "attachment;") || header.Get("Content-Type") != "application/octet-stream" || !strings.HasSuffix(header.Get("Content-Security-Policy"), "; sandbox") {
		t.Errorf("download: %q, %v", w.Body, header)
	}

	// An upload that breaks off leaves what there was.
	broken := func() io.Reader { return io.MultiReader(strings.NewReader("half"), brokenReader{}) }
	if code := put(id, "", broken()); code != http.StatusInternalServerError {
		t.Errorf("a broken upload: %d", code)
	}
	if code := put("new", "", broken()); code != http.StatusInternalServerError {
		t.Errorf("a broken first upload: %d", code)
	}
	ask(t, h, "GET", "/page/contents", "", &got)
	if len(got.Contents) != 1 || got.Contents[0].Size != 6 {
		t.Errorf("contents after broken uploads: %+v", got.Contents)
	}
	if w := ask(t, h, "DELETE", "/page/content?id="+url.QueryEscape(id), "", nil); w.Code != http.StatusNoContent {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	if list, _ := c.Contents(product); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// stream reads the messages of the events.
type stream struct {
	t    *testing.T
	scan *bufio.Scanner
}

func follow(t *testing.T, p *page) *stream {
	t.Helper()
	s := httptest.NewUnstartedServer(p.handler())
	s.Config.WriteTimeout, s.Config.ReadTimeout = 200*time.Millisecond, 200*time.Millisecond // for all else
	s.Start()
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/page/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if got := answer.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("events are of type %q", got)
	}
	return &stream{t, bufio.NewScanner(answer.Body)}
}

func (s *stream) next() (kind, data string) {
	s.t.Helper()
	for s.scan.Scan() {
		switch line := s.scan.Text(); {
		case line == "":
			return kind, data
		case strings.HasPrefix(line, "event: "):
			kind = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			data = line[len("data: "):]
		default:
			s.t.Fatalf("line %q in the events", line)
		}
	}
	s.t.Fatalf("the events have ended: %v", s.scan.Err())
	return "", ""
}

func (s *stream) change() changes {
	s.t.Helper()
	for {
		kind, data := s.next()
		if kind != "change" {
			continue
		}
		var c changes
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			s.t.Fatal(err)
		}
		return c
	}
}

func TestEvents(t *testing.T) {
	c := open(t)
	d := activated(t, c, "<a>\n"[:3])
	s := follow(t, &page{cloud: c, product: product, pace: time.Millisecond, beat: 10 * time.Second})
	if kind, _ := s.next(); kind != "beat" {
		t.Errorf("the first message is a %q", kind)
	}
	write(t, d, "engine_report", "a\n\nevent: change\ndata: {}\n\n")
	if got := s.change(); !slices.Equal(got.Devices["<a>"], []string{"engine_report"}) || got.All || got.Content {
		t.Errorf("after a report: %+v", got)
	}
	if err := c.CreateProduct("other"); err != nil {
		t.Fatal(err)
	}
	if err := c.Disable(product, "<a>", "test"); err != nil {
		t.Fatal(err)
	}
	if got := s.change(); !slices.Equal(got.Devices["<a>"], []string{""}) {
		t.Errorf("after disabling, and a change of another product: %+v", got)
	}
	if err := c.CreateContent(product, "x", "", false); err != nil {
		t.Fatal(err)
	}
	if got := s.change(); !got.Content || got.Devices != nil {
		t.Errorf("after new content: %+v", got)
	}
	if err := c.DeleteProduct(product); err != nil {
		t.Fatal(err)
	}
	for got := s.change(); !got.All || !got.Content; got = s.change() { // its devices may be told before
		t.Logf("after the product's end: %+v", got)
	}
}

// Streams outlive the server's limits for answers, as long as they have beats.
func TestBeat(t *testing.T) {
	s := follow(t, &page{cloud: open(t), product: product, pace: time.Millisecond, beat: 50 * time.Millisecond})
	for range 8 {
		if kind, data := s.next(); kind != "beat" {
			t.Fatalf("%s %s", kind, data)
		} else if _, err := time.Parse(`"`+time.RFC3339Nano+`"`, data); err != nil {
			t.Fatal(err)
		}
	}
}

// What many devices do between two messages is one message, and a short one.
func TestCoalescing(t *testing.T) {
	c := &collector{product: product, some: make(chan struct{}, 1)}
	for i := range 3 * maxNamed {
		for range 3 {
			c.add(cloud.Event{Kind: cloud.ValueChanged, Product: product, SN: fmt.Sprint("sn", i%maxNamed), Alias: "engine_report", Value: strings.Repeat("x", 1000)})
		}
	}
	got := c.take()
	if len(got.Devices) != maxNamed || got.All || !slices.Equal(got.Devices["sn7"], []string{"engine_report"}) {
		t.Errorf("%d devices, all: %v, sn7: %v", len(got.Devices), got.All, got.Devices["sn7"])
	}
	for i := range 5000 {
		c.add(cloud.Event{Kind: cloud.ValueChanged, Product: product, SN: fmt.Sprint("sn", i), Alias: "engine_report"})
	}
	c.add(cloud.Event{Kind: cloud.ContentChanged, Product: product})
	c.add(cloud.Event{Kind: cloud.ContentChanged, Product: "other"})
	if data, _ := json.Marshal(c.take()); !bytes.Equal(data, []byte(`{"all":true,"content":true}`)) {
		t.Errorf("5000 devices: %s", data)
	}
	if len(c.some) != 1 {
		t.Error("nobody is told of changes")
	}
	if data, _ := json.Marshal(c.take()); !bytes.Equal(data, []byte(`{}`)) {
		t.Errorf("nothing new: %s", data)
	}
}

// What one look at the list costs with many devices.
func BenchmarkList(b *testing.B) {
	c := open(b)
	h := New(c, product)
	var serials []cloud.Serial
	for i := range 5000 {
		serials = append(serials, cloud.Serial{SN: fmt.Sprintf("sn%04d", i)})
	}
	if err := c.AddSerials(product, serials...); err != nil {
		b.Fatal(err)
	}
	var size int
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/page/devices?offset=2500&filter=sn", nil))
		size = w.Body.Len()
	}
	b.ReportMetric(float64(size), "bytes/answer")
}
