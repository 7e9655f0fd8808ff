// Package bundle reads and writes firmware bundles, BOARD.vVERSION.fw: what a
// gateway updates itself with. It depends on no clock and no file system.
//
// A bundle is a tar file that tar, minisign and zstd open:
//
//	manifest.json          what is in it, see Manifest; at most 256 KiB
//	manifest.json.minisig  signature of manifest.json; at most 4 KiB
//	kernel.zst             the boot image, for partition kernel_a or kernel_b
//	rootfs.zst             the root, for rootfs_a or rootfs_b
//
// The last two are zstd frames one behind the other, one for each MiB of the
// partition's content. A frame has the size of its content in its header, needs
// no larger window than that, and unpacks alone: so a gateway fetches frames as
// ranges of the file, in any order and again, and needs memory for one of them.
//
// For that, places have to be computable from the manifest. Of all the tar files
// with these members only one is a bundle:
//
//	512 bytes   header: type '0', mode 0644, owner and group 0 without names,
//	            time 0, the rest as POSIX.1-1988 ("ustar") has it
//	SIZE bytes  content
//	0 to 511    zeros, to a multiple of 512
//
// for each member, then 1024 zeros, and nothing behind them. A reader takes the
// sizes of the first two members from their headers and all others from the
// manifest, makes each header itself, and compares.
//
// The signature is one of minisign's, of the prehashed kind. It is verified
// before anything looks into the manifest; the manifest has the SHA-256 of each
// frame, which is verified before the decompressor sees it, and of what it
// unpacks to, which is verified before anyone gets it.
package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// The reasons for a refusal; errors wrap them. A bundle that ends too early is
// io.ErrUnexpectedEOF: another try may get the rest.
var (
	ErrFormat    = errors.New("not a firmware bundle")
	ErrSignature = errors.New("signature not trusted")
	ErrChunk     = errors.New("damaged chunk")
)

// Bundle is a bundle whose manifest is verified.
type Bundle struct {
	Manifest
	Digest Sum    // of manifest.json
	Key    string // ID of the key that signed it, as minisign prints it
	Head   int64  // bytes of the file before the first partition's tar header
	Size   int64  // of the file
}

// Open reads the head of a bundle, no byte more, and verifies it.
func Open(r io.Reader, keys Keys) (*Bundle, error) {
	h, err := readHead(&reader{r: r})
	if err != nil {
		return nil, err
	}
	key, err := keys.verify(h.manifest, h.signature)
	if err != nil {
		return nil, err
	}
	return h.bundle(key)
}

// Check reads a bundle to its end and verifies all of it. So that people see what a
// bundle is that is not right, it returns what the manifest says, if that can be
// read, with any error, ErrSignature as well. progress may be nil.
func Check(r io.Reader, keys Keys, progress func(done, size int64)) (*Bundle, error) {
	in := &reader{r: r}
	h, err := readHead(in)
	if err != nil {
		return nil, err
	}
	key, untrusted := keys.verify(h.manifest, h.signature)
	b, err := h.bundle(key)
	if err != nil {
		return nil, errors.Join(untrusted, err)
	}
	return b, errors.Join(untrusted, b.checkRest(in, progress))
}

// checkRest verifies what is behind the head.
func (b *Bundle) checkRest(in *reader, progress func(done, size int64)) error {
	unpacker, err := NewUnpacker()
	if err != nil {
		return err
	}
	defer unpacker.Close()
	pieces := b.Pieces()
	for i := range b.Partitions {
		p := &b.Partitions[i]
		if err := in.header(p.member(), p.packed()); err != nil {
			return err
		}
		hash := sha256.New()
		for range p.Chunks {
			piece := pieces[0]
			pieces = pieces[1:]
			frame, err := in.bytes(piece.Size)
			if err != nil {
				return err
			}
			plain, err := unpacker.Unpack(piece, frame)
			if err != nil {
				return err
			}
			hash.Write(plain)
			if progress != nil {
				progress(in.at, b.Size)
			}
		}
		if sum := Sum(hash.Sum(nil)); sum != p.SHA256 {
			return fmt.Errorf("%w: partition %s has SHA-256 %s, the manifest says %s", ErrFormat, p.Name, sum, p.SHA256)
		}
		if err := in.zeros(padding(p.packed())); err != nil {
			return err
		}
	}
	if err := in.zeros(endSize); err != nil {
		return err
	}
	if progress != nil {
		progress(in.at, b.Size)
	}
	return in.end()
}

// head is what a bundle begins with, not verified.
type head struct {
	manifest, signature []byte
	size                int64
}

func readHead(r *reader) (head, error) {
	manifest, err := r.member(manifestName, maxManifest)
	if err != nil {
		return head{}, err
	}
	signature, err := r.member(signatureName, maxSignature)
	return head{manifest, signature, r.at}, err
}

func (h head) bundle(key string) (*Bundle, error) {
	m, err := parseManifest(h.manifest)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Manifest: m, Digest: sha256.Sum256(h.manifest), Key: key, Head: h.size, Size: h.size + endSize}
	for i := range m.Partitions {
		b.Size += memberSize(m.Partitions[i].packed())
	}
	return b, nil
}

// Piece is a chunk with its places.
type Piece struct {
	Chunk
	Partition int   // index in Partitions
	From      int64 // where the frame is in the file; it ends before From+Size
	At        int64 // where what it unpacks to is in the partition
	Length    int   // of what it unpacks to
}

// Pieces returns all chunks in the order of the file.
func (b *Bundle) Pieces() []Piece {
	var pieces []Piece
	at := b.Head
	for i := range b.Partitions {
		p := &b.Partitions[i]
		for j, c := range p.Chunks {
			plain := int64(j) * ChunkSize
			pieces = append(pieces, Piece{c, i, at + blockSize + c.Offset, plain, int(min(ChunkSize, p.Size-plain))})
		}
		at += memberSize(p.packed())
	}
	return pieces
}
