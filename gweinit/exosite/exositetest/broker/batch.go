package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// microseconds is the first timestamp that is not one in seconds: seconds have
// ten digits until the year 2286, microseconds sixteen since 2001.
const microseconds = 1e12

const maxPoints = 10_000 // of one batch

// parseBatch reads [{"timestamp": T, "values": {ALIAS: VALUE}}]. T is seconds since
// 1970, whole or with a fraction, or microseconds. A VALUE that is not a string
// is stored as the JSON that it is.
func parseBatch(payload []byte) ([]cloud.Point, error) {
	const want = `want [{"timestamp": 1526046488, "values": {"alias": "value"}}]`
	var list []struct {
		Timestamp json.Number                `json:"timestamp"`
		Values    map[string]json.RawMessage `json:"values"`
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("batch: %w; %s", err, want)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("batch: there is more after it; " + want)
	}
	var points []cloud.Point
	for i, entry := range list {
		t, err := parseTime(entry.Timestamp.String())
		if err != nil {
			return nil, fmt.Errorf("batch, entry %d: %w", i+1, err)
		}
		aliases := make([]string, 0, len(entry.Values))
		for alias := range entry.Values {
			aliases = append(aliases, alias)
		}
		slices.Sort(aliases)
		for _, alias := range aliases {
			value := ""
			if raw := entry.Values[alias]; json.Unmarshal(raw, &value) != nil || string(raw) == "null" {
				value = string(raw)
			}
			points = append(points, cloud.Point{Alias: alias, Time: t, Value: value})
		}
		if len(points) > maxPoints {
			return nil, fmt.Errorf("batch: more than %d values", maxPoints)
		}
	}
	return points, nil
}

func parseTime(text string) (time.Time, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		if n >= microseconds {
			return time.UnixMicro(n), nil
		}
		return time.Unix(n, 0), nil
	}
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || f < 0 || f > math.MaxInt64/2:
		return time.Time{}, fmt.Errorf("timestamp %.40q: want seconds or microseconds since 1970", text)
	case f >= microseconds:
		return time.UnixMicro(int64(f)), nil
	}
	return time.UnixMicro(int64(math.Round(f * 1e6))), nil
}
