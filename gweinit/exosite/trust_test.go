package exosite

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

const serverName = product + ".m2.exosite.io"

// today is what the servers of these tests go by.
var today = time.Date(2026, 11, 25, 7, 0, 0, 0, time.UTC)

type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: today.AddDate(-10, 0, 0), NotAfter: today.AddDate(90, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{cert, key, x509.NewCertPool()}
	ca.pool.AddCert(cert)
	return ca
}

// leaf is what a certificate has. Empty: the server's name, for 90 years.
type leaf struct {
	name            string
	from, to        time.Time
	self            bool // it signed itself
	address, client bool
}

func (ca *testCA) leaf(t testing.TB, l leaf) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if l.name == "" {
		l.name = serverName
	}
	if l.from.IsZero() {
		l.from, l.to = today.AddDate(-10, 0, 0), today.AddDate(89, 0, 0)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: l.name}, DNSNames: []string{l.name},
		NotBefore: l.from, NotAfter: l.to, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if l.client {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if l.address {
		template.DNSNames, template.IPAddresses = nil, []net.IP{net.ParseIP(l.name)}
	}
	parent, signer := ca.cert, ca.key
	if l.self {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// tlsServer is one that tells the time, and takes all else.
type tlsServer struct {
	addr string

	mu        sync.Mutex
	requests  []*http.Request
	conns     int
	timestamp func(w http.ResponseWriter)
	handle    func(w http.ResponseWriter, r *http.Request)
}

func (ca *testCA) serve(t testing.TB, cert tls.Certificate, change func(*tls.Config)) *tlsServer {
	t.Helper()
	s := &tlsServer{}
	s.timestamp = func(w http.ResponseWriter) { fmt.Fprint(w, today.Unix()) }
	s.handle = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		s.requests = append(s.requests, r)
		timestamp, handle := s.timestamp, s.handle
		s.mu.Unlock()
		if r.URL.Path == timePath {
			timestamp(w)
			return
		}
		handle(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
		}
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if change != nil {
		change(server.TLS)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	s.addr = server.Listener.Addr().String()
	return s
}

func (s *tlsServer) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[len(s.requests)-1]
}

// paths are what was asked, in order.
func (s *tlsServer) paths() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, r := range s.requests {
		all = append(all, r.URL.Path)
		if r.URL.Path == timePath && r.Header.Get("X-Exosite-CIK") != "" {
			all = append(all, "with a CIK!")
		}
	}
	return strings.Join(all, " ")
}

// serveProxy is an HTTP proxy for CONNECT to anything, which is addr in truth.
func serveProxy(t testing.TB, addr string) (*url.URL, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	proxy := serveConns(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		request, err := readRaw(r)
		if err != nil {
			return
		}
		mu.Lock()
		seen = append(seen, request)
		mu.Unlock()
		target, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer target.Close()
		io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		there := make(chan struct{})
		go func() {
			io.Copy(target, r)
			target.Close()
			close(there)
		}()
		io.Copy(conn, target)
		conn.Close()
		<-there
	})
	u := &url.URL{Scheme: "http", Host: proxy, User: url.UserPassword("u", "pw")}
	return u, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func TestTrust(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	day := 24 * time.Hour
	expired := leaf{from: today.Add(-30 * day), to: today.Add(-day)}
	early := leaf{from: today.Add(day), to: today.Add(30 * day)}
	fine := leaf{from: today.Add(-day), to: today.Add(day)}
	build := today.Add(-10 * day)
	told := func(at time.Time) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { fmt.Fprint(w, at.Unix()) }
	}
	answers := func(code int, text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(code)
			io.WriteString(w, text)
		}
	}
	const write = aliasPath
	tests := []struct {
		name      string
		cert      tls.Certificate
		clock     time.Time
		set       bool
		timestamp func(http.ResponseWriter)
		fails     string // "": it goes well
		paths     string
		tries     int
	}{
		{"all is well", ca.leaf(t, fine), today, true, nil, "", write, 1},
		{"expired", ca.leaf(t, expired), today, true, nil, "expired", "", 1},
		{"not yet valid", ca.leaf(t, early), today, true, nil, "not yet valid", "", 1},
		{"other name", ca.leaf(t, leaf{name: "evil.example"}), today, true, nil, "valid for evil.example", "", 1},
		{"other CA", other.leaf(t, fine), today, true, nil, "unknown authority", "", 1},
		{"self-signed", ca.leaf(t, leaf{self: true}), today, true, nil, "unknown authority", "", 1},
		{"client's certificate", ca.leaf(t, leaf{client: true}), today, true, nil, "incompatible key usage", "", 1},
		{"a clock that is set wrongly counts from the build on", ca.leaf(t, fine), time.Unix(9, 0), true, nil, "not yet valid", "", 1},
		{"valid at the build", ca.leaf(t, leaf{from: build.Add(-day), to: build.Add(day)}), time.Unix(9, 0), true, nil, "", write, 1},

		{"1970: all is well", ca.leaf(t, fine), time.Unix(9, 0), false, nil, "", timePath + " " + write, 1},
		{"1970: expired", ca.leaf(t, expired), time.Unix(9, 0), false, nil, "expired", timePath, 1},
		{"1970: not yet valid", ca.leaf(t, early), time.Unix(9, 0), false, nil, "not yet valid", timePath, 1},
		{"1970: other name", ca.leaf(t, leaf{name: "evil.example"}), time.Unix(9, 0), false, nil, "valid for evil.example", "", 1},
		{"1970: other CA", other.leaf(t, fine), time.Unix(9, 0), false, nil, "unknown authority", "", 1},
		{"1970: self-signed", ca.leaf(t, leaf{self: true}), time.Unix(9, 0), false, nil, "unknown authority", "", 1},
		{"1970: time before the build, expired since", ca.leaf(t, leaf{from: today.Add(-90 * day), to: build.Add(-day)}), time.Unix(9, 0), false, told(build.Add(-2 * day)), "expired", timePath, 1},
		{"1970: time before the build, still valid", ca.leaf(t, leaf{from: today.Add(-90 * day), to: today}), time.Unix(9, 0), false, told(build.Add(-2 * day)), "", timePath + " " + write, 1},
		{"1970: no /timestamp", ca.leaf(t, fine), time.Unix(9, 0), false, answers(404, "none"), "does not tell the time", timePath, 1},
		{"1970: garbled /timestamp", ca.leaf(t, fine), time.Unix(9, 0), false, answers(200, "soon"), "not a time", timePath, 1},
		{"1970: endless /timestamp", ca.leaf(t, fine), time.Unix(9, 0), false, answers(200, strings.Repeat("9", 1<<20)), "not a time", timePath, 1},
		{"1970: busy", ca.leaf(t, fine), time.Unix(9, 0), false, answers(503, ""), "503", timePath + " " + timePath, 2},
		{"1970: it ends the connection", ca.leaf(t, fine), time.Unix(9, 0), false, func(w http.ResponseWriter) {
			w.Header().Set("Connection", "close")
			told(today)(w)
		}, "", timePath + " " + write, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := ca.serve(t, test.cert, nil)
			if test.timestamp != nil {
				s.timestamp = test.timestamp
			}
			trust := &Trust{Roots: ca.pool, Build: build, ClockSet: func() bool { return test.set }, clock: func() time.Time { return test.clock }}
			c, waits := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: trust, Tries: 2}, s.addr)
			err := c.Write(t.Context(), Value{"a", "1"})
			if test.fails == "" && err != nil || test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
				t.Errorf("error %v, want %q", err, test.fails)
			}
			if got := s.paths(); got != test.paths || len(waits.all) != test.tries-1 {
				t.Errorf("asked %q, want %q; waits %v", got, test.paths, waits.all)
			}
		})
	}
}

// TestTrustKeepsTime has the time that was learnt count for later connections,
// of other clients too, until the clock is set; what it makes of a server that
// told a wrong one.
func TestTrustKeepsTime(t *testing.T) {
	ca := newCA(t)
	s := ca.serve(t, ca.leaf(t, leaf{from: today.Add(-time.Hour), to: today.Add(time.Hour)}), nil)
	clock, set := time.Unix(9, 0), false
	trust := &Trust{Roots: ca.pool, ClockSet: func() bool { return set }, clock: func() time.Time { return clock }}
	mqtt := trust.Config(serverName, nil)
	shake := func() error {
		conn, err := tls.Dial("tcp", s.addr, mqtt)
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := shake(); !errors.Is(err, ErrTimeUnknown) {
		t.Fatal(err)
	}
	for range 2 {
		c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: trust}, s.addr)
		if _, err := c.Timestamp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := shake(); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.paths(); got != timePath+" "+timePath+" "+timePath { // one of these is learning it
		t.Error(got)
	}
	clock = clock.Add(30 * time.Minute)
	if now, known := trust.now(); !known || !now.Equal(today.Add(30*time.Minute)) {
		t.Errorf("%v, %v", now, known)
	}
	clock = clock.Add(time.Hour)
	if err := shake(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Error(err)
	}
	if err := shake(); !errors.Is(err, ErrTimeUnknown) {
		t.Errorf("a time that does not fit is not forgotten: %v", err)
	}
	set, clock = true, today
	if err := shake(); err != nil {
		t.Error(err)
	}
}

// TestClientCertificate has the device's certificate stand for the CIK.
func TestClientCertificate(t *testing.T) {
	ca := newCA(t)
	s := ca.serve(t, ca.leaf(t, leaf{name: "127.0.0.1", address: true}), func(config *tls.Config) {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool
	})
	cert := ca.leaf(t, leaf{name: "device", client: true})
	trust := &Trust{Roots: ca.pool}
	c, _ := newClient(t, Options{Server: s.addr, Trust: trust, Certificate: &cert}, s.addr)
	if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
		t.Fatal(err)
	}
	if r := s.last(); len(r.TLS.PeerCertificates) != 1 || r.Header.Get("X-Exosite-CIK") != "" {
		t.Errorf("%v", r.Header)
	}
	without, waits := newClient(t, Options{Server: s.addr, Trust: trust, CIK: testCIK}, s.addr)
	if err := without.Write(t.Context(), Value{"a", "1"}); err == nil || !strings.Contains(err.Error(), "certificate required") || len(waits.all) != 0 {
		t.Errorf("%v, %v", err, waits.all)
	}
}

// TestResumption has the second connection resume the first one's session, and
// the certificate judged anew.
func TestResumption(t *testing.T) {
	ca := newCA(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := ca.serve(t, ca.leaf(t, leaf{from: today.Add(-time.Hour), to: today.Add(time.Hour)}), func(config *tls.Config) { config.MaxVersion = version })
		clock := today
		trust := &Trust{Roots: ca.pool, clock: func() time.Time { return clock }}
		c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: trust}, s.addr)
		for i := range 2 {
			if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
				t.Fatal(err)
			}
			if r := s.last(); r.TLS.DidResume != (i == 1) || r.TLS.Version != version {
				t.Errorf("%x: connection %d: resumed %t, version %x", version, i, r.TLS.DidResume, r.TLS.Version)
			}
			c.Close()
		}
		clock = clock.Add(2 * time.Hour)
		if err := c.Write(t.Context(), Value{"a", "1"}); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("%x: %v", version, err)
		}
	}
}
