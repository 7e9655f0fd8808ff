package download

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
)

// Beside the file that is to be.
const (
	partSuffix  = ".part"       // what there is of it
	stateSuffix = ".part.state" // how much of that is durable
	maxState    = 64 << 10
)

// File downloads into the file at path, which is there, durably, when all is
// well, and whole then; one from before is replaced. It returns its size in
// bytes.
//
// On the way there is PATH.part, and PATH.part.state, which says how much of it
// is safe: up to date within 4 MiB or a minute, and when File fails or ctx ends.
// The next File goes on from there, also after a power cut, if they are of the
// same content, and else from the start. Discard removes both.
//
// The error wraps ErrHash (nothing is left then), ErrChanged, those of
// exosite.Client, of files, of Room, or ctx's; see Permanent. Another process
// that downloads to the same path is an error.
func (d Download) File(ctx context.Context, path string) (size int64, err error) {
	sum, err := d.newHash()
	if err != nil {
		return 0, err
	}
	info, err := d.info(ctx)
	if err != nil {
		return 0, err
	}
	p, err := openPart(path)
	if err != nil {
		return 0, err
	}
	defer p.f.Close()
	p.sum = sum
	p.interval, p.within, p.saved = cmp.Or(d.interval, syncEvery), cmp.Or(d.within, syncWithin), time.Now()
	if err := p.resume(ctx, state{ID: d.ID, Size: info.Size, Updated: info.Updated.Unix()}); err != nil {
		return 0, fmt.Errorf("go on with %s: %w", path+partSuffix, err)
	}
	leave := func(err error) (int64, error) {
		if p.at == 0 {
			return 0, errors.Join(err, Discard(path))
		}
		if e := p.save(); e != nil {
			err = errors.Join(err, e)
		}
		return 0, fmt.Errorf("%w; what is there of it is in %s, and another try goes on with it", err, path+partSuffix)
	}
	if d.Room != nil {
		if err := d.Room(info.Size - p.at); err != nil {
			return leave(fmt.Errorf("%s, %d of its %d bytes are to come: %w", d.ID, info.Size-p.at, info.Size, err))
		}
	}
	if err := d.copy(ctx, p, span{p.at, info.Size, info.Size}); err != nil {
		return leave(err)
	}
	// Another upload meanwhile would have made it a mixture.
	now, err := d.info(ctx)
	if err != nil {
		return leave(err)
	}
	if now != info {
		err = fmt.Errorf("%s: %w while it was downloaded: try again", d.ID, ErrChanged)
		return 0, errors.Join(err, Discard(path))
	}
	if err := d.check(sum); err != nil {
		return 0, errors.Join(err, Discard(path))
	}
	return info.Size, p.finish()
}

// Discard removes what File has left of a download that nobody wants to go on
// with. It is no error if there is nothing.
func Discard(path string) error {
	return errors.Join(durable.Remove(path+stateSuffix), durable.Remove(path+partSuffix))
}

// state is how much of a part is durable, and of what.
type state struct {
	ID      string `json:"id"`
	Size    int64  `json:"size"`    // of the whole, in bytes
	Updated int64  `json:"updated"` // in seconds since 1970
	Synced  int64  `json:"synced"`  // bytes of the part
	CRC     uint32 `json:"crc"`     // IEEE, of these: file systems do not always keep what they promised
}

// parseState reads what encode has written. Anything else is an error.
func parseState(data []byte) (state, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, err
	}
	if s.Synced < 0 || s.Synced > s.Size {
		return state{}, fmt.Errorf("%d bytes of %d are not possible", s.Synced, s.Size)
	}
	return s, nil
}

func (s state) encode() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // it has texts and numbers
	}
	return append(data, '\n')
}

// part is the file that is written.
type part struct {
	f        *os.File
	path     string // of the file that it becomes
	interval int64  // bytes between two saves
	within   time.Duration
	saved    time.Time
	sum      hash.Hash // of its bytes; nil: nobody asks
	crc      uint32
	at       int64 // bytes
	durable  state
	failed   error // of a sync: what is on the disk is not known since
}

// openPart opens it for this process alone.
func openPart(path string) (*part, error) {
	f, err := os.OpenFile(path+partSuffix, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	// Some file systems have no locks: there it is up to the caller.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		f.Close()
		return nil, fmt.Errorf("%s is being downloaded by another process (flock: %w): wait for it", path, err)
	}
	// The other one may have finished, and renamed it, since it was opened.
	mine, err := f.Stat()
	if err == nil {
		var there fs.FileInfo
		if there, err = os.Stat(path + partSuffix); err == nil && !os.SameFile(mine, there) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: another process has just downloaded it: %w", path, err)
	}
	return &part{f: f, path: path}, nil
}

// resume goes to the end of what there is of a content, want, which may be
// nothing.
func (p *part) resume(ctx context.Context, want state) error {
	p.durable = want
	data, err := durable.ReadFile(p.path+stateSuffix, maxState)
	if err == nil {
		s, err := parseState(data)
		if err == nil && s.ID == want.ID && s.Size == want.Size && s.Updated == want.Updated {
			err := p.reread(ctx, s.Synced)
			if err == nil && p.crc == s.CRC {
				p.durable = s
				return p.f.Truncate(s.Synced) // what was not synced may be anything
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	// From the start. First the state goes, which would be a lie soon.
	if err := durable.Remove(p.path + stateSuffix); err != nil {
		return err
	}
	p.at, p.crc = 0, 0
	if p.sum != nil {
		p.sum.Reset()
	}
	if _, err := p.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return p.f.Truncate(0)
}

// reread hashes the first n bytes, and leaves the file's offset behind them.
func (p *part) reread(ctx context.Context, n int64) error {
	buf := make([]byte, 32<<10)
	for p.at < n {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		some := buf[:min(int64(len(buf)), n-p.at)]
		if _, err := io.ReadFull(p.f, some); err != nil {
			return err
		}
		p.hash(some)
	}
	return nil
}

func (p *part) hash(b []byte) {
	p.at += int64(len(b))
	p.crc = crc32.Update(p.crc, crc32.IEEETable, b)
	if p.sum != nil {
		p.sum.Write(b)
	}
}

// Write appends, and syncs now and then.
func (p *part) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.hash(b[:n])
	if err == nil && (p.at-p.durable.Synced >= p.interval || time.Since(p.saved) >= p.within) {
		err = p.save()
	}
	return n, err
}

// save makes durable what there is, and then that it is.
func (p *part) save() error {
	if p.failed != nil {
		return nil // has been told
	}
	if p.at == p.durable.Synced {
		return nil
	}
	if p.failed = p.f.Sync(); p.failed != nil {
		return p.failed
	}
	s := p.durable
	s.Synced, s.CRC = p.at, p.crc
	if err := durable.WriteFile(p.path+stateSuffix, s.encode(), 0o600); err != nil {
		return err
	}
	p.durable, p.saved = s, time.Now()
	return nil
}

// finish gives the file its name. The state goes after that is durable: a part
// without one would be of no use.
func (p *part) finish() error {
	if p.failed = p.f.Sync(); p.failed != nil {
		return p.failed
	}
	if err := os.Rename(p.path+partSuffix, p.path); err != nil {
		return err
	}
	if err := durable.SyncFolder(filepath.Dir(p.path)); err != nil {
		return err
	}
	return durable.Remove(p.path + stateSuffix)
}
