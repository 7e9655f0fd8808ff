package clock

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var build = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

// fakeKernel has a clock that is some time away from that of this machine.
type fakeKernel struct {
	mu      sync.Mutex
	away    time.Duration
	noSet   error
	rtc     time.Time
	noRTC   error
	stepped []time.Time
	slewed  []slew
	written []time.Time // to the RTC
}

// shows lets the clock show a time, as somebody does with date(1).
func (k *fakeKernel) shows(t time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = t.Sub(time.Now().Round(0))
}

func (k *fakeKernel) now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Round(0).Add(k.away)
}

func (k *fakeKernel) set(t time.Time) error {
	if k.noSet != nil {
		return k.noSet
	}
	k.shows(t)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stepped = append(k.stepped, t)
	return nil
}

func (k *fakeKernel) slew(s slew) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.slewed = append(k.slewed, s)
	return nil
}

func (k *fakeKernel) readRTC() (time.Time, error) { return k.rtc, k.noRTC }

func (k *fakeKernel) writeRTC(t time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.noRTC != nil {
		return k.noRTC
	}
	k.written = append(k.written, t)
	return nil
}

// done is a copy of what was done so far.
func done[T any](k *fakeKernel, what *[]T) []T {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(*what)
}

func (k *fakeKernel) steps() []time.Time  { return done(k, &k.stepped) }
func (k *fakeKernel) slews() []slew       { return done(k, &k.slewed) }
func (k *fakeKernel) writes() []time.Time { return done(k, &k.written) }

// setup is a clock with a fake kernel.
type setup struct {
	*Clock
	kernel *fakeKernel
	log    *syncBuffer
	set    chan string
}

func newSetup(t *testing.T, shows time.Time) *setup {
	s := &setup{kernel: &fakeKernel{noRTC: unix.ENOENT}, log: &syncBuffer{}, set: make(chan string, 9)}
	s.kernel.shows(shows)
	s.Clock = New(Options{
		File:  filepath.Join(t.TempDir(), "clock"),
		RTC:   "/dev/rtc-of-the-test",
		Build: build,
		Log:   slog.New(slog.NewTextHandler(s.log, nil)),
		Set:   func(source string) { s.set <- source },
	})
	s.Clock.kernel = s.kernel
	s.ask = nil // no test asks the world
	return s
}

func (s *setup) sources() (got []string) {
	for len(s.set) > 0 {
		got = append(got, <-s.set)
	}
	return got
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *syncBuffer) count(text string) int { return strings.Count(b.String(), text) }

// packet is an NTP server's answer: RFC 5905, section 7.3.
type packet struct {
	LeapVersionMode, Stratum  uint8
	Poll, Precision           int8
	Delay, Dispersion         uint32
	ReferenceID               [4]byte
	Reference, Origin, Rx, Tx uint64
}

func stamp(t time.Time) uint64 {
	const from1900 = 2208988800
	return uint64(t.Unix()+from1900)<<32 | uint64(t.Nanosecond())<<32/1e9
}

func (p packet) bytes() []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.BigEndian, p)
	return b.Bytes()
}

// good is the answer of a good server whose clock is offset from this one.
func good(request []byte, offset time.Duration) packet {
	now := time.Now().Add(offset)
	return packet{
		LeapVersionMode: 4<<3 | 4, Stratum: 2, Precision: -20, Dispersion: 1 << 10,
		Reference: stamp(now.Add(-time.Minute)), Origin: binary.BigEndian.Uint64(request[40:]), Rx: stamp(now), Tx: stamp(now),
	}
}

// serve runs a real NTP server, and returns its address. Each packet of an
// answer is sent; none is a silent server.
func serve(t testing.TB, answer func(request []byte) [][]byte) string {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1024)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n < 48 || buf[0]&7 != 3 {
				io.WriteString(t.Output(), "not a client's packet\n")
				continue
			}
			for _, p := range answer(buf[:n]) {
				conn.WriteToUDPAddrPort(p, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}
