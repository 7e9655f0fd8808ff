package cloud

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"
	"unicode/utf8"
)

// Value is a value of a resource.
type Value struct{ Alias, Value string }

// Point is a value and its time, in microseconds.
type Point struct {
	Alias string
	Time  time.Time
	Value string
}

const (
	// MaxValue is the longest value, in bytes.
	MaxValue = 1 << 20
	// What is kept of a resource's history: so many points, and so many bytes of
	// the older ones.
	maxPoints  = 1000
	maxHistory = 64 << 10
)

// series is the history of one resource.
type series struct {
	points  []point // by time
	bytes   int
	changed chan struct{} // closed at the next point; nil if nobody waits
}

type point struct {
	time  int64 // µs since 1970
	value string
}

// maxTime is the last second that JSON and HTTP have a date for.
const maxTime = 253402300799e6

func isTime(t int64) bool          { return 0 <= t && t <= maxTime }
func micros(t time.Time) int64     { return t.UnixMicro() }
func fromMicros(t int64) time.Time { return time.UnixMicro(t).UTC() }
func second(t int64) int64         { return time.UnixMicro(t).Unix() }

// find is the index of the first point that is not before t.
func (s *series) find(t int64) int {
	return sort.Search(len(s.points), func(i int) bool { return s.points[i].time >= t })
}

func (s *series) has(t int64) bool {
	i := s.find(t)
	return i < len(s.points) && s.points[i].time == t
}

func (s *series) insert(p point) {
	i := s.find(p.time)
	if i > 0 && s.points[i-1].value == p.value {
		p.value = s.points[i-1].value // one copy of what does not change
	}
	s.points = slices.Insert(s.points, i, p)
	s.bytes += len(p.value)
	for len(s.points) > 1 && (len(s.points) > maxPoints || s.bytes > maxHistory) {
		s.bytes -= len(s.points[0].value)
		s.points[0] = point{}
		s.points = s.points[1:]
	}
	s.wake()
}

// wake lets those who wait look again.
func (s *series) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// accepted are the values for resources that there are; others are ignored, as
// Exosite does.
func (c *Cloud) accepted(values []Value) ([]Value, error) {
	var known []Value
	for _, v := range values {
		i, ok := c.byAlias[v.Alias]
		if !ok {
			continue
		}
		if len(v.Value) > MaxValue {
			return nil, fmt.Errorf("value of %s with %d bytes: %w, at most %d", v.Alias, len(v.Value), ErrInvalid, MaxValue)
		}
		if !utf8.ValidString(v.Value) { // the journal would change it
			return nil, fmt.Errorf("value of %s: %w, want UTF-8", v.Alias, ErrInvalid)
		}
		if err := c.resources[i].Check(v.Value); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		known = append(known, v)
	}
	return known, nil
}

// Write stores values with one time, and returns it. Those of unknown
// resources are left out. With one that is ErrInvalid nothing is stored.
func (d *Device) Write(values ...Value) (time.Time, error) {
	values, err := d.c.accepted(values)
	if err != nil {
		return time.Time{}, err
	}
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	if err := d.check(); err != nil {
		return time.Time{}, err
	}
	return d.c.write(d.client, values, false)
}

// write stores values that are accepted. The Cloud's mu is held.
func (c *Cloud) write(cl *client, values []Value, set bool) (time.Time, error) {
	now := micros(c.now())
	if len(values) == 0 {
		return fromMicros(now), nil
	}
	for _, v := range values { // the older of two writes in one microsecond stays
		for cl.series[c.byAlias[v.Alias]].has(now) {
			now++
		}
	}
	o := op{Op: opPoints, RID: cl.rid, Set: set}
	for i, v := range values {
		// The last value of an alias that is there twice is the one that counts.
		if !slices.ContainsFunc(values[i+1:], func(o Value) bool { return o.Alias == v.Alias }) {
			o.Points = append(o.Points, storedPoint{v.Alias, now, v.Value})
		}
	}
	return fromMicros(now), c.commit(o)
}

// Read has the newest value of a resource.
func (d *Device) Read(alias string) (Point, bool) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	i, ok := d.c.byAlias[alias]
	if !ok || len(d.client.series[i].points) == 0 {
		return Point{}, false
	}
	points := d.client.series[i].points
	return pointOf(alias, points[len(points)-1]), true
}

func pointOf(alias string, p point) Point { return Point{alias, fromMicros(p.time), p.value} }

// Record stores values with times of their own. Points that clash are not
// stored and returned: those less than a second from another one of the request for
// the same resource, and those at a time that has a value already.
func (d *Device) Record(points ...Point) (clashes []Point, err error) {
	c := d.c
	for _, p := range points {
		if _, err := c.accepted([]Value{{p.Alias, p.Value}}); err != nil {
			return nil, err
		}
		if !isTime(micros(p.Time)) {
			return nil, fmt.Errorf("time %d of %s: %w, want seconds since 1970", p.Time.Unix(), p.Alias, ErrInvalid)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := d.check(); err != nil {
		return nil, err
	}
	o := op{Op: opPoints, RID: d.client.rid}
	times := map[int][]int64{} // of this request, sorted
	for _, p := range points {
		i, ok := c.byAlias[p.Alias]
		if !ok {
			continue
		}
		t := micros(p.Time)
		n, _ := slices.BinarySearch(times[i], t)
		near := n < len(times[i]) && times[i][n]-t < 1e6 || n > 0 && t-times[i][n-1] < 1e6
		if near || d.client.series[i].has(t) {
			clashes = append(clashes, p)
			continue
		}
		times[i] = slices.Insert(times[i], n, t)
		o.Points = append(o.Points, storedPoint{p.Alias, t, p.Value})
	}
	if len(o.Points) == 0 {
		return clashes, nil
	}
	return clashes, c.commit(o)
}

// Wait waits until a resource has a point in a second later than since's, and
// returns the last one of the first such second: HTTP's dates have seconds
// only. With a zero since it is the next point. The error is that of ctx, or
// ErrUnknown if the device's credential ends.
func (d *Device) Wait(ctx context.Context, alias string, since time.Time) (Point, error) {
	c := d.c
	i, known := c.byAlias[alias]
	after := micros(since)
	next := since.IsZero()
	if next {
		after = micros(c.now())
	}
	for {
		c.mu.Lock()
		if err := d.check(); err != nil {
			c.mu.Unlock()
			return Point{}, err
		}
		s := &d.client.none // of a resource that is not there
		if known {
			s = &d.client.series[i]
		}
		if n := s.firstAfter(after, next); n < len(s.points) {
			for !next && n+1 < len(s.points) && second(s.points[n+1].time) == second(s.points[n].time) {
				n++
			}
			p := pointOf(alias, s.points[n])
			c.mu.Unlock()
			return p, nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Point{}, ctx.Err()
		}
	}
}

func (s *series) firstAfter(t int64, exact bool) int {
	if exact {
		return s.find(t + 1)
	}
	return s.find((second(t) + 1) * 1e6)
}

// Set is a write of the product's side. ErrForbidden: not a settable resource.
func (c *Cloud) Set(product, sn, alias, value string) error {
	values, err := c.accepted([]Value{{alias, value}})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.serial(product, sn)
	i, ok := c.byAlias[alias]
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("resource %.64q: %w", alias, ErrUnknown)
	case !c.resources[i].Settable:
		return fmt.Errorf("resource %s: %w", alias, ErrForbidden)
	case s.client == nil:
		return fmt.Errorf("serial number %s: %w, it has to be enabled first", sn, ErrUnknown)
	}
	_, err = c.write(s.client, values, true)
	return err
}

// History has the points of a resource, oldest first. A bounded number is kept.
func (c *Cloud) History(product, sn, alias string) ([]Point, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.serial(product, sn)
	if err != nil {
		return nil, err
	}
	i, ok := c.byAlias[alias]
	if !ok {
		return nil, fmt.Errorf("resource %.64q: %w", alias, ErrUnknown)
	}
	if s.client == nil {
		return nil, nil
	}
	var points []Point
	for _, p := range s.client.series[i].points {
		points = append(points, pointOf(alias, p))
	}
	return points, nil
}
