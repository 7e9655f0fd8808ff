package exosite

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestServer(t *testing.T) {
	tests := []struct{ server, scheme, host, name string }{
		{"a.m2.exosite.io", "https", "a.m2.exosite.io", "a.m2.exosite.io"},
		{"A.M2.Exosite.io:443", "https", "a.m2.exosite.io", "a.m2.exosite.io"},
		{"a:8443", "https", "a:8443", "a"},
		{"https://a.io/", "https", "a.io", "a.io"},
		{"HTTPS://a.io:444", "https", "a.io:444", "a.io"},
		{"http://localhost:80/", "http", "localhost", "localhost"},
		{"http://localhost:443", "http", "localhost:443", "localhost"},
		{"::1", "https", "[::1]", "::1"},
		{"[::1]", "https", "[::1]", "::1"},
		{"http://[fe80::1%eth0]:8080", "http", "[fe80::1%eth0]:8080", "fe80::1%eth0"},
		{"10.0.2.2:8443", "https", "10.0.2.2:8443", "10.0.2.2"},
	}
	for _, test := range tests {
		c, err := New(Options{Server: test.server})
		if err != nil || c.scheme != test.scheme || c.host != test.host || c.Host() != test.name {
			t.Errorf("%q: %v, %+v", test.server, err, c)
		}
	}
	for _, server := range []string{
		"", "https://", "ftp://a", "mqtts://a", "a/b", "https://a/b", "https://a?b", "https://user:geheim@a", "user:geheim@a", "a b", "a:",
		"a:0", "a:65536", "a:http", "a:+1", "[::1", "::1]", "[::1]x", "[1.2.3.4]", "[a]:1", "ä", "a\r\nb", strings.Repeat("a", 254),
	} {
		if _, err := New(Options{Server: server}); err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v", server, err)
		}
	}
	for _, o := range []Options{{Server: "a", Vendor: "x"}, {Server: "a", Model: "x"}, {Server: "a", UserAgent: "a\nb"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is fine", o)
		}
	}
}

func TestSecrets(t *testing.T) {
	o := Options{Server: "a.io", CIK: " " + testCIK + "\n"}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if c.CIK() != testCIK || c.Options().CIK != testCIK {
		t.Errorf("CIK %q", c.CIK())
	}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprint(o), fmt.Sprintf("%+v", c.Options()), fmt.Sprint(Options{CIK: "geheim"})} {
		if strings.Contains(s, testCIK[8:]) || strings.Contains(s, "geheim") {
			t.Error(s)
		}
	}
}

// TestStatus has each status that a write may be answered with.
func TestStatus(t *testing.T) {
	tests := []struct {
		code  int
		tries int
		is    error
	}{
		{200, 1, nil}, {204, 1, nil},
		{206, 1, nil}, {301, 1, nil}, {304, 1, nil},
		{400, 1, nil}, {401, 1, ErrBadCIK}, {403, 1, nil}, {404, 1, nil}, {405, 1, nil}, {408, 3, nil}, {409, 1, nil},
		{413, 1, nil}, {416, 1, nil}, {418, 1, nil}, {429, 3, nil}, {500, 3, nil}, {501, 1, nil}, {502, 3, nil}, {503, 3, nil}, {504, 3, nil},
	}
	for _, test := range tests {
		s := serveRaw(t, answerOf(test.code, "it has "+testCIK+"\nmore", "Retry-After: 7"))
		c, waits := newClient(t, Options{CIK: testCIK, Tries: 3}, s.addr)
		if test.code == 204 {
			s = serveRaw(t, answerOf(204, ""))
			c, waits = newClient(t, Options{CIK: testCIK, Tries: 3}, s.addr)
		}
		err := c.Write(t.Context(), Value{"a", "1"})
		if n := len(s.seen()); n != test.tries || len(waits.all) != n-1 {
			t.Errorf("%d: %d tries, %d waits", test.code, n, len(waits.all))
		}
		for i, d := range waits.all {
			if want := 7*time.Second + firstDelay<<i; d != want {
				t.Errorf("%d: wait %v is %v, not %v", test.code, i, d, want)
			}
		}
		if test.code == 200 || test.code == 204 {
			if err != nil {
				t.Errorf("%d: %v", test.code, err)
			}
			continue
		}
		var status *StatusError
		if !errors.As(err, &status) || status.Code != test.code || status.Call != "write" || status.RetryAfter != 7*time.Second {
			t.Fatalf("%d: %v", test.code, err)
		}
		if test.is != nil && !errors.Is(err, test.is) || errors.Is(err, ErrUnknownDevice) {
			t.Errorf("%d: %v", test.code, err)
		}
		if strings.Contains(err.Error()+status.Body, testCIK[8:]) || !strings.Contains(err.Error(), "write on "+c.host) {
			t.Errorf("%v", err)
		}
	}
}

// TestTriedAgain has what goes wrong on the way, and then well.
func TestTriedAgain(t *testing.T) {
	good := answerOf(200, "a=1")
	tests := []struct {
		name, bad string
		again     bool
	}{
		{"closed", hangUp, true},
		{"cut in the header", good[:30] + hangUp, true},
		{"short body", strings.TrimSuffix(good, "=1") + hangUp, true},
		{"cut chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=" + hangUp, true},
		{"not HTTP", "220 ESMTP\r\n" + hangUp, true},
		{"no form", answerOf(200, "<html>") + hangUp, false},
		{"malformed escape", answerOf(200, "a=%zz"), false},
		{"too many values", answerOf(200, "a=1&b=2"), false},
		{"too long", answerOf(200, strings.Repeat("a", 4<<20)), false},
		{"too long, without a length", "HTTP/1.1 200 OK\r\n\r\na=" + strings.Repeat("a", 4<<20) + hangUp, false},
		{"value too long", answerOf(200, "a="+strings.Repeat("a", maxValue+1)), false},
		{"long header", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := serveRaw(t, test.bad, good)
			c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
			values, err := c.Read(t.Context(), "a")
			switch {
			case test.again && (err != nil || values["a"] != "1" || len(s.seen()) != 2):
				t.Errorf("%v, %v, %d tries", values, err, len(s.seen()))
			case !test.again && (err == nil || len(s.seen()) != 1):
				t.Errorf("%v, %v, %d tries", values, err, len(s.seen()))
			}
		})
	}
	t.Run("never", func(t *testing.T) {
		s := serveRaw(t, good[:30]+hangUp)
		c, waits := newClient(t, Options{CIK: testCIK}, s.addr)
		_, err := c.Read(t.Context(), "a")
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "tried 5 times") || len(waits.all) != 4 {
			t.Errorf("%v, %v", err, waits.all)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		c, waits := newClient(t, Options{CIK: testCIK, Tries: 9}, "127.0.0.1:1")
		err := c.Write(t.Context(), Value{"a", "1"})
		if err == nil || !strings.Contains(err.Error(), "refused") || fmt.Sprint(waits.all) != "[500ms 1s 2s 4s 8s 16s 32s 1m0s]" {
			t.Errorf("%v, %v", err, waits.all)
		}
	})
	t.Run("activation that was lost", func(t *testing.T) {
		s := serveRaw(t, hangUp, answerOf(409, ""))
		c, _ := newClient(t, Options{}, s.addr)
		_, err := c.Activate(t.Context(), "1")
		if !errors.Is(err, ErrNotEnabled) || !strings.Contains(err.Error(), "an earlier try failed") {
			t.Error(err)
		}
	})
}

// TestKeptConnection has the server close a connection that is kept: the next
// request goes over another one, and this is no try that failed.
func TestKeptConnection(t *testing.T) {
	s := serveRaw(t, answerOf(204, ""), hangUp, answerOf(204, ""))
	c, waits := newClient(t, Options{CIK: testCIK, Tries: 1}, s.addr)
	for range 2 {
		if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(waits.all) != 0 || len(s.seen()) != 3 || s.seen()[1] != s.seen()[2] {
		t.Errorf("%v, %q", waits.all, s.seen())
	}
}

func TestSleep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if err := sleep(ctx, time.Nanosecond); err != nil {
		t.Error(err)
	}
	cancel()
	if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	all := make(map[time.Duration]bool)
	for range 100 {
		d := random(firstDelay)
		if d < 0 || d >= firstDelay {
			t.Fatal(d)
		}
		all[d] = true
	}
	if len(all) < 50 {
		t.Errorf("only %d delays", len(all))
	}
}

func TestDeadline(t *testing.T) {
	t.Run("before the next try", func(t *testing.T) {
		s := serveRaw(t, answerOf(503, "", "Retry-After: 3600"))
		c, waits := newClient(t, Options{CIK: testCIK}, s.addr)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := c.Write(ctx, Value{"a", "1"})
		var status *StatusError
		if !errors.As(err, &status) || status.RetryAfter != maxRetryAfter || !errors.Is(err, context.DeadlineExceeded) || len(waits.all) != 0 {
			t.Errorf("%v, %v", err, waits.all)
		}
	})
	t.Run("canceled in between", func(t *testing.T) {
		s := serveRaw(t, answerOf(503, ""))
		c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
		ctx, cancel := context.WithCancel(t.Context())
		c.sleep = func(ctx context.Context, d time.Duration) error {
			cancel()
			return sleep(ctx, time.Hour)
		}
		err := c.Write(ctx, Value{"a", "1"})
		var status *StatusError
		if !errors.As(err, &status) || !errors.Is(err, context.Canceled) || len(s.seen()) != 1 {
			t.Error(err)
		}
	})
	t.Run("canceled while waiting for the answer", func(t *testing.T) {
		s := serveRaw(t, answerOf(503, ""), "")
		c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
		ctx, cancel := context.WithCancel(t.Context())
		c.sleep = func(context.Context, time.Duration) error {
			time.AfterFunc(10*time.Millisecond, cancel)
			return nil
		}
		err := c.Write(ctx, Value{"a", "1"})
		var status *StatusError
		if !errors.As(err, &status) || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		s := serveRaw(t, "", answerOf(204, ""))
		c, waits := newClient(t, Options{CIK: testCIK}, s.addr)
		c.patience = 20 * time.Millisecond
		if err := c.Write(t.Context(), Value{"a", "1"}); err != nil || len(waits.all) != 1 {
			t.Errorf("%v, %v", err, waits.all)
		}
	})
	t.Run("stalled answer", func(t *testing.T) {
		good := answerOf(200, "a=1")
		s := serveRaw(t, good[:len(good)-1])
		c, _ := newClient(t, Options{CIK: testCIK, Tries: 1}, s.addr)
		c.stall = 20 * time.Millisecond
		_, err := c.Read(t.Context(), "a")
		if err == nil || !strings.Contains(err.Error(), "nothing for 20ms") {
			t.Error(err)
		}
	})
	t.Run("a wait has no tries behind its end", func(t *testing.T) {
		s := serveRaw(t, answerOf(503, ""))
		c, waits := newClient(t, Options{CIK: testCIK}, s.addr)
		_, _, err := c.Wait(t.Context(), "a", time.Time{}, 900*time.Millisecond)
		if err == nil || len(waits.all) != 1 {
			t.Errorf("%v, %v", err, waits.all)
		}
	})
}

// TestNothingSent has calls that fail, or are done, at once.
func TestNothingSent(t *testing.T) {
	s := serveRaw(t, answerOf(500, ""))
	c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
	empty, _ := newClient(t, Options{}, s.addr)
	ctx := t.Context()
	long := strings.Repeat("x", maxValue+1)
	bad := map[string]error{
		"no alias":       c.Write(ctx, Value{"", "1"}),
		"long value":     c.Write(ctx, Value{"a", long}),
		"long point":     c.Record(ctx, Point{"a", time.Now(), long}),
		"no time":        c.Record(ctx, Point{"a", time.Time{}, ""}),
		"nameless point": c.Record(ctx, Point{"", time.Now(), ""}),
		"empty CIK":      empty.Write(ctx, Value{"a", "1"}),
	}
	_, bad["no alias to read"] = c.Read(ctx, "a", "")
	_, bad["no alias to write"] = c.WriteRead(ctx, []Value{{"", ""}}, "a")
	_, _, bad["no alias to wait for"] = c.Wait(ctx, "", time.Time{}, time.Second)
	_, bad["no name"] = c.Content(ctx, "", Range{})
	_, bad["no range"] = c.Content(ctx, "a", Range{2, 2})
	for name, err := range bad {
		if err == nil || !strings.Contains(err.Error(), c.host) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !errors.Is(bad["empty CIK"], ErrBadCIK) {
		t.Error(bad["empty CIK"])
	}
	if err := errors.Join(c.Write(ctx), c.Record(ctx)); err != nil {
		t.Error(err)
	}
	if v, err := c.Read(ctx); v == nil || err != nil {
		t.Error(v, err)
	}
	if len(s.seen()) != 0 {
		t.Errorf("%q", s.seen())
	}
}

func TestWriteReadIsEither(t *testing.T) {
	s := serveRaw(t, answerOf(204, ""))
	c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
	for _, f := range []func() (map[string]string, error){
		func() (map[string]string, error) { return c.WriteRead(t.Context(), nil, "a") },
		func() (map[string]string, error) { return c.WriteRead(t.Context(), []Value{{"a", "1"}}) },
	} {
		if v, err := f(); v == nil || len(v) != 0 || err != nil {
			t.Error(v, err)
		}
	}
	if r := s.seen(); !strings.HasPrefix(r[0], "GET /onep:v1/stack/alias?a ") || !strings.HasPrefix(r[1], "POST /onep:v1/stack/alias ") {
		t.Errorf("%q", r)
	}
}

// TestOlderRecord has one request for each alias, and the clashes of all.
func TestOlderRecord(t *testing.T) {
	s := serveRaw(t, answerOf(409, "a=1500000000"), answerOf(204, ""), answerOf(409, "c=1500000000,1500000001"))
	c, _ := newClient(t, older(), s.addr)
	at := time.Unix(1500000000, 0)
	err := c.Record(t.Context(), Point{"a", at, "1"}, Point{"b", at, "1"}, Point{"c", at, "1"}, Point{"c", at.Add(time.Second), "2"})
	var clash *ConflictError
	if !errors.As(err, &clash) || len(clash.Times["a"]) != 1 || len(clash.Times["c"]) != 2 || len(clash.Times) != 2 || len(s.seen()) != 3 {
		t.Errorf("%v, %q", err, s.seen())
	}
}

// TestMalformed has answers that cannot be taken, which is told at once.
func TestMalformed(t *testing.T) {
	at := time.Unix(1500000000, 0)
	tests := []struct {
		name, answer string
		call         func(c *Client) error
	}{
		{"activate", answerOf(200, "<html>welcome"), func(c *Client) error { _, err := c.Activate(t.Context(), "1"); return err }},
		{"activate without a CIK", answerOf(204, ""), func(c *Client) error { _, err := c.Activate(t.Context(), "1"); return err }},
		{"info", answerOf(200, "a,b,c,d"), func(c *Client) error { _, err := c.ContentInfo(t.Context(), "a"); return err }},
		{"info, nothing", answerOf(204, ""), func(c *Client) error { _, err := c.ContentInfo(t.Context(), "a"); return err }},
		{"list, long", answerOf(200, strings.Repeat("a\n", 1<<20)), func(c *Client) error { _, err := c.ContentList(t.Context()); return err }},
		{"timestamp", answerOf(200, "now"), func(c *Client) error { _, err := c.Timestamp(t.Context()); return err }},
		{"timestamp, none", answerOf(204, ""), func(c *Client) error { _, err := c.Timestamp(t.Context()); return err }},
		{"wait, other alias", answerOf(200, "b=1", "Last-Modified: 1500000000"), func(c *Client) error { _, _, err := c.Wait(t.Context(), "a", at, time.Hour); return err }},
		{"wait, no time", answerOf(200, "a=1"), func(c *Client) error { _, _, err := c.Wait(t.Context(), "a", at, time.Hour); return err }},
		{"wait, no content", answerOf(204, ""), func(c *Client) error { _, _, err := c.Wait(t.Context(), "a", at, time.Hour); return err }},
		{"record", answerOf(409, "what?"), func(c *Client) error { return c.Record(t.Context(), Point{"a", at, "1"}) }},
		{"record, too many", answerOf(409, "a=1,2"), func(c *Client) error { return c.Record(t.Context(), Point{"a", at, "1"}) }},
	}
	for _, test := range tests {
		s := serveRaw(t, test.answer)
		c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
		if err := test.call(c); err == nil || errors.As(err, new(*ConflictError)) || len(s.seen()) != 1 {
			t.Errorf("%s: %v, %d tries", test.name, err, len(s.seen()))
		} else {
			t.Log(err)
		}
	}
}

// TestProxy goes through the environment's proxy, for http and for https.
func TestProxy(t *testing.T) {
	ca := newCA(t)
	target := ca.serve(t, ca.leaf(t, leaf{}), nil)
	proxy, seen := serveProxy(t, target.addr)
	c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}, Tries: 1}, proxy.Host)
	c.proxy = http.ProxyURL(proxy)
	if _, err := c.Timestamp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
		t.Fatal(err)
	}
	if got := seen(); len(got) != 1 || !strings.HasPrefix(got[0], "CONNECT "+serverName+":443 HTTP/1.1\r\nHost: "+serverName+":443\r\nProxy-Authorization: Basic dTpwdw==\r\n") {
		t.Errorf("%q", got)
	}
	for _, code := range []int{407, 403, 502} {
		s := serveRaw(t, answerOf(code, "no"))
		c, waits := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}}, s.addr)
		c.proxy = http.ProxyURL(proxy)
		err := c.Write(t.Context(), Value{"a", "1"})
		if err == nil || strings.Contains(err.Error(), "pw") || (len(waits.all) == 0) != (code == 407) {
			t.Errorf("%d: %v, %v", code, err, waits.all)
		}
	}
	s := serveRaw(t, answerOf(204, ""))
	plain, _ := newClient(t, Options{CIK: testCIK, Server: "http://" + serverName}, s.addr)
	plain.proxy = http.ProxyURL(proxy)
	if err := plain.Write(t.Context(), Value{"a", "1"}); err != nil || !strings.HasPrefix(s.seen()[0], "POST http://"+serverName+"/onep:v1/stack/alias ") {
		t.Errorf("%v, %q", err, s.seen())
	}
}

// TestNoLeaks has a client's goroutines end.
func TestNoLeaks(t *testing.T) {
	s := serveRaw(t, answerOf(204, ""))
	before := runtime.NumGoroutine()
	c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("a client has %d goroutines", n-before)
	}
	for range 3 {
		if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, before %d", runtime.NumGoroutine(), before)
		}
	}
}

// TestHTTP1 has a server that would rather have HTTP/2, and an old TLS.
func TestHTTP1(t *testing.T) {
	ca := newCA(t)
	s := ca.serve(t, ca.leaf(t, leaf{}), func(config *tls.Config) { config.NextProtos = []string{"h2", "http/1.1"} })
	c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}}, s.addr)
	if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
		t.Fatal(err)
	}
	if r := s.last(); r.ProtoMajor != 1 || r.TLS.ServerName != serverName || r.TLS.Version != tls.VersionTLS13 || r.TLS.CurveID != tls.X25519 {
		t.Errorf("HTTP/%d, %q, %x", r.ProtoMajor, r.TLS.ServerName, r.TLS.Version)
	}
	old := ca.serve(t, ca.leaf(t, leaf{}), func(config *tls.Config) {
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	})
	c, _ = newClient(t, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}, Tries: 1}, old.addr)
	if err := c.Write(t.Context(), Value{"a", "1"}); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Error(err)
	}
}

// A server that repeats credentials, or gives one where it must not, does not
// bring them into errors.
func TestMaskCIKs(t *testing.T) {
	fill := func(n int) string { return strings.Repeat("-", n) }
	for body, want := range map[string]string{
		"":                             "",
		"no CIK here":                  "no CIK here",
		testCIK:                        "", // of an activation that may have gone well
		"a " + testCIK + "&" + testCIK: "a " + testCIK[:8] + "*&" + testCIK[:8] + "*",
		testCIK + "ä":                  testCIK[:8] + "*ä",
		testCIK[:39]:                   testCIK[:39],
		fill(1020) + testCIK:           fill(1020) + testCIK[:4],
		fill(1030) + testCIK:           fill(1024),
		// The mask of the first brings the second, which is not read to its end, before the cut.
		testCIK + fill(990) + testCIK: testCIK[:8] + "*" + fill(990),
	} {
		answer := "400 Bad Request"
		if body == testCIK {
			answer = "201 Created"
		}
		s := serveRaw(t, "HTTP/1.1 "+answer+"\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
		c, err := New(Options{Server: "http://" + s.addr, Tries: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Activate(t.Context(), "a")
		var status *StatusError
		if !errors.As(err, &status) || status.Body != want {
			t.Errorf("%q: %v", body, err)
		}
	}
}
