package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
)

// line is a production line, with the owner's credential and the provision.yaml
// of all its cards, for a product at the emulator.
type line struct {
	*exositetest.Server
	owner, provision string // files
}

func newLine(t *testing.T) line {
	t.Helper()
	l := line{Server: exositetest.New(t)}
	p := config.Provision{Product: l.Product(), Exosite: config.Exosite{Host: l.HTTPSAddr(), CA: string(l.CA())}}
	l.provision = file(t, string(p.YAML()))
	l.owner = file(t, l.Cloud().Owner()+"\n")
	return l
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// enable runs the command for a provision.yaml and serial numbers.
func (l line) enable(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	status, stdout, stderr = builder(t, append([]string{"enable", "-owner", l.owner, "-provision", l.provision}, args...)...)
	if strings.Contains(stdout+stderr, l.Cloud().Owner()) {
		t.Errorf("the owner's credential is in\n%s%s", stdout, stderr)
	}
	return status, stdout, stderr
}

// device is a gateway at the line's server, which has no credential yet.
func (l line) device(t *testing.T) *exosite.Client {
	t.Helper()
	c, err := exosite.New(exosite.Options{Server: "http://" + l.HTTPAddr(), Vendor: l.Product(), Model: l.Product(), Tries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A unit is made, used, and flashed again.
func TestEnable(t *testing.T) {
	for _, serial := range []string{"GW-000123", "00:2F:AC:43:55:A0", "a@b.c:d_e"} {
		t.Run(serial, func(t *testing.T) {
			l, ctx := newLine(t), t.Context()
			enables := func(want string) {
				t.Helper()
				if status, stdout, stderr := l.enable(t, serial); status != 0 || stdout != serial+": "+want+"\n" || stderr != "" {
					t.Errorf("status %d, %q, %q, want %q", status, stdout, stderr, want)
				}
			}
			first := l.device(t)
			if _, err := first.Activate(ctx, serial); !errors.Is(err, exosite.ErrUnknownDevice) {
				t.Errorf("before: %v", err)
			}
			enables("added and enabled")
			enables("enabled again: it was not activated yet")
			if _, err := first.Activate(ctx, serial); err != nil {
				t.Fatal(err)
			}
			write := func(c *exosite.Client) error {
				return c.Write(ctx, exosite.Value{Alias: "device_info", Value: "{}"})
			}
			if err := write(first); err != nil {
				t.Fatal(err)
			}

			again := l.device(t) // the card is flashed again, and with it the credential is gone
			if _, err := again.Activate(ctx, serial); !errors.Is(err, exosite.ErrNotEnabled) {
				t.Errorf("flashed again: %v", err)
			}
			if err := write(first); err != nil {
				t.Errorf("with the old credential: %v", err)
			}
			enables("enabled again: its old credential no longer counts")
			if err := write(first); !errors.Is(err, exosite.ErrBadCIK) {
				t.Errorf("with the old credential: %v", err)
			}
			if _, err := again.Activate(ctx, serial); err != nil || again.CIK() == first.CIK() {
				t.Errorf("enabled again: %v", err)
			}
			if err := write(again); err != nil {
				t.Errorf("with the new credential: %v", err)
			}
			if err := l.Cloud().Disable(l.Product(), serial, ""); err != nil {
				t.Fatal(err)
			}
			enables(`enabled again: it was "disabled"`)
		})
	}
}

// Those that nobody can enable do not keep the others from it.
func TestEnableSeveral(t *testing.T) {
	l := newLine(t)
	l.Fault(exositetest.Fault{Call: "manage", Serial: "GW-2", Status: 400})
	status, stdout, stderr := l.enable(t, "GW-1", "GW-2", "a/b", "-json", "GW-3")
	var got []string
	for line := range strings.Lines(stdout) {
		var e enabled
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Error != "" {
			e.Error = "failed"
		}
		got = append(got, fmt.Sprint(e.Serial, " ", e.Done, e.Error))
	}
	want := "GW-1 added and enabled, GW-2 failed, a/b failed, GW-3 added and enabled"
	if status != 1 || strings.Join(got, ", ") != want || !strings.Contains(stderr, "2 of 4 serial numbers failed") {
		t.Errorf("status %d, %v, %s", status, got, stderr)
	}
	if devices := l.Cloud().Devices(l.Product()); len(devices) != 2 {
		t.Errorf("the product has %v", devices)
	}
}

func TestEnableErrors(t *testing.T) {
	l := newLine(t)
	settings := func(product, more string) string {
		return file(t, "product: "+product+"\nexosite:\n  host: "+l.HTTPSAddr()+"\n"+more)
	}
	text, err := os.ReadFile(l.provision)
	if err != nil {
		t.Fatal(err)
	}
	stranger := strings.Repeat("Secret", 6) + "CIK1" // 40 letters and digits
	for _, tt := range []struct {
		name, args string
		status     int
		want       string // in what is printed
	}{
		{"no owner", "-provision " + l.provision + " GW-1", 1, "Say -owner FILE"},
		{"no settings", "-owner " + l.owner + " GW-1", 1, "Say -provision FILE"},
		{"no serial number", "-owner " + l.owner + " -provision " + l.provision, 1, "which serial numbers?"},
		{"no such flag", "-onwer x", 2, "not defined: -onwer"},
		{"help", "-h", 0, "builder enable -owner acme.cik -provision line.yaml GW-000123 GW-000124\n"},
		{"no owner's file", "-owner /none -provision " + l.provision + " GW-1", 1, "the owner's credential: open /none: no such file"},
		{"another's credential", "-owner " + file(t, stranger) + " -provision " + l.provision + " GW-1", 1, "GW-1: failed: look up GW-1 on " + l.HTTPSAddr() + ": the server does not take the credential for that of the product's owner"},
		{"another product", "-owner " + l.owner + " -provision " + file(t, strings.Replace(string(text), l.Product(), "none", 1)) + " GW-1", 1, "add GW-1 to product none on " + l.HTTPSAddr() + ": 404 Not Found: there is none: are the name and the host right?"},
		{"no product", "-owner " + l.owner + " -provision " + file(t, "serial: GW-1\n") + " GW-1", 1, "the settings have no product"},
		{"blank settings", "-owner " + l.owner + " -provision " + file(t, "# product: a\n") + " GW-1", 1, "nothing is set in it"},
		{"wrong settings", "-owner " + l.owner + " -provision " + file(t, "prodcut: a\n") + " GW-1", 1, "line 1: "},
		{"a server that is not trusted", "-owner " + l.owner + " -provision " + settings(l.Product(), "") + " GW-1", 1, "not trusted: "},
		{"not a serial number", "-owner " + l.owner + " -provision " + l.provision + " GW-1 GW/2", 1, "GW/2: failed: enable \"GW/2\": want a serial number as in provision.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr := builder(t, append([]string{"enable"}, strings.Fields(tt.args)...)...)
			if printed := stdout + stderr; status != tt.status || !strings.Contains(printed, tt.want) || strings.Contains(printed, stranger) || strings.Contains(printed, l.Cloud().Owner()) {
				t.Errorf("status %d, want %d, and %q in\n%s", status, tt.status, tt.want, printed)
			}
		})
	}
}
