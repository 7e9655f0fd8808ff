package exosite

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	aliasPath    = "/onep:v1/stack/alias"
	recordPath   = "/onep:v1/stack/record"
	activatePath = "/provision/activate"
	downloadPath = "/provision/download"
	timePath     = "/timestamp"

	formType = "application/x-www-form-urlencoded; charset=utf-8"

	maxWait = 5 * time.Minute // the server's limit
)

// Value is one of a resource of the device.
type Value struct{ Alias, Value string }

// Point is a value of the past.
type Point struct {
	Alias string
	Time  time.Time
	Value string
}

// Activate gets the credential of the device with this serial number, which the
// product must have enabled, and uses it from now on. The caller has to keep it:
// a serial number can be activated once, until it is enabled again. Errors:
// ErrUnknownDevice, ErrNotEnabled.
//
// If the server's answer is lost on its way, the device is activated, but nobody
// has the CIK; ErrNotEnabled is the next try's answer then.
func (c *Client) Activate(ctx context.Context, serial string) (cik string, err error) {
	var f form
	if c.o.Vendor != "" {
		f.add("vendor", c.o.Vendor)
		f.add("model", c.o.Model)
		f.add("sn", serial)
	} else {
		f.add("id", serial)
	}
	k := call{
		name: "activate", method: http.MethodPost, path: activatePath, body: f.String(), anonymous: true, limit: 1 << 10,
		errs: map[int]error{http.StatusNotFound: ErrUnknownDevice, http.StatusConflict: ErrNotEnabled},
	}
	err = c.do(ctx, &k, func(a answer) error {
		cik = strings.TrimSpace(a.body)
		if a.code != http.StatusOK {
			return errStatus
		}
		if !IsCIK(cik) {
			return errors.New("the answer is not a CIK, which has 40 letters and digits: is this Exosite's server?")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	c.SetCIK(cik)
	return cik, nil
}

// IsCIK tells whether a text has the form of a credential: 40 letters and digits.
func IsCIK(s string) bool {
	return len(s) == cikSize && !strings.ContainsFunc(s, func(r rune) bool { return !isAlphanumeric(r) })
}

const cikSize = 40

func isAlphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// Write gives resources new values. The server stamps them with its time.
// Aliases that the product does not have are no error, and ignored. Without
// values nothing is sent. If an answer is lost, a value may be written twice.
func (c *Client) Write(ctx context.Context, values ...Value) error {
	if len(values) == 0 {
		return nil
	}
	k := call{name: "write", method: http.MethodPost, path: aliasPath, limit: 4 << 10}
	if err := k.write(values); err != nil {
		return fmt.Errorf("write on %s: %w", c.host, err)
	}
	return c.do(ctx, &k, nothing)
}

// Read returns the newest values. Aliases without one are missing. The values
// of one call may have 6 MiB. Without aliases nothing is asked.
func (c *Client) Read(ctx context.Context, aliases ...string) (map[string]string, error) {
	if len(aliases) == 0 {
		return map[string]string{}, nil
	}
	k := call{name: "read", method: http.MethodGet, path: aliasPath}
	return c.read(ctx, &k, aliases)
}

// WriteRead is Write, and then Read, in one request.
func (c *Client) WriteRead(ctx context.Context, writes []Value, aliases ...string) (map[string]string, error) {
	switch {
	case len(writes) == 0:
		return c.Read(ctx, aliases...)
	case len(aliases) == 0:
		return map[string]string{}, c.Write(ctx, writes...)
	}
	k := call{name: "readwrite", method: http.MethodPost, path: aliasPath}
	if err := k.write(writes); err != nil {
		return nil, fmt.Errorf("readwrite on %s: %w", c.host, err)
	}
	return c.read(ctx, &k, aliases)
}

// write makes a form of values the request's body.
func (k *call) write(values []Value) error {
	var f form
	size := len(values)
	for _, v := range values {
		size += len(v.Alias) + len(v.Value)*5/4
	}
	f.b.Grow(size)
	for _, v := range values {
		if v.Alias == "" {
			return errors.New("a value has no alias")
		}
		if len(v.Value) > maxValue {
			return fmt.Errorf("the value of %q has %d bytes; it may have %d", v.Alias, len(v.Value), maxValue)
		}
		f.add(v.Alias, v.Value)
	}
	k.body = f.String()
	return nil
}

func (c *Client) read(ctx context.Context, k *call, aliases []string) (values map[string]string, err error) {
	var f form
	for _, alias := range aliases {
		if alias == "" {
			return nil, fmt.Errorf("%s on %s: an alias is empty", k.name, c.host)
		}
		f.name(alias)
	}
	k.query, k.accept, k.limit = f.String(), true, readLimit(len(aliases), len(f.String()))
	err = c.do(ctx, k, func(a answer) (err error) {
		switch a.code {
		case http.StatusOK:
			values, err = parseForm(a.body, len(aliases))
			return err
		case http.StatusNoContent:
			values = map[string]string{}
			return nil
		}
		return errStatus
	})
	return values, err
}

// readLimit is how long the answer with n values may be. Percent-encoding makes
// three bytes of one.
func readLimit(n, names int) int { return min(n, 2)*3*maxValue + names + 2*n }

// nothing is for calls whose answer is just that all is well.
func nothing(a answer) error {
	if a.code != http.StatusNoContent && a.code != http.StatusOK {
		return errStatus
	}
	return nil
}

// Wait waits until a value is written to the resource that is newer than since,
// whole seconds count, or, if since is zero, newer than now. It returns the
// value and when it was written, which is the since of the next call. If there is
// none until the timeout, from 1 ms to 5 min, the error is ErrNotModified.
//
// What is written between two calls with a zero since, or while one is tried
// again, is missed, and so is a second value of the second that was returned
// last. Who must not miss any begins with the time of Timestamp as since, and
// reads the resource after each Wait.
func (c *Client) Wait(ctx context.Context, alias string, since time.Time, timeout time.Duration) (value string, modified time.Time, err error) {
	var f form
	f.name(alias)
	timeout = min(max(timeout, time.Millisecond), maxWait)
	end := time.Now().Add(timeout)
	k := call{
		name: "poll", method: http.MethodGet, path: aliasPath, query: f.String(), accept: true,
		limit: readLimit(1, 3*len(alias)), wait: timeout, end: end,
	}
	k.header = func(h http.Header, try int) {
		left := timeout
		if try > 1 { // the caller has not more time than that
			left = time.Until(end)
		}
		h["Request-Timeout"] = []string{strconv.FormatInt(max(left.Milliseconds(), 1), 10)}
		if !since.IsZero() {
			h["If-Modified-Since"] = []string{strconv.FormatInt(since.Unix(), 10)}
		}
	}
	if alias == "" {
		return "", time.Time{}, fmt.Errorf("poll on %s: the alias is empty", c.host)
	}
	err = c.do(ctx, &k, func(a answer) error {
		switch a.code {
		case http.StatusNotModified:
			return ErrNotModified
		case http.StatusOK:
		default:
			return errStatus
		}
		values, err := parseForm(a.body, 1)
		if err != nil {
			return err
		}
		v, ok := values[alias]
		if !ok {
			return fmt.Errorf("the answer has no value of %q", alias)
		}
		modified = parseDate(a.header.Get("Last-Modified"))
		if modified.IsZero() {
			return fmt.Errorf("%q: %w: Last-Modified is %.40q", alias, ErrNoTime, a.header.Get("Last-Modified"))
		}
		value = v
		return nil
	})
	if err != nil {
		return "", time.Time{}, err
	}
	return value, modified, nil
}

// Record stores values of the past. If some clash with others of that alias that
// are less than a second away, the error is a *ConflictError, and the rest is
// stored. If an answer is lost, the next try's conflicts are with the same
// points. Without points nothing is sent. The older generation takes one request
// for each alias.
func (c *Client) Record(ctx context.Context, points ...Point) error {
	var order []string
	byAlias := make(map[string][]Point)
	for _, p := range points {
		switch {
		case p.Alias == "":
			return fmt.Errorf("record on %s: a point has no alias", c.host)
		case p.Time.Unix() < 0:
			return fmt.Errorf("record on %s: a point of %q is of %s; it cannot be older than 1970", c.host, p.Alias, p.Time.UTC().Format(time.RFC3339))
		case len(p.Value) > maxValue:
			return fmt.Errorf("record on %s: a value of %q has %d bytes; it may have %d", c.host, p.Alias, len(p.Value), maxValue)
		case byAlias[p.Alias] == nil:
			order = append(order, p.Alias)
		}
		byAlias[p.Alias] = append(byAlias[p.Alias], p)
	}
	if len(points) == 0 {
		return nil
	}
	var f form
	if c.o.Vendor == "" {
		for _, alias := range order {
			f.add("alias", alias)
			f.points(byAlias[alias])
		}
		return c.record(ctx, recordPath, f.String(), len(points))
	}
	conflict := &ConflictError{Times: make(map[string][]time.Time)}
	for _, alias := range order {
		var f, name form
		f.points(byAlias[alias])
		name.name(alias)
		err := c.record(ctx, aliasPath+"/"+name.String(), f.String(), len(byAlias[alias]))
		if some := (*ConflictError)(nil); errors.As(err, &some) {
			for alias, times := range some.Times {
				conflict.Times[alias] = append(conflict.Times[alias], times...)
			}
		} else if err != nil {
			return err
		}
	}
	if len(conflict.Times) > 0 {
		return conflict
	}
	return nil
}

func (f *form) points(points []Point) {
	for _, p := range points {
		f.add(formatTime(p.Time), p.Value)
	}
}

func (c *Client) record(ctx context.Context, path, body string, points int) error {
	k := call{name: "record", method: http.MethodPost, path: path, body: body, limit: 4<<10 + 2*len(body)}
	return c.do(ctx, &k, func(a answer) error {
		if a.code == http.StatusConflict {
			if times, err := parseConflict(a.body, points); err == nil {
				return &ConflictError{times}
			}
		}
		return nothing(a)
	})
}

// ContentInfo is what is known of a content without downloading it.
type ContentInfo struct {
	Type    string // MIME type
	Size    int64  // bytes
	Updated time.Time
	Meta    string // the product's own text
}

// ContentList returns the names of the product's content.
func (c *Client) ContentList(ctx context.Context) (ids []string, err error) {
	k := call{name: "contentlist", method: http.MethodGet, path: downloadPath, query: c.download(""), limit: 1 << 20}
	err = c.do(ctx, &k, func(a answer) error {
		switch a.code {
		case http.StatusOK:
			ids = parseList(a.body)
			return nil
		case http.StatusNoContent:
			return nil
		}
		return errStatus
	})
	return ids, err
}

// ContentInfo returns what is known of a content.
func (c *Client) ContentInfo(ctx context.Context, id string) (info ContentInfo, err error) {
	if id == "" {
		return ContentInfo{}, fmt.Errorf("contentinfo on %s: the name is empty", c.host)
	}
	k := call{name: "contentinfo", method: http.MethodGet, path: downloadPath, query: c.download(id) + "&info=true", limit: 64 << 10}
	err = c.do(ctx, &k, func(a answer) (err error) {
		if a.code != http.StatusOK {
			return errStatus
		}
		info, err = parseInfo(a.body)
		return err
	})
	return info, err
}

// download is the query of a content, or, if id is empty, of their list.
func (c *Client) download(id string) string {
	var f form
	if c.o.Vendor != "" {
		f.add("vendor", c.o.Vendor)
		f.add("model", c.o.Model)
	}
	if id != "" {
		f.add("id", id)
	}
	return f.String()
}

// Timestamp returns the server's time, in whole seconds. It needs no credential.
func (c *Client) Timestamp(ctx context.Context) (t time.Time, err error) {
	k := call{name: "timestamp", method: http.MethodGet, path: timePath, anonymous: true, limit: 64}
	err = c.do(ctx, &k, func(a answer) (err error) {
		if a.code != http.StatusOK {
			return errStatus
		}
		t, err = parseTime(strings.TrimSpace(a.body))
		return err
	})
	return t, err
}
