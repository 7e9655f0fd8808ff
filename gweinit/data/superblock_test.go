package data

import (
	"errors"
	"hash/crc32"
	"os"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// What we read is what dumpe2fs reads.
func TestParse(t *testing.T) {
	for name, options := range map[string][]string{
		"ours":              {"-t", "ext4", "-b", "4096", "-O", "extent,resize_inode,64bit,metadata_csum", "-E", "resize=67108864"},
		"32 bits":           {"-t", "ext4", "-b", "4096", "-O", "extent,^64bit,metadata_csum"},
		"no checksums":      {"-t", "ext4", "-b", "4096", "-O", "^metadata_csum"},
		"small blocks":      {"-t", "ext4", "-b", "1024"},
		"ext2":              {"-t", "ext2", "-b", "4096", "-I", "128"},
		"many small groups": {"-t", "ext4", "-b", "4096", "-g", "2048"},
	} {
		t.Run(name, func(t *testing.T) {
			file := t.TempDir() + "/ext4"
			if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 300*mib)); err != nil {
				t.Fatal(err)
			}
			tool(t, "mke2fs", append(append([]string{"-q", "-F"}, options...), file)...)
			dump := tool(t, "dumpe2fs", file)
			number := func(pattern string) uint64 {
				m := regexp.MustCompile(`(?m)^` + pattern).FindStringSubmatch(dump)
				if m == nil {
					return 0
				}
				n, err := strconv.ParseUint(m[1], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			want := superblock{
				blocks:         number(`Block count: +(\d+)`),
				blockSize:      number(`Block size: +(\d+)`),
				blocksPerGroup: number(`Blocks per group: +(\d+)`),
			}
			// Group descriptors of the first group end here.
			first, last := number(`  Primary superblock at \d+, Group descriptors at (\d+)-`), number(`  Primary superblock at \d+, Group descriptors at \d+-(\d+)`)
			want.overhead = 1 + last - first + 1 + number(`Reserved GDT blocks: +(\d+)`) + 2 + number(`Inode blocks per group: +(\d+)`)
			got, err := parse(content(t, file)[:headSize])
			if err != nil || got != want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	head, err := os.ReadFile(mke2fs(f, 30*mib))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head[1024:2048])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		head := make([]byte, headSize)
		copy(head[1024:2048], data)
		head[1024+0x38], head[1024+0x39] = 0x53, 0xef
		sum := ^crc32.Checksum(head[1024:2044], castagnoli)
		head[2044], head[2045], head[2046], head[2047] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		sb, err := parse(head)
		if err != nil {
			return
		}
		for _, size := range []uint64{0, 30 * mib, 1 << 38, 1<<64 - 1} {
			if got := sb.grown(size); got < sb.blocks || got != sb.blocks && got > size/sb.blockSize {
				t.Errorf("%+v grows to %d blocks on %d bytes", sb, got, size)
			}
		}
	})
}

func TestGrown(t *testing.T) {
	// As builder/disk makes it, with room for the group descriptors of 256 GB.
	blank := superblock{blocks: 7680, blockSize: 4096, blocksPerGroup: 32768, overhead: 1 + 1 + 31 + 2 + 240}
	grown := func(blocks uint64) superblock { s := blank; s.blocks = blocks; return s }
	const group = 128 * mib
	for _, tt := range []struct {
		name string
		from superblock
		size uint64
		want uint64
	}{
		{"as it is", blank, 30 * mib, 7680},
		{"a trifle larger", blank, 31*mib - 1, 7680},
		{"1 MiB larger", blank, 31 * mib, 7936},
		{"less than a block over", blank, 40*mib + 4095, 10240},
		{"a smaller partition: never shrunk", blank, 20 * mib, 7680},
		{"no partition", blank, 0, 7680},
		{"one group", blank, group, 32768},
		{"a second group that would hold nothing", blank, group + mib, 32768},
		{"a second group, just large enough", blank, group + (275+50)*4096, 32768 + 325},
		{"one block less", blank, group + (275+50)*4096 - 1, 32768},
		{"8 GB card", blank, 7_500_000_000, 7_500_000_000 / 4096},
		{"256 GB card", blank, 1 << 38, 1 << 26},
		{"more than 16 TiB", blank, 1 << 46, 1 << 34},
		{"grown already", grown(1 << 26), 1 << 38, 1 << 26},
		{"grown, and a last group left out", grown(32768), group + mib, 32768},
		{"a power cut on the way", grown(32768 * 40), 1 << 38, 1 << 26},
	} {
		if got := tt.from.grown(tt.size); got != tt.want {
			t.Errorf("%s: %d blocks, want %d", tt.name, got, tt.want)
		}
		if got := grown(tt.from.grown(tt.size)).grown(tt.size); got != tt.want {
			t.Errorf("%s: a second time to %d blocks, want %d", tt.name, got, tt.want)
		}
	}
}

// The number of the ioctl, from FS_IOC_SETFLAGS of each architecture, as the
// kernel's headers make it.
func TestResizeFS(t *testing.T) {
	for _, tt := range []struct {
		arch            string
		setFlags, wants uint32
	}{
		{"amd64, arm64", 0x40086602, 0x40086610},
		{"arm", 0x40046602, 0x40086610},
		{"mipsle", 0x80046602, 0x80086610},
		{"mips64le", 0x80086602, 0x80086610},
	} {
		if got := resizeFS(tt.setFlags); got != tt.wants {
			t.Errorf("%s: %#x, want %#x", tt.arch, got, tt.wants)
		}
	}
	if unix.FS_IOC_SETFLAGS&0xffff != 'f'<<8|2 {
		t.Errorf("FS_IOC_SETFLAGS is %#x", uint32(unix.FS_IOC_SETFLAGS))
	}
}
