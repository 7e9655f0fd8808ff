package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// frame packs with zstd's options.
func frame(t testing.TB, plain []byte, options ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(plain, nil)
}

// pieceOf says of a frame and a content that they belong together.
func pieceOf(packed, plain []byte) Piece {
	return Piece{
		Chunk:  Chunk{Size: int64(len(packed)), SHA256: sha256.Sum256(packed), Plain: sha256.Sum256(plain)},
		From:   4096,
		Length: len(plain),
	}
}

func unpacker(t testing.TB) *Unpacker {
	t.Helper()
	u, err := NewUnpacker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

func TestUnpackRefuses(t *testing.T) {
	plain := content(100_000, 1)
	zeros := make([]byte, ChunkSize)
	good := frame(t, plain)
	lying := bytes.Clone(frame(t, zeros[:1000], zstd.WithSingleSegment(true))) // two bytes of size behind magic and flags
	lying[5], lying[6] = 0, 0                                                  // 256
	stream := func(plain []byte, options ...zstd.EOption) []byte {             // without a size
		var out bytes.Buffer
		e, err := zstd.NewWriter(&out, options...)
		if err != nil {
			t.Fatal(err)
		}
		for len(plain) > 0 { // in several writes, so that the size is not known at first
			n := min(len(plain), 500_000)
			if _, err := e.Write(plain[:n]); err != nil {
				t.Fatal(err)
			}
			if err := e.Flush(); err != nil {
				t.Fatal(err)
			}
			plain = plain[n:]
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	skippable := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00junk"), good...)
	const noSize = "no zstd frame whose header says that its content has "
	for _, tt := range []struct {
		name string
		p    Piece
		data []byte
		text string
	}{
		{"shorter", pieceOf(good, plain), good[:len(good)-1], "damaged chunk: that at byte 4096 of the file: "},
		{"changed", pieceOf(good, plain), append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), "its SHA-256 is "},
		{"no zstd", pieceOf([]byte("PK\x03\x04 and more"), plain), []byte("PK\x03\x04 and more"), "zstd: "},
		{"empty", pieceOf(nil, plain), nil, "zstd: "},
		{"another size in the header", pieceOf(good, plain[1:]), good, noSize + "99999 bytes"},
		{"bomb", pieceOf(frame(t, make([]byte, 50<<20)), zeros), frame(t, make([]byte, 50<<20)), noSize + "1048576 bytes"},
		{"bomb without size", pieceOf(stream(make([]byte, 50<<20)), zeros), stream(make([]byte, 50<<20)), noSize},
		{"size not in the header", pieceOf(stream(plain), plain), stream(plain), noSize},
		{"bomb that lies", pieceOf(lying, zeros[:256]), lying, "zstd: "},
		{"bomb behind it", pieceOf(append(bytes.Clone(good), frame(t, make([]byte, 50<<20))...), plain), append(bytes.Clone(good), frame(t, make([]byte, 50<<20))...), "zstd: "},
		{"more behind it", pieceOf(append(bytes.Clone(good), good...), plain), append(bytes.Clone(good), good...), "unpacks to 200000 bytes, want 100000"},
		{"skippable frame", pieceOf(skippable, plain), skippable, noSize},
		{"other content", pieceOf(good, append([]byte{plain[0] ^ 1}, plain[1:]...)), good, "unpacks to what has SHA-256 "},
		{"cut in the frame", pieceOf(good[:500], plain), good[:500], "zstd: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := unpacker(t)
			got, err := u.Unpack(tt.p, tt.data)
			if got != nil || !errors.Is(err, ErrChunk) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%d bytes, %v; want %s", len(got), err, tt.text)
			}
			if cap(u.plain) > ChunkSize+64 {
				t.Errorf("the buffer grew to %d", cap(u.plain))
			}
			if got, err := u.Unpack(pieceOf(good, plain), good); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("then a good one: %v", err)
			}
		})
	}
}

// A whole download allocates next to nothing.
func TestUnpackAllocates(t *testing.T) {
	plain := content(ChunkSize, 1)
	packed := frame(t, plain, zstd.WithWindowSize(ChunkSize), zstd.WithSingleSegment(true))
	u, p := unpacker(t), pieceOf(packed, plain)
	if _, err := u.Unpack(p, packed); err != nil {
		t.Fatal(err)
	}
	allocs := testing.AllocsPerRun(20, func() {
		if _, err := u.Unpack(p, packed); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 1 {
		t.Errorf("%v allocations a chunk", allocs)
	}
}

func FuzzUnpack(f *testing.F) {
	plain := content(3000, 1)
	f.Add(frame(f, plain), 3000)
	f.Add(frame(f, make([]byte, ChunkSize)), ChunkSize)
	f.Add(frame(f, make([]byte, ChunkSize+1)), ChunkSize)
	f.Add([]byte("\x28\xb5\x2f\xfd\xa0\xff\xff\xff\xff"), 100)
	u := unpacker(f)
	f.Fuzz(func(t *testing.T, packed []byte, length int) {
		if length < 1 || length > ChunkSize {
			return
		}
		p := pieceOf(packed, nil)
		p.Length = length
		if got, err := u.Unpack(p, packed); err == nil { // nothing is what it unpacks to
			t.Fatalf("unpacked to %d bytes", len(got))
		}
		if cap(u.plain) > ChunkSize+64 {
			t.Fatalf("the buffer grew to %d", cap(u.plain))
		}
	})
}

func BenchmarkUnpack(b *testing.B) {
	for _, bb := range []struct {
		name  string
		plain []byte
	}{
		{"text", bytes.Repeat([]byte("It was a dark and stormy night; 0123456789. "), ChunkSize/44+1)[:ChunkSize]},
		{"half", content(ChunkSize, 1)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			packed := frame(b, bb.plain, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(ChunkSize))
			u, p := unpacker(b), pieceOf(packed, bb.plain)
			b.SetBytes(ChunkSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := u.Unpack(p, packed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
