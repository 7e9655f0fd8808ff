package exositetest

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// field is a name and a value of a form. Their order matters.
type field struct{ name, value string }

const (
	maxFields = 10000
	maxName   = 256
)

// parseForm reads a body of application/x-www-form-urlencoded. The error says
// what is wrong where.
func parseForm(body string) ([]field, error) {
	var fields []field
	for at := 0; at < len(body); {
		text, _, _ := strings.Cut(body[at:], "&")
		start := at
		at += len(text) + 1
		if text == "" {
			continue // "a=1&&b=2" is harmless
		}
		if len(fields) == maxFields {
			return nil, refuse(http.StatusRequestEntityTooLarge, "more than %d names and values in a request", maxFields)
		}
		name, value, found := strings.Cut(text, "=")
		if !found {
			return nil, wrong("%s: want NAME=VALUE, there is no =", where(name, start))
		}
		f, err := decodeField(name, value, start)
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return fields, nil
}

func decodeField(name, value string, at int) (f field, err error) {
	for _, part := range []struct {
		what, text string
		to         *string
	}{{"name", name, &f.name}, {"value", value, &f.value}} {
		*part.to, err = url.QueryUnescape(part.text)
		if bad := url.EscapeError(""); errors.As(err, &bad) {
			return field{}, wrong("%s: in the %s, %q is not a percent-encoded byte; a %% itself is written as %%25", where(name, at), part.what, string(bad))
		}
		if err != nil {
			return field{}, wrong("%s: in the %s: %v", where(name, at), part.what, err)
		}
		if !utf8.ValidString(*part.to) {
			return field{}, wrong("%s: the %s is not UTF-8", where(name, at), part.what)
		}
	}
	if f.name == "" {
		return field{}, wrong("%s: want NAME=VALUE, the name is empty", where(name, at))
	}
	if len(f.name) > maxName {
		return field{}, wrong("%s: the name has %d bytes, want at most %d", where(name, at), len(f.name), maxName)
	}
	return f, nil
}

// where is a field of a form in an error.
func where(name string, at int) string { return fmt.Sprintf("%.40q at byte %d", name, at) }

// form has the fields of a request's body.
func (x *exchange) form(r *http.Request) ([]field, error) {
	if err := checkType(r, "application/x-www-form-urlencoded"); err != nil {
		return nil, err
	}
	return parseForm(x.body)
}

// checkType allows a body of the type, and of none that is said.
func checkType(r *http.Request, want string) error {
	got := r.Header.Get("Content-Type")
	if got == "" {
		return nil
	}
	mediaType, params, err := mime.ParseMediaType(got)
	if err != nil {
		return wrong("Content-Type %.60q: %v", got, err)
	}
	if mediaType != want {
		return wrong("Content-Type %.60q: want %s; charset=utf-8", got, want)
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return wrong("Content-Type %.60q: want charset=utf-8", got)
	}
	return nil
}

// parseAliases reads the names in the query of a read.
func parseAliases(query string) ([]string, error) {
	var aliases []string
	seen := map[string]bool{}
	for at := 0; at < len(query); {
		text, _, _ := strings.Cut(query[at:], "&")
		start := at
		at += len(text) + 1
		if text == "" {
			continue
		}
		name, value, _ := strings.Cut(text, "=")
		if value != "" {
			return nil, wrong("query: %s has a value; a read has aliases only, such as ?a&b", where(name, start))
		}
		f, err := decodeField(name, "", start)
		if err != nil {
			return nil, wrong("query: %w", err)
		}
		if len(aliases) == maxFields {
			return nil, refuse(http.StatusRequestEntityTooLarge, "more than %d aliases in a request", maxFields)
		}
		if !seen[f.name] {
			seen[f.name] = true
			aliases = append(aliases, f.name)
		}
	}
	return aliases, nil
}

// formatValues is the answer of a read.
func formatValues(points []cloud.Point) string {
	var b strings.Builder
	for i, p := range points {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(p.Alias))
		b.WriteByte('=')
		b.WriteString(url.QueryEscape(p.Value))
	}
	return b.String()
}

// parseRecord reads "alias=a&<time>=v&<time>=v&alias=b&<time>=v".
func parseRecord(fields []field) ([]cloud.Point, error) {
	var points []cloud.Point
	alias := ""
	for _, f := range fields {
		if f.name == "alias" {
			if alias = f.value; alias == "" {
				return nil, wrong("alias= has no name of a resource")
			}
			continue
		}
		if alias == "" {
			return nil, wrong("%.40q: want alias=NAME before the first time, such as alias=a&1513931066=1", f.name)
		}
		p, err := parsePoint(alias, f)
		if err != nil {
			return nil, err
		}
		points = append(points, p)
	}
	if len(points) == 0 {
		return nil, wrong("no values: the body has to be alias=NAME&<seconds since 1970>=VALUE")
	}
	return points, nil
}

// parseSeries reads "<time>=v&<time>=v", the older form with the alias in the
// path.
func parseSeries(alias string, fields []field) ([]cloud.Point, error) {
	if alias == "" || !utf8.ValidString(alias) || len(alias) > maxName {
		return nil, wrong("alias %.40q in the path: want a name in UTF-8 of at most %d bytes", alias, maxName)
	}
	var points []cloud.Point
	for _, f := range fields {
		p, err := parsePoint(alias, f)
		if err != nil {
			return nil, err
		}
		points = append(points, p)
	}
	if len(points) == 0 {
		return nil, wrong("no values: the body has to be <seconds since 1970>=VALUE")
	}
	return points, nil
}

func parsePoint(alias string, f field) (cloud.Point, error) {
	t, err := parseTime(f.name)
	return cloud.Point{Alias: alias, Time: t, Value: f.value}, err
}

// parseTime reads seconds since 1970, whole or with a fraction, of which
// microseconds count.
func parseTime(s string) (time.Time, error) {
	whole, fraction, dot := strings.Cut(s, ".")
	const most = 12 // digits of the year 9999
	if !isDigits(whole) || len(whole) > most || dot && !isDigits(fraction) {
		return time.Time{}, wrong("time %.40q: want seconds since 1970, such as 1513931066 or 1513931066.25", s)
	}
	sec, _ := strconv.ParseInt(whole, 10, 64)
	micro, _ := strconv.ParseInt((fraction + "000000")[:6], 10, 64)
	return time.Unix(sec, micro*1000).UTC(), nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// formatTime is the reverse of parseTime.
func formatTime(t time.Time) string {
	s := strconv.FormatInt(t.Unix(), 10)
	if micro := t.Nanosecond() / 1000; micro > 0 {
		s += strings.TrimRight(fmt.Sprintf(".%06d", micro), "0")
	}
	return s
}

// formatClashes is "a=<time>,<time>&b=<time>".
func formatClashes(clashes []cloud.Point) string {
	var order []string
	times := map[string][]string{}
	for _, p := range clashes {
		if times[p.Alias] == nil {
			order = append(order, p.Alias)
		}
		times[p.Alias] = append(times[p.Alias], formatTime(p.Time))
	}
	var b strings.Builder
	for i, alias := range order {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(alias) + "=" + strings.Join(times[alias], ","))
	}
	return b.String()
}

// parseSerials reads lines of "sn" or "sn,extra".
func parseSerials(body string) ([]cloud.Serial, error) {
	lines := csv.NewReader(strings.NewReader(strings.TrimPrefix(body, "\ufeff")))
	lines.FieldsPerRecord = -1
	lines.TrimLeadingSpace = true
	var serials []cloud.Serial
	for {
		fields, err := lines.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, wrong("not CSV: %v", err)
		}
		line, _ := lines.FieldPos(0)
		if len(fields) > 2 {
			return nil, wrong("line %d has %d fields, want SN or SN,EXTRA; a field with a comma is put in quotes", line, len(fields))
		}
		s := cloud.Serial{SN: fields[0]}
		if len(fields) == 2 {
			s.Extra = fields[1]
		}
		if !utf8.ValidString(s.SN) || !utf8.ValidString(s.Extra) {
			return nil, wrong("line %d is not UTF-8", line)
		}
		serials = append(serials, s)
	}
	if len(serials) == 0 {
		return nil, wrong("no serial numbers: the body has to be lines of SN or SN,EXTRA")
	}
	return serials, nil
}

// formatCSV has a line for each row.
func formatCSV(rows ...[]string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	w.WriteAll(rows)
	return b.String()
}
