package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/flash"
	"github.com/exosite/gwe/builder/label"
	"github.com/exosite/gwe/builder/product"
)

const flashUsage = `Writes an image to cards, all of them at once, and reads it back. All that is on
them is lost. What is mounted, or what this computer runs from, is never written to;
what is not removable, or larger than a card, only with -force.

With -provision, each card gets the settings of the line; with -serial or -serials,
the next serial number, too, which the log says is used from then on. A card that
turns out to be bad takes none away.

With -watch, the devices are readers: each card that is put in is flashed, until
Ctrl-C.

Exit status: 0 if all cards are good, 1 if one is not, or was refused.

  builder flash -board rpi3 /dev/sdb
  builder flash -image out/rpi3.img.zst /dev/sdb /dev/sdc
  builder flash -board rpi3 -provision line.yaml -serial 'GW-######' -log units.csv /dev/sdb /dev/sdc
  builder flash -board rpi3 -provision line.yaml -serials serials.csv -log units.csv -watch -yes -qr labels /dev/sdb
  builder flash -board rpi3 -provision line.yaml -serial GW-000123 -again -owner owner -log units.csv /dev/sdb
`

// flashOptions are the command's flags.
type flashOptions struct {
	board, image, out                 string
	provision, serial, serials, owner string
	first                             int
	again                             bool
	log, qr, console                  string
	watch, yes, force, json           bool
}

func flashCommand(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var o flashOptions
	flags.StringVar(&o.board, "board", "", "`name` of the board whose built image to write")
	flags.StringVar(&o.image, "image", "", "image `file`, BOARD.img.zst or BOARD.img, with BOARD.json beside it (default: the board's)")
	flags.StringVar(&o.out, "out", "out", "`folder` of the built images")
	flags.StringVar(&o.provision, "provision", "", "provision.yaml `file` with the settings of all these gateways")
	flags.StringVar(&o.serial, "serial", "", "serial `number` of the one card, or a pattern such as GW-###### for a counter")
	flags.IntVar(&o.first, "first", 1, "`number` that a counter begins with")
	flags.StringVar(&o.serials, "serials", "", "CSV `file` with serial numbers, used in its order; column serial, or the first; a column mac is for labels")
	flags.BoolVar(&o.again, "again", false, "the serial number may be used: a unit is flashed again")
	flags.StringVar(&o.log, "log", "", "`file`, .csv or .json, that gets a line for each card and tells which serial numbers are used")
	flags.StringVar(&o.owner, "owner", "", "`file` with the product owner's credential: the serial numbers of good cards are enabled in the cloud")
	flags.StringVar(&o.qr, "qr", "", "\"text\", or a `folder` for pictures: labels with the serial number as QR code")
	flags.BoolVar(&o.watch, "watch", false, "flash each card that is put into one of the readers")
	flags.StringVar(&o.console, "console", "", "with -watch, serial `port` of the line's test place: the results of self-tests are logged")
	flags.BoolVar(&o.yes, "yes", false, "do not ask")
	flags.BoolVar(&o.force, "force", false, "also what is not removable, or larger than a card")
	flags.BoolVar(&o.json, "json", false, "print a JSON object for each card, as in the log")
	devices, err := parseArguments(flags, args)
	if err != nil {
		return err
	}
	if len(devices) == 0 {
		fmt.Fprintln(flags.Output(), "builder flash: no device: name the cards', such as /dev/sdb (lsblk lists them)")
		return errUsage
	}
	if err := o.check(devices); err != nil {
		return err
	}
	j, err := o.job(ctx)
	if err != nil {
		return err
	}
	defer j.Image.Close()
	if j.Log != nil {
		defer j.Log.Close()
	}
	st := &station{job: j, o: o, display: newDisplay(os.Stderr), out: os.Stdout}
	j.Tell = st.display.update
	if o.watch {
		return st.watch(ctx, devices)
	}
	return st.cards(ctx, devices)
}

// check finds what does not go together.
func (o *flashOptions) check(devices []string) error {
	counter := strings.Contains(o.serial, "#")
	switch {
	case (o.board == "") == (o.image == ""):
		return errors.New("want one of -board and -image")
	case o.serial != "" && o.serials != "":
		return errors.New("-serial and -serials: want one of them")
	case (o.serial != "" || o.serials != "") && o.log == "":
		return errors.New("serial numbers need -log FILE: it tells which are used; keep it as long as the product is made")
	case o.serial != "" && !counter && (len(devices) > 1 || o.watch):
		return fmt.Errorf("-serial %s is for one card: for several use a pattern such as GW-######, or -serials", o.serial)
	case o.again && (o.serial == "" || counter):
		return errors.New("-again goes with the -serial of the unit that is flashed again")
	case o.first != 1 && !counter || o.first < 0:
		return errors.New("-first is a number for a -serial with #")
	case o.owner != "" && o.serial == "" && o.serials == "":
		return errors.New("-owner is for enabling serial numbers: give -serial or -serials")
	case o.qr != "" && o.serial == "" && o.serials == "":
		return errors.New("-qr is for labels with serial numbers: give -serial or -serials")
	case o.console != "" && !o.watch:
		return errors.New("-console goes with -watch")
	}
	if o.image == "" {
		o.image = filepath.Join(o.out, o.board+".img.zst")
	}
	return nil
}

// job opens what the flags name.
func (o *flashOptions) job(ctx context.Context) (j *flash.Job, err error) {
	j = &flash.Job{Force: o.force}
	switch {
	case strings.Contains(o.serial, "#"):
		j.Serials, err = flash.NewCounter(o.serial, o.first)
	case o.serial != "":
		j.Serials = flash.Given{Unit: flash.Unit{Serial: o.serial}, Again: o.again}
	case o.serials != "":
		j.Serials, err = flash.ReadList(o.serials)
	}
	if err != nil {
		return nil, err
	}
	if o.provision != "" || j.Serials != nil {
		settings, err := flash.ReadSettings(o.provision, j.Serials)
		if err != nil {
			return nil, err
		}
		j.Settings = &settings
	}
	if o.owner != "" {
		cik, err := product.ReadCredential(o.owner)
		if err != nil {
			return nil, err
		}
		owner, err := product.New(j.Settings.Provision, cik)
		if err != nil {
			return nil, err
		}
		j.Enable = func(ctx context.Context, serial string) error {
			_, err := owner.Enable(ctx, serial)
			return err
		}
	}
	if o.qr != "" && o.qr != "text" {
		if err := os.MkdirAll(o.qr, 0o777); err != nil {
			return nil, fmt.Errorf("-qr: %w", err)
		}
	}
	draw := func(done, total int64) {}
	if isTerminal(os.Stderr) {
		draw = bar(os.Stderr)
	}
	if j.Image, err = flash.OpenImage(ctx, o.image, draw); err != nil {
		return nil, buildFirst(err, o.board)
	}
	if o.log != "" {
		if j.Log, err = flash.OpenLog(o.log); err != nil {
			j.Image.Close()
			return nil, err
		}
	}
	return j, nil
}

// station is where cards are flashed: a run of the command.
type station struct {
	job     *flash.Job
	o       flashOptions
	display *display

	mu  sync.Mutex
	out io.Writer
	bad int // cards
	all int
}

// cards flashes the cards that are there.
func (s *station) cards(ctx context.Context, devices []string) error {
	cards, err := examine(devices)
	if err != nil {
		return err
	}
	if err := s.ask(cards, "All that is on them is lost."); err != nil {
		return err
	}
	for _, c := range cards {
		s.display.add(c.Path)
	}
	entries := s.job.Cards(ctx, cards)
	if !s.o.json {
		s.display.printTo(s.out, summary(entries))
	}
	for _, e := range entries {
		s.result(e)
	}
	return s.verdict()
}

// examine looks at all devices, of which each may be named once.
func examine(devices []string) ([]flash.Card, error) {
	var cards []flash.Card
	for _, path := range devices {
		c, err := flash.Examine(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if i := slices.IndexFunc(cards, func(o flash.Card) bool { return o.Name == c.Name }); i >= 0 {
			return nil, fmt.Errorf("%s and %s are the same device", cards[i].Path, path)
		}
		cards = append(cards, c)
	}
	return cards, nil
}

// ask shows what is about to be overwritten, and asks a person.
func (s *station) ask(cards []flash.Card, what string) error {
	m := s.job.Image
	var text strings.Builder
	fmt.Fprintf(&text, "Image: %s, version %s, %s\n", m.Board, m.Version, m.Image.SHA256)
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	good := 0
	for _, c := range cards {
		note := ""
		if err := c.Refuse(m.Image.Size, s.o.force); err != nil {
			note = "refused: " + err.Error()
		} else {
			good++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Path, gigabytes(c.Size), cmp.Or(c.Model, "-"), note)
	}
	t.Flush()
	s.display.print(text.String(), 0)
	if s.o.yes || good == 0 && !s.o.watch {
		return nil
	}
	if !isTerminal(os.Stdin) {
		return errors.New("nobody can be asked whether these are the right cards: -yes goes on without asking")
	}
	s.display.print(what+" Type yes to go on: ", 0)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was written")
	}
	return nil
}

func gigabytes(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }

// watch flashes card after card.
func (s *station) watch(ctx context.Context, readers []string) error {
	var there []string
	for _, path := range readers {
		if _, err := os.Stat(path); err == nil {
			there = append(there, path)
		}
	}
	cards, err := examine(there)
	if err != nil {
		return err
	}
	if err := s.ask(cards, "Each card that is put into "+strings.Join(readers, ", ")+" will be overwritten."); err != nil {
		return err
	}
	if s.o.console != "" {
		console, err := flash.OpenConsole(s.o.console)
		if err != nil {
			return err
		}
		defer console.Close()
		var reading sync.WaitGroup
		defer reading.Wait()
		reading.Go(func() { s.listen(ctx, console) })
	}
	s.display.print("Put a card in. Ctrl-C ends.\n", 0)
	s.job.Watch(ctx, readers,
		func(c flash.Card) {
			s.display.print(fmt.Sprintf("%s: %s, %s\n", c.Path, gigabytes(c.Size), cmp.Or(c.Model, "-")), 0)
			s.display.add(c.Path)
		},
		func(c flash.Card, e flash.Entry) {
			s.display.remove(c.Path)
			beeps := 1
			if e.Result != flash.OK {
				beeps = 3
			}
			s.display.print(resultLine(e)+"; take it out, and put the next one in\n", beeps)
			s.result(e)
		})
	return s.verdict()
}

// listen takes the self-tests of gateways at the test place.
func (s *station) listen(ctx context.Context, console io.ReadCloser) {
	for r, err := range flash.ReadSelftests(ctx, console) {
		if err != nil {
			s.display.print(fmt.Sprintf("console %s: %v; no more self-tests are seen\n", s.o.console, err), 3)
			return
		}
		e := flash.Entry{
			Time: time.Now(), Result: flash.TestPassed, Device: s.o.console,
			Serial: r.Serial, MAC: r.MAC, Board: r.Board, Version: r.Version,
		}
		beeps := 1
		if !r.Pass {
			e.Result, e.Detail = flash.TestFailed, fmt.Sprintf("storage %s, network %s", r.Storage, r.Network)
			beeps = 3
		}
		if s.job.Log != nil {
			if err := s.job.Log.Append(e); err != nil {
				s.display.print(fmt.Sprintf("log: %v\n", err), 3)
			}
		}
		s.display.print(resultLine(e)+"\n", beeps)
		s.result(e)
	}
}

// result counts a card or a test, and prints what scripts and label printers want
// of it.
func (s *station) result(e flash.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	good := e.Result == flash.OK || e.Result == flash.TestPassed
	s.all++
	if !good {
		s.bad++
	}
	switch {
	case s.o.json:
		text, _ := json.Marshal(e)
		s.display.printTo(s.out, string(text)+"\n")
	case good && e.Serial != "":
		s.label(label.Label{Serial: e.Serial, MAC: e.MAC, Board: e.Board, Version: e.Version})
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
			s.display.print(err.Error()+"\n", 3)
			break
		}
		text += path + "\n"
	}
	s.display.printTo(s.out, text)
}

// verdict is the command's error.
func (s *station) verdict() error {
	if s.bad > 0 {
		return fmt.Errorf("%d of %d not good", s.bad, s.all)
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
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tRESULT\tSERIAL\tSIZE\tTIME\t")
	for _, e := range entries {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Device, e.Result, cmp.Or(e.Serial, "-"), gigabytes(e.Size),
			time.Duration(e.Seconds*float64(time.Second)).Round(100*time.Millisecond), e.Detail)
	}
	t.Flush()
	return text.String()
}
