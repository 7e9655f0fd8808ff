package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
)

// A device's life: activation, values, records, and commands.
func TestCalls(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := w.client(exosite.Options{Tries: 3})
	s := w.session(c, Options{})
	if err := s.Write(ctx, exosite.Value{Alias: "device_info", Value: "x"}); !errors.Is(err, exosite.ErrBadCIK) {
		t.Errorf("without a CIK: %v", err)
	}
	if _, err := s.Activate(ctx, serial); !errors.Is(err, exosite.ErrNotEnabled) {
		t.Errorf("activate an unknown device: %v", err)
	}
	w.AddDevice(serial)
	before := w.tries()
	cik, err := s.Activate(ctx, serial)
	if err != nil || c.CIK() != cik {
		t.Fatalf("activate: %q, %v", cik, err)
	}
	if n := w.tries() - before; n != 1 {
		t.Errorf("activation took %d connections", n)
	}
	if _, err := s.Activate(ctx, serial); !errors.Is(err, exosite.ErrNotEnabled) {
		t.Errorf("activate again: %v", err)
	}

	const odd = "a=1&b=2 + 100 %\r\nümlaut \x00 ;"
	if err := s.Write(ctx, exosite.Value{Alias: "device_info", Value: odd}, exosite.Value{Alias: "usage_report"}, exosite.Value{Alias: "no_such", Value: "x"}); err != nil {
		t.Error(err)
	}
	if h := w.history("device_info"); len(h) != 1 || h[0].Value != odd {
		t.Errorf("written: %q", h)
	}
	if h := w.history("usage_report"); len(h) != 1 || h[0].Value != "" {
		t.Errorf("written: %q", h)
	}
	at := time.UnixMicro(1_700_000_000_250_000)
	points := []exosite.Point{
		{Alias: "engine_report", Time: at, Value: odd}, {Alias: "fetch_status", Time: at, Value: "1.5"}, {Alias: "engine_report", Time: at.Add(2 * time.Second), Value: `{"a":1}`},
	}
	if err := s.Record(ctx, points...); err != nil {
		t.Error(err)
	}
	waitFor(t, "nothing is recorded", func() bool { return len(w.history("engine_report")) == 2 })
	if h := w.history("engine_report"); !h[0].Time.Equal(at) || h[0].Value != odd || !h[1].Time.Equal(at.Add(2*time.Second)) || h[1].Value != `{"a":1}` {
		t.Errorf("recorded: %v", h)
	}
	if h := w.history("fetch_status"); len(h) != 1 || h[0].Value != "1.5" || !h[0].Time.Equal(at) {
		t.Errorf("recorded: %v", h)
	}
	if n := w.tries() - before; n != 3 { // two activations, and one for all the rest
		t.Errorf("%d connections", n)
	}
	if err := s.Record(ctx); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		s.Write(ctx, exosite.Value{Alias: "a/b"}), s.Write(ctx, exosite.Value{}), s.Record(ctx, exosite.Point{Alias: "a", Value: "\xff"}),
		s.Record(ctx, exosite.Point{Alias: "a", Value: strings.Repeat("x", maxPacket)}), func() error { _, err := s.Activate(ctx, "a#"); return err }(),
	} {
		if err == nil {
			t.Error("what cannot be sent is sent")
		}
	}

	// The credential ends: calls say so.
	if err := w.Cloud().Enable(w.Product(), serial, ""); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the session goes on with an old credential", func() bool {
		return errors.Is(s.Write(ctx, exosite.Value{Alias: "device_info", Value: "y"}), exosite.ErrBadCIK)
	})
	if _, err := s.Activate(ctx, serial); err != nil {
		t.Error(err)
	}
	if err := s.Write(ctx, exosite.Value{Alias: "device_info", Value: "y"}); err != nil {
		t.Errorf("after another activation: %v", err)
	}
}

func TestWait(t *testing.T) {
	w := newWorld(t)
	s := w.activated(Options{})
	ctx := t.Context()
	if _, _, err := s.Wait(ctx, "engine_fetch", time.Time{}, 50*time.Millisecond); !errors.Is(err, exosite.ErrNotModified) {
		t.Errorf("nothing: %v", err)
	}
	w.set("update_interval", "another")
	type result struct {
		value string
		at    time.Time
		err   error
	}
	got := make(chan result, 1)
	go func() {
		value, at, err := s.Wait(ctx, "engine_fetch", time.Time{}, time.Minute)
		got <- result{value, at, err}
	}()
	waitFor(t, "it does not wait", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.watchers) == 1
	})
	w.set("engine_fetch", "{}")
	r := <-got
	if h := w.history("engine_fetch"); r.err != nil || r.value != "{}" || !r.at.Equal(h[len(h)-1].Time) {
		t.Errorf("%+v, %v", r, h)
	}
	// What came meanwhile is known.
	if value, at, err := s.Wait(ctx, "engine_fetch", r.at.Add(-time.Second), time.Minute); err != nil || value != "{}" || !at.Equal(r.at) {
		t.Errorf("%q, %v, %v", value, at, err)
	}
	if _, _, err := s.Wait(ctx, "engine_fetch", r.at, 20*time.Millisecond); !errors.Is(err, exosite.ErrNotModified) {
		t.Errorf("since the last one: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, _, err := s.Wait(short, "engine_fetch", r.at, time.Minute); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, exosite.ErrNotModified) {
		t.Errorf("the context's end: %v", err)
	}
}

// A session with a name loses no change while the network is away.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	s := w.activated(Options{Name: "test"})
	got := make(chan exosite.Point, 100)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- s.Watch(ctx, func(p exosite.Point) { got <- p }) }()
	connected(t, s)
	next := func(want ...string) {
		t.Helper()
		var values []string
		for range want {
			select {
			case p := <-got:
				if p.Alias != "engine_fetch" {
					t.Errorf("got %v", p)
				}
				values = append(values, p.Value)
			case <-time.After(10 * time.Second):
				t.Fatalf("got %q, want %q", values, want)
			}
		}
		if !slices.Equal(values, want) {
			t.Errorf("got %q, want %q", values, want)
		}
	}
	w.set("engine_fetch", "1")
	next("1")
	w.cut(true)
	waitFor(t, "the session does not notice", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.link.isOver()
	})
	time.Sleep(50 * time.Millisecond) // the broker notices, most likely; if not, it sends for nothing and again
	for _, v := range []string{"2", "3", "4"} {
		w.set("engine_fetch", v)
	}
	w.plug()
	next("2", "3", "4")
	if err := s.Write(ctx, exosite.Value{Alias: "device_info", Value: "beside"}); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended by %v", err)
	}
}

// Devices and programs do not meet.
func TestSessionsAreSeparate(t *testing.T) {
	w := newWorld(t)
	first, second := w.activated(Options{Name: "a"}), (*Session)(nil)
	w.AddDevice("other")
	cik, err := w.Cloud().Activate(w.Product(), "other", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	second = w.session(w.client(exosite.Options{CIK: cik}), Options{Name: "a"})
	same := w.session(first.client, Options{Name: "b"})
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	for name, s := range map[string]*Session{"first": first, "second": second, "same": same} {
		go s.Watch(ctx, func(p exosite.Point) { got <- name + " " + p.Value })
		connected(t, s)
	}
	w.set("engine_fetch", "x")
	if err := w.Cloud().Set(w.Product(), "other", "engine_fetch", "y"); err != nil {
		t.Fatal(err)
	}
	all := []string{<-got, <-got, <-got}
	slices.Sort(all)
	if want := []string{"first x", "same x", "second y"}; !slices.Equal(all, want) {
		t.Errorf("got %q, want %q", all, want)
	}
	cancel()
}

func TestBrokenConnection(t *testing.T) {
	w := newWorld(t)
	s := w.activated(Options{})
	ctx := t.Context()
	write := func() error { return s.Write(ctx, exosite.Value{Alias: "device_info", Value: "x"}) }
	if err := write(); err != nil {
		t.Fatal(err)
	}
	w.cut(false)
	if err := write(); err != nil {
		t.Errorf("after a cut: %v", err)
	}
	w.cut(true)
	before := w.tries()
	if err := write(); err == nil || !strings.Contains(err.Error(), "tried 3 times") {
		t.Errorf("with the network away: %v", err)
	}
	if n := w.tries() - before; n < 2 || n > 3 {
		t.Errorf("%d connections were tried", n)
	}
	w.plug()
	if err := write(); err != nil {
		t.Errorf("with the network back: %v", err)
	}
	// A topic that is none: the server ends the connection, each time.
	if err := s.Publish(ctx, "other", nil); err == nil {
		t.Error("an unknown topic is taken")
	}
	if err := write(); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestWrongServers(t *testing.T) {
	w := newWorld(t)
	w.AddDevice(serial)
	wrong := strings.Repeat("x", 40)
	for name, tt := range map[string]struct {
		o    exosite.Options
		want error
	}{
		"CIK":  {exosite.Options{CIK: wrong}, exosite.ErrBadCIK},
		"CA":   {exosite.Options{CIK: wrong, Trust: &exosite.Trust{Roots: x509.NewCertPool()}}, exosite.ErrUntrusted},
		"name": {exosite.Options{CIK: wrong, Server: "127.0.0.2"}, exosite.ErrUntrusted},
	} {
		before := w.tries()
		port := w.port
		if name == "name" {
			l, err := net.Listen("tcp", "127.0.0.2:0")
			if err != nil {
				t.Fatal(err)
			}
			other := &cable{Listener: l, to: w.to}
			go other.run()
			defer l.Close()
			_, port, _ = net.SplitHostPort(l.Addr().String())
		}
		s := w.session(w.client(tt.o), Options{Port: port})
		err := s.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"})
		if !errors.Is(err, tt.want) || strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", name, err)
		}
		if n := w.tries() - before; n > 1 {
			t.Errorf("%s: tried %d times", name, n)
		}
	}
}

// While the clock is not set, the time comes by HTTP.
func TestUnsetClock(t *testing.T) {
	w := newWorld(t)
	s := w.activated(Options{})
	trust := w.trust()
	trust.ClockSet = func() bool { return false }
	trust.Build = time.Now().AddDate(0, 0, -1)
	s = w.session(w.client(exosite.Options{CIK: s.client.CIK(), Trust: trust}), Options{})
	if err := s.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); err != nil {
		t.Error(err)
	}
	w.SetClock(100 * 365 * 24 * time.Hour)
	trust = w.trust()
	trust.ClockSet = func() bool { return false }
	s = w.session(w.client(exosite.Options{CIK: s.client.CIK(), Trust: trust, Tries: 1}), Options{})
	if err := s.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); !errors.Is(err, exosite.ErrUntrusted) {
		t.Errorf("with a certificate that is over: %v", err)
	}
}

func TestCertificate(t *testing.T) {
	w := newWorld(t)
	w.AddDevice(serial)
	cert := exositetest.NewCertificate(t)
	o := exosite.Options{Certificate: &cert, Tries: 1}
	s := w.session(w.client(o), Options{})
	if err := s.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); err == nil {
		t.Error("a certificate that is no device's is taken")
	}
	if _, err := s.Activate(t.Context(), serial); err != nil {
		t.Fatal(err)
	}
	s = w.session(w.client(o), Options{}) // without the CIK
	if err := s.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); err != nil {
		t.Error(err)
	}
}

// silent is a server that says what it is told to, and no more.
func silent(t *testing.T, w *world, says []byte) (port string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", w.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				conn.Read(make([]byte, 1000))
				conn.Write(says)
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

var connack = []byte{0x20, 2, 0, 0}

// Calls end with their contexts, whatever the server does not do.
func TestSilentServers(t *testing.T) {
	w := newWorld(t)
	for name, says := range map[string][]byte{"no CONNACK": nil, "nothing after it": connack} {
		port := silent(t, w, says)
		calls := map[string]func(ctx context.Context, s *Session) error{
			"write":  func(ctx context.Context, s *Session) error { return s.Write(ctx, exosite.Value{Alias: "a"}) },
			"record": func(ctx context.Context, s *Session) error { return s.Record(ctx, exosite.Point{Alias: "a"}) },
			"activate": func(ctx context.Context, s *Session) error {
				_, err := s.Activate(ctx, serial)
				return err
			},
			"wait": func(ctx context.Context, s *Session) error {
				_, _, err := s.Wait(ctx, "a", time.Time{}, time.Minute)
				return err
			},
		}
		for call, do := range calls {
			s := w.session(w.client(exosite.Options{CIK: strings.Repeat("x", 40)}), Options{Port: port})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if err := do(ctx, s); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %s: %v", name, call, err)
			}
			cancel()
			// And by our own patience.
			s = w.session(w.client(exosite.Options{CIK: strings.Repeat("x", 40), Tries: 2}), Options{Port: port})
			s.patience = 30 * time.Millisecond
			if call != "wait" {
				if err := do(t.Context(), s); err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %s without a limit: %v", name, call, err)
				}
			}
		}
	}
}

// A server cannot take the gateway's memory.
func TestHugePacket(t *testing.T) {
	w := newWorld(t)
	for name, says := range map[string][]byte{
		"a long one":  append(slices.Clone(connack), 0x30, 0xff, 0xff, 0xff, 0x7f),
		"a wrong one": append(slices.Clone(connack), 0x30, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"no CONNACK":  {0x20, 0xff, 0xff, 0xff, 0x7f},
	} {
		s := w.session(w.client(exosite.Options{CIK: strings.Repeat("x", 40), Tries: 1}), Options{Port: silent(t, w, says)})
		err := s.Write(t.Context(), exosite.Value{Alias: "a", Value: "x"})
		if err == nil || !strings.Contains(err.Error(), "packet") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClose(t *testing.T) {
	w := newWorld(t)
	s := w.activated(Options{})
	ended := make(chan error, 1)
	go func() { ended <- s.Watch(t.Context(), func(exosite.Point) {}) }()
	connected(t, s)
	s.Close()
	s.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, errClosed) {
			t.Errorf("watch: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("watch goes on")
	}
	if err := s.Write(t.Context(), exosite.Value{Alias: "device_info", Value: "x"}); !errors.Is(err, errClosed) {
		t.Errorf("write: %v", err)
	}
	waitFor(t, "goroutines are left", func() bool { return goroutines() == 0 })
}

// A connection that ends while paho takes a call leaves that nowhere.
func TestEndWhileHanding(t *testing.T) {
	for name, end := range map[string]func(w *world, s *Session){
		"cut":   func(w *world, s *Session) { w.cut(false) },
		"close": func(w *world, s *Session) { s.Close() },
	} {
		w := newWorld(t)
		s := w.activated(Options{})
		l, err := s.connected(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken := make(chan bool, 1)
		err = l.do(t.Context(), func() paho.Token {
			go end(w, s)
			<-l.over
			for range 50 { // it has time to hear of the end, and must not
				if !l.client.IsConnectionOpen() {
					t.Errorf("%s: paho has stopped while it takes a call", name)
					break
				}
				time.Sleep(time.Millisecond)
			}
			token := l.client.Publish(resourceTopic+"device_info", 1, false, "x")
			taken <- true
			return token
		})
		if err == nil {
			t.Errorf("%s: the call went well", name)
		}
		select {
		case <-taken:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: paho keeps the call", name)
		}
		s.Close()
		waitFor(t, name+": paho goes on", func() bool { return !l.client.IsConnectionOpen() })
	}
}

func TestMeter(t *testing.T) {
	w := newWorld(t)
	s := w.activated(Options{})
	m := &exosite.Meter{}
	s = w.session(w.client(exosite.Options{CIK: s.client.CIK(), Meter: m, Consumer: "app"}), Options{})
	if err := s.Write(t.Context(), exosite.Value{Alias: "device_info", Value: strings.Repeat("x", 1000)}); err != nil {
		t.Fatal(err)
	}
	usage := func(method string) exosite.Usage { return m.Report()["lo"].Consumers["app"][method] }
	waitFor(t, "nothing is counted", func() bool { return usage("write").TotTx > 0 }) // what is sent is counted after it has been
	if u := usage("write"); u.Num != 1 || u.TotTx < 1000 || u.TotTx > 1200 {
		t.Errorf("write: %+v", u)
	}
	if u := usage("connect"); u.TotTx < 200 || u.TotRx < 500 {
		t.Errorf("connect: %+v", u)
	}
}

// A watcher that takes nothing costs a limited memory, and is told.
func TestSlowWatcher(t *testing.T) {
	w := newWorld(t)
	s := w.activated(Options{})
	first, release := make(chan bool, 1), make(chan bool)
	ended := make(chan error, 1)
	n := 0
	go func() {
		ended <- s.Watch(t.Context(), func(exosite.Point) {
			if n++; n == 1 {
				first <- true
				<-release
			}
		})
	}()
	connected(t, s)
	w.set("engine_fetch", "1")
	<-first
	for i := range maxQueue + 10 {
		s.push(fmt.Sprintf("$resource/a/%d", i), nil)
	}
	close(release)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "some are lost") || n != maxQueue+1 {
		t.Errorf("after %d: %v", n, err)
	}
	for i := range 2 * maxAliases {
		s.push(fmt.Sprintf("$resource/a%d/1", i), nil)
	}
	if len(s.newest) > maxAliases {
		t.Errorf("%d are remembered", len(s.newest))
	}
}

// Long values cost no more memory than short ones.
func TestLongValues(t *testing.T) {
	s := newWorld(t).activated(Options{})
	w := &watcher{wake: make(chan struct{}, 1)}
	s.watchers[w] = true
	long := make([]byte, 1<<20)
	for i := range 10 {
		s.push(fmt.Sprintf("$resource/a%d/%d", i, i), long)
	}
	s.push("$resource/a9/10", []byte("x")) // in its place
	s.push("$resource/a8/7", []byte("y"))  // is older
	waiting, held := 0, 0
	for _, p := range w.queue {
		waiting += len(p.Value)
	}
	for _, p := range s.newest {
		held += len(p.Value)
	}
	if !w.full || waiting != w.size || waiting > maxHeld {
		t.Errorf("%d bytes wait (full: %v), counted as %d", waiting, w.full, w.size)
	}
	if held != s.held || held > maxHeld || s.newest["a9"].Value != "x" || len(s.newest["a8"].Value) != len(long) {
		t.Errorf("%d bytes are remembered, counted as %d", held, s.held)
	}
}

func FuzzPush(f *testing.F) {
	f.Add("$resource/engine_fetch/1528215003884000", []byte("60"))
	f.Add("$resource/a/b/1", []byte(nil))
	f.Add("$resource//1", []byte(nil))
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		p, ok := parsePush(topic, payload)
		if ok && (p.Alias == "" || strings.Contains(p.Alias, "/") || p.Value != string(payload) || p.Time.UnixMicro() < 0) {
			t.Errorf("%q is %+v", topic, p)
		}
	})
}

// reads is a connection that only reads.
type reads struct {
	net.Conn
	io.Reader
}

func (r reads) Read(p []byte) (int, error) { return r.Reader.Read(p) }

// wire sees packets as paho does, however the bytes come.
func FuzzWire(f *testing.F) {
	f.Add(append(slices.Clone(connack), 0x30, 2, 'a', 'b'), false)
	f.Add([]byte{0x30, 0x80, 0x80, 0x80, 0x01}, true)
	f.Fuzz(func(t *testing.T, stream []byte, slow bool) {
		// What is expected, by the specification.
		fine, rest := true, stream
		for fine && len(rest) > 1 {
			n, size := binary.Uvarint(rest[1:min(5, len(rest))])
			switch {
			case size == 0 && len(rest) >= 5:
				fine = false
			case size == 0:
				rest = nil
			case n > maxPacket:
				fine = false
			default:
				rest = rest[min(1+size+int(n), len(rest)):]
			}
		}
		var r io.Reader = bytes.NewReader(stream)
		if slow {
			r = iotest.OneByteReader(r)
		}
		got, err := io.ReadAll(&wire{Conn: reads{Reader: r}, failed: func(error) {}})
		if fine && (err != nil || !bytes.Equal(got, stream)) {
			t.Errorf("%x: %v", stream, err)
		}
		if !fine && err == nil {
			t.Errorf("%x passes", stream)
		}
	})
}
