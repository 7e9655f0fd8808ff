// Package syslog writes the kernel's log, and what programs send to /dev/log,
// to a file that people read:
//
//	2026-11-24T23:16:17.517Z INFO  kernel: Linux version 6.1.0
//	2026-11-24T23:16:18.020Z ERROR gweinit: mount /data: no such device
//	2026-11-24T23:16:21.103Z INFO  pump[123]: water level 7
//
// A line is one record, whatever it consists of, and only what came through
// /dev/log has a process ID behind its name: no program is taken for the kernel
// or for PID 1.
//
// Lines that are over a limit, or that the disk has no room for, are counted,
// and the number is logged. Nothing is logged to the kernel: it would come back.
package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// Options say where the lines come from and where they go.
type Options struct {
	Kmsg    string // /dev/kmsg
	Socket  string // /dev/log
	File    string // where lines go; older ones are in File.1, File.2, ...
	MaxSize int64  // of one file
	Keep    int    // how many older files
}

// Lines wait in memory to be written together, which spares the flash. A write
// of 16 KiB does not wait, nor does an error: it may be the last line there is.
const (
	together = time.Second
	enough   = 16 << 10
	most     = 64 << 10 // of what waits for the disk
)

// Waits after writes that failed.
const (
	firstRetry = time.Second
	lastRetry  = 10 * time.Second
)

// Logger takes lines and writes them. Only one Run may be running.
type Logger struct {
	o     Options
	next  uint64 // number of the first record of the kernel that was not read
	file  file
	limit limiter

	buf     []byte    // lines that wait
	flushAt time.Time // zero if none do
	retryAt time.Time // not before, after a write that failed
	retry   time.Duration
	lost    int    // lines that found buf full
	why     string // ... because of this
}

// New returns a Logger. Nothing is opened before Run.
func New(o Options) *Logger {
	return &Logger{o: o, file: file{path: o.File, max: o.MaxSize, keep: o.Keep}}
}

// input reads records until it fails, or has been stopped and nothing is left:
// then it returns nil.
type input interface {
	run(take func(record)) error
	stop()
	Close() error
}

// Run writes what comes until ctx is done. Then it takes what is there still,
// writes it and closes the file. It ends earlier if it cannot read; a disk that
// is full or fails is waited for. After an error it may be called again, and
// goes on with the first line of the kernel that it has not read.
func (l *Logger) Run(ctx context.Context) error {
	kmsg, err := openKmsg(l.o.Kmsg, &l.next)
	if err != nil {
		return err
	}
	defer kmsg.Close()
	socket, err := listen(l.o.Socket)
	if err != nil {
		return err
	}
	defer socket.Close()
	return l.run(ctx, kmsg, socket)
}

func (l *Logger) run(ctx context.Context, inputs ...input) error {
	broken, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	records := make(chan record, 16)
	var running atomic.Int32
	running.Store(int32(len(inputs)))
	for _, in := range inputs {
		go func() {
			defer func() {
				if running.Add(-1) == 0 {
					close(records)
				}
			}()
			if err := guard(func() error { return in.run(func(r record) { records <- r }) }); err != nil {
				cancel(err)
			}
		}()
	}
	stop := func() {
		for _, in := range inputs {
			in.stop()
		}
	}
	err := guard(func() error { return l.write(broken.Done(), records, stop) })
	stop()
	for range records { // after a panic, let them end
	}
	if ctx.Err() == nil {
		err = errors.Join(context.Cause(broken), err)
	}
	return err
}

// guard makes a panic an error: PID 1 goes on.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}

// write writes records until there are no more, and calls stop when done is.
func (l *Logger) write(done <-chan struct{}, records <-chan record, stop func()) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		for _, n := range l.limit.ended(now, false) {
			l.add(n)
		}
		at := l.due()
		if !at.IsZero() && !now.Before(at) {
			l.flush(now)
			at = l.due()
		}
		if d := l.limit.due; at.IsZero() || !d.IsZero() && d.Before(at) {
			at = d
		}
		if at.IsZero() {
			timer.Stop() // no wake-ups when nothing comes
		} else {
			timer.Reset(at.Sub(now))
		}
		select {
		case r, ok := <-records:
			if !ok {
				return l.end()
			}
			if l.limit.allow(r, time.Now()) {
				l.add(r)
			}
		case <-timer.C:
		case <-done:
			done = nil
			stop()
		}
	}
}

// add adds a line to those that wait.
func (l *Logger) add(r record) {
	before := len(l.buf)
	l.buf = r.appendTo(l.buf)
	if len(l.buf) > most {
		l.buf = l.buf[:before]
		l.lost++
		return
	}
	now := time.Now()
	switch {
	case r.level() == levelError || len(l.buf) >= enough:
		l.flushAt = now
	case l.flushAt.IsZero():
		l.flushAt = now.Add(together)
	}
}

// due is when lines are to be written, or zero.
func (l *Logger) due() time.Time {
	if !l.flushAt.IsZero() && l.flushAt.Before(l.retryAt) {
		return l.retryAt
	}
	return l.flushAt
}

// flush writes the lines that wait, and how many were lost.
func (l *Logger) flush(now time.Time) error {
	n, err := l.file.write(l.buf)
	l.buf = l.buf[:copy(l.buf, l.buf[n:])]
	if err == nil && l.lost > 0 {
		note := own(priError, "%d lines lost: %s", l.lost, l.why)
		if _, err = l.file.write(note.appendTo(nil)); err == nil {
			l.lost = 0
		}
	}
	if err != nil {
		l.why = reason(err)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			l.file.removeOldest() // logs are worth less than data
		}
		l.retry = min(max(2*l.retry, firstRetry), lastRetry)
		l.retryAt = now.Add(l.retry)
		return err
	}
	l.flushAt, l.retryAt, l.retry = time.Time{}, time.Time{}, 0
	return nil
}

// end writes what is left, and closes the file.
func (l *Logger) end() error {
	now := time.Now()
	for _, n := range l.limit.ended(now, true) {
		l.add(n)
	}
	var err error
	if len(l.buf) > 0 || l.lost > 0 {
		if err = l.flush(now); err != nil {
			err = fmt.Errorf("%d lines not written: %w", bytes.Count(l.buf, []byte("\n"))+l.lost, err)
		}
	}
	return errors.Join(err, l.file.close())
}

// reason is an error without what was tried on what: a line of the file it is
// about will say it.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return clean(err.Error())
}

// own is a line of the package itself, which is a part of gweinit.
func own(priority int, format string, args ...any) record {
	return record{time: time.Now(), priority: priority, text: "gweinit: " + fmt.Sprintf(format, args...)}
}
