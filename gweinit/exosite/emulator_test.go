package exosite_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
)

const serial = "00:2F:AC:43:55:A0"

// trusting trusts the emulator.
func trusting(t *testing.T, s *exositetest.Server) *exosite.Trust {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CA()) {
		t.Fatal("the emulator's CA is no certificate")
	}
	return &exosite.Trust{Roots: roots}
}

func newClient(t *testing.T, o exosite.Options) *exosite.Client {
	t.Helper()
	c, err := exosite.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// activated has a client of a device that has been activated, by HTTP.
func activated(t *testing.T, s *exositetest.Server) *exosite.Client {
	t.Helper()
	s.AddDevice(serial)
	c := newClient(t, exosite.Options{Server: "http://" + s.HTTPAddr()})
	if _, err := c.Activate(t.Context(), serial); err != nil {
		t.Fatal(err)
	}
	return c
}

// Each call in both generations, by HTTP and HTTPS.
func TestCallsOnEmulator(t *testing.T) {
	for _, older := range []bool{false, true} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(fmt.Sprintf("%s older=%v", scheme, older), func(t *testing.T) {
				t.Parallel()
				s := exositetest.New(t)
				o := exosite.Options{Server: "http://" + s.HTTPAddr(), UserAgent: "GatewayEngine-v1.2.3"}
				if scheme == "https" {
					o.Server, o.Trust = s.HTTPSAddr(), trusting(t, s)
				}
				if older {
					o.Vendor, o.Model = s.Product(), s.Product()
				}
				calls(t, s, newClient(t, o))
			})
		}
	}
}

func calls(t *testing.T, s *exositetest.Server, c *exosite.Client) {
	ctx := t.Context()
	if _, err := c.Activate(ctx, serial); !errors.Is(err, exosite.ErrUnknownDevice) {
		t.Errorf("activate an unknown device: %v", err)
	}
	if err := c.Write(ctx, exosite.Value{Alias: "device_info", Value: "x"}); !errors.Is(err, exosite.ErrBadCIK) {
		t.Errorf("write without a CIK: %v", err)
	}
	s.AddDevice(serial)
	cik, err := c.Activate(ctx, serial)
	if err != nil || len(cik) != 40 || c.CIK() != cik {
		t.Fatalf("activate: %q, %v", cik, err)
	}
	if _, err := c.Activate(ctx, serial); !errors.Is(err, exosite.ErrNotEnabled) {
		t.Errorf("activate again: %v", err)
	}

	const odd = "a=1&b=2 + 100 %\r\nümlaut \x00 ;"
	if values, err := c.Read(ctx, "device_info", "engine_fetch"); err != nil || len(values) != 0 {
		t.Errorf("read before a write: %v, %v", values, err)
	}
	if err := c.Write(ctx, exosite.Value{Alias: "device_info", Value: odd}, exosite.Value{Alias: "no_such", Value: "x"}, exosite.Value{Alias: "usage_report"}); err != nil {
		t.Error(err)
	}
	values, err := c.Read(ctx, "usage_report", "device_info", "engine_fetch", "no_such")
	if want := map[string]string{"usage_report": "", "device_info": odd}; err != nil || !maps.Equal(values, want) {
		t.Errorf("read: %q, %v", values, err)
	}
	values, err = c.WriteRead(ctx, []exosite.Value{{Alias: "engine_fetch", Value: "new"}}, "engine_fetch", "device_info")
	if want := map[string]string{"engine_fetch": "new", "device_info": odd}; err != nil || !maps.Equal(values, want) {
		t.Errorf("write and read: %q, %v", values, err)
	}

	// A wait that ends without, one that has missed something, and one that the
	// product ends.
	if _, _, err := c.Wait(ctx, "engine_fetch", time.Time{}, 50*time.Millisecond); !errors.Is(err, exosite.ErrNotModified) {
		t.Errorf("wait for nothing: %v", err)
	}
	value, modified, err := c.Wait(ctx, "engine_fetch", time.Now().Add(-time.Hour), time.Minute)
	if err != nil || value != "new" || time.Since(modified).Abs() > time.Minute {
		t.Errorf("wait for what is there: %q of %v, %v", value, modified, err)
	}
	waited := make(chan string, 1)
	go func() {
		value, _, err := c.Wait(ctx, "engine_fetch", time.Time{}, time.Minute)
		if err != nil {
			value = err.Error()
		}
		waited <- value
	}()
	for got := ""; got == ""; { // until the wait has begun
		if err := s.Cloud().Set(s.Product(), serial, "engine_fetch", "pushed"); err != nil {
			t.Fatal(err)
		}
		select {
		case got = <-waited:
			if got != "pushed" {
				t.Errorf("wait: %q", got)
			}
		case <-time.After(10 * time.Millisecond):
		}
	}

	at := time.Unix(1_700_000_000, 0)
	points := []exosite.Point{
		{Alias: "usage_report", Time: at, Value: "1"}, {Alias: "usage_report", Time: at.Add(1500 * time.Millisecond), Value: odd}, {Alias: "device_info", Time: at, Value: "2"},
	}
	if err := c.Record(ctx, points...); err != nil {
		t.Error(err)
	}
	err = c.Record(ctx, append(points[1:], exosite.Point{Alias: "usage_report", Time: at.Add(time.Minute), Value: "3"})...)
	clash := (*exosite.ConflictError)(nil)
	if !errors.As(err, &clash) || len(clash.Times) != 2 || !slices.EqualFunc(clash.Times["usage_report"], []time.Time{points[1].Time}, time.Time.Equal) || !slices.EqualFunc(clash.Times["device_info"], []time.Time{at}, time.Time.Equal) {
		t.Errorf("record again: %v, %+v", err, clash)
	}
	history, err := s.Cloud().History(s.Product(), serial, "usage_report")
	if err != nil || len(history) != 4 || history[1].Value != odd || history[2].Value != "3" {
		t.Errorf("recorded: %v, %v", history, err)
	}

	if names, err := c.ContentList(ctx); err != nil || len(names) != 0 {
		t.Errorf("content: %q, %v", names, err)
	}
	blob := make([]byte, 100_000)
	rand.Read(blob)
	for _, name := range []string{"a app.v1.tar.gz", "b&c=d"} {
		if err := errors.Join(s.Cloud().CreateContent(s.Product(), name, "meta", false), s.Cloud().Upload(s.Product(), name, "application/gzip", bytes.NewReader(blob))); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := c.ContentList(ctx); err != nil || !slices.Equal(names, []string{"a app.v1.tar.gz", "b&c=d"}) {
		t.Errorf("content: %q, %v", names, err)
	}
	info, err := c.ContentInfo(ctx, "b&c=d")
	if err != nil || info.Type != "application/gzip" || info.Size != 100_000 || info.Meta != "meta" || time.Since(info.Updated).Abs() > time.Minute {
		t.Errorf("info: %+v, %v", info, err)
	}
	for _, r := range []struct {
		exosite.Range
		from, to int
	}{
		{exosite.Range{}, 0, 100_000}, {exosite.Range{From: 99_990}, 99_990, 100_000}, {exosite.Range{From: -10}, 99_990, 100_000}, {exosite.Range{From: 5, To: 15}, 5, 15},
	} {
		content, err := c.Content(ctx, "b&c=d", r.Range)
		if err != nil {
			t.Errorf("%v: %v", r, err)
			continue
		}
		got, err := io.ReadAll(content)
		content.Close()
		if err != nil || !bytes.Equal(got, blob[r.from:r.to]) || content.Offset != int64(r.from) || content.Size != 100_000 || content.Type != "application/gzip" {
			t.Errorf("%v: %d bytes, %+v, %v", r, len(got), content, err)
		}
	}
	var answer *exosite.StatusError
	if _, err := c.Content(ctx, "b&c=d", exosite.Range{From: 100_000}); !errors.As(err, &answer) || answer.Code != 416 {
		t.Errorf("a range behind the end: %v", err)
	}
	if _, err := c.ContentInfo(ctx, "none"); !errors.As(err, &answer) || answer.Code/100 != 4 {
		t.Errorf("unknown content: %v", err)
	}
	if at, err := c.Timestamp(ctx); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("timestamp: %v, %v", at, err)
	}

	// The product's side ends the credential.
	if err := s.Cloud().Enable(s.Product(), serial, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(ctx, exosite.Value{Alias: "device_info", Value: "x"}); !errors.Is(err, exosite.ErrBadCIK) {
		t.Errorf("write with an old CIK: %v", err)
	} else if strings.Contains(err.Error(), cik) {
		t.Errorf("the error shows the CIK: %v", err)
	}
	again, err := c.Activate(ctx, serial)
	if err != nil || again == cik {
		t.Errorf("activate again: %v", err)
	}
	if values, err := c.Read(ctx, "engine_fetch"); err != nil || values["engine_fetch"] != "pushed" {
		t.Errorf("after another activation: %v, %v", values, err)
	}
}

// each has every call, in a form that can be repeated.
func each() map[string]func(ctx context.Context, c *exosite.Client) error {
	value := exosite.Value{Alias: "device_info", Value: strings.Repeat("x", 100)}
	ignore := func(_ any, err error) error { return err }
	return map[string]func(ctx context.Context, c *exosite.Client) error{
		"write": func(ctx context.Context, c *exosite.Client) error { return c.Write(ctx, value) },
		"read":  func(ctx context.Context, c *exosite.Client) error { return ignore(c.Read(ctx, "device_info")) },
		"readwrite": func(ctx context.Context, c *exosite.Client) error {
			return ignore(c.WriteRead(ctx, []exosite.Value{value}, "device_info"))
		},
		"poll": func(ctx context.Context, c *exosite.Client) error {
			_, _, err := c.Wait(ctx, "device_info", time.Unix(1, 0), time.Minute)
			return err
		},
		"record": func(ctx context.Context, c *exosite.Client) error {
			return c.Record(ctx, exosite.Point{Alias: "usage_report", Time: time.Now(), Value: "x"})
		},
		"contentlist": func(ctx context.Context, c *exosite.Client) error { return ignore(c.ContentList(ctx)) },
		"contentinfo": func(ctx context.Context, c *exosite.Client) error { return ignore(c.ContentInfo(ctx, "app")) },
		"content": func(ctx context.Context, c *exosite.Client) error {
			content, err := c.Content(ctx, "app", exosite.Range{})
			if err == nil {
				_, err = io.ReadAll(content)
				content.Close()
			}
			return err
		},
		"timestamp": func(ctx context.Context, c *exosite.Client) error { return ignore(c.Timestamp(ctx)) },
		"activate":  func(ctx context.Context, c *exosite.Client) error { return ignore(c.Activate(ctx, serial)) },
	}
}

// Each fault on each call: what may pass is tried again, and goes well; what
// does not pass is told at once.
func TestFaultsOnEmulator(t *testing.T) {
	type want struct {
		requests int
		err      func(error) bool // nil: none
	}
	status := func(code int) func(error) bool {
		return func(err error) bool {
			var answer *exosite.StatusError
			return errors.As(err, &answer) && answer.Code == code
		}
	}
	is := func(target error) func(error) bool {
		return func(err error) bool { return errors.Is(err, target) }
	}
	faults := map[string]struct {
		exositetest.Fault
		want
		except []string
	}{
		"408":         {exositetest.Fault{Times: 1, Status: 408}, want{2, nil}, nil},
		"429":         {exositetest.Fault{Times: 1, Status: 429, RetryAfter: "1"}, want{2, nil}, nil},
		"500":         {exositetest.Fault{Times: 1, Status: 500}, want{2, nil}, nil},
		"502":         {exositetest.Fault{Times: 1, Status: 502, Body: "<html>"}, want{2, nil}, nil},
		"503 twice":   {exositetest.Fault{Times: 2, Status: 503}, want{3, nil}, nil},
		"504":         {exositetest.Fault{Times: 1, Status: 504}, want{2, nil}, nil},
		"for ever":    {exositetest.Fault{Status: 503}, want{3, status(503)}, nil},
		"400":         {exositetest.Fault{Status: 400}, want{1, status(400)}, nil},
		"401":         {exositetest.Fault{Status: 401}, want{1, is(exosite.ErrBadCIK)}, []string{"activate", "timestamp"}},
		"403":         {exositetest.Fault{Status: 403}, want{1, status(403)}, nil},
		"404":         {exositetest.Fault{Status: 404}, want{1, status(404)}, nil},
		"409":         {exositetest.Fault{Status: 409}, want{1, func(err error) bool { return err != nil }}, nil},
		"418":         {exositetest.Fault{Status: 418}, want{1, status(418)}, nil},
		"no answer":   {exositetest.Fault{Times: 1, Status: 503, Drop: true}, want{2, nil}, nil},
		"late":        {exositetest.Fault{Delay: 50 * time.Millisecond}, want{1, nil}, nil},
		"slow":        {exositetest.Fault{Rate: 1000}, want{1, nil}, nil},
		"short":       {exositetest.Fault{Times: 1, Status: 503, Body: "xxxxx", DropAfter: 2}, want{2, nil}, nil},
		"wrong clock": {exositetest.Fault{Clock: -20 * 365 * 24 * time.Hour}, want{1, nil}, nil},
	}
	var wg sync.WaitGroup // most of the time is the client's waiting before it tries again
	for name, f := range faults {
		for call, do := range each() {
			if slices.Contains(f.except, call) {
				continue
			}
			s := exositetest.New(t)
			c := activated(t, s)
			o := c.Options()
			o.Tries = 3
			c = newClient(t, o)
			if err := errors.Join(
				c.Write(t.Context(), exosite.Value{Alias: "device_info", Value: strings.Repeat("x", 100)}),
				s.Cloud().CreateContent(s.Product(), "app", "", false),
				s.Cloud().Upload(s.Product(), "app", "text/plain", strings.NewReader("some bytes")),
			); err != nil {
				t.Fatal(err)
			}
			if call == "activate" {
				s.AddDevice(serial)
			}
			fault := f.Fault
			fault.Call = call
			s.Fault(fault)
			number := func() (n int) {
				for _, r := range s.Requests() {
					if r.Call == call {
						n++
					}
				}
				return n
			}
			before := number()
			wg.Go(func() {
				err := do(t.Context(), c)
				if f.err == nil && err != nil || f.err != nil && !f.err(err) {
					t.Errorf("%s, %s: got %v", name, call, err)
				}
				// A request is in the log once its answer has been sent.
				for start := time.Now(); number()-before < f.requests && time.Since(start) < 10*time.Second; {
					time.Sleep(time.Millisecond)
				}
				if n := number() - before; n != f.requests {
					t.Errorf("%s, %s: %d requests, want %d", name, call, n, f.requests)
				}
			})
		}
	}
	wg.Wait()
}

// A server that hangs is waited for as long as the caller wants.
func TestHangingEmulator(t *testing.T) {
	s := exositetest.New(t)
	c := activated(t, s)
	s.Fault(exositetest.Fault{Hang: true})
	for call, do := range each() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := do(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", call, err)
		}
		cancel()
	}
}

// A write whose answer is lost has been done, and is done again: at least once.
func TestLostAnswer(t *testing.T) {
	s := exositetest.New(t)
	c := activated(t, s)
	s.Fault(exositetest.Fault{Call: "write", Times: 1, Drop: true})
	if err := c.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); err != nil {
		t.Error(err)
	}
	if history, _ := s.Cloud().History(s.Product(), serial, "device_info"); len(history) != 2 {
		t.Errorf("it was written %d times", len(history))
	}
	// Of a record the second time is a clash, which says that it is there.
	s.Fault(exositetest.Fault{Call: "record", Times: 1, Drop: true})
	at := time.Unix(1_700_000_000, 0)
	err := c.Record(t.Context(), exosite.Point{Alias: "device_info", Time: at, Value: "x"})
	if clash := (*exosite.ConflictError)(nil); !errors.As(err, &clash) || len(clash.Times["device_info"]) != 1 {
		t.Errorf("%v", err)
	}
}

func TestContentFaults(t *testing.T) {
	s := exositetest.New(t)
	c := activated(t, s)
	blob := make([]byte, 50_000)
	rand.Read(blob)
	if err := errors.Join(s.Cloud().CreateContent(s.Product(), "app", "", false), s.Cloud().Upload(s.Product(), "app", "text/plain", bytes.NewReader(blob))); err != nil {
		t.Fatal(err)
	}
	read := func(f exositetest.Fault, r exosite.Range) ([]byte, *exosite.Content, error) {
		t.Helper()
		s.ClearFaults()
		f.Call = "content"
		s.Fault(f)
		content, err := c.Content(t.Context(), "app", r)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		got, err := io.ReadAll(content)
		return got, content, err
	}
	if got, content, err := read(exositetest.Fault{IgnoreRange: true}, exosite.Range{From: 100}); err != nil || content.Partial || content.Offset != 0 || !bytes.Equal(got, blob) {
		t.Errorf("ranges ignored: %d bytes, %+v, %v", len(got), content, err)
	}
	if got, _, err := read(exositetest.Fault{DropAfter: 20_000}, exosite.Range{}); !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(got, blob[:20_000]) {
		t.Errorf("broken off: %d bytes, %v", len(got), err)
	}
	if got, _, err := read(exositetest.Fault{DropAfter: 20_000}, exosite.Range{From: 20_000}); !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(got, blob[20_000:40_000]) {
		t.Errorf("broken off again: %d bytes, %v", len(got), err)
	}
	if got, _, err := read(exositetest.Fault{LengthBy: 100}, exosite.Range{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shorter than it says: %d bytes, %v", len(got), err)
	}
	at := int64(7)
	if got, _, err := read(exositetest.Fault{FlipAt: &at}, exosite.Range{}); err != nil || len(got) != len(blob) || got[7] == blob[7] || !bytes.Equal(got[8:], blob[8:]) {
		t.Errorf("a wrong byte: %d bytes, %v", len(got), err)
	}
}

// A gateway whose clock is not set takes the server's time, and with it judges
// the certificate.
func TestUnsetClockOnEmulator(t *testing.T) {
	s := exositetest.New(t)
	s.AddDevice(serial)
	for _, tt := range []struct {
		name   string
		offset time.Duration
		build  time.Time
		ok     bool
	}{
		{"right", 0, time.Now().AddDate(0, 0, -1), true},
		{"the server says that its certificate is over", 100 * 365 * 24 * time.Hour, time.Now(), false},
		{"the server lies about the past", -30 * 365 * 24 * time.Hour, time.Now(), true}, // judged at the build
	} {
		s.SetClock(tt.offset)
		trust := trusting(t, s)
		trust.ClockSet = func() bool { return false }
		trust.Build = tt.build
		before := len(s.Requests())
		c := newClient(t, exosite.Options{Server: s.HTTPSAddr(), Trust: trust, Tries: 1, CIK: strings.Repeat("a", 40)})
		err := c.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"})
		if tt.ok != errors.Is(err, exosite.ErrBadCIK) { // it got to the server
			t.Errorf("%s: %v", tt.name, err)
		}
		for _, r := range s.Requests()[before:] {
			if !tt.ok && r.Call != "timestamp" {
				t.Errorf("%s: the server got a %s", tt.name, r.Call)
			}
		}
	}
}

// A device with a certificate needs no CIK after its activation.
func TestCertificateOnEmulator(t *testing.T) {
	s := exositetest.New(t)
	s.AddDevice(serial)
	cert := exositetest.NewCertificate(t)
	o := exosite.Options{Server: s.HTTPSAddr(), Trust: trusting(t, s), Certificate: &cert}
	c := newClient(t, o)
	if err := c.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); !errors.Is(err, exosite.ErrBadCIK) {
		t.Errorf("before the activation: %v", err)
	}
	if _, err := c.Activate(t.Context(), serial); err != nil {
		t.Fatal(err)
	}
	c = newClient(t, o) // without the CIK
	for range 2 {       // the second one's session may be resumed
		if err := c.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); err != nil {
			t.Error(err)
		}
		c.Close()
	}
}
