// Package hashtree makes dm-verity's hash tree.
package hashtree

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/exosite/gwe/gweinit/verity"
)

const (
	blockSize = verity.BlockSize
	hashSize  = verity.HashSize
)

// File is what holds the image: a file, or a partition.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// Append fills the image, the first size bytes of f, up with zeros to whole
// blocks, and writes superblock and tree behind it. Salt and UUID follow from
// the image: the same image gives the same bytes. It reads f twice and takes
// little memory.
func Append(f File, size int64) (verity.Params, error) {
	if size <= 0 || size > verity.MaxBlocks*blockSize {
		return verity.Params{}, fmt.Errorf("hash tree for an image of %d bytes: want 1 to %d", size, int64(verity.MaxBlocks)*blockSize)
	}
	p := verity.Params{Blocks: uint64(size+blockSize-1) / blockSize}
	padded := int64(p.Blocks) * blockSize
	if _, err := f.WriteAt(make([]byte, padded-size), size); err != nil {
		return verity.Params{}, fmt.Errorf("fill up the image before its hash tree: %w", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, padded)); err != nil {
		return verity.Params{}, fmt.Errorf("read the image for its hash tree: %w", err)
	}
	h.Sum(p.Salt[:0])

	t := newTree(f, p)
	in := bufio.NewReaderSize(io.NewSectionReader(f, 0, padded), 64<<10)
	block := make([]byte, blockSize)
	for range p.Blocks {
		if _, err := io.ReadFull(in, block); err != nil {
			return verity.Params{}, fmt.Errorf("read the image for its hash tree: %w", err)
		}
		if err := t.add(0, t.digest(block)); err != nil {
			return verity.Params{}, err
		}
	}
	if err := t.finish(); err != nil {
		return verity.Params{}, err
	}
	p.RootHash = t.root
	if _, err := f.WriteAt(superblock(p), padded); err != nil {
		return verity.Params{}, fmt.Errorf("write the superblock of the hash tree: %w", err)
	}
	return p, nil
}

// tree is a tree that grows from the left. Each level is blocks of the digests
// of the level below, the lowest one those of the image; the highest level, of
// one block, comes first in the file. An image of one block has no level: its
// digest is the root hash.
type tree struct {
	out    io.WriterAt
	salt   []byte
	hash   hash.Hash
	sum    [hashSize]byte // the last digest
	levels []level        // the lowest first
	root   [hashSize]byte
}

type level struct {
	block []byte // digests that are not written yet
	at    int64  // where they go
}

func newTree(out io.WriterAt, p verity.Params) *tree {
	t := &tree{out: out, salt: p.Salt[:], hash: sha256.New()}
	const perBlock = blockSize / hashSize
	var counts []uint64
	for n := p.Blocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		counts = append(counts, n)
	}
	t.levels = make([]level, len(counts))
	at := p.HashStart()
	for i := len(counts) - 1; i >= 0; i-- {
		t.levels[i].at = int64(at) * blockSize
		at += counts[i]
	}
	return t
}

func (t *tree) digest(block []byte) [hashSize]byte {
	t.hash.Reset()
	t.hash.Write(t.salt)
	t.hash.Write(block)
	t.hash.Sum(t.sum[:0])
	return t.sum
}

func (t *tree) add(to int, digest [hashSize]byte) error {
	if to == len(t.levels) {
		t.root = digest
		return nil
	}
	l := &t.levels[to]
	l.block = append(l.block, digest[:]...)
	if len(l.block) < blockSize {
		return nil
	}
	return t.flush(to)
}

func (t *tree) flush(i int) error {
	l := &t.levels[i]
	block := append(l.block, make([]byte, blockSize-len(l.block))...)
	if _, err := t.out.WriteAt(block, l.at); err != nil {
		return fmt.Errorf("write the hash tree: %w", err)
	}
	l.block, l.at = block[:0], l.at+blockSize
	return t.add(i+1, t.digest(block))
}

func (t *tree) finish() error {
	for i := range t.levels {
		if len(t.levels[i].block) == 0 {
			continue
		}
		if err := t.flush(i); err != nil {
			return err
		}
	}
	return nil
}

// superblock returns the block before the tree. The kernel does not read it;
// veritysetup does, for people.
func superblock(p verity.Params) []byte {
	uuid := sha256.Sum256(p.Salt[:])
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // version 8: made our own way
	var sb struct {
		Signature     [8]byte
		Version, Type uint32
		UUID          [16]byte
		Algorithm     [32]byte
		Data, Hash    uint32 // sizes of blocks
		Blocks        uint64
		SaltSize      uint16
		_             [6]byte
		Salt          [256]byte
	}
	copy(sb.Signature[:], "verity")
	sb.Version, sb.Type = 1, 1
	copy(sb.UUID[:], uuid[:])
	copy(sb.Algorithm[:], "sha256")
	sb.Data, sb.Hash, sb.Blocks = blockSize, blockSize, p.Blocks
	sb.SaltSize = verity.SaltSize
	copy(sb.Salt[:], p.Salt[:])
	block, _ := binary.Append(nil, binary.LittleEndian, &sb) // of fixed size: it never fails
	return append(block, make([]byte, blockSize-len(block))...)
}
