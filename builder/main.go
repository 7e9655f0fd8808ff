// Command builder makes firmware images for Gateway Engine's boards and runs
// them in QEMU.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // provisionings are checked on hosts without the package
)

// command is one of the builder's commands.
type command struct {
	name, summary, usage string
	run                  func(ctx context.Context, flags *flag.FlagSet, args []string) error
}

func commands() []command {
	return []command{
		{"image", "build a board's image", imageUsage, imageCommand},
		{"bundle", "make the firmware that gateways update to", bundleUsage, bundleCommand},
		{"key", "make a key pair that signs firmware", keyUsage, keyCommand},
		{"flash", "write an image to cards, each with its serial number", flashUsage, flashCommand},
		{"boot", "boot an image on the board's QEMU machine", bootUsage, bootCommand},
		{"enable", "let serial numbers activate, once more if need be", enableUsage, enableCommand},
		{"murano", "stand in for Exosite's cloud", muranoUsage, muranoCommand},
		{"sources", "collect the source packages that belong to an image", sourcesUsage, sourcesCommand},
		{"boards", "list the boards", boardsUsage, boardsCommand},
		{"setup", "install the Debian packages that building needs", setupUsage, setupCommand},
	}
}

// errUsage is for a command line that cannot be understood; it has been
// reported.
var errUsage = errors.New("usage")

// errNotSeen ends "boot -until" when the machine did not print it.
var errNotSeen = errors.New("not seen")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends what hangs in a broken card reader
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

// run returns the exit status: 0 done, 1 failed, 2 a bad command line, 3 what
// "boot -until" waited for was not seen.
func run(ctx context.Context, args []string) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		usage(os.Stdout)
		if len(args) == 0 {
			return 2
		}
		return 0
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
		flags.Usage = func() {
			fmt.Fprintf(flags.Output(), "builder %s: %s\n\n%s\n", c.name, c.summary, c.usage)
			flags.PrintDefaults()
		}
		err := c.run(ctx, flags, args[1:])
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			return 2
		}
		fmt.Fprintf(os.Stderr, "builder %s: %v\n", c.name, err)
		if errors.Is(err, errNotSeen) {
			return 3
		}
		return 1
	}
	fmt.Fprintf(os.Stderr, "builder: unknown command %q\n\n", args[0])
	usage(os.Stderr)
	return 2
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: builder COMMAND [FLAG...] [ARGUMENT...]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-8s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\n\"builder COMMAND -h\" shows a command's flags, arguments and examples.\nRun it in the project's folder.\n")
}

// parse parses flags, for commands that take no other arguments.
func parse(flags *flag.FlagSet, args []string) error {
	others, err := parseArguments(flags, args)
	if err == nil && len(others) > 0 {
		fmt.Fprintf(flags.Output(), "builder %s: unexpected argument %q\n", flags.Name(), others[0])
		err = errUsage
	}
	return err
}

// parseArguments parses flags, and returns the arguments before, between and behind
// them.
func parseArguments(flags *flag.FlagSet, args []string) (others []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, errUsage
		}
		if flags.NArg() == 0 {
			return others, nil
		}
		others, args = append(others, flags.Arg(0)), flags.Args()[1:]
	}
}
