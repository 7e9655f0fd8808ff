package identity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/powercut"
	"github.com/exosite/gwe/gweinit/ubenv"
	"github.com/exosite/gwe/gweinit/ubenv/sealed"
)

const secret = "e469e336ff9c8ed9176bc05ed7fa40daaaaaaaaa"

// files is a set of files as a gateway has it.
func files() map[string][]byte {
	return map[string][]byte{
		"cik":            []byte(secret),
		"Gateway.cfg":    []byte("[device]\nvendor = acme\n"),
		"network.yaml":   bytes.Repeat([]byte("# wlan0\n"), 1000),
		"keys/cloud.pem": []byte(secret + "\n"),
		"keys/empty":     {},
	}
}

func newDisk() *powercut.Disk { return powercut.New(nil, 8<<20) }

func encoded(t testing.TB, r Record, seq uint32) []byte {
	t.Helper()
	buf, err := r.Encode(seq)
	if err != nil {
		t.Fatal(err)
	}
	return buf
}

// copyWith is a copy with the given entries, whatever they are.
func copyWith(entries []byte) []byte {
	return sealed.Encode(magic, version, 7, entries[:min(len(entries), CopySize-sealed.Overhead)], CopySize)
}

// raw is one entry.
func raw(kind uint32, name, data string) []byte {
	var b []byte
	for _, n := range []uint32{kind, uint32(len(name)), uint32(len(data))} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, name+data...)
}

func TestEncodeDecode(t *testing.T) {
	for name, want := range map[string]map[string][]byte{
		"nothing":       {},
		"a gateway":     files(),
		"as much as is": {"x": bytes.Repeat([]byte{0xff}, CopySize-sealed.Overhead-entryHeader-1)},
	} {
		buf := encoded(t, Record{Files: want}, 0x7fffffff)
		got, seq, err := Decode(buf)
		if err != nil || seq != 0x7fffffff || !maps.EqualFunc(got.Files, want, bytes.Equal) || got.unknown != nil {
			t.Errorf("%s: %v, %#x, %v", name, got, seq, err)
		}
	}
}

// The bytes of a small record: both slots of a gateway in the field read them.
func TestFormat(t *testing.T) {
	got := encoded(t, Record{Files: map[string][]byte{"cik": []byte("abc")}}, 2)
	want := "GWE ID\r\n" + "\x01\x00\x00\x00" + "\x02\x00\x00\x00" + "\x12\x00\x00\x00" +
		// printf 'GWE ID\r\n\1\0\0\0\2\0\0\0\22\0\0\0\1\0\0\0\3\0\0\0\3\0\0\0cikabc' | sha256sum
		"\x65\x4b\x1c\x50\xc6\x62\x92\xac\xb6\x7d\x33\xeb\x64\xad\x6f\xff\xb5\x13\x3d\x6c\x9b\x35\xba\xf9\xa6\xd2\x25\x6e\x75\x6a\x5c\x8e" +
		"\x01\x00\x00\x00" + "\x03\x00\x00\x00" + "\x03\x00\x00\x00" + "cik" + "abc"
	if len(got) != CopySize || string(got[:len(want)]) != want || len(bytes.Trim(got[len(want):], "\x00")) != 0 {
		t.Errorf("got  %q...\nwant %q", got[:len(want)], want)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, want := range map[string]string{
		"":                               "not a relative clean path",
		".":                              "not a relative clean path",
		"..":                             "not a relative clean path",
		"../passwd":                      "not a relative clean path",
		"keys/../cik":                    "not a relative clean path",
		"./cik":                          "not a relative clean path",
		"/etc/passwd":                    "not a relative clean path",
		"keys//a":                        "not a relative clean path",
		"keys/":                          "not a relative clean path",
		"\xff":                           "not a relative clean path",
		"a\x00b":                         "control characters",
		"a\nb":                           "control characters",
		"a\u0085b":                       "control characters",
		"a/b/c":                          "more than one folder",
		strings.Repeat("long", 50) + "x": "201 bytes",
	} {
		_, err := Record{Files: map[string][]byte{name: []byte(secret)}}.Encode(1)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: got %v, want %q", name, err, want)
		}
	}
	large := Record{Files: files()}
	large.Files["more"] = make([]byte, 60000)
	store := NewStore(newDisk())
	if err := store.Save(large); err == nil || !strings.Contains(err.Error(), "there is room for 65484") {
		t.Errorf("too much: %v", err)
	}
	if _, err := store.Load(); !errors.Is(err, ErrNone) {
		t.Errorf("after too much: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := encoded(t, Record{Files: files()}, 1)
	with := func(off int, b byte) []byte {
		buf := bytes.Clone(good)
		buf[off] ^= b
		return buf
	}
	for _, tt := range []struct {
		name, want string
		buf        []byte
	}{
		{"nothing", "0 bytes, want 65536", nil},
		{"zeros", "does not begin with", make([]byte, CopySize)},
		{"flash erased", "does not begin with", bytes.Repeat([]byte{0xff}, CopySize)},
		{"magic", "does not begin with", with(0, 1)},
		{"a later layout", "version 3, want 1", with(8, 2)},
		{"payload", "SHA-256", with(sealed.Overhead+20, 1)},
		{"torn", "SHA-256", append(bytes.Clone(good[:4096]), make([]byte, CopySize-4096)...)},
		{"bytes behind the last entry", "5 bytes behind the last entry", copyWith(append(raw(kindFile, "cik", secret), "cik\x00\x00"...))},
		{"a name that is longer than all", "an entry of 4294967295 bytes", copyWith([]byte("\x01\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"))},
		{"lengths that overflow", "an entry of 8589934590 bytes", copyWith([]byte("\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"))},
	} {
		_, _, err := Decode(tt.buf)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// The wish for a reset is kept beside the files, and goes when it is cleared.
func TestReset(t *testing.T) {
	store := NewStore(newDisk())
	for _, want := range []string{"settings", ""} {
		if err := store.Save(Record{Files: files(), Reset: want}); err != nil {
			t.Fatal(err)
		}
		got, err := store.Load()
		if err != nil || got.Reset != want || len(got.Files) != len(files()) || got.unknown != nil {
			t.Errorf("got %v, reset %q, %v; want reset %q", got, got.Reset, err, want)
		}
	}
	// A second one, or one with a name, is a later firmware's.
	got, _, err := Decode(copyWith(bytes.Join([][]byte{
		raw(kindReset, "", "settings"), raw(kindReset, "", "everything"), raw(kindReset, "x", "y"), raw(kindReset, "", ""),
	}, nil)))
	if err != nil || got.Reset != "settings" || len(got.unknown) != 3 {
		t.Errorf("got %q, %d unknown, %v", got.Reset, len(got.unknown), err)
	}
}

// What a later firmware has added neither hides the rest nor gets lost.
func TestUnknownEntries(t *testing.T) {
	d := newDisk()
	copy1 := copyWith(bytes.Join([][]byte{
		raw(9, "tpm", "sealed"), raw(kindFile, "cik", secret), raw(kindFile, "a/b/c", "deep"), raw(kindFile, "cik", "again"), raw(9, "", ""),
	}, nil))
	if _, err := d.WriteAt(copy1, ubenv.Identity); err != nil {
		t.Fatal(err)
	}
	store := NewStore(d)
	r, err := store.Load()
	if err != nil || fmt.Sprint(r) != `identity of ["cik"]` || string(r.Files["cik"]) != secret {
		t.Fatalf("%v, %v", r, err)
	}
	r.Files["cik"] = []byte("new")
	if err := store.Save(r); err != nil {
		t.Fatal(err)
	}
	got, err := store.Load()
	if err != nil || !reflect.DeepEqual(got, r) || len(got.unknown) != 4 || string(got.unknown[0].data) != "sealed" {
		t.Errorf("%v with %d unknown entries, %v", got, len(got.unknown), err)
	}
}

func TestStore(t *testing.T) {
	d := newDisk()
	store := NewStore(d)
	if _, err := store.Load(); !errors.Is(err, ErrNone) {
		t.Fatalf("an erased partition: %v, want ErrNone", err)
	}
	want := Record{Files: files()}
	if err := store.Save(want); err != nil {
		t.Fatal(err)
	}
	writes := d.Writes
	if err := store.Save(want); err != nil || d.Writes != writes {
		t.Errorf("saving the same again: %v, %d writes", err, d.Writes-writes)
	}
	// Either copy alone will do.
	for _, off := range []int64{ubenv.Identity, ubenv.Identity + ubenv.Second} {
		d := d.Copy()
		if _, err := d.WriteAt(make([]byte, powercut.Sector), off+1024); err != nil {
			t.Fatal(err)
		}
		got, err := NewStore(d).Load()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("with the copy at %#x garbled: %v, %v", off, got, err)
		}
	}
	// The rest of the partition is others'.
	for off := int64(0); off < d.Size(); off += 1 << 20 {
		buf := make([]byte, 1<<20)
		d.ReadAt(buf, off)
		if off == ubenv.Identity || off == ubenv.Identity+ubenv.Second {
			buf = buf[CopySize:]
		}
		if len(bytes.Trim(buf, "\x00")) != 0 {
			t.Errorf("something was written to the MiB at %#x", off)
		}
	}
}

// The power goes in every write and sync of a save: always the record from
// before or the one after, also when it is the first one ever.
func TestPowerCutDuringSave(t *testing.T) {
	before, after := Record{Files: files()}, Record{Files: files()}
	after.Files["cik"] = []byte("another")
	delete(after.Files, "keys/empty")
	fresh, used := newDisk(), newDisk()
	if err := NewStore(used).Save(before); err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]*powercut.Disk{"first": fresh, "later": used} {
		n, err := powercut.Each(start, func(d *powercut.Disk) error {
			return NewStore(d).Save(after)
		}, func(cut string, d *powercut.Disk, saveErr error) {
			store := NewStore(d)
			got, err := store.Load()
			switch {
			case err == nil && reflect.DeepEqual(got, after):
			case saveErr != nil && err == nil && start == used && reflect.DeepEqual(got, before):
			case saveErr != nil && start == fresh && errors.Is(err, ErrNone):
			default:
				t.Errorf("%s save, %s: save says %v; loaded %v, %v", name, cut, saveErr, got, err)
			}
			// The next boot saves it again; then no copy is left of the one before.
			if err := store.Save(after); err != nil {
				t.Errorf("%s save, %s: save again: %v", name, cut, err)
			}
			for _, off := range []int64{ubenv.Identity, ubenv.Identity + ubenv.Second} {
				buf := make([]byte, CopySize)
				if _, err := d.ReadAt(buf, off); err != nil {
					t.Fatal(err)
				}
				if got, _, err := Decode(buf); err != nil || !reflect.DeepEqual(got, after) {
					t.Errorf("%s save, %s: saved again, the copy at %#x is %v, %v", name, cut, off, got, err)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s save: %d contents after a power cut", name, n)
	}
}

func FuzzDecode(f *testing.F) {
	r := Record{Files: files()}
	buf, err := r.Encode(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimRight(buf[sealed.Overhead:], "\x00"))
	f.Add(append(raw(kindFile, "../x", "1"), raw(3, "", "2")...))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, entries []byte) {
		r, seq, err := Decode(copyWith(entries))
		if err != nil {
			return
		}
		buf, err := r.Encode(seq)
		if err != nil {
			t.Fatalf("%v was decoded and cannot be encoded: %v", r, err)
		}
		again, seq2, err := Decode(buf)
		if err != nil || seq2 != seq || !reflect.DeepEqual(r, again) {
			t.Errorf("%v encodes to %v, %v", r, again, err)
		}
	})
}
