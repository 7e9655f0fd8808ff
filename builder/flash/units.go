package flash

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/exosite/gwe/gweinit/config"
)

// Unit is a gateway to be: what its card alone has.
type Unit struct {
	Serial string
	MAC    string // if it is known beforehand; "" otherwise
}

// Serials are where serial numbers come from.
type Serials interface {
	// Next returns the next one. used are those that are given away for good. The
	// error is ErrNoSerials if there is none.
	Next(used map[string]bool) (Unit, error)
	// Longest is one of the longest.
	Longest() string
}

// ErrNoSerials is when all serial numbers are used.
var ErrNoSerials = errors.New("no serial number is left")

// Counter makes serial numbers such as GW-000123 of a pattern GW-######.
type Counter struct {
	prefix, suffix string
	digits         int
	first          int64
}

// NewCounter reads a pattern, which has one run of #, the digits. The first
// number is given if none is used yet that is as large.
func NewCounter(pattern string, first int) (Counter, error) {
	i := strings.IndexByte(pattern, '#')
	j := strings.LastIndexByte(pattern, '#') + 1
	if i < 0 || strings.Trim(pattern[i:j], "#") != "" || j-i > 18 {
		return Counter{}, fmt.Errorf("serial numbers %q: want one run of at most 18 #, which stand for the digits of a counter", pattern)
	}
	c := Counter{pattern[:i], pattern[j:], j - i, int64(first)}
	if err := checkSerial(c.Longest()); err != nil {
		return Counter{}, err
	}
	return c, nil
}

func (c Counter) text(n int64) string {
	return fmt.Sprintf("%s%0*d%s", c.prefix, c.digits, n, c.suffix)
}

// Longest is the last one.
func (c Counter) Longest() string { return c.prefix + strings.Repeat("9", c.digits) + c.suffix }

// Next is one more than the largest that is used: a gap is a card that failed, and
// may be on a label.
func (c Counter) Next(used map[string]bool) (Unit, error) {
	next := c.first
	for serial := range used {
		middle, ok := strings.CutPrefix(serial, c.prefix)
		middle, ok2 := strings.CutSuffix(middle, c.suffix)
		// A spreadsheet takes the zeros away from numbers.
		short := c.prefix == "" && c.suffix == "" && 0 < len(middle) && len(middle) < c.digits
		if !ok || !ok2 || len(middle) != c.digits && !short || strings.Trim(middle, "0123456789") != "" {
			continue
		}
		if n, err := strconv.ParseInt(middle, 10, 64); err == nil && n >= next {
			next = n + 1
		}
	}
	if unit := c.text(next); len(unit) == len(c.Longest()) {
		return Unit{Serial: unit}, nil
	}
	return Unit{}, fmt.Errorf("%w: the last one of the pattern, %s, is used", ErrNoSerials, c.Longest())
}

// List is serial numbers in the order of a file.
type List []Unit

// ReadList reads a CSV file. If its first line names a column "serial", it may
// have a column "mac" and others beside; else the first column counts.
func ReadList(path string) (List, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the serial numbers: %w", err)
	}
	defer f.Close()
	list, err := readList(f)
	if err != nil {
		return nil, fmt.Errorf("serial numbers in %s: %w", path, err)
	}
	return list, nil
}

func readList(in io.Reader) (List, error) {
	r := csv.NewReader(in)
	r.Comment, r.FieldsPerRecord, r.TrimLeadingSpace = '#', -1, true
	var list List
	serial, mac := 0, -1
	lines := map[string]int{}
	for first := true; ; first = false {
		fields, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		for i := range fields {
			fields[i] = strings.TrimSpace(strings.TrimPrefix(fields[i], "\uFEFF"))
		}
		if first {
			columns := map[string]int{}
			for i, name := range fields {
				columns[strings.ToLower(name)] = i
			}
			if i, ok := columns["serial"]; ok {
				serial = i
				if i, ok := columns["mac"]; ok {
					mac = i
				}
				continue
			}
			if !strings.ContainsAny(fields[0], "0123456789") {
				return nil, fmt.Errorf("line 1: %q has no digit: if this is a heading, that of the serial numbers has to be \"serial\"", fields[0])
			}
		}
		line, _ := r.FieldPos(0)
		if serial >= len(fields) {
			return nil, fmt.Errorf("line %d has no serial number", line)
		}
		u := Unit{Serial: fields[serial]}
		if mac >= 0 && mac < len(fields) {
			u.MAC = fields[mac]
		}
		if err := checkSerial(u.Serial); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if before := lines[u.Serial]; before > 0 {
			return nil, fmt.Errorf("line %d: %s is on line %d, too", line, u.Serial, before)
		}
		lines[u.Serial] = line
		list = append(list, u)
	}
	if len(list) == 0 {
		return nil, errors.New("there are none")
	}
	return list, nil
}

// Next is the first that is not used.
func (l List) Next(used map[string]bool) (Unit, error) {
	for _, u := range l {
		if !used[u.Serial] {
			return u, nil
		}
	}
	return Unit{}, fmt.Errorf("%w: all %d of the list are used", ErrNoSerials, len(l))
}

// Longest is the longest of the list.
func (l List) Longest() (longest string) {
	for _, u := range l {
		if len(u.Serial) > len(longest) {
			longest = u.Serial
		}
	}
	return longest
}

// Given is one serial number that somebody has chosen, for a card.
type Given struct {
	Unit  Unit
	Again bool // it is used: the unit is flashed again
}

// Next is the one, if it may be used.
func (g Given) Next(used map[string]bool) (Unit, error) {
	if g.Again && !used[g.Unit.Serial] {
		return Unit{}, fmt.Errorf("serial number %s is not in this log, so no unit with it can be flashed again", g.Unit.Serial)
	}
	if used[g.Unit.Serial] && !g.Again {
		return Unit{}, fmt.Errorf("serial number %s is used: -again flashes a unit again", g.Unit.Serial)
	}
	return g.Unit, nil
}

// Longest is the one.
func (g Given) Longest() string { return g.Unit.Serial }

// checkSerial says what is wrong with a serial number, as the gateway would.
func checkSerial(serial string) error {
	if !config.IsSerial(serial) {
		return fmt.Errorf("%q is not a serial number: letters, digits and -._:@, at most 128", serial)
	}
	return nil
}

// Settings are what the gateways of a line have in common.
type Settings struct{ config.Provision }

// ReadSettings reads a provision.yaml, for units with these serial numbers; nil:
// they have none of their own.
func ReadSettings(path string, serials Serials) (Settings, error) {
	var s Settings
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return s, fmt.Errorf("read the settings: %w", err)
		}
		text, _ = config.Text(text)
		if s.Provision, err = config.ParseProvision(text); err != nil {
			return s, fmt.Errorf("settings in %s: %w", path, err)
		}
	}
	if s.Serial != "" {
		return s, fmt.Errorf("settings in %s: serial is %s, and would be that of all cards: take it out, and give it with -serial", path, s.Serial)
	}
	longest := ""
	if serials != nil {
		longest = serials.Longest()
		if err := checkSerial(longest); err != nil {
			return s, err
		}
		if path == "" {
			return s, nil
		}
	}
	if _, err := s.file(longest); err != nil {
		return s, fmt.Errorf("settings in %s: %w", path, err)
	}
	return s, nil
}

// file is the provision.yaml of a unit.
func (s Settings) file(serial string) ([]byte, error) {
	p := s.Provision
	p.Serial = serial
	return config.File(p.YAML())
}
