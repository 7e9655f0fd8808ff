//go:build qemu

package stories

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/gweinit/config"
)

// BenchmarkFigures prints the table of "make bench": a row a figure, a column
// a board.
func BenchmarkFigures(b *testing.B) {
	builder := builderProgram(b)
	// With a compiler cache of its own a cold build is one on a new machine,
	// with its downloads done.
	b.Setenv("GOCACHE", b.TempDir())
	rows := []string{
		"build, cold without downloads and U-Boot, s", "build, another version, s", "build, nothing changed, s", "builder's memory, MB",
		"boot image, MB", "root, MB", "slot, MB", "image compressed, MB",
		"power on to initramfs, s", "power on to ready, s", "power on to an address, s", "power on to a set clock, s",
		"memory used, MB", "PID 1 anonymous, MB", "PID 1's wake-ups a minute", "least memory that boots, MB",
	}
	table := map[string]map[string]float64{}
	for b.Loop() {
		for _, name := range boards {
			f, err := figures(b, builder, name)
			if err != nil {
				b.Fatal(err)
			}
			table[name] = f
		}
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\nfigure\t%s\t\n", strings.Join(boards, "\t"))
	for _, row := range rows {
		fmt.Fprint(t, row)
		for _, name := range boards {
			v, ok := table[name][row]
			if !ok {
				b.Fatalf("board %s has no figure %q", name, row)
			}
			fmt.Fprintf(t, "\t%.2f", v)
		}
		fmt.Fprint(t, "\t\n")
	}
	t.Flush()
}

func figures(b *testing.B, builder, name string) (map[string]float64, error) {
	f := map[string]float64{}
	out, cache := b.TempDir(), coldCache(b)
	// U-Boot is built once for all boards that share it, not with an image.
	keepUBoot(b, cache)
	build := func(version string) (seconds, megabytes float64, err error) {
		cmd := exec.Command(builder, "image", "-board", name, "-overlays", "base busybox dev", "-version", version, "-mirror", os.Getenv("mirror"), "-cache", cache, "-out", out)
		cmd.Dir = project
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, 0, err
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		for peak := 0.0; ; {
			select {
			case err := <-done:
				return time.Since(start).Seconds(), peak, err
			case <-time.After(20 * time.Millisecond):
				// The builder's own peak: the one of wait4 has its children in it.
				if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); err == nil {
					if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text); m != nil {
						kb, _ := strconv.Atoi(string(m[1]))
						peak = max(peak, float64(kb)/1024)
					}
				}
			}
		}
	}
	for _, step := range []struct{ row, version string }{
		{"build, cold without downloads and U-Boot, s", "1.0.0"},
		{"build, another version, s", "1.0.1"}, // so another root
		{"build, nothing changed, s", "1.0.1"},
	} {
		seconds, megabytes, err := build(step.version)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step.row, err)
		}
		f[step.row] = seconds
		f["builder's memory, MB"] = max(f["builder's memory, MB"], megabytes)
	}
	brd, err := board.Load(filepath.Join(project, "boards"), name)
	if err != nil {
		return nil, err
	}
	size := func(file string) float64 {
		info, err := os.Stat(file)
		if err != nil {
			return 0
		}
		return float64(info.Size()) / 1e6
	}
	f["image compressed, MB"] = size(filepath.Join(out, name+".img.zst"))
	for row, pattern := range map[string]string{"boot image, MB": "boot-image/*/boot.img", "root, MB": "root/*/root.squashfs"} {
		files, _ := filepath.Glob(filepath.Join(cache, pattern))
		f[row] = size(files[0])
	}
	f["slot, MB"] = f["boot image, MB"] + f["root, MB"]

	if err := idle(b, brd, out, f); err != nil {
		return nil, err
	}
	f["least memory that boots, MB"], err = leastMemory(b, brd, out)
	return f, err
}

// idle boots the image, and measures when it is up and what it costs then.
func idle(b *testing.B, brd *board.Board, out string, f map[string]float64) error {
	ntp := startTimeServer(b, 24*time.Hour)
	settings, err := config.File(fmt.Appendf(nil, "network: {ntp: [\"10.0.2.2:%d\"]}\n", ntp.port))
	if err != nil {
		return err
	}
	img := filepath.Join(out, brd.Name+".img")
	if err := disk.Provision(img, settings); err != nil {
		return err
	}
	m, err := qemu.Start(b.Context(), qemu.Options{
		Board: brd, Image: img, UBoot: filepath.Join(out, brd.Name, image.UBootFile), Scratch: b.TempDir(), Snapshot: true,
	}, nil)
	if err != nil {
		return err
	}
	defer m.Kill()
	seen, err := m.Expect(b.Context(), "gweinit: initramfs: start")
	if err != nil {
		return err
	}
	f["power on to initramfs, s"] = seen.After.Seconds()
	if seen, err = m.Expect(b.Context(), `gweinit: ready .*uptime=([0-9.]+)\r?\n`); err != nil {
		return err
	}
	f["power on to ready, s"] = seen.After.Seconds()
	ready, err := strconv.ParseFloat(seen.Groups[1], 64)
	if err != nil {
		return err
	}
	if _, err := m.Expect(b.Context(), prompt); err != nil {
		return err
	}
	// The kernel's log has the time since it started.
	fmt.Fprintln(m, `until grep -q ntp /run/clock-set 2>/dev/null; do sleep 1; done`)
	for row, line := range map[string]string{"power on to an address, s": "gweinit: link .*10.0.2.15", "power on to a set clock, s": "gweinit: the clock is set source=ntp"} {
		fmt.Fprintf(m, "dmesg | awk '/%s/ {gsub(/[^0-9. ]/, \"\", $0); print \"at\", $1, \"s\" \"ec\"; exit}'\n", line)
		if seen, err = m.Expect(b.Context(), `at ([0-9.]+) sec`); err != nil {
			return err
		}
		at, err := strconv.ParseFloat(seen.Groups[1], 64)
		if err != nil {
			return err
		}
		f[row] = f["power on to ready, s"] + at - ready
	}
	fmt.Fprintln(m, `switches() { cat /proc/1/task/*/status | awk '/ctxt_switches/ {n += $2} END {print n}'; }; sleep 30; a=$(switches); sleep 60; b=$(switches); echo woken $((b-a)) "t"imes`)
	if seen, err = m.Expect(b.Context(), `woken (\d+) times`); err != nil {
		return err
	}
	woken, _ := strconv.Atoi(seen.Groups[1])
	fmt.Fprintln(m, `awk '/^MemTotal/{t=$2} /^MemAvailable/{print "used", t-$2, "k" "B"}' /proc/meminfo; awk '/^RssAnon/{print "anon", $2, "k" "B"}' /proc/1/status`)
	if seen, err = m.Expect(b.Context(), `used (\d+) kB(?s:.*)anon (\d+) kB`); err != nil {
		return err
	}
	used, _ := strconv.Atoi(seen.Groups[1])
	anon, _ := strconv.Atoi(seen.Groups[2])
	f["memory used, MB"], f["PID 1 anonymous, MB"], f["PID 1's wake-ups a minute"] = float64(used)/1024, float64(anon)/1024, float64(woken)
	return nil
}

// leastMemory starts the image with less and less memory until it does not
// come up any more. A machine whose memory is fixed has that.
func leastMemory(b *testing.B, brd *board.Board, out string) (float64, error) {
	least := brd.Machine.Memory
	if brd.Machine.MemoryMin == brd.Machine.Memory && brd.Machine.Flash == nil {
		return float64(least), nil
	}
	for _, memory := range []int{256, 192, 128, 112, 96, 80, 72, 64, 56, 48, 40, 32} {
		ctx, cancel := context.WithTimeout(b.Context(), 45*time.Second)
		m, err := qemu.Start(ctx, qemu.Options{
			Board: brd, Image: filepath.Join(out, brd.Name+".img"), UBoot: filepath.Join(out, brd.Name, image.UBootFile),
			Memory: memory, Snapshot: true, Scratch: b.TempDir(),
		}, nil)
		if err != nil {
			cancel()
			return 0, err
		}
		seen, err := m.Expect(ctx, `gweinit: ready .*uptime=\S+(.*)\n`)
		m.Kill()
		cancel()
		if err != nil || strings.Contains(seen.Groups[1], "failed") {
			break
		}
		least = memory
	}
	return float64(least), nil
}
