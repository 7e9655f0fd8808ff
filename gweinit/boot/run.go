package boot

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
)

// environment of what PID 1 runs. Apps put their programs into /usr/local.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}

// run runs a program to its end, with its standard output and error going to
// output, and returns its exit status. An error says that it did not run, or
// not to its end: a signal, or ctx, which kills it.
func (s *system) run(ctx context.Context, output io.Writer, argv ...string) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	p, err := s.reaper.Start(argv[0], argv, &syscall.ProcAttr{
		Dir: "/", Env: environment,
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return 0, err
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(output, r)
	}()
	// What it has started may hold the pipe open.
	for _, ended := range []<-chan struct{}{p.Done(), copied} {
		select {
		case <-ended:
		case <-ctx.Done():
			syscall.Kill(-p.PID, syscall.SIGKILL) // its whole session
			return 0, fmt.Errorf("%s: %w", argv[0], ctx.Err())
		}
	}
	status := p.Status()
	if status.Signaled() {
		return 0, fmt.Errorf("%s: ended by signal %v", argv[0], status.Signal())
	}
	return status.ExitStatus(), nil
}
