package data

import (
	"io"
	"strings"
	"sync"
	"unicode"
)

// Of e2fsck's output the log gets the first lines and the last: it can be
// larger than the memory of a gateway.
const (
	firstLines = 40
	lastLines  = 10
	lineLength = 200
)

// lines is a writer that logs line by line, until it is closed: a child that
// hangs in the kernel may write later than anybody waits for.
type lines struct {
	log func(format string, args ...any)

	mu     sync.Mutex
	line   []byte // not ended yet
	n      int    // lines so far
	last   []string
	closed bool
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, io.ErrClosedPipe
	}
	for _, b := range p {
		switch {
		case b == '\n' || b == '\r':
			l.end()
		case len(l.line) < lineLength:
			l.line = append(l.line, b)
		}
	}
	return len(p), nil
}

// end ends a line.
func (l *lines) end() {
	text := strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, string(l.line)))
	l.line = l.line[:0]
	if text == "" {
		return
	}
	if l.n++; l.n <= firstLines {
		l.log("e2fsck: %s", text)
		return
	}
	if len(l.last) == lastLines {
		l.last = l.last[1:]
	}
	l.last = append(l.last, text)
}

// close logs what is left.
func (l *lines) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.end()
	if more := l.n - firstLines - len(l.last); more > 0 {
		l.log("e2fsck: (%d more lines)", more)
	}
	for _, text := range l.last {
		l.log("e2fsck: %s", text)
	}
}
