package logfile

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

const (
	pollEvery      = 200 * time.Millisecond
	truncated      = "==> File truncated <==\n"
	maxGenerations = 1000 // where to look for a file that was rotated
)

// Follow writes the last head bytes of a file to w, and then what is added to
// it, in writes of 64 KiB at most, until the context ends, w fails, or the file
// cannot be read. It goes on with a new file when the file is rotated, after the
// rest of the old one. If the file gets shorter, it writes that as Supervisor
// does, and starts again at its beginning. w should not wait for more.
func Follow(ctx context.Context, path string, head int64, w io.Writer) error {
	return follow(ctx, path, head, w, pollEvery)
}

func follow(ctx context.Context, path string, head int64, w io.Writer, every time.Duration) error {
	file, err := openFollowed(path)
	if err != nil {
		return err
	}
	t := &follower{path: path, w: w, f: file}
	defer func() { t.f.Close() }()
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	t.pos = max(info.Size()-max(head, 0), 0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		again, err := t.poll(ctx)
		if err != nil {
			return err
		}
		if again {
			continue
		}
		timer.Reset(every)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// openFollowed opens a file that has a size.
func openFollowed(path string) (*os.File, error) {
	f, err := openRead(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "follow", Path: path, Err: syscall.ESPIPE}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

type follower struct {
	path string
	w    io.Writer
	f    *os.File
	pos  int64
	mid  bool // what was read last does not end a line
	wait bool // one more poll, to see what becomes of it
}

// poll writes what was added, and tells whether there may be more at once.
func (t *follower) poll(ctx context.Context) (again bool, err error) {
	if err := t.copy(ctx); err != nil {
		return false, err
	}
	// In this order: a file that has been rotated gets no more.
	rotated := t.rotated()
	if err := t.copy(ctx); err != nil {
		return false, err
	}
	info, err := t.f.Stat()
	if err != nil {
		return false, err
	}
	short := t.pos - info.Size()
	if short > 0 && !rotated {
		rotated = t.rotated()
	}
	// A rotation takes the beginning of a line from the old file to the new one,
	// and then shortens the old one: one more poll, and it is done.
	if rotated && t.mid && short <= 0 && !t.wait {
		t.wait = true
		return false, nil
	}
	t.wait = false
	if rotated {
		next := t.next()
		if next == nil {
			return false, nil
		}
		t.f.Close()
		t.f = next
		t.pos = max(short, 0) // what was moved is written already
		return true, nil
	}
	if short > 0 {
		t.pos = 0
		t.mid = false
		if _, err := io.WriteString(t.w, truncated); err != nil {
			return false, err
		}
		return true, nil
	}
	return false, nil
}

// copy writes what there is behind pos.
func (t *follower) copy(ctx context.Context) error {
	buf := buffers.Get().(*[blockSize]byte)
	defer buffers.Put(buf)
	for ctx.Err() == nil {
		n, err := t.f.ReadAt(buf[:], t.pos)
		if n > 0 {
			if _, err := t.w.Write(buf[:n]); err != nil {
				return err
			}
			t.pos += int64(n)
			t.mid = buf[n-1] != '\n'
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n < len(buf) {
			return nil
		}
	}
	return ctx.Err()
}

// rotated tells whether there is another file now.
func (t *follower) rotated() bool {
	is, err := os.Stat(t.path)
	if err != nil || !is.Mode().IsRegular() { // removed, or between two steps
		return false
	}
	was, err := t.f.Stat()
	return err == nil && !os.SameFile(is, was)
}

// next opens the file that came after the one that is open: there may have been
// more than one rotation meanwhile.
func (t *follower) next() *os.File {
	was, err := t.f.Stat()
	if err != nil {
		return nil
	}
	older := file{path: t.path}
	for range 10 { // while it is being rotated
		at := 0
		for i := 1; i <= maxGenerations; i++ {
			is, err := os.Stat(older.name(i))
			if err != nil {
				break
			}
			if os.SameFile(is, was) {
				at = i
				break
			}
		}
		f, err := openFollowed(older.name(max(at-1, 0)))
		if err != nil {
			continue
		}
		if at == 0 { // removed
			return f
		}
		if is, err := os.Stat(older.name(at)); err == nil && os.SameFile(is, was) {
			return f
		}
		f.Close()
	}
	return nil
}
