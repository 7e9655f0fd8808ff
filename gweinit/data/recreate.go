package data

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/exosite/gwe/gweinit/ubenv"
)

// writeBlank writes the blank file system, size bytes, to dev.
//
// When the power goes, it is begun anew at the next boot: while it is not
// complete, the partition starts with a mark. Without that, e2fsck would find
// copies of the old superblock further back and make one file system of both.
func writeBlank(ctx context.Context, dev ubenv.Device, blank io.ReaderAt, size int64) error {
	head := make([]byte, headSize)
	if _, err := blank.ReadAt(head, 0); err != nil {
		return fmt.Errorf("read the blank file system: %w", err)
	}
	if sb, err := parse(head); err != nil {
		return fmt.Errorf("the blank file system: %w", err)
	} else if sb.blocks*sb.blockSize > uint64(size) {
		return fmt.Errorf("the blank file system has %d bytes and should have %d", size, sb.blocks*sb.blockSize)
	}
	mark := make([]byte, headSize)
	copy(mark, unfinished)
	if err := write(dev, mark, 0); err != nil {
		return err
	}
	rest := func(do func(chunk []byte, off int64) error) error {
		return each(ctx, size-headSize, func(chunk []byte, off int64) error {
			off += headSize
			if err := read(blank, chunk, off); err != nil {
				return fmt.Errorf("the blank file system: %w", err)
			}
			return do(chunk, off)
		})
	}
	err := rest(func(chunk []byte, off int64) error {
		_, err := dev.WriteAt(chunk, off)
		return err
	})
	if err != nil {
		return err
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := rest(func(chunk []byte, off int64) error { return compare(dev, chunk, off) }); err != nil {
		return err
	}
	// The superblock before the mark goes: the two may be torn apart.
	if err := write(dev, head[1024:], 1024); err != nil {
		return err
	}
	return write(dev, head[:1024], 0)
}

// readable says whether the first size bytes of dev can be read.
func readable(ctx context.Context, dev ubenv.Device, size int64) error {
	return each(ctx, size, func(chunk []byte, off int64) error { return read(dev, chunk, off) })
}

// each calls do for all chunks of size bytes.
func each(ctx context.Context, size int64, do func(chunk []byte, off int64) error) error {
	buf := make([]byte, 256<<10)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("at byte %d of %d: %w", off, size, err)
		}
		if err := do(buf[:min(int64(len(buf)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

func read(from io.ReaderAt, buf []byte, off int64) error {
	if _, err := from.ReadAt(buf, off); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", len(buf), off, err)
	}
	return nil
}

// write makes a part durable and reads it back.
func write(dev ubenv.Device, buf []byte, off int64) error {
	if _, err := dev.WriteAt(buf, off); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", len(buf), off, err)
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return compare(dev, buf, off)
}

func compare(dev ubenv.Device, want []byte, off int64) error {
	got := make([]byte, len(want))
	if err := read(dev, got, off); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("the %d bytes at %d read back differently from what was written: the disk may be worn out", len(want), off)
	}
	return nil
}
