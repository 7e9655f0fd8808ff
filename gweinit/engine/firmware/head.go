package firmware

import (
	"bytes"
	"context"
	"io"
)

// headBlock is how much is asked for at once of a bundle's head, which mostly is
// smaller.
const headBlock = 32 << 10

// head reads the beginning of a source, and goes on being that source. It keeps the
// last block: there are the first frames in it, and standard input has them only
// once.
type head struct {
	Source
	ctx   context.Context
	size  int64 // of the source; -1: not known
	at    int64 // of the block
	block bytes.Buffer
	read  int   // of the block
	err   error // what ended the block early
}

func (h *head) Read(p []byte) (int, error) {
	if h.read == h.block.Len() {
		if h.err != nil {
			return 0, h.err
		}
		from := h.at + int64(h.block.Len())
		to := from + headBlock
		if h.size >= 0 {
			to = min(to, h.size)
		}
		if from >= to {
			return 0, io.EOF
		}
		h.at, h.read = from, 0
		h.block.Reset()
		h.err = h.Source.Copy(h.ctx, &h.block, from, to)
		if h.block.Len() == 0 && h.err != nil {
			return 0, h.err
		}
	}
	n := copy(p, h.block.Bytes()[h.read:])
	h.read += n
	return n, nil
}

// Copy takes from the block what it has.
func (h *head) Copy(ctx context.Context, w io.Writer, from, to int64) error {
	if in := from - h.at; in >= 0 && in < int64(h.block.Len()) && from < to {
		part := h.block.Bytes()[in:]
		part = part[:min(int64(len(part)), to-from)]
		if _, err := w.Write(part); err != nil {
			return err
		}
		from += int64(len(part))
	}
	if from == to {
		return nil
	}
	return h.Source.Copy(ctx, w, from, to)
}
