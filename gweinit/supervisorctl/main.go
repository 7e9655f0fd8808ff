// Package supervisorctl is the program of that name: from a command line or a
// prompt it asks PID 1 to start, stop and show programs. What it prints, and its
// exit statuses, are those of Supervisor 4.2.5, for the scripts and the habits
// that people have.
package supervisorctl

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

const usage = `supervisorctl -- control applications run by supervisord from the cmd line.

Usage: supervisorctl [options] [action [arguments]]

Options:
-c/--configuration FILENAME -- configuration file path (searches if not given)
-h/--help -- print usage message and exit
-i/--interactive -- ask before a shutdown or a reload, as the shell does
-s/--serverurl URL -- URL on which supervisord server is listening
     (default "unix://` + control.Socket + `").
-u/--username USERNAME -- username to use for authentication with server
-p/--password PASSWORD -- password to use for authentication with server
-r/--history-file FILENAME -- keep the lines of the shell in this file

action [arguments] -- see below

Actions are commands like "tail" or "stop".  If no action is specified on the
command line, a "shell" interpreting actions typed interactively is started.
Use the action "help" to find out about available actions.

`

// Main is the program. It returns the exit status.
func Main(args []string) int {
	return run(args, world{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		configs: conf.Files(),
		environ: os.Environ(),
	})
}

// world is what is around the program.
type world struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	configs        []string // where one is looked for, the first that is there counts
	environ        []string
}

func run(args []string, w world) int {
	o, err := parseOptions(args)
	if err != nil {
		return refuse(w, err)
	}
	if o.help {
		io.WriteString(w.stdout, usage)
		return exitSuccess
	}
	s, err := o.settings(w)
	if err != nil {
		return refuse(w, err)
	}
	c := &ctl{
		stdout: w.stdout, stderr: w.stderr,
		asks:     o.given("interactive") || len(o.args) == 0,
		commands: commands(),
	}
	if err := c.connect(s.url); err != nil {
		return refuse(w, err)
	}
	c.server.User, c.server.Password = s.user, s.password
	if c.asks {
		c.lines = c.newLines(w.stdin, s.history)
	}
	if len(o.args) == 0 {
		c.session(s.prompt + "> ")
		return exitSuccess
	}
	if c.run(context.Background(), strings.Join(o.args, " ")) == errInterrupted {
		return exitInterrupted
	}
	return c.exit
}

func refuse(w world, err error) int {
	fmt.Fprintf(w.stderr, "Error: %v\nFor help, use supervisorctl -h\n", err)
	return exitInvalid
}
