// Package download downloads content of Exosite, however often the connection
// breaks, the program is ended or the power fails on the way.
package download

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
)

// Download is what to download, and how.
type Download struct {
	Client *exosite.Client
	// Open asks for the bytes from one on, or for a range of them, in the place of
	// Client.Content, for Range; nil: that is asked.
	Open     func(ctx context.Context, r exosite.Range) (*exosite.Content, error)
	ID       string                 // of the content
	SHA256   string                 // that it has to have, in hex; "": any
	Patience time.Duration          // for each call that is not the bytes themselves; 0: no limit but the client's
	Room     func(size int64) error // File asks it once whether there is room for the bytes that are still to come; nil: there is
	Progress func(done, size int64) // is told, at first and after each piece of some 32 KiB, in bytes; nil: nobody is

	// Tests have others.
	interval int64                                  // bytes between two syncs; 0: syncEvery
	within   time.Duration                          // between two syncs; 0: syncWithin
	pause    func(ctx context.Context, n int) error // nil: for exosite.Backoff
}

const (
	// maxBroken is how often a connection may end without having brought a byte.
	maxBroken = 5
	// syncEvery is how many bytes a power cut may cost, and syncWithin how much
	// time of a slow connection. More syncs would be slow on flash.
	syncEvery  = 4 << 20
	syncWithin = time.Minute
)

// ErrHash is when the content has another SHA-256 than it has to have, or this
// is none.
var ErrHash = errors.New("wrong SHA-256")

// ErrChanged is when another content of the same name was uploaded while it was
// downloaded.
var ErrChanged = errors.New("the content has changed")

// Permanent tells whether the error of a download would be the same the next
// time: there is no such content, it may not be had, or it is not the one that
// is wanted. Others pass, when the network is back, there is room, or, with
// exosite.ErrBadCIK, the device has been activated again.
func Permanent(err error) bool {
	var status *exosite.StatusError
	if errors.Is(err, ErrHash) {
		return true
	}
	// It may be the answer of another call, such as the one for the time.
	return errors.As(err, &status) && (status.Call == "content" || status.Call == "contentinfo") && status.Final()
}

// Stream writes all of the content to w, without Room. If it fails, a part of it
// may have been written. The errors are those of File.
func (d Download) Stream(ctx context.Context, w io.Writer) error {
	sum, err := d.newHash()
	if err != nil {
		return err
	}
	info, err := d.info(ctx)
	if err != nil {
		return err
	}
	if sum != nil {
		w = io.MultiWriter(w, sum)
	}
	if err := d.copy(ctx, w, span{0, info.Size, info.Size}); err != nil {
		return err
	}
	return d.check(sum)
}

// Size returns how many bytes the content has.
func (d Download) Size(ctx context.Context) (int64, error) {
	info, err := d.info(ctx)
	return info.Size, err
}

// Range writes the bytes from one up to, but not including, another to w, of a
// content that has size bytes in all, or -1. If that is something else now, the
// error is ErrChanged; another content of the same size is not noticed: who mixes
// ranges has to know each. Otherwise the errors are those of Stream.
func (d Download) Range(ctx context.Context, w io.Writer, from, to, size int64) error {
	if from < 0 || to < from || size >= 0 && to > size {
		return fmt.Errorf("%s: there is no range from %d to %d of %d bytes", d.ID, from, to, size)
	}
	return d.copy(ctx, w, span{from, to, size})
}

// newHash returns nil if the content may have any.
func (d Download) newHash() (hash.Hash, error) {
	if d.SHA256 == "" {
		return nil, nil
	}
	if sum, err := hex.DecodeString(d.SHA256); err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("%s: %w: %.80q is none, want 64 hex digits", d.ID, ErrHash, d.SHA256)
	}
	return sha256.New(), nil
}

func (d Download) check(sum hash.Hash) error {
	if sum == nil {
		return nil
	}
	want, _ := hex.DecodeString(d.SHA256)
	if got := sum.Sum(nil); string(got) != string(want) {
		return fmt.Errorf("%s: %w: it is %x and not %x: is it the right content?", d.ID, ErrHash, got, want)
	}
	return nil
}

func (d Download) info(ctx context.Context) (exosite.ContentInfo, error) {
	if d.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Patience)
		defer cancel()
	}
	return d.Client.ContentInfo(ctx, d.ID)
}

// span is what is still to be written: bytes from up to to, of size.
type span struct{ from, to, size int64 }

// copy writes the bytes of a span.
func (d Download) copy(ctx context.Context, w io.Writer, s span) error {
	d.progress(s.from, s.to)
	for broken := 0; s.from < s.to; {
		n, brokeOff, err := d.copySome(ctx, w, s)
		if s.from += n; err == nil {
			continue
		}
		if broken++; n > 0 {
			broken = 0
		}
		if brokeOff && broken < maxBroken && d.wait(ctx, broken+1) == nil {
			continue
		}
		switch {
		case ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)):
			err = fmt.Errorf("%w (then no more: %w)", err, context.Cause(ctx))
		case brokeOff && broken == maxBroken:
			err = fmt.Errorf("%w (tried %d times without a byte)", err, maxBroken)
		}
		return fmt.Errorf("%s, at byte %d of %d: %w", d.ID, s.from, s.to, err)
	}
	return nil
}

// copySome writes what one answer brings. If that broke off, another one may
// bring more.
func (d Download) copySome(ctx context.Context, w io.Writer, s span) (n int64, brokeOff bool, err error) {
	r := exosite.Range{From: s.from}
	if s.to != s.size {
		r.To = s.to
	}
	c, err := d.open(ctx, r)
	if err != nil {
		return 0, false, err
	}
	defer c.Close()
	if c.Size >= 0 && s.size >= 0 && c.Size != s.size {
		return 0, false, fmt.Errorf("%w: it has %d bytes now", ErrChanged, c.Size)
	}
	if c.Offset < s.from { // a server that does not know ranges
		if _, err := io.CopyN(io.Discard, c, s.from-c.Offset); err != nil {
			return 0, true, err
		}
	}
	in := &reader{r: io.LimitReader(c, s.to-s.from)}
	n, err = io.Copy(&writer{w, func(n int64) { d.progress(s.from+n, s.to) }, 0}, in)
	if err == nil && s.from+n < s.to {
		in.err, err = io.ErrUnexpectedEOF, io.ErrUnexpectedEOF
	}
	return n, in.err != nil, err
}

func (d Download) open(ctx context.Context, r exosite.Range) (*exosite.Content, error) {
	if d.Open != nil {
		return d.Open(ctx, r)
	}
	return d.Client.Content(ctx, d.ID, r)
}

// wait waits before the next connection, the n-th since there was a byte.
func (d Download) wait(ctx context.Context, n int) error {
	if d.pause != nil {
		return d.pause(ctx, n)
	}
	timer := time.NewTimer(exosite.Backoff(n))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (d Download) progress(done, size int64) {
	if d.Progress != nil {
		d.Progress(done, size)
	}
}

// reader tells an error of reading from one of writing.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// writer tells how much has been written.
type writer struct {
	w       io.Writer
	written func(n int64)
	n       int64
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.n += int64(n)
	w.written(w.n)
	return n, err
}
