package exosite

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/gateway"
)

// Trust says which servers are Exosite's, and by what time their certificates
// are judged. One is shared by all clients of a process; its fields must not
// change any more then.
//
// A gateway's clock may be wrong when it starts, maybe at 1970, and the network
// that sets it may need what Exosite says. As long as ClockSet is false, a client
// asks the server itself: it checks its certificate without regard to dates, then
// asks for the time on that connection, before anything else is sent, and checks
// again by that time. So a server with a certificate that expired can only pass
// by naming a time when it was valid, and none before Build.
type Trust struct {
	Roots    *x509.CertPool // nil: the system's
	ClockSet func() bool    // tells whether the system's clock is right; nil: it is
	Build    time.Time      // when this program was made: it is later than that

	clock func() time.Time // nil: time.Now; tests have others

	mu     sync.Mutex
	told   time.Time // by a server; zero: not yet
	toldAt time.Time // on the system's clock, which has a monotonic part
}

// GatewayTrust is that of programs on a gateway, whose files are below root, ""
// on the gateway itself: with the certificates in a PEM file, or, if ca is empty,
// the system's, and judged by the server's time as long as PID 1 has not set the
// clock. Elsewhere the clock counts.
func GatewayTrust(root, ca string) (*Trust, error) {
	t := &Trust{}
	if ca != "" {
		path, err := filepath.EvalSymlinks(ca) // as those in /etc/ssl/certs are
		if err != nil {
			return nil, fmt.Errorf("certificates to trust: %w", err)
		}
		text, err := durable.ReadFile(path, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("certificates to trust: %w", err)
		}
		t.Roots = x509.NewCertPool()
		if !t.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("certificates to trust: there is none in %s, want PEM", ca)
		}
	}
	if !gateway.Here(root) {
		return t, nil
	}
	if root == "" {
		root = "/"
	}
	if info, err := os.Stat(filepath.Join(root, "etc/os-release")); err == nil { // the builder wrote it
		t.Build = info.ModTime()
	}
	t.ClockSet = func() bool {
		_, err := os.Stat(filepath.Join(root, "run/clock-set"))
		return err == nil
	}
	return t, nil
}

// now returns the time to judge by. Without known it is a guess.
func (t *Trust) now() (now time.Time, known bool) {
	system := t.systemTime()
	if t.ClockSet == nil || t.ClockSet() {
		return later(system, t.Build), true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told.IsZero() {
		return later(system, t.Build), false
	}
	return t.told.Add(system.Sub(t.toldAt)), true
}

func (t *Trust) systemTime() time.Time {
	if t.clock != nil {
		return t.clock()
	}
	return time.Now()
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// learn takes a time that a server gave for true.
func (t *Trust) learn(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told, t.toldAt = now, t.systemTime()
}

// forget forgets it: it may have been wrong, and is asked for again.
func (t *Trust) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = time.Time{}
}

// Config returns what a TLS connection to host, a name or an IP address, needs,
// with the device's own certificate if it is not nil. A Config is to be kept, as
// it remembers the session: the next connection costs less then.
//
// If the time is not known, the handshake fails with ErrTimeUnknown; a Client of
// the same Trust, which asks for it, does not.
func (t *Trust) Config(host string, cert *tls.Certificate) *tls.Config {
	config := &tls.Config{
		ServerName:         host,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
		// The post-quantum exchange, Go's default, takes 2.3 kB for each handshake.
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
		// Not insecure: VerifyConnection does it, also for sessions that are resumed.
		InsecureSkipVerify: true,
		Time: func() time.Time {
			now, _ := t.now()
			return now
		},
	}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	config.VerifyConnection = func(s tls.ConnectionState) error {
		now, known := t.now()
		if !known {
			if err := t.verifyUndated(host, s); err != nil {
				return err
			}
			return fmt.Errorf("certificate of %s: %w", host, ErrTimeUnknown)
		}
		err := t.verify(host, s, now)
		if err != nil {
			t.forget()
		}
		return err
	}
	return config
}

// verify checks that a server is host, at this time.
func (t *Trust) verify(host string, s tls.ConnectionState, at time.Time) error {
	if len(s.PeerCertificates) == 0 {
		return fmt.Errorf("certificate of %s: %w: there is none", host, ErrUntrusted)
	}
	o := x509.VerifyOptions{
		Roots: t.Roots, DNSName: host, CurrentTime: at, Intermediates: x509.NewCertPool(),
	}
	for _, cert := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(cert)
	}
	_, err := s.PeerCertificates[0].Verify(o)
	if err == nil {
		return nil
	}
	hint := ""
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		hint = ": if this is a server of your own, its CA must be among those to trust"
	}
	return fmt.Errorf("certificate of %s: %w: %w%s", host, ErrUntrusted, err, hint)
}

// verifyUndated checks that a server is, or was, host.
func (t *Trust) verifyUndated(host string, s tls.ConnectionState) error {
	var at time.Time
	for _, cert := range s.PeerCertificates {
		at = later(at, cert.NotBefore)
	}
	return t.verify(host, s, at)
}
