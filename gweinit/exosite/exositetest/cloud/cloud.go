// Package cloud is what Exosite keeps, for the emulator: products, their
// devices with credentials and time series, and content. It has no network.
//
// All of it is in memory, and each change in a journal in a folder, so that it
// is there again after a restart, and after a crash of the process.
package cloud

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/spec"
)

var (
	// ErrUnknown is for products, serial numbers, resources and content that are
	// not there.
	ErrUnknown = errors.New("unknown")
	// ErrExists is for what is there already.
	ErrExists = errors.New("is there already")
	// ErrNotEnabled is for devices that may not be activated, for instance
	// because they are.
	ErrNotEnabled = errors.New("not enabled for activation")
	// ErrForbidden is for resources that the product's side may not set.
	ErrForbidden = errors.New("not settable")
	// ErrInvalid is for names and values that cannot be.
	ErrInvalid = errors.New("not valid")
)

// Options say what a Cloud is.
type Options struct {
	Dir       string           // where the state lives; "": a temporary folder, removed by Close
	Resources []spec.Resource  // of each device; nil: spec.GWE()
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: none
}

// Cloud is safe for concurrent use.
type Cloud struct {
	dir       string
	temporary bool
	resources []spec.Resource
	byAlias   map[string]int // index in resources
	now       func() time.Time
	log       *slog.Logger

	mu       sync.Mutex
	journal  *journal
	owner    string
	products map[string]*product
	byRID    map[string]*client
	byCIK    map[string]*client
	byCert   map[string]*client // by the certificate's SHA-256
	lastFile int64              // number of the newest content file
	feeds    map[*feed]bool
}

type product struct {
	serials  map[string]*serial
	contents map[string]*Content
}

// serial is a serial number that may belong to a device of a product.
type serial struct {
	product, sn, extra string
	enabled            bool // allows one activation
	disabled           bool
	client             *client // nil as long as it has never been enabled
	log                []LogEntry
}

// client is a device's account: its credential and data. A replacement unit
// takes it over.
type client struct {
	rid       string
	cik       string // "" if there is no valid one
	cert      string
	serial    *serial
	activated time.Time
	seen      time.Time
	series    []series // one for each of the resources
	none      series   // for those who wait for others
	// others are series of resources that this Cloud does not have, but an earlier
	// one with the same folder had.
	others map[string]*series
}

// Open takes up the state in o.Dir, or begins with none. The error says what is
// wrong with the folder, for instance that another process uses it.
func Open(o Options) (*Cloud, error) {
	c := empty(o)
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "exosite-")
		if err != nil {
			return nil, err
		}
		c.dir, c.temporary = dir, true
	}
	if err := c.load(); err != nil {
		if c.temporary {
			os.RemoveAll(c.dir)
		}
		return nil, err
	}
	if c.owner == "" {
		if err := c.SetOwner(newCIK()); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// empty is a Cloud without a state and a folder.
func empty(o Options) *Cloud {
	c := &Cloud{
		dir: o.Dir, resources: o.Resources, byAlias: map[string]int{}, now: o.Now, log: o.Log,
		products: map[string]*product{}, byRID: map[string]*client{}, byCIK: map[string]*client{}, byCert: map[string]*client{}, feeds: map[*feed]bool{},
	}
	if c.resources == nil {
		c.resources = spec.GWE()
	}
	for i, r := range c.resources {
		c.byAlias[r.Alias] = i
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Close ends all followers. Devices that wait go on to wait for their contexts.
func (c *Cloud) Close() error {
	c.mu.Lock()
	for f := range c.feeds {
		f.close()
	}
	clear(c.feeds)
	err := c.journal.close()
	c.mu.Unlock()
	if c.temporary {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}

// Now is the cloud's time.
func (c *Cloud) Now() time.Time { return c.now() }

// Resources are what each device has.
func (c *Cloud) Resources() []spec.Resource { return slices.Clone(c.resources) }

// Owner is the credential of the product's side.
func (c *Cloud) Owner() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owner
}

// SetOwner changes it.
func (c *Cloud) SetOwner(cik string) error {
	if len(cik) != cikSize || !isName(cik) {
		return fmt.Errorf("an owner's CIK of %d characters: %w, want %d letters and digits", len(cik), ErrInvalid, cikSize)
	}
	return c.change(func() (op, error) { return op{Op: opOwner, CIK: cik}, nil })
}

// Products has their IDs, sorted.
func (c *Cloud) Products() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id := range c.products {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// CreateProduct makes a product without devices and content.
func (c *Cloud) CreateProduct(id string) error {
	return c.change(func() (op, error) {
		switch {
		case !isProduct(id):
			return op{}, fmt.Errorf("product %.64q: %w, want 1 to 63 letters, digits, - and _", id, ErrInvalid)
		case c.products[id] != nil:
			return op{}, fmt.Errorf("product %s %w", id, ErrExists)
		}
		return op{Op: opProduct, Product: id}, nil
	})
}

// DeleteProduct also deletes its devices and content.
func (c *Cloud) DeleteProduct(id string) error {
	return c.change(func() (op, error) {
		if _, err := c.product(id); err != nil {
			return op{}, err
		}
		return op{Op: opNoProduct, Product: id}, nil
	})
}

// change makes one change of the state: decide, under the lock, says which.
func (c *Cloud) change(decide func() (op, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, err := decide()
	if err != nil {
		return err
	}
	return c.commit(o)
}

// commit writes a change into the journal and makes it.
func (c *Cloud) commit(o op) error {
	if err := c.journal.append(o); err != nil {
		return err
	}
	if err := c.apply(o); err != nil {
		return err
	}
	c.publish(o)
	if c.journal.isLong() {
		return c.journal.rewrite(c.dump)
	}
	return nil
}

func (c *Cloud) product(id string) (*product, error) {
	p := c.products[id]
	if p == nil {
		return nil, fmt.Errorf("product %.64q: %w", id, ErrUnknown)
	}
	return p, nil
}

func (c *Cloud) serial(product, sn string) (*serial, error) {
	p, err := c.product(product)
	if err != nil {
		return nil, err
	}
	s := p.serials[sn]
	if s == nil {
		return nil, fmt.Errorf("serial number %.64q of product %s: %w", sn, product, ErrUnknown)
	}
	return s, nil
}

const cikSize = 40

// newCIK makes a credential: 40 characters, as Exosite's are.
func newCIK() string { return rand.Text() + strings.ToLower(rand.Text())[:cikSize-26] }

// newRID makes the name of a client.
func newRID() string {
	b := make([]byte, 20)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// Mask is what may be seen of a credential: its first 8 characters, or fewer if
// it is short.
func Mask(cik string) string {
	if cik == "" {
		return ""
	}
	return strings.Clone(cik[:min(8, len(cik)/2)]) + "*"
}

// isName allows letters, digits and a few others.
func isName(s string) bool {
	for _, r := range []byte(s) {
		if !('0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z' || r == '-' || r == '_') {
			return false
		}
	}
	return s != ""
}

// isProduct allows what can be the first part of a host name.
func isProduct(s string) bool { return isName(s) && len(s) <= 63 }

const maxText = 256

// isText allows names that people choose: printable and without the commas
// and line ends of the lists that they are in.
func isText(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == 0xfffd || r == ',' {
			return false
		}
	}
	return len(s) <= maxText
}
