package exosite

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

var (
	// ErrBadCIK is when the server does not know the credential, or there is
	// none: the device has to be activated, again maybe.
	ErrBadCIK = errors.New("the CIK is not valid (any more): activate the device")
	// ErrUnknownDevice is when the product has no such serial number.
	ErrUnknownDevice = errors.New("the product does not have this serial number: add it there")
	// ErrNotEnabled is when the serial number may not be activated, for instance
	// because it has been already.
	ErrNotEnabled = errors.New("the serial number is not enabled for activation, or has been activated already: enable it in the product")
	// ErrNoTime is when the server does not say when a value was written.
	ErrNoTime = errors.New("the answer does not say when the value was written")
	// ErrNotModified is when nothing was written while Wait waited.
	ErrNotModified = errors.New("nothing new")
	// ErrUntrusted is when a server's certificate is not one to trust: its chain,
	// its name or its dates.
	ErrUntrusted = errors.New("not trusted")
	// ErrTimeUnknown is when the clock is not set, so that the server's
	// certificate cannot be judged; see Trust.Config.
	ErrTimeUnknown = errors.New("the time is not known yet, by which its certificate is to be judged: ask Client.Timestamp first")
)

// StatusError is an answer that the call does not have. Some are also errors of
// their own for errors.Is: ErrBadCIK, ErrUnknownDevice and ErrNotEnabled.
type StatusError struct {
	Call       string // such as "write"
	Server     string
	Code       int           // HTTP status
	Body       string        // the beginning, at most 1 KiB
	RetryAfter time.Duration // the server wants that much time; 0: it does not say

	is error
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s on %s: %d %s", e.Call, e.Server, e.Code, http.StatusText(e.Code))
	if hint := e.hint(); hint != "" {
		text += ": " + hint
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(" (it asks to wait for %v)", e.RetryAfter)
	}
	if line, _, _ := strings.Cut(strings.TrimSpace(e.Body), "\n"); line != "" {
		text += fmt.Sprintf("; the server says: %.200q", line)
	}
	return text
}

func (e *StatusError) Unwrap() error { return e.is }

// Final says whether the answer would be the same the next time: the server refuses
// the request as it is, and not for now or for want of a credential.
func (e *StatusError) Final() bool {
	switch e.Code {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusRequestedRangeNotSatisfiable, http.StatusTooManyRequests:
		return false
	}
	return e.Code/100 == 4
}

// hint says what the code means, and what to do.
func (e *StatusError) hint() string {
	switch {
	case e.is != nil:
		return e.is.Error()
	case e.Code >= 300 && e.Code < 400:
		return "the server is somewhere else: is its name right?"
	case e.Code >= 500:
		return "the server cannot answer: try again later"
	}
	switch e.Code {
	case http.StatusBadRequest:
		return "the server does not understand the request: are aliases, values and times what the product's resources take?"
	case http.StatusUnauthorized, http.StatusForbidden:
		return "this is not allowed: are the CIK, vendor, model and host those of the product?"
	case http.StatusNotFound:
		return "there is none: are the name and the host right?"
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		return "the server does not know such a call: is its name right?"
	case http.StatusConflict:
		return "it clashes with what is there"
	case http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong:
		return "this is too long: send less at once"
	case http.StatusRequestedRangeNotSatisfiable:
		return "the content has no such range: has it changed?"
	case http.StatusRequestTimeout:
		return "the request took too long: try again later"
	case http.StatusTooManyRequests:
		return "these are too many requests: send fewer"
	}
	return "the call does not have such an answer"
}

// ConflictError says which of the points of Record were not stored because
// there are others of that alias less than a second away. All other points are
// stored.
type ConflictError struct {
	Times map[string][]time.Time // by alias
}

func (e *ConflictError) Error() string {
	var all []string
	for alias, times := range e.Times {
		all = append(all, fmt.Sprintf("%d of %q", len(times), alias))
	}
	slices.Sort(all)
	return fmt.Sprintf("record: %s were not stored, as there are points less than 1 s away; the others were", strings.Join(all, ", "))
}
