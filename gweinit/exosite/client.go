// Package exosite is the client of Exosite's HTTP Device API: what a device
// does to get its credential, to report values, to be told about new ones and
// to download content. Both generations of the API are there; see
// Options.Vendor.
//
// An app on a gateway uses the gateway's credential, which "gwe -C" prints, and
// reports and waits with it:
//
//	out, err := exec.Command("gwe", "-C").Output()
//	...
//	c, err := exosite.New(exosite.Options{
//		Server: "a1b2c3d4e5f60000.m2.exosite.io",
//		CIK:    strings.TrimSpace(string(out)),
//	})
//	...
//	defer c.Close()
//	err = c.Write(ctx, exosite.Value{Alias: "temperature", Value: "21.5"})
//	...
//	seen, err := c.Timestamp(ctx) // what is written from now on
//	...
//	for ctx.Err() == nil {
//		value, at, err := c.Wait(ctx, "command", seen, 5*time.Minute)
//		if errors.Is(err, exosite.ErrNotModified) {
//			continue
//		}
//		...
//		seen = at
//	}
//
// A device that is one of its own has no credential before it is activated; see
// Client.Activate.
//
// # Failures
//
// What may go well another time is tried again, by default five times in all:
// when there is no connection or it ends early, when the server takes too long,
// and on the answers 408, 429, 500, 502, 503 and 504. Between two tries the
// client waits for a random time whose upper limit doubles, from 0.5 s to 60 s,
// or longer if the server asks for it (Retry-After, at most 10 min). A call ends
// at once if its context's deadline would come before the next try.
//
// Each try has 30 s for connecting, and 30 s for the answer; where data flows,
// 60 s without a byte end it. All this is without a limit in all: give calls a
// context with a deadline if they must end.
//
// # Connections
//
// They are HTTP/1.1 over TLS 1.2 or newer, kept open for a minute after a
// call, and resumed later, so that a device that reports now and then sends
// little beside its reports. The proxy that the environment names is used
// (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), which has to be one of HTTP.
package exosite

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Options say whose client a Client is.
type Options struct {
	// Server is a host, such as "a1b2c3d4e5f60000.m2.exosite.io", or host:port, or
	// a URL with nothing behind the host. Its scheme is https, or, for tests on a
	// workstation, http. IPv6 addresses need no brackets if there is no port.
	Server string
	// Vendor and Model are both the product ID on Murano. If they are set, the
	// older generation's forms of activation, record and download are used, if
	// they are empty, the current one's.
	Vendor, Model string
	CIK           string           // the credential; may be empty before activation
	Trust         *Trust           // which servers are Exosite's; nil: the system's roots and clock
	Certificate   *tls.Certificate // the device's, for TLS client authentication; nil: none
	UserAgent     string           // "": "GatewayEngine"
	Meter         *Meter           // nil: bytes are not counted
	Consumer      string           // whose bytes they are
	Tries         int              // of a call; 0: 5, 1: it is not tried again
}

// ServerOf is Exosite's own server for the gateways of a product.
func ServerOf(product string) string { return product + ".m2.exosite.io" }

// String has no secret in it.
func (o Options) String() string {
	return fmt.Sprintf("client of %s with CIK %s", o.Server, masked(o.CIK))
}

// masked is what of a secret may be seen.
func masked(cik string) string {
	if len(cik) <= 8 {
		return strings.Repeat("*", len(cik))
	}
	return cik[:8] + "*"
}

// Client calls the API for one device. It is safe for concurrent use.
type Client struct {
	o         Options
	scheme    string
	host      string // with the port, unless it is the scheme's
	tls       *tls.Config
	transport *http.Transport

	// Tests have others.
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	proxy    func(*http.Request) (*url.URL, error)
	sleep    func(ctx context.Context, d time.Duration) error
	random   func(below time.Duration) time.Duration
	patience time.Duration // with connecting, and with the answer
	stall    time.Duration // without a byte

	mu  sync.Mutex
	cik string
}

// New returns a client. It does not connect yet. The error says what is wrong
// with o.
func New(o Options) (*Client, error) {
	scheme, host, err := parseServer(o.Server)
	if err != nil {
		return nil, err
	}
	if (o.Vendor == "") != (o.Model == "") {
		return nil, fmt.Errorf("server %s: vendor is %q and model %q: set both, or none of them", host, o.Vendor, o.Model)
	}
	if strings.ContainsFunc(o.UserAgent, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, fmt.Errorf("user agent %q: it may have printable ASCII characters only", o.UserAgent)
	}
	if o.Trust == nil {
		o.Trust = new(Trust)
	}
	if o.UserAgent == "" {
		o.UserAgent = "GatewayEngine"
	}
	if o.Tries <= 0 {
		o.Tries = 5
	}
	c := &Client{
		o: o, scheme: scheme, host: host,
		dial:  (&net.Dialer{KeepAlive: time.Minute}).DialContext, // for long polls behind NAT
		proxy: http.ProxyFromEnvironment,
		sleep: sleep, random: random,
		patience: 30 * time.Second, stall: 60 * time.Second,
		cik: strings.TrimSpace(o.CIK),
	}
	if scheme == "https" {
		c.tls = o.Trust.Config(c.Host(), o.Certificate)
	}
	c.transport = &http.Transport{
		DialContext:    c.dialPlain,
		DialTLSContext: c.dialTLS,
		Proxy: func(r *http.Request) (*url.URL, error) {
			if r.URL.Scheme == "https" {
				return nil, nil // dialTLS goes through it
			}
			return c.proxy(r)
		},
		Protocols:              new(http.Protocols),
		DisableCompression:     true, // answers are small, and content is compressed
		MaxIdleConns:           2,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 16 << 10,
		WriteBufferSize:        4 << 10,
		ReadBufferSize:         4 << 10,
	}
	c.transport.Protocols.SetHTTP1(true)
	return c, nil
}

// parseServer returns a server's scheme, and its host with the port unless it
// is the scheme's.
func parseServer(server string) (scheme, host string, err error) {
	fail := func(what string) (string, string, error) {
		return "", "", fmt.Errorf("server %q: %s; it is HOST, HOST:PORT, https://HOST:PORT or http://HOST:PORT", server, what)
	}
	if strings.Contains(server, "@") { // the error must not print a password
		return "", "", errors.New("server: its URL has a user; credentials do not belong there")
	}
	scheme, host = "https", server
	if s, rest, ok := strings.Cut(server, "://"); ok {
		scheme, host = strings.ToLower(s), strings.TrimSuffix(rest, "/")
		if scheme != "https" && scheme != "http" {
			return fail("unknown scheme")
		}
	}
	port := ""
	if _, err := netip.ParseAddr(host); err == nil && strings.Contains(host, ":") {
		host = "[" + host + "]"
	} else if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
		if n, err := net.LookupPort("tcp", port); err != nil || n == 0 || strings.Trim(port, "0123456789") != "" {
			return fail("malformed port")
		}
	}
	switch {
	case strings.HasPrefix(host, "["):
		addr, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		if err != nil || !addr.Is6() || !strings.HasSuffix(host, "]") {
			return fail("malformed IPv6 address")
		}
	case host == "":
		return fail("no host")
	case len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
	}):
		return fail("malformed host")
	}
	host = strings.ToLower(host)
	if port != "" && port != map[string]string{"https": "443", "http": "80"}[scheme] {
		host += ":" + port
	}
	return scheme, host, nil
}

// Options returns those of New with defaults filled in and the CIK of now.
func (c *Client) Options() Options {
	o := c.o
	o.CIK = c.CIK()
	return o
}

// Host is the server's name or IP address, without a port.
func (c *Client) Host() string { return (&url.URL{Host: c.host}).Hostname() }

// String has no secret in it.
func (c *Client) String() string { return c.Options().String() }

// SetCIK changes the credential of the calls from now on.
func (c *Client) SetCIK(cik string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cik = strings.TrimSpace(cik)
}

// CIK returns the credential, "" if there is none yet.
func (c *Client) CIK() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cik
}

// Close closes the connections that are kept for later calls. The client can
// still be used.
func (c *Client) Close() { c.transport.CloseIdleConnections() }
