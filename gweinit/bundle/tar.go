package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	manifestName  = "manifest.json"
	signatureName = "manifest.json.minisig"

	blockSize = 512
	endSize   = 2 * blockSize
)

// header is the one tar header that a member may have.
func header(name string, size int64) []byte {
	h := make([]byte, blockSize)
	for _, f := range []struct {
		at   int
		text string
	}{
		{0, name},
		{100, "0000644\x00"},                  // mode
		{108, "0000000\x00"},                  // owner
		{116, "0000000\x00"},                  // group
		{124, fmt.Sprintf("%011o\x00", size)}, // size
		{136, "00000000000\x00"},              // time
		{148, "        "},                     // checksum
		{156, "0"},                            // type
		{257, "ustar\x0000"},                  // magic and version
		{329, "0000000\x00"},                  // device, major
		{337, "0000000\x00"},                  // device, minor
	} {
		copy(h[f.at:], f.text)
	}
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// padding is how many zeros follow that many bytes.
func padding(size int64) int64 { return -size & (blockSize - 1) }

// memberSize is what a member takes in the file.
func memberSize(size int64) int64 { return blockSize + size + padding(size) }

// reader reads a bundle from its beginning.
type reader struct {
	r   io.Reader
	at  int64
	buf bytes.Buffer
}

// member reads a member of unknown size up to max, and its padding.
func (r *reader) member(name string, max int64) ([]byte, error) {
	h, err := r.bytes(blockSize)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseInt(string(h[124:135]), 8, 64)
	if err != nil || size <= 0 || size > max || !bytes.Equal(h, header(name, size)) {
		return nil, fmt.Errorf("%w: at byte %d there should be the header of %s, with a size of 1 to %d", ErrFormat, r.at-blockSize, name, max)
	}
	content, err := r.bytes(size)
	if err != nil {
		return nil, err
	}
	content = bytes.Clone(content)
	return content, r.zeros(padding(size))
}

// header reads the header of a member whose size is known.
func (r *reader) header(name string, size int64) error {
	h, err := r.bytes(blockSize)
	if err == nil && !bytes.Equal(h, header(name, size)) {
		err = fmt.Errorf("%w: at byte %d there should be the header of %s, with size %d", ErrFormat, r.at-blockSize, name, size)
	}
	return err
}

// bytes reads n bytes; they are valid until the next call.
func (r *reader) bytes(n int64) ([]byte, error) {
	r.buf.Reset()
	got, err := io.CopyN(&r.buf, r.r, n) // grows with what is there, not with what a header says
	r.at += got
	if err == io.EOF {
		return nil, fmt.Errorf("the firmware bundle ends at byte %d: %w", r.at, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return nil, fmt.Errorf("read the firmware bundle at byte %d: %w", r.at, err)
	}
	return r.buf.Bytes(), nil
}

// zeros reads n zeros.
func (r *reader) zeros(n int64) error {
	got, err := r.bytes(n)
	if err == nil && len(bytes.Trim(got, "\x00")) > 0 {
		err = fmt.Errorf("%w: the %d bytes before byte %d should be zeros", ErrFormat, n, r.at)
	}
	return err
}

// end makes sure that nothing follows.
func (r *reader) end() error {
	switch _, err := r.bytes(1); {
	case err == nil:
		return fmt.Errorf("%w: it goes on at byte %d, where it should end", ErrFormat, r.at-1)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	default:
		return err
	}
}
