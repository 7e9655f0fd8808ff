package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/config"
)

// Stories run in processes of their own, each in its own network namespace with
// another one for the servers at the other ends of the cables. They wait more
// than they work, so all run at the same time.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" { // which works more than it waits
		flag.Set("test.parallel", "64")
	}
	os.Exit(m.Run())
}

const storyVariable = "NETWORK_STORY"

// story runs a test in a world.
func story(t *testing.T, tell func(*world)) {
	t.Helper()
	if os.Getenv(storyVariable) != "" {
		tell(newWorld(t))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=90s")
	c.Env = append(os.Environ(), storyVariable+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS, Pdeathsig: unix.SIGKILL}
	out, err := c.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	case testing.Verbose():
		t.Logf("%s", out)
	}
}

// world is a gateway and what its links are plugged into.
type world struct {
	*testing.T
	*Manager
	dir    string
	server *namespace
	stop   func()

	mu   sync.Mutex
	told []Status
}

// brief timings make a story short.
var brief = timings{
	retry:     300 * time.Millisecond,
	retryMost: 2 * time.Second,
	reply:     500 * time.Millisecond,
	renewGap:  200 * time.Millisecond,
	fallback:  1200 * time.Millisecond,
	shortest:  time.Second,

	probeGap:    40 * time.Millisecond,
	announceGap: 50 * time.Millisecond,
	defendGap:   time.Second,
	declined:    300 * time.Millisecond,
	limited:     2 * time.Second,
	static:      200 * time.Millisecond,

	kernelRetry: 100 * time.Millisecond,
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, dir: t.TempDir(), server: newNamespace(t)}
	w.Manager = New(Options{
		Log:        slog.New(slog.NewTextHandler(logWriter{t}, nil)),
		ResolvConf: filepath.Join(w.dir, "resolv.conf"),
		Changed: func(s Status) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, s)
		},
	})
	w.timings = brief
	w.must(unix.Sethostname([]byte("gw-17")))
	return w
}

// logWriter has the time of each line, too, in a test's log.
type logWriter struct{ t *testing.T }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s %s", time.Now().Format("05.000"), bytes.TrimSpace(b))
	return len(b), nil
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// run starts the manager.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.Manager.Run(ctx); close(done) }()
	w.stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(limit):
			buf := make([]byte, 1<<20)
			w.Errorf("Run does not end:\n%s", buf[:runtime.Stack(buf, true)])
		}
	}
	w.Cleanup(func() { w.stop() })
}

// limit is longer than anything takes, also when the machine is busy and the
// kernel, which makes and removes many namespaces here, takes its time.
const limit = 40 * time.Second

// until waits for a status.
func (w *world) until(what string, is func(Status) bool) Status {
	w.Helper()
	start := time.Now()
	for {
		s := w.Status()
		if is(s) {
			w.Logf("%s %s, after %v", time.Now().Format("05.000"), what, time.Since(start).Round(time.Millisecond))
			return s
		}
		if time.Since(start) > limit {
			text, _ := json.MarshalIndent(s, "", " ")
			w.Fatalf("not within %v: %s\n%s\n%s", limit, what, text, w.routes())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// link returns the status of a link; the zero value if it has none.
func (s Status) link(name string) LinkStatus {
	for _, l := range s.Links {
		if l.Name == name {
			return l
		}
	}
	return LinkStatus{}
}

// has says whether a link has these addresses, and no others of IPv4.
func (l LinkStatus) has(addresses ...string) bool {
	var all []string
	for _, a := range l.Addresses {
		if a.Addr().Is4() {
			all = append(all, a.String())
		}
	}
	return slices.Equal(all, addresses)
}

// routes returns the IPv4 routes of the main table.
func (w *world) routes() string {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	w.must(err)
	var lines []string
	for _, n := range list {
		r := toRoute(n)
		l, err := netlink.LinkByIndex(r.link)
		if err != nil {
			continue
		}
		line := fmt.Sprintf("%v", r.to)
		if r.gateway.IsValid() {
			line += " via " + r.gateway.String()
		}
		if r.onLink {
			line += " onlink"
		}
		line += fmt.Sprintf(" dev %s metric %d", l.Attrs().Name, r.metric)
		if r.mtu != 0 {
			line += fmt.Sprintf(" mtu %d", r.mtu)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// hasRoutes waits until the routes are these.
func (w *world) hasRoutes(lines ...string) {
	w.Helper()
	want := strings.Join(slices.Sorted(slices.Values(lines)), "\n")
	var got string
	for start := time.Now(); time.Since(start) < limit; time.Sleep(10 * time.Millisecond) {
		if got = w.routes(); got == want {
			return
		}
	}
	w.Errorf("routes:\n%s\nwant:\n%s", got, want)
}

func (w *world) resolvConf() string {
	text, err := os.ReadFile(w.o.ResolvConf)
	w.must(err)
	_, rest, _ := strings.Cut(string(text), "\n") // a comment
	return rest
}

// namespace is one of the network, with a thread in it.
type namespace struct {
	t     testing.TB
	calls chan func()
	fd    int
}

func newNamespace(t testing.TB) *namespace {
	n := &namespace{t: t, calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for f := range n.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(n.calls); unix.Close(n.fd) })
	n.do(func() error { return n.up("lo") })
	return n
}

// do runs f there; it may leave sockets and processes.
func (n *namespace) do(f func() error) {
	n.t.Helper()
	done := make(chan error)
	n.calls <- func() { done <- f() }
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

// up is for use in do.
func (n *namespace) up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func (n *namespace) addAddress(name, prefix string) {
	n.t.Helper()
	n.do(func() error { return addAddress(name, prefix) })
}

func addAddress(name, prefix string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrReplace(l, a)
}

func (n *namespace) removeAddress(name, prefix string) {
	n.t.Helper()
	n.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		return netlink.AddrDel(l, a)
	})
}

// plug and pull the end of a cable.
func (n *namespace) plug(name string) {
	n.t.Helper()
	n.do(func() error { return n.up(name) })
}

func (n *namespace) pull(name string) {
	n.t.Helper()
	n.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(l)
	})
}

// cable makes a link of the gateway's, whose other end in the server's
// namespace has the same name; that has these addresses, and is up.
func (w *world) cable(name string, addresses ...string) {
	w.Helper()
	l := netlink.NewLinkAttrs()
	l.Name = name
	w.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: l, PeerName: name, PeerNamespace: netlink.NsFd(w.server.fd)}))
	for _, a := range addresses {
		w.server.addAddress(name, a)
	}
	w.server.plug(name)
}

// bridge connects the other ends of cables.
func (w *world) bridge(name string, ends ...string) {
	w.server.do(func() error {
		l := netlink.NewLinkAttrs()
		l.Name = name
		b := &netlink.Bridge{LinkAttrs: l}
		if err := netlink.LinkAdd(b); err != nil {
			return err
		}
		for _, end := range ends {
			e, err := netlink.LinkByName(end)
			if err == nil {
				err = netlink.LinkSetMaster(e, b)
			}
			if err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(b)
	})
}

// listen has an address of the server's take TCP connections.
func (w *world) listen(address string) {
	w.Helper()
	w.server.do(func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "80"))
		if err != nil {
			return err
		}
		w.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		return nil
	})
}

// reaches connects, and returns the gateway's address that it used.
func (w *world) reaches(address string) string {
	w.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(address, "80"), 3*time.Second)
	if err != nil {
		w.Error(err)
		return ""
	}
	defer c.Close()
	return c.LocalAddr().(*net.TCPAddr).IP.String()
}

// dnsmasq starts the real one in the server's namespace.
func (w *world) dnsmasq(args ...string) (stop func()) {
	w.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		if _, err = os.Stat("/usr/sbin/dnsmasq"); err != nil {
			w.Fatal("there is no dnsmasq (package dnsmasq-base): run make setup")
		}
		path = "/usr/sbin/dnsmasq"
	}
	c := exec.Command(path, append([]string{
		"--no-daemon", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--port=0", "--log-dhcp",
		"--dhcp-leasefile=" + filepath.Join(w.dir, "leases"), "--dhcp-authoritative",
	}, args...)...)
	c.Stderr = logWriter{w.T}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	w.server.do(c.Start) // it gets the namespace of the thread
	stop = sync.OnceFunc(func() { c.Process.Kill(); c.Wait() })
	w.Cleanup(stop)
	return stop
}

// dhcpServer is one that does what a story needs.
type dhcpServer struct {
	w    *world
	link string
	conn *net.UDPConn
	self net.IP

	mu       sync.Mutex
	answer   func(m, reply *dhcpv4.DHCPv4) bool // false: silence
	received []*dhcpv4.DHCPv4
	direct   int // messages that were not broadcast
}

// dhcp starts a server at a link; it gives the address that answer sets.
func (w *world) dhcp(link, self string, answer func(m, reply *dhcpv4.DHCPv4) bool) *dhcpServer {
	w.Helper()
	d := &dhcpServer{w: w, link: link, self: net.ParseIP(self).To4(), answer: answer}
	w.server.do(func() error {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			c.Control(func(fd uintptr) {
				err = errors.Join(
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
					unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
					unix.BindToDevice(int(fd), link),
				)
			})
			return err
		}}
		conn, err := config.ListenPacket(context.Background(), "udp4", ":67")
		if err == nil {
			d.conn = conn.(*net.UDPConn)
		}
		return err
	})
	done := make(chan struct{})
	go func() { d.serve(); close(done) }()
	w.Cleanup(func() { d.conn.Close(); <-done })
	return d
}

func (d *dhcpServer) serve() {
	buf, control := make([]byte, 2048), make([]byte, 128)
	for {
		n, nc, _, _, err := d.conn.ReadMsgUDP(buf, control)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			d.w.Errorf("the server got: %v", err)
			continue
		}
		reply, _ := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithServerIP(d.self))
		reply.UpdateOption(dhcpv4.OptServerIdentifier(d.self))
		switch m.MessageType() {
		case dhcpv4.MessageTypeDiscover:
			reply.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer))
		case dhcpv4.MessageTypeRequest:
			reply.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeAck))
		}
		d.mu.Lock()
		d.received = append(d.received, m)
		if cm, err := unix.ParseSocketControlMessage(control[:nc]); err == nil && len(cm) > 0 {
			if string(cm[0].Data[8:12]) != "\xff\xff\xff\xff" { // ipi_addr
				d.direct++
			}
		}
		answers := d.answer(m, reply)
		d.mu.Unlock()
		// A request names the server that is meant.
		id := m.ServerIdentifier()
		if !answers || id != nil && !id.Equal(d.self) || m.MessageType() == dhcpv4.MessageTypeDecline {
			continue
		}
		to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
		if !m.ClientIPAddr.IsUnspecified() && reply.MessageType() != dhcpv4.MessageTypeNak {
			to.IP = m.ClientIPAddr
		}
		d.conn.WriteTo(reply.ToBytes(), to)
	}
}

// now changes what the server answers.
func (d *dhcpServer) now(answer func(m, reply *dhcpv4.DHCPv4) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

// got returns what messages of a type have come, and how many of all messages
// not by broadcast.
func (d *dhcpServer) got(t dhcpv4.MessageType) (list []*dhcpv4.DHCPv4, direct int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.received {
		if m.MessageType() == t {
			list = append(list, m)
		}
	}
	return list, d.direct
}

// lends makes an answer with an address.
func lends(prefix string, seconds int, options ...dhcpv4.Option) func(m, reply *dhcpv4.DHCPv4) bool {
	p := netip.MustParsePrefix(prefix)
	return func(_, reply *dhcpv4.DHCPv4) bool {
		reply.YourIPAddr = toIP(p.Addr())
		reply.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(p.Bits(), 32)))
		reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(time.Duration(seconds) * time.Second))
		for _, o := range options {
			reply.UpdateOption(o)
		}
		return true
	}
}

func refuses(_, reply *dhcpv4.DHCPv4) bool {
	reply.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
	return true
}

func isSilent(_, _ *dhcpv4.DHCPv4) bool { return false }

func router(a string) dhcpv4.Option { return dhcpv4.OptRouter(net.ParseIP(a).To4()) }

// other is another machine at the server's end of a link, with a MAC of its
// own.
type other struct {
	*world
	port
	conn *packet.Conn
}

func (w *world) other(link string) *other {
	w.Helper()
	o := &other{world: w}
	w.server.do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		o.port = port{index: l.Attrs().Index, name: link, mac: net.HardwareAddr{2, 0, 0, 0, 0, 99}}
		o.conn, err = o.port.listen(unix.ETH_P_ARP, []bpf.Instruction{bpf.RetConstant{Val: 64}})
		return err
	})
	w.Cleanup(func() { o.conn.Close() })
	return o
}

// says sends ARP as if the machine had the address.
func (o *other) says(a string) {
	c := arpConn{o.conn, &o.port, netip.MustParseAddr(a)}
	o.must(c.send(c.addr))
}

func entry(name, how string, addresses ...string) config.Link {
	l := config.Link{Name: name, IPv4: how, IPv6: config.Off}
	for _, a := range addresses {
		p := netip.MustParsePrefix(a)
		l.Addresses = append(l.Addresses, p)
		if p.Addr().Is6() {
			l.IPv6 = config.Auto
		}
	}
	return l
}

func network(l ...config.Link) config.Network { return config.Network{Links: l} }
