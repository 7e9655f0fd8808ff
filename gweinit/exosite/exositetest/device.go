package exositetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// asDevice finds the device by its CIK, or by its certificate if it sends no
// CIK.
func (s *Server) asDevice(r *http.Request, x *exchange) error {
	var d *cloud.Device
	var ok bool
	cik, cert := r.Header.Get("X-Exosite-CIK"), certificateOf(r)
	switch {
	case cik != "":
		x.CIK = cloud.Mask(cik)
		if d, ok = s.cloud.ByCIK(cik); !ok {
			hint := ""
			if len(cik) != cikSize {
				hint = ", it has " + strconv.Itoa(len(cik)) + " characters and not " + strconv.Itoa(cikSize)
			}
			return refuse(http.StatusUnauthorized, "X-Exosite-CIK: %s is not the CIK of a device%s", x.CIK, hint)
		}
	case cert != nil:
		if d, ok = s.cloud.ByCertificate(cert); !ok {
			return refuse(http.StatusUnauthorized, "no device has been activated with this TLS client certificate")
		}
	default:
		return refuse(http.StatusUnauthorized, "no credential: want a header X-Exosite-CIK, or a TLS client certificate")
	}
	x.device, x.Product, x.Serial = d, d.Product(), d.SN()
	if host, named := s.hostProduct(r); named && host != d.Product() {
		return refuse(http.StatusUnauthorized, "the device is not one of product %.64s, which the Host %.80s names", host, r.Host)
	}
	return nil
}

const cikSize = 40

// certificateOf is the SHA-256 of the client's certificate, nil if it has none.
func certificateOf(r *http.Request) []byte {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return sum[:]
}

func (s *Server) timestamp(w http.ResponseWriter, r *http.Request, x *exchange) error {
	answer(w, http.StatusOK, plainType, strconv.FormatInt(s.now(x).Unix(), 10))
	return nil
}

func writeCall(r *http.Request) string {
	if r.URL.RawQuery != "" {
		return "readwrite"
	}
	return "write"
}

// write stores what is in the body, and then reads what the query asks for.
func (s *Server) write(w http.ResponseWriter, r *http.Request, x *exchange) error {
	aliases, err := parseAliases(r.URL.RawQuery)
	if err != nil {
		return err
	}
	fields, err := x.form(r)
	if err != nil {
		return err
	}
	if len(fields) == 0 && len(aliases) == 0 {
		return wrong("no values: the body has to be ALIAS=VALUE, more of them after &")
	}
	values := make([]cloud.Value, len(fields))
	for i, f := range fields {
		if err := checkLength(f.name, f.value); err != nil {
			return err
		}
		values[i] = cloud.Value{Alias: f.name, Value: f.value}
	}
	if _, err := x.device.Write(values...); err != nil {
		return gone(err)
	}
	answerValues(w, x.device, aliases)
	return nil
}

func checkLength(alias, value string) error {
	if len(value) > cloud.MaxValue {
		return refuse(http.StatusRequestEntityTooLarge, "the value of %s has %d bytes, at most %d are possible", alias, len(value), cloud.MaxValue)
	}
	return nil
}

// gone is for a device whose credential has ended while it asked.
func gone(err error) error {
	if errors.Is(err, cloud.ErrUnknown) {
		return &problem{http.StatusUnauthorized, err}
	}
	return err
}

func answerValues(w http.ResponseWriter, d *cloud.Device, aliases []string) {
	var points []cloud.Point
	for _, alias := range aliases {
		if p, ok := d.Read(alias); ok {
			points = append(points, p)
		}
	}
	if len(points) == 0 {
		answer(w, http.StatusNoContent, "", "")
		return
	}
	answer(w, http.StatusOK, formType, formatValues(points))
}

func readCall(r *http.Request) string {
	if r.Header.Get("Request-Timeout") != "" {
		return "poll"
	}
	return "read"
}

func (s *Server) read(w http.ResponseWriter, r *http.Request, x *exchange) error {
	aliases, err := parseAliases(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if len(aliases) == 0 {
		return wrong("no aliases: want ?ALIAS in the URL, more of them after &")
	}
	if x.Call == "poll" {
		return s.poll(w, r, x, aliases)
	}
	answerValues(w, x.device, aliases)
	return nil
}

const maxPoll = 300000 // ms

// poll waits until the resource has a new value.
func (s *Server) poll(w http.ResponseWriter, r *http.Request, x *exchange, aliases []string) error {
	if len(aliases) != 1 {
		return wrong("%d aliases: a long poll (Request-Timeout) has one", len(aliases))
	}
	text := strings.TrimSpace(r.Header.Get("Request-Timeout"))
	ms, err := strconv.ParseUint(text, 10, 32)
	if err != nil || ms > maxPoll {
		return wrong("Request-Timeout: %.20q: want milliseconds, at most %d", text, maxPoll)
	}
	since, err := parseSince(r.Header.Get("If-Modified-Since"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(ms)*time.Millisecond)
	defer cancel()
	p, err := x.device.Wait(ctx, aliases[0], since)
	if r.Context().Err() != nil {
		select {
		case <-s.ending:
			return refuse(http.StatusServiceUnavailable, "the emulator is ending")
		default:
			panic(http.ErrAbortHandler) // the client has gone
		}
	}
	if errors.Is(err, cloud.ErrUnknown) {
		return gone(err)
	}
	if err != nil {
		answer(w, http.StatusNotModified, "", "")
		return nil
	}
	w.Header().Set("Last-Modified", p.Time.UTC().Format(http.TimeFormat))
	answer(w, http.StatusOK, formType, formatValues([]cloud.Point{p}))
	return nil
}

// parseSince reads a time as long polls have it. The zero time is for none.
func parseSince(s string) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	if isDigits(s) {
		return parseTime(s)
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return time.Time{}, wrong("If-Modified-Since: %.60q: want seconds since 1970, or a date such as %q", s, "Mon, 25 Dec 2017 10:00:00 GMT")
	}
	return t, nil
}

// record stores values with times of their own.
func (s *Server) record(w http.ResponseWriter, r *http.Request, x *exchange) error {
	fields, err := x.form(r)
	if err != nil {
		return err
	}
	points, err := parseRecord(fields)
	if err != nil {
		return err
	}
	return recordPoints(w, x.device, points)
}

// recordOne is the older form.
func (s *Server) recordOne(w http.ResponseWriter, r *http.Request, x *exchange) error {
	fields, err := x.form(r)
	if err != nil {
		return err
	}
	points, err := parseSeries(r.PathValue("alias"), fields)
	if err != nil {
		return err
	}
	return recordPoints(w, x.device, points)
}

func recordPoints(w http.ResponseWriter, d *cloud.Device, points []cloud.Point) error {
	for _, p := range points {
		if err := checkLength(p.Alias, p.Value); err != nil {
			return err
		}
	}
	clashes, err := d.Record(points...)
	if err != nil {
		return gone(err)
	}
	if len(clashes) > 0 {
		answer(w, http.StatusConflict, formType, formatClashes(clashes))
		return nil
	}
	answer(w, http.StatusNoContent, "", "")
	return nil
}
