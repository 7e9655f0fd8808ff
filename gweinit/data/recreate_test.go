package data

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/powercut"
)

// The power goes in every write and sync of a re-creation. Afterwards the old
// file system has not been touched yet, or the mark says so, or it is done.
func TestPowerCutDuringRecreate(t *testing.T) {
	blank := content(t, mke2fs(t, 2*mib))
	// An old file system, larger, beyond repair but with a sound superblock.
	old := content(t, mke2fs(t, 3*mib))
	copy(old[mib:], noise(2*mib))
	again := 0
	n, err := powercut.Each(powercut.New(bytes.NewReader(old), int64(len(old))), func(d *powercut.Disk) error {
		return writeBlank(t.Context(), d, bytes.NewReader(blank), int64(len(blank)))
	}, func(name string, d *powercut.Disk, recreateErr error) {
		got := make([]byte, len(old))
		if _, err := d.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		_, err := parse(got[:headSize])
		switch done := bytes.Equal(got[:len(blank)], blank); {
		case recreateErr == nil && !done:
			t.Errorf("%s: it should be done", name)
		case done:
		case errors.Is(err, errUnfinished):
			again++
			if again%20 != 0 { // enough to know that it can be begun at any point
				return
			}
			if err := writeBlank(t.Context(), d, bytes.NewReader(blank), int64(len(blank))); err != nil {
				t.Errorf("%s: again: %v", name, err)
			}
		case !bytes.Equal(got[headSize:], old[headSize:]):
			t.Errorf("%s: the superblock says %v, and behind it is no longer the old file system", name, err)
		}
		if !bytes.Equal(got[len(blank):], old[len(blank):]) {
			t.Errorf("%s: something was written behind the blank file system", name)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d contents after a power cut, %d of them unfinished", n, again)
}

// badDisk fails or lies in one place.
type badDisk struct {
	*powercut.Disk
	bad  int64  // offset
	what string // "read", "write", "forget" or "sync"
}

func (b badDisk) hit(what string, p []byte, off int64) bool {
	return b.what == what && off <= b.bad && b.bad < off+int64(len(p))
}

func (b badDisk) ReadAt(p []byte, off int64) (int, error) {
	if b.hit("read", p, off) {
		return 0, errors.New("input/output error")
	}
	return b.Disk.ReadAt(p, off)
}

func (b badDisk) WriteAt(p []byte, off int64) (int, error) {
	if b.hit("write", p, off) {
		return 0, errors.New("input/output error")
	}
	if b.hit("forget", p, off) {
		return len(p), nil
	}
	return b.Disk.WriteAt(p, off)
}

func (b badDisk) Sync() error {
	if b.what == "sync" {
		return errors.New("input/output error")
	}
	return b.Disk.Sync()
}

func TestRecreateOnBadDisk(t *testing.T) {
	blank := content(t, mke2fs(t, 6*mib))
	old := noise(7 * mib)
	for _, tt := range []struct {
		what string
		bad  int64
		want string // "" is success
	}{
		{"read", 5 * mib, "input/output error"},
		{"read", 6*mib + 1, ""}, // not ours
		{"write", 10, "input/output error"},
		{"write", 3 * mib, "input/output error"},
		{"forget", 10, "read back differently"},
		{"forget", 2000, "read back differently"},
		{"forget", 3 * mib, "read back differently"},
		{"sync", 0, "sync: input/output error"},
	} {
		d := badDisk{powercut.New(bytes.NewReader(old), int64(len(old))), tt.bad, tt.what}
		err := readable(t.Context(), d, int64(len(blank)))
		if err == nil {
			err = writeBlank(t.Context(), d, bytes.NewReader(blank), int64(len(blank)))
		}
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s at %d: %v", tt.what, tt.bad, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s at %d: %v, want %q", tt.what, tt.bad, err, tt.want)
		}
		if d.what == "read" && d.Writes != 0 {
			t.Error("a disk that cannot be read was written to")
		}
		head := make([]byte, headSize)
		d.Disk.ReadAt(head, 0)
		if _, err := parse(head); err == nil {
			t.Errorf("%s at %d: it looks finished", tt.what, tt.bad)
		}
	}
}

// The time limit ends a re-creation in the middle: the next boot goes on.
func TestRecreateIsCanceled(t *testing.T) {
	blank := content(t, mke2fs(t, 6*mib))
	ctx, cancel := context.WithCancel(t.Context())
	d := powercut.New(nil, 8*mib)
	err := writeBlank(ctx, cancelAt{d, 2 * mib, cancel}, bytes.NewReader(blank), int64(len(blank)))
	head := make([]byte, headSize)
	d.ReadAt(head, 0)
	if _, parseErr := parse(head); !errors.Is(err, context.Canceled) || !errors.Is(parseErr, errUnfinished) {
		t.Errorf("%v; then %v", err, parseErr)
	}
}

type cancelAt struct {
	*powercut.Disk
	off    int64
	cancel func()
}

func (c cancelAt) WriteAt(p []byte, off int64) (int, error) {
	if off >= c.off {
		c.cancel()
	}
	return c.Disk.WriteAt(p, off)
}

// A reset leaves an empty file system, and nothing of what was on a disk that
// can discard.
func TestReset(t *testing.T) {
	blank := mke2fs(t, 2*mib)
	old := mke2fs(t, 4*mib)
	put(t, old, noise(mib), 3*mib) // a file's blocks
	dev := loop(t, old)
	g := newGateway(t, dev)
	g.Blank = blank
	if err := g.Reset(t.Context()); err != nil || len(g.log) != 0 {
		t.Fatalf("%v; log: %q", err, g.log)
	}
	got := content(t, dev)
	if !bytes.Equal(got[:2*mib], content(t, blank)) {
		t.Error("the partition does not start with the blank file system")
	}
	if !bytes.Equal(got[2*mib:], make([]byte, 2*mib)) {
		t.Error("the blocks behind the blank file system still have what was there")
	}
	if recreated, err := g.Mount(t.Context()); err != nil || recreated || len(g.ran) != 0 {
		t.Errorf("mount after the reset: %t, %v; e2fsck ran: %q", recreated, err, g.ran)
	}
	// A disk that cannot discard has the new file system, too.
	g = newGateway(t, mke2fs(t, 3*mib))
	g.Blank = blank
	if err := g.Reset(t.Context()); err != nil || len(g.log) != 0 {
		t.Errorf("without discard: %v; log: %q", err, g.log)
	}
}
