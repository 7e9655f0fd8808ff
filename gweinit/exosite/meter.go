package exosite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Meter counts the bytes that a process exchanges with Exosite: all that TCP
// carries, TLS and its handshakes included, but not TCP's and IP's own, and not
// DNS. The zero value is ready; it is safe for concurrent use. One Meter serves
// many clients.
type Meter struct {
	mu    sync.Mutex
	links tally
}

// Usage is what requests of one method used. Bytes of tries that failed count.
type Usage struct {
	TotRx int64 `json:"tot_rx"` // bytes received
	MaxRx int64 `json:"max_rx"` // by a single request
	TotTx int64 `json:"tot_tx"` // bytes sent
	MaxTx int64 `json:"max_tx"`
	Num   int64 `json:"num"` // requests sent
}

// Report is what was used, by network interface. As JSON it is GWE's
// usage_report.
type Report map[string]Link

// Link is what was used over one network interface.
type Link struct {
	TopConsumer string                      // the one with the most bytes
	Consumers   map[string]map[string]Usage // by consumer and method
}

const topConsumer = "top_consumer"

// MarshalJSON writes consumers and top_consumer side by side.
func (l Link) MarshalJSON() ([]byte, error) {
	all := make(map[string]any, len(l.Consumers)+1)
	for consumer, methods := range l.Consumers {
		all[consumer] = methods
	}
	all[topConsumer] = l.TopConsumer
	return json.Marshal(all)
}

// UnmarshalJSON reads what MarshalJSON has written; what is missing is 0. Other
// names than Usage has, and negative numbers, are errors.
func (l *Link) UnmarshalJSON(data []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	if all == nil {
		return errors.New("the usage of a link is null")
	}
	link := Link{Consumers: make(map[string]map[string]Usage, len(all))}
	for consumer, text := range all {
		if consumer == topConsumer {
			if err := json.Unmarshal(text, &link.TopConsumer); err != nil {
				return fmt.Errorf("%s: %w", topConsumer, err)
			}
			continue
		}
		var methods map[string]Usage
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&methods); err != nil {
			return fmt.Errorf("the usage of %.40q: %w", consumer, err)
		}
		for method, u := range methods {
			if min(u.TotRx, u.MaxRx, u.TotTx, u.MaxTx, u.Num) < 0 {
				return fmt.Errorf("the usage of %.40q for %.40q is negative", consumer, method)
			}
		}
		link.Consumers[consumer] = methods
	}
	*l = link
	return nil
}

// A report stays small whatever consumers call themselves: those above the
// limits are one.
const (
	maxLinks     = 16
	maxConsumers = 32
	maxMethods   = 24
	maxName      = 40 // bytes
	others       = "other"
)

// tally is a report that can be added to.
type tally map[string]map[string]map[string]*Usage

// usage is where to add. A name that is too many, too long or none is another's.
func (t tally) usage(link, consumer, method string) *Usage {
	consumers := entry(t, link, maxLinks, newConsumers)
	methods := entry(consumers, consumer, maxConsumers, newMethods)
	return entry(methods, method, maxMethods, newUsage)
}

func (t tally) report() Report {
	report := make(Report, len(t))
	for name, consumers := range t {
		link := Link{Consumers: make(map[string]map[string]Usage, len(consumers))}
		most := int64(-1)
		for consumer, methods := range consumers {
			sum := int64(0)
			link.Consumers[consumer] = make(map[string]Usage, len(methods))
			for method, u := range methods {
				link.Consumers[consumer][method] = *u
				sum = plus(sum, plus(u.TotRx, u.TotTx))
			}
			if sum > most || sum == most && consumer < link.TopConsumer {
				most, link.TopConsumer = sum, consumer
			}
		}
		report[name] = link
	}
	return report
}

// plus stays at the largest number there is: a report that was read may have
// any.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func newConsumers() map[string]map[string]*Usage { return make(map[string]map[string]*Usage) }
func newMethods() map[string]*Usage              { return make(map[string]*Usage) }
func newUsage() *Usage                           { return new(Usage) }

// Report returns what was used so far, since Take if that was called.
func (m *Meter) Report() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.links.report()
}

// Take returns what was used since the last Take, and begins anew. The sum of
// all that it returns, see Report.Add, is what Report would return without it:
// of a request that is under way, the bytes so far are in this report's totals
// and the others in the next one's, and the request itself is in Num of the one
// in which it was sent. Its MaxRx and MaxTx are those of the whole request, also
// in the next report, and may be larger than the totals there.
func (m *Meter) Take() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	report := m.links.report()
	m.links = nil
	return report
}

// Add returns the sum of both, which stay as they are. The totals and numbers
// are added, of what a single request used the larger one counts. There are not
// more names than a Meter has.
func (r Report) Add(other Report) Report {
	sum := make(tally)
	for _, report := range []Report{r, other} {
		for _, link := range slices.Sorted(maps.Keys(report)) { // the same ones are "other" each time
			consumers := report[link].Consumers
			for _, consumer := range slices.Sorted(maps.Keys(consumers)) {
				for _, method := range slices.Sorted(maps.Keys(consumers[consumer])) {
					sum.usage(link, consumer, method).add(consumers[consumer][method])
				}
			}
		}
	}
	return sum.report()
}

func (u *Usage) add(other Usage) {
	u.TotRx, u.TotTx, u.Num = plus(u.TotRx, other.TotRx), plus(u.TotTx, other.TotTx), plus(u.Num, other.Num)
	u.MaxRx, u.MaxTx = max(u.MaxRx, other.MaxRx), max(u.MaxTx, other.MaxTx)
}

// add counts bytes and requests of x.
func (m *Meter) add(link string, x *exchange, rx, tx, num int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.links == nil {
		m.links = make(tally)
	}
	x.rx += rx
	x.tx += tx
	m.links.usage(link, x.consumer, x.method).add(Usage{TotRx: rx, MaxRx: x.rx, TotTx: tx, MaxTx: x.tx, Num: num})
}

// entry returns that of a name, which is made if there are less than max.
func entry[T any](m map[string]T, name string, max int, make func() T) T {
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "")
	}
	if name == "" || name == topConsumer {
		name = others
	}
	if v, ok := m[name]; ok {
		return v
	}
	if len(m) >= max-1 { // the last is for the others
		name = others
		if v, ok := m[name]; ok {
			return v
		}
	}
	m[name] = make()
	return m[name]
}

// exchange is a request and its answer, whose bytes are counted.
type exchange struct {
	meter            *Meter
	consumer, method string
	rx, tx           int64 // guarded by meter.mu
}

// begin returns a new exchange, nil if nothing is counted.
func (m *Meter) begin(consumer, method string) *exchange {
	if m == nil {
		return nil
	}
	return &exchange{meter: m, consumer: consumer, method: method}
}

// uses says that x is sent on c, whose bytes are its from now on.
func (x *exchange) uses(c net.Conn) {
	if conn := underlying(c); x != nil && conn != nil {
		conn.exchange.Store(x)
		x.meter.add(conn.link, x, 0, 0, 1)
	}
}

// Conn is a connection whose bytes are counted. It belongs below TLS.
type Conn struct {
	net.Conn
	link     string
	exchange atomic.Pointer[exchange] // nil: not counted
	stall    time.Duration            // for one Write; 0: as long as it takes
}

// Conn returns c with its bytes counted for consumer and method, such as that of
// connecting. It is for protocols other than HTTP. A nil Meter counts nothing.
func (m *Meter) Conn(c net.Conn, consumer, method string) *Conn {
	return count(c, m.begin(consumer, method))
}

func count(c net.Conn, x *exchange) *Conn {
	counted := &Conn{Conn: c}
	if x != nil {
		counted.link = linkOf(c.LocalAddr())
		counted.exchange.Store(x)
	}
	return counted
}

// Begin says that a request of this method begins, whose the bytes are from now
// on.
func (c *Conn) Begin(method string) {
	if x := c.exchange.Load(); x != nil {
		x.meter.begin(x.consumer, method).uses(c)
	}
}

func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if x := c.exchange.Load(); x != nil && n > 0 {
		x.meter.add(c.link, x, int64(n), 0, 0)
	}
	return n, err
}

func (c *Conn) Write(p []byte) (int, error) {
	if c.stall > 0 {
		c.Conn.SetWriteDeadline(time.Now().Add(c.stall))
	}
	n, err := c.Conn.Write(p)
	if x := c.exchange.Load(); x != nil && n > 0 {
		x.meter.add(c.link, x, 0, int64(n), 0)
	}
	return n, err
}

// linkOf returns the name of the network interface that has an address.
func linkOf(addr net.Addr) string {
	local, ok := addr.(*net.TCPAddr)
	if !ok {
		return others
	}
	links, err := net.Interfaces()
	if err != nil {
		return others
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			// fe80::1 may be that of several interfaces.
			if ip, ok := a.(*net.IPNet); ok && ip.IP.Equal(local.IP) && (local.Zone == "" || local.Zone == link.Name) {
				return link.Name
			}
		}
	}
	return others
}
