package exositetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// Request is one that has been answered, or has come to its end otherwise. It
// has no secrets.
type Request struct {
	Time     time.Time     `json:"time"` // when it came, by the Cloud's clock
	From     string        `json:"from"` // address and port
	Method   string        `json:"method"`
	Path     string        `json:"path"`              // with the query; long ones are cut
	Call     string        `json:"call,omitempty"`    // one of Calls; "": not a call of the API
	Product  string        `json:"product,omitempty"` // of the device, or the one that is managed
	Serial   string        `json:"serial,omitempty"`
	CIK      string        `json:"cik,omitempty"` // its first 8 characters and *
	Status   int           `json:"status"`        // 0: no answer
	In       int64         `json:"in"`            // bytes of the body
	Out      int64         `json:"out"`
	Duration time.Duration `json:"duration"`        // in JSON in seconds
	Fault    int           `json:"fault,omitempty"` // ID of the fault that was applied
}

// MarshalJSON has the duration in seconds.
func (r Request) MarshalJSON() ([]byte, error) {
	type plain Request
	return json.Marshal(struct {
		plain
		Duration seconds `json:"duration"`
	}{plain(r), seconds(r.Duration)})
}

// seconds is a duration as JSON has it here: a number of seconds. A text of Go's
// form, such as "1.5s" or "-24h", is understood too.
type seconds time.Duration

func (s seconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).Seconds()) }

func (s *seconds) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) != nil {
		text = string(b) + "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%.40s is no duration: want a number of seconds, or a text such as \"1.5s\"", b)
	}
	*s = seconds(d)
	return nil
}

const maxRequests = 500

// requestLog has the newest requests.
type requestLog struct {
	mu   sync.Mutex
	ring []Request
	next int // in ring, once it is full
}

func (l *requestLog) add(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < maxRequests {
		l.ring = append(l.ring, r)
		return
	}
	l.ring[l.next] = r
	l.next = (l.next + 1) % maxRequests
}

// Requests has the newest requests, at most 500, in the order in which they
// ended.
func (s *Server) Requests() []Request {
	l := &s.requests
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append([]Request{}, l.ring[l.next:]...), l.ring[:l.next]...)
}

const maxShort = 256

// short is a text that a client chose, as it is kept.
func short(s string) string {
	if len(s) > maxShort {
		return s[:maxShort] + "..."
	}
	return strings.Clone(s) // not with the rest of the header
}

// exchange is a request that is being served.
type exchange struct {
	Request
	device *cloud.Device // who asks; nil: not a device
	body   string
	clock  time.Duration // see SetClock
	ours   bool          // not for the API: not kept
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

// A value of the longest may be three times as long when it is encoded.
const maxBody = 3*cloud.MaxValue + 1<<20

func (x *exchange) readBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > maxBody {
		// At once, so that clients that ask ("Expect") don't send it.
		return &http.MaxBytesError{Limit: maxBody}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLong := (*http.MaxBytesError)(nil); err != nil && !errors.As(err, &tooLong) {
		err = wrong("the request's body has not come to its end: %w", err)
	}
	x.body = string(data)
	return err
}

// bodyReader counts bytes, and does not wait for slow ones for ever.
type bodyReader struct {
	io.ReadCloser
	timeouts *http.ResponseController
	x        *exchange
}

func (b *bodyReader) Read(p []byte) (int, error) {
	b.timeouts.SetReadDeadline(time.Now().Add(stallTime))
	n, err := b.ReadCloser.Read(p)
	b.x.In += int64(n)
	if err != nil {
		b.timeouts.SetReadDeadline(time.Time{}) // a long poll may take longer
	}
	return n, err
}

// answerWriter counts bytes, and does not wait for slow readers for ever.
type answerWriter struct {
	http.ResponseWriter
	timeouts *http.ResponseController
	x        *exchange
	now      func() time.Time
}

func (a *answerWriter) WriteHeader(status int) {
	if a.x.Status == 0 {
		a.x.Status = status
		h := a.Header()
		h.Set("Server", "Exosite-Emulator")
		h.Set("Date", a.now().Add(a.x.clock).UTC().Format(http.TimeFormat))
		a.timeouts.SetWriteDeadline(time.Now().Add(stallTime))
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answerWriter) Write(p []byte) (int, error) {
	if a.x.Status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	a.timeouts.SetWriteDeadline(time.Now().Add(stallTime))
	n, err := a.ResponseWriter.Write(p)
	a.x.Out += int64(n)
	return n, err
}

// Flush is for the page's stream.
func (a *answerWriter) Flush() { a.timeouts.Flush() }

// Unwrap is for http.ResponseController.
func (a *answerWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

const (
	plainType = "text/plain; charset=utf-8"
	formType  = "application/x-www-form-urlencoded; charset=utf-8"
	csvType   = "text/csv; charset=utf-8"
)

// answer sends a body that is known as a whole.
func answer(w http.ResponseWriter, status int, contentType, body string) {
	h := w.Header()
	if status != http.StatusNoContent && status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	if body != "" {
		h.Set("Content-Type", contentType)
	}
	w.WriteHeader(status)
	if body != "" {
		io.WriteString(w, body)
	}
}

// problem is an answer that tells what is wrong with a request.
type problem struct {
	status int
	err    error
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

func refuse(status int, format string, args ...any) error {
	return &problem{status, fmt.Errorf(format, args...)}
}

// wrong is for requests that are malformed.
func wrong(format string, args ...any) error {
	return refuse(http.StatusBadRequest, format, args...)
}

// fail answers with what went wrong, for the developer of the client to read.
func (s *Server) fail(w http.ResponseWriter, x *exchange, err error) {
	status := http.StatusInternalServerError
	var p *problem
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		status = p.status
	case errors.As(err, &tooLong):
		status, err = http.StatusRequestEntityTooLarge, fmt.Errorf("a body of this request may have %d bytes", tooLong.Limit)
	case errors.Is(err, cloud.ErrUnknown):
		status = http.StatusNotFound
	case errors.Is(err, cloud.ErrExists), errors.Is(err, cloud.ErrNotEnabled):
		status = http.StatusConflict
	case errors.Is(err, cloud.ErrForbidden):
		status = http.StatusForbidden
	case errors.Is(err, cloud.ErrInvalid):
		status = http.StatusBadRequest
	default:
		s.log.Error("the emulator failed", "method", x.Method, "path", x.Path, "error", err)
	}
	// For what of the body has not been read: net/http waits for some of it.
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(stallTime))
	answer(w, status, plainType, err.Error()+"\n")
}
