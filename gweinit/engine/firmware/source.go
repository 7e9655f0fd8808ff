package firmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/download"
)

// Source is where a bundle comes from.
type Source interface {
	// Name is the file's, for people.
	Name() string
	// Size returns how many bytes it has now; -1: that is not known.
	Size(ctx context.Context) (int64, error)
	// Copy writes the bytes from one up to, but not including, another. Errors
	// that may pass are marked by command.Later.
	Copy(ctx context.Context, w io.Writer, from, to int64) error
}

// Open returns the source that somebody names at a shell: a file, an http or https
// URL, or "-", which is in. Close it.
func Open(name string, in io.Reader, trust *exosite.Trust) (Source, io.Closer, error) {
	if name == "-" {
		return &stream{name: "standard input", r: in}, io.NopCloser(nil), nil
	}
	if strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") {
		w, err := newWeb(name, trust)
		if err != nil {
			return nil, nil, err
		}
		return w, w, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return &stream{name: name, r: f}, f, nil
	}
	return &file{f}, f, nil
}

// Patience with each call that is not the bytes themselves.
const patience = 3 * time.Minute

// Content is content of Exosite.
func Content(client *exosite.Client, name string) Source {
	return &content{ranges{Download: download.Download{Client: client, ID: name, Patience: patience}}}
}

type content struct{ ranges }

func (c *content) Size(ctx context.Context) (int64, error) {
	size, err := c.Download.Size(ctx)
	if err != nil {
		return 0, mayPass(err)
	}
	c.size = size
	return size, nil
}

// mayPass marks what another try may not bring.
func mayPass(err error) error {
	if download.Permanent(err) {
		return err
	}
	return command.Later(err)
}

// ranges is what a download brings, in parts that go on when they break off.
type ranges struct {
	download.Download
	size int64 // when it was asked for
}

func (r *ranges) Name() string { return r.ID }

func (r *ranges) Copy(ctx context.Context, w io.Writer, from, to int64) error {
	err := r.Range(ctx, w, from, to, r.size)
	if err != nil {
		return mayPass(err)
	}
	return nil
}

// changed says whether the content may be another one since its size was asked for.
func changed(err error) bool {
	var status *exosite.StatusError
	return errors.Is(err, download.ErrChanged) ||
		errors.As(err, &status) && status.Code == http.StatusRequestedRangeNotSatisfiable
}

// file is a file of this gateway.
type file struct{ f *os.File }

func (f *file) Name() string { return f.f.Name() }

func (f *file) Size(context.Context) (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *file) Copy(ctx context.Context, w io.Writer, from, to int64) error {
	return copyAll(ctx, w, io.NewSectionReader(f.f, from, to-from), from, to)
}

// stream can be read once, from its beginning to its end.
type stream struct {
	name string
	r    io.Reader
	at   int64
}

func (s *stream) Name() string { return s.name }

func (s *stream) Size(context.Context) (int64, error) { return -1, nil }

func (s *stream) Copy(ctx context.Context, w io.Writer, from, to int64) error {
	if from < s.at {
		return fmt.Errorf("%s: byte %d is needed once more, and it cannot be read twice: name a file or a URL", s.name, from)
	}
	if err := s.copy(ctx, io.Discard, from); err != nil {
		return err
	}
	return s.copy(ctx, w, to)
}

func (s *stream) copy(ctx context.Context, w io.Writer, to int64) error {
	in := &counted{r: io.LimitReader(s.r, to-s.at)}
	err := copyAll(ctx, w, in, s.at, to)
	s.at += in.n
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// copyAll copies all that there has to be.
func copyAll(ctx context.Context, w io.Writer, r io.Reader, from, to int64) error {
	n, err := io.Copy(w, &stoppable{ctx, r})
	if err == nil && from+n < to {
		err = fmt.Errorf("it ends at byte %d: %w", from+n, io.ErrUnexpectedEOF)
	}
	return err
}

// stoppable stops reading when ctx ends.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}
