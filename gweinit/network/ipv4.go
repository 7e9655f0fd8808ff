package network

import (
	"bytes"
	"context"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/config"
)

// timings are how long things take; tests have shorter ones.
type timings struct {
	retry     time.Duration // RFC 2131, section 4.1: first wait for an answer,
	retryMost time.Duration // which doubles up to this one
	reply     time.Duration // wait for an answer while renewing
	renewGap  time.Duration // shortest time between attempts to renew
	fallback  time.Duration // without a lease until there is a link-local address
	shortest  time.Duration // lease

	probeGap    time.Duration // between probes for an address
	announceGap time.Duration
	defendGap   time.Duration // DEFEND_INTERVAL of RFC 5227
	declined    time.Duration // wait after a conflict: RFC 2131, section 3.1.5
	limited     time.Duration // wait after many: RATE_LIMIT_INTERVAL of RFC 5227
	static      time.Duration // first wait for a fixed address to become free

	kernelRetry time.Duration // first wait after a call of the kernel failed
}

var usual = timings{
	retry:     4 * time.Second,
	retryMost: 64 * time.Second,
	reply:     10 * time.Second,
	renewGap:  time.Minute,
	fallback:  16 * time.Second,
	shortest:  time.Minute,

	probeGap:    200 * time.Millisecond,
	announceGap: 2 * time.Second,
	defendGap:   10 * time.Second,
	declined:    10 * time.Second,
	limited:     time.Minute,
	static:      5 * time.Second,

	kernelRetry: time.Second,
}

// session is a goroutine that gets a link its IPv4 addresses, for as long as
// the link has a carrier. It only says which; the manager sets them.
type session struct {
	port
	timings
	log     *slog.Logger
	changed func() // tells the manager
	stop    context.CancelFunc

	mu  sync.Mutex
	now ipv4
}

// ipv4 is what a session has.
type ipv4 struct {
	state     string // such as "dhcp: bound"
	err       string // why there are none
	addresses []netip.Prefix
	conflicts map[netip.Addr]net.HardwareAddr // fixed addresses, and who has them
	lease     *lease                          // that of DHCP; not changed but replaced
	last      *lease                          // the one to ask for again
}

// method returns how an entry gets IPv4 addresses, and fixed ones.
func method(entry config.Link) (how string, fixed []netip.Prefix) {
	switch entry.IPv4 {
	case "":
		return config.DHCP, nil
	case config.Static:
		for _, p := range entry.Addresses {
			if p.IsValid() && p.Addr().Is4() {
				fixed = append(fixed, p)
			}
		}
	}
	return entry.IPv4, fixed
}

// start runs the session. It ends some time after ctx is done, and is silent
// from then on.
func (s *session) start(ctx context.Context, wg *sync.WaitGroup, how string, fixed []netip.Prefix, last *lease) {
	s.now = ipv4{state: how, last: last}
	ctx, s.stop = context.WithCancel(ctx)
	run := func(ctx context.Context) {}
	switch {
	case how == config.Static:
		run = func(ctx context.Context) { s.runStatic(ctx, fixed) }
	case !s.ethernet:
		s.now.err = "only an Ethernet link can do " + how
	case how == config.DHCP:
		run = s.runDHCP
	case how == config.LinkLocal:
		run = func(ctx context.Context) { s.runLinkLocal(ctx) }
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if s.survives(func() { run(ctx) }) {
				<-ctx.Done()
				return
			}
			s.update(func(now *ipv4) { *now = ipv4{state: how} })
			sleep(ctx, s.limited)
		}
	})
}

// survives runs f, and is false if it panicked, as foreign packets might cause.
func (s *session) survives(f func()) bool {
	err := survive(f)
	if err != nil {
		s.log.Error("network: session", "err", err)
	}
	return err == nil
}

// update changes what the session has, and tells the manager.
func (s *session) update(f func(now *ipv4)) {
	s.mu.Lock()
	f(&s.now)
	s.mu.Unlock()
	s.changed()
}

// current is safe to keep: update replaces what has changed.
func (s *session) current() ipv4 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// conflicts and solved say that another machine has a fixed address, and that
// it has it no more.
func (s *session) conflicts(a netip.Addr, holder net.HardwareAddr) {
	if !bytes.Equal(s.current().conflicts[a], holder) {
		s.log.Error("address conflict; give one of the machines another address", "address", a, "mac", holder.String())
		s.update(func(now *ipv4) {
			now.conflicts = maps.Clone(now.conflicts)
			if now.conflicts == nil {
				now.conflicts = map[netip.Addr]net.HardwareAddr{}
			}
			now.conflicts[a] = holder
		})
	}
}

func (s *session) solved(a netip.Addr) {
	if s.current().conflicts[a] != nil {
		s.log.Info("address conflict is over", "address", a)
		s.update(func(now *ipv4) {
			now.conflicts = maps.Clone(now.conflicts)
			delete(now.conflicts, a)
		})
	}
}

// runStatic has the addresses as soon as no other machine has them.
func (s *session) runStatic(ctx context.Context, fixed []netip.Prefix) {
	free := make([]bool, len(fixed)) // guarded by the lock of the session
	var wg sync.WaitGroup
	for i, p := range fixed {
		wg.Go(func() {
			s.survives(func() {
				if !s.waitFree(ctx, p.Addr()) {
					return
				}
				s.update(func(now *ipv4) {
					free[i] = true
					now.addresses = nil
					for i, p := range fixed { // in this order: the first is the usual source
						if free[i] {
							now.addresses = append(now.addresses, p)
						}
					}
				})
				s.defend(ctx, p.Addr(), true)
			})
		})
	}
	wg.Wait()
}

// waitFree waits until nobody has an address. It is false when ctx is done.
func (s *session) waitFree(ctx context.Context, a netip.Addr) bool {
	for wait := s.static; ; wait = min(2*wait, 12*s.static) {
		holder, err := s.probe(ctx, a)
		if ctx.Err() != nil {
			return false
		}
		if err != nil { // better an address with a risk than none
			s.log.Warn("look whether an address is free; it is used without", "address", a, "err", err)
		}
		if holder == nil {
			s.solved(a)
			return true
		}
		s.conflicts(a, holder)
		sleep(ctx, wait)
	}
}

// runLinkLocal has an address by RFC 3927, the same each time if it is free,
// until ctx is done.
func (s *session) runLinkLocal(ctx context.Context) {
	h := fnv.New64a()
	h.Write(s.mac)
	candidates := rand.New(rand.NewPCG(h.Sum64(), 0))
	for conflicts := 0; ctx.Err() == nil; conflicts++ {
		if conflicts >= 10 {
			sleep(ctx, s.limited)
		}
		n := candidates.IntN(254 * 256) // the first and the last 256 are reserved
		a := netip.AddrFrom4([4]byte{169, 254, byte(n/256 + 1), byte(n)})
		holder, err := s.probe(ctx, a)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Warn("look for a free link-local address", "err", err)
			sleep(ctx, s.static)
		}
		if holder != nil || err != nil {
			continue
		}
		s.update(func(now *ipv4) { now.addresses = []netip.Prefix{netip.PrefixFrom(a, 16)} })
		s.defend(ctx, a, false)
		if ctx.Err() == nil {
			s.update(func(now *ipv4) { now.addresses = nil })
		}
	}
}

// sleep waits, but not longer than ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
