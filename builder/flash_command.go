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
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/flash"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/label"
	"github.com/exosite/gwe/builder/product"
	"github.com/exosite/gwe/gweinit/selftest"
)

const flashUsage = `Writes an image to cards, all of them at once, and reads it back. All that is on
them is lost. What is mounted, or what this computer runs from, is never written to;
what is not removable, or larger than a card, only with -force.

With -provision, each card gets the settings of the line; with -serial or -serials,
the next serial number, too, which the log says is used from then on. A card that
turns out to be bad takes none away.

With -watch, the devices are readers: each card that is put in is flashed, until
Ctrl-C.

For each card with a serial number it prints a line for labels, also if that could
not be enabled in the cloud: "builder enable" does it later.

Exit status: 0 if all cards and self-tests are good, 1 if one is not, or was refused.

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
	cards, err := examine(devices, o.watch)
	if err != nil {
		return err
	}
	j, err := o.job(ctx, len(devices))
	if err != nil {
		return err
	}
	defer j.Image.Close()
	if j.Log != nil {
		defer j.Log.Close()
	}
	screen := os.Stderr
	st := &station{job: j, o: o, display: newDisplay(screen, func() int { return columns(screen) }), out: os.Stdout}
	j.Tell = st.display.update
	if o.watch {
		return st.watch(ctx, cards)
	}
	return st.flash(ctx, cards)
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
	case o.qr == "text" && o.json:
		return errors.New("-qr text and -json: want one of them")
	case o.console != "" && !o.watch:
		return errors.New("-console goes with -watch")
	}
	if o.image == "" {
		o.image = filepath.Join(o.out, o.board+".img.zst")
	}
	return nil
}

// job opens what the flags name.
func (o *flashOptions) job(ctx context.Context, cards int) (_ *flash.Job, failed error) {
	j, err := &flash.Job{Force: o.force}, error(nil)
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
		j.Enable = func(ctx context.Context, serial string) (string, error) { return owner.Enable(ctx, serial, o.again) }
	}
	if o.qr != "" && o.qr != "text" {
		if err := os.MkdirAll(o.qr, 0o777); err != nil {
			return nil, fmt.Errorf("-qr: %w", err)
		}
	}
	if o.log != "" {
		log, err := flash.OpenLog(o.log)
		if err != nil {
			return nil, err
		}
		defer func() {
			if failed != nil {
				log.Close()
			}
		}()
		j.Log = log
	}
	draw := func(done, total int64) {}
	if isTerminal(os.Stderr) {
		draw = bar(os.Stderr)
	}
	if j.Image, err = flash.OpenImage(ctx, o.image, draw); err != nil {
		draw(1, 1)
		if o.board != "" {
			err = buildFirst(err, o.board)
		}
		return nil, err
	}
	err = o.checkSettings(j.Image, cards)
	if err == nil && j.Image.Release && j.Settings != nil {
		err = image.CheckKeys(j.Settings.FirmwareKeys)
	}
	if err != nil {
		j.Image.Close()
		return nil, err
	}
	return j, nil
}

// checkSettings looks at those that the image was built with.
func (o *flashOptions) checkSettings(built *flash.Image, cards int) error {
	if o.provision != "" {
		return nil
	}
	own, ok, err := built.Settings()
	switch {
	case err != nil:
		return err
	case ok && (o.serial != "" || o.serials != ""):
		return errors.New("the image was built with settings, and those of a card with a serial number take their place: give all of them with -provision")
	case own.Serial != "" && (cards > 1 || o.watch):
		return fmt.Errorf("the image was built with serial number %s, which would be that of all cards: build it without, and use -serial", own.Serial)
	}
	return nil
}

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

// examine looks at all devices, of which each may be named once. Readers need not be
// there as long as no card is in them.
func examine(devices []string, readers bool) ([]flash.Card, error) {
	var cards []flash.Card
	for i, path := range devices {
		if slices.Contains(devices[:i], path) {
			return nil, fmt.Errorf("%s is given twice", path)
		}
		c, err := flash.Examine(path)
		if readers && errors.Is(err, fs.ErrNotExist) {
			if !strings.HasPrefix(path, "/dev/disk/by-path/") {
				return nil, fmt.Errorf("%s is not there, and may be anything that is plugged in later: put a card in, or name its reader by its place, in /dev/disk/by-path", path)
			}
			c, err = flash.Card{Path: path}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if i := slices.IndexFunc(cards, func(o flash.Card) bool { return c.Name != "" && o.Name == c.Name }); i >= 0 {
			return nil, fmt.Errorf("%s and %s are the same device", cards[i].Path, path)
		}
		cards = append(cards, c)
	}
	return cards, nil
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
