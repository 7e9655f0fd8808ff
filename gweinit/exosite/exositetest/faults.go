package exositetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Calls are the names of the API's calls, in Fault and in Request.
func Calls() []string {
	return []string{"activate", "write", "read", "readwrite", "poll", "record", "contentlist", "contentinfo", "content", "timestamp", "manage"}
}

// Fault is what goes wrong, on command. The first one that matches a request is
// applied to it, and all that it says at once. The JSON of it is the same, with
// the names in lower case and _ between words.
type Fault struct {
	ID int `json:"id"`
	// Which requests.
	Call    string `json:"call,omitempty"`    // one of Calls; "": each
	Serial  string `json:"serial,omitempty"`  // of the device; "": each
	Times   int    `json:"times,omitempty"`   // it is applied, and then removed; 0: until it is cleared
	Applied int    `json:"applied,omitempty"` // how often it has been

	// In place of what is asked for, which does not happen.
	Status     int    `json:"status,omitempty"` // the answer's
	RetryAfter string `json:"retry_after,omitempty"`
	Body       string `json:"body,omitempty"`
	Hang       bool   `json:"hang,omitempty"` // no answer until the client gives up

	// Before the answer.
	Delay time.Duration `json:"delay,omitempty"` // in JSON seconds, or a text such as "1.5s"
	// Drop ends the connection in place of the answer. What was asked for has been
	// done, unless there is a Status.
	Drop        bool `json:"drop,omitempty"`
	IgnoreRange bool `json:"ignore_range,omitempty"` // the whole content and 200

	// While the answer is sent.
	DropAfter int64  `json:"drop_after,omitempty"` // bytes of the body; then the connection ends
	LengthBy  int64  `json:"length_by,omitempty"`  // added to Content-Length: the body is shorter than it says, or, if negative, cut
	Rate      int    `json:"rate,omitempty"`       // bytes of the body per second
	FlipAt    *int64 `json:"flip_at,omitempty"`    // offset in the body of a byte that arrives wrong

	Clock time.Duration `json:"clock,omitempty"` // the answer's time is wrong by that, as with SetClock
}

// MarshalJSON has durations in seconds.
func (f Fault) MarshalJSON() ([]byte, error) {
	type plain Fault
	return json.Marshal(struct {
		plain
		Delay seconds `json:"delay,omitempty"`
		Clock seconds `json:"clock,omitempty"`
	}{plain(f), seconds(f.Delay), seconds(f.Clock)})
}

// ParseFault reads a fault's JSON. The error says what is wrong with it.
func ParseFault(data []byte) (Fault, error) {
	type plain Fault
	var f struct {
		plain
		Delay seconds `json:"delay"`
		Clock seconds `json:"clock"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Fault{}, fmt.Errorf("not a fault in JSON, such as {\"call\":\"write\",\"times\":2,\"status\":503}: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Fault{}, errors.New("there is more after the fault's JSON")
	}
	fault := Fault(f.plain)
	fault.Delay, fault.Clock = time.Duration(f.Delay), time.Duration(f.Clock)
	return fault, fault.check()
}

func (f Fault) check() error {
	effects := f
	effects.ID, effects.Call, effects.Serial, effects.Times, effects.Applied = 0, "", "", 0, 0
	switch {
	case f.Call != "" && !slices.Contains(Calls(), f.Call):
		return fmt.Errorf("call %.40q: want one of %s", f.Call, strings.Join(Calls(), ", "))
	case f.Times < 0:
		return fmt.Errorf("times %d: want 1 or more, or 0 for until it is cleared", f.Times)
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status %d: want one from 200 to 599", f.Status)
	case f.Status == 0 && (f.RetryAfter != "" || f.Body != ""):
		return errors.New("retry_after and body need a status")
	case strings.ContainsFunc(f.RetryAfter, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("retry_after %.40q: want what a header can have", f.RetryAfter)
	case f.Hang && f.Status != 0:
		return errors.New("hang and status: there can be one of them")
	case f.Delay < 0 || f.Rate < 0 || f.DropAfter < 0 || f.FlipAt != nil && *f.FlipAt < 0:
		return errors.New("delay, rate, drop_after and flip_at can't be negative")
	case f.Clock.Abs() > maxClock:
		return fmt.Errorf("clock %v: want at most %v", f.Clock, maxClock)
	case effects == Fault{}:
		return errors.New("the fault does nothing: want one of status, hang, delay, drop, drop_after, length_by, ignore_range, rate, flip_at, clock")
	}
	return nil
}

const (
	maxFaults = 1000
	maxClock  = 100 * 365 * 24 * time.Hour
	// Even the longest poll of a patient client is over.
	maxHang = 10 * time.Minute
)

// faultList has those that are to be applied.
type faultList struct {
	mu   sync.Mutex
	last int // ID
	list []Fault
}

func (l *faultList) add(f Fault) (Fault, error) {
	if err := f.check(); err != nil {
		return Fault{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) == maxFaults {
		return Fault{}, fmt.Errorf("there are %d faults already: clear some", maxFaults)
	}
	l.last++
	f.ID, f.Applied = l.last, 0
	l.list = append(l.list, f)
	return f, nil
}

func (l *faultList) remove(id int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.list)
	l.list = slices.DeleteFunc(l.list, func(f Fault) bool { return f.ID == id })
	return len(l.list) < before
}

func (l *faultList) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = nil
}

func (l *faultList) all() []Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// take finds the fault for a request, and counts it. The zero Fault is none.
func (l *faultList) take(call, serial string) (Fault, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.list {
		f := &l.list[i]
		if f.Call != "" && f.Call != call || f.Serial != "" && f.Serial != serial {
			continue
		}
		f.Applied++
		taken := *f
		if f.Applied == f.Times {
			l.list = slices.Delete(l.list, i, i+1)
		}
		return taken, true
	}
	return Fault{}, false
}

// Fault makes something go wrong from now on. One that can't be, such as with an
// unknown call, panics.
func (s *Server) Fault(f Fault) (id int) {
	f, err := s.faults.add(f)
	if err != nil {
		panic(fmt.Sprintf("exositetest: Fault: %v", err))
	}
	return f.ID
}

// ClearFaults ends all faults. Requests that they were applied to already still
// go wrong.
func (s *Server) ClearFaults() { s.faults.clear() }

// Faults are those that are not used up.
func (s *Server) Faults() []Fault { return s.faults.all() }

// serve answers a request with what the fault says, and else by next.
func (f Fault) serve(w http.ResponseWriter, r *http.Request, x *exchange, next func(http.ResponseWriter, *http.Request)) {
	if f.ID == 0 {
		next(w, r)
		return
	}
	x.Fault = f.ID
	x.clock += f.Clock
	ctx := r.Context()
	if f.Delay > 0 {
		pause(ctx, f.Delay)
	}
	if f.Hang {
		pause(ctx, maxHang)
		panic(http.ErrAbortHandler)
	}
	if f.IgnoreRange {
		r = r.Clone(ctx)
		r.Header.Del("Range")
	}
	out := &faultyWriter{ResponseWriter: w, fault: f, ctx: ctx, room: -1}
	if f.Status == 0 {
		next(out, r)
		return
	}
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	answer(out, f.Status, plainType, f.Body)
}

// pause waits, unless the client has gone or the emulator ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

// faultyWriter sends an answer wrongly.
type faultyWriter struct {
	http.ResponseWriter
	fault   Fault
	ctx     context.Context
	begun   bool
	written int64 // bytes of the body
	room    int64 // for the body; -1: any
}

func (f *faultyWriter) WriteHeader(status int) {
	if f.fault.Drop {
		panic(http.ErrAbortHandler)
	}
	f.begun = true
	h := f.Header()
	if length, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil && f.fault.LengthBy != 0 {
		f.room = max(0, length+f.fault.LengthBy)
		h.Set("Content-Length", strconv.FormatInt(f.room, 10))
	}
	f.ResponseWriter.WriteHeader(status)
}

func (f *faultyWriter) Write(p []byte) (int, error) {
	if !f.begun {
		f.WriteHeader(http.StatusOK)
	}
	if at := f.fault.FlipAt; at != nil && *at >= f.written && *at < f.written+int64(len(p)) {
		p = slices.Clone(p)
		p[*at-f.written] ^= 0xff
	}
	wanted := len(p) // also if it is cut
	if f.room >= 0 {
		p = p[:min(int64(len(p)), max(0, f.room-f.written))]
	}
	drop := f.fault.DropAfter > 0 && f.written+int64(len(p)) > f.fault.DropAfter
	if drop {
		p = p[:f.fault.DropAfter-f.written]
	}
	err := f.trickle(p)
	if drop {
		http.NewResponseController(f.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	f.written += int64(len(p))
	return wanted, err
}

const perSecond = 10 // pieces of a trickle

func (f *faultyWriter) trickle(p []byte) error {
	if f.fault.Rate == 0 {
		_, err := f.ResponseWriter.Write(p)
		return err
	}
	piece := max(1, f.fault.Rate/perSecond)
	for len(p) > 0 {
		n := min(piece, len(p))
		pause(f.ctx, time.Duration(n)*time.Second/time.Duration(f.fault.Rate))
		_, err := f.ResponseWriter.Write(p[:n])
		if err == nil {
			err = http.NewResponseController(f.ResponseWriter).Flush()
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Unwrap is for http.ResponseController.
func (f *faultyWriter) Unwrap() http.ResponseWriter { return f.ResponseWriter }
