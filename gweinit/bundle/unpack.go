package bundle

import (
	"crypto/sha256"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Unpacker checks and unpacks frames, with memory for one at a time.
type Unpacker struct {
	decoder *zstd.Decoder
	plain   []byte
}

// NewUnpacker makes an unpacker, whose memory Close gives back.
func NewUnpacker() (*Unpacker, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(ChunkSize), zstd.WithDecoderMaxMemory(ChunkSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	// The decoder is faster if it may write a little more than there is.
	return &Unpacker{d, make([]byte, 0, ChunkSize+64)}, nil
}

// Close gives the memory back.
func (u *Unpacker) Close() {
	u.decoder.Close()
	u.plain = nil
}

// Unpack unpacks the frame of a chunk, which is what the manifest says before
// the decompressor sees it, as is the result. The result is valid until the next
// call. Errors are ErrChunk.
func (u *Unpacker) Unpack(p Piece, frame []byte) ([]byte, error) {
	plain, err := u.unpack(p, frame)
	if err != nil {
		return nil, fmt.Errorf("%w: that at byte %d of the file: %w", ErrChunk, p.From, err)
	}
	return plain, nil
}

func (u *Unpacker) unpack(p Piece, frame []byte) ([]byte, error) {
	if int64(len(frame)) != p.Size {
		return nil, fmt.Errorf("%d bytes, want %d", len(frame), p.Size)
	}
	if sum := Sum(sha256.Sum256(frame)); sum != p.SHA256 {
		return nil, fmt.Errorf("its SHA-256 is %s, want %s", sum, p.SHA256)
	}
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if h.Skippable || h.DictionaryID != 0 || !h.HasFCS || h.FrameContentSize != uint64(p.Length) {
		return nil, fmt.Errorf("no zstd frame whose header says that its content has %d bytes", p.Length)
	}
	plain, err := u.decoder.DecodeAll(frame, u.plain[:0])
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if len(plain) != p.Length {
		return nil, fmt.Errorf("unpacks to %d bytes, want %d", len(plain), p.Length)
	}
	if sum := Sum(sha256.Sum256(plain)); sum != p.Plain {
		return nil, fmt.Errorf("unpacks to what has SHA-256 %s, want %s", sum, p.Plain)
	}
	return plain, nil
}
