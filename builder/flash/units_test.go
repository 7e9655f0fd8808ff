package flash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/config"
)

func set(serials ...string) map[string]bool {
	used := map[string]bool{}
	for _, s := range serials {
		used[s] = true
	}
	return used
}

func TestCounter(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		first   int
		used    []string
		want    string
	}{
		{"GW-######", 1, nil, "GW-000001"},
		{"GW-######", 1, []string{"GW-000001", "GW-000007"}, "GW-000008"}, // the gap stays
		{"GW-######", 500, []string{"GW-000007"}, "GW-000500"},
		{"GW-######", 5, []string{"GW-000007"}, "GW-000008"},
		{"GW-##", 1, []string{"GW-1", "GW-003", "GX-04", "GW-0x", "GW-+5", "GW-", "", "GW-06b", "aGW-06"}, "GW-01"},
		{"A#", 0, nil, "A0"},
		{"######", 1, []string{"12", "000007"}, "000013"}, // a spreadsheet's
		{"######", 1, []string{"", "-3", "1.5"}, "000001"},
		{"#:b", 0, []string{"8:b"}, "9:b"},
		{"#:b", 0, []string{"9:b"}, "no serial number is left: the last one of the pattern, 9:b, is used"},
		{"GW-##", 100, nil, "no serial number is left: the last one of the pattern, GW-99, is used"},
		{"GW-###", 99, []string{"GW-099"}, "GW-100"},
		{"##################", 1, []string{"123456789012345678"}, "123456789012345679"},
		{"GW", 1, nil, "want one run of at most 18 #"},
		{"#a#", 1, nil, "want one run of at most 18 #"},
		{strings.Repeat("#", 19), 1, nil, "want one run of at most 18 #"},
		{"GW #", 1, nil, `"GW 9" is not a serial number`},
		{"-#", 1, nil, `"-9" is not a serial number`},
	} {
		c, err := NewCounter(tt.pattern, tt.first)
		unit := Unit{}
		if err == nil {
			if unit, err = c.Next(set(tt.used...)); err != nil && !errors.Is(err, ErrNoSerials) {
				t.Errorf("%s: %v is not ErrNoSerials", tt.pattern, err)
			}
		}
		if got := fmt.Sprint(unit.Serial, err); !strings.Contains(got, tt.want) {
			t.Errorf("%s after %q: %s, want %s", tt.pattern, tt.used, got, tt.want)
		}
	}
}

func TestList(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"GW-1\nGW-2\n", "[{GW-1 } {GW-2 }]"},
		{"GW-1,x\n# no\n\n GW-2 ,y,z\n", "[{GW-1 } {GW-2 }]"},
		{"\uFEFFSerial,MAC\r\nGW-1,00:11:22:33:44:55\r\nGW-2\r\n", "[{GW-1 00:11:22:33:44:55} {GW-2 }]"},
		{"order,serial\n7,GW-1\n8,GW-2\n", "[{GW-1 } {GW-2 }]"},
		{"order,serial\n7,GW-1\n8\n", "line 3 has no serial number"},
		{"GW-1\nGW-2\n\nGW-1\n", "line 4: GW-1 is on line 1, too"},
		{"GW-1\nGW 2\n", `line 2: "GW 2" is not a serial number`},
		{"sn\nGW-1\n", `line 1: "sn" has no digit: if this is a heading, that of the serial numbers has to be "serial"`},
		{"GW-1;x\n", `line 1: "GW-1;x" is not a serial number`},
		{"", "there are none"},
		{"serial\n", "there are none"},
		{"\"a\nb", "line 1"},
	} {
		list, err := readList(strings.NewReader(tt.text))
		if got := fmt.Sprint([]Unit(list), err); !strings.Contains(got, tt.want) {
			t.Errorf("%q: %s, want %s", tt.text, got, tt.want)
		}
	}
	list, err := readList(strings.NewReader("serial\na\nccc\nbb\n"))
	if err != nil || list.Longest() != "ccc" {
		t.Errorf("the longest is %q, %v", list.Longest(), err)
	}
	for _, tt := range []struct {
		used []string
		want string
	}{{nil, "{a } <nil>"}, {[]string{"a"}, "{ccc } <nil>"}, {[]string{"ccc", "x"}, "{a } <nil>"}, {[]string{"bb", "ccc", "a"}, "{ } no serial number is left: all 3 of the list are used"}} {
		unit, err := list.Next(set(tt.used...))
		if got := fmt.Sprint(unit, err); got != tt.want {
			t.Errorf("after %q: %s, want %s", tt.used, got, tt.want)
		}
	}
	if _, err := ReadList(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "read the serial numbers: open") {
		t.Errorf("no file: %v", err)
	}
}

func FuzzList(f *testing.F) {
	f.Add("serial,mac\nGW-1,x\n\"GW-2\",y\n")
	f.Add("GW-1\nGW-2\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := readList(strings.NewReader(text))
		if err != nil {
			return
		}
		used := map[string]bool{}
		for range list {
			unit, err := list.Next(used)
			if err != nil || used[unit.Serial] || !config.IsSerial(unit.Serial) {
				t.Fatalf("%+v, %v after %v", unit, err, used)
			}
			used[unit.Serial] = true
		}
		if _, err := list.Next(used); !errors.Is(err, ErrNoSerials) {
			t.Errorf("at the end: %v", err)
		}
	})
}

func TestGiven(t *testing.T) {
	if u, err := (Given{Unit: Unit{Serial: "a"}}).Next(set("b")); err != nil || u.Serial != "a" {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := (Given{Unit: Unit{Serial: "a"}}).Next(set("a")); err == nil || err.Error() != "serial number a is used: -again flashes a unit again" {
		t.Errorf("%v", err)
	}
	if _, err := (Given{Unit: Unit{Serial: "a"}, Again: true}).Next(set("b")); err == nil || !strings.Contains(err.Error(), "a is not in this log") {
		t.Errorf("%v", err)
	}
	if u, err := (Given{Unit: Unit{Serial: "a"}, Again: true}).Next(set("a")); err != nil || u.Serial != "a" {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "line.yaml")
	read := func(text, serial string) (Settings, error) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var serials Serials
		if serial != "" {
			serials = Given{Unit: Unit{Serial: serial}}
		}
		return ReadSettings(path, serials)
	}
	s, err := read("\uFEFFproduct: p\r\nnetwork: {hostname: x}\r\n", "GW-1")
	if err != nil {
		t.Fatal(err)
	}
	file, err := s.file("GW-1")
	if err != nil || len(file) != config.FileSize {
		t.Fatalf("%d bytes, %v", len(file), err)
	}
	text, _ := config.Text(file)
	if p, err := config.ParseProvision(text); err != nil || p.Serial != "GW-1" || p.Product != "p" || p.Network == nil || p.Network.Hostname != "x" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := read("product: p\n", ""); err != nil {
		t.Errorf("without serial numbers: %v", err)
	}
	if _, err := ReadSettings("", Given{Unit: Unit{Serial: "GW 1"}}); err == nil || err.Error() != `"GW 1" is not a serial number: letters, digits and -._:@, at most 128` {
		t.Errorf("without a file, and no serial number: %v", err)
	}
	if s, err := ReadSettings("", Given{Unit: Unit{Serial: "GW-1"}}); err != nil || s.Product != "" {
		t.Errorf("without a file: %+v, %v", s, err)
	}
	for _, tt := range []struct{ text, want string }{
		{"product: a b\n", "line 1: product"},
		{"product: p\nserial: GW-1\n", "serial is GW-1, and would be that of all cards: take it out, and give it with -serial"},
		{"product: p\nnetwork: {wifi: {ssid: x}}\n", "this firmware has no Wi-Fi"},
		{"# nothing\n", "nothing is set in it"},
	} {
		if _, err := read(tt.text, ""); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.want)
		}
	}
	if _, err := ReadSettings(filepath.Join(t.TempDir(), "none"), nil); err == nil || !strings.Contains(err.Error(), "read the settings: open") {
		t.Errorf("no file: %v", err)
	}
}
