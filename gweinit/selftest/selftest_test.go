package selftest

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
)

var pass = Result{true, "GW-000123", "52:54:00:12:34:56", "rpi3", "1.0.0", OK, OK, ""}

const passLine = "selftest pass serial=GW-000123 mac=52:54:00:12:34:56 board=rpi3 version=1.0.0 storage=ok network=ok sum=e8afc575"

func TestString(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, tt := range []struct {
		name string
		r    Result
		want string // without the sum
	}{
		{"pass", pass, strings.TrimSuffix(passLine, " sum=e8afc575")},
		{"nothing", Result{}, `selftest fail serial="" mac="" board="" version="" storage="" network=""`},
		{"no cable", Result{false, "a b", "AA:BB:CC:DD:EE:FF", "rpi3", "1.2.0+3.gabcdef0~rc1", OK, "eth0: no \"carrier\"\r\n\x1b[1m\x00ü\xff", ""},
			`selftest fail serial="a b" mac=AA:BB:CC:DD:EE:FF board=rpi3 version=1.2.0+3.gabcdef0~rc1 storage=ok network="eth0: no \"carrier\"\r\n\x1b[1m\x00\u00fc\xff"`},
		{"a pass that is none", Result{true, "s", "m", "b", "v", OK, "no", ""}, "selftest fail serial=s mac=m board=b version=v storage=ok network=no"},
		{"boot", Result{true, "s", "m", "b", "v", OK, OK, "failed: take calls"}, `selftest fail serial=s mac=m board=b version=v storage=ok network=ok boot="failed: take calls"`},
		{"long", Result{false, long, long, long, long, strings.Repeat("ü ", 100), strings.Repeat("\n", 44), long},
			"selftest fail serial=" + long[:125] + "... mac=" + long[:17] + "... board=" + long[:29] + "... version=" + long[:45] + `... storage="` +
				strings.Repeat(`\u00fc `, 12) + `..." network="` + strings.Repeat(`\n`, 44) + `" boot=` + long[:87] + "..."},
	} {
		got := tt.r.String()
		line, sum, _ := strings.Cut(got, " sum=")
		if line != tt.want || len(sum) != 8 || len(got) > 600 {
			t.Errorf("%s: %d bytes\n%s\nwant\n%s", tt.name, len(got), got, tt.want)
		}
	}
	if got := pass.String(); got != passLine {
		t.Errorf("the sum is another now:\n%s\n%s", got, passLine)
	}
}

func TestParse(t *testing.T) {
	fail := Result{Serial: "GW 7", Storage: OK, Network: `eth0: "no cable"`}
	booted := Result{Serial: "GW-7", MAC: "m", Board: "b", Version: "v", Storage: OK, Network: OK, Boot: "failed: take calls"}
	garbled := strings.Replace(passLine, "000123", "00123", 1)
	for _, tt := range []struct {
		name, line string
		want       Result
		ok         bool
	}{
		{"the line", passLine, pass, true},
		{"PID 1's", "gweinit: " + passLine + "\r\n", pass, true},
		{"the kernel's", "<6>[    3.401234] gweinit: " + passLine, pass, true},
		{"behind noise", "\xff\x00\x80~ # \x1b[6n\x1b[0;1mgweinit: selftest pass serial= selftest " + passLine + "\x1b[0m ~ # ", pass, true},
		{"behind a torn one", passLine[:90] + passLine, pass, true},
		{"before noise", passLine + "\xff\xfe", pass, true},
		{"fail", fail.String(), fail, true},
		{"boot", booted.String() + "\r\n", booted, true},
		{"empty", "", Result{}, false},
		{"another word", strings.Replace(passLine, "pass", "skip", 1), Result{}, false},
		{"a byte is lost", garbled, Result{}, false},
		{"a key is missing", strings.Replace(passLine, "board=rpi3 ", "", 1), Result{}, false},
		{"another order", "selftest pass mac=m serial=s board=b version=v storage=ok network=ok sum=00000000", Result{}, false},
		{"no value", strings.Replace(passLine, "rpi3", "", 1), Result{}, false},
		{"boot has no value", strings.Replace(booted.String(), `"failed: take calls"`, "", 1), Result{}, false},
		{"a quote without end", strings.Replace(passLine, "rpi3", `"rpi3`, 1), Result{}, false},
	} {
		if got, ok := Parse(tt.line); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %v, %v", tt.name, got, ok)
		}
	}
	for _, r := range []Result{fail, booted} { // a pass that says what is wrong, with the right sum
		line, _, _ := strings.Cut(strings.Replace(r.String(), "fail", "pass", 1), " sum=")
		if got, ok := Parse(fmt.Sprintf("%s sum=%08x", line, crc32.ChecksumIEEE([]byte(line)))); ok {
			t.Errorf("a pass that is none: %v", got)
		}
	}
}

// A line that was cut, or lacks a byte, is never a result.
func TestTorn(t *testing.T) {
	for _, whole := range []string{passLine, Result{Serial: "a b", MAC: "m", Board: "b", Version: "v", Storage: `x "y"`, Network: "z", Boot: "u v"}.String()} {
		for i := range whole {
			if r, ok := Parse(whole[:i]); ok {
				t.Errorf("%q is %v", whole[:i], r)
			}
			if r, ok := Parse(whole[:i] + "\n"); ok {
				t.Errorf("%q is %v", whole[:i], r)
			}
			if r, ok := Parse(whole[:i] + whole[i+1:]); ok {
				t.Errorf("%q is %v", whole[:i]+whole[i+1:], r)
			}
		}
	}
}

func TestJSON(t *testing.T) {
	text, err := json.Marshal(pass)
	if want := `{"pass":true,"serial":"GW-000123","mac":"52:54:00:12:34:56","board":"rpi3","version":"1.0.0","storage":"ok","network":"ok"}`; err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(passLine)
	f.Add("gweinit: " + Result{Serial: "a b", Network: "x\n\x1b"}.String() + "\r")
	f.Add(`selftest fail serial="\x00" mac= `)
	f.Fuzz(func(t *testing.T, line string) {
		r, ok := Parse(line)
		if !ok {
			if r != (Result{}) {
				t.Errorf("%v beside false", r)
			}
			return
		}
		if again, ok := Parse(r.String()); !ok || again.Pass != r.Pass {
			t.Errorf("%q is %v, then %v", line, r, again)
		}
	})
}

func FuzzString(f *testing.F) {
	f.Add(true, "GW-1", "m", "b", "v", OK, OK, "")
	f.Add(false, "GW 1", strings.Repeat("ü", 300), "\xff\xff", "\n", "\"", strings.Repeat("\x00", 300), "ü")
	f.Fuzz(func(t *testing.T, pass bool, serial, mac, board, version, storage, network, boot string) {
		r := Result{pass, serial, mac, board, version, storage, network, boot}
		line := r.String()
		if len(line) > 600 || strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("%d bytes: %q", len(line), line)
		}
		got, ok := Parse("gweinit: " + line + "\r\n")
		if !ok || got.String() != line || got.Pass != (pass && storage == OK && network == OK && boot == "") {
			t.Errorf("%+v\nis %s\nand %+v", r, line, got)
		}
	})
}
