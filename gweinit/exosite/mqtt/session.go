// Package mqtt is the client of Exosite's MQTT Device API: the same calls as
// package exosite has by HTTP, as far as there are such, on one connection that
// also brings what the product's side sets.
//
//	c, err := exosite.New(exosite.Options{Server: "a1b2c3d4e5f60000.m2.exosite.io", CIK: cik})
//	...
//	s := mqtt.New(c, mqtt.Options{})
//	defer s.Close()
//	err = s.Write(ctx, exosite.Value{Alias: "temperature", Value: "21.5"})
//	...
//	value, _, err := s.Wait(ctx, "setpoint", time.Time{}, time.Hour)
//
// A call connects if there is no connection, and tries again what may go well
// another time, as often and with such pauses as the HTTP client does. Nothing
// is done between calls but keeping the connection.
package mqtt

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
)

// Options say how a Session connects.
type Options struct {
	// Port of the server; "": 8883. Exosite also takes 443.
	Port string
	// Name distinguishes the programs that connect for one device, each of which
	// has one Session: another one of the same name ends the connection of the
	// first. The server keeps pushes for it while it is away. "": a new one each
	// time, for which nothing is kept.
	Name string
}

// Session is a device's connection. It is safe for concurrent use.
type Session struct {
	client *exosite.Client
	time   *exosite.Client // asks for it once, as the tries are counted here
	port   string
	name   string
	tls    *tls.Config

	// Tests have others.
	sleep    func(ctx context.Context, d time.Duration) error
	patience time.Duration // with the connection, and with each answer

	dialing  chan struct{} // has one token: who has it may connect
	mu       sync.Mutex
	link     *link // nil: none
	closed   bool
	newest   map[string]exosite.Point // pushed, by alias
	held     int                      // bytes of its values
	recent   []string                 // the last pushes
	watchers map[*watcher]bool
}

// New returns the session of a device, with server, credential, trust, meter and
// number of tries as c has them. It does not connect yet.
func New(c *exosite.Client, o Options) *Session {
	co := c.Options()
	once := co
	once.Tries = 1
	asker, err := exosite.New(once)
	if err != nil {
		panic(err) // of options that have made c
	}
	s := &Session{
		client: c, time: asker, port: o.Port, name: o.Name,
		tls:   co.Trust.Config(c.Host(), co.Certificate),
		sleep: sleep, patience: 30 * time.Second,
		dialing: make(chan struct{}, 1),
		newest:  map[string]exosite.Point{}, watchers: map[*watcher]bool{},
	}
	s.dialing <- struct{}{}
	if s.port == "" {
		s.port = "8883"
	}
	return s
}

// Close ends the connection, and calls that wait on it.
func (s *Session) Close() {
	s.mu.Lock()
	link := s.link
	s.link, s.closed = nil, true
	s.mu.Unlock()
	if link != nil {
		link.end()
	}
}

var errClosed = errors.New("the session has been closed")

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// permanent is an error that another try would bring again.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// again calls try until it goes well, or it is of no use: the limit of tries is
// that of the client; 0 is none.
func (s *Session) again(ctx context.Context, name string, limit int, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		stays := permanent{}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && errors.Is(err, ctx.Err()), errors.Is(err, errClosed):
			return fmt.Errorf("%s by MQTT on %s: %w", name, s.client.Host(), err)
		case errors.As(err, &stays):
			return fmt.Errorf("%s by MQTT on %s: %w", name, s.client.Host(), stays.error)
		case n == limit:
			return fmt.Errorf("%s by MQTT on %s: %w (tried %d times)", name, s.client.Host(), err, n)
		}
		delay := exosite.Backoff(n)
		if deadline, ok := ctx.Deadline(); ok && time.Now().Add(delay).After(deadline) {
			return fmt.Errorf("%s by MQTT on %s: %w (tried %d times, then no more: %w)", name, s.client.Host(), err, n, context.DeadlineExceeded)
		}
		if cause := s.sleep(ctx, delay); cause != nil {
			return fmt.Errorf("%s by MQTT on %s: %w (tried %d times, then no more: %w)", name, s.client.Host(), err, n, cause)
		}
	}
}

func (s *Session) tries() int { return s.client.Options().Tries }

// connected returns the connection, which is made if there is none.
func (s *Session) connected(ctx context.Context) (*link, error) {
	select {
	case <-s.dialing:
		defer func() { s.dialing <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	cik := s.client.CIK()
	s.mu.Lock()
	l, closed := s.link, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, errClosed
	case l != nil && !l.isOver() && l.cik == cik:
		return l, nil
	case cik == "" && s.client.Options().Certificate == nil:
		return nil, permanent{fmt.Errorf("there is no CIK: %w", exosite.ErrBadCIK)}
	case l != nil:
		l.end() // over, or of another credential
	}
	l, err := s.dial(ctx, login{cik: cik, id: s.clientID(cik), keep: s.name != "", push: s.push})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if closed = s.closed; !closed {
		s.link = l
	}
	s.mu.Unlock()
	if closed {
		l.end()
		return nil, errClosed
	}
	// What is pushed with QoS 1 arrives. A server that pushes anyway may refuse.
	if err := l.subscribe(ctx, resourceTopic+"#"); err != nil && (l.isOver() || ctx.Err() != nil) {
		return nil, err
	}
	return l, nil
}

// clientID is the same for each connection that goes on with a session.
func (s *Session) clientID(cik string) string {
	if s.name == "" {
		return randomID()
	}
	sum := sha256.Sum256([]byte(cik + "\x00" + s.name))
	return "gwe-" + hex.EncodeToString(sum[:8])
}

func randomID() string { return fmt.Sprintf("gwe-%016x", rand.Uint64()) }

// The topics of the API.
const (
	resourceTopic  = "$resource/"
	batchTopic     = "$resource.batch"
	provisionTopic = "$provision/"
)

// isTopic tells whether a name can be a level of a topic.
func isTopic(name string) bool {
	return name != "" && len(name) <= 1024 && !strings.ContainsAny(name, "/+#\x00")
}
