package broker

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// kept is the login of a session that outlives its connection.
func kept(tok string) func(*packets.ConnectPacket) {
	return func(c *packets.ConnectPacket) {
		token(tok)(c)
		c.CleanSession, c.ClientIdentifier = false, "kept"
	}
}

func (w *world) set(sn, value string) {
	w.t.Helper()
	if err := w.Cloud().Set(w.Product(), sn, "engine_fetch", value); err != nil {
		w.t.Fatal(err)
	}
}

// login has a session.
func (w *world) login(change func(*packets.ConnectPacket)) *peer {
	w.t.Helper()
	p := w.dial("127.0.0.1")
	if code := p.connect(change); code != 0 {
		w.t.Fatalf("CONNACK %d", code)
	}
	return p
}

// leave ends a connection, and waits until the broker knows.
func (w *world) leave(p *peer) {
	w.t.Helper()
	n := strings.Count(w.log.String(), "MQTT session ended")
	p.Close()
	waitFor(w.t, "the broker does not notice", func() bool { return strings.Count(w.log.String(), "MQTT session ended") > n })
}

// pushed is the next message, which has to be a push.
func (p *peer) pushed() *packets.PublishPacket {
	p.t.Helper()
	m, ok := p.next().(*packets.PublishPacket)
	if !ok {
		p.t.Fatal("no push")
	}
	return m
}

func (p *peer) ack(m *packets.PublishPacket) {
	p.t.Helper()
	a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	a.MessageID = m.MessageID
	if err := a.Write(p); err != nil {
		p.t.Fatal(err)
	}
}

// subscribe has the codes of SUBACK.
func (p *peer) subscribe(id uint16, qos byte, filters ...string) []byte {
	p.t.Helper()
	s := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	s.MessageID = id
	for _, f := range filters {
		s.Topics, s.Qoss = append(s.Topics, f), append(s.Qoss, qos)
	}
	if err := s.Write(p); err != nil {
		p.t.Fatal(err)
	}
	a, ok := p.next().(*packets.SubackPacket)
	if !ok || a.MessageID != id {
		p.t.Fatalf("SUBACK: %v", a)
	}
	return a.ReturnCodes
}

// What has waited comes in the order in which it was set: the last value is the
// one that counts.
func TestWaitingInOrder(t *testing.T) {
	w := newWorld(t)
	login := kept(w.activate(serial))
	w.leave(w.login(login))
	const n = 50
	w.broker.hook.number.Store(1<<16 - n/2) // the library would take these for the oldest from there on
	for i := range n {
		w.set(serial, fmt.Sprint(i))
	}
	p := w.login(login)
	for i := range n {
		m := p.pushed()
		if got := string(m.Payload); got != fmt.Sprint(i) {
			t.Fatalf("push %d is %s", i, got)
		}
		p.ack(m)
	}
}

// Each side numbers its own packets: those of the client don't touch a push that
// it has not acknowledged, and are not refused for it.
func TestPacketIDs(t *testing.T) {
	w := newWorld(t)
	login := kept(w.activate(serial))
	p := w.login(login)
	w.set(serial, "a")
	first := p.pushed()
	if codes := p.subscribe(first.MessageID, 1, "$resource/#"); codes[0] != 1 {
		t.Errorf("SUBACK has %d", codes[0])
	}
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Qos, m.MessageID, m.Payload = "$resource/device_info", 1, first.MessageID, []byte("x")
	if err := m.Write(p); err != nil {
		t.Fatal(err)
	}
	if a, ok := p.next().(*packets.PubackPacket); !ok || a.MessageID != first.MessageID {
		t.Fatalf("PUBACK: %v", a)
	}
	w.leave(p)
	p = w.login(login)
	if m := p.pushed(); string(m.Payload) != "a" || !m.Dup {
		t.Errorf("again: %v", m)
	}
}

// A session that does not read is not waited for by those of other devices.
func TestSlowReader(t *testing.T) {
	w := newWorld(t)
	w.login(token(w.activate("slow")))
	p := w.login(token(w.activate(serial)))
	long := strings.Repeat("x", 1<<20)
	for range 24 {
		w.set("slow", long)
	}
	w.set(serial, "mine")
	if m := p.pushed(); string(m.Payload) != "mine" {
		t.Errorf("got %v", m)
	}
}

// Connections of a kept session that follow each other closely lose no push.
func TestTakeover(t *testing.T) {
	w := newWorld(t)
	tok := w.activate(serial)
	for _, clean := range []bool{false, true} {
		login := func(c *packets.ConnectPacket) { kept(tok)(c); c.CleanSession = clean }
		p := w.login(login)
		for i := range 60 {
			q := w.dial("127.0.0.1")
			if i%2 == 0 {
				p.Close() // about when the next one begins
			}
			if code := q.connect(login); code != 0 {
				t.Fatalf("CONNACK %d", code)
			}
			want := fmt.Sprint(clean, i)
			w.set(serial, want)
			m := q.pushed()
			for m.Dup { // its acknowledgement has not come before the connection's end
				q.ack(m)
				m = q.pushed()
			}
			if string(m.Payload) != want {
				t.Fatalf("got %s, want %s", m.Payload, want)
			}
			q.ack(m)
			// The old connection is closed; before that there may be a push.
			for p.next() != nil {
			}
			p = q
		}
		w.leave(p)
	}
}

// Pushes during reconnects: each comes at least once, the last one last.
func TestPushWhileReconnecting(t *testing.T) {
	w := newWorld(t)
	login := kept(w.activate(serial))
	p := w.login(login)
	const n = 300
	go func() {
		for i := range n {
			w.Cloud().Set(w.Product(), serial, "engine_fetch", fmt.Sprint(i))
		}
	}()
	seen := map[string]bool{}
	for i := 0; len(seen) < n; i++ {
		m := p.pushed()
		seen[string(m.Payload)] = true
		p.ack(m)
		if i%20 == 19 {
			p.Close()
			p = w.login(login)
		}
	}
}

// Two connections of one device both get its pushes.
func TestTwoSessions(t *testing.T) {
	w := newWorld(t)
	tok := w.activate(serial)
	p := w.login(token(tok))
	q := w.login(func(c *packets.ConnectPacket) { token(tok)(c); c.ClientIdentifier = "" })
	w.set(serial, "both")
	if a, b := p.pushed(), q.pushed(); string(a.Payload) != "both" || string(b.Payload) != "both" {
		t.Errorf("got %v, %v", a, b)
	}
}

// The end of a credential is the end of the session, and of its writes at once.
func TestCredentialEnds(t *testing.T) {
	w := newWorld(t)
	product := w.Product()
	for i, end := range []func(sn string) error{
		func(sn string) error { return w.Cloud().Disable(product, sn, "") },
		func(sn string) error { return w.Cloud().Enable(product, sn, "") },
		func(sn string) error { return w.Cloud().RemoveSerials(product, sn) },
		func(sn string) error {
			w.AddDevice(sn)
			_, err := w.Cloud().Activate(product, sn, "", nil)
			return err
		},
		func(sn string) error {
			if err := w.Cloud().AddSerials(product, cloud.Serial{SN: "for " + sn}); err != nil {
				return err
			}
			return w.Cloud().Replace(product, "for "+sn, sn, "")
		},
		func(string) error { return w.Cloud().DeleteProduct(product) }, // the last: all end
	} {
		sn := fmt.Sprint("GW-", i)
		p := w.login(token(w.activate(sn)))
		if err := end(sn); err != nil {
			t.Fatal(i, err)
		}
		if got := p.next(); got != nil {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// What is written after the end of a credential is not stored, even if the session
// has not ended yet.
func TestLateWrite(t *testing.T) {
	w := newWorld(t)
	for i := range 40 {
		sn := fmt.Sprint("GW-", i)
		p := w.login(token(w.activate(sn)))
		if err := w.Cloud().Disable(w.Product(), sn, ""); err != nil {
			t.Fatal(err)
		}
		m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		m.TopicName, m.Payload, m.Qos, m.MessageID = "$resource/device_info", []byte("late"), 1, 1
		m.Write(p) // it may have ended
		if got := p.next(); got != nil {
			t.Errorf("got %v", got)
		}
		if got := w.last(sn, "device_info"); got != "none" {
			t.Fatalf("%q is stored", got)
		}
	}
}

// A credential that ends while a session begins.
func TestCredentialEndsAtLogin(t *testing.T) {
	w := newWorld(t)
	for i := range 40 {
		sn := fmt.Sprint("GW-", i)
		tok := w.activate(sn)
		p := w.dial("127.0.0.1")
		ended := make(chan error, 1)
		go func() { ended <- w.Cloud().Disable(w.Product(), sn, "") }()
		if p.connect(token(tok)) == 0 {
			if got := p.next(); got != nil {
				t.Errorf("got %v", got)
			}
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

// A device that comes back under a serial number of an earlier one is not that.
func TestNotTheEarlierDevice(t *testing.T) {
	w := newWorld(t)
	w.leave(w.login(kept(w.activate(serial))))
	w.set(serial, "of the earlier one")
	if err := w.Cloud().RemoveSerials(w.Product(), serial); err != nil {
		t.Fatal(err)
	}
	p := w.login(kept(w.activate(serial)))
	w.set(serial, "its own")
	if m := p.pushed(); string(m.Payload) != "its own" {
		t.Errorf("got %s", m.Payload)
	}
}

// With a certificate a device is provisioned, and known from then on.
func TestCertificate(t *testing.T) {
	w := newWorld(t)
	w.AddDevice(serial)
	cert := exositetest.NewCertificate(t)
	p := w.dial("127.0.0.1", cert)
	if code := p.connect(nil); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	if m := p.publish("$provision/"+serial, "", 0); m == nil || len(m.(*packets.PublishPacket).Payload) != 40 {
		t.Fatalf("provisioned with %v", m)
	}
	sum := sha256.Sum256(cert.Certificate[0])
	if d, ok := w.Cloud().ByCertificate(sum[:]); !ok || d.SN() != serial {
		t.Fatal("the certificate is not the device's")
	}
	p = w.dial("127.0.0.1", cert)
	if code := p.connect(nil); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	if _, ok := p.publish("$resource/device_info", "by certificate", 1).(*packets.PubackPacket); !ok || w.last(serial, "device_info") != "by certificate" {
		t.Errorf("it cannot write: %q", w.last(serial, "device_info"))
	}
	w.set(serial, "x")
	p.pushed()
	q := w.dial("127.0.0.1", cert)
	if code := q.connect(token("wrong")); code != packets.ErrRefusedNotAuthorised {
		t.Errorf("a certificate and a wrong token: CONNACK %d", code)
	}
	if err := w.Cloud().Disable(w.Product(), serial, ""); err != nil {
		t.Fatal(err)
	}
	if got := p.next(); got != nil {
		t.Errorf("with a disabled device: %v", got)
	}
}

// What there is to a session beside messages.
func TestOddities(t *testing.T) {
	w := newWorld(t)
	tok := w.activate(serial)
	// Granted is QoS 0 or 1, and nobody may listen to more than its answer.
	if codes := w.login(token(tok)).subscribe(1, 2, "$resource/#"); codes[0] != 1 {
		t.Errorf("QoS 2 is granted as %d", codes[0])
	}
	if codes := w.login(nil).subscribe(1, 1, "$provision/"+serial, "$resource/#", "#"); codes[0] != 1 || codes[1] != 0x80 || codes[2] != 0x80 {
		t.Errorf("nobody subscribes with %d", codes)
	}
	// MQTT 5, by hand.
	five := w.dial("127.0.0.1")
	if _, err := five.Write([]byte{0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0, 0, 1, 'x'}); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(five, answer); err != nil || answer[0] != 0x20 || answer[3] != 0x84 {
		t.Errorf("MQTT 5: %x, %v", answer, err)
	}
	// Many filters: all are refused, and pushes still come.
	p := w.login(token(tok))
	for i := range 101 {
		code := p.subscribe(uint16(i+1), 1, fmt.Sprint("$resource/a", i))[0]
		if i < 99 && code != 1 || i >= 99 && code != 0x80 { // it has one already
			t.Fatalf("filter %d: %#x", i, code)
		}
	}
	w.set(serial, "still")
	if got := string(p.pushed().Payload); got != "still" {
		t.Errorf("got %q", got)
	}
	p.Close()
	// An empty client ID is for clean sessions.
	p = w.dial("127.0.0.1")
	if code := p.connect(func(c *packets.ConnectPacket) { kept(tok)(c); c.ClientIdentifier = "" }); code != packets.ErrRefusedIDRejected {
		t.Errorf("no client ID: CONNACK %d", code)
	}
	// Wills and retained messages go nowhere.
	p = w.login(func(c *packets.ConnectPacket) {
		token(tok)(c)
		c.WillFlag, c.WillQos, c.WillRetain, c.WillTopic, c.WillMessage = true, 1, true, "$resource/device_info", []byte("will")
	})
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload, m.Qos, m.MessageID, m.Retain = "$resource/device_info", []byte("retained"), 1, 9, true
	if err := m.Write(p); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.next().(*packets.PubackPacket); !ok {
		t.Error("no PUBACK")
	}
	w.leave(p)
	p = w.login(token(tok))
	p.subscribe(1, 1, "$resource/device_info", "#")
	if got := w.last(serial, "device_info"); got != "retained" {
		t.Errorf("device_info is %q", got)
	}
	w.set(serial, "first") // and nothing retained before it
	if got := string(p.pushed().Payload); got != "first" {
		t.Errorf("got %q", got)
	}
	// Topics that mochi-mqtt drops silently.
	for _, topic := range []string{"$SYS/x", "$sys/broker", "a/+", "#"} {
		if answer := w.login(token(tok)).publish(topic, "x", 1); answer != nil {
			t.Errorf("topic %s: %v", topic, answer)
		}
	}
}

// Close ends what has been begun.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("world", func(t *testing.T) {
		w := newWorld(t)
		tok := w.activate(serial)
		for range 10 {
			w.login(token(tok))
			w.dial("127.0.0.1")
		}
		w.leave(w.login(kept(tok)))
		w.set(serial, "x")
	})
	waitFor(t, "goroutines are left", func() bool { return runtime.NumGoroutine() <= before })
}

// A client may not want what it has not asked for.
func TestUnsubscribe(t *testing.T) {
	w := newWorld(t)
	p := w.login(token(w.activate(serial)))
	p.subscribe(1, 0, "$resource/engine_fetch/+")
	u := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	u.MessageID, u.Topics = 2, []string{"$resource/#"}
	if err := u.Write(p); err != nil {
		t.Fatal(err)
	}
	if a, ok := p.next().(*packets.UnsubackPacket); !ok || a.MessageID != 2 {
		t.Fatalf("UNSUBACK: %v", a)
	}
	if err := w.Cloud().Set(w.Product(), serial, "update_interval", "60"); err != nil {
		t.Fatal(err)
	}
	w.set(serial, "x")
	if m := p.pushed(); string(m.Payload) != "x" || m.Qos != 0 {
		t.Errorf("got %v", m)
	}
}

// Of a session that has been away for too long nothing is left.
func TestExpired(t *testing.T) {
	w := newWorld(t)
	w.leave(w.login(kept(w.activate(serial))))
	server := w.broker.server
	var old *mqtt.Client
	for _, c := range server.Clients.GetAll() {
		if strings.HasSuffix(c.ID, "/kept") {
			old = c
		}
	}
	w.set(serial, "x")
	waitFor(t, "nothing waits", func() bool { return old.State.Inflight.Len() == 1 })
	w.broker.hook.OnClientExpired(old)
	if n := old.State.Inflight.Len(); n != 0 {
		t.Errorf("%d pushes are left", n)
	}
	d, err := w.Cloud().Device(w.Product(), serial)
	if err != nil {
		t.Fatal(err)
	}
	if s := server.Topics.Subscribers(spaceOf(d.RID) + "$resource/engine_fetch/1"); len(s.Subscriptions) != 0 {
		t.Errorf("subscriptions are left: %v", s.Subscriptions)
	}
}

// The library's own lines are in the log, without what packets have in them.
func TestLibraryLog(t *testing.T) {
	w := newWorld(t)
	tok := w.activate(serial)
	p := w.login(func(c *packets.ConnectPacket) { token(tok)(c); c.Keepalive = 1 })
	again := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket) // is not allowed in a session
	again.ProtocolName, again.ProtocolVersion, again.CleanSession, again.ClientIdentifier = "MQTT", 4, true, "x"
	token(tok)(again)
	if err := again.Write(p); err != nil {
		t.Fatal(err)
	}
	if got := p.next(); got != nil {
		t.Errorf("a second CONNECT: %v", got)
	}
	waitFor(t, "the broker does not notice", func() bool { return strings.Contains(w.log.String(), "MQTT session ended") })
	got := w.log.String()
	for _, want := range []string{"keepalive=1", "second connect"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log does not have %q: %s", want, got)
		}
	}
	if strings.Contains(got, tok) || strings.Contains(got, "pk=") {
		t.Errorf("the log has a packet: %s", got)
	}
}

// full is a listener that has no file for a connection at first.
type full struct {
	net.Listener
	left int
}

func (f *full) Accept() (net.Conn, error) {
	if f.left > 0 {
		f.left--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

func TestTooManyFiles(t *testing.T) {
	w := newWorld(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", w.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	go func() {
		if err := w.broker.Serve(&full{l, 2}); err != nil {
			t.Error(err)
			l.Close() // for the connection that waits
		}
	}()
	w.login(token(w.activate(serial)))
}
