package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/exosite/spec"
	"github.com/exosite/gwe/gweinit/gateway"
)

// It waits until the gateway is activated, and notices when it is activated anew.
func TestReporter(t *testing.T) {
	c, err := cloud.Open(cloud.Options{Dir: t.TempDir(), Resources: []spec.Resource{{Alias: "sine", Format: "number"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := exositetest.Start(exositetest.Options{Cloud: c, HTTPS: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.AddDevice("GW-1")
	root := t.TempDir()
	files := gateway.Files{Dir: filepath.Join(root, gateway.Dir)}
	set := func(file, section, key, value string) {
		t.Helper()
		if err := files.Set(gateway.Change{File: file, Section: section, Key: key, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	set(gateway.GatewayFile, gateway.DeviceSection, "vendor", s.Product())
	set(gateway.EngineFile, gateway.ExositeSection, "host", s.HTTPSAddr())
	set(gateway.EngineFile, gateway.ExositeSection, "ca", gateway.Dir+"/ca.pem")
	if err := os.WriteFile(filepath.Join(files.Dir, "ca.pem"), s.CA(), 0o644); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	r := reporter{root: root, log: &log}
	defer r.close()
	if err := r.write(t.Context(), "sine", "0.0"); !errors.Is(err, errNotYet) {
		t.Fatalf("without a credential: %v", err)
	}
	for _, value := range []string{"1.0", "-99.9"} {
		cik, err := c.Activate(s.Product(), "GW-1", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		set(gateway.GatewayFile, gateway.DeviceSection, "cik", cik)
		if err := r.write(t.Context(), "sine", value); err != nil {
			t.Fatal(err)
		}
		if got, err := c.History(s.Product(), "GW-1", "sine"); err != nil || len(got) == 0 || got[len(got)-1].Value != value {
			t.Errorf("the cloud has %+v, %v, want %s", got, err, value)
		}
		if err := c.Enable(s.Product(), "GW-1", ""); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := log.String(), "sine=1.0\nsine=-99.9\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}
