package exosite

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
)

func BenchmarkWrite(b *testing.B) {
	s := serveRaw(b, answerOf(204, ""))
	c, _ := newClient(b, Options{CIK: testCIK, Meter: &Meter{}, Consumer: "bench"}, s.addr)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Write(b.Context(), Value{"temperature", "21.5"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s := serveRaw(b, answerOf(200, "engine_fetch=&update_interval=14400"))
	c, _ := newClient(b, Options{CIK: testCIK, Meter: &Meter{}, Consumer: "bench"}, s.addr)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Read(b.Context(), "engine_fetch", "update_interval"); err != nil {
			b.Fatal(err)
		}
	}
}

// checkIn returns a function that checks in as a gateway does, with a report of
// 1 kB and two aliases read, over a connection of its own, and how many bytes
// that took beside the report.
func checkIn(tb testing.TB, version uint16) func() int64 {
	tb.Helper()
	ca := newCA(tb)
	s := ca.serve(tb, ca.leaf(tb, leaf{}), func(config *tls.Config) { config.MaxVersion = version })
	s.handle = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", formType)
		io.WriteString(w, "update_interval=14400")
	}
	report := strings.Repeat("0123456789abcdef", 64)
	m := &Meter{}
	c, _ := newClient(tb, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}, Meter: m, Consumer: "gwe"}, s.addr)
	return func() int64 {
		m.reset()
		if _, err := c.WriteRead(tb.Context(), []Value{{"engine_report", report}}, "engine_fetch", "update_interval"); err != nil {
			tb.Fatal(err)
		}
		c.Close()
		s.mu.Lock()
		s.requests = s.requests[len(s.requests)-1:]
		s.mu.Unlock()
		for _, link := range m.Report() {
			u := link.Consumers["gwe"]["readwrite"]
			return u.TotRx + u.TotTx - int64(len(report))
		}
		return 0
	}
}

func BenchmarkCheckIn(b *testing.B) {
	do := checkIn(b, tls.VersionTLS13)
	first := do()
	var again int64
	for b.Loop() {
		again = do()
	}
	b.ReportMetric(float64(first), "B/first")
	b.ReportMetric(float64(again), "B/checkin")
}

// TestCheckInIsSmall has a limit for what a check-in takes beside its report.
func TestCheckInIsSmall(t *testing.T) {
	for version, limit := range map[uint16]int64{tls.VersionTLS12: 1500, tls.VersionTLS13: 1700} {
		do := checkIn(t, version)
		first, again := do(), do()
		if t.Logf("%#x: %d bytes, then %d", version, first, again); again > limit || first > 2500 {
			t.Errorf("%#x: %d bytes, then %d", version, first, again)
		}
	}
}
