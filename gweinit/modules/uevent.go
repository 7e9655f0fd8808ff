package modules

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// uevent is what the kernel says about a device.
type uevent struct {
	action   string // add, remove, change, bind, ...
	modalias string // empty if it has none
}

// parseUevent parses "ACTION@DEVPATH", then "KEY=VALUE"s, all ended by NUL.
func parseUevent(msg []byte) (uevent, error) {
	text, ended := strings.CutSuffix(string(msg), "\x00")
	head, rest, _ := strings.Cut(text, "\x00")
	action, devpath, ok := strings.Cut(head, "@")
	if !ended || !ok || action == "" || !strings.HasPrefix(devpath, "/") {
		return uevent{}, fmt.Errorf("%q does not begin with ACTION@/DEVPATH or has no end", clip(msg))
	}
	e := uevent{action: action}
	want := map[string]string{"ACTION": action, "DEVPATH": devpath}
	for rest != "" {
		var v string
		v, rest, _ = strings.Cut(rest, "\x00")
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return uevent{}, fmt.Errorf("%q: %q is not KEY=VALUE", clip(msg), v)
		}
		if w, ok := want[key]; ok && w != value {
			return uevent{}, fmt.Errorf("%q: %s is %q", clip(msg), key, value)
		}
		if key == "MODALIAS" {
			e.modalias = value
		}
	}
	return e, nil
}

// clip shortens a message for the log.
func clip(msg []byte) []byte {
	return bytes.TrimRight(msg[:min(len(msg), 160)], "\x00")
}

// socket receives the kernel's uevents.
type socket struct {
	file *os.File // in the runtime's poller, so that Close ends receive
	conn syscall.RawConn
}

// kernelGroup is the multicast group to which the kernel sends; 2 is udevd's.
const kernelGroup = 1

func listen() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open a socket for uevents: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "uevents")}
	// For what comes while a module loads. It is memory only when it is full.
	const buffer = 512 << 10
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // not root: a test
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup})
	if err == nil {
		s.conn, err = s.file.SyscallConn()
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("listen for uevents: %w", err)
	}
	return s, nil
}

func (s *socket) Close() error { return s.file.Close() }

// receive waits for a uevent and returns it as a part of buf.
func (s *socket) receive(buf []byte) ([]byte, error) {
	for {
		var n, flags int
		var from unix.Sockaddr
		var err error
		ready := func(fd uintptr) bool {
			n, _, flags, from, err = unix.Recvmsg(int(fd), buf, nil, 0)
			return !errors.Is(err, unix.EAGAIN)
		}
		if err := s.conn.Read(ready); err != nil {
			return nil, fmt.Errorf("receive uevents: %w", err)
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive uevents: %w", err)
		}
		if fromKernel(from) && flags&unix.MSG_TRUNC == 0 {
			return buf[:n], nil
		}
	}
}

// fromKernel reports whether a message was sent by the kernel to its group. The
// kernel itself fills in the address, and 0 is its own: no process can have it.
func fromKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0 && a.Groups == kernelGroup
}
