package exosite

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// escape percent-encodes all but RFC 3986's unreserved characters, so that it
// is right in queries and in forms.
func escape(b *strings.Builder, s string) {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
}

// form is one that is being written.
type form struct{ b strings.Builder }

// add adds name=value.
func (f *form) add(name, value string) {
	f.name(name)
	f.b.WriteByte('=')
	escape(&f.b, value)
}

// name adds a name without a value.
func (f *form) name(name string) {
	if f.b.Len() > 0 {
		f.b.WriteByte('&')
	}
	escape(&f.b, name)
}

func (f *form) String() string { return f.b.String() }

// maxValue is how long a value may be.
const maxValue = 1 << 20

// parseForm reads name=value&..., of which there may be max. A + is a blank.
func parseForm(body string, max int) (map[string]string, error) {
	values := make(map[string]string)
	if body = strings.TrimRight(body, "\r\n"); body == "" {
		return values, nil
	}
	for field := range strings.SplitSeq(body, "&") {
		if max--; max < 0 {
			return nil, errors.New("the answer has more values than were asked for")
		}
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("the answer's %.40q has no =", field)
		}
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, fmt.Errorf("the answer's name is malformed: %w", err)
		}
		value, err = url.QueryUnescape(value)
		if err != nil {
			return nil, fmt.Errorf("the answer's value of %.40q is malformed: %w", name, err)
		}
		if len(value) > maxValue {
			return nil, fmt.Errorf("the answer's value of %.40q has %d bytes; it may have %d", name, len(value), maxValue)
		}
		values[name] = value
	}
	return values, nil
}

// formatTime is unix seconds, with a fraction down to the microsecond if there
// is one.
func formatTime(t time.Time) string {
	s := strconv.FormatInt(t.Unix(), 10)
	if micros := t.Nanosecond() / 1000; micros != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%06d", micros), "0")
	}
	return s
}

// parseTime reads unix seconds, with a fraction or not.
func parseTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	nanos := fraction
	if len(nanos) > 9 {
		nanos = nanos[:9]
	}
	nanos += strings.Repeat("0", 9-len(nanos))
	// Twelve digits are enough for 30,000 years.
	if whole == "" || len(whole) > 12 || len(fraction) > 30 || strings.Trim(whole+fraction, "0123456789") != "" {
		return time.Time{}, fmt.Errorf("%.40q is not a time in unix seconds", s)
	}
	sec, _ := strconv.ParseInt(whole, 10, 64)
	nsec, _ := strconv.ParseInt(nanos, 10, 64)
	return time.Unix(sec, nsec), nil
}

// parseDate reads a header's date, which may be unix seconds too; zero: it is
// neither.
func parseDate(s string) time.Time {
	if t, err := http.ParseTime(s); err == nil {
		return t
	}
	t, _ := parseTime(s)
	return t
}

// maxRetryAfter is how long a server can keep a client waiting.
const maxRetryAfter = 10 * time.Minute

// parseRetryAfter reads Retry-After: seconds, or a date, which is compared with
// the answer's own if there is one, as the clock may be wrong. 0: there is none.
func parseRetryAfter(after, date string, now time.Time) time.Duration {
	if after = strings.TrimSpace(after); after == "" {
		return 0
	}
	if strings.Trim(after, "0123456789") == "" {
		if len(after) > 6 {
			return maxRetryAfter
		}
		n, _ := strconv.Atoi(after)
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(after)
	if err != nil {
		return 0
	}
	if t, err := http.ParseTime(date); err == nil {
		now = t
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// parseConflict reads alias=<time>,<time>&..., of at most max times.
func parseConflict(body string, max int) (map[string][]time.Time, error) {
	fields, err := parseForm(body, max)
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		return nil, errors.New("the answer does not say what clashes")
	}
	times := make(map[string][]time.Time)
	for alias, list := range fields {
		for s := range strings.SplitSeq(list, ",") {
			t, err := parseTime(strings.TrimSpace(s))
			if err != nil {
				return nil, err
			}
			if max--; max < 0 {
				return nil, errors.New("the answer has more times than were recorded")
			}
			times[alias] = append(times[alias], t)
		}
	}
	return times, nil
}

// parseList reads the ids of content, one a line.
func parseList(body string) []string {
	var ids []string
	for line := range strings.Lines(body) {
		if id := strings.TrimRight(line, "\r\n"); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// parseInfo reads <content-type>,<size>,<updated>,<meta>. Only meta may have
// commas.
func parseInfo(body string) (ContentInfo, error) {
	parts := strings.SplitN(strings.TrimRight(body, "\r\n"), ",", 4)
	if len(parts) < 3 {
		return ContentInfo{}, fmt.Errorf("the answer is %.60q, and not <content-type>,<size>,<updated>,<meta>", body)
	}
	size, err := parseSize(parts[1])
	if err != nil {
		return ContentInfo{}, err
	}
	updated, err := parseTime(parts[2])
	if err != nil {
		return ContentInfo{}, err
	}
	info := ContentInfo{Type: parts[0], Size: size, Updated: updated}
	if len(parts) == 4 {
		info.Meta = parts[3]
	}
	return info, nil
}

func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a size in bytes", s)
	}
	return int64(n), nil
}

// parseContentRange reads "bytes <first>-<last>/<size>". The size is -1 if the
// server does not know it.
func parseContentRange(s string) (first, last, size int64, err error) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if ok && ok2 && ok3 {
		first, err = parseSize(from)
		if err == nil {
			last, err = parseSize(to)
		}
		size = -1
		if err == nil && total != "*" {
			size, err = parseSize(total)
		}
		if err == nil && first <= last && (size < 0 || last < size) {
			return first, last, size, nil
		}
	}
	return 0, 0, 0, fmt.Errorf("the answer's Content-Range is %.60q", s)
}
