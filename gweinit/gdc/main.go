// Package gdc is the command line of the device client: what a device says to
// Exosite and asks it for, from a shell.
package gdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/usage"
	"github.com/exosite/gwe/gweinit/gateway"
)

// The exit statuses.
const (
	done       = 0
	failed     = 1 // no answer, or one that makes no sense
	badUsage   = 2
	badCIK     = 3 // activate again
	nothing    = 4 // no data, not modified
	refused    = 5 // unknown or not enabled device, no such content, clashing times
	statusText = `
Exit status: 0 done; 1 no answer, or an error of the server; 2 a bad command
line; 3 the CIK (token) is not valid; 4 there is nothing: no data, or not
modified; 5 refused: unknown device or content, not enabled, times that clash.
`
)

const head = `usage: gdc write CIK ALIAS VALUE
       gdc read CIK ALIAS...
       gdc [OPTION...] http|mqtt COMMAND [ARGUMENT...]

`

const examples = `
A VALUE of - of write and publish is one value for each line of standard input.
The first two forms take host and CA from GWE's own files if there are some. -f names a file with

  [device]
  murano_host = https://a1b2c3d4e5f60000.m2.exosite.io/
  murano_id = GW-000123

in which the token is kept by activate; "-f gwe" takes those of the gateway.

  gdc write $(gwe -C) temperature 21.5
  gdc -H a1b2c3d4e5f60000.m2.exosite.io -u GW-000123 http activate
  gdc -H a1b2c3d4e5f60000.m2.exosite.io -k TOKEN http read temperature setpoint
  gdc -f device.ini http poll setpoint 30000
  gdc -f device.ini http record $(date +%s) temperature -4.5
  gdc -f gwe http content download app.v1.tar.gz
  gdc -f device.ini mqtt publish '$resource/temperature' 21.5
`

// command is something that gdc does.
type command struct {
	words    string // such as "http content list"
	args     string
	min, max int // number of arguments; max -1: any
	help     string
	// values says that arguments are values, which can begin with a "-", so that
	// no option comes after the first.
	values bool
	run    func(ctx context.Context, s *session, args []string) error
}

func commands() []command {
	return []command{
		{"http write", "ALIAS VALUE", 2, 2, "write a value", true, httpWrite},
		{"http read", "ALIAS...", 1, -1, "print the newest values", true, httpRead},
		{"http record", "TIMESTAMP ALIAS VALUE", 3, 3, "write a value of a time, in seconds since 1970", true, httpRecord},
		{"http poll", "ALIAS TIMEOUT_MS [SINCE]", 2, 3, "wait for a value newer than now or SINCE, in seconds since 1970", true, httpPoll},
		{"http activate", "", 0, 0, "print the token of the device -u", false, httpActivate},
		{"http content list", "", 0, 0, "print the names of the product's content", false, contentList},
		{"http content info", "NAME", 1, 1, "print type, size, time and meta information", false, contentInfo},
		{"http content download", "NAME", 1, 1, "download into a file of that name, going on with NAME.part", false, contentDownload},
		{"http timestamp", "", 0, 0, "print the server's time, in seconds since 1970", false, httpTimestamp},
		{"mqtt activate", "", 0, 0, "print the token of the device -u", false, mqttActivate},
		{"mqtt publish", "TOPIC VALUE", 2, 2, "publish to $resource/ALIAS, or times and values in JSON to $resource.batch", true, mqttPublish},
		{"mqtt subscribe", "", 0, 0, "print values that the product sets", false, mqttSubscribe},
	}
}

// options are those of the command line.
type options struct {
	host, token, uuid, product, file string
	cert, key, ca                    string
	output                           string
	timeout                          float64 // seconds
	json, help                       bool
}

func (o *options) flags(errs io.Writer) *pflag.FlagSet {
	f := pflag.NewFlagSet("gdc", pflag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() {}
	f.SortFlags = false
	f.StringVarP(&o.host, "host", "H", o.host, "`HOST`, HOST:PORT or URL of the server")
	f.StringVarP(&o.product, "pid", "i", o.product, "`ID` of the product, instead of -H")
	f.StringVarP(&o.token, "token", "k", o.token, "`TOKEN` (CIK) of the device")
	f.StringVarP(&o.uuid, "uuid", "u", o.uuid, "identity (serial number) of the device, to activate it")
	f.StringVarP(&o.file, "file", "f", o.file, "device `FILE`, or gwe for the gateway's own")
	f.StringVarP(&o.cert, "cert", "C", o.cert, "certificate of the device, a PEM `FILE`")
	f.StringVarP(&o.key, "key", "K", o.key, "its key, a PEM `FILE`")
	f.StringVarP(&o.ca, "cacert", "E", o.ca, "certificates to trust instead of the system's, a PEM `FILE`")
	f.StringVarP(&o.output, "output", "o", o.output, "`FILE` to download into; - for standard output")
	f.Float64VarP(&o.timeout, "timeout", "m", o.timeout, "give up after so many `SECONDS`; for poll beside its own, never for download and subscribe")
	f.BoolVar(&o.json, "json", o.json, "print JSON (also -json)")
	f.BoolVarP(&o.help, "help", "h", o.help, "this text")
	return f
}

// Main is the program "gdc".
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, os.Stdin, os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	o := options{timeout: 60}
	c, rest, err := o.parse(args, errs)
	if o.help {
		help(out)
		return done
	}
	if err == nil && !(o.timeout > 0 && o.timeout <= 1e6) { // NaN is neither
		err = fmt.Errorf("timeout %v: want seconds, up to 1000000", o.timeout)
	}
	p := printer{json: o.json, out: out, errs: errs}
	if err != nil {
		return p.fail(usageError{err})
	}
	s, err := newSession(o, c, in, p)
	if err != nil {
		return p.fail(err)
	}
	defer addUsage(s.client.Options().Meter)
	defer s.client.Close() // its last bytes count, too
	return p.fail(c.run(ctx, s, rest))
}

// addUsage adds to what the programs of a gateway have used. Elsewhere nobody
// asks for it. Apps that are not root cannot, and are not told.
func addUsage(m *exosite.Meter) {
	root := os.Getenv("GWE_ROOT")
	if r := m.Take(); len(r) > 0 && gateway.Here(root) {
		usage.Add(filepath.Join(root, usage.File), r)
	}
}

// parse returns the command and its arguments.
func (o *options) parse(args []string, errs io.Writer) (command, []string, error) {
	for i, a := range args { // the form that Go's own flags have
		if a == "http" || a == "mqtt" || a == "read" || a == "write" {
			break // values may come
		}
		if a == "-json" {
			args = slices.Clone(args)
			args[i] = "--json"
		}
	}
	f := o.flags(errs)
	var words []string
	for {
		f.SetInterspersed(false)
		if err := f.Parse(args); err != nil {
			return command{}, nil, err
		}
		if o.help {
			return command{}, nil, nil
		}
		if args = f.Args(); len(args) == 0 {
			return command{}, nil, errors.New("no command")
		}
		words = append(words, args[0])
		args = args[1:]
		name := strings.Join(words, " ")
		if len(words) == 1 && (name == "read" || name == "write") {
			// The older form has the CIK for its first argument.
			if len(args) == 0 {
				return command{}, nil, fmt.Errorf("%s whose: no CIK", name)
			}
			o.token, args = args[0], args[1:]
			name = "http " + name
		}
		i := slices.IndexFunc(commands(), func(c command) bool { return c.words == name })
		if i < 0 {
			if !slices.ContainsFunc(commands(), func(c command) bool { return strings.HasPrefix(c.words, name+" ") }) {
				return command{}, nil, fmt.Errorf("unknown command %q", strings.Join(words, " "))
			}
			continue
		}
		c := commands()[i]
		f.SetInterspersed(!c.values)
		if err := f.Parse(args); err != nil {
			return command{}, nil, err
		}
		if args = f.Args(); len(args) < c.min || c.max >= 0 && len(args) > c.max {
			return command{}, nil, fmt.Errorf("%s takes %s, not %d arguments", strings.Join(words, " "), c.takes(), len(args))
		}
		return c, args, nil
	}
}

func (c command) takes() string {
	if c.args == "" {
		return "no arguments"
	}
	return c.args
}

func help(out io.Writer) {
	fmt.Fprint(out, head)
	for _, c := range commands() {
		words := c.words
		if c.args != "" {
			words += " " + c.args
		}
		fmt.Fprintf(out, "  %s\n        %s\n", words, c.help)
	}
	o := options{timeout: 60}
	fmt.Fprint(out, "\n"+o.flags(io.Discard).FlagUsages()+examples+statusText)
}

// status is the exit status for an error.
func status(err error) int {
	var answer *exosite.StatusError
	var clash *exosite.ConflictError
	switch {
	case err == nil:
		return done
	case errors.As(err, new(usageError)):
		return badUsage
	case errors.Is(err, exosite.ErrBadCIK):
		return badCIK
	case errors.Is(err, errNothing), errors.Is(err, exosite.ErrNotModified):
		return nothing
	case errors.Is(err, exosite.ErrUnknownDevice), errors.Is(err, exosite.ErrNotEnabled), errors.As(err, &clash):
		return refused
	case errors.As(err, &answer) && answer.Code/100 == 4 && answer.Code != 408 && answer.Code != 429:
		return refused
	}
	return failed
}

// usageError is a command line that cannot be meant.
type usageError struct{ error }

// errNothing ends a read that found no data; it has been printed.
var errNothing = errors.New("no data")
