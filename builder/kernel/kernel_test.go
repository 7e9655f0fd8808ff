package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"runtime/metrics"
	"strings"
	"testing"
)

const (
	malta32 = 0x810f0000
	malta64 = 0xffffffff81260000 // 64-bit MIPS sign-extends
)

// arm64Image is the 64-byte header of an Image, and code.
func arm64Image(size uint64, code string) []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint64(b[16:], size)
	copy(b[56:], "ARM\x64")
	return append(b, code...)
}

// zImage decompresses itself to 0x40208000 and what size says. Its table of
// sizes is behind another one.
func zImage(size uint32) []byte {
	b := make([]byte, 0x80)
	for off, word := range map[int]uint32{
		0x24: 0x016f2818, 0x2c: 0x80, 0x30: 0x04030201, 0x34: 0x45454545, 0x38: 0x40,
		0x40: 2, 0x44: 0x12345678,
		0x48: 5, 0x4c: 0x5a534c4b, 0x50: 0x71, 0x54: 0x1000, 0x58: 0x208000,
		0x71: size,
	} {
		binary.LittleEndian.PutUint32(b[off:], word)
	}
	return b
}

type segment struct {
	kind  elf.ProgType
	addr  uint64
	data  string
	memsz uint64
}

// elf32 makes a little-endian MIPS executable.
func elf32(entry uint32, segments ...segment) []byte {
	h := elf.Header32{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_MIPS), Version: 1, Entry: entry,
		Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: uint16(len(segments))}
	copy(h.Ident[:], "\x7fELF\x01\x01\x01")
	b, _ := binary.Append(nil, binary.LittleEndian, h)
	off, data := 52+32*len(segments), ""
	for _, s := range segments {
		b, _ = binary.Append(b, binary.LittleEndian, elf.Prog32{Type: uint32(s.kind), Off: uint32(off + len(data)),
			Vaddr: uint32(s.addr), Paddr: uint32(s.addr), Filesz: uint32(len(s.data)), Memsz: uint32(s.memsz)})
		data += s.data
	}
	return append(b, data...)
}

func elf64(entry uint64, s segment) []byte {
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_MIPS), Version: 1, Entry: entry,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	b, _ := binary.Append(nil, binary.LittleEndian, h)
	b, _ = binary.Append(b, binary.LittleEndian, elf.Prog64{Type: uint32(s.kind), Off: 64 + 56,
		Vaddr: s.addr, Paddr: s.addr, Filesz: uint64(len(s.data)), Memsz: s.memsz})
	return append(b, s.data...)
}

func TestParse(t *testing.T) {
	image := arm64Image(0x2000, "code")
	for _, tt := range []struct {
		name, format string
		in           []byte
		want         Kernel
	}{
		{"arm64", "arm64-image", image, Kernel{Data: image, Load: 0x40200000, Entry: 0x40200000, Size: 0x2000}},
		{"MIPS, among other segments", "elf",
			elf32(malta32+0x40, segment{elf.PT_MIPS_ABIFLAGS, 0, "flags", 5}, segment{elf.PT_LOAD, malta32, "code", 0x900}, segment{elf.PT_NOTE, 0, "note", 4}),
			Kernel{Data: []byte("code"), Load: malta32, Entry: malta32 + 0x40, Size: 0x900}},
		{"64-bit MIPS", "elf",
			elf64(malta64+0x40, segment{elf.PT_LOAD, malta64, "code", 0x900}),
			Kernel{Data: []byte("code"), Load: 0x81260000, Entry: 0x81260040, Size: 0x900}},
		{"zImage", "zimage", zImage(0x1000000), Kernel{Data: zImage(0x1000000), Load: 0x42000000, Entry: 0x42000000, Size: 0x80}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in, tt.format, tt.want.Load)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Data, tt.want.Data) || got.Load != tt.want.Load || got.Entry != tt.want.Entry || got.Size != tt.want.Size {
				t.Errorf("got  %#x\nwant %#x", got, tt.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	load := segment{elf.PT_LOAD, malta32, "code", 0x900}
	good := elf32(malta32, load)
	broken := func(off int, word uint32) []byte {
		z := zImage(0x1000000)
		binary.LittleEndian.PutUint32(z[off:], word)
		return z
	}
	for _, tt := range []struct {
		name, format string
		in           []byte
		want         string
	}{
		{"format", "zImage", good, `unknown kernel format "zImage"`},
		{"arm64: empty", "arm64-image", nil, "its magic is missing"},
		{"arm64: wrong magic", "arm64-image", make([]byte, 100), "its magic is missing"},
		{"arm64: shorter than its header", "arm64-image", arm64Image(0x2000, "")[:63], "its magic is missing"},
		{"arm64: longer than it says", "arm64-image", arm64Image(66, "code"), "gives 66 bytes, the file has 68"},
		{"arm64: absurd size", "arm64-image", arm64Image(1<<40, "code"), "gives 1099511627776 bytes"},
		{"elf: an arm64 Image", "elf", arm64Image(0x2000, "code"), "not an ELF kernel: "},
		{"elf: empty", "elf", nil, "not an ELF kernel: "},
		{"elf: cut in the header", "elf", good[:40], "not an ELF kernel: "},
		{"elf: cut in the segment", "elf", good[:len(good)-1], "read its segment: unexpected EOF"},
		{"elf: nothing to load", "elf", elf32(malta32, segment{elf.PT_NOTE, 0, "note", 4}), "without a segment to load"},
		{"elf: two segments", "elf", elf32(malta32, load, load), "more than one segment"},
		{"elf: less memory than file", "elf", elf32(malta32, segment{elf.PT_LOAD, malta32, "code", 3}), "bad segment size 4/3"},
		{"elf: absurd memory", "elf", elf32(malta32, segment{elf.PT_LOAD, malta32, "code", 1 << 31}), "bad segment size 4/2147483648"},
		{"elf: wrong address", "elf", elf32(malta32, segment{elf.PT_LOAD, 0x81260000, "code", 9}),
			"kernel: load: the kernel is made for 0x81260000, the board says 0x810f0000"},
		{"zimage: an ELF kernel", "zimage", good, "its magic is missing"},
		{"zimage: cut", "zimage", zImage(1)[:0x70], "the file has 0x70 bytes"},
		{"zimage: no table", "zimage", broken(0x40, 0), "without a table"},
		{"zimage: a table outside", "zimage", broken(0x38, 0xfffffff0), "without a table"},
		{"zimage: a table that goes on for ever", "zimage", broken(0x4c, 0), "without a table"},
		{"zimage: a size outside", "zimage", broken(0x50, 0x7e), "points outside"},
		{"zimage: it would overwrite itself", "zimage", zImage(0x7000000), "load: 0x810f0000: the kernel decompresses itself to up to 0x87209000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.in, tt.format, malta32)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestCompress(t *testing.T) {
	k := Kernel{Data: bytes.Repeat([]byte("kernel "), 10000)}
	plain, err := k.Compress("none")
	if err != nil || !bytes.Equal(plain, k.Data) {
		t.Errorf("none: %d bytes of %d, %v", len(plain), len(k.Data), err)
	}
	packed, err := k.Compress("gzip")
	if err != nil || len(packed) > len(k.Data)/50 {
		t.Fatalf("gzip: %d bytes of %d, %v", len(packed), len(k.Data), err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := io.ReadAll(z); err != nil || !bytes.Equal(back, k.Data) {
		t.Errorf("gzip: %d bytes come back, want %d; %v", len(back), len(k.Data), err)
	}
	if again, _ := k.Compress("gzip"); !bytes.Equal(again, packed) {
		t.Error("gzip: two runs differ")
	}
	// U-Boot is told the name: other bytes than it says do not boot.
	if _, err := k.Compress("lzma"); err == nil || !strings.Contains(err.Error(), "lzma") {
		t.Errorf("lzma: got %v, want an error that names it", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("zimage", zImage(1<<20))
	f.Add("arm64-image", arm64Image(0x2000, "code"))
	f.Add("elf", elf32(malta32, segment{elf.PT_LOAD, malta32, "code", 0x900}))
	f.Add("elf", elf32(malta32, segment{elf.PT_NOTE, 0, "note", 4}, segment{elf.PT_LOAD, malta32, "code", 0x900}))
	f.Add("elf", elf64(malta64, segment{elf.PT_LOAD, malta64, "code", 0x900}))
	allocated := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	f.Fuzz(func(t *testing.T, format string, b []byte) {
		const load = malta32
		before := allocated()
		k, err := Parse(b, format, load)
		// debug/elf makes its buffers 10 MiB at most before it reads.
		if n := allocated() - before; n > 64<<20+uint64(100*len(b)) {
			t.Errorf("%d bytes of input made Parse allocate %d", len(b), n)
		}
		if err != nil {
			return
		}
		if len(k.Data) > len(b) || k.Size < uint64(len(k.Data)) || k.Size > 1<<30 || k.Load != load || k.Entry > 1<<32-1 {
			t.Errorf("%d bytes of data of %d, size %#x, load %#x, entry %#x", len(k.Data), len(b), k.Size, k.Load, k.Entry)
		}
	})
}
