package cloud

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// op is one change of the state, and a line of the journal.
type op struct {
	Op      string
	Product string        `json:",omitempty"`
	SN      string        `json:",omitempty"`
	SNs     []string      `json:",omitempty"`
	Old     string        `json:",omitempty"`
	From    string        `json:",omitempty"`
	Time    int64         `json:",omitempty"` // µs since 1970
	RID     string        `json:",omitempty"`
	CIK     string        `json:",omitempty"`
	Cert    []byte        `json:",omitempty"`
	Serials []serialState `json:",omitempty"`
	Set     bool          `json:",omitempty"` // by the product's side
	Points  []storedPoint `json:",omitempty"`
	Content *Content      `json:",omitempty"`
}

const (
	opOwner     = "owner"
	opProduct   = "product"
	opNoProduct = "no product"
	opSerials   = "serials"
	opNoSerials = "no serials"
	opEnable    = "enable"
	opDisable   = "disable"
	opReplace   = "replace"
	opActivate  = "activate"
	opPoints    = "points"
	opContent   = "content"
	opNoContent = "no content"
)

// serialState is a serial number as the journal has it: a new one, or with all
// that happened to it.
type serialState struct {
	SN        string
	Extra     string     `json:",omitempty"`
	Enabled   bool       `json:",omitempty"`
	Disabled  bool       `json:",omitempty"`
	RID       string     `json:",omitempty"`
	CIK       string     `json:",omitempty"`
	Cert      []byte     `json:",omitempty"`
	Activated int64      `json:",omitempty"`
	Seen      int64      `json:",omitempty"`
	Log       []LogEntry `json:",omitempty"`
}

type storedPoint struct {
	Alias string
	Time  int64
	Value string
}

// apply makes a change. It fails on what a garbled journal can have only.
func (c *Cloud) apply(o op) error {
	if !isTime(o.Time) {
		return fmt.Errorf("time %d: %w", o.Time, ErrInvalid)
	}
	switch o.Op {
	case opOwner:
		c.owner = o.CIK
		return nil
	case opProduct:
		if c.products[o.Product] == nil {
			c.products[o.Product] = &product{serials: map[string]*serial{}, contents: map[string]*Content{}}
		}
		return nil
	case opPoints:
		cl := c.byRID[o.RID]
		if cl == nil {
			return fmt.Errorf("client %.40q: %w", o.RID, ErrUnknown)
		}
		for _, p := range o.Points {
			if s := c.seriesOf(cl, p.Alias); isTime(p.Time) && !s.has(p.Time) {
				s.insert(point{p.Time, p.Value})
			}
		}
		return nil
	}
	p, err := c.product(o.Product)
	if err != nil {
		return err
	}
	switch o.Op {
	case opNoProduct:
		for _, s := range p.serials {
			c.forget(s.client)
		}
		for _, content := range p.contents {
			c.removeFile(content)
		}
		delete(c.products, o.Product)
		return nil
	case opSerials:
		for _, state := range o.Serials {
			if p.serials[state.SN] == nil {
				p.serials[state.SN] = c.restore(o.Product, state)
			}
		}
		return nil
	case opNoSerials:
		for _, sn := range o.SNs {
			if s := p.serials[sn]; s != nil {
				c.forget(s.client)
				delete(p.serials, sn)
			}
		}
		return nil
	case opContent:
		if o.Content == nil {
			return errors.New("no content in it")
		}
		if old := p.contents[o.Content.ID]; old != nil && old.File != o.Content.File {
			c.removeFile(old)
		}
		p.contents[o.Content.ID] = o.Content
		c.lastFile = max(c.lastFile, o.Content.File)
		return nil
	case opNoContent:
		if o.Content == nil || p.contents[o.Content.ID] == nil {
			return ErrUnknown
		}
		c.removeFile(p.contents[o.Content.ID])
		delete(p.contents, o.Content.ID)
		return nil
	}
	s, err := c.serial(o.Product, o.SN)
	if err != nil {
		return err
	}
	switch o.Op {
	case opEnable:
		if s.client == nil {
			if o.RID == "" || c.byRID[o.RID] != nil {
				return fmt.Errorf("client %.40q: %w", o.RID, ErrInvalid)
			}
			c.newClient(s, o.RID)
		}
		c.setCredential(s.client, "", "")
		s.enabled, s.disabled = true, false
		s.note(o, "enabled")
	case opDisable:
		if s.client != nil {
			c.setCredential(s.client, "", "")
		}
		s.enabled, s.disabled = false, true
		s.note(o, "disabled")
	case opReplace:
		old, err := c.serial(o.Product, o.Old)
		if err != nil || old.client == nil || s.client != nil {
			return fmt.Errorf("serial number %.64q in place of %.64q: %w", o.SN, o.Old, ErrInvalid)
		}
		s.client, old.client = old.client, nil
		s.client.serial = s
		c.setCredential(s.client, "", "")
		s.enabled, s.disabled, old.enabled = true, false, false
		s.note(o, "enabled in place of "+o.Old)
		old.note(o, "replaced by "+o.SN)
	case opActivate:
		if s.client == nil {
			return fmt.Errorf("serial number %.64q: %w", o.SN, ErrNotEnabled)
		}
		c.setCredential(s.client, o.CIK, string(o.Cert))
		s.client.activated, s.client.seen = fromMicros(o.Time), fromMicros(o.Time)
		s.enabled = false
		s.note(o, "activated")
	default:
		return fmt.Errorf("change %.40q: %w", o.Op, ErrUnknown)
	}
	return nil
}

// seriesOf finds or makes the one that points of an alias in the journal are of.
func (c *Cloud) seriesOf(cl *client, alias string) *series {
	if i, ok := c.byAlias[alias]; ok {
		return &cl.series[i]
	}
	if cl.others == nil {
		cl.others = map[string]*series{}
	}
	if cl.others[alias] == nil {
		cl.others[alias] = &series{}
	}
	return cl.others[alias]
}

func (c *Cloud) newClient(s *serial, rid string) {
	s.client = &client{rid: rid, serial: s, series: make([]series, len(c.resources))}
	c.byRID[rid] = s.client
}

func (c *Cloud) setCredential(cl *client, cik, cert string) {
	// Another device may have been activated with the same certificate since.
	if c.byCIK[cl.cik] == cl {
		delete(c.byCIK, cl.cik)
	}
	if c.byCert[cl.cert] == cl {
		delete(c.byCert, cl.cert)
	}
	cl.cik, cl.cert = cik, cert
	cl.none.wake() // who waits with the one before
	for i := range cl.series {
		cl.series[i].wake()
	}
	if cik != "" {
		c.byCIK[cik] = cl
	}
	if cert != "" {
		c.byCert[cert] = cl
	}
}

func (c *Cloud) forget(cl *client) {
	if cl != nil {
		delete(c.byRID, cl.rid)
		c.setCredential(cl, "", "")
	}
}

func (c *Cloud) restore(product string, state serialState) *serial {
	s := &serial{product: product, sn: state.SN, extra: state.Extra, enabled: state.Enabled, disabled: state.Disabled, log: state.Log}
	if state.RID != "" && c.byRID[state.RID] == nil {
		c.newClient(s, state.RID)
		c.setCredential(s.client, state.CIK, string(state.Cert))
		if state.Activated != 0 && isTime(state.Activated) && isTime(state.Seen) {
			s.client.activated, s.client.seen = fromMicros(state.Activated), fromMicros(state.Seen)
		}
	}
	return s
}

// dump writes the changes that lead to the state from none.
func (c *Cloud) dump(write func(op) error) error {
	ops := []op{{Op: opOwner, CIK: c.owner}}
	for id, p := range c.products {
		ops = append(ops, op{Op: opProduct, Product: id})
		for _, content := range p.contents {
			ops = append(ops, op{Op: opContent, Product: id, Content: content})
		}
		for sn, s := range p.serials {
			state := serialState{SN: sn, Extra: s.extra, Enabled: s.enabled, Disabled: s.disabled, Log: s.log}
			if cl := s.client; cl != nil {
				state.RID, state.CIK, state.Cert = cl.rid, cl.cik, []byte(cl.cert)
				if !cl.activated.IsZero() {
					state.Activated, state.Seen = micros(cl.activated), micros(cl.seen)
				}
			}
			ops = append(ops, op{Op: opSerials, Product: id, Serials: []serialState{state}})
		}
	}
	for _, o := range ops {
		if err := write(o); err != nil {
			return err
		}
	}
	for rid, cl := range c.byRID {
		all := maps.Clone(cl.others)
		if all == nil {
			all = map[string]*series{}
		}
		for i := range cl.series {
			all[c.resources[i].Alias] = &cl.series[i]
		}
		for alias, s := range all {
			if err := s.dump(rid, alias, write); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *series) dump(rid, alias string, write func(op) error) error {
	for chunk := range slices.Chunk(s.points, 100) {
		o := op{Op: opPoints, RID: rid}
		for _, p := range chunk {
			o.Points = append(o.Points, storedPoint{alias, p.time, p.value})
		}
		if err := write(o); err != nil {
			return err
		}
	}
	return nil
}

const (
	journalName = "journal.jsonl"
	lockName    = "lock"
	// A journal is rewritten when it is this much longer than after the last time.
	maxJournal = 64 << 20
)

// journal is a file with a change in JSON on each line. A line that a crash
// has torn counts as not written.
type journal struct {
	dir    string
	file   *os.File
	lock   *os.File
	size   int64
	atLast int64 // size after it was rewritten
}

// load reads the journal in c.dir, and opens it anew without what is over.
func (c *Cloud) load() error {
	if err := os.MkdirAll(filepath.Join(c.dir, contentDir), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(c.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("%s is in use by another process (flock: %w)", c.dir, err)
	}
	c.journal = &journal{dir: c.dir, lock: lock}
	name := filepath.Join(c.dir, journalName)
	f, err := os.Open(name)
	if err == nil {
		err = c.replay(name, f)
		f.Close()
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err == nil {
		c.checkFiles()
		err = c.journal.rewrite(c.dump)
	}
	if err != nil {
		lock.Close()
	}
	return err
}

// replay makes the changes in a journal. What is garbled in it is told and
// left out.
func (c *Cloud) replay(name string, from io.Reader) error {
	r := bufio.NewReaderSize(from, 1<<16)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err != nil {
			if len(line) > 0 {
				c.log.Warn("the last change was not written to its end and is lost", "file", name, "line", n)
			}
			return nil
		}
		var o op
		if e := json.Unmarshal(line, &o); e != nil {
			c.log.Warn("a line that makes no sense is left out", "file", name, "line", n, "error", e)
		} else if e := c.apply(o); e != nil {
			c.log.Warn("a change that is not possible is left out", "file", name, "line", n, "error", e)
		}
	}
}

func (j *journal) append(o op) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(o); err != nil {
		return err
	}
	if j.file == nil {
		return errors.New("the emulator's state has been closed")
	}
	if _, err := j.file.WriteAt(b.Bytes(), j.size); err != nil {
		// What is there of it would make the next line garbled, too.
		return errors.Join(fmt.Errorf("keep a change: %w", err), j.file.Truncate(j.size))
	}
	j.size += int64(b.Len())
	return nil
}

func (j *journal) isLong() bool { return j.size > 2*j.atLast+maxJournal }

// rewrite replaces the journal by a short one.
func (j *journal) rewrite(dump func(func(op) error) error) error {
	name := filepath.Join(j.dir, journalName)
	f, err := os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	err = dump(func(o op) error { return enc.Encode(o) })
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("write %s anew: %w", name, err)
	}
	if j.file != nil {
		j.file.Close()
	}
	size, err := f.Seek(0, io.SeekEnd)
	j.file, j.size, j.atLast = f, size, size
	return errors.Join(err, syncDir(j.dir))
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Sync(), j.file.Close(), j.lock.Close())
	j.file = nil
	return err
}
