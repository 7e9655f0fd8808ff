package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/flash"
)

// display shows how it goes with several cards: a line for each that changes, on
// a terminal, and lines now and then elsewhere.
type display struct {
	w       io.Writer
	columns func() int // of the terminal; 0: it is none

	mu      sync.Mutex
	devices []string
	latest  map[string]flash.Progress
	drawn   int // lines of the block that is on the screen
	told    map[string]time.Time
}

func newDisplay(w io.Writer, columns func() int) *display {
	return &display{w: w, columns: columns, latest: map[string]flash.Progress{}, told: map[string]time.Time{}}
}

// columns are those of a terminal; 0: it is none.
func columns(f *os.File) int {
	if !isTerminal(f) {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 { // a serial line
		return 80
	}
	return int(size.Col)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// add has a line for a device, below those that are there.
func (d *display) add(device string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.latest[device] = flash.Progress{Device: device}
	d.devices = append(d.devices, device)
	d.draw()
}

// remove takes a device's line away.
func (d *display) remove(device string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.devices = slices.DeleteFunc(d.devices, func(s string) bool { return s == device })
	delete(d.latest, device)
	delete(d.told, device)
	d.draw()
}

// update shows progress of a device that has a line.
func (d *display) update(p flash.Progress) {
	const now = 10 * time.Second
	d.mu.Lock()
	defer d.mu.Unlock()
	before, ok := d.latest[p.Device]
	if !ok { // it was given up
		return
	}
	d.latest[p.Device] = p
	if d.columns() > 0 {
		d.draw()
	} else if p.Phase != before.Phase || time.Since(d.told[p.Device]) >= now {
		d.told[p.Device] = time.Now()
		fmt.Fprintln(d.w, progressLine(p, len(p.Device), 0))
	}
}

// print prints what stays, above the lines that change; beeps is how often it
// calls the operator.
func (d *display) print(text string, beeps int) {
	if d.columns() > 0 {
		text += strings.Repeat("\a", beeps)
	}
	d.printTo(d.w, text)
}

// printTo prints elsewhere, which may be the same terminal.
func (d *display) printTo(w io.Writer, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	io.WriteString(d.w, d.clear())
	io.WriteString(w, text)
	d.draw()
}

// clear returns what removes the lines.
func (d *display) clear() (text string) {
	if d.drawn > 0 {
		text = fmt.Sprintf("\x1b[%dA\r\x1b[J", d.drawn)
	}
	d.drawn = 0
	return text
}

// draw draws the lines again. It is one write, so that they do not flicker.
func (d *display) draw() {
	room := d.columns()
	if room == 0 {
		return
	}
	text := d.clear()
	longest := 0
	for _, device := range d.devices {
		longest = max(longest, len(device))
	}
	for _, device := range d.devices {
		text += progressLine(d.latest[device], longest, room) + "\n"
	}
	d.drawn = len(d.devices)
	io.WriteString(d.w, text)
}

// progressLine is a line about a device, whose name gets so many columns. A line that
// wraps on a terminal could not be drawn again, so it is shorter than that has columns;
// 0: it may have any length, and has no bar.
func progressLine(p flash.Progress, name, columns int) string {
	const width = 16 // of the bar
	text := fmt.Sprintf("  %-12s", p.Phase)
	if p.Total > 0 {
		if full := int(p.Done * width / p.Total); columns > 0 {
			text += fmt.Sprintf(" [%s%s]", strings.Repeat("#", full), strings.Repeat(".", width-full))
		}
		text += fmt.Sprintf(" %3d %%", p.Done*100/p.Total)
	}
	if p.Speed > 0 {
		text += fmt.Sprintf("  %5.1f MB/s, %s left", p.Speed/1e6, leftText(p.Left))
	}
	if columns == 0 {
		return strings.TrimRight(p.Device+text, " ")
	}
	const most = 2 + 12 + 3 + width + 6 + 13 + len(", 99 min left")
	name = min(name, max(columns-1-most, 12))
	device := p.Device
	if len(device) > name { // the end tells more
		device = ".." + device[len(device)-name+2:]
	}
	line := strings.TrimRight(fmt.Sprintf("%-*s", name, device)+text, " ")
	return line[:min(len(line), max(columns-1, 0))]
}

// leftText is a time that is a guess.
func leftText(d time.Duration) string {
	if d < 100*time.Second {
		return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
	}
	return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
}
