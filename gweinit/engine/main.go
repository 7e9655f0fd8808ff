// Package engine is Gateway Engine's command, gwe.
package engine

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/exosite/gwe/gweinit/exosite/spec"
)

const usage = `usage: gwe --spec[=FORM]

`

const examples = `
  gwe --spec > resources.yaml       # for the current tools (Murano)
  gwe --spec=older > spec.yaml      # a list, as the older ones take it

Exit status: 0 done, 2 a bad command line.
`

// Main is the program "gwe".
func Main(args []string) int {
	return run(args, os.Stdout, os.Stderr)
}

func run(args []string, out, errs io.Writer) int {
	flags := pflag.NewFlagSet("gwe", pflag.ContinueOnError)
	flags.SetOutput(errs)
	flags.Usage = func() {}
	flags.SortFlags = false
	form := flags.String("spec", "", "print the spec file of a gateway's resources for Exosite's product tools; `FORM` is current or older")
	flags.Lookup("spec").NoOptDefVal = "current"
	help := flags.BoolP("help", "h", false, "this text")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var text []byte
	switch {
	case err != nil:
	case *help:
		fmt.Fprint(out, usage+flags.FlagUsages()+examples)
		return 0
	case *form == "current":
		text = spec.Current(spec.GWE())
	case *form == "older":
		text = spec.Older(spec.GWE())
	case *form == "":
		err = errors.New("nothing to do")
	default:
		err = fmt.Errorf("--spec=%s: want current or older", *form)
	}
	if err != nil {
		fmt.Fprintf(errs, "gwe: %v; \"gwe --help\" shows what there is\n", err)
		return 2
	}
	out.Write(text)
	return 0
}
