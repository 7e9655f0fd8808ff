package supervisorctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/exosite/gwe/gweinit/control"
)

// tailSize is how much of a log is shown, in bytes.
const tailSize = 1600

func (c *ctl) tail(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	switch {
	case len(words) < 1:
		return c.misused(exitGeneric, "Error: too few arguments", "tail")
	case len(words) > 3:
		return c.misused(exitGeneric, "Error: too many arguments", "tail")
	}
	modifier := ""
	if strings.HasPrefix(words[0], "-") {
		modifier, words = words[0], words[1:]
	}
	if len(words) == 0 {
		return c.fail(exitGeneric, "Error: tail requires process name")
	}
	name, channel := words[0], "stdout"
	if len(words) > 1 {
		channel = strings.ToLower(words[len(words)-1])
	}
	method := map[string]string{"stdout": "readProcessStdoutLog", "stderr": "readProcessStderrLog"}[channel]
	if method == "" {
		return c.fail(exitGeneric, "Error: bad channel '"+channel+"'")
	}
	size, follow, err := c.tailed(modifier)
	switch {
	case err != nil:
		return err
	case follow:
		return c.follow(ctx, "/logtail/"+name+"/"+channel)
	}
	log, err := c.text(ctx, method, name, -size, 0)
	return c.printLog(name, log, err)
}

func (c *ctl) maintail(ctx context.Context, words []string) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	if len(words) > 1 {
		return c.misused(exitGeneric, "Error: too many arguments", "maintail")
	}
	modifier := strings.Join(words, "")
	if modifier != "" && modifier[0] != '-' {
		return c.fail(exitGeneric, "Error: bad argument "+modifier)
	}
	size, follow, err := c.tailed(modifier)
	switch {
	case err != nil:
		return err
	case follow:
		return c.follow(ctx, "/mainlogtail")
	}
	log, err := c.text(ctx, "readLog", -size, 0)
	return c.printLog("supervisord", log, err)
}

// tailed understands "", "-f" and "-N".
func (c *ctl) tailed(modifier string) (size int, follow bool, err error) {
	switch modifier {
	case "":
		return tailSize, false, nil
	case "-f":
		return 0, true, nil
	}
	n, err := strconv.ParseInt(modifier[1:], 10, 32)
	if err != nil {
		return 0, false, c.fail(exitGeneric, "Error: bad argument "+modifier)
	}
	return int(n), false, nil
}

// printLog prints the end of a log, its bytes as they are.
func (c *ctl) printLog(name, log string, err error) error {
	why := ""
	switch codeOf(err) {
	case control.NoFile:
		why = "no log file"
	case control.Failed:
		why = "unknown error reading log"
	case control.BadName:
		why = "no such process name"
	}
	switch {
	case why != "":
		return c.fail(exitGeneric, name+": ERROR ("+why+")")
	case err != nil:
		return err
	}
	c.print(log)
	return nil
}

// follow prints a log as it grows, until Ctrl-C, which is no error. Neither is
// what Supervisor does not count as one.
func (c *ctl) follow(ctx context.Context, path string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	c.print("==> Press Ctrl-C to exit <==")
	log, err := c.server.Get(ctx, path)
	var status *control.StatusError
	switch {
	case ctx.Err() != nil:
		c.print("")
		return nil
	case errors.As(err, &status):
		fmt.Fprintf(c.stderr, "%s%s Cannot read, status code %d\n", c.url, path, status.Code)
		return nil
	case err != nil:
		fmt.Fprintf(c.stderr, "%s%s Cannot connect, error: %s\n", c.url, path, c.explain(err))
		return nil
	}
	defer log.Close()
	_, err = io.Copy(c.stdout, log)
	switch {
	case ctx.Err() != nil:
		c.print("")
	case err != nil:
		fmt.Fprintf(c.stderr, "%s%s %v\n", c.url, path, err)
	}
	return nil
}
