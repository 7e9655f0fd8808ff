package layer

import (
	"bytes"
	"io"
	"os"
)

// comparer compares what two files have. The zero value can be used.
type comparer struct{ a, b []byte } // for all files

// same says whether two things of a path are the same but for mode and owner, so that
// who has one of them open need not lose it. What cannot be read is not.
func (c *comparer) same(a, b string) bool {
	infoA, errA := os.Lstat(a)
	infoB, errB := os.Lstat(b)
	if errA != nil || errB != nil || infoA.Mode().Type() != infoB.Mode().Type() {
		return false
	}
	switch infoA.Mode().Type() {
	case 0:
		return infoA.Size() == infoB.Size() && c.sameContent(a, b)
	case os.ModeNamedPipe, os.ModeSocket:
		return true
	}
	return false
}

func (c *comparer) sameContent(a, b string) bool {
	fileA, err := os.Open(a)
	if err != nil {
		return false
	}
	defer fileA.Close()
	fileB, err := os.Open(b)
	if err != nil {
		return false
	}
	defer fileB.Close()
	if c.a == nil {
		c.a, c.b = make([]byte, 32<<10), make([]byte, 32<<10)
	}
	for {
		n, errA := io.ReadFull(fileA, c.a)
		m, errB := io.ReadFull(fileB, c.b)
		if !bytes.Equal(c.a[:n], c.b[:m]) || errA != errB {
			return false
		}
		if errA == io.EOF || errA == io.ErrUnexpectedEOF {
			return true
		}
		if errA != nil {
			return false
		}
	}
}
