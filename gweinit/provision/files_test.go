package provision

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	_ "time/tzdata" // for time zones in documents

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/identity"
)

// A key of minisign and a certificate, from the tests of package config.
const key = "RWQAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSYn"

const secret = "e469e336ff9c8ed9176bc05ed7fa40daaaaaaaaa"

func parsed(t testing.TB, text string) config.Provision {
	t.Helper()
	p, err := config.ParseProvision([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return p
}

// full has all settings.
func full(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../config/testdata/good/provision-full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(string(text), "factory_reset: everything\n", "", 1)
}

// show lists files, without blanks around "=" in INI files.
func show(files map[string][]byte) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "<%s>\n", name)
		for line := range strings.Lines(string(files[name])) {
			if k, v, ok := strings.Cut(line, " = "); ok {
				line = strings.TrimSpace(k) + "=" + v
			}
			b.WriteString(line)
		}
	}
	return b.String()
}

// unshow is the reverse.
func unshow(text string) map[string][]byte {
	files := map[string][]byte{}
	for part := range strings.SplitSeq(text, "<") {
		if name, data, ok := strings.Cut(part, ">\n"); ok {
			files[name] = []byte(data)
		}
	}
	return files
}

const stored = "<provision.yaml>\n# The factory settings of this gateway.\n"

func TestFiles(t *testing.T) {
	for _, tt := range []struct{ name, doc, existing, want string }{
		{"nothing but a reset", "factory_reset: settings", "<provision.yaml>\nproduct: p\n", ""},
		{"the first time", "{product: p, serial: s, interface: eth1}", "",
			"<Gateway.cfg>\n[device]\nvendor=p\nmodel=p\nuuid=s\niface=eth1\n" + stored + "product: p\nserial: s\ninterface: eth1\n"},
		{"the rest of a file stays", "{serial: s}", "<Gateway.cfg>\nx=1\n[device]\n; mine\ncik=abc\nvendor=p\nmodel=p\nuuid=s\niface=''\nother=1\n[more]\na=b\n",
			"<Gateway.cfg>\nx=1\n[device]\n; mine\ncik=abc\nvendor=p\nmodel=p\nuuid=s\niface=''\nother=1\n[more]\na=b\n" + stored + "serial: s\n"},
		{"the same device keeps its CIK", "{product: p, serial: s, interface: eth0}", "<Gateway.cfg>\n[device]\ncik=abc\nmodel=p\nvendor=p\nuuid=s\niface=eth1\n",
			"<Gateway.cfg>\n[device]\ncik=abc\nmodel=p\nvendor=p\nuuid=s\niface=eth0\n" + stored + "product: p\nserial: s\ninterface: eth0\n"},
		{"another product", "{product: q}", "<Gateway.cfg>\n[device]\ncik=abc\nmodel=p\nvendor=p\n",
			"<Gateway.cfg>\n[device]\nmodel=q\nvendor=q\n" + stored + "product: q\n"},
		{"another vendor", "{product: q}", "<Gateway.cfg>\n[device]\ncik=abc\nmodel=q\nvendor=p\n",
			"<Gateway.cfg>\n[device]\nmodel=q\nvendor=q\n" + stored + "product: q\n"},
		{"another serial number", "{serial: s}", "<Gateway.cfg>\n[device]\ncik=abc\nmodel=p\nuuid=r\n",
			"<Gateway.cfg>\n[device]\nmodel=p\nuuid=s\n" + stored + "serial: s\n"},
		{"a serial number for the first time", "{serial: s}", "<Gateway.cfg>\n[device]\ncik=abc\niface=eth0\n",
			"<Gateway.cfg>\n[device]\niface=eth0\nuuid=s\n" + stored + "serial: s\n"},
		{"another address is another serial number", "{interface: eth1}", "<Gateway.cfg>\n[device]\ncik=abc\niface=eth0\n",
			"<Gateway.cfg>\n[device]\niface=eth1\n" + stored + "interface: eth1\n"},
		{"the default link may be the same", "{interface: eth0}", "<Gateway.cfg>\n[device]\ncik=abc\n",
			"<Gateway.cfg>\n[device]\ncik=abc\niface=eth0\n" + stored + "interface: eth0\n"},
		{"the address is not the serial number", "{interface: eth1}", "<Gateway.cfg>\n[device]\ncik=abc\nuuid=s\niface=eth0\n",
			"<Gateway.cfg>\n[device]\ncik=abc\nuuid=s\niface=eth1\n" + stored + "interface: eth1\n"},
		{"what has no CIK changes leaves it", "{timezone: UTC, log_level: INFO}", "<Gateway.cfg>\n[device]\ncik=abc\n",
			"<Engine.config>\n[engine]\ndebug_level=INFO\n" + stored + "timezone: UTC\nlog_level: INFO\n<timezone>\nUTC\n"},
		{"the engine's", "{log_level: ERROR, exosite: {host: 10.0.2.2}}", "<Engine.config>\n[engine]\nupdate_interval=60\ndebug_level=INFO\n[exosite]\nca=/x\nport=1\n",
			"<Engine.config>\n[engine]\nupdate_interval=60\ndebug_level=ERROR\n[exosite]\nca=/x\nport=1\nhost=10.0.2.2\n" + stored + "exosite:\n  host: 10.0.2.2\nlog_level: ERROR\n"},
		{"keys and the network", "{firmware_keys: [" + key + "], network: {dns: []}}", "<keys/firmware.pub>\nother\n<network.yaml>\nhostname: a\n",
			"<keys/firmware.pub>\n" + key + "\n<network.yaml>\n# The network of this gateway; for keys that are not here the image's count.\ndns: []\n" +
				stored + "firmware_keys:\n  - " + key + "\nnetwork:\n  dns: []\n"},
		{"over settings from before", "{serial: s}", "<provision.yaml>\n{product: p, serial: r, exosite: {host: h.org}, factory_reset: everything}\n",
			"<Gateway.cfg>\n[device]\nuuid=s\n" + stored + "product: p\nserial: s\nexosite:\n  host: h.org\n"},
		{"over settings of a later firmware", "{serial: s}", "<provision.yaml>\nproduct: p\nwifi: {}\n", "<Gateway.cfg>\n[device]\nuuid=s\n" + stored + "serial: s\n"},
		{"over garbage", "{serial: s}", "<Gateway.cfg>\n[dev\n", "<Gateway.cfg>\n[dev\n\n[device]\nuuid=s\n" + stored + "serial: s\n"},
		{"what a crash has left", "{interface: eth0}", "<Gateway.cfg>\n\x00\x00\n[device]\nuuid=s\ncik=abc\n", "<Gateway.cfg>\n[device]\nuuid=s\ncik=abc\niface=eth0\n" + stored + "interface: eth0\n"},
		{"quotes and backslashes", "{serial: s}", "<Gateway.cfg>\n[device]\ncik=abc\nuuid=s\niface=\"a b\"\nx=00\\# 1\n",
			"<Gateway.cfg>\n[device]\ncik=abc\nuuid=s\niface=\"a b\"\nx=00\\# 1\n" + stored + "serial: s\n"},
	} {
		existing := unshow(tt.existing)
		if got := show(Files(parsed(t, tt.doc), existing)); got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, got, tt.want)
		}
		if !maps.EqualFunc(existing, unshow(tt.existing), bytes.Equal) {
			t.Errorf("%s: the existing files were changed", tt.name)
		}
	}
}

func TestFilesFull(t *testing.T) {
	p := parsed(t, full(t))
	files := Files(p, nil)
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, slices.Sorted(slices.Values(allFiles))) {
		t.Errorf("files %q", got)
	}
	if got := string(files[caFile]); got != p.Exosite.CA || strings.Count(got, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("certificates:\n%s", got)
	}
	if got := show(map[string][]byte{"": files[engineFile]}); got != "<>\n[engine]\ndebug_level=WARNING\n\n[exosite]\nhost=gateways.example.com:8443\nca=/data/gwe/keys/exosite-ca.pem\n" {
		t.Errorf("Engine.config:\n%s", got)
	}
	if n, err := config.ParseNetwork(files[networkFile]); err != nil || !reflect.DeepEqual(&n, p.Network) {
		t.Errorf("network.yaml: %+v, %v", n, err)
	}
	if again := Files(p, files); !maps.EqualFunc(files, again, bytes.Equal) {
		t.Errorf("the second time:\n%s\nthe first time:\n%s", show(again), show(files))
	}
}

// The settings that are stored give the same files as the documents that they
// came from, one after the other.
func TestStoredSettings(t *testing.T) {
	docs := []string{full(t), "serial: other", "exosite: {host: other.org}", "network: {}", "{product: q, interface: usb0}", "log_level: DEBUG", "timezone: UTC",
		"factory_reset: settings", "firmware_keys: [" + key + "]"}
	for _, first := range docs {
		for _, second := range docs {
			files := Files(parsed(t, first), nil)
			maps.Copy(files, Files(parsed(t, second), files))
			stored := config.Provision{}
			if text, ok := files[settingsFile]; ok {
				stored = parsed(t, string(text))
			}
			got := Files(stored, nil)
			if strings.Join(slices.Sorted(strings.SplitSeq(show(got), "\n")), "\n") != strings.Join(slices.Sorted(strings.SplitSeq(show(files), "\n")), "\n") {
				t.Errorf("%.40s, then %.40s: got\n%s\nwant\n%s", first, second, show(got), show(files))
			}
		}
	}
}

func TestFactoryRecord(t *testing.T) {
	const made = stored + "product: p\nserial: s\n"
	for _, tt := range []struct{ name, before, settings, everything string }{
		{"nothing", "", "", ""},
		{"never provisioned", "<Gateway.cfg>\n[device]\nmine=1\nuuid=r\ncik=abc\n<network.yaml>\ndns: []\n<other>\n1\n<provision.applied>\n1\n",
			"<Gateway.cfg>\n[device]\ncik=abc\nuuid=r\n", ""},
		{"changed since", "<Gateway.cfg>\n[device]\nmine=1\nvendor=p\nmodel=p\nuuid=s\niface=eth0\ncik=abc\n[x]\ny=1\n<Engine.config>\n[engine]\na=1\n" + made,
			"<Gateway.cfg>\n[device]\ncik=abc\nmodel=p\nvendor=p\nuuid=s\niface=eth0\n" + made,
			"<Gateway.cfg>\n[device]\nvendor=p\nmodel=p\nuuid=s\n" + made},
		{"another device by hand, with its CIK", "<Gateway.cfg>\n[device]\nvendor=q\nmodel=q\ncik=abc\n" + made,
			"<Gateway.cfg>\n[device]\ncik=abc\nmodel=q\nvendor=q\n" + made,
			"<Gateway.cfg>\n[device]\nvendor=p\nmodel=p\nuuid=s\n" + made},
		{"another device by hand, not activated", "<Gateway.cfg>\n[device]\nvendor=q\nmodel=q\ncik=''\n" + made,
			"<Gateway.cfg>\n[device]\nvendor=q\nmodel=q\nuuid=s\n" + made,
			"<Gateway.cfg>\n[device]\nvendor=p\nmodel=p\nuuid=s\n" + made},
		{"settings come back", "<provision.yaml>\n{timezone: UTC, firmware_keys: [" + key + "], factory_reset: settings}\n<timezone>\nEurope/Berlin\n",
			"<keys/firmware.pub>\n" + key + "\n" + stored + "firmware_keys:\n  - " + key + "\ntimezone: UTC\n<timezone>\nUTC\n",
			"<keys/firmware.pub>\n" + key + "\n" + stored + "firmware_keys:\n  - " + key + "\ntimezone: UTC\n<timezone>\nUTC\n"},
		{"settings of a later firmware", "<provision.yaml>\nwifi: {}\n<Gateway.cfg>\n[device]\ncik=abc\nuuid=s\n<network.yaml>\ndns: []\n<other>\n1\n",
			"<Gateway.cfg>\n[device]\ncik=abc\nuuid=s\n<network.yaml>\ndns: []\n<provision.yaml>\nwifi: {}\n",
			"<Gateway.cfg>\n[device]\nuuid=s\n<network.yaml>\ndns: []\n<provision.yaml>\nwifi: {}\n"},
	} {
		for everything, want := range map[bool]string{false: tt.settings, true: tt.everything} {
			before := identity.Record{Files: unshow(tt.before)}
			after := factory(before, everything)
			if got := show(after.Files); got != want {
				t.Errorf("%s, everything %v: got\n%s\nwant\n%s", tt.name, everything, got, want)
			}
			if show(before.Files) != show(unshow(tt.before)) {
				t.Errorf("%s: the record from before was changed", tt.name)
			}
			if again := factory(after, everything); show(again.Files) != show(after.Files) {
				t.Errorf("%s, everything %v: a second time:\n%s", tt.name, everything, show(again.Files))
			}
		}
	}
}

// Whatever is in the INI files, the settings get into them, and stay the same
// the second time.
func FuzzFiles(f *testing.F) {
	for _, text := range []string{"[device]\ncik = abc\n", "0=0\\#", "x\n[device]\n  a = \"\"\"b\nc\"\"\"\n", "#\n;\n[device]\n- = a\n`b=c` = d\n", "a = b \\\nc\n[x.y]\nk : v ; c\n", "[device]\ncik = %(cik)s\n[a\n"} {
		f.Add([]byte(text))
	}
	p := parsed(f, "{product: p, serial: s, interface: eth0, log_level: INFO, exosite: {host: h.org}}")
	f.Fuzz(func(t *testing.T, text []byte) {
		files := Files(p, map[string][]byte{gatewayFile: text, engineFile: text})
		g, e := gateway.ParseINI(files[gatewayFile]), gateway.ParseINI(files[engineFile])
		for key, want := range map[string]string{vendor: "p", model: "p", uuid: "s", iface: "eth0"} {
			if got := g.Value("device", key); got != want {
				t.Errorf("%q becomes %q: %s is %q", text, files[gatewayFile], key, got)
			}
		}
		if e.Value("engine", "debug_level") != "INFO" || e.Value("exosite", "host") != "h.org" {
			t.Errorf("%q becomes %q", text, files[engineFile])
		}
		if again := Files(p, files); !maps.EqualFunc(again, files, bytes.Equal) {
			t.Errorf("%q becomes %q, and that %q", text, show(files), show(again))
		}
	})
}
