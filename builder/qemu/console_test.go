package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// console returns a console that has printed text.
func console(text string) *Console {
	c := NewConsole(nil)
	fmt.Fprint(c, text)
	return c
}

func expect(t *testing.T, c *Console, expr, want string) {
	t.Helper()
	m, err := c.Expect(t.Context(), expr)
	if got := strings.Join(m.Groups, "|"); err != nil || got != want {
		t.Errorf("Expect(%q): got %q, %v\nwant %q", expr, got, err, want)
	}
}

func TestExpect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var echo bytes.Buffer
		c := NewConsole(&echo)
		const text = "U-Boot 2023\r\ngwe: slot=a why=good\r\ngwe: slot=b why=trial\r\nlogin: "
		fmt.Fprint(c, text)
		expect(t, c, `slot=(\w+) why=(\w+)( x)?`, "slot=a why=good|a|good|")
		expect(t, c, `slot=(\w+)`, "slot=b|b") // behind the first
		expect(t, c, `login: $`, "login: ")    // a prompt that no line's end follows
		if echo.String() != text || c.Text() != text {
			t.Errorf("echo %q, text %q", echo.String(), c.Text())
		}
		if _, err := c.Expect(t.Context(), "("); err == nil || !strings.Contains(err.Error(), "missing closing") {
			t.Errorf("a bad expression: got %v", err)
		}
	})
}

// A match that ends where the console does may go on.
func TestExpectSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewConsole(nil)
		got := make(chan Match)
		go func() {
			m, err := c.Expect(t.Context(), "ready.*")
			if err != nil {
				t.Error(err)
			}
			got <- m
		}()
		for _, text := range []string{"gweinit: rea", "dy", " slot=", "a", " version=1\n", "login: "} {
			synctest.Wait() // Expect waits for more
			time.Sleep(settle - 1)
			fmt.Fprint(c, text)
		}
		m := <-got
		if m.Groups[0] != "ready slot=a version=1" || m.After != 5*(settle-1) {
			t.Errorf("got %q after %v", m.Groups, m.After)
		}
		start := time.Now()
		expect(t, c, "login:.*", "login: ")
		if waited := time.Since(start); waited != settle {
			t.Errorf("a line that stays open took %v, want %v", waited, settle)
		}
	})
}

func TestExpectEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*Console, context.CancelFunc)
		is   error
	}{
		{"the machine ended", func(c *Console, _ context.CancelFunc) { c.Close() }, ErrEnded},
		{"timeout", func(*Console, context.CancelFunc) { time.Sleep(time.Minute) }, context.DeadlineExceeded},
		{"given up", func(_ *Console, cancel context.CancelFunc) { cancel() }, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c := console(strings.Repeat("noise\n", 50) + "kernel panic\r\n\n")
				failed := make(chan error)
				go func() {
					_, err := c.Expect(ctx, "ready (.*)")
					failed <- err
				}()
				synctest.Wait()
				tt.end(c, cancel)
				err := <-failed
				if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), `"ready (.*)"`) || !strings.HasSuffix(err.Error(), "noise\nkernel panic") {
					t.Errorf("got %v\nwant %v, what was expected, and the console's end", err, tt.is)
				}
				if n := strings.Count(err.Error(), "\n"); n != 40 {
					t.Errorf("%d lines of the console, want 40:\n%v", n, err)
				}
			})
		})
	}
}

// What was printed counts even when the machine or the time is over.
func TestExpectLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := console("ready")
		c.Close()
		expect(t, c, "re.*", "ready") // nothing can follow
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if m, err := console("ready\n").Expect(over, "ready"); err != nil {
			t.Errorf("a whole line: got %q, %v", m.Groups, err)
		}
		if m, err := console("ready").Expect(over, "ready"); err != nil {
			t.Errorf("an open line: got %q, %v", m.Groups, err)
		}
	})
}

func TestConsoleLimit(t *testing.T) {
	c := console("first\n")
	expect(t, c, "first", "first")
	line := strings.Repeat("x", 1023) + "\n"
	for range 1 << 10 { // a MB, which pushes the first line out
		fmt.Fprint(c, line)
	}
	fmt.Fprint(c, "last\n")
	if got := c.Text(); len(got) != 1<<20 || strings.Contains(got, "first") || !strings.HasSuffix(got, "x\nlast\n") {
		t.Errorf("%d bytes from %.10q to %q", len(got), got, got[len(got)-10:])
	}
	expect(t, c, "x\n(last)\n", "x\nlast\n|last")
	// One write of more than all.
	fmt.Fprint(c, "lost\n"+strings.Repeat(line, 1<<10)[5:]+"kept\n")
	expect(t, c, "lost|kept", "kept")
	if got := c.Text(); len(got) != 1<<20 {
		t.Errorf("%d bytes are kept", len(got))
	}
}

func TestTail(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""}, {"one", "one"}, {"1\n2\n3\n", "2\n3"}, {"1\r\n2\r\n3\r\n\r\n", "2\r\n3"}, {"1\n\n3", "\n3"},
	} {
		if got := console(tt.text).Tail(2); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}
