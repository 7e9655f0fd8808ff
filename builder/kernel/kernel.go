package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// Kernel is a kernel as it goes into a boot image.
type Kernel struct {
	Data  []byte
	Load  uint64 // address
	Entry uint64 // address
	Size  uint64 // bytes in memory from Load on, with its zeroed data
}

// Parse takes a vmlinuz of the given format ("arm64-image", "elf" or "zimage")
// apart. load is where the board puts it.
func Parse(vmlinuz []byte, format string, load uint64) (Kernel, error) {
	switch format {
	case "arm64-image":
		return parseARM64(vmlinuz, load)
	case "elf":
		return parseELF(vmlinuz, load)
	case "zimage":
		return parseZImage(vmlinuz, load)
	}
	return Kernel{}, fmt.Errorf("unknown kernel format %q", format)
}

// parseARM64 reads the header of an arm64 Image (Linux,
// Documentation/arm64/booting.rst): the whole size is at 16, the magic at 56.
func parseARM64(b []byte, load uint64) (Kernel, error) {
	if len(b) < 64 || string(b[56:60]) != "ARM\x64" {
		return Kernel{}, errors.New("not an arm64 Image: its magic is missing")
	}
	size := binary.LittleEndian.Uint64(b[16:])
	if size < uint64(len(b)) || size > 1<<30 {
		return Kernel{}, fmt.Errorf("not an arm64 Image: its header gives %d bytes, the file has %d", size, len(b))
	}
	return Kernel{Data: b, Load: load, Entry: load, Size: size}, nil
}

// parseELF flattens the one segment that a kernel's ELF file has.
func parseELF(b []byte, load uint64) (Kernel, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return Kernel{}, fmt.Errorf("not an ELF kernel: %w", err)
	}
	var k *Kernel
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if k != nil {
			return Kernel{}, errors.New("ELF kernel with more than one segment to load")
		}
		if p.Filesz > uint64(len(b)) || p.Memsz < p.Filesz || p.Memsz > 1<<30 {
			return Kernel{}, fmt.Errorf("ELF kernel: bad segment size %d/%d", p.Filesz, p.Memsz)
		}
		data := make([]byte, p.Filesz)
		if _, err := io.ReadFull(p.Open(), data); err != nil {
			return Kernel{}, fmt.Errorf("ELF kernel: read its segment: %w", err)
		}
		// 64-bit MIPS has sign-extended addresses; U-Boot is a 32-bit program.
		k = &Kernel{Data: data, Load: p.Paddr & 0xffffffff, Entry: f.Entry & 0xffffffff, Size: p.Memsz}
	}
	if k == nil {
		return Kernel{}, errors.New("ELF kernel without a segment to load")
	}
	if k.Load != load {
		return Kernel{}, fmt.Errorf("kernel: load: the kernel is made for %#x, the board says %#x", k.Load, load)
	}
	if k.Entry < k.Load || k.Entry >= k.Load+k.Size {
		return Kernel{}, fmt.Errorf("ELF kernel: its entry %#x is outside of its segment", k.Entry)
	}
	return *k, nil
}

// parseZImage reads the header and the size table of an ARM zImage (Linux,
// arch/arm/boot/compressed/{head.S,vmlinux.lds.S}). It decompresses itself to
// near the start of its 128 MB of memory, so it has to be loaded above that.
func parseZImage(b []byte, load uint64) (Kernel, error) {
	word := func(off uint32) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	if len(b) < 64 || word(0x24) != 0x016f2818 || word(0x34) != 0x45454545 {
		return Kernel{}, errors.New("not a zImage: its magic is missing")
	}
	if start, end := word(0x28), word(0x2c); start != 0 || int64(end) != int64(len(b)) {
		return Kernel{}, fmt.Errorf("not a zImage: its header gives %#x to %#x, the file has %#x bytes", start, end, len(b))
	}
	for tag := word(0x38); ; {
		if int64(tag)+20 > int64(len(b)) || word(tag) == 0 || word(tag) > 64 {
			return Kernel{}, errors.New("zImage without a table of its sizes")
		}
		if word(tag+4) != 0x5a534c4b { // KLSZ
			tag += 4 * word(tag)
			continue
		}
		at, bss, text := word(tag+8), word(tag+12), word(tag+16)
		if int64(at)+4 > int64(len(b)) {
			return Kernel{}, errors.New("zImage: its table of sizes points outside of it")
		}
		const memory = 128 << 20
		if end := load&^(memory-1) + uint64(text) + uint64(word(at)) + uint64(bss); end > load {
			return Kernel{}, fmt.Errorf("kernel: load: %#x: the kernel decompresses itself to up to %#x: load it above that", load, end)
		}
		return Kernel{Data: b, Load: load, Entry: load, Size: uint64(len(b))}, nil
	}
}

// Compress returns k's data as the boot image holds it: "none" or "gzip".
func (k Kernel) Compress(how string) ([]byte, error) {
	switch how {
	case "none":
		return k.Data, nil
	case "gzip":
	default:
		return nil, fmt.Errorf("unknown compression %q of a kernel", how)
	}
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(k.Data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
