package exosite

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// connect makes a TCP connection whose bytes belong to the request that needs it.
func (c *Client) connect(ctx context.Context, network, addr string) (*Conn, error) {
	raw, err := c.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	conn := count(raw, x)
	conn.stall = c.stall
	return conn, nil
}

// dialPlain connects for http.
func (c *Client) dialPlain(ctx context.Context, network, addr string) (net.Conn, error) {
	inner, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	conn, err := c.connect(inner, network, addr)
	if err != nil {
		return nil, c.slow(ctx, err)
	}
	return conn, nil
}

// dialTLS connects for https.
func (c *Client) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	config := c.tls
	if !c.owns(&url.URL{Scheme: "https", Host: withoutPort443(host, port)}) {
		config = c.o.Trust.Config(host, nil) // our certificate is not for others
	}
	inner, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	for {
		conn, known, err := c.handshake(inner, network, addr, config)
		if err != nil {
			return nil, c.slow(ctx, err)
		}
		if known {
			return conn, nil
		}
		reusable, err := c.learn(inner, conn, config.ServerName)
		if err == nil && reusable {
			return conn, nil
		}
		conn.Close()
		if err != nil {
			return nil, c.slow(ctx, fmt.Errorf("the clock is not set, and %s does not tell the time: %w", host, err))
		}
	}
}

func withoutPort443(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "443" {
		return host
	}
	return host + ":" + port
}

// slow tells our own limit from that of ctx.
func (c *Client) slow(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("no connection within %v: %w", c.patience, os.ErrDeadlineExceeded)
	}
	return err
}

// handshake makes a TLS connection. If the time is not known, the server's
// certificate has been checked without regard to dates.
func (c *Client) handshake(ctx context.Context, network, addr string, config *tls.Config) (conn *tls.Conn, known bool, err error) {
	raw, err := c.tunnel(ctx, network, addr)
	if err != nil {
		return nil, false, err
	}
	if _, known = c.o.Trust.now(); !known {
		config = config.Clone()
		config.VerifyConnection = func(s tls.ConnectionState) error {
			return c.o.Trust.verifyUndated(config.ServerName, s)
		}
	}
	conn = tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, false, err
	}
	return conn, known, nil
}

// learn asks a server for the time, and checks its certificate by that. Nothing
// but that has been sent before. The connection is reusable unless the server
// ends it.
func (c *Client) learn(ctx context.Context, conn *tls.Conn, host string) (reusable bool, err error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	code, body, reusable, err := c.ask(conn, "GET "+timePath+" HTTP/1.1\r\nHost: "+c.host+"\r\nUser-Agent: "+c.o.UserAgent+"\r\n\r\n", http.MethodGet)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return false, err
	}
	if code != http.StatusOK {
		return false, &StatusError{Call: "timestamp", Server: c.host, Code: code, Body: body}
	}
	at, err := parseTime(strings.TrimSpace(body))
	if err != nil {
		return false, &permanentError{err}
	}
	at = later(at, c.o.Trust.Build)
	if err := c.o.Trust.verify(host, conn.ConnectionState(), at); err != nil {
		return false, err
	}
	c.o.Trust.learn(at)
	return reusable && stop(), nil
}

// ask sends a request on a connection, and reads the answer, of which body is the
// beginning, and not a byte more.
func (c *Client) ask(conn net.Conn, request, method string) (code int, body string, reusable bool, err error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, "", false, err
	}
	r := bufio.NewReader(io.LimitReader(conn, 16<<10))
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return 0, "", false, err
	}
	defer resp.Body.Close()
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK { // what follows is the tunnel's
		return resp.StatusCode, "", r.Buffered() == 0, nil
	}
	const most = 64
	text, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return 0, "", false, err
	}
	return resp.StatusCode, string(text), len(text) <= most && !resp.Close && r.Buffered() == 0, nil
}

// tunnel connects to addr, by the environment's proxy if there is one.
func (c *Client) tunnel(ctx context.Context, network, addr string) (net.Conn, error) {
	proxy, err := c.proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}})
	if err != nil {
		return nil, &permanentError{errors.New("the environment's HTTPS_PROXY is malformed")} // it may have a password
	}
	if proxy == nil {
		return c.connect(ctx, network, addr)
	}
	if proxy.Scheme != "http" {
		return nil, &permanentError{fmt.Errorf("proxy %s has scheme %q; it must be http", proxy.Host, proxy.Scheme)}
	}
	via := proxy.Host
	if proxy.Port() == "" {
		via = net.JoinHostPort(proxy.Hostname(), "80")
	}
	conn, err := c.connect(ctx, network, via)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", proxy.Host, err)
	}
	request := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	code, _, clean, err := c.ask(conn, request+"\r\n", http.MethodConnect)
	switch {
	case !stop():
		err = ctx.Err()
	case err != nil:
	case code == http.StatusProxyAuthRequired:
		err = &permanentError{errors.New("it asks for a user and password, which HTTPS_PROXY may have")}
	case code != http.StatusOK:
		err = fmt.Errorf("it does not connect to %s: %d %s", addr, code, http.StatusText(code))
	case !clean:
		err = errors.New("it sends more than an answer")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", proxy.Host, err)
	}
	return conn, nil
}
