//go:build qemu

package stories

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/flash/flashtest"
	"github.com/exosite/gwe/gweinit/selftest"
	"github.com/exosite/gwe/gweinit/slot"
)

// flash has the builder flash a card of this size, as a line does, and returns it.
func (b *build) flash(t *testing.T, size int64, args ...string) *card {
	t.Helper()
	file, reader := flashtest.File(t, size), flashtest.Reader(t)
	flashtest.Insert(t, reader, file)
	args = append([]string{"flash", "-yes", "-force", "-image", filepath.Join(b.out, b.Compressed.Name)}, append(args, reader)...)
	cmd := exec.Command(builderProgram(t), args...)
	text, err := cmd.CombinedOutput()
	flashtest.Remove(t, reader)
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, text)
	}
	return &card{b, file}
}

// A line flashes a card: the gateway with it tests itself, and activates with the
// serial number that the line has given. Then the unit is flashed again, and waits
// until its owner lets it activate once more.
func TestProductionLine(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		const serial = "GW-000001"
		e := startExosite(t, serial)
		dir := t.TempDir()
		settings, log := filepath.Join(dir, "line.yaml"), filepath.Join(dir, "units.csv")
		if err := os.WriteFile(settings, []byte(e.settings()), 0o644); err != nil {
			t.Fatal(err)
		}
		line := []string{"-provision", settings, "-log", log, "-serial"}
		passes := func(m *machine) {
			t.Helper()
			if rest := m.ready(b, slot.A); rest != "" {
				t.Errorf("the ready line ends in %q", rest)
			}
			if r := m.selftest(); !r.Pass || r.Serial != serial || r.Storage != selftest.OK || r.Network != selftest.OK {
				t.Errorf("self-test: %v", r)
			}
			m.prompted()
		}
		m := b.flash(t, 1<<30, append(line, "GW-######")...).boot(t)
		passes(m)
		e.until(m, "it activates", func() bool { return e.cik() != "" })
		e.until(m, "its self-test is reported", func() bool {
			return strings.Contains(e.value("engine_report"), `"selftest":{"pass":true,"serial":"`+serial+`"`)
		})
		first := e.cik()
		m.Kill()

		c := b.flash(t, 1<<30, append(line, serial, "-again")...)
		m = c.boot(t)
		passes(m)
		m.waits("grep -q 'not enabled' /var/log/gwe.log")
		m.runs("! gwe -C")
		e.enable()
		m.runs("supervisorctl restart gwe") // or it would be minutes
		e.until(m, "it activates again", func() bool { return e.cik() != "" && e.cik() != first })
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
		c.sgdisk(t)
		c.checkData(t, 1<<30)
		if c.bootHas(t, serial) {
			t.Error("the serial number is still on the boot partition")
		}
		text, err := os.ReadFile(log)
		if err != nil || strings.Count(string(text), ",ok,/dev/loop") != 2 || strings.Count(string(text), ","+serial+",") != 4 {
			t.Errorf("the log of the line: %v\n%s", err, text)
		}
	})
}
