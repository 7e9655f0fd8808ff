package bundle

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"
)

// Part is the content of a partition.
type Part struct {
	Name    string
	Content io.ReaderAt
	Size    int64
}

// Write writes a bundle of m's board, version and minimum with these partitions,
// kernel and rootfs. The same content makes the same bytes. It keeps the
// compressed partitions in memory: their sizes come before them in the file.
func Write(w io.Writer, m Manifest, sign func(manifest []byte) ([]byte, error), parts ...Part) (*Bundle, error) {
	m.Format, m.Partitions = format, nil
	var frames [][]byte
	for _, part := range parts {
		p, packed, err := pack(part)
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w", part.Name, err)
		}
		m.Partitions = append(m.Partitions, p)
		frames = append(frames, packed)
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	manifest = append(manifest, '\n')
	if len(manifest) > maxManifest {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: the partitions are too large", manifestName, len(manifest), maxManifest)
	}
	signature, err := sign(manifest)
	if err != nil {
		return nil, fmt.Errorf("sign the manifest: %w", err)
	}
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil || len(signature) > maxSignature {
		return nil, fmt.Errorf("sign the manifest: %d bytes that are no signature of minisign", len(signature))
	}
	size := memberSize(int64(len(manifest))) + memberSize(int64(len(signature)))
	b, err := head{manifest, signature, size}.bundle(keyID(s.KeyID))
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriter(w) // keeps the first error for Flush
	member := func(name string, content []byte) {
		size := int64(len(content))
		out.Write(header(name, size))
		out.Write(content)
		out.Write(make([]byte, padding(size)))
	}
	member(manifestName, manifest)
	member(signatureName, signature)
	for i := range b.Partitions {
		member(b.Partitions[i].member(), frames[i])
	}
	out.Write(make([]byte, endSize))
	if err := out.Flush(); err != nil {
		return nil, err
	}
	return b, nil
}

// pack makes the frames of a partition.
func pack(part Part) (Partition, []byte, error) {
	p := Partition{Name: part.Name, Size: part.Size}
	// One encoder and one level: another of either makes other bytes. The frames
	// are verified by their SHA-256, so they need no checksum of zstd's.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(ChunkSize), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return p, nil, fmt.Errorf("zstd: %w", err)
	}
	defer encoder.Close()
	var packed []byte
	sum, buf := sha256.New(), make([]byte, ChunkSize)
	for at := int64(0); at < part.Size; at += ChunkSize {
		plain := buf[:min(ChunkSize, part.Size-at)]
		if n, err := part.Content.ReadAt(plain, at); n < len(plain) {
			return p, nil, fmt.Errorf("read %d bytes at %d: %w", len(plain), at, err)
		}
		sum.Write(plain)
		start := len(packed)
		packed = encoder.EncodeAll(plain, packed)
		p.Chunks = append(p.Chunks, Chunk{
			Offset: int64(start), Size: int64(len(packed) - start),
			SHA256: sha256.Sum256(packed[start:]), Plain: sha256.Sum256(plain),
		})
	}
	p.SHA256 = Sum(sum.Sum(nil))
	return p, packed, nil
}

// Sign signs a manifest; its board and version are in the trusted comment, which
// minisign -V prints.
func Sign(key minisign.PrivateKey, manifest []byte) ([]byte, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return nil, err
	}
	r := minisign.NewReader(bytes.NewReader(manifest)) // of the prehashed kind
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return r.SignWithComments(key, fmt.Sprintf("firmware board=%s version=%s", m.Board, m.Version), "signature from key "+keyID(key.ID())), nil
}
