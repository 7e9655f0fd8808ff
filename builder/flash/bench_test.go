package flash_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/flash/flashtest"
)

// BenchmarkFigures prints how long an image takes onto a card, which is a loop
// device here, and how much memory, for us and for the others.
func BenchmarkFigures(b *testing.B) {
	const rounds, many, size = 3, 8, 1 << 30
	dir := b.TempDir()
	if err := flashtest.Build(dir); err != nil {
		b.Fatal(err)
	}
	img := filepath.Join(dir, "test.img")
	builder := filepath.Join(dir, "builder")
	for _, args := range [][]string{{"go", "build", "-o", builder, ".."}, {"bmaptool", "create", "-o", img + ".bmap", img}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	var devices []string
	for range many {
		devices = append(devices, flashtest.Loop(b, flashtest.File(b, size)))
	}
	forAll := func(command string) string {
		return "for d in $devices; do (" + command + ") & pids=\"$pids $!\"; done; for p in $pids; do wait $p || exit; done"
	}
	// The largest process of a shell and all that it has waited for. Those of a
	// large process, as this one, count for as much as that.
	const measure = `import resource, subprocess, sys
status = subprocess.call(["sh", "-c", sys.argv[1]])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)`
	commands := []struct{ name, command string }{
		{"builder flash: erase, write, read back", builder + " flash -yes -force -image " + img + " $devices"},
		{"dd + cmp, without erasing", forAll("dd if=" + img + " of=$d bs=4M conv=fsync status=none && blockdev --flushbufs $d && cmp -n $(stat -c %s " + img + ") " + img + " $d")},
		{"bmaptool, without reading back", forAll("bmaptool -q copy --bmap " + img + ".bmap " + img + " $d")},
		{"bmaptool + cmp", forAll("bmaptool -q copy --bmap " + img + ".bmap " + img + " $d && blockdev --flushbufs $d && cmp -n $(stat -c %s " + img + ") " + img + " $d")},
	}
	for b.Loop() {
		var out bytes.Buffer
		t := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
		fmt.Fprintf(t, "an image of 128 MiB\tone card\teight cards\tlargest process, one card, eight\n")
		for _, c := range commands {
			row := c.name
			memory := ""
			for _, n := range []int{1, many} {
				best, most := time.Duration(0), int64(0)
				for range rounds {
					for _, d := range devices[:n] { // all alike: as they were at first
						if out, err := exec.Command("blkdiscard", d).CombinedOutput(); err != nil {
							b.Fatalf("blkdiscard: %v: %s", err, out)
						}
					}
					cmd := exec.Command("python3", "-c", measure, c.command)
					cmd.Env = append(os.Environ(), "devices="+strings.Join(devices[:n], " "))
					start := time.Now()
					out, err := cmd.CombinedOutput()
					kb := int64(0)
					if _, scanned := fmt.Sscan(string(out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:]), &kb); err != nil || scanned != nil {
						b.Fatalf("%s: %v: %s", c.name, err, out)
					}
					if took := time.Since(start); best == 0 || took < best {
						best = took
					}
					most = max(most, kb>>10)
				}
				row += fmt.Sprintf("\t%.2f s, %.0f MB/s", best.Seconds(), float64(n)*(128<<20)/1e6/best.Seconds())
				memory += fmt.Sprintf(" %d MB", most)
			}
			fmt.Fprintf(t, "%s\t%s\n", row, memory)
		}
		t.Flush()
		fmt.Print(out.String())
	}
}
