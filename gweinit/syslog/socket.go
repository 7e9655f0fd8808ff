package syslog

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// socket receives what programs send to /dev/log.
type socket struct{ packets }

func listen(path string) (*socket, error) {
	s, err := bind(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return s, nil
}

func bind(path string) (*socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	p, err := newPackets(f)
	if err == nil {
		// Before anybody can send: the kernel is to say who does.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	}
	if err == nil {
		err = removeAny(path) // that of a Run before
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Chmod(path, 0o666) // whatever the umask is
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &socket{p}, nil
}

func (s *socket) run(take func(record)) error {
	buf := make([]byte, 8<<10)
	// For the sender's credentials, and nothing else: descriptors that
	// somebody sends are closed by the kernel.
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		var n, oobn int
		_, err := s.next(func(fd int) (err error) {
			n, oobn, _, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		if err == errStopped {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive from %s: %w", s.file.Name(), err)
		}
		take(parseDatagram(buf[:n]).record(credentials(oob[:oobn]), time.Now()))
	}
}

// credentials returns those the kernel has added.
func credentials(oob []byte) sender {
	const nobody = 65534
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return sender{uid: nobody}
	}
	for _, m := range messages {
		if c, err := unix.ParseUnixCredentials(&m); err == nil {
			return sender{pid: int(c.Pid), uid: c.Uid}
		}
	}
	return sender{uid: nobody}
}
