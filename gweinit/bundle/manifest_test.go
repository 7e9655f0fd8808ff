package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
)

// sums that are no zeros.
var someSum = strings.Repeat("0a", 32)

// manifestText is a manifest with a kernel of two chunks and a root of one.
func manifestText() string {
	chunk := func(offset, size int) string {
		return fmt.Sprintf(`{"offset": %d, "size": %d, "sha256": "%s", "plain": "%[3]s"}`, offset, size, someSum)
	}
	return fmt.Sprintf(`{"format": 1, "board": "rpi3", "version": "1.2.0", "minimum": "1.0", "partitions": [
  {"name": "kernel", "size": 1048577, "sha256": "%[1]s", "chunks": [%[2]s, %[3]s]},
  {"name": "rootfs", "size": 4096, "sha256": "%[1]s", "chunks": [%[4]s]}
]}`, someSum, chunk(0, 100), chunk(100, 20), chunk(0, 3000))
}

func TestManifest(t *testing.T) {
	if _, err := parseManifest([]byte(manifestText())); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		old, new string // in the text
		want     string // in the error; "" is fine
	}{
		{`{"format"`, `{"delta": {"from": [1, {"a": null}]}, "format"`, ""}, // what newer firmware knows
		{`, "minimum": "1.0"`, ``, ""},
		{`"1.0"`, `"1.2.0"`, ""},
		{"\n]}\n", "\n]}   \n\n", ""},

		{`"format": 1`, `"format": 2`, "format is 2, this firmware knows 1 only"},
		{`"format": 1, `, ``, "format is 0"},
		{`"format": 1`, `"format": 4294967297`, ""}, // see below
		{`"format": 1`, `"format": "1"`, "cannot unmarshal string"},
		{`"format": 1`, `"format": 1, "format": 1`, `key "format" is there twice`},
		{`"format": 1`, `"format": 1, "Format": 1`, `key "Format": want a-z, 0-9 and _`},
		{`"board"`, `"Board"`, `key "Board": want a-z`},
		{`"name": "kernel"`, `"name": "kernel", "ſize": 1`, `key "ſize": want a-z`},
		{`{"format"`, `{"delta": {"a": 1, "b": [{"a": 1, "a": 2}]}, "format"`, `key "a" is there twice`},
		{"\n]}\n", "\n]}]\n", "invalid character ']' after top-level value"},
		{"\n]}\n", "\n]}{}\n", "invalid character '{' after top-level value"},
		{"\n]}\n", "\n]\n", "unexpected end of JSON input"},
		{`{"format"`, "\xef\xbb\xbf" + `{"format"`, "invalid character"},

		{`"rpi3"`, `""`, `board "": want letters`},
		{`"rpi3"`, `"../x"`, `board "../x": want letters`},
		{`"rpi3"`, `"a/b"`, `board "a/b": want letters`},
		{`"rpi3"`, `"` + strings.Repeat("x", 65) + `"`, "want letters"},
		{`"rpi3"`, `null`, `board "": want letters`},
		{`"1.2.0"`, `"1:1.2.0"`, `version "1:1.2.0": want a digit first`},
		{`"1.2.0"`, `"v1.2.0"`, `version "v1.2.0": want a digit first`},
		{`"1.2.0"`, `"1.2.0/.."`, `version "1.2.0/..": want`},
		{`"1.2.0"`, `"1.2.0-"`, `version "1.2.0-": want`},
		{`"1.2.0"`, `""`, `version "": want`},
		{`"1.0"`, `"1_0"`, `minimum: version "1_0"`},
		{`"1.0"`, `"1.2.0+1"`, "minimum 1.2.0+1 is newer than version 1.2.0 itself"},

		{`"rootfs"`, `"kernel"`, `partitions are "kernel, kernel", want "kernel, rootfs"`},
		{`"rootfs"`, `"rootfs2"`, `partitions are "kernel, rootfs2"`},
		{`"kernel"`, `"ubenv"`, `partitions are "ubenv, rootfs"`},
		{`"partitions": [`, `"partitions": [], "other": [`, `partitions are ""`},
		{`"partitions": [`, `"partitions": null, "other": [`, `partitions are ""`},

		{`"size": 4096`, `"size": 0`, "partition rootfs: size is 0, want 1 to 1073741824"},
		{`"size": 4096`, `"size": -1`, "partition rootfs: size is -1, want 1 to 1073741824"},
		{`"size": 4096`, `"size": 1073741825`, "partition rootfs: size is 1073741825"},
		{`"size": 4096`, `"size": 4611686018427387904`, "partition rootfs: size is 4611686018427387904"},
		{`"size": 4096`, `"size": 9223372036854775808`, "cannot unmarshal number 9223372036854775808"},
		{`"size": 4096`, `"size": 4.096e3`, "cannot unmarshal number 4.096e3"},
		{`"size": 4096`, `"size": 1048577`, "partition rootfs: 1 chunks, its size 1048577 makes 2"},
		{`"size": 1048577`, `"size": 1048576`, "partition kernel: 2 chunks, its size 1048576 makes 1"},
		{`"chunks": [{`, `"chunks": [], "other": [{`, "partition kernel: 0 chunks, its size 1048577 makes 2"},
		{`"offset": 100`, `"offset": 101`, "partition kernel: chunk 1: offset is 101, want 100, where the one before ends"},
		{`"offset": 100`, `"offset": 99`, "partition kernel: chunk 1: offset is 99"},
		{`"offset": 0`, `"offset": -1`, "partition kernel: chunk 0: offset is -1"},
		{`"size": 100,`, `"size": 0,`, "partition kernel: chunk 0: size is 0, want 1 to 1114112"},
		{`"size": 100,`, `"size": -100,`, "partition kernel: chunk 0: size is -100"},
		{`"size": 100,`, `"size": 1114113,`, "partition kernel: chunk 0: size is 1114113"},
		{`"size": 20,`, `"size": 4611686018427387904,`, "partition kernel: chunk 1: size is 4611686018427387904"},
		{someSum, strings.ToUpper(someSum), "want 64 digits, 0-9 and a-f"},
		{someSum, someSum[1:], "want 64 digits, 0-9 and a-f"},
		{someSum, someSum + "0a", "want 64 digits, 0-9 and a-f"},
		{someSum, "x" + someSum[1:], "is no SHA-256: encoding/hex: invalid byte"},
		{`"` + someSum + `"`, "null", "partition kernel: has no sha256"},
		{`, "plain": "` + someSum + `"`, "", "partition kernel: chunk 0: has no sha256 or no plain"},
	} {
		t.Run(tt.old+" to "+tt.new, func(t *testing.T) {
			text := strings.Replace(manifestText()+"\n", tt.old, tt.new, 1)
			if !strings.Contains(manifestText()+"\n", tt.old) {
				t.Fatal("nothing changed")
			}
			if strings.Contains(tt.new, "4294967297") { // 1 in 32 bits
				tt.want = "cannot unmarshal number 4294967297"
				if math.MaxInt > math.MaxInt32 {
					tt.want = "format is 4294967297"
				}
			}
			m, err := parseManifest([]byte(text))
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if err != nil && !reflect.DeepEqual(m, Manifest{}) {
				t.Error("returns a manifest with the error")
			}
		})
	}
}

// No manifest can have more chunks than this, whatever its partitions.
func TestTooManyChunks(t *testing.T) {
	m := Manifest{Format: 1, Board: "b", Version: "1", Partitions: []Partition{
		{Name: "kernel", Chunks: make([]Chunk, maxChunks)}, {Name: "rootfs", Chunks: make([]Chunk, 1)},
	}}
	if err := m.check(); err == nil || err.Error() != "4097 chunks, want at most 4096" {
		t.Error(err)
	}
}

func TestFits(t *testing.T) {
	for _, tt := range []struct {
		board, running string
		minimum        string
		kind           error
		text           string
	}{
		{"rpi3", "1.2.0", "", nil, ""},
		{"rpi3", "1.2.0", "1.2.0", nil, ""},
		{"rpi3", "1.2.0~rc1", "1.0", nil, ""},
		{"rpi3", "0.0.0+12.gabcdef0.dirty", "", nil, ""},
		{"rpi3", "", "", nil, ""}, // a gateway that has lost its version takes all
		{"rpi", "1.2.0", "", ErrBoard, "firmware for another board: it is for rpi3, and this is rpi"},
		{"", "1.2.0", "", ErrBoard, "it is for rpi3"},
		{"rpi3", "1.2.0+1", "", ErrOlder, "older firmware: it has version 1.2.0, and 1.2.0+1 is running"},
		{"rpi3", "1.10", "1.9", ErrOlder, "it has version 1.2.0, and 1.10 is running"},
		{"rpi3", "1.0~rc1", "1.0", ErrMinimum, "firmware that needs a step between: it updates version 1.0 and newer, and 1.0~rc1 is running: update to one of 1.0 to 1.2.0 before"},
	} {
		m := Manifest{Board: "rpi3", Version: "1.2.0", Minimum: tt.minimum}
		err := m.Fits(tt.board, tt.running)
		if tt.kind == nil && err != nil || tt.kind != nil && (!errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text)) {
			t.Errorf("%+v: got %v", tt, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(manifestText()))
	f.Add([]byte(`{"format":1,"board":"b","version":"1","partitions":[{"name":"kernel","size":4611686018427387904}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > maxManifest {
			return
		}
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		b, err := head{manifest: text, size: 4096}.bundle("")
		if err != nil {
			t.Fatal(err)
		}
		at := b.Head
		for _, p := range b.Pieces() {
			if p.From < at || p.Length < 1 || p.Length > ChunkSize || p.At < 0 || p.At+int64(p.Length) > maxPartition {
				t.Fatalf("a piece behind byte %d: %+v", at, p)
			}
			at = p.From + p.Size
		}
		if at > b.Size-endSize || b.Size%blockSize != 0 {
			t.Fatalf("pieces end at %d, the file at %d", at, b.Size)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if m2, err := parseManifest(again); err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%+v, %v, was %+v", m2, err, m)
		}
	})
}

func FuzzOpen(f *testing.F) {
	_, keys := key(f, trustedKey)
	_, strangers := key(f, otherKey)
	good, err := os.ReadFile("testdata/golden.fw")
	if err != nil {
		f.Fatal(err)
	}
	b, err := Open(bytes.NewReader(good), keys)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:b.Head])
	f.Add(good[:600])
	f.Fuzz(func(t *testing.T, file []byte) {
		if b, err := Open(bytes.NewReader(file), strangers); b != nil || err == nil {
			t.Fatalf("opened with a stranger's key: %+v, %v", b, err)
		}
		// With the key itself only this manifest opens, at its place.
		if opened, err := Open(bytes.NewReader(file), keys); err == nil && (opened.Digest != b.Digest || opened.Head > int64(len(file))) {
			t.Fatalf("opened %+v", opened)
		}
		// What is as a bundle should be is a bundle with these partitions.
		if checked, err := Check(bytes.NewReader(file), keys, nil); err == nil && !bytes.Equal(file[checked.Head:], good[b.Head:]) {
			t.Fatalf("checked %+v", checked)
		}
	})
}
