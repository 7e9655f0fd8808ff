package mqtt

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/broker"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

const serial = "00:2F:AC:43:55:A0"

// world is an emulator with HTTP and MQTT, and a way to MQTT that can be cut.
type world struct {
	*exositetest.Server
	t    *testing.T
	port string // of MQTT, by way of the cable
	*cable
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := exositetest.New(t)
	b, err := broker.Start(s, "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Server: s, t: t, cable: newCable(t, b.Addr())}
	_, w.port, _ = net.SplitHostPort(w.cable.Addr().String())
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// client has the HTTP side of a device, with or without a CIK.
func (w *world) client(o exosite.Options) *exosite.Client {
	w.t.Helper()
	if o.Trust == nil {
		o.Trust = w.trust()
	}
	if o.Server == "" {
		o.Server = w.HTTPSAddr()
	}
	c, err := exosite.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) trust() *exosite.Trust {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.CA())
	return &exosite.Trust{Roots: roots}
}

// session has one that does not wait between its tries.
func (w *world) session(c *exosite.Client, o Options) *Session {
	w.t.Helper()
	if o.Port == "" {
		o.Port = w.port
	}
	s := New(c, o)
	s.sleep = func(ctx context.Context, d time.Duration) error {
		if d < 0 || d > time.Minute {
			w.t.Errorf("it waits for %v", d)
		}
		return sleep(ctx, min(d, 10*time.Millisecond))
	}
	w.t.Cleanup(s.Close)
	return s
}

// activated has the session of an activated device.
func (w *world) activated(o Options) *Session {
	w.t.Helper()
	w.AddDevice(serial)
	cik, err := w.Cloud().Activate(w.Product(), serial, "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.session(w.client(exosite.Options{CIK: cik, Tries: 3}), o)
}

func (w *world) set(alias, value string) {
	w.t.Helper()
	if err := w.Cloud().Set(w.Product(), serial, alias, value); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) history(alias string) (points []cloud.Point) {
	w.t.Helper()
	points, err := w.Cloud().History(w.Product(), serial, alias)
	if err != nil {
		w.t.Fatal(err)
	}
	return points
}

// connected waits until a session has its connection.
func connected(t *testing.T, s *Session) {
	t.Helper()
	waitFor(t, "no connection", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.link != nil && !s.link.isOver()
	})
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal(what)
		}
	}
}

// cable forwards connections until it is cut.
type cable struct {
	net.Listener
	to string

	mu    sync.Mutex
	conns []net.Conn
	down  bool
	count int
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l, to: to}
	go c.run()
	t.Cleanup(func() {
		l.Close()
		c.cut(true)
	})
	return c
}

func (c *cable) run() {
	for {
		in, err := c.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.to)
		c.mu.Lock()
		c.count++
		if err != nil || c.down {
			in.Close()
			if err == nil {
				out.Close()
			}
			c.mu.Unlock()
			continue
		}
		c.conns = append(c.conns, in, out)
		c.mu.Unlock()
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				io.Copy(pair[0], pair[1])
				pair[0].Close()
				pair[1].Close()
			}()
		}
	}
}

// cut ends all connections; with down no new one works until plug.
func (c *cable) cut(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns, c.down = nil, down
}

func (c *cable) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = false
}

// tries is how many connections were made.
func (c *cable) tries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// goroutines has those of this package and of paho.
func goroutines() (n int) {
	buf := make([]byte, 1<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "paho.mqtt.golang") || strings.Contains(g, "exosite/mqtt.(*Session)") {
			n++
		}
	}
	return n
}
