// Package verity protects the root against what a bad card or a stranger makes
// of it: Linux checks each block that it reads by dm-verity, against a tree of
// hashes behind the image whose root hash is in the boot image. The format is
// that of veritysetup(8) of cryptsetup, with a superblock.
//
// The initramfs has it in each boot image: standard library and x/sys only, and
// what makes the tree, with 40 KB of cryptography, is in a package of its own.
package verity

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// BlockSize is that of the image and of the tree.
const BlockSize = 4096

// Sizes of a SHA-256, and of the salt before what it is of.
const (
	HashSize = 32
	SaltSize = 32
)

// Params are what the kernel has to know. The superblock has all but the root
// hash, too, but is not to be believed.
type Params struct {
	RootHash [HashSize]byte
	Salt     [SaltSize]byte
	Blocks   uint64 // of the image; the superblock follows, in a block of its own, and then the tree
}

// MaxBlocks is far beyond any root and far below where offsets overflow.
const MaxBlocks = 1 << 32

// Encode returns p as the one line of text that Parse takes.
func (p Params) Encode() string {
	return fmt.Sprintf("root=%x salt=%x blocks=%d\n", p.RootHash, p.Salt, p.Blocks)
}

// Parse takes exactly what Encode writes.
func Parse(line string) (Params, error) {
	var p Params
	words := strings.Fields(line)
	ok := len(words) == 3 &&
		parseHex(p.RootHash[:], words[0], "root=") &&
		parseHex(p.Salt[:], words[1], "salt=")
	if ok {
		p.Blocks, _ = strconv.ParseUint(strings.TrimPrefix(words[2], "blocks="), 10, 64)
		ok = 0 < p.Blocks && p.Blocks <= MaxBlocks && p.Encode() == line
	}
	if !ok {
		return Params{}, fmt.Errorf("parameters of dm-verity %.250q: want root=HASH salt=HASH blocks=NUMBER, in one line", line)
	}
	return p, nil
}

func parseHex(to []byte, word, key string) bool {
	digits, ok := strings.CutPrefix(word, key)
	if !ok || len(digits) != hex.EncodedLen(len(to)) {
		return false
	}
	_, err := hex.Decode(to, []byte(digits))
	return err == nil
}

// HashStart is the block in which the tree starts.
func (p Params) HashStart() uint64 { return p.Blocks + 1 }

// table is the kernel's line for image and tree on the block device, see its
// Documentation/admin-guide/device-mapper/verity.rst. It has no option: a block
// that is not right cannot be read.
func (p Params) table(device string) string {
	return fmt.Sprintf("1 %s %[1]s %d %[2]d %d %d sha256 %x %x", device, BlockSize, p.Blocks, p.HashStart(), p.RootHash, p.Salt)
}
