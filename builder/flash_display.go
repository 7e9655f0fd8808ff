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
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	devices  []string
	lines    map[string]string
	drawn    int // lines of the block that is on the screen
	phase    map[string]string
	told     map[string]time.Time
}

func newDisplay(f *os.File) *display {
	return &display{w: f, terminal: isTerminal(f), lines: map[string]string{}, phase: map[string]string{}, told: map[string]time.Time{}}
}

// add has a line for a device, below those that are there.
func (d *display) add(device string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.terminal {
		d.devices = append(d.devices, device)
		d.lines[device] = device
		d.draw()
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// update shows progress.
func (d *display) update(p flash.Progress) {
	const now = 10 * time.Second
	d.mu.Lock()
	defer d.mu.Unlock()
	line := progressLine(p)
	if !d.terminal {
		if p.Phase != d.phase[p.Device] || time.Since(d.told[p.Device]) >= now {
			d.phase[p.Device], d.told[p.Device] = p.Phase, time.Now()
			fmt.Fprintln(d.w, line)
		}
		return
	}
	d.lines[p.Device] = line
	d.draw()
}

// print prints what stays, above the lines that change; beeps is how often it
// calls the operator.
func (d *display) print(text string, beeps int) {
	if d.terminal {
		text += strings.Repeat("\a", beeps)
	}
	d.printTo(d.w, text)
}

// printTo prints elsewhere, which may be the same terminal.
func (d *display) printTo(w io.Writer, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
	fmt.Fprint(w, text)
	d.draw()
}

// remove takes a device's line away.
func (d *display) remove(device string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.phase, device)
	d.clear()
	d.devices = slices.DeleteFunc(d.devices, func(s string) bool { return s == device })
	d.draw()
}

func (d *display) clear() {
	if d.drawn > 0 {
		fmt.Fprintf(d.w, "\x1b[%dA\r\x1b[J", d.drawn)
	}
	d.drawn = 0
}

func (d *display) draw() {
	d.clear()
	for _, device := range d.devices {
		fmt.Fprintf(d.w, "%s\n", d.lines[device])
	}
	d.drawn = len(d.devices)
}

// progressLine is short enough for a terminal of 80 columns, as a line that
// wraps could not be drawn again.
func progressLine(p flash.Progress) string {
	const width = 20
	line := fmt.Sprintf("%-14s %-12s", p.Device, p.Phase)
	if p.Total > 0 {
		full := int(p.Done * width / p.Total)
		line += fmt.Sprintf(" [%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat(".", width-full), p.Done*100/p.Total)
	}
	if p.Speed > 0 {
		line += fmt.Sprintf(" %5.1f MB/s, %.0f s left", p.Speed/1e6, p.Left.Seconds())
	}
	return line
}
