package supervisorctl

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is lines that are edited on one. It is raw only while one is read:
// Ctrl-C is a signal to commands.
type terminal struct {
	in      *os.File
	editor  *term.Terminal
	history *history
	file    string // of the history, or ""
	words   *completer
	stderr  io.Writer
}

func newTerminal(in, out *os.File, file string, words *completer, stderr io.Writer) *terminal {
	both := struct {
		io.Reader
		io.Writer
	}{in, out}
	t := &terminal{in: in, editor: term.NewTerminal(both, ""), history: &history{}, file: file, words: words, stderr: stderr}
	if file != "" {
		t.history.load(file) // one that cannot be read is none
	}
	t.editor.History = t.history
	t.editor.AutoCompleteCallback = t.key
	return t
}

func (t *terminal) command(_ context.Context, prompt string) (string, error) {
	t.words.forget()
	t.history.adds = true
	defer func() { t.history.adds = false }()
	return t.read(prompt, t.editor.ReadLine)
}

func (t *terminal) answer(_ context.Context, question string) (string, error) {
	return t.read(question, t.editor.ReadLine)
}

func (t *terminal) password(_ context.Context, question string) (string, error) {
	return t.read(question, func() (string, error) { return t.editor.ReadPassword(question) })
}

// read reads a line with the terminal raw, and makes it what it was.
func (t *terminal) read(prompt string, read func() (string, error)) (string, error) {
	fd := int(t.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer t.watch(fd, before)()
	defer term.Restore(fd, before)
	if _, err := term.MakeRaw(fd); err != nil {
		return "", err
	}
	t.editor.SetPrompt(prompt)
	t.resize(fd)
	line, err := read()
	if err == io.EOF { // Ctrl-C or Ctrl-D, the editor does not tell which
		return "", errInterrupted
	}
	return line, err
}

// watch does what signals mean while the terminal may be raw, until the function
// that it returns is called.
func (t *terminal) watch(fd int, before *term.State) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				if s == syscall.SIGWINCH {
					t.resize(fd)
					continue
				}
				term.Restore(fd, before)
				signal.Reset(s)
				unix.Kill(os.Getpid(), s.(syscall.Signal))
				time.Sleep(100 * time.Millisecond)
				os.Exit(128 + int(s.(syscall.Signal))) // under nohup the signal does nothing
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

func (t *terminal) resize(fd int) {
	t.editor.SetSize(size(fd))
}

func size(fd int) (width, height int) {
	width, height, err := term.GetSize(fd)
	if err != nil || width < 1 || height < 1 { // a serial console does not know
		return 80, 24
	}
	return width, height
}

// key completes at Tab. If there is a choice it inserts what is certain, and
// lists the names if nothing is.
func (t *terminal) key(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	word, found := t.words.complete(line[:pos])
	more := strings.TrimPrefix(commonPrefix(found), word)
	if len(found) == 1 {
		more += " "
	}
	if more == "" {
		if len(found) > 0 {
			width, _ := size(int(t.in.Fd()))
			io.WriteString(t.editor, columns(found, width-1))
		}
		return "", 0, false
	}
	return line[:pos] + more + line[pos:], pos + len(more), true
}

func (t *terminal) close() {
	if t.file == "" || !t.history.changed {
		return
	}
	if err := t.history.save(t.file); err != nil {
		fmt.Fprintf(t.stderr, "Warning: the history is lost: %v\n", err)
	}
}
