package exositetest

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// T is what New needs of *testing.T and *testing.B. Programs that start a Server
// don't have package testing in them.
type T interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Fatalf(format string, args ...any)
}

// New starts a Server for a test, on free ports of loopback with and without
// TLS, with a Cloud of its own. The test's end closes both.
func New(t T) *Server {
	t.Helper()
	c, err := cloud.Open(cloud.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatalf("exositetest.New: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := Start(Options{Cloud: c, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"})
	if err != nil {
		t.Fatalf("exositetest.New: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// NewCertificate makes a certificate as a device has for TLS client
// authentication, signed by itself.
func NewCertificate(t T) tls.Certificate {
	t.Helper()
	now := time.Now()
	p, err := newPair(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "device"},
		NotBefore: now.Add(-early), NotAfter: now.AddDate(0, 0, serverDays),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, nil)
	if err != nil {
		t.Fatalf("exositetest.NewCertificate: %v", err)
	}
	return p.tls()
}
