package syslog

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// packets reads a descriptor that gives one record with each read.
type packets struct {
	file *os.File // in the runtime's poller, so that a deadline ends next
	conn syscall.RawConn
	rest int // how many more to read once it is stopped
}

// rest is more than the kernel holds in its ring, and ends a program that logs
// without a pause.
const rest = 10000

var errStopped = errors.New("stopped")

func newPackets(f *os.File) (packets, error) {
	conn, err := f.SyscallConn()
	return packets{f, conn, rest}, err
}

// stop makes next return what is there, then errStopped.
func (p *packets) stop() { p.file.SetReadDeadline(time.Unix(1, 0)) }

func (p *packets) Close() error { return p.file.Close() }

// next calls read when there is something to read, until that does not fail
// with EAGAIN or EINTR, and reports whether it had to wait.
func (p *packets) next(read func(fd int) error) (waited bool, err error) {
	for {
		waitErr := p.conn.Read(func(fd uintptr) bool {
			err = read(int(fd))
			if err == syscall.EAGAIN {
				waited = true
				return false
			}
			return true
		})
		if errors.Is(waitErr, os.ErrDeadlineExceeded) {
			if p.rest == 0 {
				return false, errStopped
			}
			p.rest--
			waitErr = p.conn.Control(func(fd uintptr) { err = read(int(fd)) })
			if waitErr == nil && err == syscall.EAGAIN {
				return false, errStopped
			}
		}
		if waitErr != nil {
			return false, waitErr
		}
		if err != syscall.EINTR {
			return waited, err
		}
	}
}
