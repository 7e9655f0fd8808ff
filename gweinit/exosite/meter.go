package exosite

import (
	"encoding/json"
	"net"
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
	links map[string]map[string]map[string]*Usage
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

// A report stays small whatever consumers call themselves: those above the
// limits are one.
const (
	maxLinks     = 16
	maxConsumers = 32
	maxMethods   = 24
	maxName      = 40 // bytes
	others       = "other"
)

// Report returns what was used so far.
func (m *Meter) Report() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	report := make(Report, len(m.links))
	for name, consumers := range m.links {
		link := Link{Consumers: make(map[string]map[string]Usage, len(consumers))}
		most := int64(-1)
		for consumer, methods := range consumers {
			sum := int64(0)
			link.Consumers[consumer] = make(map[string]Usage, len(methods))
			for method, u := range methods {
				link.Consumers[consumer][method] = *u
				sum += u.TotRx + u.TotTx
			}
			if sum > most || sum == most && consumer < link.TopConsumer {
				most, link.TopConsumer = sum, consumer
			}
		}
		report[name] = link
	}
	return report
}

// add counts bytes and requests of x.
func (m *Meter) add(link string, x *exchange, rx, tx, num int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.links == nil {
		m.links = make(map[string]map[string]map[string]*Usage)
	}
	consumers := entry(m.links, link, maxLinks, newConsumers)
	methods := entry(consumers, x.consumer, maxConsumers, newMethods)
	u := entry(methods, x.method, maxMethods, newUsage)
	x.rx += rx
	x.tx += tx
	u.TotRx += rx
	u.TotTx += tx
	u.MaxRx = max(u.MaxRx, x.rx)
	u.MaxTx = max(u.MaxTx, x.tx)
	u.Num += num
}

func newConsumers() map[string]map[string]*Usage { return make(map[string]map[string]*Usage) }
func newMethods() map[string]*Usage              { return make(map[string]*Usage) }
func newUsage() *Usage                           { return new(Usage) }

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
