package cloud

import (
	"sync"
	"time"
)

// Event is a change of the state.
type Event struct {
	Kind               EventKind
	Product, SN, Alias string
	Value              string
	Time               time.Time // of the value
	Set                bool      // the product's side set the value, not the device
}

// EventKind says what has changed.
type EventKind string

// A device changes when it is added, removed, enabled, disabled, activated or
// replaced.
const (
	ProductChanged EventKind = "product"
	DeviceChanged  EventKind = "device"
	ValueChanged   EventKind = "value"
	ContentChanged EventKind = "content"
)

// Follow calls f for each change from now on, one after the other, in their
// order. f may take its time and call the Cloud. stop does not wait for a call
// that has begun; no other follows it.
func (c *Cloud) Follow(f func(Event)) (stop func()) {
	feed := &feed{wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.mu.Lock()
	c.feeds[feed] = true
	c.mu.Unlock()
	go feed.run(f)
	return func() {
		c.mu.Lock()
		delete(c.feeds, feed)
		c.mu.Unlock()
		feed.close()
	}
}

// feed is the queue of one follower. It has no limit: no event may be lost,
// and a follower that never comes to its end is a bug.
type feed struct {
	mu     sync.Mutex
	queue  []Event
	closed bool
	wake   chan struct{}
	done   chan struct{}
}

func (f *feed) add(events []Event) {
	f.mu.Lock()
	f.queue = append(f.queue, events...)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.done)
	}
}

func (f *feed) run(call func(Event)) {
	for {
		f.mu.Lock()
		queue := f.queue
		f.queue = nil
		f.mu.Unlock()
		for _, e := range queue {
			select {
			case <-f.done:
				return
			default:
				call(e)
			}
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-f.wake:
		case <-f.done:
			return
		}
	}
}

// publish tells the followers of a change that has been made.
func (c *Cloud) publish(o op) {
	if len(c.feeds) == 0 {
		return
	}
	var events []Event
	switch o.Op {
	case opProduct, opNoProduct:
		events = []Event{{Kind: ProductChanged, Product: o.Product}}
	case opContent, opNoContent:
		events = []Event{{Kind: ContentChanged, Product: o.Product}}
	case opPoints:
		s := c.byRID[o.RID].serial
		for _, p := range o.Points {
			events = append(events, Event{ValueChanged, s.product, s.sn, p.Alias, p.Value, fromMicros(p.Time), o.Set})
		}
	default:
		sns := o.SNs
		for _, s := range o.Serials {
			sns = append(sns, s.SN)
		}
		for _, sn := range append(sns, o.SN, o.Old) {
			if sn != "" {
				events = append(events, Event{Kind: DeviceChanged, Product: o.Product, SN: sn})
			}
		}
	}
	for f := range c.feeds {
		f.add(events)
	}
}
