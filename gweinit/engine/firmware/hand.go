package firmware

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/exosite/gwe/gweinit/update"
)

// ByHand installs the firmware of a source for somebody who looks on at out, be it
// the version that runs already, and has the gateway reboot into its trial.
func ByHand(ctx context.Context, g Gateway, source Source, out io.Writer) error {
	st, err := g.Host.Firmware(ctx)
	if err != nil {
		return err
	}
	if u := st.Update; u != nil && u.State == update.Trial {
		return onTrial(u)
	}
	id := make([]byte, 8)
	rand.Read(id)
	show := &shown{out: out, terminal: isTerminal(out)}
	w := &writer{Gateway: g, ID: fmt.Sprintf("hand-%x", id), Source: source, Anew: true, Progress: show.at}
	err = w.write(ctx)
	show.end()
	if err != nil {
		return err
	}
	if err := g.Host.Activate(ctx, w.ID, update.DefaultLimit, ""); err != nil {
		return err
	}
	fmt.Fprintf(out, "slot %s: %s verified; rebooting into its trial\n", w.target, w.bundle.Version)
	return g.Host.Reboot(ctx)
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// shown is a bar on a terminal, and else a line now and then.
type shown struct {
	out      io.Writer
	terminal bool
	percent  int64
	last     time.Time
}

const barWidth = 40

func (s *shown) at(done, size int64) {
	percent := done * 100 / max(size, 1)
	first := s.last.IsZero()
	switch {
	case s.terminal && (first || percent > s.percent):
		full := int(percent) * barWidth / 100
		fmt.Fprintf(s.out, "\r[%s%s] %s ", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), amount(done, size))
	case !s.terminal && (first || percent/10 > s.percent/10):
		fmt.Fprintln(s.out, amount(done, size))
	default:
		return
	}
	s.percent, s.last = percent, time.Now()
}

// end leaves the bar's line.
func (s *shown) end() {
	if s.terminal && !s.last.IsZero() {
		fmt.Fprintln(s.out)
	}
}
