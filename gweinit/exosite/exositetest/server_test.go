package exositetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// client is a device's, with connections of its own.
func client(t testing.TB, s *Server, certs ...tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CA()) {
		t.Fatal("the CA is not PEM")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}, MaxIdleConnsPerHost: 4}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// activated adds a device and returns its CIK.
func activated(t testing.TB, s *Server, sn string) string {
	t.Helper()
	s.AddDevice(sn)
	cik, err := s.Cloud().Activate(s.Product(), sn, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	return cik
}

// request makes one from "METHOD PATH", lines of headers and a body.
func request(s *Server, line, cik, body string, headers ...string) *http.Request {
	method, path, _ := strings.Cut(line, " ")
	r, err := http.NewRequest(method, "http://"+s.HTTPAddr()+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if cik != "" {
		r.Header.Set("X-Exosite-CIK", cik)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
		if name == "Host" {
			r.Host = value
		}
	}
	return r
}

// ask has "STATUS BODY" of an answer.
func ask(t testing.TB, c *http.Client, r *http.Request) string {
	t.Helper()
	a, err := c.Do(r)
	if err != nil {
		return "error: " + err.Error()
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	text := fmt.Sprintf("%d %s", a.StatusCode, body)
	if err != nil {
		text += " error: " + err.Error()
	}
	return strings.TrimSpace(text)
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: ", what)
		}
	}
}

func TestStart(t *testing.T) {
	c, err := cloud.Open(cloud.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		name string
		o    Options
		err  string
	}{
		{"no cloud", Options{HTTP: "127.0.0.1:0"}, "Options.Cloud is nil"},
		{"no address", Options{Cloud: c}, "neither"},
		{"a product that cannot be", Options{Cloud: c, HTTP: "127.0.0.1:0", Product: "a b"}, "make the emulator's product"},
		{"an address in use", Options{Cloud: c, HTTP: taken.Addr().String()}, "listen for HTTP:"},
		{"an address in use, TLS", Options{Cloud: c, HTTP: "127.0.0.1:0", HTTPS: taken.Addr().String()}, "listen for HTTPS:"},
		{"a folder that cannot be", Options{Cloud: c, HTTP: "127.0.0.1:0", Dir: "/dev/null/x"}, "/dev/null"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if s, err := Start(tt.o); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, %v, want %q", s, err, tt.err)
			}
		})
	}
	s, err := Start(Options{Cloud: c, HTTPS: "127.0.0.1:0", Product: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if s.HTTPAddr() != "" || s.HTTPSAddr() == "" || s.Product() != "p" || s.Cloud() != c || !slices.Contains(c.Products(), "p") {
		t.Errorf("%q %q %q %v", s.HTTPAddr(), s.HTTPSAddr(), s.Product(), c.Products())
	}
	func() {
		defer func() {
			if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "AddDevice") {
				t.Errorf("panic %v", r)
			}
		}()
		s.AddDevice("a,b")
	}()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestHosts(t *testing.T) {
	s := New(t)
	if err := errors.Join(s.cloud.CreateProduct("P2"), s.cloud.AddSerials("P2", cloud.Serial{SN: "a"}), s.cloud.Enable("P2", "a", "")); err != nil {
		t.Fatal(err)
	}
	s.AddDevice("a")
	c := client(t, s)
	for _, tt := range []struct{ host, product string }{
		{"p2.m2.exosite.com", "P2"},
		{"P2.M2.Exosite.IO.:443", "P2"},
		{"m2.exosite.com", DefaultProduct},
		{"p2.example.com", DefaultProduct},
		{"p3.m2.exosite.io", DefaultProduct},
		{"[::1]:443", DefaultProduct},
		{"[::1]", DefaultProduct},
		{"localhost", DefaultProduct},
		{DefaultProduct + ".m2.exosite.com:80", DefaultProduct},
	} {
		if err := s.cloud.Enable(tt.product, "a", ""); err != nil {
			t.Fatal(err)
		}
		got := ask(t, c, request(s, "POST /provision/activate", "", "id=a", "Host: "+tt.host))
		device, err := s.cloud.Device(tt.product, "a")
		if err != nil || got != "200 "+device.CIK {
			t.Errorf("%s: got %.20s, %v", tt.host, got, err)
		}
		if got := ask(t, c, request(s, "GET /onep:v1/stack/alias?fetch_status", device.CIK, "", "Host: "+tt.host)); got != "204" {
			t.Errorf("%s: read: %s", tt.host, got)
		}
	}
}

// What does not fit, in length and in form.
func TestLimits(t *testing.T) {
	s := New(t)
	cik := activated(t, s, "a")
	c := client(t, s)
	if err := s.cloud.CreateContent(s.Product(), "f", "", false); err != nil {
		t.Fatal(err)
	}
	tooLong := "fetch_status=" + strings.Repeat("a", cloud.MaxValue+1)
	many := strings.Repeat("a=1&", maxFields+1)
	for _, tt := range []struct {
		name, line, cik, body string
		want                  string
	}{
		{"longest value", "POST /onep:v1/stack/alias", cik, tooLong[:len(tooLong)-1], "204"},
		{"longest value, encoded", "POST /onep:v1/stack/alias", cik, "fetch_status=" + strings.Repeat("%7B", cloud.MaxValue), "204"},
		{"value", "POST /onep:v1/stack/alias", cik, tooLong, "413 the value of fetch_status has 1048577 bytes"},
		{"record", "POST /onep:v1/stack/alias/fetch_status", cik, "1=" + tooLong[13:], "413 the value of fetch_status has 1048577 bytes"},
		{"body", "POST /onep:v1/stack/alias", cik, "a=" + strings.Repeat("a", maxBody), "413 a body of this request may have"},
		{"fields", "POST /onep:v1/stack/alias", cik, many, "413 more than 10000 names and values"},
		{"name", "POST /onep:v1/stack/alias", cik, strings.Repeat("a", maxName+1) + "=", "400 "},
		{"alias in the path", "POST /onep:v1/stack/alias/" + strings.Repeat("a", maxName+1), cik, "1=1", "400 alias"},
		{"not UTF-8 in the path", "POST /onep:v1/stack/alias/%ff", cik, "1=1", "400 alias"},
		{"aliases", "GET /onep:v1/stack/alias?" + strings.Repeat("&", 10) + "a&a&a=", cik, "", "204"},
		{"header", "GET /timestamp?" + strings.Repeat("a", maxHeader+8192), "", "", "431 "},
		{"content type", "POST /provision/manage/content/" + s.Product() + "/f", s.cloud.Owner(), "x", "400 content type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(s, tt.line, tt.cik, tt.body)
			if tt.name == "content type" {
				r.Header.Set("Content-Type", "a,b")
			}
			if got := ask(t, c, r); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %.200s, want %s", got, tt.want)
			}
		})
	}
	// A body without Content-Length.
	r := request(s, "POST /onep:v1/stack/alias", cik, "")
	r.Body, r.ContentLength = io.NopCloser(io.LimitReader(zeros{}, maxBody+1)), -1
	if got := ask(t, c, r); !strings.HasPrefix(got, "413 a body of this request may have") {
		t.Errorf("chunked: %.100s", got)
	}
	// An announced one is refused before it is sent.
	for _, path := range []string{"/onep:v1/stack/alias", "/provision/manage/content/" + s.Product() + "/f"} {
		raw, err := roundTrip(s.HTTPAddr(), fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nX-Exosite-CIK: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, s.cloud.Owner(), int64(cloud.MaxContent+1)))
		if err != nil || !strings.HasPrefix(raw, "HTTP/1.1 413 ") {
			t.Errorf("%s: %.100s, %v", path, raw, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A client that goes away in the middle of an upload leaves what was there.
func TestUploadThatEnds(t *testing.T) {
	s := New(t)
	if err := errors.Join(s.cloud.CreateContent(s.Product(), "f", "", false), s.cloud.Upload(s.Product(), "f", "text/plain", strings.NewReader("before"))); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /provision/manage/content/%s/f HTTP/1.1\r\nHost: a\r\nX-Exosite-CIK: %s\r\nContent-Length: 100\r\n\r\nhalf", s.Product(), s.cloud.Owner())
	conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	conn.Close()
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "what was there before stays") {
		t.Errorf("got %s, %v", answer, err)
	}
	content, err := s.cloud.ContentInfo(s.Product(), "f")
	if err != nil || content.Size != 6 {
		t.Errorf("%+v, %v", content, err)
	}
}

func TestLongPoll(t *testing.T) {
	s := New(t)
	cik := activated(t, s, "a")
	c := client(t, s)
	poll := func(ctx context.Context, ms int) <-chan string {
		got := make(chan string, 1)
		r := request(s, "GET /onep:v1/stack/alias?engine_fetch", cik, "", fmt.Sprint("Request-Timeout: ", ms)).WithContext(ctx)
		go func() { got <- ask(t, c, r) }()
		return got
	}
	waits := func() bool { return strings.Contains(stacks(), "cloud.(*Device).Wait") }

	got := poll(t.Context(), 300000)
	eventually(t, "the poll waits", waits)
	if err := s.cloud.Set(s.Product(), "a", "engine_fetch", "x y"); err != nil {
		t.Fatal(err)
	}
	if got := <-got; got != "200 engine_fetch=x+y" {
		t.Errorf("woken: %s", got)
	}
	if got := <-poll(t.Context(), 10); got != "304" {
		t.Errorf("timeout: %s", got)
	}

	// The credential ends.
	got = poll(t.Context(), 300000)
	eventually(t, "the poll waits", waits)
	if err := s.cloud.Enable(s.Product(), "a", ""); err != nil {
		t.Fatal(err)
	}
	if got := <-got; !strings.HasPrefix(got, "401 ") {
		t.Errorf("the credential's end: %s", got)
	}
	var err error
	if cik, err = s.cloud.Activate(s.Product(), "a", "", nil); err != nil {
		t.Fatal(err)
	}

	// The client goes.
	ctx, cancel := context.WithCancel(t.Context())
	got = poll(ctx, 300000)
	eventually(t, "the poll waits", waits)
	cancel()
	<-got
	eventually(t, "the poll ends when the client goes", func() bool { return !waits() })

	// The emulator ends.
	got = poll(t.Context(), 300000)
	eventually(t, "the poll waits", waits)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := <-got; got != "503 the emulator is ending" {
		t.Errorf("end: %s", got)
	}
}

func stacks() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// A certificate of a device's own is bound by activation, and then a credential.
func TestClientCertificate(t *testing.T) {
	s := New(t)
	first, second := NewCertificate(t), NewCertificate(t)
	s.AddDevice("a")
	over := func(line, cik, body string, cert ...tls.Certificate) string {
		r := request(s, line, cik, body)
		r.URL.Scheme, r.URL.Host = "https", s.HTTPSAddr()
		return ask(t, client(t, s, cert...), r)
	}
	const read = "GET /onep:v1/stack/alias?fetch_status"
	if got := over(read, "", "", first); got != "401 no device has been activated with this TLS client certificate" {
		t.Errorf("before: %s", got)
	}
	got := over("POST /provision/activate", "", "id=a", first)
	cik := strings.TrimPrefix(got, "200 ")
	for _, tt := range []struct {
		name, cik string
		certs     []tls.Certificate
		want      string
	}{
		{"certificate", "", []tls.Certificate{first}, "204"},
		{"CIK", cik, nil, "204"},
		{"CIK and another certificate", cik, []tls.Certificate{second}, "204"},
		{"another certificate", "", []tls.Certificate{second}, "401"},
		{"bad CIK and certificate", "x", []tls.Certificate{first}, "401"},
		{"neither", "", nil, "401"},
	} {
		if got := over("POST /onep:v1/stack/alias", tt.cik, "fetch_status=1", tt.certs...); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: got %s", tt.name, got)
		}
	}
	// A session that is resumed still has the certificate.
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{first}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}}}
	for i := range 2 {
		a, err := c.Get("https://" + s.HTTPSAddr() + "/onep:v1/stack/alias?fetch_status")
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode != 200 || a.TLS.DidResume != (i > 0) {
			t.Errorf("%d: %s, resumed %v", i, a.Status, a.TLS.DidResume)
		}
	}
	if err := s.cloud.Disable(s.Product(), "a", ""); err != nil {
		t.Fatal(err)
	}
	if got := over(read, "", "", first); !strings.HasPrefix(got, "401") {
		t.Errorf("disabled: %s", got)
	}
}

func TestSetClock(t *testing.T) {
	s := New(t)
	s.SetClock(-1000 * time.Hour)
	a, err := http.Get("http://" + s.HTTPAddr() + "/timestamp")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	date, err2 := http.ParseTime(a.Header.Get("Date"))
	seconds, err3 := strconv.ParseInt(string(body), 10, 64)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	for _, got := range []time.Time{date, time.Unix(seconds, 0)} {
		if behind := s.cloud.Now().Sub(got); behind < 1000*time.Hour || behind > 1001*time.Hour {
			t.Errorf("%v is %v behind", got, behind)
		}
	}
}

func TestRequests(t *testing.T) {
	var log lockedBuffer
	c, err := cloud.Open(cloud.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := Start(Options{Cloud: c, HTTP: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cik := activated(t, s, "a")
	hc := client(t, s)
	ask(t, hc, request(s, "POST /onep:v1/stack/alias?fetch_status", cik, "fetch_status=abc"))
	ask(t, hc, request(s, "GET /nothing?"+strings.Repeat("x", 1000), "", ""))
	ask(t, hc, request(s, "GET /provision/manage/model/p/s", c.Owner(), ""))
	got := s.Requests()
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for _, r := range got {
		if _, _, err := net.SplitHostPort(r.From); err != nil || r.Time.IsZero() || r.Duration <= 0 {
			t.Errorf("%+v", r)
		}
	}
	for i := range got {
		got[i].From, got[i].Time, got[i].Duration = "", time.Time{}, 0
	}
	want := []Request{
		{Method: "POST", Path: "/onep:v1/stack/alias?fetch_status", Call: "readwrite", Product: s.Product(), Serial: "a", CIK: cik[:8] + "*", Status: 200, In: 16, Out: 16},
		{Method: "GET", Path: "/nothing?" + strings.Repeat("x", maxShort-9) + "...", Status: 404, Out: 19},
		{Method: "GET", Path: "/provision/manage/model/p/s", Call: "manage", Product: "p", Serial: "s", CIK: c.Owner()[:8] + "*", Status: 404, Out: int64(len("product \"p\": unknown\n"))},
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
	for range maxRequests {
		ask(t, hc, request(s, "GET /timestamp", "", ""))
	}
	ask(t, hc, request(s, "GET /last", "", ""))
	if got := s.Requests(); len(got) != maxRequests || got[0].Call != "timestamp" || got[maxRequests-1].Path != "/last" {
		t.Errorf("%d, first %+v, last %+v", len(got), got[0], got[len(got)-1])
	}
	if text := log.String(); !strings.Contains(text, "call=readwrite") || strings.Contains(text, cik) || strings.Contains(text, c.Owner()) {
		t.Errorf("log: %.2000s", text)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Close ends what hangs, also clients that send nothing.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	c, err := cloud.Open(cloud.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(Options{Cloud: c, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	cik := activated(t, s, "a")
	if err := errors.Join(c.CreateContent(s.Product(), "f", "", false), c.Upload(s.Product(), "f", "", io.LimitReader(zeros{}, 32<<20))); err != nil {
		t.Fatal(err)
	}
	s.Fault(Fault{Call: "write", Hang: true})
	s.Fault(Fault{Call: "timestamp", Delay: time.Hour})
	s.Fault(Fault{Call: "read", Rate: 1})
	if _, err := func() (any, error) {
		d, _ := c.ByCIK(cik)
		return d.Write(cloud.Value{Alias: "fetch_status", Value: "1"})
	}(); err != nil {
		t.Fatal(err)
	}
	key := "\r\nHost: a\r\nX-Exosite-CIK: " + cik + "\r\n"
	var conns []net.Conn
	for _, raw := range []string{
		"",                                       // nothing
		"GET /timest",                            // half a header
		"GET /timestamp HTTP/1.1" + key + "\r\n", // delayed
		"POST /onep:v1/stack/alias HTTP/1.1" + key + "Content-Length: 100\r\n\r\nfetch",         // half a body
		"POST /onep:v1/stack/alias HTTP/1.1" + key + "Content-Length: 14\r\n\r\nfetch_status=1", // hangs
		"GET /onep:v1/stack/alias?fetch_status HTTP/1.1" + key + "\r\n",                         // trickles
		"GET /onep:v1/stack/alias?engine_fetch HTTP/1.1" + key + "Request-Timeout: 300000\r\n\r\n",
		"GET /provision/download?id=f HTTP/1.1" + key + "\r\n", // never read
	} {
		for _, addr := range []string{s.HTTPAddr(), s.HTTPSAddr()} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conns = append(conns, conn)
			if addr == s.HTTPSAddr() && raw != "" {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			if _, err := io.WriteString(conn, raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all are in their handlers", func() bool {
		text := stacks()
		return strings.Count(text, "exositetest.pause(") == 6 && strings.Count(text, "(*exchange).readBody") == 2 &&
			strings.Count(text, "(*Device).Wait") == 2 && strings.Count(text, ").serveContent(") == 2
	})
	start := time.Now()
	s.Close()
	if took := time.Since(start); took > goodbye+2*time.Second {
		t.Errorf("took %v", took)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "all goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

// Slow clients don't hold a connection before their request has come.
func TestTimeouts(t *testing.T) {
	s := New(t)
	if s.http.ReadHeaderTimeout != headerTime || s.http.IdleTimeout != idleTime {
		t.Errorf("%v, %v", s.http.ReadHeaderTimeout, s.http.IdleTimeout)
	}
	// A long poll longer than the time for a body: its deadline must not end it.
	// What tells is that none is set any more when the body has been read.
	deadlines := &deadlineRecorder{}
	body := &bodyReader{ReadCloser: io.NopCloser(strings.NewReader("ab")), timeouts: http.NewResponseController(deadlines), x: &exchange{}}
	io.Copy(io.Discard, body)
	if n := len(deadlines.read); n < 2 || deadlines.read[0].IsZero() || !deadlines.read[n-1].IsZero() || body.x.In != 2 {
		t.Errorf("%v", deadlines.read)
	}
}

type deadlineRecorder struct {
	http.ResponseWriter
	read []time.Time
}

func (d *deadlineRecorder) SetReadDeadline(t time.Time) error {
	d.read = append(d.read, t)
	return nil
}

// Hundreds of devices at once: activation, reports, commands by long poll.
func TestLoad(t *testing.T) {
	s := New(t)
	before := runtime.NumGoroutine()
	devices, rounds := 300, 5
	serials := make([]cloud.Serial, devices)
	for i := range serials {
		serials[i].SN = fmt.Sprint("device-", i)
	}
	if err := s.cloud.AddSerials(s.Product(), serials...); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: devices}
	c := &http.Client{Transport: transport}
	var polling, answered atomic.Int64
	var all sync.WaitGroup
	for i := range devices {
		sn := serials[i].SN
		all.Go(func() {
			if err := s.cloud.Enable(s.Product(), sn, ""); err != nil {
				t.Error(err)
				return
			}
			cik, ok := strings.CutPrefix(ask(t, c, request(s, "POST /provision/activate", "", "id="+sn)), "200 ")
			if !ok {
				t.Error("activate: ", cik)
				return
			}
			for n := range rounds {
				want := "200 fetch_status=" + url.QueryEscape(fmt.Sprint(sn, " ", n))
				if got := ask(t, c, request(s, "POST /onep:v1/stack/alias?fetch_status", cik, want[4:])); got != want {
					t.Errorf("%s: got %s", want, got)
				}
				answered.Add(1)
			}
			polling.Add(1)
			if got := ask(t, c, request(s, "GET /onep:v1/stack/alias?engine_fetch", cik, "", "Request-Timeout: 300000", "If-Modified-Since: 1")); got != "200 engine_fetch="+sn {
				t.Errorf("%s: %s", sn, got)
			}
			answered.Add(1)
		})
		if i%10 == 0 { // strangers, meanwhile
			all.Go(func() {
				if got := ask(t, c, request(s, "GET /onep:v1/stack/alias?a", strings.Repeat("x", 40), "")); !strings.HasPrefix(got, "401") {
					t.Error(got)
				}
			})
		}
	}
	eventually(t, "all devices poll", func() bool { return polling.Load() == int64(devices) || t.Failed() })
	for _, serial := range serials {
		if err := s.cloud.Set(s.Product(), serial.SN, "engine_fetch", serial.SN); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	if got := answered.Load(); got != int64(devices*(rounds+1)) {
		t.Errorf("%d answers", got)
	}
	transport.CloseIdleConnections()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func BenchmarkWriteRead(b *testing.B) {
	s := New(b)
	const devices = 16
	ciks := make([]string, devices)
	for i := range ciks {
		ciks[i] = activated(b, s, fmt.Sprint(i))
	}
	var next atomic.Int64
	body := "engine_report=" + strings.Repeat("x", 1000)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", s.HTTPAddr())
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		raw := fmt.Sprintf("POST /onep:v1/stack/alias?engine_fetch&update_interval HTTP/1.1\r\nHost: a\r\nX-Exosite-CIK: %s\r\nContent-Length: %d\r\n\r\n%s", ciks[next.Add(1)%devices], len(body), body)
		for pb.Next() {
			if _, err := io.WriteString(conn, raw); err != nil {
				b.Error(err)
				return
			}
			a, err := http.ReadResponse(r, nil)
			if err != nil || a.StatusCode != 204 {
				b.Error(a, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// Memory when so many devices have checked in once, and all poll.
func BenchmarkMemory(b *testing.B) {
	const devices = 5000
	for b.Loop() {
		s := New(b)
		before := heap()
		var conns []net.Conn
		body := "engine_report=" + strings.Repeat("x", 1000) + "&device_info=" + strings.Repeat("y", 2000)
		for i := range devices {
			cik := activated(b, s, fmt.Sprint(i))
			conn, err := net.Dial("tcp", s.HTTPAddr())
			if err != nil {
				b.Fatal(err)
			}
			conns = append(conns, conn)
			fmt.Fprintf(conn, "POST /onep:v1/stack/alias HTTP/1.1\r\nHost: a\r\nX-Exosite-CIK: %s\r\nContent-Length: %d\r\n\r\n%s", cik, len(body), body)
			if a, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil); err != nil || a.StatusCode != 204 {
				b.Fatal(a, err)
			}
			fmt.Fprintf(conn, "GET /onep:v1/stack/alias?engine_fetch HTTP/1.1\r\nHost: a\r\nX-Exosite-CIK: %s\r\nRequest-Timeout: 300000\r\n\r\n", cik)
		}
		eventually(b, "all poll", func() bool { return len(s.Requests()) == maxRequests && runtime.NumGoroutine() > 2*devices })
		b.ReportMetric(float64(heap()-before)/devices, "B/device")
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		for _, conn := range conns {
			conn.Close()
		}
		s.Close()
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
