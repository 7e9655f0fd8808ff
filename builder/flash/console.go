package flash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/selftest"
)

// OpenConsole opens the serial port that a gateway's console is connected to, for
// reading: 115200 baud, 8N1, as all boards have it. Close ends a read.
func OpenConsole(path string) (io.ReadCloser, error) {
	// Not blocking: a modem line that is down would block for ever.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the console %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	raw := unix.Termios{
		Iflag: unix.IGNBRK | unix.IGNPAR,
		Cflag: unix.B115200 | unix.CS8 | unix.CREAD | unix.CLOCAL,
		// Linux looks at Cflag.
		Ispeed: unix.B115200, Ospeed: unix.B115200,
	}
	raw.Cc[unix.VMIN] = 1
	switch err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); {
	case errors.Is(err, unix.ENOTTY):
		f.Close()
		return nil, fmt.Errorf("open the console %s: it is no serial port", path)
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("set the console %s to 115200 baud, 8N1: %w", path, err)
	}
	return f, nil
}

// Of a console whose line does not end, as with noise, we keep so much at least: more
// than a result takes. Twice that is read at a time.
const consoleKeep = 2 << 10

// ReadSelftests yields the results of self-tests that a console shows, until it ends,
// or ctx does, which closes it. The error is that of reading, and the last.
func ReadSelftests(ctx context.Context, console io.ReadCloser) iter.Seq2[selftest.Result, error] {
	return func(yield func(selftest.Result, error) bool) {
		stop := context.AfterFunc(ctx, func() { console.Close() })
		defer stop()
		in := bufio.NewReaderSize(console, 2*consoleKeep)
		var line []byte
		for {
			piece, err := in.ReadSlice('\n')
			line = append(line, piece...)
			r, found := selftest.Parse(string(line))
			switch {
			case found, err == nil:
				line = line[:0]
			case errors.Is(err, bufio.ErrBufferFull): // the result may begin at the end
				line = append(line[:0], line[max(0, len(line)-consoleKeep):]...)
			}
			if found && !yield(r, nil) {
				return
			}
			switch {
			case err == nil, errors.Is(err, bufio.ErrBufferFull):
			case errors.Is(err, io.EOF), ctx.Err() != nil:
				return
			default:
				yield(selftest.Result{}, err)
				return
			}
		}
	}
}
