package exosite

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the results into testdata/wire.golden")

const (
	testCIK = "0123456789abcdef0123456789abcdefCIKCIK40"
	product = "a1b2c3d4e5f60000"
)

// rawServer answers requests byte for byte, on connections that it keeps open
// unless an answer says otherwise.
type rawServer struct {
	addr string

	mu       sync.Mutex
	requests []string
}

// hangUp at the end of an answer closes the connection behind it.
const hangUp = "\x00hang up"

// serveConns serves each connection with f, until the test ends. Then it ends
// those that are left.
func serveConns(t testing.TB, f func(conn net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(t.Context(), func() { conn.Close() })()
				f(conn)
			})
		}
	})
	return l.Addr().String()
}

// serveRaw serves one answer after the other, the last one again and again.
func serveRaw(t testing.TB, answers ...string) *rawServer {
	t.Helper()
	s := &rawServer{}
	s.addr = serveConns(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			request, err := readRaw(r)
			if err != nil {
				return
			}
			s.mu.Lock()
			answer := answers[min(len(s.requests), len(answers)-1)]
			s.requests = append(s.requests, request)
			s.mu.Unlock()
			text, end := strings.CutSuffix(answer, hangUp)
			if io.WriteString(conn, text); end {
				return
			}
		}
	})
	return s
}

// readRaw reads a request as it is.
func readRaw(r *bufio.Reader) (string, error) {
	var b strings.Builder
	size := 0
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return "", err
		}
		if n, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			size, _ = strconv.Atoi(strings.TrimSpace(n))
		}
		if line == "\r\n" {
			break
		}
	}
	_, err := io.CopyN(&b, r, int64(size))
	return b.String(), err
}

func (s *rawServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// answerOf makes the text of an answer.
func answerOf(status int, body string, header ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nDate: Wed, 25 Nov 2026 07:00:00 GMT\r\n", status, http.StatusText(status))
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		return b.String() + "\r\n"
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(body))
	return b.String() + body
}

// waits is what a client's sleep was asked for.
type waits struct {
	mu  sync.Mutex
	all []time.Duration
}

// newClient returns a client whose connections all go to addr, and that does not
// wait between tries, which are as late as they can be.
func newClient(t testing.TB, o Options, addr string) (*Client, *waits) {
	t.Helper()
	if o.Server == "" {
		o.Server = "http://" + product + ".m2.exosite.com"
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := &waits{}
	c.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	c.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	c.random = func(below time.Duration) time.Duration { return below }
	c.sleep = func(ctx context.Context, d time.Duration) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all = append(w.all, d)
		return ctx.Err()
	}
	return c, w
}

func older() Options {
	return Options{CIK: testCIK, Vendor: product, Model: product}
}

func current() Options {
	return Options{CIK: testCIK, Server: "http://" + product + ".m2.exosite.io", UserAgent: "GatewayEngine-v1.2.3"}
}

// TestWire compares each request, and what is made of its answer, with
// testdata/wire.golden.
func TestWire(t *testing.T) {
	at := time.Unix(1500000000, 0)
	show := func(v any, err error) string {
		if err != nil {
			return "error: " + err.Error()
		}
		return fmt.Sprintf("%#v", v)
	}
	tests := []struct {
		name   string
		o      Options
		call   func(ctx context.Context, c *Client) string
		answer string
	}{
		{"activate, older", older(), func(ctx context.Context, c *Client) string {
			return show(c.Activate(ctx, "00:2F:AC:43:55:A0"))
		}, answerOf(200, testCIK)},
		{"activate, current", current(), func(ctx context.Context, c *Client) string {
			return show(c.Activate(ctx, "GW 1&2=ü"))
		}, answerOf(200, testCIK+"\n")},
		{"activate, unknown", current(), func(ctx context.Context, c *Client) string {
			return show(c.Activate(ctx, "1"))
		}, answerOf(404, "")},
		{"activate, not enabled", older(), func(ctx context.Context, c *Client) string {
			return show(c.Activate(ctx, "1"))
		}, answerOf(409, "")},
		{"activate, forbidden", older(), func(ctx context.Context, c *Client) string {
			return show(c.Activate(ctx, "1"))
		}, answerOf(403, "no")},
		{"write", current(), func(ctx context.Context, c *Client) string {
			return show(nil, c.Write(ctx, Value{"b", "2"}, Value{"a", `{"x": "1+1 = 2 & 50%"}`}, Value{"ä/ö", ""}))
		}, answerOf(204, "")},
		{"write, bad CIK", current(), func(ctx context.Context, c *Client) string {
			return show(nil, c.Write(ctx, Value{"a", "1"}))
		}, answerOf(401, "unknown CIK "+testCIK)},
		{"read", current(), func(ctx context.Context, c *Client) string {
			return show(c.Read(ctx, "engine_fetch", "a b"))
		}, answerOf(200, "engine_fetch=%7B%22install%22%3A+%5B%5D%7D&a%20b=1%2B1%20x", "Content-Type: application/x-www-form-urlencoded; charset=utf-8")},
		{"read, none", current(), func(ctx context.Context, c *Client) string {
			return show(c.Read(ctx, "a", "b"))
		}, answerOf(204, "")},
		{"write and read", older(), func(ctx context.Context, c *Client) string {
			return show(c.WriteRead(ctx, []Value{{"engine_report", `{"apps":[]}`}, {"x", "1"}}, "engine_fetch", "update_interval"))
		}, answerOf(200, "update_interval=14400")},
		{"poll", current(), func(ctx context.Context, c *Client) string {
			v, at, err := c.Wait(ctx, "command", at, 5*time.Minute)
			return show(fmt.Sprint(v, " at ", at.Unix()), err)
		}, answerOf(200, "command=go", "Last-Modified: Fri, 14 Jul 2017 02:40:07 GMT")},
		{"poll from now on", older(), func(ctx context.Context, c *Client) string {
			v, at, err := c.Wait(ctx, "command", time.Time{}, time.Second)
			return show(fmt.Sprint(v, " at ", at.Unix()), err)
		}, answerOf(200, "command=go", "Last-Modified: 1500000007")},
		{"poll, nothing new", older(), func(ctx context.Context, c *Client) string {
			v, _, err := c.Wait(ctx, "command", time.Time{}, time.Hour)
			return show(v, err)
		}, answerOf(304, "")},
		{"record, current", current(), func(ctx context.Context, c *Client) string {
			return show(nil, c.Record(ctx, Point{"a", at, "1"}, Point{"b", at, "2"}, Point{"a", at.Add(1500 * time.Millisecond), "x y"}))
		}, answerOf(204, "")},
		{"record, older", older(), func(ctx context.Context, c *Client) string {
			return show(nil, c.Record(ctx, Point{"a/b", at, "1"}, Point{"a/b", at.Add(time.Microsecond), "2"}))
		}, answerOf(204, "")},
		{"record, clashes", current(), func(ctx context.Context, c *Client) string {
			err := c.Record(ctx, Point{"a", at, "1"}, Point{"b", at, "2"}, Point{"a", at.Add(time.Second), "3"})
			var clash *ConflictError
			if !errors.As(err, &clash) {
				return show(nil, err)
			}
			return fmt.Sprint(err, "; a: ", clash.Times["a"][1].UnixMilli(), " b: ", clash.Times["b"][0].UnixMilli())
		}, answerOf(409, "a=1500000000%2C1500000001.5&b=1500000000")},
		{"content list, older", older(), func(ctx context.Context, c *Client) string {
			return show(c.ContentList(ctx))
		}, answerOf(200, "app.v1.tar.gz\r\nb.v2.tar.gz\r\n", "Content-Type: text/csv; charset=utf-8")},
		{"content list, current", current(), func(ctx context.Context, c *Client) string {
			return show(c.ContentList(ctx))
		}, answerOf(200, "")},
		{"content list, forbidden", current(), func(ctx context.Context, c *Client) string {
			return show(c.ContentList(ctx))
		}, answerOf(403, "")},
		{"content info, older", older(), func(ctx context.Context, c *Client) string {
			i, err := c.ContentInfo(ctx, "a b.v1.tar.gz")
			return show(fmt.Sprint(i.Type, "|", i.Size, "|", i.Updated.Unix(), "|", i.Meta), err)
		}, answerOf(200, "application/gzip,691529,1513931066,")},
		{"content info, current", current(), func(ctx context.Context, c *Client) string {
			i, err := c.ContentInfo(ctx, "a.v1.tar.gz")
			return show(fmt.Sprint(i.Type, "|", i.Size, "|", i.Updated.Unix(), "|", i.Meta), err)
		}, answerOf(200, "text/plain; charset=utf-8,5000000000,1513931066,one, two\r\n")},
		{"content, older", older(), func(ctx context.Context, c *Client) string {
			return download(ctx, c, "a.v1.tar.gz", Range{})
		}, answerOf(200, "content", "Content-Type: application/gzip")},
		{"content, current, a range", current(), func(ctx context.Context, c *Client) string {
			return download(ctx, c, "a.v1.tar.gz", Range{2, 5})
		}, answerOf(206, "nte", "Content-Type: application/gzip", "Content-Range: bytes 2-4/7")},
		{"content, current, from", current(), func(ctx context.Context, c *Client) string {
			return download(ctx, c, "a.v1.tar.gz", Range{From: 2})
		}, answerOf(206, "ntent", "Content-Range: bytes 2-6/7")},
		{"content, current, the last", current(), func(ctx context.Context, c *Client) string {
			return download(ctx, c, "a.v1.tar.gz", Range{From: -3})
		}, answerOf(206, "ent", "Content-Range: bytes 4-6/*")},
		{"timestamp", current(), func(ctx context.Context, c *Client) string {
			at, err := c.Timestamp(ctx)
			return show(at.Unix(), err)
		}, answerOf(200, "1500000000\r\n")},
	}
	var got strings.Builder
	for _, test := range tests {
		s := serveRaw(t, test.answer)
		c, _ := newClient(t, test.o, s.addr)
		result := test.call(t.Context(), c)
		requests := s.seen()
		if len(requests) != 1 {
			t.Fatalf("%s: %d requests", test.name, len(requests))
		}
		fmt.Fprintf(&got, "== %s\n%s\n%s=> %s\n\n", test.name, visible(requests[0]), visible(test.answer), result)
	}
	golden := filepath.Join("testdata", "wire.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	wants, gots := strings.Split(string(want), "\n== "), strings.Split(got.String(), "\n== ")
	for i := range max(len(wants), len(gots)) {
		if i >= len(wants) || i >= len(gots) || wants[i] != gots[i] {
			t.Fatalf("differs from %s, from here on (-update writes it):\n%s\nwant:\n%s", golden, at0(gots, i), at0(wants, i))
		}
	}
	for _, secret := range strings.Split(got.String(), "\n") {
		if strings.HasPrefix(secret, "=> ") && strings.Contains(secret, testCIK) && !strings.HasPrefix(secret, `=> "`+testCIK) {
			t.Errorf("a CIK in %s", secret)
		}
	}
}

func at0(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return "nothing"
}

// visible shows line ends.
func visible(s string) string {
	return strings.ReplaceAll(s, "\r\n", `\r\n`+"\n") + "\n"
}

func download(ctx context.Context, c *Client, id string, r Range) string {
	content, err := c.Content(ctx, id, r)
	if err != nil {
		return "error: " + err.Error()
	}
	defer content.Close()
	all, err := io.ReadAll(content)
	return fmt.Sprintf("%q offset %d size %d type %q partial %t %v", all, content.Offset, content.Size, content.Type, content.Partial, err)
}
