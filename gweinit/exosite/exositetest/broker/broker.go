// Package broker is the emulator's MQTT side: Exosite's MQTT Device API, version
// 3.1.1 of MQTT over TLS.
//
// A session without a credential can publish to $provision/<identity> only, and
// gets the token on that topic. A session of a device has an empty user name and
// the token as password, or the certificate that the device was provisioned with.
// It publishes values to $resource/<alias> and batches to $resource.batch, and
// gets what the product's side sets on $resource/<alias>/<µs since 1970>, with or
// without a subscription.
//
// MQTT 3.1.1 has no word for refusals. What is not possible ends the session: an
// identity that is unknown or not enabled, another topic, a value that is not of
// its resource's format, a malformed batch, QoS 2. Wills are ignored, and nothing
// is retained. Points of a batch that clash with others are left out.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// Options say what a Broker is.
type Options struct {
	Cloud   *cloud.Cloud // stays open when the Broker is closed
	Product string       // of sessions whose server name (SNI) does not name one
	Log     *slog.Logger // has a line for each session and refusal; nil: none
}

const (
	// maxPacket has room for the longest value, its topic and more.
	maxPacket = 2 << 20
	// What waits for a session that is away: so many pushes, for so long.
	maxWaiting = 1000
	maxAway    = 24 * time.Hour
	// For the handshake and CONNECT: small machines take their time.
	greeting = 30 * time.Second
)

// Broker serves sessions. It is safe for concurrent use.
type Broker struct {
	hook       *hook
	server     *mqtt.Server
	stopFollow func()
	log        *slog.Logger

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	conns     map[net.Conn]bool
	sessions  sync.WaitGroup
}

// New makes a broker, which waits for Serve.
func New(o Options) (*Broker, error) {
	if o.Cloud == nil {
		return nil, errors.New("broker.New: Options.Cloud is nil, make one with cloud.Open")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := mqtt.NewDefaultServerCapabilities()
	c.MaximumPacketSize = maxPacket
	c.MaximumInflight = maxWaiting
	c.MaximumSessionExpiryInterval = uint32(maxAway / time.Second)
	c.MinimumProtocolVersion = version
	b := &Broker{
		log: o.Log, conns: map[net.Conn]bool{},
		// Its own log has whole packets, tokens included.
		server: mqtt.New(&mqtt.Options{Capabilities: c, InlineClient: true, Logger: slog.New(slog.DiscardHandler)}),
	}
	b.hook = &hook{cloud: o.Cloud, product: o.Product, log: o.Log, server: b.server, sessions: map[*mqtt.Client]*session{}}
	if err := b.server.AddHook(b.hook, nil); err != nil {
		return nil, fmt.Errorf("MQTT broker: %w", err)
	}
	if err := b.server.Serve(); err != nil { // its housekeeping; it has no listeners
		return nil, fmt.Errorf("MQTT broker: %w", err)
	}
	b.stopFollow = o.Cloud.Follow(b.hook.changed)
	return b, nil
}

// Serve takes the connections of a listener, which has to be one of TLS, until
// Close. The error says why it cannot go on.
func (b *Broker) Serve(l net.Listener) error {
	b.mu.Lock()
	b.listeners = append(b.listeners, l)
	closed := b.closed
	b.mu.Unlock()
	if closed {
		l.Close()
		return nil
	}
	for {
		conn, err := l.Accept()
		b.mu.Lock()
		closed = b.closed
		if err == nil && !closed {
			b.conns[conn] = true
			b.sessions.Add(1)
		}
		b.mu.Unlock()
		switch {
		case closed:
			if err == nil {
				conn.Close()
			}
			return nil
		case err != nil:
			return fmt.Errorf("MQTT broker: %w", err)
		}
		go b.serve(conn)
	}
}

// serve is one session, from its first to its last byte.
func (b *Broker) serve(conn net.Conn) {
	defer b.sessions.Done()
	defer func() {
		if bug := recover(); bug != nil {
			b.log.Error("an MQTT session has failed", "from", conn.RemoteAddr().String(), "error", bug)
		}
		conn.Close()
		b.mu.Lock()
		delete(b.conns, conn)
		b.mu.Unlock()
	}()
	conn.SetDeadline(time.Now().Add(greeting)) // until the library sets another after CONNECT
	if c, ok := conn.(*tls.Conn); ok {
		if err := c.HandshakeContext(context.Background()); err != nil {
			b.log.Info("no MQTT session", "from", conn.RemoteAddr().String(), "error", err)
			return
		}
	}
	b.server.EstablishConnection("mqtts", conn) // what its error says, the hook has told
}

// Close ends all sessions. After it no goroutine of the Broker is left.
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	for _, l := range b.listeners {
		l.Close()
	}
	for conn := range b.conns {
		conn.Close()
	}
	b.mu.Unlock()
	b.stopFollow()
	b.sessions.Wait()
	return b.server.Close()
}

// productOf is the product that the server's name (SNI) means.
func productOf(conn net.Conn, c *cloud.Cloud, otherwise string) string {
	t, ok := conn.(*tls.Conn)
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
