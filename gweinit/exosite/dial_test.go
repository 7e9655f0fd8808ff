package exosite

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// silent is a server that takes connections and what is sent on them.
func silent(t *testing.T) string {
	t.Helper()
	return serveConns(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
}

// TestSlowConnecting has each step of it take for ever: our own patience ends it,
// and so does the caller's.
func TestSlowConnecting(t *testing.T) {
	ca := newCA(t)
	hangs := ca.serve(t, ca.leaf(t, leaf{}), nil)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	hangs.timestamp = func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "15")
		http.NewResponseController(w).Flush()
		<-stop
	}
	addr := silent(t)
	proxy := http.ProxyURL(&url.URL{Scheme: "http", Host: addr})
	tests := []struct {
		name   string
		change func(c *Client)
	}{
		{"TCP", func(c *Client) {
			c.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}},
		{"proxy", func(c *Client) { c.proxy = proxy }},
		{"TLS", func(c *Client) {
			c.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			}
		}},
		{"time", func(c *Client) { c.o.Trust.ClockSet = func() bool { return false } }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, own := range []bool{true, false} {
				target := hangs.addr
				if test.name == "proxy" {
					target = addr
				}
				c, waits := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}, Tries: 2}, target)
				test.change(c)
				ctx, cancel := context.WithCancel(t.Context())
				want := context.Canceled
				if own {
					c.patience, want = 30*time.Millisecond, os.ErrDeadlineExceeded
				} else {
					time.AfterFunc(30*time.Millisecond, cancel)
				}
				err := c.Write(ctx, Value{"a", "1"})
				cancel()
				if !errors.Is(err, want) || errors.Is(err, context.DeadlineExceeded) || (len(waits.all) == 1) != own {
					t.Errorf("own %t: %v, %v", own, err, waits.all)
				}
				if own && !strings.Contains(err.Error(), "no connection within 30ms") {
					t.Error(err)
				}
			}
		})
	}
	t.Run("http", func(t *testing.T) {
		c, _ := newClient(t, Options{CIK: testCIK, Tries: 1}, "")
		c.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c.patience = 10 * time.Millisecond
		if err := c.Write(t.Context(), Value{"a", "1"}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestProxies has some that cannot be used, whose passwords nobody gets to see.
func TestProxies(t *testing.T) {
	tests := []struct {
		name   string
		proxy  *url.URL
		answer string // of the proxy
		err    error  // of finding it
		want   string
	}{
		{name: "SOCKS", proxy: &url.URL{Scheme: "socks5", Host: "p:1", User: url.UserPassword("u", "geheim")}, want: "it must be http"},
		{name: "malformed", err: errors.New(`parse "http://u:geheim@`), want: "HTTPS_PROXY is malformed"},
		{name: "no port", proxy: &url.URL{Scheme: "http", Host: "p"}, answer: answerOf(403, ""), want: "403 Forbidden"},
		{name: "chatty", proxy: &url.URL{Scheme: "http", Host: "p:1"}, answer: answerOf(200, "more"), want: "more than an answer"},
		{name: "garbled", proxy: &url.URL{Scheme: "http", Host: "p:1"}, answer: "what?\r\n\r\n" + hangUp, want: "malformed"},
		{name: "endless", proxy: &url.URL{Scheme: "http", Host: "p:1"}, answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + hangUp, want: "EOF"},
	}
	for _, test := range tests {
		s := serveRaw(t, test.answer)
		c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Tries: 1}, s.addr)
		c.proxy = func(*http.Request) (*url.URL, error) { return test.proxy, test.err }
		err := c.Write(t.Context(), Value{"a", "1"})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Tries: 1}, "127.0.0.1:1")
	c.proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "p"})
	c.dial = func(_ context.Context, _, addr string) (net.Conn, error) { return nil, errors.New("no way to " + addr) }
	if err := c.Write(t.Context(), Value{"a", "1"}); err == nil || !strings.Contains(err.Error(), "proxy p: no way to p:80") {
		t.Error(err)
	}
}

// TestAddresses has servers that are addresses, and the names that their
// certificates need.
func TestAddresses(t *testing.T) {
	ca := newCA(t)
	for server, name := range map[string]string{"::1": "::1", "[::1]:8443": "::1", "127.0.0.1": "127.0.0.1", "localhost:8443": "localhost", "https://LOCALHOST:443/": "localhost"} {
		s := ca.serve(t, ca.leaf(t, leaf{name: name, address: name != "localhost"}), nil)
		c, _ := newClient(t, Options{CIK: testCIK, Server: server, Trust: &Trust{Roots: ca.pool}, Tries: 1}, s.addr)
		if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
			t.Errorf("%s: %v", server, err)
		} else if r := s.last(); r.Host != c.host {
			t.Errorf("%s: Host is %q", server, r.Host)
		}
	}
}

// TestStalledWrite has a server that does not read.
func TestStalledWrite(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c, _ := newClient(t, Options{CIK: testCIK, Tries: 1}, "")
	c.dial = func(context.Context, string, string) (net.Conn, error) { return here, nil }
	c.stall = 20 * time.Millisecond
	if err := c.Write(t.Context(), Value{"a", "1"}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// TestConcurrent has many goroutines share a client whose credential changes, and
// few connections left in the end.
func TestConcurrent(t *testing.T) {
	ca := newCA(t)
	s := ca.serve(t, ca.leaf(t, leaf{}), nil)
	s.handle = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == activatePath:
			io.WriteString(w, testCIK)
		case r.Method == http.MethodGet:
			fmt.Fprintf(w, "%s=1", r.URL.RawQuery)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}
	trust := &Trust{Roots: ca.pool, ClockSet: func() bool { return false }}
	m := &Meter{}
	c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: trust, Meter: m}, s.addr)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			alias := fmt.Sprint("a", i)
			for range 20 {
				if v, err := c.Read(t.Context(), alias); err != nil || v[alias] != "1" {
					t.Error(v, err)
				}
				if err := c.Write(t.Context(), Value{alias, "1"}); err != nil {
					t.Error(err)
				}
				if _, err := c.Activate(t.Context(), alias); err != nil {
					t.Error(err)
				}
				m.Report()
			}
		})
	}
	all.Wait()
	u := onlyLink(t, m).Consumers[others]
	if u["read"].Num != 160 || u["write"].Num != 160 || u["activate"].Num != 160 {
		t.Errorf("%+v", u)
	}
}

// TestTLSProtocolError has a server that is none of TLS.
func TestTLSProtocolError(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	go io.Copy(io.Discard, there)
	go io.WriteString(there, "HTTP/1.1 400 Bad Request\r\n\r\n")
	c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Tries: 1}, "")
	c.dial = func(context.Context, string, string) (net.Conn, error) { return here, nil }
	var header tls.RecordHeaderError
	if err := c.Write(t.Context(), Value{"a", "1"}); !errors.As(err, &header) {
		t.Error(err)
	}
}
