package exosite

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// onlyLink is the one of a report, which is the loopback's.
func onlyLink(t *testing.T, m *Meter) Link {
	t.Helper()
	report := m.Report()
	for name, link := range report {
		if i, err := net.InterfaceByName(name); err != nil || i.Flags&net.FlagLoopback == 0 || len(report) != 1 {
			t.Fatalf("%v: %v", report, err)
		}
		return link
	}
	t.Fatal("nothing was counted")
	return Link{}
}

// TestMeter compares with what the server saw and sent.
func TestMeter(t *testing.T) {
	small, large := answerOf(204, ""), answerOf(200, "a="+strings.Repeat("x", 3000))
	s := serveRaw(t, small, small, large, answerOf(503, ""), hangUp, answerOf(200, "a=1"))
	m := &Meter{}
	c, _ := newClient(t, Options{CIK: testCIK, Meter: m, Consumer: "gwe"}, s.addr)
	for _, v := range []string{"1", strings.Repeat("1", 5000)} {
		if err := c.Write(t.Context(), Value{"a", v}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := c.Read(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	link := onlyLink(t, m)
	r := s.seen()
	size := func(i int) int64 { return int64(len(r[i])) }
	want := map[string]Usage{
		"write": {TotRx: 2 * int64(len(small)), MaxRx: int64(len(small)), TotTx: size(0) + size(1), MaxTx: size(1), Num: 2},
		"read": {
			TotRx: int64(len(large) + len(answerOf(503, "")) + len(answerOf(200, "a=1"))), MaxRx: int64(len(large)),
			TotTx: 4 * size(2), MaxTx: 2 * size(2), // what finds its connection closed is sent twice
			Num: 4,
		},
	}
	if got := link.Consumers["gwe"]; len(r) != 6 || !reflect.DeepEqual(got, want) || link.TopConsumer != "gwe" {
		t.Errorf("%+v\nwant %+v\n%d requests", link, want, len(r))
	}
	m.reset()
	if len(m.Report()) != 0 {
		t.Error("not reset")
	}
}

// TestMeterTLS compares with what a pipe between client and server carries.
func TestMeterTLS(t *testing.T) {
	ca := newCA(t)
	s := ca.serve(t, ca.leaf(t, leaf{}), nil)
	addr, carried := countingPipe(t, s.addr)
	m := &Meter{}
	c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}, Meter: m, Consumer: "app"}, addr)
	if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	tx, rx := carried()
	// The server's goodbye may come when the client is gone: a TLS alert.
	const alert = 24
	if u := onlyLink(t, m).Consumers["app"]["write"]; u.TotTx != tx || u.TotRx != rx && u.TotRx != rx-alert || u.MaxTx != tx || u.Num != 1 || tx < 500 {
		t.Errorf("%+v, the wire has %d and %d", u, tx, rx)
	}
	// A handshake that fails is no request, but counts.
	m.reset()
	c, _ = newClient(t, Options{CIK: testCIK, Server: serverName, Meter: m, Consumer: "app", Tries: 1, Trust: &Trust{Roots: newCA(t).pool}}, s.addr)
	if err := c.Write(t.Context(), Value{"a", "1"}); err == nil {
		t.Fatal("other CA")
	}
	if u := onlyLink(t, m).Consumers["app"]["write"]; u.TotTx == 0 || u.TotRx == 0 || u.Num != 0 {
		t.Errorf("%+v", u)
	}
}

// countingPipe carries connections to addr, and tells after their end how many
// bytes it carried there and back.
func countingPipe(t testing.TB, addr string) (string, func() (there, back int64)) {
	t.Helper()
	type pair struct{ there, back int64 }
	ended := make(chan pair, 64)
	pipe := serveConns(t, func(conn net.Conn) {
		target, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer target.Close()
		var p pair
		back := make(chan struct{})
		go func() {
			p.back, _ = io.Copy(conn, target)
			close(back)
		}()
		p.there, _ = io.Copy(target, conn)
		target.Close()
		<-back
		ended <- p
	})
	return pipe, func() (int64, int64) {
		p := <-ended
		return p.there, p.back
	}
}

func TestMeterReport(t *testing.T) {
	var m Meter
	small := m.begin("gmq", "record")
	m.add("eth0", small, 10, 20, 1)
	m.add("eth0", small, 5, 0, 0)
	m.add("eth0", m.begin("gmq", "record"), 1, 2, 1)
	m.add("eth0", m.begin("top_consumer", "write"), 500, 1, 1)
	m.add("ppp0", m.begin("gwe", "write"), 1, 1, 1)
	got, err := json.Marshal(m.Report())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"eth0":{"gmq":{"record":{"tot_rx":16,"max_rx":15,"tot_tx":22,"max_tx":20,"num":2}},` +
		`"other":{"write":{"tot_rx":500,"max_rx":500,"tot_tx":1,"max_tx":1,"num":1}},"top_consumer":"other"},` +
		`"ppp0":{"gwe":{"write":{"tot_rx":1,"max_rx":1,"tot_tx":1,"max_tx":1,"num":1}},"top_consumer":"gwe"}}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got, err := json.Marshal((&Meter{}).Report()); string(got) != "{}" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// TestMeterBounded has names that never end.
func TestMeterBounded(t *testing.T) {
	var m Meter
	long := strings.Repeat("ä", 1000)
	for i := range 3000 {
		m.add(fmt.Sprint("link", i%50), m.begin(fmt.Sprint(i, long), fmt.Sprint("method", i)), 1, 1, 1)
	}
	m.add("", m.begin("", ""), 1, 1, 1)
	report := m.Report()
	text, err := json.Marshal(report)
	if err != nil || len(report) != maxLinks || len(text) > 1<<20 {
		t.Fatalf("%v, %d links, %d bytes", err, len(report), len(text))
	}
	sum := int64(0)
	for _, link := range report {
		if len(link.Consumers) > maxConsumers {
			t.Errorf("%d consumers", len(link.Consumers))
		}
		for name, methods := range link.Consumers {
			if len(methods) > maxMethods || len(name) > maxName {
				t.Errorf("%q has %d methods", name, len(methods))
			}
			for _, u := range methods {
				sum += u.Num
			}
		}
	}
	if sum != 3001 {
		t.Errorf("%d requests", sum)
	}
}

// TestMeterConn is how another protocol counts.
func TestMeterConn(t *testing.T) {
	s := serveRaw(t, answerOf(204, ""))
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &Meter{}
	conn := m.Conn(raw, "mqtt", "connect")
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\n")
	conn.Begin("publish")
	io.WriteString(conn, "\r\n")
	answer := make([]byte, len(answerOf(204, "")))
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]Usage{"mqtt": {
		"connect": {TotTx: 16, MaxTx: 16},
		"publish": {TotTx: 2, MaxTx: 2, TotRx: int64(len(answer)), MaxRx: int64(len(answer)), Num: 1},
	}}
	if got := onlyLink(t, m).Consumers; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	uncounted := (*Meter)(nil).Conn(raw, "", "")
	uncounted.Begin("publish")
	if _, err := io.WriteString(uncounted, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Error(err)
	}
}

// What Take returned is, added, what Report has without it, also with requests
// that are under way.
func TestMeterTake(t *testing.T) {
	var once, taken Meter
	sum := Report{}
	var under []*[2]*exchange // the same one of both
	for i := range 2000 {
		if i%3 == 0 {
			method := fmt.Sprint("m", i%7)
			under = append(under, &[2]*exchange{once.begin("gwe", method), taken.begin("gwe", method)})
		}
		x := under[rand.N(len(under))]
		rx, tx, num := rand.Int64N(1000), rand.Int64N(1000), rand.Int64N(2)
		once.add("eth0", x[0], rx, tx, num)
		taken.add("eth0", x[1], rx, tx, num)
		if i%50 == 0 {
			sum = sum.Add(taken.Take())
		}
	}
	sum = sum.Add(taken.Take())
	if want := once.Report(); !reflect.DeepEqual(sum, want) {
		t.Errorf("%+v\nwant %+v", sum, want)
	}
	if r := taken.Take(); len(r) != 0 || r == nil {
		t.Errorf("nothing was used since, and it is %v", r)
	}
}

// TestMeterTakeOnWire takes while requests are under way.
func TestMeterTakeOnWire(t *testing.T) {
	answers := slices.Repeat([]string{answerOf(204, "")}, 200)
	s := serveRaw(t, answers...)
	m := &Meter{}
	c, _ := newClient(t, Options{CIK: testCIK, Meter: m, Consumer: "gwe"}, s.addr)
	ended := make(chan error)
	go func() {
		for range answers {
			if err := c.Write(t.Context(), Value{"a", "1"}); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	sum, takes := Report{}, 0
	for run := true; run; takes++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			run = false
		default:
		}
		sum = sum.Add(m.Take())
	}
	size := int64(len(s.seen()[0]))
	want := Usage{TotRx: 200 * int64(len(answers[0])), MaxRx: int64(len(answers[0])), TotTx: 200 * size, MaxTx: size, Num: 200}
	for _, link := range sum {
		if got := link.Consumers["gwe"]["write"]; got != want || len(sum) != 1 || takes < 2 {
			t.Errorf("%+v, want %+v, in %d times", got, want, takes)
		}
	}
}

func TestReportAdd(t *testing.T) {
	one := func(link, consumer, method string, u Usage) Report {
		return Report{link: {TopConsumer: "wrong", Consumers: map[string]map[string]Usage{consumer: {method: u}}}}
	}
	small := Usage{TotRx: 10, MaxRx: 8, TotTx: 4, MaxTx: 3, Num: 2}
	large := Usage{TotRx: 100, MaxRx: 2, TotTx: 40, MaxTx: 30, Num: 1}
	huge := Usage{TotRx: math.MaxInt64, MaxRx: math.MaxInt64, TotTx: 1, MaxTx: 1, Num: math.MaxInt64}
	for _, test := range []struct {
		name string
		a, b Report
		want string
	}{
		{"nothing", nil, Report{}, `{}`},
		{"to nothing", nil, one("eth0", "gwe", "write", small), `{"eth0":{"gwe":{"write":{"tot_rx":10,"max_rx":8,"tot_tx":4,"max_tx":3,"num":2}},"top_consumer":"gwe"}}`},
		{"the same", one("eth0", "gwe", "write", small), one("eth0", "gwe", "write", large), `{"eth0":{"gwe":{"write":{"tot_rx":110,"max_rx":8,"tot_tx":44,"max_tx":30,"num":3}},"top_consumer":"gwe"}}`},
		{"another consumer", one("eth0", "gwe", "write", small), one("eth0", "gdc", "read", large), `{"eth0":{"gdc":{"read":{"tot_rx":100,"max_rx":2,"tot_tx":40,"max_tx":30,"num":1}},"gwe":{"write":{"tot_rx":10,"max_rx":8,"tot_tx":4,"max_tx":3,"num":2}},"top_consumer":"gdc"}}`},
		{"another link", one("eth0", "gwe", "write", small), one("ppp0", "gwe", "write", small), `{"eth0":{"gwe":{"write":{"tot_rx":10,"max_rx":8,"tot_tx":4,"max_tx":3,"num":2}},"top_consumer":"gwe"},"ppp0":{"gwe":{"write":{"tot_rx":10,"max_rx":8,"tot_tx":4,"max_tx":3,"num":2}},"top_consumer":"gwe"}}`},
		{"more than there is", one("eth0", "gwe", "write", huge), one("eth0", "gwe", "write", huge), `{"eth0":{"gwe":{"write":{"tot_rx":9223372036854775807,"max_rx":9223372036854775807,"tot_tx":2,"max_tx":1,"num":9223372036854775807}},"top_consumer":"gwe"}}`},
	} {
		a, b := fmt.Sprint(test.a), fmt.Sprint(test.b)
		got, err := json.Marshal(test.a.Add(test.b))
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %s, %v, want %s", test.name, got, err, test.want)
		}
		if fmt.Sprint(test.a) != a || fmt.Sprint(test.b) != b {
			t.Errorf("%s: the reports have changed", test.name)
		}
	}
	// The limits hold.
	sum := Report{}
	for i := range 100 {
		sum = sum.Add(one(fmt.Sprint("link", i%20), fmt.Sprint("app", i), "write", small))
	}
	if n := len(sum); n != maxLinks || len(sum[others].Consumers) != 25 {
		t.Errorf("%d links, %d consumers of the others", n, len(sum[others].Consumers))
	}
	for i := range 100 {
		sum = sum.Add(one("link0", "gwe", fmt.Sprint("method", i), small))
	}
	if n := len(sum["link0"].Consumers["gwe"]); n != maxMethods || sum["link0"].Consumers["gwe"][others].Num != small.Num*(100-maxMethods+1) {
		t.Errorf("%d methods", n)
	}
}

func TestReportReadBack(t *testing.T) {
	var m Meter
	m.add("eth0", m.begin("gmq", "record"), 10, 20, 1)
	m.add("eth0", m.begin("gwe", "write"), 1, 2, 1)
	m.add("ppp0", m.begin("gwe", "write"), 0, 0, 0)
	for _, want := range []Report{{}, m.Report()} {
		text, err := json.Marshal(want)
		var got Report
		if err != nil || json.Unmarshal(text, &got) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, ok := range map[string]bool{
		`{"eth0":{}}`:                                 true,
		`{"eth0":{"gwe":{"write":{"num":1}}}}`:        true, // and nothing else
		`{"eth0":{"top_consumer":"gwe"}}`:             true,
		`{"eth0":null}`:                               false,
		`{"eth0":[]}`:                                 false,
		`{"eth0":{"top_consumer":1}}`:                 false,
		`{"eth0":{"gwe":1}}`:                          false,
		`{"eth0":{"gwe":{"write":1}}}`:                false,
		`{"eth0":{"gwe":{"write":{"num":-1}}}}`:       false,
		`{"eth0":{"gwe":{"write":{"max_tx":-1}}}}`:    false,
		`{"eth0":{"gwe":{"write":{"num":1.5}}}}`:      false,
		`{"eth0":{"gwe":{"write":{"num":1e30}}}}`:     false,
		`{"eth0":{"gwe":{"write":{"number":1}}}}`:     false,
		`{"eth0":{"gwe":{"write":{"num":1}}}`:         false,
		`{"eth0":{"gwe":{"write":{"num":"1"}}}}`:      false,
		`{"eth0":{"gwe":{"write":{"num":1}}}}garbage`: false,
	} {
		var r Report
		if err := json.Unmarshal([]byte(text), &r); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add(`{"eth0":{"gwe":{"write":{"tot_rx":10,"max_rx":8,"tot_tx":4,"max_tx":3,"num":2}},"top_consumer":"gwe"}}`, `{"":{"":{"":{"num":9223372036854775807}}}}`)
	f.Add(`{"eth0":null}`, `null`)
	f.Fuzz(func(t *testing.T, a, b string) {
		var r, other Report
		if json.Unmarshal([]byte(a), &r) != nil || json.Unmarshal([]byte(b), &other) != nil {
			return
		}
		sum := r.Add(other)
		text, err := json.Marshal(sum)
		if err != nil {
			t.Fatal(err)
		}
		var again Report
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	})
}

// reset begins anew.
func (m *Meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links = nil
}
