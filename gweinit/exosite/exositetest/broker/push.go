package broker

import (
	"cmp"
	"slices"
	"strconv"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// mailbox is what goes to the sessions of one device. Each device has its own, so
// that one that does not read is not waited for by the others.
type mailbox struct {
	// mu is held while a session begins or ends, and for a push. In between the
	// library loses messages, and with a client ID that comes back the session.
	mu sync.Mutex

	queue   []cloud.Event // of the hook's mu, as pushing
	pushing bool
}

// mailbox finds or makes the one of a device. The hook's mu is held.
func (h *hook) mailbox(space string) *mailbox {
	m := h.mailboxes[space]
	if m == nil {
		m = &mailbox{}
		h.mailboxes[space] = m
	}
	return m
}

// changed is called with what changes in the cloud.
func (h *hook) changed(e cloud.Event) {
	switch {
	case e.Kind == cloud.ValueChanged && e.Set:
		d, err := h.cloud.Device(e.Product, e.SN)
		if err != nil {
			return // it has been removed
		}
		space := spaceOf(d.RID)
		h.mu.Lock()
		defer h.mu.Unlock()
		m := h.mailbox(space)
		switch {
		case h.closed:
		case len(m.queue) >= maxWaiting:
			h.log.Warn("a push is dropped: the device does not read", "product", e.Product, "serial", e.SN, "alias", e.Alias)
		default:
			m.queue = append(m.queue, e)
			if !m.pushing {
				m.pushing = true
				h.pushes.Go(func() { h.push(space, m) })
			}
		}
	case e.Kind == cloud.DeviceChanged, e.Kind == cloud.ProductChanged:
		h.endInvalid(e)
	}
}

// push empties a mailbox.
func (h *hook) push(space string, m *mailbox) {
	for {
		h.mu.Lock()
		if len(m.queue) == 0 || h.closed {
			m.queue, m.pushing = nil, false
			h.mu.Unlock()
			return
		}
		e := m.queue[0]
		m.queue = m.queue[1:]
		h.mu.Unlock()
		m.mu.Lock()
		err := h.server.Publish(space+resourceTopic+e.Alias+"/"+strconv.FormatInt(e.Time.UnixMicro(), 10), []byte(e.Value), false, 1)
		m.mu.Unlock()
		if err != nil {
			h.log.Error("push by MQTT", "product", e.Product, "serial", e.SN, "alias", e.Alias, "error", err)
		}
	}
}

// close ends pushes. Connections are closed before: one may be waited for.
func (h *hook) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.pushes.Wait()
}

// inOrder numbers what waits for a session from 1. The library sends it by the low
// 16 bits of Created, which is our number of the push; its seconds would be the
// same for most, and they would come in any order. What is not a push is an answer
// that could not be sent: the client will ask again.
func inOrder(c *mqtt.Client) {
	waiting := c.State.Inflight.GetAll(false)
	slices.SortFunc(waiting, func(a, b packets.Packet) int { return cmp.Compare(a.Created, b.Created) })
	for i, pk := range waiting {
		if pk.FixedHeader.Type != packets.Publish {
			c.State.Inflight.Delete(pk.PacketID)
			continue
		}
		pk.Created = int64(i + 1)
		c.State.Inflight.Set(pk)
	}
}

// endInvalid ends sessions whose credential is no longer valid.
func (h *hook) endInvalid(e cloud.Event) {
	var over []*link
	h.mu.Lock()
	for l := range h.links {
		if s := l.session; s.device != nil && s.device.Product() == e.Product && (e.SN == "" || s.device.SN() == e.SN) && !h.valid(s) {
			over = append(over, l)
		}
	}
	h.mu.Unlock()
	for _, l := range over {
		h.end(l, errEnded)
	}
}

// valid tells whether a session's credential still is the device's.
func (h *hook) valid(s *session) bool {
	d, ok := h.cloud.ByCIK(s.token)
	if s.token == "" {
		d, ok = h.cloud.ByCertificate(s.cert)
	}
	return ok && d.Product() == s.device.Product() && d.SN() == s.device.SN()
}
