package syslog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseKmsg(t *testing.T) {
	for _, tt := range []struct{ name, record, want string }{
		{"the kernel's", "5,0,0,-;Linux version 6.1.0\n", "0 0s INFO  kernel: Linux version 6.1.0"},
		{"an error", "3,812,2500000,-;EXT4-fs error (device mmcblk0p5)\n", "812 2.5s ERROR kernel: EXT4-fs error (device mmcblk0p5)"},
		{"about a device", "6,339,5140900,-;pci_root PNP0A03:00: host bridge\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n", "339 5.1409s INFO  kernel: pci_root PNP0A03:00: host bridge"},
		{"PID 1's", "14,400,7000000,-;gweinit: ready\n", "400 7s INFO  gweinit: ready"},
		{"PID 1's error", "11,401,7000000,-;gweinit: mount /data: no such device\n", "401 7s ERROR gweinit: mount /data: no such device"},
		{"a program without a name", "12,1,0,-;hello there\n", "1 0s WARN  hello there"},
		{"a program claims to be the kernel", "12,1,0,-;\tkernel: all is well\n", "1 0s WARN  kernel[?]: all is well"},
		{"with a process ID", "12,1,0,-;kernel[1]: all is well\n", "1 0s WARN  kernel[?][1]: all is well"},
		{"a name that begins so", "12,1,0,-;kerneld: a\n", "1 0s WARN  kerneld: a"},
		{"without a space", "12,1,0,-; kernel:all is well\n", "1 0s WARN  kernel[?]:all is well"},
		{"flags of newer kernels", "6,1,0,c,caller=T1,new=x;a;b\n", "1 0s INFO  kernel: a;b"},
		{"no flags", "6,1,0;a\n", "1 0s INFO  kernel: a"},
		{"no end", "6,1,0,-;a", "1 0s INFO  kernel: a"},
		{"no text", "6,1,0,-;\n", "1 0s INFO  kernel:"},
		{"escapes", `6,1,0,-;F\xc3\xbcllstand\x09\x5cx41\x0a\x1b[1m` + "\n", `1 0s INFO  kernel: Füllstand	\x41\n\x1b[1m`},
		{"broken escapes", `6,1,0,-;\x4\x4g\x` + "\n", `1 0s INFO  kernel: \x4\x4g\x`},
		{"not UTF-8", `6,1,0,-;\xfc` + "\n", `1 0s INFO  kernel: \xfc`},
		{"trailing newlines", `6,1,0,-;a\x0a\x0d\x0a` + "\n", "1 0s INFO  kernel: a"},
		{"a forged line", `6,1,0,-;a\x0a2026-11-24T23:16:17.517Z INFO  kernel: b` + "\n", `1 0s INFO  kernel: a\n2026-11-24T23:16:17.517Z INFO  kernel: b`},
		{"the last number", "6,18446744073709551615,18446744073709551615,-;a\n", "18446744073709551615 2562047h47m16.854775s INFO  kernel: a"},
		{"nothing", "", "error"},
		{"no head", "hello\n", "error"},
		{"two fields", "6,1;a\n", "error"},
		{"no priority", ",1,0,-;a\n", "error"},
		{"a number below 0", "6,-1,0,-;a\n", "error"},
		{"a large number", "6,18446744073709551616,0,-;a\n", "error"},
		{"no time", "6,1,x,-;a\n", "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := parseKmsg([]byte(tt.record))
			got := "error"
			if err == nil {
				line := record{priority: r.priority}
				line.text, line.from, line.name = r.line()
				got = fmt.Sprintf("%d %v %s", r.number, r.at, strings.TrimSuffix(string(line.appendTo(nil))[25:], "\n"))
			}
			if got != tt.want {
				t.Errorf("got  %q, %v\nwant %q", got, err, tt.want)
			}
		})
	}
}

func FuzzKmsg(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;pci_root PNP0A03:00: host bridge\n SUBSYSTEM=acpi\n"))
	f.Add([]byte(`14,400,7000000,-,caller=T1;gweinit: F\xc3\xbcllstand\x0akernel: x` + "\n"))
	f.Add([]byte("12,1,0,-;kernel[1]: x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseKmsg(b)
		if err != nil {
			return
		}
		line := record{priority: r.priority}
		line.text, line.from, line.name = r.line()
		if what := checkLine(line); what != "" {
			t.Errorf("%q: %+v: %s", b, line, what)
		}
		byKernel := r.priority < 8
		if strings.HasPrefix(line.text, "kernel:") != byKernel || (line.from == kernel) != byKernel {
			t.Errorf("%q: %+v", b, line)
		}
		if r.at < 0 {
			t.Errorf("%q: %v", b, r.at)
		}
	})
}

// takeAll returns what a kmsg makes of records.
func takeAll(k *kmsg, records ...string) []string {
	var got []string
	for _, r := range records {
		k.take([]byte(r), false, 0, func(r record) { got = append(got, r.text) })
	}
	return got
}

func TestKmsgNumbers(t *testing.T) {
	next := uint64(0)
	k := &kmsg{next: &next}
	for _, tt := range []struct{ name, records, want string }{
		{"in order", "6,0,0,-;a 6,1,0,-;b", "kernel: a|kernel: b"},
		{"overwritten", "6,5,0,-;c", "gweinit: 3 kernel lines lost|kernel: c"},
		{"again, from the first that is there", "6,4,0,-;x 6,5,0,-;c 6,6,0,-;d", "kernel: d"},
		{"no record", "x 6,7,0,-;e", `gweinit: record of the kernel's log: "x" does not begin with PRIORITY,NUMBER,MICROSECONDS;|kernel: e`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(takeAll(k, strings.Fields(tt.records)...), "|"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	// Those at the start, too.
	next = 0
	if got := takeAll(k, "6,9,0,-;a"); !slices.Equal(got, []string{"gweinit: 9 kernel lines lost", "kernel: a"}) {
		t.Errorf("got %q", got)
	}
}

func TestKmsgAge(t *testing.T) {
	k := &kmsg{}
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name    string
		at, now time.Duration
		waited  bool
		want    time.Duration
	}{
		{"from the start", 0, 20 * time.Second, false, 20 * time.Second},
		{"later", 15 * time.Second, 20 * time.Second, false, 5 * time.Second},
		{"of the future", 21 * time.Second, 20 * time.Second, false, 0},
		{"waited for, with another clock", 9 * day, 10 * day, true, 0},
		{"at once behind it", 9*day + time.Second, 10*day + 3*time.Second, false, 2 * time.Second},
		{"the clock is ahead", 11 * day, 10*day + time.Hour, true, 0},
		{"at once behind that", 11*day + time.Second, 10*day + time.Hour + 3*time.Second, false, 2 * time.Second},
	} {
		if got := k.age(tt.at, tt.now, tt.waited); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
