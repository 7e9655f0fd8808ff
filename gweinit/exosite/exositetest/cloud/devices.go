package cloud

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Serial is a serial number, and what the owner wants to know with it.
type Serial struct{ SN, Extra string }

// Status is how far a device has got.
type Status string

// A serial number is unused until it is enabled for the first time.
const (
	Unused       Status = "unused"
	NotActivated Status = "notactivated"
	Activated    Status = "activated"
	Disabled     Status = "disabled"
)

// DeviceInfo is what the owner sees of a device.
type DeviceInfo struct {
	Product, SN, Extra string
	RID                string // of its client; "" if unused
	Status             Status
	CIK                string // "" if there is no valid one
	Activated, Seen    time.Time
}

// LogEntry is an event in the life of a serial number.
type LogEntry struct {
	Time time.Time
	From string // address of who did it
	Text string
}

// AddSerials allows devices with these serial numbers in a product. They still
// have to be enabled. Of several all are added or none.
func (c *Cloud) AddSerials(product string, serials ...Serial) error {
	return c.change(func() (op, error) {
		p, err := c.product(product)
		if err != nil {
			return op{}, err
		}
		o := op{Op: opSerials, Product: product}
		seen := map[string]bool{}
		for _, s := range serials {
			switch {
			case s.SN == "" || !isText(s.SN):
				return op{}, fmt.Errorf("serial number %.64q: %w, want 1 to %d printable characters, no comma", s.SN, ErrInvalid, maxText)
			case !isText(s.Extra):
				return op{}, fmt.Errorf("extra information %.64q of serial number %s: %w, want at most %d printable characters, no comma", s.Extra, s.SN, ErrInvalid, maxText)
			case p.serials[s.SN] != nil || seen[s.SN]:
				return op{}, fmt.Errorf("serial number %s %w", s.SN, ErrExists)
			}
			seen[s.SN] = true
			o.Serials = append(o.Serials, serialState{SN: s.SN, Extra: s.Extra})
		}
		return o, nil
	})
}

// RemoveSerials removes devices with their data: all or none.
func (c *Cloud) RemoveSerials(product string, sns ...string) error {
	return c.change(func() (op, error) {
		for _, sn := range sns {
			if _, err := c.serial(product, sn); err != nil {
				return op{}, err
			}
		}
		return op{Op: opNoSerials, Product: product, SNs: sns}, nil
	})
}

// Enable allows a device one activation. A CIK that it has is no longer valid.
// from is where the owner's request came from.
func (c *Cloud) Enable(product, sn, from string) error {
	return c.change(func() (op, error) {
		s, err := c.serial(product, sn)
		if err != nil {
			return op{}, err
		}
		o := op{Op: opEnable, Product: product, SN: sn, From: from, Time: micros(c.now())}
		if s.client == nil {
			o.RID = newRID()
		}
		return o, nil
	})
}

// Disable ends a device's CIK until it is enabled and activated again.
func (c *Cloud) Disable(product, sn, from string) error {
	return c.change(func() (op, error) {
		_, err := c.serial(product, sn)
		return op{Op: opDisable, Product: product, SN: sn, From: from, Time: micros(c.now())}, err
	})
}

// Replace gives the client of a broken unit, with its data, to another one,
// which is enabled for activation. The old one's CIK is no longer valid.
func (c *Cloud) Replace(product, sn, old, from string) error {
	return c.change(func() (op, error) {
		s, err := c.serial(product, sn)
		if err != nil {
			return op{}, err
		}
		o, err := c.serial(product, old)
		switch {
		case err != nil:
			return op{}, err
		case o.client == nil:
			return op{}, fmt.Errorf("serial number %s has no data: %w", old, ErrUnknown)
		case s.client != nil:
			return op{}, fmt.Errorf("a device with serial number %s %w", sn, ErrExists)
		}
		return op{Op: opReplace, Product: product, SN: sn, Old: old, From: from, Time: micros(c.now())}, nil
	})
}

// Devices are those of a product, by serial number; none for an unknown one.
func (c *Cloud) Devices(product string) []DeviceInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.products[product]
	if p == nil {
		return nil
	}
	list := make([]DeviceInfo, 0, len(p.serials))
	for _, s := range p.serials {
		list = append(list, s.info())
	}
	slices.SortFunc(list, func(a, b DeviceInfo) int { return cmp.Compare(a.SN, b.SN) })
	return list
}

// Device has one device.
func (c *Cloud) Device(product, sn string) (DeviceInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.serial(product, sn)
	if err != nil {
		return DeviceInfo{}, err
	}
	return s.info(), nil
}

func (s *serial) info() DeviceInfo {
	i := DeviceInfo{Product: s.product, SN: s.sn, Extra: s.extra, Status: NotActivated}
	if s.client != nil {
		i.RID, i.CIK, i.Activated, i.Seen = s.client.rid, s.client.cik, s.client.activated, s.client.seen
	}
	switch {
	case s.disabled:
		i.Status = Disabled
	case s.client == nil:
		i.Status = Unused
	case s.client.cik != "":
		i.Status = Activated
	}
	return i
}

// Log has what happened to a serial number, the newest at the end.
func (c *Cloud) Log(product, sn string) ([]LogEntry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.serial(product, sn)
	if err != nil {
		return nil, err
	}
	return slices.Clone(s.log), nil
}

const maxLog = 50

func (s *serial) note(o op, text string) {
	if len(s.log) == maxLog {
		s.log = slices.Delete(s.log, 0, 1)
	}
	s.log = append(s.log, LogEntry{fromMicros(o.Time), o.From, text})
}

// Device is one that has shown its credential.
type Device struct {
	c           *Cloud
	client      *client
	cik, cert   string // at that time
	product, sn string
}

// check tells whether the credential is still valid: the device may have been
// removed, disabled, replaced or enabled again. The Cloud's mu is held.
func (d *Device) check() error {
	if d.c.byRID[d.client.rid] != d.client || d.client.cik != d.cik || d.client.cert != d.cert {
		return fmt.Errorf("the credential of serial number %s of product %s is no longer valid: %w", d.sn, d.product, ErrUnknown)
	}
	return nil
}

// Product is the one that it belongs to.
func (d *Device) Product() string { return d.product }

// SN is its serial number.
func (d *Device) SN() string { return d.sn }

// Activate gives a device that is enabled its CIK, once. If the device has a
// certificate, cert, the SHA-256 of it, is another credential from now on.
func (c *Cloud) Activate(product, sn, from string, cert []byte) (cik string, err error) {
	err = c.change(func() (op, error) {
		s, err := c.serial(product, sn)
		if err != nil {
			return op{}, err
		}
		if !s.enabled || s.disabled {
			return op{}, fmt.Errorf("serial number %s of product %s: %w", sn, product, ErrNotEnabled)
		}
		cik = newCIK()
		return op{Op: opActivate, Product: product, SN: sn, CIK: cik, Cert: cert, From: from, Time: micros(c.now())}, nil
	})
	return cik, err
}

// ByCIK finds the device with a valid credential.
func (c *Cloud) ByCIK(cik string) (*Device, bool) { return c.authenticated(c.byCIK, cik) }

// ByCertificate finds the device that was activated with the certificate of
// which sum is the SHA-256.
func (c *Cloud) ByCertificate(sum []byte) (*Device, bool) {
	return c.authenticated(c.byCert, string(sum))
}

func (c *Cloud) authenticated(by map[string]*client, key string) (*Device, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := by[key]
	if cl == nil || key == "" {
		return nil, false
	}
	cl.seen = c.now()
	return &Device{c: c, client: cl, cik: cl.cik, cert: cl.cert, product: cl.serial.product, sn: cl.serial.sn}, true
}
