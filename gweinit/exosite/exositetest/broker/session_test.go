package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

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
		for i := range 30 {
			q := w.login(login)
			if i%2 == 0 {
				p.Close()
			}
			want := fmt.Sprint(clean, i)
			w.set(serial, want)
			m := q.pushed()
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	p := w.dial("127.0.0.1", cert)
	if code := p.connect(nil); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	if m := p.publish("$provision/"+serial, "", 0); m == nil || len(m.(*packets.PublishPacket).Payload) != 40 {
		t.Fatalf("provisioned with %v", m)
	}
	sum := sha256.Sum256(der)
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
	// An empty client ID is for clean sessions.
	p := w.dial("127.0.0.1")
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
