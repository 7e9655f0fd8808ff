package cga

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// source is the compressed archive. It keeps its own error apart from those of
// an archive that is broken.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

var errTooLong = errors.New("from here the archive is longer than all that it may have in it")

const tarBlock = 512

// stream is the archive without its compression. A few bytes can be compressed
// zeros or headers without end, so that there is a limit to it.
type stream struct {
	r     io.Reader
	left  int64
	zeros int // how many the last bytes were
}

func (s *stream) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, errTooLong
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	end := n
	for end > 0 && n-end < tarBlock && p[end-1] == 0 {
		end--
	}
	if n > 0 && end > 0 && n-end < tarBlock {
		s.zeros = 0
	}
	s.zeros += n - end
	return n, err
}

// ended says whether the last block was one of zeros, as at an archive's end.
func (s *stream) ended() bool { return s.zeros >= tarBlock }

// keeper keeps the first bytes of what is written to it.
type keeper struct {
	max  int
	data []byte
}

func (k *keeper) Write(p []byte) (int, error) {
	k.data = append(k.data, p[:min(len(p), k.max-len(k.data))]...)
	return len(p), nil
}

// printable returns a name that cannot garble a terminal or split a line.
func printable(name string) string {
	if len(name) > maxPath {
		name = name[:maxPath] + "..."
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%q", name)
	}
	return name
}
