package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/flash"
	"github.com/exosite/gwe/builder/label"
	"github.com/exosite/gwe/gweinit/selftest"
)

// station is where cards are flashed: a run of the command.
type station struct {
	job     *flash.Job
	o       flashOptions
	display *display

	mu    sync.Mutex
	out   io.Writer
	cards count
	tests count
	lost  []error // what else is wrong
}

// count is how many of something are not good.
type count struct{ bad, all int }

// flash flashes the cards that are there.
func (s *station) flash(ctx context.Context, cards []flash.Card) error {
	var rows, good []string
	for _, c := range cards {
		rows = append(rows, s.row(c))
		if c.Refuse(s.job.Image.Image.Size, s.o.force) == nil {
			good = append(good, c.Path)
		}
	}
	question := ""
	if len(good) > 0 {
		question = fmt.Sprintf("All that is on %s is lost.", strings.Join(good, ", "))
	}
	if err := s.ask(ctx, rows, question); err != nil {
		return err
	}
	for _, path := range good {
		s.display.add(path)
	}
	entries := s.job.Cards(ctx, cards)
	for _, path := range good {
		s.display.remove(path)
	}
	if !s.o.json {
		s.display.printTo(s.out, summary(entries))
	}
	for _, e := range entries {
		s.result(e)
	}
	return s.verdict()
}

// row is a card in a table.
func (s *station) row(c flash.Card) string {
	note := ""
	if c.Name == "" {
		note = "not there yet"
	} else if c.Size == 0 && s.o.watch {
		note = "no card yet"
	} else if err := c.Refuse(s.job.Image.Image.Size, s.o.force); err != nil {
		note = "refused: " + err.Error()
	} else if err := c.Refuse(s.job.Image.Image.Size, false); err != nil {
		why, _, _ := strings.Cut(err.Error(), ": -force")
		note = "FORCED: " + why
	}
	return c.Path + "\t" + sizeText(c.Size) + "\t" + cmp.Or(c.Model, "-") + "\t" + note
}

// sizeText is a card's size, if there is one.
func sizeText(n int64) string {
	if n == 0 {
		return "-"
	}
	return flash.SizeText(n)
}

// ask shows what is about to be overwritten, and asks a person the question, if there
// is one.
func (s *station) ask(ctx context.Context, rows []string, question string) error {
	m, kind := s.job.Image, "no release"
	if m.Release {
		kind = "release"
	}
	s.display.print(fmt.Sprintf("Image: %s, version %s (%s), %s\n", m.Board, m.Version, kind, m.Image.SHA256)+table(rows), 0)
	if s.o.yes || question == "" {
		return nil
	}
	if !isTerminal(os.Stdin) || s.display.columns() == 0 {
		return errors.New("nobody can be asked whether these are the right cards: -yes goes on without asking")
	}
	s.display.print(question+" Type yes to go on: ", 0)
	answer, in := make(chan string, 1), bufio.NewReader(os.Stdin)
	go func() { // Ctrl-C does not end a read
		text, err := in.ReadString('\n')
		if err != nil {
			text = ""
		}
		answer <- text
	}()
	text := ""
	select {
	case text = <-answer:
	case <-ctx.Done():
	}
	if text == "" {
		s.display.print("\n", 0)
	}
	if strings.TrimSpace(text) != "yes" {
		return errors.New("nothing was written")
	}
	return nil
}

// table is rows of cells with tabs in between.
func table(rows []string) string {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, r)
	}
	t.Flush()
	lines := strings.Split(text.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// watch flashes card after card.
func (s *station) watch(ctx context.Context, readers []flash.Card) error {
	var paths, rows []string
	for _, r := range readers {
		paths, rows = append(paths, r.Path), append(rows, s.row(r))
	}
	var console io.ReadCloser
	if s.o.console != "" {
		var err error
		if console, err = flash.OpenConsole(s.o.console); err != nil {
			return err
		}
		defer console.Close()
	}
	if err := s.ask(ctx, rows, "All that is on a card that is put into "+strings.Join(paths, ", ")+" is lost."); err != nil {
		return err
	}
	var reading sync.WaitGroup
	if console != nil {
		reading.Go(func() { s.listen(ctx, console) })
	}
	s.display.print("Put a card in. Ctrl-C ends.\n", 0)
	s.job.Watch(ctx, readers,
		func(c flash.Card) {
			s.display.print(fmt.Sprintf("%s: %s, %s\n", c.Path, flash.SizeText(c.Size), cmp.Or(c.Model, "-")), 0)
			s.display.add(c.Path)
		},
		func(c flash.Card, e flash.Entry) {
			s.display.remove(c.Path)
			beeps, next := 1, "; take it out, and put the next one in"
			if e.Result != flash.OK {
				beeps = 3
			}
			if ctx.Err() != nil {
				next = ""
			}
			s.display.print(resultLine(e)+next+"\n", beeps)
			s.result(e)
		})
	reading.Wait()
	return s.verdict()
}

// listen takes the self-tests of gateways at the test place.
func (s *station) listen(ctx context.Context, console io.ReadCloser) {
	err := errors.New("it has ended, as one that is pulled out")
	for r, failed := range flash.ReadSelftests(ctx, console) {
		if failed != nil {
			err = failed
			break
		}
		e := flash.Entry{
			Time: time.Now(), Result: flash.TestPassed, Device: s.o.console,
			Serial: r.Serial, MAC: r.MAC, Board: r.Board, Version: r.Version,
		}
		beeps := 1
		if err := s.judge(r); err != nil {
			e.Result, e.Detail = flash.TestFailed, err.Error()
			beeps = 3
		}
		s.display.print(resultLine(e)+"\n", beeps)
		if s.job.Log != nil {
			if err := s.job.Log.Append(e); err != nil {
				s.lose(fmt.Errorf("self-test of %s: %w", r.Serial, err))
			}
		}
		s.result(e)
	}
	if ctx.Err() == nil {
		s.lose(fmt.Errorf("console %s: %w: no more self-tests are seen", s.o.console, err))
	}
}

// judge says what is wrong with a gateway at the test place, which may not be one of
// those that were flashed here.
func (s *station) judge(r selftest.Result) error {
	m := s.job.Image
	if !r.Pass {
		return errors.New(strings.TrimSuffix(fmt.Sprintf("storage %s, network %s, %s", r.Storage, r.Network, r.Boot), ", "))
	}
	if r.Board != m.Board || r.Version != m.Version {
		return fmt.Errorf("it runs %s of %s, and not %s of %s", r.Version, r.Board, m.Version, m.Board)
	}
	if s.job.Serials == nil {
		return nil
	}
	used, err := s.job.Log.Used()
	if err != nil {
		return err
	}
	if !used[r.Serial] {
		return errors.New("its serial number is not in the log")
	}
	if mac := s.macOf(r.Serial); mac != "" && !strings.EqualFold(mac, r.MAC) {
		return fmt.Errorf("its MAC address is %s, and %s in %s", r.MAC, mac, s.o.serials)
	}
	return nil
}

// macOf is the address that a unit has by the list of serial numbers.
func (s *station) macOf(serial string) string {
	list, _ := s.job.Serials.(flash.List)
	if i := slices.IndexFunc(list, func(u flash.Unit) bool { return u.Serial == serial }); i >= 0 {
		return list[i].MAC
	}
	return ""
}

// lose tells what went wrong beside the cards.
func (s *station) lose(err error) {
	s.display.print(err.Error()+"\n", 3)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = append(s.lost, err)
}

// result counts a card or a test, and prints what scripts and label printers want
// of it.
func (s *station) result(e flash.Entry) {
	s.mu.Lock()
	counted := &s.cards
	if e.Result == flash.TestPassed || e.Result == flash.TestFailed {
		counted = &s.tests
	}
	counted.all++
	if e.Result != flash.OK && e.Result != flash.TestPassed {
		counted.bad++
	}
	s.mu.Unlock()
	if s.o.json {
		text, _ := json.Marshal(e)
		s.display.printTo(s.out, string(text)+"\n")
	}
	switch e.Result {
	case flash.OK, flash.NotEnabled, flash.TestPassed:
		// After the test once more, if it is known by now what was missing.
		if e.Serial != "" && (e.Result != flash.TestPassed || s.macOf(e.Serial) == "") {
			s.label(label.Label{Serial: e.Serial, MAC: e.MAC, Board: e.Board, Version: e.Version})
		}
	}
}

// label prints a unit's label.
func (s *station) label(unit label.Label) {
	text := unit.Line() + "\n"
	switch s.o.qr {
	case "":
	case "text":
		text += unit.Text()
	default:
		path, err := unit.WritePNG(s.o.qr)
		if err != nil {
			s.lose(err)
			break
		}
		text += path + "\n"
	}
	if !s.o.json {
		s.display.printTo(s.out, text)
	}
}

// verdict is the command's error.
func (s *station) verdict() error {
	var not []string
	if c := s.cards; c.bad > 0 {
		not = append(not, fmt.Sprintf("%d of %d cards not good", c.bad, c.all))
	}
	if c := s.tests; c.bad > 0 {
		not = append(not, fmt.Sprintf("%d of %d self-tests failed", c.bad, c.all))
	}
	for _, err := range s.lost {
		not = append(not, err.Error())
	}
	if len(not) > 0 {
		return errors.New(strings.Join(not, "; "))
	}
	return nil
}

func resultLine(e flash.Entry) string {
	line := fmt.Sprintf("%s: %s", e.Device, e.Result)
	if e.Serial != "" {
		line += ", serial " + e.Serial
	}
	if e.Detail != "" {
		line += ": " + e.Detail
	}
	return line
}

// summary is a table of all cards.
func summary(entries []flash.Entry) string {
	rows := []string{"DEVICE\tRESULT\tSERIAL\tSIZE\tTIME"}
	for _, e := range entries {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%.1f s\t%s", e.Device, e.Result, cmp.Or(e.Serial, "-"), sizeText(e.Size), e.Seconds, e.Detail))
	}
	return table(rows)
}
