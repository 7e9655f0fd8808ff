// Package identity keeps a copy of what makes a gateway the one it is, outside
// the file system of /data: without its CIK the cloud answers 409 for ever.
//
// It is a set of small files of /data/gwe, kept as a record in the partition
// ubenv. Whoever changes such a file saves the record too; at boot, PID 1 puts
// back the files that /data/gwe has lost. Their contents are secrets: errors
// and logs have names only.
package identity

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"

	"github.com/exosite/gwe/gweinit/ubenv"
	"github.com/exosite/gwe/gweinit/ubenv/sealed"
)

// CopySize is the size of one copy in the partition, and so the most that a
// record takes.
const CopySize = 64 << 10

// Record is the set of files, by their names below /data/gwe: "cik",
// "keys/cloud.pem".
type Record struct {
	Files map[string][]byte
	// Reset, unless empty, asks for a factory reset at the next boot, and says
	// which: it outlives the /data that the reset takes away.
	Reset string

	// What a later firmware has put into the record and this one does not
	// know. It is kept: the other slot may need it again.
	unknown []entry
}

// String has the names of the files: what they hold is secret.
func (r Record) String() string {
	return fmt.Sprintf("identity of %q", slices.Sorted(maps.Keys(r.Files)))
}

// The format of a copy, frozen, since both slots read it: sealed, a
// payload of entries. Numbers are little-endian.
//
// An entry is its kind (1: a file, 2: the wish for a reset, without a name), the
// length of its name, the length of its data, then name and data. A kind that a
// firmware does not know is kept as it is, and so is a file with a name that it
// would not write.
const (
	magic   = "GWE ID\r\n"
	version = 1 // of this layout; whatever can be an entry leaves it alone

	kindFile  = 1
	kindReset = 2
)

// entry is one entry of the payload.
type entry struct {
	kind       uint32
	name, data []byte
}

const entryHeader = 12

// Encode returns one copy of the record. The error names a file that cannot be
// in it, or says how large the whole is.
func (r Record) Encode(seq uint32) ([]byte, error) {
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if err := checkName(name); err != nil {
			return nil, err
		}
		entries = append(entries, entry{kindFile, []byte(name), r.Files[name]})
	}
	if r.Reset != "" {
		entries = append(entries, entry{kindReset, nil, []byte(r.Reset)})
	}
	entries = append(entries, r.unknown...)
	size := sealed.Overhead
	for _, e := range entries {
		size += entryHeader + len(e.name) + len(e.data)
	}
	if size > CopySize {
		return nil, fmt.Errorf("identity: %d files take %d bytes with their names, there is room for %d", len(entries), size-sealed.Overhead, CopySize-sealed.Overhead)
	}
	var payload []byte
	for _, e := range entries {
		for _, n := range []uint32{e.kind, uint32(len(e.name)), uint32(len(e.data))} {
			payload = binary.LittleEndian.AppendUint32(payload, n)
		}
		payload = append(append(payload, e.name...), e.data...)
	}
	return sealed.Encode(magic, version, seq, payload, CopySize), nil
}

// Decode reads one copy, and returns its sequence number too.
func Decode(buf []byte) (Record, uint32, error) {
	if len(buf) != CopySize {
		return Record{}, 0, fmt.Errorf("%d bytes, want %d", len(buf), CopySize)
	}
	payload, seq, err := sealed.Decode(magic, version, buf)
	if err != nil {
		return Record{}, 0, err
	}
	r := Record{Files: map[string][]byte{}}
	for rest := payload; len(rest) > 0; {
		var e entry
		if e, rest, err = cutEntry(rest); err != nil {
			return Record{}, 0, err
		}
		name := string(e.name)
		_, twice := r.Files[name]
		switch {
		case e.kind == kindFile && !twice && checkName(name) == nil:
			r.Files[name] = e.data
		case e.kind == kindReset && r.Reset == "" && name == "" && len(e.data) > 0:
			r.Reset = string(e.data)
		default:
			r.unknown = append(r.unknown, e)
		}
	}
	return r, seq, nil
}

// cutEntry returns the first entry of buf, and what is behind it.
func cutEntry(buf []byte) (e entry, rest []byte, err error) {
	if len(buf) < entryHeader {
		return entry{}, nil, fmt.Errorf("%d bytes behind the last entry", len(buf))
	}
	e.kind = binary.LittleEndian.Uint32(buf)
	name, data := int64(binary.LittleEndian.Uint32(buf[4:])), int64(binary.LittleEndian.Uint32(buf[8:]))
	buf = buf[entryHeader:]
	if name+data > int64(len(buf)) {
		return entry{}, nil, fmt.Errorf("an entry of %d bytes, %d are left", name+data, len(buf))
	}
	e.name, e.data = bytes.Clone(buf[:name]), bytes.Clone(buf[name:name+data])
	return e, buf[name+data:], nil
}

// checkName says whether a file of /data/gwe may have this name: relative and
// clean, at most one folder deep.
func checkName(name string) error {
	switch {
	case name == "." || !fs.ValidPath(name): // also "/x", "x/", "a//b", "../x", and what is not UTF-8
		return fmt.Errorf("identity: file name %q is not a relative clean path", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("identity: file name %q has control characters", name)
	case strings.Count(name, "/") > 1:
		return fmt.Errorf("identity: file name %q has more than one folder", name)
	case len(name) > maxName:
		return fmt.Errorf("identity: file name %q has %d bytes, at most %d", name, len(name), maxName)
	}
	return nil
}

// maxName leaves room below the 255 bytes of ext4 for what is added to the
// name of a file while it is written.
const maxName = 200

// ErrNone says that there is no valid record: on a new gateway, or when both
// copies are garbage.
var ErrNone = ubenv.ErrNone

// Store reads and writes the record on a device. It is for one goroutine.
type Store struct{ record ubenv.Record }

// NewStore returns the store on dev, the partition ubenv.
func NewStore(dev ubenv.Device) *Store {
	return &Store{ubenv.Record{
		Name: "identity", Dev: dev, Offset: ubenv.Identity, Size: CopySize,
		Seq: func(buf []byte) (uint32, error) {
			_, seq, err := Decode(buf)
			return seq, err
		},
	}}
}

// Load returns the newest valid record. The error wraps ErrNone when both
// copies could be read and neither is valid.
func (s *Store) Load() (Record, error) {
	buf, err := s.record.Load()
	if err != nil {
		return Record{}, err
	}
	r, _, err := Decode(buf)
	return r, err
}

// Save makes r the newest record. To change one, Load it first: it may hold
// what this firmware does not know. Nothing is written if both copies are r
// already. Else both are written, one after the other: the loss of one later
// brings no old keys back. When Save fails or the power goes, Load returns the
// record from before or r.
func (s *Store) Save(r Record) error {
	if _, err := r.Encode(0); err != nil {
		return err
	}
	writes := 2
	if newest, err := s.Load(); err == nil && newest.equal(r) {
		writes = 1 // the power went after the first, or it got lost since
		if buf, err := s.record.Older(); err == nil {
			if older, _, err := Decode(buf); err == nil && older.equal(r) {
				return nil
			}
		}
	}
	for range writes {
		err := s.record.Save(func(seq uint32) []byte {
			buf, _ := r.Encode(seq) // it could be encoded just now
			return buf
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r Record) equal(other Record) bool {
	a, err1 := r.Encode(math.MaxUint32)
	b, err2 := other.Encode(math.MaxUint32)
	return err1 == nil && err2 == nil && bytes.Equal(a, b)
}
