package exosite

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// call is one of the API.
type call struct {
	name        string // as errors and the Meter have it
	method      string
	path, query string // escaped
	body        string // a form
	anonymous   bool   // needs no credential
	accept      bool   // a form is the answer
	limit       int    // bytes the answer's body may have
	errs        map[int]error

	wait   time.Duration                // that the server may take before it answers
	end    time.Time                    // no try begins later; zero: there is no such time
	header func(h http.Header, try int) // adds what this call has; nil: nothing
}

// answer is what a server answered to a call.
type answer struct {
	code   int
	header http.Header
	body   string
}

// errStatus is for answers with a status that the call does not have.
var errStatus = errors.New("unexpected status")

const (
	firstDelay = 500 * time.Millisecond // at most, before the second try
	longest    = 60 * time.Second
	errorBody  = 1 << 10 // what is kept of an error's text
	maxHops    = 3
)

// do calls the server until the answer is one that parse takes, or one that is
// not worth another try.
func (c *Client) do(ctx context.Context, k *call, parse func(answer) error) error {
	return c.retry(ctx, k, func(try int) (again bool, err error) {
		resp, err := c.send(ctx, k, try, nil)
		if err != nil {
			return mayPass(err), err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 && resp.StatusCode != http.StatusConflict {
			err = parse(answer{resp.StatusCode, resp.Header, ""})
			if err == errStatus {
				err = c.statusError(k, resp, nil)
			}
			return passes(resp.StatusCode), err
		}
		body, err := readBody(resp.Body, resp.ContentLength, k.limit)
		if err != nil {
			return !errors.Is(err, errTooLong), err
		}
		if err = parse(answer{resp.StatusCode, resp.Header, body}); err == errStatus {
			resp.Body = io.NopCloser(strings.NewReader(body))
			err = c.statusError(k, resp, nil)
		}
		return false, err
	})
}

// retry tries until it goes well, or another try is of no use.
func (c *Client) retry(ctx context.Context, k *call, try func(n int) (again bool, err error)) error {
	if !k.anonymous && c.CIK() == "" && c.o.Certificate == nil {
		return fmt.Errorf("%s on %s: there is no CIK: %w", k.name, c.host, ErrBadCIK)
	}
	var last error
	for n := 1; ; n++ {
		again, err := try(n)
		switch {
		case err == nil:
			return nil
		case !again:
			if last != nil { // maybe it did it, and its answer was lost
				return c.failed(k, err, fmt.Sprintf(" (an earlier try failed: %v)", last))
			}
			return c.failed(k, err, "")
		case ctx.Err() != nil && last != nil:
			return c.gaveUp(k, last, n-1, context.Cause(ctx))
		case ctx.Err() != nil:
			return c.failed(k, context.Cause(ctx), "")
		case n >= c.o.Tries:
			if n == 1 {
				return c.failed(k, err, "")
			}
			return c.failed(k, err, fmt.Sprintf(" (tried %d times)", n))
		}
		last = err
		delay := c.random(longestDelay(n))
		if status := (*StatusError)(nil); errors.As(err, &status) {
			delay += status.RetryAfter
		}
		next := time.Now().Add(delay)
		if deadline, ok := ctx.Deadline(); ok && next.After(deadline) {
			return c.gaveUp(k, last, n, context.DeadlineExceeded)
		}
		if !k.end.IsZero() && next.After(k.end) {
			return c.failed(k, last, "")
		}
		if c.sleep(ctx, delay) != nil {
			return c.gaveUp(k, last, n, context.Cause(ctx))
		}
	}
}

// failed says what failed, with a remark.
func (c *Client) failed(k *call, err error, remark string) error {
	var status *StatusError
	var conflict *ConflictError
	if errors.As(err, &status) || errors.As(err, &conflict) { // they say it themselves
		if remark == "" {
			return err
		}
		return fmt.Errorf("%w%s", err, remark)
	}
	return fmt.Errorf("%s on %s: %w%s", k.name, c.host, err, remark)
}

// gaveUp says what failed last, n times in all, and why there is no other try.
func (c *Client) gaveUp(k *call, last error, n int, why error) error {
	var status *StatusError
	if errors.As(last, &status) {
		return fmt.Errorf("%w (tried %d times, then no more: %w)", last, n, why)
	}
	return fmt.Errorf("%s on %s: %w (tried %d times, then no more: %w)", k.name, c.host, last, n, why)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func random(below time.Duration) time.Duration { return rand.N(below) }

// longestDelay is the upper limit of the pause after try n, from 1.
func longestDelay(n int) time.Duration { return min(firstDelay<<min(n-1, 10), longest) }

// Backoff returns how long to pause after try n, from 1, has failed: a random time
// whose upper limit doubles, from 0.5 s to 60 s. So devices that fail at the same
// moment do not come back at the same moment.
func Backoff(n int) time.Duration { return random(longestDelay(n)) }

// passes tells whether an answer may be another one soon.
func passes(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// mayPass tells whether what failed on the way may go well soon. What does not is
// a certificate that is not right, ours included.
func mayPass(err error) bool {
	var status *StatusError // of the time, of a redirection's hop or of a proxy
	var permanent *permanentError
	var alert *net.OpError
	switch {
	case errors.As(err, &status):
		return passes(status.Code)
	case errors.As(err, &permanent), errors.Is(err, ErrTimeUnknown), errors.Is(err, ErrUntrusted):
		return false
	case errors.As(err, &alert) && alert.Op == "remote error": // of TLS; their type is not exported
		return !strings.Contains(alert.Err.Error(), "certificate")
	}
	return true
}

// permanentError is one that stays.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// exchangeKey is where a request's context has its *exchange.
type exchangeKey struct{}

// send sends a request once. The URL is the call's, unless u is one that the
// server named. The answer's body has to be closed.
func (c *Client) send(ctx context.Context, k *call, try int, u *url.URL) (*http.Response, error) {
	if u == nil {
		path, err := url.PathUnescape(k.path)
		if err != nil {
			return nil, &permanentError{err}
		}
		u = &url.URL{Scheme: c.scheme, Host: c.host, Path: path, RawPath: k.path, RawQuery: k.query}
	}
	h := http.Header{"User-Agent": {c.o.UserAgent}}
	if cik := c.CIK(); cik != "" && !k.anonymous && c.owns(u) {
		h["X-Exosite-CIK"] = []string{cik}
	}
	if k.accept {
		h["Accept"] = []string{formType}
	}
	if k.header != nil {
		k.header(h, try)
	}
	req := &http.Request{Method: k.method, URL: u, Host: u.Host, Header: h}
	if k.method == http.MethodPost {
		h["Content-Type"] = []string{formType}
		// Calls can be sent again if a connection that was kept turns out to be
		// closed; this says so without a byte on the wire. A second activation would
		// be refused, and nobody would know of the first.
		if k.name != "activate" {
			h["Idempotency-Key"] = nil
		}
		req.ContentLength = int64(len(k.body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(k.body)), nil }
		req.Body, _ = req.GetBody()
	}

	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{cancel: cancel}
	x := c.o.Meter.begin(c.o.Consumer, k.name)
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      func(i httptrace.GotConnInfo) { x.uses(i.Conn) },
		WroteRequest: func(i httptrace.WroteRequestInfo) { w.wrote(c.patience + k.wait) },
	})
	resp, err := c.transport.RoundTrip(req.WithContext(ctx))
	w.answered()
	if err != nil {
		if outer.Err() == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, watch: w, stall: c.stall}
	return resp, nil
}

// owns tells whether a URL is the client's server's, so that it may have the
// credential.
func (c *Client) owns(u *url.URL) bool { return u.Scheme == c.scheme && u.Host == c.host }

// watch cancels a request that makes no progress.
type watch struct {
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	done  bool // the answer has come
}

func (w *watch) start(d time.Duration) {
	if w.timer == nil {
		w.timer = time.AfterFunc(d, func() {
			w.cancel(fmt.Errorf("the server sent nothing for %v: %w", d, os.ErrDeadlineExceeded))
		})
	} else {
		w.timer.Reset(d)
	}
}

// wrote is told that the request has been sent, which may be later than the
// answer.
func (w *watch) wrote(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.start(d)
	}
}

func (w *watch) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// body is an answer's, which must not stall.
type body struct {
	io.ReadCloser
	ctx   context.Context
	watch *watch
	stall time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.watch.start(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.watch.timer.Stop()
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.watch.cancel(nil)
	return err
}

var errTooLong = errors.New("the answer is too long")

// readBody reads all of an answer, of which the server says that it has size
// bytes, or, with -1, nothing.
func readBody(r io.Reader, size int64, limit int) (string, error) {
	if size > int64(limit) {
		return "", fmt.Errorf("%w: it has %d bytes; it may have %d", errTooLong, size, limit)
	}
	if size == 0 {
		return "", nil
	}
	var b strings.Builder
	n := 4 << 10
	if size > 0 {
		n = min(n, int(size)+1)
		b.Grow(int(min(size, 64<<10)))
	}
	buf := make([]byte, n)
	for {
		n, err := r.Read(buf)
		if b.Len()+n > limit {
			return "", fmt.Errorf("%w: it may have %d bytes", errTooLong, limit)
		}
		b.Write(buf[:n])
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return "", fmt.Errorf("the answer broke off after %d bytes: %w", b.Len(), err)
		}
	}
}

// statusError makes an error of an answer, to a request to u, or, if that is
// nil, to the client's server.
func (c *Client) statusError(k *call, resp *http.Response, u *url.URL) error {
	e := &StatusError{
		Call: k.name, Server: c.host, Code: resp.StatusCode,
		RetryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), resp.Header.Get("Date"), time.Now()),
		is:         k.errs[resp.StatusCode],
	}
	if u != nil {
		e.Server = u.Host
	}
	if e.Code == http.StatusUnauthorized && !k.anonymous && (u == nil || c.owns(u)) {
		e.is = ErrBadCIK
	}
	if k.name == "activate" && e.Code/100 == 2 {
		return e // the body may be a credential in a form that is not known
	}
	buf := make([]byte, errorBody+cikSize)
	n, _ := io.ReadFull(resp.Body, buf) // as much as comes
	text := maskCIKs(strings.ToValidUTF8(string(buf[:n]), "?"))
	if n == len(buf) { // the end may be the beginning of a CIK; masks have moved it forward
		text = strings.TrimRightFunc(text, isAlphanumeric)
	}
	e.Body = strings.ToValidUTF8(text[:min(len(text), errorBody)], "")
	return e
}

// maskCIKs masks all that has the form of a credential: servers repeat what they
// don't like, and may give one in an answer that is not the right one.
func maskCIKs(text string) string {
	for at := 0; at < len(text); {
		n := strings.IndexFunc(text[at:], func(r rune) bool { return !isAlphanumeric(r) })
		if n < 0 {
			n = len(text) - at
		}
		if word := text[at : at+n]; n >= cikSize {
			text = text[:at] + masked(word) + text[at+n:]
			n = len(masked(word))
		}
		at += n + 1
	}
	return text
}

// underlying is the connection that counts the bytes of c, nil if there is none.
func underlying(c net.Conn) *Conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	counted, _ := c.(*Conn)
	return counted
}
