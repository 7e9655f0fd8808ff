package powercut

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// fill writes sectors full of the letters of text, one each.
func fill(d io.WriterAt, sector int64, text string) error {
	var data []byte
	for _, c := range []byte(text) {
		data = append(data, bytes.Repeat([]byte{c}, Sector)...)
	}
	_, err := d.WriteAt(data, sector*Sector)
	return err
}

// letters is the content of a small disk, one for each sector.
func letters(t *testing.T, d io.ReaderAt, sectors int) string {
	t.Helper()
	data := make([]byte, sectors*Sector)
	if _, err := d.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 0, sectors)
	for s := range slices.Chunk(data, Sector) {
		if !bytes.Equal(s, bytes.Repeat(s[:1], Sector)) {
			t.Fatalf("a sector is torn: % x", s)
		}
		text = append(text, max(s[0], '.'))
	}
	return string(text)
}

// Each tries exactly what a disk may have on it, and nothing twice.
func TestEach(t *testing.T) {
	for _, tt := range []struct {
		name  string
		calls string // what the operation does: sector and letters, "|" for Sync
		cut   string // contents with the power gone in it
		done  string // contents after it
	}{
		{"nothing", "", "", "wxyz"},
		{"one write", "0A", "wxyz Axyz", "wxyz Axyz"},
		{"one write and a sync", "0A |", "wxyz Axyz", "Axyz"},
		{"a sync divides", "0A | 1B |", "wxyz Axyz AByz", "AByz"},
		{"writes in any order", "0A 1B 2C |", "wxyz Axyz wByz wxCz AByz AxCz wBCz ABCz", "ABCz"},
		{"a write is torn", "0ABCD |", "wxyz Axyz AByz ABCz wBCD wxCD wxyD AxCz wByD ABCD", "ABCD"},
		{"only the last write is torn", "0AB 2CD |", "wxyz Axyz wByz AByz wxCD ABCz AByD ABCD", "ABCD"},
		{"the same sector twice", "0A 0B |", "wxyz Axyz Bxyz", "Bxyz"},
		{"back to what was", "0A | 0w |", "wxyz Axyz", "wxyz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := New(nil, 4*Sector)
			if err := errors.Join(fill(start, 0, "wxyz"), start.Sync()); err != nil {
				t.Fatal(err)
			}
			var cut, done []string
			n, err := Each(start, func(d *Disk) error {
				for _, call := range strings.Fields(tt.calls) {
					if call == "|" {
						if err := d.Sync(); err != nil {
							return err
						}
					} else if err := fill(d, int64(call[0]-'0'), call[1:]); err != nil {
						return err
					}
				}
				return nil
			}, func(name string, after *Disk, err error) {
				got := letters(t, after, 4)
				switch {
				case err == nil:
					done = append(done, got)
				case err == ErrPower:
					cut = append(cut, got)
				default:
					t.Errorf("%s: %v", name, err)
				}
			})
			if err != nil || n != len(cut)+len(done) {
				t.Errorf("%d contents counted, %d seen, %v", n, len(cut)+len(done), err)
			}
			for _, c := range []struct {
				when, want string
				got        []string
			}{{"cut", tt.cut, cut}, {"done", tt.done, done}} {
				want := strings.Fields(c.want)
				slices.Sort(want)
				slices.Sort(c.got)
				if !slices.Equal(c.got, want) {
					t.Errorf("%s: got  %v\nwant %v", c.when, c.got, want)
				}
			}
			if got := letters(t, start, 4); got != "wxyz" {
				t.Errorf("the starting disk is now %s", got)
			}
		})
	}
}

// An operation that fails with the power on is no power cut.
func TestEachFailure(t *testing.T) {
	broken := errors.New("broken")
	n, err := Each(New(nil, Sector), func(d *Disk) error {
		if err := fill(d, 0, "A"); err != nil {
			return err
		}
		return broken
	}, func(string, *Disk, error) {})
	if n != 2 || err != broken {
		t.Errorf("%d contents, %v", n, err)
	}
}

// Without power nothing answers, and nothing changes any more.
func TestNoPower(t *testing.T) {
	names := map[string]bool{}
	_, err := Each(New(nil, 4*Sector), func(d *Disk) error {
		err := errors.Join(fill(d, 0, "A"), d.Sync(), fill(d, 1, "BC"))
		if err == nil {
			return nil
		}
		_, rerr := d.ReadAt(make([]byte, 1), 0)
		if werr, serr := fill(d, 3, "D"), d.Sync(); rerr != ErrPower || werr != ErrPower || serr != ErrPower {
			t.Errorf("after the cut: read: %v, write: %v, sync: %v", rerr, werr, serr)
		}
		return err
	}, func(name string, after *Disk, _ error) {
		if got := letters(t, after, 4); got[3] != '.' {
			t.Errorf("%s: %s", name, got)
		}
		if names[name] {
			t.Errorf("two contents are named %q", name)
		}
		names[name] = true
	})
	if want := "power cut in write 2 (2 sectors at 1), last unsynced write torn: the first 1 sectors"; err != nil || !names[want] {
		t.Errorf("%v; no %q in\n%v", err, want, names)
	}
}

func TestDisk(t *testing.T) {
	d := New(strings.NewReader(strings.Repeat("a", Sector+100)), 3*Sector)
	if err := errors.Join(fill(d, 1, "B"), d.Sync(), fill(d, 2, "C")); err != nil {
		t.Fatal(err)
	}
	if d.Writes != 2 || d.Syncs != 1 || d.Size() != 3*Sector {
		t.Errorf("%d writes, %d syncs, %d bytes", d.Writes, d.Syncs, d.Size())
	}
	buf := make([]byte, 2*Sector)
	for _, tt := range []struct {
		disk *Disk
		off  int64
		n    int
		want string // first and last byte read
		err  string
	}{
		{d, Sector - 1, 2, "aB", ""},
		{d, Sector - 1, Sector + 2, "aC", ""},
		{d, 2*Sector + 7, 5, "CC", ""},
		{d, 3*Sector - 1, 2, "C\x00", "EOF"},
		{d, 3*Sector + 1, 1, "", "read at 1537 on a disk of 1536"},
		{d, -1, 1, "", "read at -1"},
		{d.Copy(), Sector - 1, Sector + 2, "a\x00", ""},
		{New(strings.NewReader("abc"), Sector), 2, 2, "c\x00", ""},
		{New(badDisk{}, Sector), 0, 2, "", "input/output error"},
	} {
		clear(buf)
		n, err := tt.disk.ReadAt(buf[:tt.n], tt.off)
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%d bytes at %d: %v, want %q", tt.n, tt.off, err, tt.err)
		}
		if tt.want != "" && (string([]byte{buf[0], buf[tt.n-1]}) != tt.want || err == nil && n != tt.n) {
			t.Errorf("%d bytes at %d: %d: %q, want %q", tt.n, tt.off, n, buf[:tt.n], tt.want)
		}
	}
	for _, w := range []struct{ off, n int64 }{{1, Sector}, {0, 1}, {-Sector, Sector}, {2 * Sector, 2 * Sector}} {
		if _, err := d.WriteAt(make([]byte, w.n), w.off); err == nil || !strings.Contains(err.Error(), "not whole sectors") {
			t.Errorf("write of %d bytes at %d: %v", w.n, w.off, err)
		}
	}
}

type badDisk struct{}

func (badDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

// A firmware update: what was written long ago costs nothing in each cut.
func BenchmarkEach(b *testing.B) {
	data := make([]byte, 64<<10)
	for i := range data {
		data[i] = byte(i>>9) + 1
	}
	for b.Loop() {
		n, err := Each(New(nil, 256<<20), func(d *Disk) error {
			for off := int64(0); off < 8<<20; {
				for range 8 {
					if _, err := d.WriteAt(data, off); err != nil {
						return err
					}
					off += int64(len(data))
				}
				if err := d.Sync(); err != nil {
					return err
				}
			}
			return nil
		}, func(_ string, after *Disk, _ error) { after.ReadAt(data[:Sector], 0) })
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n), "contents")
	}
}
