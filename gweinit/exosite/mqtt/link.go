package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/exosite/gwe/gweinit/exosite"
)

// login is as whom to connect.
type login struct {
	cik  string // "": nobody, unless there is a certificate
	id   string // client ID
	keep bool   // the server keeps the session
	push func(topic string, payload []byte)
}

// link is one connection.
type link struct {
	cik     string
	client  paho.Client
	conn    net.Conn
	counted *exosite.Conn
	wait    time.Duration // for each answer

	once sync.Once
	over chan struct{} // closed when the connection has ended
	why  error         // set before

	// handing is held for reading while paho takes a call. If paho stops in the
	// midst of that, the call stays there for as long as a write may take. So it
	// hears of an end when no call is on its way.
	handing sync.RWMutex
}

const (
	keepAlive = time.Minute
	quiesce   = 250 // ms for the last packets at an end in good order
)

// dial makes a connection. Errors that are permanent say so.
func (s *Session) dial(ctx context.Context, l login) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.patience, fmt.Errorf("no connection within %v", s.patience))
	defer cancel()
	conn, counted, err := s.handshake(ctx)
	if errors.Is(err, exosite.ErrTimeUnknown) {
		_, err := s.time.Timestamp(ctx)
		s.time.Close()
		switch {
		case errors.Is(err, exosite.ErrUntrusted):
			return nil, permanent{err}
		case err != nil:
			return nil, fmt.Errorf("the clock is not set: %w", err)
		}
		conn, counted, err = s.handshake(ctx)
	}
	if err != nil {
		return nil, err
	}
	out := &link{cik: l.cik, conn: conn, counted: counted, over: make(chan struct{}), wait: s.patience}
	o := paho.NewClientOptions()
	o.AddBroker("tls://" + net.JoinHostPort(s.client.Host(), s.port))
	o.SetClientID(l.id)
	o.SetProtocolVersion(4)
	o.SetCleanSession(!l.keep)
	o.SetAutoReconnect(false)
	o.SetKeepAlive(keepAlive)
	o.SetConnectTimeout(s.patience)
	o.SetWriteTimeout(s.patience)
	o.SetMessageChannelDepth(1)
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		return &wire{Conn: conn, password: l.cik, finish: out.finish, failed: out.failed}, nil
	})
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { l.push(m.Topic(), m.Payload()) })
	out.client = paho.NewClient(o)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	token := out.client.Connect()
	<-token.Done() // within the time that ctx allows: else the connection is closed
	if !stop() && token.Error() == nil {
		out.end()
		return nil, context.Cause(ctx)
	}
	switch err := token.Error(); {
	case err == nil:
		return out, nil
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword), errors.Is(err, packets.ErrorRefusedNotAuthorised):
		conn.Close()
		return nil, permanent{exosite.ErrBadCIK}
	case errors.Is(err, packets.ErrorRefusedIDRejected), errors.Is(err, packets.ErrorRefusedBadProtocolVersion):
		conn.Close()
		return nil, permanent{fmt.Errorf("the server refuses the connection: %w", err)}
	default:
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
}

// handshake makes the TLS connection. Its bytes are counted.
func (s *Session) handshake(ctx context.Context) (*tls.Conn, *exosite.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(s.client.Host(), s.port))
	if err != nil {
		return nil, nil, cause(ctx, err)
	}
	o := s.client.Options()
	counted := o.Meter.Conn(raw, o.Consumer, "connect")
	conn := tls.Client(counted, s.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.Is(err, exosite.ErrUntrusted) {
			return nil, nil, permanent{err}
		}
		return nil, nil, cause(ctx, err)
	}
	return conn, counted, nil
}

// cause is why ctx has ended, if it has.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (l *link) finish(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.over)
	})
}

func (l *link) isOver() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// failed ends a connection that is of no use any more. It returns when paho may
// hear of it.
func (l *link) failed(why error) {
	l.finish(why)
	l.conn.Close() // a write that goes on would hold up the calls behind it
	l.settled()
}

// settled waits for calls that paho is about to take.
func (l *link) settled() {
	l.handing.Lock()
	defer l.handing.Unlock()
}

// end closes the connection in good order.
func (l *link) end() {
	l.finish(errClosed)
	late := time.AfterFunc(quiesce*time.Millisecond, func() { l.conn.Close() })
	l.settled()
	late.Stop()
	l.client.Disconnect(quiesce)
}

// hand gives paho a call, unless the connection is over.
func (l *link) hand(send func() paho.Token) (paho.Token, bool) {
	l.handing.RLock()
	defer l.handing.RUnlock()
	if l.isOver() {
		return nil, false
	}
	return send(), true
}

// do sends something, and waits for the server's answer. Paho takes a call when
// those before it have been written, hence the goroutine.
func (l *link) do(ctx context.Context, send func() paho.Token) error {
	t := time.NewTimer(l.wait)
	defer t.Stop()
	answered := make(chan error, 1)
	go func() {
		token, ok := l.hand(send)
		if !ok {
			return
		}
		select {
		case <-token.Done():
			answered <- token.Error()
		case <-l.over:
		}
	}()
	select {
	case err := <-answered:
		if l.isOver() {
			return l.ended()
		}
		return err
	case <-l.over:
		return l.ended()
	case <-t.C:
		l.end() // it is of no use any more
		return fmt.Errorf("no answer within %v", l.wait)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ended is why the connection is over.
func (l *link) ended() error { return fmt.Errorf("the connection has ended: %w", l.why) }

func (l *link) publish(ctx context.Context, method, topic string, payload []byte) error {
	l.counted.Begin(method)
	return l.do(ctx, func() paho.Token { return l.client.Publish(topic, 1, false, payload) })
}

func (l *link) subscribe(ctx context.Context, filter string) error {
	return l.do(ctx, func() paho.Token { return l.client.Subscribe(filter, 1, nil) })
}

// wire is a connection as paho sees it, with four things that paho does not do.
type wire struct {
	net.Conn
	finish func(error) // is told at once when nothing comes or goes any more
	failed func(error) // the same for Read, and waits until paho may hear of it
	begun  bool        // CONNECT has been written
	// password is sent with an empty user name, without which paho sends none.
	password string // "": none, or it has been sent

	// The length of packets that come is limited, by a look at their headers:
	// paho makes room for whatever they announce.
	header int   // bytes of the header that have been seen
	length int64 // what it says, so far
	left   int64 // bytes of the packet that are to come
}

// Write is called with CONNECT, as a whole, first of all. Later errors are told
// by Read, which is where paho hears of an end.
func (c *wire) Write(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		return c.connect(p)
	}
	if _, err := c.Conn.Write(p); err != nil {
		c.finish(err)
		c.Conn.Close()
	}
	return len(p), nil
}

// connect writes CONNECT.
func (c *wire) connect(p []byte) (int, error) {
	if c.password == "" {
		return c.Conn.Write(p)
	}
	packet, err := packets.ReadPacket(bytes.NewReader(p))
	if err != nil {
		return 0, err
	}
	connect, ok := packet.(*packets.ConnectPacket)
	if !ok {
		return 0, errors.New("the first packet is not CONNECT")
	}
	connect.UsernameFlag, connect.PasswordFlag, connect.Password = true, true, []byte(c.password)
	c.password = ""
	if err := connect.Write(c.Conn); err != nil {
		return 0, err
	}
	return len(p), nil
}

// maxPacket has room for the longest value, its topic and more.
const maxPacket = 2 << 20

func (c *wire) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if e := c.check(p[:n]); e != nil {
		n, err = 0, e
	}
	if err != nil {
		c.failed(err)
	}
	return n, err
}

func (c *wire) check(p []byte) error {
	for len(p) > 0 {
		switch {
		case c.left > 0:
			skip := min(c.left, int64(len(p)))
			c.left -= skip
			p = p[skip:]
			continue
		case c.header == 0: // type and flags
			c.header, c.length = 1, 0
		default:
			// MQTT 3.1.1, 2.2.3: seven bits in each byte, the lowest first.
			c.length |= int64(p[0]&0x7f) << (7 * (c.header - 1))
			c.header++
			if p[0]&0x80 == 0 {
				c.header, c.left = 0, c.length
			} else if c.header > 4 {
				return errors.New("the server sends a malformed packet")
			}
			if c.length > maxPacket {
				return fmt.Errorf("the server sends a packet of more than %d bytes", maxPacket)
			}
		}
		p = p[1:]
	}
	return nil
}
