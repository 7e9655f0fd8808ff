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
//
// The subscription that each device has is $resource/# with QoS 1. One of its own to
// the same filter replaces it. Subscriptions are granted QoS 1 at most, and without
// a credential for $provision/ only. A session that is not clean keeps up to 1000
// pushes for up to 24 hours, in their order; a replacement unit gets those of the
// unit before it, if it has the same client ID.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/exosite/gwe/gweinit/exosite/exositetest"
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
	// After there were too many open files.
	acceptPause = 50 * time.Millisecond
)

// Broker serves sessions. It is safe for concurrent use.
type Broker struct {
	hook       *hook
	server     *mqtt.Server
	stopFollow func()
	log        *slog.Logger
	addr       string

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	conns     map[net.Conn]bool
	sessions  sync.WaitGroup
}

// Start makes a broker that belongs to s, with its product, cloud and
// certificates, and listens on an address such as "127.0.0.1:0". A nil log is
// none. It is closed before s.
func Start(s *exositetest.Server, addr string, log *slog.Logger) (*Broker, error) {
	b, err := New(Options{Cloud: s.Cloud(), Product: s.Product(), Log: log})
	if err != nil {
		return nil, err
	}
	l, err := tls.Listen("tcp", addr, s.TLSConfig())
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("listen for MQTT: %w", err)
	}
	b.addr = l.Addr().String()
	b.sessions.Go(func() {
		if err := b.Serve(l); err != nil {
			b.log.Error("the emulator no longer listens", "error", err)
		}
	})
	return b, nil
}

// Addr is the address that Start listens on.
func (b *Broker) Addr() string { return b.addr }

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
	c.MaximumClientWritesPending = maxWaiting
	c.MaximumMessageExpiryInterval = 0 // what waits is forgotten with its session
	c.MaximumSessionExpiryInterval = uint32(maxAway / time.Second)
	c.MinimumProtocolVersion = version
	b := &Broker{
		log: o.Log, conns: map[net.Conn]bool{},
		server: mqtt.New(&mqtt.Options{Capabilities: c, InlineClient: true, Logger: slog.New(libraryLog{o.Log.Handler()}),
			SysTopicResendInterval: 24 * 60 * 60}), // nobody gets them, and they stop the world
	}
	b.hook = &hook{cloud: o.Cloud, product: o.Product, log: o.Log, server: b.server, links: map[*link]bool{}, mailboxes: map[string]*mailbox{}}
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
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			// Too many strangers are no reason to leave the devices alone.
			b.log.Warn("MQTT: no connection is accepted", "error", err)
			time.Sleep(acceptPause)
			continue
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
	conn.SetDeadline(time.Now().Add(greeting)) // for reading, until the library sets another after CONNECT
	if c, ok := conn.(*tls.Conn); ok {
		if err := c.HandshakeContext(context.Background()); err != nil {
			b.log.Info("no MQTT session", "from", conn.RemoteAddr().String(), "error", err)
			return
		}
	}
	l := &link{Conn: conn}
	err := errors.New("a bug")
	defer func() { b.hook.left(l, err) }()
	err = b.server.EstablishConnection("mqtts", l)
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
	b.hook.close()
	b.sessions.Wait()
	return b.server.Close()
}
