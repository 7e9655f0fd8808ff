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
	Client   *exosite.Client
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
	if err := d.copy(ctx, w, 0, info.Size); err != nil {
		return err
	}
	return d.check(sum)
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

// copy writes the bytes from an offset on.
func (d Download) copy(ctx context.Context, w io.Writer, from, size int64) error {
	d.progress(from, size)
	for broken := 0; from < size; {
		n, brokeOff, err := d.copySome(ctx, w, from, size)
		if from += n; err == nil {
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
		return fmt.Errorf("%s, at byte %d of %d: %w", d.ID, from, size, err)
	}
	return nil
}

// copySome writes what one answer brings. If that broke off, another one may
// bring more.
func (d Download) copySome(ctx context.Context, w io.Writer, from, size int64) (n int64, brokeOff bool, err error) {
	c, err := d.Client.Content(ctx, d.ID, exosite.Range{From: from})
	if err != nil {
		return 0, false, err
	}
	defer c.Close()
	if c.Size >= 0 && c.Size != size {
		return 0, false, fmt.Errorf("%w: it has %d bytes now", ErrChanged, c.Size)
	}
	if c.Offset < from { // a server that does not know ranges
		if _, err := io.CopyN(io.Discard, c, from-c.Offset); err != nil {
			return 0, true, err
		}
	}
	r := &reader{r: io.LimitReader(c, size-from)}
	n, err = io.Copy(&writer{w, func(n int64) { d.progress(from+n, size) }, 0}, r)
	if err == nil && from+n < size {
		r.err, err = io.ErrUnexpectedEOF, io.ErrUnexpectedEOF
	}
	return n, r.err != nil, err
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
