package product

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
)

const cik = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"

func TestReadCredential(t *testing.T) {
	file := filepath.Join(t.TempDir(), "owner")
	for text, ok := range map[string]bool{
		cik: true, cik + "\n": true, " " + cik + "\r\n": true,
		"": false, cik[:39]: false, cik + "E": false, cik + "\n" + cik: false, cik[:39] + "-": false, strings.Repeat(cik, 1000): false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadCredential(file)
		if (err == nil) != ok || ok && got != cik {
			t.Errorf("%.90q: got %q, %v", text, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), cik[:9]) || !strings.Contains(err.Error(), file)) {
			t.Errorf("%.90q: %v", text, err)
		}
	}
	if _, err := ReadCredential(file + "x"); err == nil || !strings.Contains(err.Error(), "the owner's credential: open "+file+"x") {
		t.Errorf("no file: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString(cik + "\n")
	w.Close()
	if got, err := ReadCredential(fmt.Sprintf("/proc/self/fd/%d", r.Fd())); err != nil || got != cik {
		t.Errorf("from a pipe: %q, %v", got, err)
	}
}

func TestNew(t *testing.T) {
	for _, tt := range []struct {
		p    config.Provision
		host string
		err  string
	}{
		{config.Provision{Product: "a1b2"}, "a1b2.m2.exosite.io", ""},
		{config.Provision{Product: "a1b2", Exosite: config.Exosite{Host: "gateways.example.com:8443"}}, "gateways.example.com:8443", ""},
		{config.Provision{Exosite: config.Exosite{Host: "gateways.example.com"}}, "", "no product"},
		{config.Provision{Product: "a1b2", Exosite: config.Exosite{CA: "none"}}, "", "exosite.ca of the settings has no certificate"},
		{config.Provision{Product: "a1b2", Exosite: config.Exosite{Host: "a:b"}}, "", "malformed port"},
	} {
		o, err := New(tt.p, cik)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%+v: %v, want %q", tt.p, err, tt.err)
			}
			continue
		}
		if err != nil || o.client.Options().Server != tt.host {
			t.Errorf("%+v: %v, %v", tt.p, o, err)
		}
	}
}

func newOwner(t *testing.T, s *exositetest.Server) *Owner {
	t.Helper()
	o, err := New(config.Provision{Product: s.Product(), Exosite: config.Exosite{Host: s.HTTPSAddr(), CA: string(s.CA())}}, s.Cloud().Owner())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// A server that is busy, or whose answers get lost, is asked again.
func TestEnableTriesAgain(t *testing.T) {
	for _, f := range []exositetest.Fault{{Times: 2, Status: 503}, {Times: 1, Status: 429, RetryAfter: "1"}, {Times: 1, Drop: true}} {
		f.Call = "manage"
		for before, call := range []string{"look up", "add", "enable"} {
			t.Run(fmt.Sprintf("%s %d %v", call, f.Status, f.Drop), func(t *testing.T) {
				t.Parallel()
				s := exositetest.New(t)
				if before > 0 { // calls that go well
					s.Fault(exositetest.Fault{Call: "manage", Delay: 1, Times: before})
				}
				s.Fault(f)
				done, err := newOwner(t, s).Enable(t.Context(), "GW-1", true)
				if err != nil || done != "added and enabled" || len(s.Faults()) != 0 {
					t.Errorf("%q, %v, left %v", done, err, s.Faults())
				}
				if _, err := s.Cloud().Activate(s.Product(), "GW-1", "", nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A line does not wait for a server that wants much time, or does not answer.
func TestEnableEnds(t *testing.T) {
	s := exositetest.New(t)
	o := newOwner(t, s)
	start := time.Now()
	s.Fault(exositetest.Fault{Call: "manage", Status: 503, RetryAfter: "500"})
	if done, err := o.Enable(t.Context(), "GW-1", true); err == nil || !strings.Contains(err.Error(), "look up GW-1 on "+s.HTTPSAddr()+": 503 Service Unavailable: the server cannot answer: try again later (it asks to wait for 8m20s)") {
		t.Errorf("busy: %q, %v", done, err)
	}
	s.ClearFaults()
	s.Fault(exositetest.Fault{Call: "manage", Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if done, err := o.Enable(ctx, "GW-1", true); err == nil {
		t.Errorf("hangs: %q", done)
	}
	if took := time.Since(start); took > limit/2 {
		t.Errorf("after %v", took)
	}
}
