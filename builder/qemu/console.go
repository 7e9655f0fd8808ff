package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Console collects what a machine prints and lets others wait for it. It keeps
// the last megabyte.
type Console struct {
	echo  io.Writer
	start time.Time

	mu      sync.Mutex
	text    []byte
	read    int // what Expect has matched ends here
	closed  bool
	changed chan struct{} // closed and replaced at each change
}

const consoleLimit = 1 << 20

// NewConsole returns an empty console that copies what it gets to echo,
// unless nil.
func NewConsole(echo io.Writer) *Console {
	return &Console{echo: echo, start: time.Now(), changed: make(chan struct{})}
}

// Write takes what the machine prints.
func (c *Console) Write(p []byte) (int, error) {
	if c.echo != nil {
		c.echo.Write(p) // a reader that is gone does not stop the machine
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	if drop := len(c.text) - consoleLimit; drop > 0 {
		c.text = append([]byte(nil), c.text[drop:]...)
		c.read = max(0, c.read-drop)
	}
	c.notify()
	return len(p), nil
}

// Close says that nothing more will come.
func (c *Console) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.notify()
}

func (c *Console) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// ErrEnded says that the machine ended before it printed what was expected.
var ErrEnded = errors.New("the machine has ended")

// Match is what Expect saw.
type Match struct {
	Groups []string      // the match and its groups
	After  time.Duration // since the machine's start
}

// settle is how long Expect waits for more when a match ends where the
// console does: "ready.*" is to match the whole line, and a prompt at once.
const settle = 200 * time.Millisecond

// Expect waits until the console has printed something that matches, behind
// what earlier calls matched. The error shows the end of the console.
func (c *Console) Expect(ctx context.Context, expr string) (Match, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return Match{}, err
	}
	settled := false
	for {
		c.mu.Lock()
		text, changed, closed := c.text[c.read:], c.changed, c.closed
		loc := re.FindSubmatchIndex(text)
		atEnd := loc != nil && loc[1] == len(text)
		if loc != nil && (!atEnd || settled || closed) {
			m := Match{After: time.Since(c.start)}
			for i := 0; i < len(loc); i += 2 {
				group := ""
				if loc[i] >= 0 {
					group = string(text[loc[i]:loc[i+1]])
				}
				m.Groups = append(m.Groups, group)
			}
			c.read += loc[1]
			c.mu.Unlock()
			return m, nil
		}
		c.mu.Unlock()
		if closed {
			return Match{}, fmt.Errorf("%w without printing %q; its console ends:\n%s", ErrEnded, expr, c.Tail(40))
		}
		var wait <-chan time.Time
		if atEnd {
			wait = time.After(settle)
		}
		settled = false
		select {
		case <-changed:
		case <-wait:
			settled = true
		case <-ctx.Done():
			if atEnd {
				settled = true
				continue
			}
			return Match{}, fmt.Errorf("%w after %.1f s without printing %q; its console ends:\n%s", ctx.Err(), time.Since(c.start).Seconds(), expr, c.Tail(40))
		}
	}
}

// Text returns what was printed, the last megabyte.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Tail returns the last lines that were printed.
func (c *Console) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(c.Text(), "\r\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
