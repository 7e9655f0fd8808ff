package broker

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

const serial = "GW-1"

// world is a broker with the rest of the emulator.
type world struct {
	*exositetest.Server
	t    *testing.T
	addr string
	log  *logs

	broker *Broker
}

type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Server: exositetest.New(t), t: t, log: &logs{}}
	b, err := Start(w.Server, "127.0.0.1:0", slog.New(slog.NewTextHandler(w.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w.broker, w.addr = b, b.Addr()
	t.Cleanup(func() {
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// activate has the token of a new device.
func (w *world) activate(sn string) string {
	w.t.Helper()
	w.AddDevice(sn)
	token, err := w.Cloud().Activate(w.Product(), sn, "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func (w *world) last(sn, alias string) string {
	w.t.Helper()
	h, err := w.Cloud().History(w.Product(), sn, alias)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(h) == 0 {
		return "none"
	}
	return h[len(h)-1].Value
}

// peer is a client byte by byte.
type peer struct {
	net.Conn
	t *testing.T
}

func (w *world) dial(name string, certs ...tls.Certificate) *peer {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.CA())
	conn, err := tls.Dial("tcp", w.addr, &tls.Config{RootCAs: roots, ServerName: name, Certificates: certs})
	if err != nil {
		w.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	w.t.Cleanup(func() { conn.Close() })
	return &peer{conn, w.t}
}

// connect sends CONNECT and returns the code of CONNACK.
func (p *peer) connect(change func(*packets.ConnectPacket)) byte {
	p.t.Helper()
	c := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	c.ProtocolName, c.ProtocolVersion, c.CleanSession, c.Keepalive, c.ClientIdentifier = "MQTT", 4, true, 60, rand.Text()
	if change != nil {
		change(c)
	}
	if err := c.Write(p); err != nil {
		p.t.Fatal(err)
	}
	answer, err := packets.ReadPacket(p)
	if err != nil {
		return 255 // the connection is closed without one
	}
	return answer.(*packets.ConnackPacket).ReturnCode
}

func token(token string) func(*packets.ConnectPacket) {
	return func(c *packets.ConnectPacket) {
		c.UsernameFlag, c.PasswordFlag, c.Password = true, true, []byte(token)
	}
}

// publish sends a message, and returns what comes next, nil if the session ends.
func (p *peer) publish(topic, payload string, qos byte) packets.ControlPacket {
	p.t.Helper()
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload, m.Qos, m.MessageID = topic, []byte(payload), qos, 7
	if err := m.Write(p); err != nil {
		p.t.Fatal(err)
	}
	return p.next()
}

func (p *peer) next() packets.ControlPacket {
	p.t.Helper()
	answer, err := packets.ReadPacket(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatal("nothing comes, and the session does not end")
	}
	if err != nil {
		return nil
	}
	return answer
}

// What each kind of session may do, and what ends it.
func TestSessions(t *testing.T) {
	w := newWorld(t)
	tok := w.activate(serial)
	w.AddDevice("fresh")
	if err := w.Cloud().CreateProduct("other"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		server  string // SNI
		login   func(*packets.ConnectPacket)
		connack byte
		topic   string
		payload string
		qos     byte
		refused string // in the log; "": it is not
	}{
		{name: "a value", login: token(tok), topic: "$resource/device_info", payload: "x", qos: 1},
		{name: "an unknown alias", login: token(tok), topic: "$resource/no_such", payload: "x", qos: 1},
		{name: "an empty value", login: token(tok), topic: "$resource/device_info", qos: 1},
		{name: "a batch", login: token(tok), topic: "$resource.batch", payload: `[{"timestamp":1526046488,"values":{"device_info":"x"}}]`, qos: 1},
		{name: "its own server name", server: "a1b2c3d4e5f60000.m2.exosite.io", login: token(tok), topic: "$resource/device_info", payload: "x", qos: 1},
		{name: "a malformed batch", login: token(tok), topic: "$resource.batch", payload: "{", qos: 1, refused: "batch: "},
		{name: "a topic", login: token(tok), topic: "other", qos: 1, refused: `topic \"other\"`},
		{name: "no alias", login: token(tok), topic: "$resource/", qos: 1, refused: "topic"},
		{name: "two levels", login: token(tok), topic: "$resource/a/b", qos: 1, refused: "topic"},
		{name: "QoS 2", login: token(tok), topic: "$resource/device_info", payload: "q", qos: 2, refused: "QoS 2"},
		{name: "provisioning with a token", login: token(tok), topic: "$provision/fresh", qos: 1, refused: "provisioning in a session"},
		{name: "an unknown identity", topic: "$provision/unknown", qos: 1, refused: "unknown"},
		{name: "an activated one", topic: "$provision/" + serial, qos: 1, refused: "not enabled"},
		{name: "a value of nobody", topic: "$resource/device_info", payload: "n", qos: 1, refused: "without a credential"},
		{name: "a wrong token", login: token(strings.Repeat("x", 40)), connack: packets.ErrRefusedNotAuthorised, refused: "not the token"},
		{name: "a user name", login: func(c *packets.ConnectPacket) { token(tok)(c); c.Username = serial }, connack: packets.ErrRefusedNotAuthorised, refused: "user name"},
		{name: "another product's server name", server: "other.m2.exosite.io", login: token(tok), connack: packets.ErrRefusedNotAuthorised, refused: "not one of product other"},
		{name: "MQTT 3.1", login: func(c *packets.ConnectPacket) { c.ProtocolName, c.ProtocolVersion = "MQIsdp", 3 }, connack: packets.ErrRefusedBadProtocolVersion},
	} {
		before := w.log.String()
		name := tt.server
		if name == "" {
			name = "127.0.0.1"
		}
		p := w.dial(name)
		if code := p.connect(tt.login); code != tt.connack {
			t.Errorf("%s: CONNACK %d, want %d", tt.name, code, tt.connack)
			continue
		}
		if tt.connack == 0 {
			answer := p.publish(tt.topic, tt.payload, tt.qos)
			if _, acked := answer.(*packets.PubackPacket); acked != (tt.refused == "") {
				t.Errorf("%s: got %v", tt.name, answer)
			}
			if ws := strings.TrimPrefix(tt.topic, "$resource/"); tt.refused == "" && ws == "device_info" && w.last(serial, ws) != tt.payload {
				t.Errorf("%s: %q is stored", tt.name, w.last(serial, ws))
			}
		}
		if got := strings.TrimPrefix(w.log.String(), before); tt.refused != "" && !strings.Contains(got, tt.refused) {
			t.Errorf("%s: the log has %q", tt.name, got)
		}
	}
	if strings.Contains(w.log.String(), tok) {
		t.Error("the log has a token")
	}
	if got := w.last(serial, "device_info"); got != "x" {
		t.Errorf("something refused has been stored: %q", got)
	}
}

// Provisioning needs no subscription, and the session cannot be used for more.
func TestProvision(t *testing.T) {
	w := newWorld(t)
	w.AddDevice(serial)
	p := w.dial("127.0.0.1")
	if code := p.connect(nil); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	answer, ok := p.publish("$provision/"+serial, "anything", 1).(*packets.PublishPacket)
	if !ok || answer.TopicName != "$provision/"+serial || len(answer.Payload) != 40 {
		t.Fatalf("got %v", answer)
	}
	if d, ok := w.Cloud().ByCIK(string(answer.Payload)); !ok || d.SN() != serial {
		t.Error("the token is not valid")
	}
	if _, ok := p.next().(*packets.PubackPacket); !ok {
		t.Error("no PUBACK")
	}
	if answer := p.publish("$resource/device_info", "x", 1); answer != nil {
		t.Errorf("the session writes: %v", answer)
	}
}

// The tools of Mosquitto as a stranger's client.
func TestMosquitto(t *testing.T) {
	w := newWorld(t)
	tok := w.activate(serial)
	w.AddDevice("fresh")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, w.CA(), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(w.addr)
	base := []string{"-h", "127.0.0.1", "-p", port, "--cafile", ca, "-V", "mqttv311"}
	command := func(name string, args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), name, append(base[:len(base):len(base)], args...)...)
	}
	run := func(want bool, name string, args ...string) string {
		t.Helper()
		out, err := command(name, args...).CombinedOutput()
		if (err == nil) != want {
			t.Errorf("%s %q: %v, %s", name, args, err, out)
		}
		return string(out)
	}
	login := []string{"-u", "", "-P", tok}
	run(true, "mosquitto_pub", append(login, "-q", "1", "-t", "$resource/device_info", "-m", "hello")...)
	if got := w.last(serial, "device_info"); got != "hello" {
		t.Errorf("device_info is %q", got)
	}
	run(true, "mosquitto_pub", append(login, "-q", "1", "-t", "$resource.batch", "-m", `[{"timestamp":1526046488000000,"values":{"usage_report":{"a":1},"engine_report":98.7}}]`)...)
	if a, b := w.last(serial, "usage_report"), w.last(serial, "engine_report"); a != `{"a":1}` || b != "98.7" {
		t.Errorf("the batch is %q, %q", a, b)
	}
	run(false, "mosquitto_pub", "-u", "", "-P", "wrong", "-q", "1", "-t", "$resource/device_info", "-m", "x")
	// It subscribes to the answer, as one would.
	got := run(true, "mosquitto_rr", "-q", "1", "-t", "$provision/fresh", "-e", "$provision/fresh", "-n", "-W", "10")
	if !regexp.MustCompile(`^[0-9A-Za-z]{40}\n$`).MatchString(got) {
		t.Errorf("provisioned with %q", got)
	}

	sub := command("mosquitto_sub", append(login, "-q", "1", "-t", "$resource/#", "-C", "1", "-W", "10", "-F", "%t %p")...)
	var out bytes.Buffer
	sub.Stdout, sub.Stderr = &out, &out
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sub.Wait() }()
	for done := false; !done; { // until it has subscribed
		if err := w.Cloud().Set(w.Product(), serial, "update_interval", "60"); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			done = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	if !regexp.MustCompile(`^\$resource/update_interval/[0-9]{16} 60\n$`).MatchString(out.String()) {
		t.Errorf("pushed: %q", out.String())
	}
}

// Pushes are the device's own, come without a subscription, once, and wait for a
// session that is away.
func TestPush(t *testing.T) {
	w := newWorld(t)
	tok, other := w.activate(serial), w.activate("other")
	keep := func(c *packets.ConnectPacket) { token(tok)(c); c.CleanSession, c.ClientIdentifier = false, "kept" }
	set := func(sn, value string) {
		t.Helper()
		if err := w.Cloud().Set(w.Product(), sn, "engine_fetch", value); err != nil {
			t.Fatal(err)
		}
	}
	push := func(p *peer, want string) {
		t.Helper()
		m, ok := p.next().(*packets.PublishPacket)
		if !ok || string(m.Payload) != want || !strings.HasPrefix(m.TopicName, "$resource/engine_fetch/") || m.Qos != 1 || m.Retain {
			t.Fatalf("got %v, want %q", m, want)
		}
		ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		ack.MessageID = m.MessageID
		if err := ack.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	p, q := w.dial("127.0.0.1"), w.dial("127.0.0.1")
	if p.connect(keep) != 0 || q.connect(func(c *packets.ConnectPacket) { token(other)(c); c.ClientIdentifier = "kept" }) != 0 {
		t.Fatal("no session")
	}
	// The session is there when its PINGRESP is.
	for _, p := range []*peer{p, q} {
		packets.NewControlPacket(packets.Pingreq).Write(p)
		if _, ok := p.next().(*packets.PingrespPacket); !ok {
			t.Fatal("no PINGRESP")
		}
	}
	sub := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	sub.MessageID, sub.Topics, sub.Qoss = 3, []string{"$resource/#", "#"}, []byte{1, 0}
	if err := sub.Write(p); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.next().(*packets.SubackPacket); !ok {
		t.Fatal("no SUBACK")
	}
	set("other", "theirs")
	set(serial, "ours")
	push(p, "ours") // and once, though three filters match
	push(q, "theirs")
	if d, ok := w.Cloud().ByCIK(tok); ok {
		if _, err := d.Write(cloud.Value{Alias: "engine_fetch"}); err != nil { // the device's own writes are not pushed
			t.Fatal(err)
		}
	}
	set(serial, "next")
	push(p, "next")
	p.Close()
	waitFor(t, "the broker does not notice", func() bool { return strings.Count(w.log.String(), "MQTT session ended") == 1 })
	set(serial, "waiting")
	p = w.dial("127.0.0.1")
	if code := p.connect(keep); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	push(p, "waiting")

	// The end of the token is that of the session, and of this one only.
	if err := w.Cloud().Disable(w.Product(), serial, ""); err != nil {
		t.Fatal(err)
	}
	if got := p.next(); got != nil {
		t.Errorf("with a disabled device: %v", got)
	}
	set("other", "still")
	push(q, "still")
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal(what)
		}
	}
}

// Strangers cost little, and bring nobody down.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	tok := w.activate(serial)
	p := w.dial("127.0.0.1")
	if code := p.connect(token(tok)); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	huge := []byte{0x30, 0xff, 0xff, 0xff, 0x7f}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			s := w.dial("127.0.0.1")
			switch i % 4 {
			case 0: // noise, a different one each time
				junk := make([]byte, 100)
				rand.Read(junk)
				s.Write(junk)
			case 1: // a packet that announces 256 MB
				s.Write(huge)
			case 2: // the same in a session
				s.connect(nil)
				s.Write(huge)
			case 3: // CONNECT with lengths that are wrong
				junk := []byte{0x10, 20, 0, 4, 'M', 'Q', 'T', 'T', 4, 0xc2, 0, 60, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8}
				binary.BigEndian.PutUint16(junk[12:], uint16(i*300))
				s.Write(junk)
			}
			s.CloseWrite()
			io.Copy(io.Discard, s)
		})
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 100<<20 {
		t.Errorf("%d MB for them", grown>>20)
	}
	if _, ok := p.publish("$resource/device_info", "x", 1).(*packets.PubackPacket); !ok {
		t.Error("the device's session has not survived")
	}
	if strings.Contains(w.log.String(), "has failed") {
		t.Errorf("a session has panicked: %s", w.log.String())
	}
	// One that says nothing is ended with the broker.
	w.dial("127.0.0.1")
}

func (p *peer) CloseWrite() { p.Conn.(*tls.Conn).CloseWrite() }

func TestManySessions(t *testing.T) {
	w := newWorld(t)
	const n = 300
	peers := make([]*peer, n)
	var wg sync.WaitGroup
	for i := range n {
		sn := fmt.Sprint("GW-", i)
		tok := w.activate(sn)
		wg.Go(func() {
			p := w.dial("127.0.0.1")
			if code := p.connect(token(tok)); code != 0 {
				t.Errorf("CONNACK %d", code)
			}
			if _, ok := p.publish("$resource/device_info", sn, 1).(*packets.PubackPacket); !ok {
				t.Errorf("%s has no PUBACK", sn)
			}
			peers[i] = p
		})
	}
	wg.Wait()
	for i := range n {
		if sn := fmt.Sprint("GW-", i); w.last(sn, "device_info") != sn {
			t.Errorf("%s has %q", sn, w.last(sn, "device_info"))
		}
		wg.Go(func() {
			if err := w.Cloud().Set(w.Product(), fmt.Sprint("GW-", i), "engine_fetch", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
			if m, ok := peers[i].next().(*packets.PublishPacket); !ok || string(m.Payload) != fmt.Sprint(i) {
				t.Errorf("%d got %v", i, m)
			}
		})
	}
	wg.Wait()
}

func TestParseBatch(t *testing.T) {
	at := time.UnixMicro(1_526_046_488_250_000)
	for text, want := range map[string][]cloud.Point{
		`[]`: nil,
		`[{"timestamp":1526046488.25,"values":{"b":"x","a":"y"}}]`:     {{Alias: "a", Time: at, Value: "y"}, {Alias: "b", Time: at, Value: "x"}},
		`[{"timestamp":1526046488250000,"values":{"a":98.70}}]`:        {{Alias: "a", Time: at, Value: "98.70"}},
		`[{"timestamp":1.52604648825e9,"values":{"a":{"b": [1]}}}]`:    {{Alias: "a", Time: at, Value: `{"b": [1]}`}},
		`[{"timestamp":0,"values":{"a":true}}, {"timestamp":1}]` + " ": {{Alias: "a", Time: time.Unix(0, 0), Value: "true"}},
		`[{"timestamp":1526046488.25,"values":{"a":null}}]`:            {{Alias: "a", Time: at, Value: "null"}},
	} {
		got, err := parseBatch([]byte(text))
		same := len(got) == len(want)
		for i := range got {
			same = same && got[i].Alias == want[i].Alias && got[i].Value == want[i].Value && got[i].Time.Equal(want[i].Time)
		}
		if err != nil || !same {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		``, `{}`, `[1]`, `[{"timestamp":"x","values":{}}]`, `[{"values":{"a":"b"}}]`, `[{"timestamp":-1,"values":{"a":"b"}}]`, `[{"timestamp":1e300,"values":{"a":"b"}}]`,
		`[{"timestamp":1,"values":{"a":"b"}}] x`, `[{"timestamp":1,"values":["a"]}]`,
	} {
		if got, err := parseBatch([]byte(text)); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`[{"timestamp":1526046488,"values":{"test":"some test data"}},{"timestamp":1526046488.5,"values":{"temperature":98.7}}]`))
	f.Add([]byte(`[{"timestamp":1526046488250000,"values":{"a":null,"b":{}}}]`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		points, err := parseBatch(payload)
		for _, p := range points {
			if p.Time.UnixMicro() < 0 || err != nil {
				t.Errorf("%q: %v, %v", payload, points, err)
			}
		}
	})
}
