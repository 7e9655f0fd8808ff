package gdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/exosite"
)

// download fetches content, however often the connection breaks.
type download struct {
	client *exosite.Client
	id     string
	wait   time.Duration // for what is not the bytes themselves
}

// maxBroken is how often a connection may end without having brought a byte.
const maxBroken = 5

func (d *download) info(ctx context.Context) (exosite.ContentInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	return d.client.ContentInfo(ctx, d.id)
}

// stream writes all of it to w.
func (d *download) stream(ctx context.Context, w io.Writer) error {
	info, err := d.info(ctx)
	if err != nil {
		return err
	}
	return d.copy(ctx, w, 0, info.Size)
}

// file downloads into a file, by way of NAME.part, which stays if it comes to
// no end. It is gone on with if it is of the same content, which it has the time
// of then.
func (d *download) file(ctx context.Context, name string) (size int64, err error) {
	info, err := d.info(ctx)
	if err != nil {
		return 0, err
	}
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	have, err := f.Stat()
	if err != nil {
		return 0, err
	}
	from := have.Size()
	if from > info.Size || have.ModTime().Unix() != info.Updated.Unix() {
		from = 0
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return 0, err
	}
	if err := d.copy(ctx, f, from, info.Size); err != nil {
		if e := os.Chtimes(part, time.Time{}, info.Updated); e != nil {
			return 0, errors.Join(err, e)
		}
		return 0, fmt.Errorf("%w; what is there of it is in %s, and the same command goes on with it", err, part)
	}
	// Another upload meanwhile would have made it a mixture.
	if now, err := d.info(ctx); err != nil {
		return 0, err
	} else if now != info {
		return 0, errors.Join(fmt.Errorf("%s has changed while it was downloaded: try again", d.id), os.Remove(part))
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := os.Rename(part, name); err != nil {
		return 0, err
	}
	return info.Size, durable.SyncFolder(filepath.Dir(name))
}

// copy writes the bytes from an offset on.
func (d *download) copy(ctx context.Context, w io.Writer, from, size int64) error {
	for broken := 0; from < size; {
		n, brokeOff, err := d.copySome(ctx, w, from, size)
		if from += n; err == nil {
			continue
		}
		if n > 0 {
			broken = 0
		}
		if broken++; !brokeOff || broken == maxBroken || ctx.Err() != nil {
			return fmt.Errorf("%s, at byte %d of %d: %w", d.id, from, size, err)
		}
	}
	return nil
}

// copySome writes what one answer brings. If that broke off, another one may
// bring more.
func (d *download) copySome(ctx context.Context, w io.Writer, from, size int64) (n int64, brokeOff bool, err error) {
	c, err := d.client.Content(ctx, d.id, exosite.Range{From: from})
	if err != nil {
		return 0, false, err
	}
	defer c.Close()
	if c.Size >= 0 && c.Size != size {
		return 0, false, fmt.Errorf("the content has changed: it has %d bytes now", c.Size)
	}
	if c.Offset < from { // a server that does not know ranges
		if _, err := io.CopyN(io.Discard, c, from-c.Offset); err != nil {
			return 0, true, err
		}
	}
	r := &reader{r: io.LimitReader(c, size-from)}
	n, err = io.Copy(w, r)
	if err == nil && from+n < size {
		r.err, err = io.ErrUnexpectedEOF, io.ErrUnexpectedEOF
	}
	return n, r.err != nil, err
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
