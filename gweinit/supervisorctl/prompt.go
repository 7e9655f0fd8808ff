package supervisorctl

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/term"
)

// lines are what a person types: after a prompt a command, the answer to a
// question, or a password. The error is errInterrupted after Ctrl-C.
type lines interface {
	command(ctx context.Context, prompt string) (string, error)
	answer(ctx context.Context, question string) (string, error)
	password(ctx context.Context, question string) (string, error)
	close() // afterwards, nothing is read any more
}

var errNoInput = errors.New("end of input")

// newLines returns those of a terminal, if there is one, or of a pipe.
func (c *ctl) newLines(in io.Reader, history string) lines {
	from, ok1 := in.(*os.File)
	to, ok2 := c.stdout.(*os.File)
	if ok1 && ok2 && term.IsTerminal(int(from.Fd())) && term.IsTerminal(int(to.Fd())) {
		return newTerminal(from, to, history, &completer{ctl: c}, c.stderr)
	}
	return &pipe{bufio.NewReader(in), c.stdout}
}

// session runs commands until one ends it, or the lines end, or Ctrl-C.
func (c *ctl) session(prompt string) {
	defer c.lines.close()
	// Ctrl-C must not end the program at any moment, only what waits for it.
	idle := make(chan os.Signal, 1)
	signal.Notify(idle, os.Interrupt)
	defer signal.Stop(idle)

	err := c.step(func(ctx context.Context) error { return c.run(ctx, "status") })
	for err == nil {
		err = c.step(func(ctx context.Context) error {
			line, err := c.lines.command(ctx, prompt)
			if err == errInterrupted {
				return err
			}
			if err != nil {
				line = endOfInput
			}
			return c.run(ctx, line)
		})
	}
	if err == errInterrupted {
		c.print("")
	}
}

// step does something with a context that ends at Ctrl-C.
func (c *ctl) step(do func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return do(ctx)
}

// pipe is lines that do not come from a terminal.
type pipe struct {
	in  *bufio.Reader
	out io.Writer
}

func (p *pipe) command(ctx context.Context, prompt string) (string, error) {
	io.WriteString(p.out, prompt)
	type read struct {
		line string
		err  error
	}
	// One that is left alone reads what nobody wants any more.
	done := make(chan read, 1)
	go func() {
		line, err := p.in.ReadString('\n')
		if line != "" && errors.Is(err, io.EOF) {
			err = nil // a last line that has no end
		} else if err == io.EOF {
			err = errNoInput
		}
		done <- read{strings.TrimRight(line, "\r\n"), err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		return "", errInterrupted
	}
}

func (p *pipe) answer(ctx context.Context, question string) (string, error) {
	return p.command(ctx, question)
}

func (p *pipe) password(ctx context.Context, question string) (string, error) {
	return p.command(ctx, question)
}

func (p *pipe) close() {}
