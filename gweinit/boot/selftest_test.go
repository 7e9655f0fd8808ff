package boot

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exosite/gwe/gweinit/clock"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/network"
	"github.com/exosite/gwe/gweinit/network/settings"
	"github.com/exosite/gwe/gweinit/selftest"
	"github.com/exosite/gwe/gweinit/slot"
)

func TestReadSelftest(t *testing.T) {
	pass := selftest.Result{Pass: true, Serial: "GW-1", Storage: selftest.OK, Network: selftest.OK}
	text, err := json.Marshal(pass)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text string
		want       selftest.Result
	}{
		{"none", "", selftest.Result{}},
		{"a pass", string(text), pass},
		{"a fail", strings.Replace(string(text), "true", "false", 1), selftest.Result{}},
		{"torn", string(text[:len(text)-1]), selftest.Result{}},
		{"zeros", strings.Repeat("\x00", len(text)), selftest.Result{}},
		{"something else", `["pass"]`, selftest.Result{}},
		{"odd types", `{"pass":true,"serial":7}`, selftest.Result{}},
		{"too long", string(text) + strings.Repeat(" ", 4<<10), selftest.Result{}},
	} {
		dir := t.TempDir()
		if tt.text != "" {
			if err := os.WriteFile(filepath.Join(dir, selftestFile), []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := readSelftest(dir); got != tt.want || err != nil {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, selftestFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := readSelftest(dir); got.Pass || err != nil {
		t.Errorf("a folder: %+v, %v", got, err)
	}
}

func TestWriting(t *testing.T) {
	going, gone := func() bool { return false }, func() bool { return true }
	dir := t.TempDir()
	path := filepath.Join(dir, ".selftest")
	if err := os.WriteFile(path, []byte("of a boot before"), 0o400); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		stop       func() bool
		want       string // in the error
	}{
		{"over what is left", path, going, ""},
		{"again", path, going, ""},
		{"on the way down", path, gone, "was ended"},
		{"a folder that is not there", filepath.Join(dir, "x", "y"), going, "no such file"},
	} {
		err := testWriting(tt.path, tt.stop)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left, %v", tt.name, left, err)
		}
	}
}

func TestGrown(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name              string
		disk, start, size string // sectors
		fs                uint64
		want              string // in the error
	}{
		{"the image on a card of its size", "262144\n", "198656\n", "61440\n", 25 * mib, ""},
		{"2 GiB", "4194304\n", "198656\n", "3993600\n", 1930 * mib, ""},
		{"the partition has not grown", "4194304\n", "198656\n", "61440\n", 25 * mib, "ends at 127 MiB of a disk of 2048 MiB"},
		{"the file system has not grown", "4194304\n", "198656\n", "3993600\n", 25 * mib, "/data has 25 MiB of a partition of 1950 MiB"},
		{"the file system has grown by half", "4194304\n", "198656\n", "3993600\n", 1000 * mib, "/data has 1000 MiB"},
		{"1 TB", "1953525168\n", "198656\n", "1953324000\n", 945000 * mib, ""},
		{"no numbers", "x\n", "198656\n", "61440\n", 25 * mib, `size: strconv.ParseUint: parsing "x"`},
	} {
		dir := t.TempDir()
		part := filepath.Join(dir, "vda", "vda7")
		if err := os.MkdirAll(part, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"../size": tt.disk, "start": tt.start, "size": tt.size} {
			if err := os.WriteFile(filepath.Join(part, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err := testGrown(part, tt.fs)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := testGrown(t.TempDir(), 1); !os.IsNotExist(err) {
		t.Errorf("no partition: %v", err)
	}
}

func TestBootStateCopies(t *testing.T) {
	valid := slot.State{Seq: 7, Good: slot.A}.Encode()
	for _, tt := range []struct {
		name          string
		first, second []byte
		want          string
	}{
		{"both", valid, valid, ""},
		{"the first is lost", make([]byte, slot.CopySize), valid, "copy 1 of the boot state: CRC"},
		{"the second is lost", valid, make([]byte, slot.CopySize), "copy 2 of the boot state: CRC"},
		{"the partition is cut off", valid, valid[:100], "copy 2 of the boot state: EOF"},
	} {
		path := filepath.Join(t.TempDir(), "ubenv")
		buf := make([]byte, slot.SecondCopy, slot.SecondCopy+slot.CopySize)
		copy(buf, tt.first)
		if err := os.WriteFile(path, append(buf, tt.second...), 0o600); err != nil {
			t.Fatal(err)
		}
		err := testBootState(path)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestLacking(t *testing.T) {
	addresses := func(text ...string) (list []netip.Prefix) {
		for _, p := range text {
			list = append(list, netip.MustParsePrefix(p))
		}
		return list
	}
	bound := network.LinkStatus{Name: "eth0", Carrier: true, State: "dhcp: bound", Addresses: addresses("10.0.2.15/24")}
	out := network.LinkStatus{Name: "eth1", State: "dhcp: no carrier"}
	for _, tt := range []struct {
		name  string
		links []network.LinkStatus
		want  string
	}{
		{"bound", []network.LinkStatus{bound}, ""},
		{"the second", []network.LinkStatus{out, bound}, ""},
		{"none", nil, "there is no link of those in the settings"},
		{"no cable", []network.LinkStatus{out}, "eth1: dhcp: no carrier"},
		{"an address, but no cable any more", []network.LinkStatus{{Name: "eth0", State: "static: no carrier", Addresses: addresses("10.0.2.15/24")}}, "eth0: static: no carrier"},
		{"no server", []network.LinkStatus{{Name: "eth0", Carrier: true, State: "dhcp: searching, link-local", Addresses: addresses("169.254.7.8/16")}, {Name: "usb0", State: "absent"}},
			"eth0: dhcp: searching, link-local; usb0: absent"},
		{"a router for IPv6", []network.LinkStatus{{Name: "eth0", Carrier: true, State: "dhcp: searching, link-local", Addresses: addresses("169.254.7.8/16", "2001:db8::7/64")}}, ""},
		{"link-local", []network.LinkStatus{{Name: "eth0", Carrier: true, State: "link-local", Addresses: addresses("169.254.7.8/16")}}, ""},
		{"static", []network.LinkStatus{{Name: "eth0", Carrier: true, State: "static", Addresses: addresses("169.254.7.8/16")}}, ""},
		{"off", []network.LinkStatus{{Name: "eth0", Carrier: true, State: "off"}}, "eth0: off"},
		{"in use", []network.LinkStatus{{Name: "eth0", Carrier: true, State: "static", Error: "10.0.0.2 is in use by another machine", Addresses: addresses("fd00::1/64")}},
			"eth0: static: 10.0.0.2 is in use by another machine"},
	} {
		err := lacking(tt.links)
		if (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestMACOf(t *testing.T) {
	links := []network.LinkStatus{{Name: "usb0"}, {Name: "eth0", MAC: "52:54:00:ab:cd:ef"}, {Name: "eth1", MAC: "52:54:00:00:00:01"}}
	if got := macOf("", links); got != "52:54:00:AB:CD:EF" {
		t.Errorf("the first: %q", got)
	}
	for _, iface := range []string{"lo", "none0"} {
		if got := macOf(iface, links); got != "" {
			t.Errorf("%s: %q", iface, got)
		}
	}
	if got := macOf("", nil); got != "" {
		t.Errorf("none: %q", got)
	}
}

func TestFailedPhases(t *testing.T) {
	all := []string{}
	for _, p := range phases() {
		all = append(all, p.name)
	}
	for name := range phaseKeys {
		if !slices.Contains(all, name) {
			t.Errorf("there is no phase %q", name)
		}
	}
	s := &system{failed: []string{"load the drivers", "mount /data", "start the network", "take calls"}}
	for key, want := range map[string]string{
		"storage": "failed at boot: mount /data",
		"network": "failed at boot: start the network",
		"boot":    "failed at boot: load the drivers, take calls",
	} {
		if err := s.failedPhases(key); err == nil || err.Error() != want {
			t.Errorf("%s: %v", key, err)
		}
		if err := (&system{}).failedPhases(key); err != nil {
			t.Errorf("%s of none: %v", key, err)
		}
	}
	if len(s.failed) != 4 {
		t.Errorf("changed: %q", s.failed)
	}
}

func TestSelftestOfRoot(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(s *system)
		after   time.Duration
		want    string // in the error
	}{
		{"it is read", func(s *system) { s.rootRead.Store(new(error)) }, 0, ""},
		{"it is not there", func(s *system) { s.guard("read", (*system).readRoot) }, 0, "read the root: open /dev/dm-0: no such file"},
		{"it takes too long", func(*system) {}, time.Minute, "not read to its end"},
		{"a reboot comes between", func(s *system) { s.down.Store(true) }, 0, "not read to its end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := os.Stat("/dev/dm-0"); err == nil && strings.Contains(tt.want, "dm-0") {
				t.Skip("this machine has one")
			}
			synctest.Test(t, func(t *testing.T) {
				s, start := &system{}, time.Now()
				tt.prepare(s)
				err := s.testRoot(start.Add(time.Minute))
				if took := time.Since(start); took < tt.after || took > tt.after+time.Second {
					t.Errorf("after %v", took)
				}
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
			})
		})
	}
}

// Of a network that comes later PID 1 waits for as long as it takes, and of nothing else.
func TestAwaitPass(t *testing.T) {
	missing := selftest.Result{Storage: selftest.OK, Network: "eth0: dhcp: no carrier"}
	bad := func(change func(*selftest.Result)) selftest.Result {
		r := missing
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name   string
		r      selftest.Result
		failed []string
		after  time.Duration
	}{
		{"only the network", missing, nil, 1000 * time.Hour},
		{"the card, too", bad(func(r *selftest.Result) { r.Storage = "/data is in memory" }), nil, 0},
		{"the boot, too", bad(func(r *selftest.Result) { r.Boot = "failed at boot: take calls" }), nil, 0},
		{"there is none at all", missing, []string{"start the network"}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, start := &system{failed: tt.failed, settings: &settings.Settings{}}, time.Now()
			time.AfterFunc(1000*time.Hour, func() { s.down.Store(true) })
			if got := s.awaitPass(tt.r); got != tt.r {
				t.Errorf("%s: %v", tt.name, got)
			}
			if took := time.Since(start); took < tt.after || took > tt.after+networkAgain {
				t.Errorf("%s: after %v, want %v", tt.name, took, tt.after)
			}
		})
	}
}

func TestJudgeNetwork(t *testing.T) {
	ok := selftest.Result{Storage: selftest.OK}
	for _, tt := range []struct {
		name     string
		r        selftest.Result
		settings gateway.Settings
		reached  error
		want     selftest.Result
	}{
		{"all is well", ok, gateway.Settings{UUID: "GW-1"}, nil, selftest.Result{Pass: true, Serial: "GW-1", Storage: selftest.OK, Network: selftest.OK}},
		{"no network", ok, gateway.Settings{UUID: "GW-1"}, errors.New("no"), selftest.Result{Serial: "GW-1", Storage: selftest.OK, Network: "no"}},
		{"no serial number", ok, gateway.Settings{Iface: "none0"}, nil,
			selftest.Result{Storage: selftest.OK, Network: `no serial number is set, and link "none0" has no address to be one`}},
		{"the card", selftest.Result{Storage: "x"}, gateway.Settings{UUID: "GW-1"}, nil, selftest.Result{Serial: "GW-1", Storage: "x", Network: selftest.OK}},
		{"the boot", selftest.Result{Storage: selftest.OK, Boot: "x"}, gateway.Settings{UUID: "GW-1"}, nil, selftest.Result{Serial: "GW-1", Storage: selftest.OK, Network: selftest.OK, Boot: "x"}},
	} {
		if got := (&system{}).judgeNetwork(tt.r, tt.settings, tt.reached); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A result is news for the engine until it has asked: then its report has it.
func TestSelftestNews(t *testing.T) {
	s := &system{firmware: newKeeper(), clock: clock.New(clock.Options{}), network: network.New(network.Options{}), settings: &settings.Settings{}}
	if st := s.status(); st.Selftest != nil || s.selftestNews.Load() {
		t.Errorf("%v before there is any", st.Selftest)
	}
	for _, r := range []selftest.Result{{Serial: "GW-1"}, {Serial: "GW-1", Pass: true}} {
		s.tell(r)
		s.tellSelftest() // nobody to tell
		if !s.selftestNews.Load() {
			t.Errorf("%v is no news", r)
		}
		if st := s.status(); st.Selftest == nil || *st.Selftest != r || s.selftestNews.Load() {
			t.Errorf("%v is told as %v, and news still: %v", r, st.Selftest, s.selftestNews.Load())
		}
	}
}
