package main

import (
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/flash"
)

func TestDisplay(t *testing.T) {
	const sdb, long = "/dev/sdb", "/dev/disk/by-id/usb-Generic_STORAGE_DEVICE_000000009744-0:0"
	at := func(device, phase string, done, total int64) flash.Progress {
		return flash.Progress{Device: device, Phase: phase, Done: done, Total: total}
	}
	write := at(sdb, "writing", 250, 1000)
	write.Speed, write.Left = 12.34e6, 65*time.Second
	slow := at(long, "verifying", 999, 1000)
	slow.Speed, slow.Left = 1e3, 200*time.Minute
	type d = *display
	for _, tt := range []struct {
		name    string
		columns int
		do      func(d)
		want    string
	}{
		{"nothing", 80, func(d) {}, ""},
		{"a card", 80, func(d d) {
			d.add(sdb)
			d.update(write)
			d.remove(sdb)
		}, "/dev/sdb\n" +
			"\x1b[1A\r\x1b[J/dev/sdb  writing      [####............]  25 %   12.3 MB/s, 65 s left\n" +
			"\x1b[1A\r\x1b[J"},
		{"what stays", 80, func(d d) {
			d.add(sdb)
			d.print("hello\n", 2)
			d.update(at(sdb, "waiting", 0, 0))
			d.remove(sdb)
			d.print("end\n", 1)
		}, "/dev/sdb\n" +
			"\x1b[1A\r\x1b[Jhello\n\a\a/dev/sdb\n" +
			"\x1b[1A\r\x1b[J/dev/sdb  waiting\n" +
			"\x1b[1A\r\x1b[Jend\n\a"},
		{"two cards, one of a long name", 80, func(d d) {
			d.add(sdb)
			d.add(long)
			d.update(write)
			d.update(slow)
			d.remove(sdb)
		}, "/dev/sdb\n" +
			"\x1b[1A\r\x1b[J/dev/sdb\n..00009744-0:0\n" +
			"\x1b[2A\r\x1b[J/dev/sdb        writing      [####............]  25 %   12.3 MB/s, 65 s left\n..00009744-0:0\n" +
			"\x1b[2A\r\x1b[J/dev/sdb        writing      [####............]  25 %   12.3 MB/s, 65 s left\n" +
			"..00009744-0:0  verifying    [###############.]  99 %    0.0 MB/s, 200 min left\n" +
			"\x1b[2A\r\x1b[J..00009744-0:0  verifying    [###############.]  99 %    0.0 MB/s, 200 min left\n"},
		{"a narrow terminal", 30, func(d d) {
			d.add(sdb)
			d.update(write)
		}, "/dev/sdb\n" +
			"\x1b[1A\r\x1b[J/dev/sdb  writing      [####.\n"},
		{"a card that was given up", 80, func(d d) {
			d.add(sdb)
			d.remove(sdb)
			d.update(write)
		}, "/dev/sdb\n\x1b[1A\r\x1b[J"},
		{"no terminal", 0, func(d d) {
			d.add(sdb)
			d.print("hello\n", 2)
			d.update(at(sdb, "waiting", 0, 0))
			d.update(at(sdb, "writing", 0, 1000))
			d.update(at(sdb, "writing", 100, 1000))
			d.told[sdb] = time.Now().Add(-time.Minute)
			d.update(write)
			d.update(at(sdb, "writing", 300, 1000))
			d.add(long)
			d.update(slow)
			d.update(at(sdb, "done", 1, 1))
			d.remove(sdb)
			d.update(write)
			d.add(sdb)
			d.update(at(sdb, "waiting", 0, 0))
		}, "hello\n" +
			"/dev/sdb  waiting\n" +
			"/dev/sdb  writing        0 %\n" +
			"/dev/sdb  writing       25 %   12.3 MB/s, 65 s left\n" +
			long + "  verifying     99 %    0.0 MB/s, 200 min left\n" +
			"/dev/sdb  done         100 %\n" +
			"/dev/sdb  waiting\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			tt.do(newDisplay(&got, func() int { return tt.columns }))
			if got.String() != tt.want {
				t.Errorf("%q, want\n%q", got.String(), tt.want)
			}
			for line := range strings.Lines(got.String()) {
				if _, behind, ok := strings.Cut(line, "\x1b[J"); ok {
					line = behind
				}
				if tt.columns > 0 && len(line) > tt.columns { // with its end
					t.Errorf("%q is too long", line)
				}
			}
		})
	}

	// What is printed elsewhere is not among the lines that change.
	var screen, out strings.Builder
	d2 := newDisplay(&screen, func() int { return 80 })
	d2.add(sdb)
	d2.printTo(&out, "label\n")
	if screen.String() != "/dev/sdb\n\x1b[1A\r\x1b[J/dev/sdb\n" || out.String() != "label\n" {
		t.Errorf("%q, %q", screen.String(), out.String())
	}
}

// No line is longer than a terminal has columns, whatever is in it.
func TestProgressLine(t *testing.T) {
	for _, columns := range []int{1, 2, 20, 60, 79, 80, 81, 200} {
		for _, device := range []string{"/dev/sdb", "/dev/mmcblk0", "/dev/loop1048575", strings.Repeat("x", 300)} {
			for _, phase := range []string{"", "writing", "provisioning"} {
				for _, speed := range []float64{0, 1, 12.3e6, 99999e6} {
					for _, left := range []time.Duration{0, time.Minute, time.Hour, 1000 * time.Hour} {
						p := flash.Progress{Device: device, Phase: phase, Done: 1000, Total: 1000, Speed: speed, Left: left}
						line := progressLine(p, len(device), columns)
						if len(line) >= columns {
							t.Errorf("%d columns: %q", columns, line)
						}
						if columns >= 80 && speed > 0 && speed < 1e9 && left <= time.Hour && !strings.HasSuffix(line, " left") {
							t.Errorf("not all is in %q", line)
						}
					}
				}
			}
		}
	}
}

func TestLeft(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 400 * time.Millisecond: "0 s", 99 * time.Second: "99 s", 100 * time.Second: "2 min", 89 * time.Minute: "89 min", 10*time.Minute + 31*time.Second: "11 min",
	} {
		if got := leftText(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
