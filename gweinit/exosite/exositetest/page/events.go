package page

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// changes is one message to a browser: what it has to ask for again. It has no
// values, so its size depends on neither reports nor how often they come.
type changes struct {
	// Devices has the aliases of the resources that have a new value; "" is for
	// the device itself.
	Devices map[string][]string `json:"devices,omitzero"`
	All     bool                `json:"all,omitzero"` // so many devices that they are not named
	Content bool                `json:"content,omitzero"`
}

// maxNamed is the number of devices that a message names.
const maxNamed = 100

// collector has the changes since the last message.
type collector struct {
	product string
	some    chan struct{} // holds a token if there are changes
	mu      sync.Mutex
	changes changes
}

func (c *collector) add(e cloud.Event) {
	if e.Product != c.product {
		return
	}
	c.mu.Lock()
	switch e.Kind {
	case cloud.ContentChanged:
		c.changes.Content = true
	case cloud.ProductChanged:
		c.changes = changes{All: true, Content: true}
	default:
		c.addDevice(e.SN, e.Alias)
	}
	c.mu.Unlock()
	select {
	case c.some <- struct{}{}:
	default:
	}
}

func (c *collector) addDevice(sn, alias string) {
	aliases, named := c.changes.Devices[sn]
	switch {
	case c.changes.All || slices.Contains(aliases, alias):
	case !named && len(c.changes.Devices) == maxNamed:
		c.changes.All, c.changes.Devices = true, nil
	default:
		if c.changes.Devices == nil {
			c.changes.Devices = map[string][]string{}
		}
		c.changes.Devices[sn] = append(aliases, alias)
	}
}

func (c *collector) take() changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.changes
	c.changes = changes{}
	return taken
}

// follow is a stream of server-sent events: "change" with changes, at most one
// each pace, and "beat" if there is none for long, so that the browser knows
// that it is connected.
func (p *page) follow(w http.ResponseWriter, r *http.Request) error {
	c := &collector{product: p.product, some: make(chan struct{}, 1)}
	defer p.cloud.Follow(c.add)()
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	send := func(kind string, v any) error {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		// The server's limit is for answers that have an end.
		control.SetWriteDeadline(time.Now().Add(p.beat))
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data); err != nil {
			return err
		}
		return control.Flush()
	}
	control.SetReadDeadline(time.Time{})
	if send("beat", p.cloud.Now()) != nil {
		return nil // the browser has gone
	}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-time.After(p.beat):
			if send("beat", p.cloud.Now()) != nil {
				return nil
			}
		case <-c.some:
			if send("change", c.take()) != nil {
				return nil
			}
			select {
			case <-r.Context().Done():
				return nil
			case <-time.After(p.pace):
			}
		}
	}
}
