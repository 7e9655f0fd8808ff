package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/builder/flash"
	"github.com/exosite/gwe/builder/image"
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
