package supervisorctl

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/exosite/gwe/gweinit/control"
)

func (c *ctl) shutdown(ctx context.Context, words []string) error {
	if err := c.noWords("shutdown", words); err != nil {
		return err
	}
	if ok, err := c.really(ctx, "Really shut the remote supervisord process down y/N? "); !ok {
		return err
	}
	_, err := c.call(ctx, "shutdown")
	switch {
	case codeOf(err) == control.ShutdownState: // as it should be
		c.print("ERROR: already shutting down")
		return nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return c.fail(exitGeneric, "ERROR: "+c.explain(err)+" (already shut down?)")
	case err != nil:
		return err
	}
	c.print("Shut down")
	return nil
}

func (c *ctl) reload(ctx context.Context, words []string) error {
	if err := c.noWords("reload", words); err != nil {
		return err
	}
	if ok, err := c.really(ctx, "Really restart the remote supervisord process y/N? "); !ok {
		return err
	}
	_, err := c.call(ctx, "restart")
	switch {
	case codeOf(err) == control.ShutdownState:
		return c.fail(exitGeneric, "ERROR: already shutting down")
	case err != nil:
		return err
	}
	c.print("Restarted supervisord")
	return nil
}

// really asks, if there is somebody to ask.
func (c *ctl) really(ctx context.Context, question string) (bool, error) {
	if !c.asks {
		return true, nil
	}
	answer, err := c.lines.answer(ctx, question)
	return strings.HasPrefix(strings.ToLower(answer), "y"), err
}

func (c *ctl) version(ctx context.Context, words []string) error {
	if err := c.noWords("version", words); err != nil {
		return err
	}
	if err := c.up(ctx); err != nil {
		return err
	}
	version, err := c.text(ctx, "getSupervisorVersion")
	if err == nil {
		c.print(version)
	}
	return err
}

// open talks to another server from now on. What its status is does not count.
func (c *ctl) open(ctx context.Context, words []string) error {
	if err := c.connect(strings.Join(words, " ")); err != nil {
		return c.fail(exitGeneric, "ERROR: url must be unix:///path")
	}
	before := c.exit
	err := c.status(ctx, nil)
	if err == nil || err == errSaid {
		c.exit = before
	}
	return err
}

// authenticate asks who it is that asks.
func (c *ctl) authenticate(ctx context.Context) error {
	c.print("Server requires authentication")
	user, err := c.lines.answer(ctx, "Username:")
	if err != nil {
		return err
	}
	password, err := c.lines.password(ctx, "Password:")
	if err != nil {
		return err
	}
	c.print("")
	c.server.User, c.server.Password = user, password
	return nil
}
