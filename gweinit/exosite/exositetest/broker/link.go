package broker

import (
	"crypto/sha256"
	"crypto/tls"
	"net"
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// stallTime is for a peer that does not read: then its connection ends.
const stallTime = 30 * time.Second

// link is a connection, and whose it is.
type link struct {
	net.Conn
	client *mqtt.Client
	// session is nil until CONNECT has been accepted.
	session *session
	refused bool // the log says why it ends
}

// SetDeadline is the library's for silence. Writes have one of their own, as the
// library's is moved whenever the peer sends, also if it does not read.
func (l *link) SetDeadline(t time.Time) error { return l.SetReadDeadline(t) }

func (l *link) Write(p []byte) (int, error) {
	l.SetWriteDeadline(time.Now().Add(stallTime))
	n, err := l.Conn.Write(p)
	if err != nil {
		l.Close() // the library would go on to write
	}
	return n, err
}

// linkOf is nil for the client that the broker itself is.
func linkOf(c *mqtt.Client) *link {
	l, _ := c.Net.Conn.(*link)
	return l
}

// certificate is the SHA-256 of the peer's, nil if it has none.
func (l *link) certificate() []byte {
	t, ok := l.Conn.(*tls.Conn)
	if !ok || len(t.ConnectionState().PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(t.ConnectionState().PeerCertificates[0].Raw)
	return sum[:]
}

// product is the one that the server's name (SNI) means.
func (l *link) product(c *cloud.Cloud, otherwise string) string {
	t, ok := l.Conn.(*tls.Conn)
	if !ok {
		return otherwise
	}
	label, domain, _ := strings.Cut(strings.ToLower(t.ConnectionState().ServerName), ".")
	if domain != "m2.exosite.io" && domain != "m2.exosite.com" {
		return otherwise
	}
	for _, id := range c.Products() {
		if strings.EqualFold(id, label) {
			return id
		}
	}
	return otherwise
}
