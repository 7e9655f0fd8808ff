// Package logfile takes what programs write to stdout and stderr to log files
// with older ones beside them, named and read as those of Supervisor 4.2.5.
//
// A program is never blocked for long by its log: if the disk is full or gone,
// output is dropped and counted, and once it can be written again, a line in
// the log tells how much is missing. If the disk hangs, the same happens after
// 2 s. A program that is just faster than its disk waits, and loses nothing.
package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

const (
	blockSize = 64 << 10  // what is read and written at once: what a pipe holds
	smallSize = 4 << 10   // a queued block of little output is no larger
	queueSize = 256 << 10 // per Log
)

// errHangs is why output is missing that came while the disk hung.
var errHangs = errors.New("the disk hangs")

// Options say where a Log goes.
type Options struct {
	Path     string // "" for no file
	MaxBytes int64  // a file gets no larger; 0: no rotation
	Backups  int    // older files, Path.1 being the newest of them

	// Line, if set, gets each line without its newline as well, those of Write
	// too; a line of more than 8 KiB in parts. It may be slow, and may be
	// called by several goroutines at once. The line is valid during the call.
	Line func(line []byte)

	// NoLinks follows no symbolic link on the way to the file and those beside it:
	// others, who could make them, see another root directory than we do. Linux 5.6.
	NoLinks bool

	StripANSI bool // removes escape sequences from what programs write

	// Problem, if set, is told once when the file cannot be written, and not
	// again until it could be, nor more often than once a minute. It should not
	// wait.
	Problem func(err error)
}

// Log is where one output of a program goes: a file with older ones beside it,
// lines to a function, both, or nowhere. It outlives the program's runs.
type Log struct {
	path    string
	line    func([]byte)
	problem func(error)
	strip   bool
	stall   time.Duration // without progress for so long, the disk hangs
	every   time.Duration // Problem is told at most so often

	mu       sync.Mutex // never held while the disk is accessed
	queue    []block
	queued   int   // bytes in queue, and of the block that is being written
	accepted int64 // bytes, ever
	finished int64 // of these, written or dropped
	missing  int64 // bytes dropped behind the queue because the disk hangs
	writing  bool  // somebody runs writeQueue
	progress time.Time
	changed  chan struct{} // closed at any progress; nil if nobody waits
	closed   bool
	told     bool
	toldAt   time.Time

	disk sync.Mutex // held while the disk is accessed, which may hang
	file file
}

// block is output to be written.
type block struct {
	data    []byte
	fresh   bool  // begins a line of its own
	missing int64 // bytes of output that are missing before it
}

var buffers = sync.Pool{New: func() any { return new([blockSize]byte) }}

// release gives a buffer back, if it is one of the pool's.
func release(b []byte) {
	if cap(b) == blockSize {
		buffers.Put((*[blockSize]byte)(b[:blockSize]))
	}
}

// New returns a Log. Its file is opened when there is something to write.
func New(o Options) *Log {
	l := &Log{
		path: o.Path, line: o.Line, problem: o.Problem, strip: o.StripANSI,
		stall: 2 * time.Second, every: time.Minute,
	}
	l.file = file{
		path: o.Path, max: o.MaxBytes, keep: o.Backups,
		retry: time.Second, patience: l.stall, write: (*os.File).Write,
		noLinks: o.NoLinks,
	}
	return l
}

// Write writes p behind what is queued, on a line of its own. It returns when p
// is queued; like all that is written, p may be dropped and counted later.
func (l *Log) Write(p []byte) (int, error) {
	if l.isClosed() {
		return 0, os.ErrClosed
	}
	if l.line != nil {
		var s lines
		s.add(p, l.line)
		s.end(l.line)
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), blockSize)
		buf := buffers.Get().(*[blockSize]byte)
		if l.put(buf[:copy(buf[:], rest[:n])], len(rest) == len(p)) {
			go l.writeQueue()
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// put queues data, which is in a buffer of the pool that is the Log's from now
// on. It waits for room in the queue, unless the disk hangs. If nobody writes, it
// is up to the caller to run writeQueue.
func (l *Log) put(data []byte, fresh bool) (write bool) {
	if l.path == "" || len(data) == 0 {
		release(data)
		return false
	}
	l.mu.Lock()
	// Once output is missing, all is dropped until there is progress, not just
	// what does not fit: so that there is one gap.
	for !l.closed && (l.queued+len(data) > queueSize || l.missing > 0 && time.Since(l.progress) >= l.stall) {
		left := l.stall - time.Since(l.progress)
		if left <= 0 {
			l.missing += int64(len(data))
			l.mu.Unlock()
			release(data)
			l.tell(&os.PathError{Op: "write", Path: l.path, Err: errHangs})
			return false
		}
		l.await(left)
	}
	if l.closed {
		l.mu.Unlock()
		release(data)
		return false
	}
	l.add(data, fresh)
	if write = !l.writing; write {
		l.writing = true
		l.progress = time.Now()
	}
	l.mu.Unlock()
	return write
}

// add adds data to the queue, such that little of it takes little memory.
func (l *Log) add(data []byte, fresh bool) {
	l.count(len(data))
	if n := len(l.queue); n > 0 && l.missing == 0 {
		last := &l.queue[n-1]
		room := blockSize
		if cap(last.data) != blockSize {
			room = smallSize
		}
		if room-len(last.data) > len(data) {
			if fresh && last.data[len(last.data)-1] != '\n' {
				last.data = append(last.data, '\n')
				l.count(1)
			}
			last.data = append(last.data, data...)
			release(data)
			return
		}
	}
	if len(data) <= smallSize {
		small := bytes.Clone(data)
		release(data)
		data = small
	}
	l.queue = append(l.queue, block{data, fresh, l.missing})
	l.missing = 0
}

func (l *Log) count(n int) {
	l.queued += n
	l.accepted += int64(n)
}

// await unlocks mu until there was progress, at most for d, or, if d is 0,
// however long it takes.
func (l *Log) await(d time.Duration) {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	changed := l.changed
	l.mu.Unlock()
	defer l.mu.Lock()
	if d == 0 {
		<-changed
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// wake tells those in await. The caller holds mu.
func (l *Log) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// writeQueue writes what is queued. It runs only while there is something.
func (l *Log) writeQueue() {
	defer func() { // PID 1 does not end because of a bug about a log
		if bug := recover(); bug != nil {
			l.mu.Lock()
			l.writing = false
			l.finished = l.accepted
			l.queue, l.queued = nil, 0
			l.wake()
			l.mu.Unlock()
			l.tell(fmt.Errorf("write %s: panic: %v\n%s", l.path, bug, debug.Stack()))
		}
	}()
	for {
		b, ok := l.next()
		if !ok {
			return
		}
		l.disk.Lock()
		err := l.file.take(b)
		failing := l.file.failing()
		l.disk.Unlock()

		l.mu.Lock()
		l.queued -= len(b.data)
		l.finished += int64(len(b.data))
		l.progress = time.Now()
		if !failing {
			l.told = false
		}
		l.wake()
		l.mu.Unlock()
		release(b.data)
		if err != nil {
			l.tell(err)
		}
	}
}

// next takes a block from the queue.
func (l *Log) next() (b block, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.queue) > 0:
		b = l.queue[0]
		n := copy(l.queue, l.queue[1:])
		l.queue[n] = block{}
		l.queue = l.queue[:n]
	case l.missing > 0: // nothing came since, but it can be told now
		b.missing = l.missing
		l.missing = 0
	default:
		l.writing = false
		if cap(l.queue) > 2 {
			l.queue = nil
		}
		l.wake()
		return b, false
	}
	return b, true
}

// tell tells Problem, unless it knows.
func (l *Log) tell(err error) {
	l.mu.Lock()
	known := l.told
	l.told = true
	if known || l.problem == nil || !l.toldAt.IsZero() && time.Since(l.toldAt) < l.every {
		l.mu.Unlock()
		return
	}
	l.toldAt = time.Now()
	l.mu.Unlock()
	l.problem(err)
}

// mark returns how much has been accepted so far.
func (l *Log) mark() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted
}

// flush waits until all up to mark is written or dropped, or, if the deadline
// is not zero, until then.
func (l *Log) flush(mark int64, deadline time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.finished < mark {
		var left time.Duration
		if !deadline.IsZero() {
			if left = time.Until(deadline); left <= 0 {
				return false
			}
		}
		l.await(left)
	}
	return true
}

// Open creates the file, so that it can be read before anything is written.
// Like Clear and Reopen it accesses the disk, and hangs with it.
func (l *Log) Open() error {
	return l.access(func() error {
		if l.file.f != nil {
			return nil
		}
		return l.file.open()
	})
}

// Clear removes the file, not those beside it, and opens it anew.
func (l *Log) Clear() error { return l.access(l.file.clear) }

// Reopen opens the file anew; somebody has moved it away.
func (l *Log) Reopen() error {
	return l.access(func() error {
		l.file.close()
		return l.file.open()
	})
}

func (l *Log) access(do func() error) error {
	if l.path == "" {
		return nil
	}
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.isClosed() {
		return &os.PathError{Op: "open", Path: l.path, Err: os.ErrClosed}
	}
	err := do()
	if err == nil {
		l.file.failed = time.Time{} // worth a try
	}
	return err
}

// Close ends the log. What is queued is still written, and Close waits for that,
// but not for a disk that hangs. What its Readers still read is dropped.
func (l *Log) Close() {
	l.mu.Lock()
	l.closed = true
	l.wake()
	l.mu.Unlock()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		l.mu.Lock()
		for l.writing {
			l.await(0)
		}
		l.mu.Unlock()
		l.disk.Lock()
		defer l.disk.Unlock()
		l.file.close()
	}()
	timer := time.NewTimer(l.stall)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}

func (l *Log) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}
