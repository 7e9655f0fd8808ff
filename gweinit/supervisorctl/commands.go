package supervisorctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/exosite/gwe/gweinit/control"
)

// command is one of the table. An error of run is printed, and the exit status 1.
type command struct {
	name  string
	usage []string // lines of its help
	about subject
	run   func(c *ctl, ctx context.Context, words []string) error
}

// subject is what the words behind a command are, for completion.
type subject int

const (
	aboutNothing subject = iota
	aboutCommands
	aboutGroups
	aboutProcesses
	hidden // a command that is neither completed nor listed
)

func commands() []command {
	return []command{
		{"add", []string{
			"add <name> [...]\tActivates any updates in config for process/group",
		}, aboutGroups, (*ctl).add},
		{"avail", []string{
			"avail\t\t\tDisplay all configured processes",
		}, aboutNothing, (*ctl).avail},
		{"clear", []string{
			"clear <name>\t\tClear a process' log files.",
			"clear <name> <name>\tClear multiple process' log files",
			"clear all\t\tClear all process' log files",
		}, aboutProcesses, (*ctl).clear},
		{"exit", []string{
			"exit\tExit the supervisor shell.",
		}, aboutNothing, (*ctl).quit},
		{"fg", []string{noForeground}, hidden, (*ctl).foreground},
		{"help", []string{
			"help\t\tPrint a list of available actions",
			"help <action>\tPrint help for <action>",
		}, aboutCommands, (*ctl).help},
		{"maintail", []string{
			"maintail -f \tContinuous tail of supervisor main log file (Ctrl-C to exit)",
			"maintail -100\tlast 100 *bytes* of supervisord main log file",
			"maintail\tlast 1600 *bytes* of supervisor main log file",
			"",
		}, aboutNothing, (*ctl).maintail},
		{"open", []string{
			"open <url>\tConnect to a remote supervisord process.",
			"\t\t(for UNIX domain socket, use unix:///socket/path)",
		}, aboutNothing, (*ctl).open},
		{"pid", []string{
			"pid\t\t\tGet the PID of supervisord.",
			"pid <name>\t\tGet the PID of a single child process by name.",
			"pid all\t\t\tGet the PID of every child process, one per line.",
		}, aboutProcesses, (*ctl).pid},
		{"quit", []string{
			"quit\tExit the supervisor shell.",
		}, aboutNothing, (*ctl).quit},
		{"reload", []string{
			"reload \t\tRestart the remote supervisord.",
		}, aboutNothing, (*ctl).reload},
		{"remove", []string{
			"remove <name> [...]\tRemoves process/group from active config",
		}, aboutGroups, (*ctl).remove},
		{"reread", []string{
			"reread \t\t\tReload the daemon's configuration files without add/remove",
		}, aboutNothing, (*ctl).reread},
		{"restart", []string{
			"restart <name>\t\tRestart a process",
			"restart <gname>:*\tRestart all processes in a group",
			"restart <name> <name>\tRestart multiple processes or groups",
			"restart all\t\tRestart all processes",
			"Note: restart does not reread config files. For that, see reread and update.",
		}, aboutProcesses, (*ctl).restart},
		{"shutdown", []string{
			"shutdown \tShut the remote supervisord down.",
		}, aboutNothing, (*ctl).shutdown},
		{"signal", []string{
			"signal <signal name> <name>\t\tSignal a process",
			"signal <signal name> <gname>:*\t\tSignal all processes in a group",
			"signal <signal name> <name> <name>\tSignal multiple processes or groups",
			"signal <signal name> all\t\tSignal all processes",
		}, aboutProcesses, (*ctl).signal},
		{"start", []string{
			"start <name>\t\tStart a process",
			"start <gname>:*\t\tStart all processes in a group",
			"start <name> <name>\tStart multiple processes or groups",
			"start all\t\tStart all processes",
		}, aboutProcesses, (*ctl).start},
		{"status", []string{
			"status <name>\t\tGet status for a single process",
			"status <gname>:*\tGet status for all processes in a group",
			"status <name> <name>\tGet status for multiple named processes",
			"status\t\t\tGet all process status info",
		}, aboutProcesses, (*ctl).status},
		{"stop", []string{
			"stop <name>\t\tStop a process",
			"stop <gname>:*\t\tStop all processes in a group",
			"stop <name> <name>\tStop multiple processes or groups",
			"stop all\t\tStop all processes",
		}, aboutProcesses, (*ctl).stop},
		{"tail", []string{
			"tail [-f] <name> [stdout|stderr] (default stdout)",
			"Ex:",
			"tail -f <name>\t\tContinuous tail of named process stdout",
			"\t\t\tCtrl-C to exit.",
			"tail -100 <name>\tlast 100 *bytes* of process stdout",
			"tail <name> stderr\tlast 1600 *bytes* of process stderr",
		}, aboutProcesses, (*ctl).tail},
		{"update", []string{
			"update\t\t\tReload config and add/remove as necessary, and will restart affected programs",
			"update all\t\tReload config and add/remove as necessary, and will restart affected programs",
			"update <gname> [...]\tUpdate specific groups",
		}, aboutGroups, (*ctl).update},
		{"version", []string{
			"version\t\t\tShow the version of the remote supervisord process",
		}, aboutNothing, (*ctl).version},
		{endOfInput, nil, hidden, (*ctl).quit},
	}
}

// endOfInput is the command that Python makes of it.
const endOfInput = "EOF"

const noForeground = "fg is not available here; see tail -f"

// Exit statuses, those that the LSB gives to init scripts. status has its own.
const (
	exitSuccess       = 0
	exitGeneric       = 1
	exitInvalid       = 2
	exitUnimplemented = 3
	exitPrivileges    = 4
	exitNotInstalled  = 5
	exitNotRunning    = 7
	exitInterrupted   = 130

	exitStatusNotRunning = 3
	exitStatusUnknown    = 4
)

// Errors that are none to print.
var (
	errQuit        = errors.New("quit")
	errInterrupted = errors.New("interrupted")
	errSaid        = errors.New("was said already, and the exit status is set")
)

// ctl is one run of supervisorctl.
type ctl struct {
	server         control.Client
	url            string // its, as it was given
	stdout, stderr io.Writer
	asks           bool  // whether there is a person to ask
	lines          lines // what the person types
	commands       []command
	exit           int // the last bad one counts
}

func (c *ctl) connect(url string) error {
	socket, err := socketOf(url)
	if err == nil {
		c.url, c.server.Socket = url, socket
	}
	return err
}

// run runs a line. It returns errQuit or errInterrupted if that was the end.
func (c *ctl) run(ctx context.Context, line string) error {
	err := c.do(ctx, line)
	for c.asks && unauthorized(err) {
		if err = c.authenticate(ctx); err == nil {
			err = c.do(ctx, line)
		}
	}
	switch {
	case err == nil || err == errSaid:
		return nil
	case err == errQuit || err == errInterrupted:
		return err
	case errors.Is(err, context.Canceled):
		return errInterrupted
	case unauthorized(err):
		c.print("Server requires authentication")
	default:
		c.print("error: " + c.explain(err))
	}
	c.exit = exitGeneric
	return nil
}

// do does what a line says. A command is letters, digits and _; what follows
// need not be behind a blank.
func (c *ctl) do(ctx context.Context, line string) error {
	line = strings.TrimSpace(line)
	if line == "" {
		return nil
	}
	if line[0] == '?' {
		line = "help " + line[1:]
	}
	end := strings.IndexFunc(line, func(r rune) bool {
		return !(r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	})
	if end < 0 {
		end = len(line)
	}
	command, ok := c.find(line[:end])
	if !ok {
		return c.fail(exitGeneric, "*** Unknown syntax: "+line)
	}
	return command.run(c, ctx, strings.Fields(line[end:]))
}

func (c *ctl) find(name string) (command, bool) {
	i := slices.IndexFunc(c.commands, func(command command) bool { return command.name == name })
	if i < 0 {
		return command{}, false
	}
	return c.commands[i], true
}

// print prints a line.
func (c *ctl) print(line string) { io.WriteString(c.stdout, line+"\n") }

// fail says why a command did nothing, or not all.
func (c *ctl) fail(exit int, why string) error {
	c.print(why)
	c.exit = exit
	return errSaid
}

// misused says so, with the help of the command.
func (c *ctl) misused(exit int, why, name string) error {
	c.print(why)
	c.explainCommand(name)
	c.exit = exit
	return errSaid
}

// noWords is for commands that take none.
func (c *ctl) noWords(name string, words []string) error {
	if len(words) == 0 {
		return nil
	}
	return c.misused(exitGeneric, "Error: "+name+" accepts no arguments", name)
}

func (c *ctl) call(ctx context.Context, method string, args ...any) (any, error) {
	return c.server.Call(ctx, "supervisor."+method, args...)
}

// apiVersion is the one of Supervisor 3 and 4.
const apiVersion = "3.0"

// up checks that the server is there, and says so if not.
func (c *ctl) up(ctx context.Context) error {
	version, err := c.call(ctx, "getVersion")
	switch {
	case err == nil && version == apiVersion:
		return nil
	case err == nil:
		return c.fail(exitNotInstalled, fmt.Sprintf("Sorry, this version of supervisorctl expects to talk to a server with API version %s, but the remote version is %v.", apiVersion, version))
	case codeOf(err) == control.UnknownMethod:
		return c.fail(exitUnimplemented, "Sorry, supervisord responded but did not recognize the supervisor namespace commands that supervisorctl uses to control it.  Please check that the [rpcinterface:supervisor] section is enabled in the configuration file (see sample.conf).")
	case errors.Is(err, syscall.ECONNREFUSED):
		return c.fail(exitPrivileges, c.explain(err))
	case errors.Is(err, syscall.ENOENT):
		return c.fail(exitNotRunning, c.explain(err))
	}
	return err
}

// codeOf returns the code of a fault, and 0 for other errors.
func codeOf(err error) int {
	var fault control.Fault
	errors.As(err, &fault)
	return fault.Code
}

func unauthorized(err error) bool {
	var status *control.StatusError
	return errors.As(err, &status) && status.Code == 401
}

// explain returns an error as one line.
func (c *ctl) explain(err error) string {
	var fault control.Fault
	switch {
	case errors.As(err, &fault):
		return fault.Text
	case errors.Is(err, syscall.ENOENT):
		return c.url + " no such file"
	case errors.Is(err, syscall.ECONNREFUSED):
		return c.url + " refused connection"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return c.url + " permission denied"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return c.url + " closed the connection"
	}
	return err.Error()
}

func (c *ctl) help(_ context.Context, words []string) error {
	if len(words) > 0 {
		c.explainCommand(strings.Join(words, " "))
		return nil
	}
	var names []string
	for _, command := range c.commands {
		if command.about != hidden && command.name != "help" {
			names = append(names, command.name)
		}
	}
	title := "default commands (type help <topic>):"
	c.print("\n" + title + "\n" + strings.Repeat("=", len(title)) + "\n" + columns(names, 79))
	return nil
}

func (c *ctl) explainCommand(name string) {
	command, _ := c.find(name)
	if len(command.usage) == 0 {
		c.print("*** No help on " + name)
	}
	for _, line := range command.usage {
		c.print(line)
	}
}

func (c *ctl) foreground(context.Context, []string) error {
	return c.fail(exitGeneric, noForeground)
}

func (c *ctl) quit(context.Context, []string) error {
	c.print("")
	return errQuit
}
