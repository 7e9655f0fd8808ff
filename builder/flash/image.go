package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/gweinit/config"
)

// grain is the unit in which an image is data or zeros, and written: as much as
// any card's blocks, and a page for O_DIRECT.
const grain = 4096

// Image is a built image, which has been compared with what the build says of it.
type Image struct {
	*image.Manifest
	file      *os.File          // not compressed
	data      []disk.Extent     // all but the zeros, in grains
	sum       [sha256.Size]byte // of the data: zeros need no hash
	provision []disk.Extent     // the file of the settings
}

// OpenImage opens BOARD.img or BOARD.img.zst, beside which the build has left
// BOARD.json, and reads all of it: an image that is not, byte for byte, what was
// built is an error, before any card is touched. An image that is compressed is
// unpacked into a file without a name, which goes with the process. progress is
// told bytes.
func OpenImage(ctx context.Context, path string, progress func(done, total int64)) (_ *Image, err error) {
	board, compressed := strings.CutSuffix(path, ".img.zst")
	if !compressed {
		var ok bool
		if board, ok = strings.CutSuffix(path, ".img"); !ok {
			return nil, fmt.Errorf("image %s: want a BOARD.img or BOARD.img.zst", path)
		}
	}
	in, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the image: %w", err)
	}
	defer func() {
		if err != nil || compressed {
			in.Close()
		}
	}()
	m, err := image.ReadManifest(board + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %s: its %s.json is not beside it, which says what has to be in it: the build has left both, copy both", path, filepath.Base(board))
	}
	if err != nil {
		return nil, err
	}
	i := &Image{Manifest: m, file: in}
	var source io.Reader = in
	if compressed {
		if i.file, err = scratch(); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", path, err)
		}
		defer func() {
			if err != nil {
				i.file.Close()
			}
		}()
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", path, err)
		}
		defer z.Close()
		source = z
	}
	if err := i.read(ctx, source, compressed, progress); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if i.provision, err = disk.ProvisionExtents(i.file); err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	return i, nil
}

// scratch is a file without a name.
func scratch() (*os.File, error) {
	f, err := os.CreateTemp("", "flash-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// read finds out where the image has data, unpacks it if asked to, and compares
// its hash.
func (i *Image) read(ctx context.Context, source io.Reader, unpack bool, progress func(done, total int64)) error {
	const mismatch = "%s is what %s.json says, %s what is there: the two are not of one build, or a copy is damaged"
	buf, zero := make([]byte, 1<<20), make([]byte, grain)
	hash, data, size := sha256.New(), sha256.New(), i.Image.Size
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(source, buf)
		if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		var hashing sync.WaitGroup // on another processor, the slowest part
		hashing.Go(func() { hash.Write(buf[:n]) })
		for at := 0; at < n; at += grain {
			part := buf[at:min(at+grain, n)]
			if bytes.Equal(part, zero[:len(part)]) {
				continue
			}
			if unpack {
				if _, err := i.file.WriteAt(part, off+int64(at)); err != nil {
					return err
				}
			}
			data.Write(part)
			i.data = extend(i.data, off+int64(at), int64(len(part)))
		}
		hashing.Wait()
		if off += int64(n); off > size || n < len(buf) && off < size {
			there := fmt.Sprint(off)
			if off > size {
				there = "more"
			}
			return fmt.Errorf(mismatch, fmt.Sprintf("%d bytes", size), i.Board, there)
		}
		progress(off, size)
		if n < len(buf) {
			break
		}
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); sum != i.Image.SHA256 {
		return fmt.Errorf(mismatch, "SHA-256 "+i.Image.SHA256, i.Board, sum)
	}
	i.sum = [sha256.Size]byte(data.Sum(nil))
	if size%grain != 0 {
		return fmt.Errorf("its %d bytes are no multiple of %d", size, grain)
	}
	if unpack {
		return i.file.Truncate(size)
	}
	return nil
}

// extend adds bytes behind all others.
func extend(extents []disk.Extent, off, length int64) []disk.Extent {
	if last := len(extents) - 1; last >= 0 && extents[last].Offset+extents[last].Length == off {
		extents[last].Length += length
		return extents
	}
	return append(extents, disk.Extent{Offset: off, Length: length})
}

// zeros are where the image has none of its data.
func (i *Image) zeros() (extents []disk.Extent) {
	at := int64(0)
	for _, d := range append(slices.Clone(i.data), disk.Extent{Offset: i.Image.Size}) {
		if d.Offset > at {
			extents = append(extents, disk.Extent{Offset: at, Length: d.Offset - at})
		}
		at = d.Offset + d.Length
	}
	return extents
}

// Settings are those that the image was built with; false: with none.
func (i *Image) Settings() (p config.Provision, ok bool, err error) {
	var file []byte
	for _, e := range i.provision {
		part := make([]byte, e.Length)
		if _, err := i.file.ReadAt(part, e.Offset); err != nil {
			return p, false, fmt.Errorf("read the image's settings: %w", err)
		}
		file = append(file, part...)
	}
	text, ok := config.Text(file)
	if p, err = config.ParseProvision(text); err != nil {
		return p, false, fmt.Errorf("the image's settings: %w", err)
	}
	return p, ok, nil
}

// Close closes the image.
func (i *Image) Close() error { return i.file.Close() }

func total(extents []disk.Extent) (n int64) {
	for _, e := range extents {
		n += e.Length
	}
	return n
}
