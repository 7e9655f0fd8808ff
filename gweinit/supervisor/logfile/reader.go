package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine is how much of a line waits for the rest of it.
const maxLine = 8 << 10

// stripRoom is left free before what is read to be stripped: an escape character
// that was held back may have to go before it. A page, not a byte, so that the
// pipe is read by whole pages.
const stripRoom = 4 << 10

// Reader reads a pipe to its end. While the pipe is empty it has no buffer.
type Reader struct {
	log  *Log
	pipe *os.File
	conn syscall.RawConn
	done chan struct{}

	mu      sync.Mutex
	got     int64         // bytes read
	handed  int64         // of these, given to the Log
	ended   bool          // handed is all that there will be
	changed chan struct{} // closed when handed or ended changes; nil if nobody waits

	// Who reads also writes, which saves waking another one up. If its write
	// hangs, guard has another one go on to read.
	own   *ownWrite // that is under way; nil if there is none
	guard *time.Timer
	armed bool

	strip stripper
	lines lines
}

// ownWrite is one by who reads.
type ownWrite struct {
	since    time.Time
	replaced bool // another one reads by now
}

// Follow takes over the read end of a pipe, reads it to its end in the
// background, and closes it. Several may be followed at once.
func (l *Log) Follow(pipe *os.File) *Reader {
	r := &Reader{log: l, done: make(chan struct{})}
	if r.pipe = pollable(pipe); r.pipe != nil {
		r.conn, _ = r.pipe.SyscallConn()
	}
	r.guard = time.AfterFunc(time.Hour, r.look)
	r.guard.Stop()
	go r.run()
	return r
}

// pollable returns a file for the same pipe that does not take a thread while
// it waits.
func pollable(f *os.File) *os.File {
	if f == nil {
		return nil
	}
	if !errors.Is(f.SetReadDeadline(time.Time{}), os.ErrNoDeadline) {
		return f
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return f
	}
	dup := -1
	conn.Control(func(fd uintptr) {
		if dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			unix.SetNonblock(dup, true)
		}
	})
	if err != nil || dup < 0 {
		return f
	}
	defer f.Close()
	return os.NewFile(uintptr(dup), f.Name())
}

// Done is closed when the pipe has come to its end, that is, when all processes
// that had it have ended, and all of it is written or dropped.
func (r *Reader) Done() <-chan struct{} { return r.done }

// Close ends the Reader before the end of the pipe. Whoever still writes to it
// gets SIGPIPE.
func (r *Reader) Close() {
	if r.pipe != nil {
		r.pipe.Close()
	}
}

// Drained waits until what is in the pipe now has been read and written or
// dropped, and tells whether that came before the timeout.
func (r *Reader) Drained(timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	r.mu.Lock()
	want := r.got + r.pending()
	for r.handed < want && !r.ended {
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
		r.mu.Lock()
	}
	r.mu.Unlock()
	return r.log.flush(r.log.mark(), deadline)
}

// pending returns how many bytes are in the pipe. The caller holds mu, so that
// none of them is read meanwhile.
func (r *Reader) pending() int64 {
	if r.conn == nil {
		return 0
	}
	var n uint32
	r.conn.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetUint32(int(fd), unix.TIOCINQ)
	})
	return int64(n)
}

// run reads the pipe to its end, or until another goroutine does so.
func (r *Reader) run() {
	defer func() { // PID 1 does not end because of a bug about a log
		if bug := recover(); bug != nil {
			r.pipe.Close()
			r.finish()
			r.log.tell(fmt.Errorf("read the output of a program: panic: %v\n%s", bug, debug.Stack()))
		}
	}()
	var data []byte
	var err error
	try := func(fd uintptr) bool {
		data, err = r.try(int(fd))
		return err != unix.EAGAIN
	}
	for r.conn != nil && r.conn.Read(try) == nil && err == nil {
		d := data
		data = nil // the Log's
		if !r.take(d) {
			return
		}
	}
	if r.pipe != nil {
		r.pipe.Close()
	}
	if rest := r.strip.end(); len(rest) > 0 {
		buf := buffers.Get().(*[blockSize]byte)
		if r.hand(buf[:copy(buf[:], rest)]) {
			go r.log.writeQueue()
		}
	}
	if r.log.line != nil && !r.log.isClosed() {
		r.lines.end(r.log.line)
	}
	r.finish()
}

func (r *Reader) finish() {
	r.mu.Lock()
	r.ended = true
	r.wake()
	r.mu.Unlock()
	r.log.flush(r.log.mark(), time.Time{})
	close(r.done)
}

// try reads what there is into a buffer of the pool.
func (r *Reader) try(fd int) ([]byte, error) {
	buf := buffers.Get().(*[blockSize]byte)
	into := buf[:]
	if r.log.strip {
		into = buf[stripRoom:]
	}
	r.mu.Lock()
	n, err := unix.Read(fd, into)
	for err == unix.EINTR {
		n, err = unix.Read(fd, into)
	}
	if n > 0 {
		r.got += int64(n)
	}
	r.mu.Unlock()
	if err == nil && n <= 0 {
		err = io.EOF
	}
	if err != nil {
		buffers.Put(buf)
		return nil, err
	}
	if r.log.strip {
		n = len(r.strip.appendTo(buf[:0], into[:n]))
	}
	return buf[:n], nil
}

// take hands over what was read, and writes it if nobody else does. It tells
// whether the goroutine is still the one to read.
func (r *Reader) take(data []byte) bool {
	write := r.hand(data)
	r.mu.Lock()
	r.handed = r.got
	r.wake()
	r.mu.Unlock()
	if !write {
		return true
	}
	w := &ownWrite{since: time.Now()}
	r.mu.Lock()
	r.own = w
	if !r.armed { // setting a timer for each write costs more than the write
		r.armed = true
		r.guard.Reset(r.log.stall)
	}
	r.mu.Unlock()
	r.log.writeQueue()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own == w {
		r.own = nil
	}
	return !w.replaced
}

// look has another goroutine read if the one that does hangs in a write.
func (r *Reader) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = false
	if r.own == nil {
		return
	}
	if left := r.log.stall - time.Since(r.own.since); left > 0 {
		r.armed = true
		r.guard.Reset(left)
		return
	}
	r.own.replaced = true
	r.own = nil
	go r.run()
}

func (r *Reader) hand(data []byte) (write bool) {
	if r.log.line != nil && !r.log.isClosed() {
		r.lines.add(data, r.log.line)
	}
	return r.log.put(data, false)
}

// wake tells those in Drained. The caller holds mu.
func (r *Reader) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// lines cuts output into lines.
type lines struct{ part []byte }

// add calls line for each line that p ends. The lines are the same however the
// output is cut into calls of add.
func (s *lines) add(p []byte, line func([]byte)) {
	for len(p) > 0 {
		room := maxLine - len(s.part)
		i := bytes.IndexByte(p, '\n')
		switch {
		case i >= 0 && i <= room:
			s.call(p[:i], line)
			p = p[i+1:]
		case len(p) > room:
			s.call(p[:room], line)
			p = p[room:]
		default:
			s.part = append(s.part, p...)
			return
		}
	}
}

// end calls line for a line that has no newline.
func (s *lines) end(line func([]byte)) {
	if len(s.part) > 0 {
		s.call(nil, line)
	}
}

func (s *lines) call(rest []byte, line func([]byte)) {
	if len(s.part) == 0 {
		line(rest)
		return
	}
	part := append(s.part, rest...)
	s.part = nil // memory only for what waits
	line(part)
}
