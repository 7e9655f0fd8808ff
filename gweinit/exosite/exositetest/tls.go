package exositetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/exosite/gwe/gweinit/durable"
)

const (
	caFile, caKeyFile         = "ca.pem", "ca-key.pem"
	serverFile, serverKeyFile = "server.pem", "server-key.pem"
	maxPEM                    = 64 << 10

	caDays, serverDays = 3650, 365
	soon               = 30 * 24 * time.Hour // too little time left
	early              = 24 * time.Hour      // clients' clocks may be behind
)

// serverNames are those that the emulator can have: as Exosite's for those who
// change /etc/hosts or SNI, and 10.0.2.2, which is the workstation for a guest of QEMU.
var (
	serverNames = []string{"localhost", "m2.exosite.com", "*.m2.exosite.com", "*.m2.exosite.io"}
	serverIPs   = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, net.IPv4(10, 0, 2, 2)}
)

// certificates are the emulator's.
type certificates struct {
	ca     []byte // PEM
	server tls.Certificate
}

// config asks clients for certificates and takes any: they are known by what
// they were activated with, not by who signed them. The server sends its
// certificate only, and one session ticket as crypto/tls does: bytes cost on
// gateways.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{c.server},
		ClientAuth:   tls.RequestClientCert,
		MinVersion:   tls.VersionTLS12,
	}
}

// loadCertificates takes those in dir, and makes those that are not there.
//
// A CA that is garbled is an error, as clients that trust it would fail without
// telling why. The server's own certificate is made anew for any reason: no
// client sees the difference.
func loadCertificates(dir string, now time.Time) (*certificates, error) {
	if dir == "" {
		ca, err := newPair(caTemplate(now), nil)
		if err != nil {
			return nil, fmt.Errorf("make a CA: %w", err)
		}
		return withServer(ca, now, func(*pair) error { return nil })
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := loadPair(dir, caFile, caKeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !exists(dir, caFile), err == nil && expires(ca.cert, now):
		ca, err = newPair(caTemplate(now), nil)
		if err == nil {
			err = ca.store(dir, caFile, caKeyFile)
		}
	case err != nil:
		err = fmt.Errorf("the emulator's CA in %s: %w; put the files back, or remove %s and %s for a new CA, which clients then have to trust", dir, err, caFile, caKeyFile)
	case !ca.cert.IsCA:
		err = fmt.Errorf("%s is not the certificate of a CA", filepath.Join(dir, caFile))
	}
	if err != nil {
		return nil, err
	}
	if server, err := loadPair(dir, serverFile, serverKeyFile); err == nil && serves(server, ca, now) {
		return &certificates{ca: ca.certPEM(), server: server.tls()}, nil
	}
	return withServer(ca, now, func(server *pair) error { return server.store(dir, serverFile, serverKeyFile) })
}

func withServer(ca *pair, now time.Time, store func(*pair) error) (*certificates, error) {
	server, err := newPair(serverTemplate(now), ca)
	if err != nil {
		return nil, fmt.Errorf("make the server's certificate: %w", err)
	}
	if err := store(server); err != nil {
		return nil, err
	}
	return &certificates{ca: ca.certPEM(), server: server.tls()}, nil
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

func expires(c *x509.Certificate, now time.Time) bool { return now.Add(soon).After(c.NotAfter) }

// serves tells whether a certificate is one of the CA's for all names, and for
// long enough.
func serves(server, ca *pair, now time.Time) bool {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for _, name := range append([]string{"127.0.0.1", "::1", "10.0.2.2", "product.m2.exosite.com", "product.m2.exosite.io"}, serverNames[:2]...) {
		if _, err := server.cert.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now}); err != nil {
			return false
		}
	}
	return !expires(server.cert, now)
}

func caTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		// A name of its own: some clients look for a CA by it.
		Subject:               pkix.Name{CommonName: "Exosite emulator " + rand.Text()[:8]},
		NotBefore:             now.Add(-early),
		NotAfter:              now.AddDate(0, 0, caDays),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func serverTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: "m2.exosite.com"},
		NotBefore:   now.Add(-early),
		NotAfter:    now.AddDate(0, 0, serverDays),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    serverNames,
		IPAddresses: serverIPs,
	}
}

// pair is a certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newPair makes a certificate, signed by ca or, if that is nil, by itself.
func newPair(template *x509.Certificate, ca *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	if ca == nil {
		ca = &pair{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &pair{cert: cert, key: key}, err
}

func (p *pair) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.cert.Raw}, PrivateKey: p.key, Leaf: p.cert}
}

func (p *pair) certPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
}

// store writes the key first: a certificate without its key is of no use.
func (p *pair) store(dir, certName, keyName string) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return err
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := durable.WriteFile(filepath.Join(dir, keyName), key, 0o600); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, certName), p.certPEM(), 0o644)
}

func loadPair(dir, certName, keyName string) (*pair, error) {
	certPEM, err := durable.ReadFile(filepath.Join(dir, certName), maxPEM)
	if err != nil {
		return nil, err
	}
	keyPEM, err := durable.ReadFile(filepath.Join(dir, keyName), maxPEM)
	if err != nil {
		return nil, err
	}
	both, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", certName, keyName, err)
	}
	key, ok := both.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an ECDSA key", keyName)
	}
	return &pair{cert: both.Leaf, key: key}, nil
}
