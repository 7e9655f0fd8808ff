package exositetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The certificates are kept, and made anew if they have to be.
func TestCertificateFiles(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name       string
		damage     func(t *testing.T, dir string)
		later      time.Duration
		ca, server bool // the same as before
		err        string
	}{
		{"untouched", nil, 0, true, true, ""},
		{"a year later", nil, (serverDays - 20) * 24 * time.Hour, true, false, ""},
		{"ten years later", nil, (caDays - 20) * 24 * time.Hour, false, false, ""},
		{"server certificate torn", tear(serverFile), 0, true, false, ""},
		{"server key torn", tear(serverKeyFile), 0, true, false, ""},
		{"server key lost", remove(serverKeyFile), 0, true, false, ""},
		{"server key of another", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, caKeyFile), filepath.Join(dir, serverKeyFile))
		}, 0, true, false, ""},
		{"server certificate of another CA", func(t *testing.T, dir string) {
			other := t.TempDir()
			if _, err := loadCertificates(other, now); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{serverFile, serverKeyFile} {
				copyFile(t, filepath.Join(other, name), filepath.Join(dir, name))
			}
		}, 0, true, false, ""},
		{"CA torn", tear(caFile), 0, false, false, "put the files back, or remove ca.pem"},
		{"CA key torn", tear(caKeyFile), 0, false, false, "put the files back, or remove ca.pem"},
		{"CA key lost", remove(caKeyFile), 0, false, false, "put the files back, or remove ca.pem"},
		{"CA certificate lost", remove(caFile), 0, false, false, ""},
		{"CA that is none", func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(dir, serverFile), filepath.Join(dir, caFile))
			copyFile(t, filepath.Join(dir, serverKeyFile), filepath.Join(dir, caKeyFile))
		}, 0, false, false, "is not the certificate of a CA"},
		{"CA that is huge", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, caFile), make([]byte, maxPEM+1), 0o600); err != nil {
				t.Fatal(err)
			}
		}, 0, false, false, "more than"},
		{"both lost", func(t *testing.T, dir string) { remove(caFile)(t, dir); remove(caKeyFile)(t, dir) }, 0, false, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "certs")
			first, err := loadCertificates(dir, now)
			if err != nil {
				t.Fatal(err)
			}
			if tt.damage != nil {
				tt.damage(t, dir)
			}
			second, err := loadCertificates(dir, now.Add(tt.later))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), dir) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if ca, server := bytes.Equal(first.ca, second.ca), bytes.Equal(first.server.Certificate[0], second.server.Certificate[0]); ca != tt.ca || server != tt.server {
				t.Errorf("same CA %v, same server %v", ca, server)
			}
			stored, err := os.ReadFile(filepath.Join(dir, caFile))
			if err != nil || !bytes.Equal(stored, second.ca) {
				t.Errorf("ca.pem is not the CA: %v", err)
			}
			for name, mode := range map[string]os.FileMode{caFile: 0o644, caKeyFile: 0o600, serverFile: 0o644, serverKeyFile: 0o600} {
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: %v, %v", name, info.Mode(), err)
				}
			}
			verify(t, second, now.Add(tt.later))
			again, err := loadCertificates(dir, now.Add(tt.later))
			if err != nil || !bytes.Equal(again.ca, second.ca) || !bytes.Equal(again.server.Certificate[0], second.server.Certificate[0]) {
				t.Errorf("the next time: %v", err)
			}
		})
	}
}

func verify(t *testing.T, c *certificates, now time.Time) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.ca)
	if key, ok := c.server.PrivateKey.(*ecdsa.PrivateKey); !ok || key.Curve.Params().BitSize != 256 {
		t.Errorf("key %T", c.server.PrivateKey)
	}
	for name, good := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "::1": true, "10.0.2.2": true, "m2.exosite.com": true, "p.m2.exosite.com": true, "p.m2.exosite.io": true,
		"exosite.com": false, "a.b.m2.exosite.com": false, "10.0.2.3": false, "example.com": false,
	} {
		if _, err := c.server.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now}); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func tear(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()/2); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a handshake costs: one certificate and one session ticket, HTTP/1.1.
func TestHandshake(t *testing.T) {
	s := New(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		conn, err := tls.Dial("tcp", s.HTTPSAddr(), &tls.Config{RootCAs: pool, ServerName: "p.m2.exosite.io", ClientSessionCache: cache, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /timestamp HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Fatal(err)
		}
		state := conn.ConnectionState()
		if cache.tickets.Load() != 1 || len(state.PeerCertificates) != 1 || state.NegotiatedProtocol != "http/1.1" || state.Version != version {
			t.Errorf("%d tickets, %d certificates, %q, version %x", cache.tickets.Load(), len(state.PeerCertificates), state.NegotiatedProtocol, state.Version)
		}
	}
	if conn, err := tls.Dial("tcp", s.HTTPSAddr(), &tls.Config{RootCAs: pool, ServerName: "localhost", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is taken")
	}
	if block, rest := pem.Decode(s.CA()); block == nil || len(rest) > 0 {
		t.Errorf("CA: %s", s.CA())
	}
	// The same for other servers of the emulator.
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", l.Addr().String(), &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

type countingCache struct {
	tls.ClientSessionCache
	tickets atomic.Int64
}

func (c *countingCache) Put(key string, state *tls.ClientSessionState) {
	if state != nil {
		c.tickets.Add(1)
	}
	c.ClientSessionCache.Put(key, state)
}
