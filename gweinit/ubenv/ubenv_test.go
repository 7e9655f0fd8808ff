package ubenv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// size of the test's copies: "rec", the sequence number, its complement.
const size = 12

func record(dev Device) Record {
	return Record{Name: "test record", Dev: dev, Offset: Identity, Size: size, Seq: func(buf []byte) (uint32, error) {
		seq := binary.LittleEndian.Uint32(buf[4:])
		if string(buf[:4]) != "rec\n" || binary.LittleEndian.Uint32(buf[8:]) != ^seq {
			return 0, errors.New("garbage")
		}
		return seq, nil
	}}
}

func encode(seq uint32) []byte {
	buf := binary.LittleEndian.AppendUint32([]byte("rec\n"), seq)
	return binary.LittleEndian.AppendUint32(buf, ^seq)
}

func open(t *testing.T) Partition {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ubenv")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8<<20); err != nil {
		t.Fatal(err)
	}
	p, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// Copies on the disk, what is loaded, and which copy is overwritten next.
func TestRecord(t *testing.T) {
	const invalid, unreadable = -1, -2
	for _, tt := range []struct {
		name          string
		first, second int
		want          string // the loaded number, or "error: " and a part of it
		next          string // the copies after a save
	}{
		{"new", invalid, invalid, "error: test record: no valid copy: first: not valid: garbage; second: not valid: garbage", "1 -1"},
		{"only the first", 1, invalid, "1", "1 2"},
		{"only the second", invalid, 7, "7", "8 7"},
		{"first is newer", 8, 7, "8", "8 9"},
		{"second is newer", 8, 9, "9", "10 9"},
		{"both alike", 5, 5, "5", "5 6"},
		{"over the top of 15 bits", 0x7fff, 0x8000, "32768", "32769 32768"},
		{"first cannot be read", unreadable, 3, "3", "4 3"},
		{"second cannot be read", 3, unreadable, "3", "3 4"},
		{"one garbled, one cannot be read", invalid, unreadable, "error: second: read 0x500000: input/output error", "error: input/output error"},
		{"none can be read", unreadable, unreadable, "error: first copy: read 0x100000", "error: input/output error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := &badReads{Partition: open(t), bad: map[int64]bool{}}
			for off, v := range map[int64]int{Identity: tt.first, Identity + Second: tt.second} {
				switch v {
				case unreadable:
					dev.bad[off] = true
				case invalid:
				default:
					dev.Partition.WriteAt(encode(uint32(v)), off)
				}
			}
			r := record(dev)
			buf, err := r.Load()
			got := ""
			if err == nil {
				got = fmt.Sprint(binary.LittleEndian.Uint32(buf[4:]))
			}
			compare(t, "load", got, err, tt.want)
			if garbled := tt.first == invalid && tt.second == invalid; errors.Is(err, ErrNone) != garbled {
				t.Errorf("ErrNone: %v, want %v", errors.Is(err, ErrNone), garbled)
			}
			err = r.Save(encode)
			got = ""
			for i, off := range []int64{Identity, Identity + Second} {
				if i > 0 {
					got += " "
				}
				if buf, seq, err := r.read(off); err == nil && len(buf) == size {
					got += fmt.Sprint(seq)
				} else {
					got += "-1"
				}
			}
			compare(t, "save", got, err, tt.next)
		})
	}
}

func compare(t *testing.T, op, got string, err error, want string) {
	t.Helper()
	if part, isErr := strings.CutPrefix(want, "error: "); isErr {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %s, %v; want an error with %q", op, got, err, part)
		}
	} else if err != nil || got != want {
		t.Errorf("%s: got %s, %v; want %s", op, got, err, want)
	}
}

// badReads is a disk with bad sectors, which a write mends.
type badReads struct {
	Partition
	bad map[int64]bool
}

func (b *badReads) ReadAt(p []byte, off int64) (int, error) {
	if b.bad[off] {
		return 0, errors.New("input/output error")
	}
	return b.Partition.ReadAt(p, off)
}

func (b *badReads) WriteAt(p []byte, off int64) (int, error) {
	delete(b.bad, off)
	return b.Partition.WriteAt(p, off)
}

// failing is a disk that fails one operation, or forgets what was written.
type failing struct {
	Partition
	op    string
	reads int
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.reads++; f.op == "read back" && f.reads > 2 {
		return 0, errors.New("input/output error")
	}
	return f.Partition.ReadAt(p, off)
}

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	switch f.op {
	case "write":
		return 0, errors.New("input/output error")
	case "forget":
		return len(p), nil
	}
	return f.Partition.WriteAt(p, off)
}

func (f *failing) Sync() error {
	if f.op == "sync" {
		return errors.New("input/output error")
	}
	return f.Partition.Sync()
}

func TestSaveFails(t *testing.T) {
	for op, want := range map[string]string{
		"write":     "test record: write 0x500000: input/output error",
		"sync":      "test record: sync 0x500000: input/output error",
		"read back": "test record: read back 0x500000: input/output error",
		"forget":    "test record: 0x500000 reads back differently from what was written: the disk may be worn out",
	} {
		t.Run(op, func(t *testing.T) {
			p := open(t)
			if err := record(p).Save(encode); err != nil {
				t.Fatal(err)
			}
			if err := record(&failing{Partition: p, op: op}).Save(encode); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if _, seq, err := record(p).read(Identity); err != nil || seq != 1 {
				t.Errorf("the copy from before: %d, %v", seq, err)
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open a partition that is not there: %v", err)
	}
}
