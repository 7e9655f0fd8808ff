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

// Parse takes a vmlinuz of the given format ("arm64-image" or "elf") apart.
// load is where the board puts it.
func Parse(vmlinuz []byte, format string, load uint64) (Kernel, error) {
	switch format {
	case "arm64-image":
		return parseARM64(vmlinuz, load)
	case "elf":
		return parseELF(vmlinuz, load)
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
