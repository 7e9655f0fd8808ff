package firmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/download"
)

const (
	webPatience = 30 * time.Second // with connecting, and with the answer
	webStall    = time.Minute      // without a byte
	webTries    = 5
	webHops     = 5
)

// web is a file on any web server, for somebody at a shell. Its errors have the host
// and the file's name only: a URL may let anybody download.
type web struct {
	ranges
	url        *url.URL
	trust      *exosite.Trust
	transports map[string]*http.Transport // by scheme and host
	pause      func(n int) time.Duration  // after try n
}

func newWeb(address string, trust *exosite.Trust) (*web, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, errors.New("the URL of the firmware is malformed: want https://HOST/PATH")
	}
	w := &web{url: u, trust: trust, transports: map[string]*http.Transport{}, pause: exosite.Backoff}
	w.ranges = ranges{Download: download.Download{ID: u.Host + "/.../" + path.Base(u.Path), Open: w.open}, size: -1}
	return w, nil
}

func (w *web) Close() error {
	for _, t := range w.transports {
		t.CloseIdleConnections()
	}
	return nil
}

func (w *web) Size(ctx context.Context) (int64, error) {
	c, err := w.open(ctx, exosite.Range{To: 1})
	if err != nil {
		return 0, err
	}
	w.size = c.Size
	return c.Size, c.Close()
}

// open asks for a range, again if that may help.
func (w *web) open(ctx context.Context, r exosite.Range) (*exosite.Content, error) {
	for n := 1; ; n++ {
		c, err := w.try(ctx, r)
		if err == nil {
			return c, nil
		}
		var status *exosite.StatusError
		final := errors.As(err, &status) && status.Code < 500 && status.Code != http.StatusTooManyRequests && status.Code != http.StatusRequestTimeout
		if final || errors.Is(err, exosite.ErrUntrusted) || errors.Is(err, exosite.ErrTimeUnknown) || n == webTries {
			return nil, err
		}
		if err := sleep(ctx, w.pause(n)); err != nil {
			return nil, err
		}
	}
}

// try asks once, and follows redirections, to http from http only.
func (w *web) try(ctx context.Context, r exosite.Range) (*exosite.Content, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	u := w.url
	for range webHops + 1 {
		resp, err := w.ask(ctx, u, r)
		if err != nil {
			cancel(nil)
			return nil, fmt.Errorf("%s: %w", u.Host, err)
		}
		body := &webBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel}
		next, err := redirected(u, resp)
		if next == nil && err == nil {
			var c *exosite.Content
			if c, err = answered(resp, r); err == nil {
				c.ReadCloser = body
				return c, nil
			}
		}
		body.ReadCloser.Close()
		if err != nil {
			cancel(nil)
			return nil, fmt.Errorf("%s: %w", u.Host, err)
		}
		u = next
	}
	cancel(nil)
	return nil, fmt.Errorf("%s: it redirects more than %d times", w.url.Host, webHops)
}

func (w *web) ask(ctx context.Context, u *url.URL, r exosite.Range) (*http.Response, error) {
	// The path in a request's error is not for logs.
	req := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{"User-Agent": {"GatewayEngine"}}}
	if u.User != nil && u.Host == w.url.Host {
		password, _ := u.User.Password()
		req.SetBasicAuth(u.User.Username(), password)
	}
	switch {
	case r.To > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.From, r.To-1))
	case r.From > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.From))
	}
	return w.transport(u).RoundTrip(req.WithContext(ctx))
}

// transport has a TLS configuration of its own for each host, by which its
// certificate is checked.
func (w *web) transport(u *url.URL) *http.Transport {
	key := u.Scheme + "://" + u.Host
	if w.transports[key] == nil {
		w.transports[key] = &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: webPatience}).DialContext, TLSHandshakeTimeout: webPatience, ResponseHeaderTimeout: webPatience,
			TLSClientConfig:    w.trust.Config(u.Hostname(), nil),
			DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute,
		}
	}
	return w.transports[key]
}

// redirected returns where an answer says that it is, nil if it is the answer.
func redirected(u *url.URL, resp *http.Response) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	next, err := u.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, &exosite.StatusError{Call: "content", Server: u.Host, Code: resp.StatusCode}
	}
	if next.Scheme != "https" && (next.Scheme != "http" || u.Scheme != "http") || next.Host == "" {
		return nil, fmt.Errorf("it redirects to %s://%s, which is not followed", next.Scheme, next.Host)
	}
	return next, nil
}

// answered checks an answer's header.
func answered(resp *http.Response, r exosite.Range) (*exosite.Content, error) {
	c := &exosite.Content{Size: resp.ContentLength}
	switch resp.StatusCode {
	case http.StatusOK:
		return c, nil
	case http.StatusPartialContent:
	default:
		return nil, &exosite.StatusError{Call: "content", Server: resp.Request.URL.Host, Code: resp.StatusCode}
	}
	var first, last int64
	text := resp.Header.Get("Content-Range")
	if n, _ := fmt.Sscanf(strings.Replace(text, "/*", "/-1", 1), "bytes %d-%d/%d", &first, &last, &c.Size); n < 3 || first != r.From || last < first {
		return nil, fmt.Errorf("it sends the range %.60q, and was asked for bytes from %d on", text, r.From)
	}
	c.Offset, c.Partial = first, true
	return c, nil
}

// webBody is an answer's, which must not stall.
type webBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func (b *webBody) Read(p []byte) (int, error) {
	if b.timer == nil {
		b.timer = time.AfterFunc(webStall, func() { b.cancel(fmt.Errorf("the server sent nothing for %v", webStall)) })
	} else {
		b.timer.Reset(webStall)
	}
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *webBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
