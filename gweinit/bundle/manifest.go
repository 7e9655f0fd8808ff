package bundle

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	// ChunkSize is the size of a chunk's plain content; a partition's last one
	// may be smaller.
	ChunkSize = 1 << 20

	format       = 1
	maxManifest  = 256 << 10
	maxSignature = 4 << 10
	maxPartition = 1 << 30
	maxChunks    = 4096
	maxFrame     = ChunkSize + 64<<10 // what does not compress gets a little larger
)

// partitionNames are the partitions that a bundle has, in this order.
var partitionNames = []string{"kernel", "rootfs"}

// Manifest says what is in a bundle. Keys that are not here are skipped: a
// bundle may have more for newer firmware, as long as older firmware can do
// without.
type Manifest struct {
	Format     int         `json:"format"` // 1
	Board      string      `json:"board"`
	Version    string      `json:"version"`
	Minimum    string      `json:"minimum,omitempty"` // the oldest firmware that it updates; older takes a step between
	Partitions []Partition `json:"partitions"`
}

// Partition is the content of a partition.
type Partition struct {
	Name   string  `json:"name"`   // "kernel", the boot image, or "rootfs"
	Size   int64   `json:"size"`   // of the content
	SHA256 Sum     `json:"sha256"` // of the content
	Chunks []Chunk `json:"chunks"`
}

// Chunk is a frame and what it unpacks to.
type Chunk struct {
	Offset int64 `json:"offset"` // of the frame in the member NAME.zst
	Size   int64 `json:"size"`   // of the frame
	SHA256 Sum   `json:"sha256"` // of the frame
	Plain  Sum   `json:"plain"`  // of what it unpacks to
}

// member is the name of the partition in the tar file.
func (p *Partition) member() string { return p.Name + ".zst" }

// packed is the size of all frames.
func (p *Partition) packed() int64 {
	if len(p.Chunks) == 0 {
		return 0
	}
	last := p.Chunks[len(p.Chunks)-1]
	return last.Offset + last.Size
}

// Sum is a SHA-256, 64 lower-case hexadecimal digits in text.
type Sum [32]byte

func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// MarshalText is String, for JSON.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is strict: a sum has one text.
func (s *Sum) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(s)) || bytes.ContainsAny(text, "ABCDEF") {
		return fmt.Errorf("%q is no SHA-256: want 64 digits, 0-9 and a-f", text)
	}
	if _, err := hex.Decode(s[:], text); err != nil {
		return fmt.Errorf("%q is no SHA-256: %w", text, err)
	}
	return nil
}

// parseManifest parses and checks what has been verified already: signed
// mistakes are refused here and never reach a slot.
func parseManifest(text []byte) (Manifest, error) {
	var m Manifest
	err := json.Unmarshal(text, &m)
	if err == nil {
		err = checkKeys(json.NewDecoder(bytes.NewReader(text)))
	}
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %s: %w", ErrFormat, manifestName, err)
	}
	return m, nil
}

var keyPattern = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

// checkKeys reads a value of valid JSON. encoding/json takes the last of two
// equal keys and "Board" for "board"; other readers do not, and all have to
// agree on what was signed.
func checkKeys(d *json.Decoder) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	bracket, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if bracket == '{' {
			token, err := d.Token()
			if err != nil {
				return err
			}
			key, _ := token.(string)
			if !keyPattern.MatchString(key) {
				return fmt.Errorf("key %.70q: want a-z, 0-9 and _", key)
			}
			if seen[key] {
				return fmt.Errorf("key %q is there twice", key)
			}
			seen[key] = true
		}
		if err := checkKeys(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

var boardPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$`)

func (m *Manifest) check() error {
	if m.Format != format {
		return fmt.Errorf("format is %d, this firmware knows %d only: it needs a firmware between", m.Format, format)
	}
	if !boardPattern.MatchString(m.Board) {
		return fmt.Errorf("board %.70q: want letters, digits, and . _ -", m.Board)
	}
	if err := CheckVersion(m.Version); err != nil {
		return err
	}
	if m.Minimum != "" {
		if err := CheckVersion(m.Minimum); err != nil {
			return fmt.Errorf("minimum: %w", err)
		}
		if CompareVersions(m.Minimum, m.Version) > 0 {
			return fmt.Errorf("minimum %s is newer than version %s itself", m.Minimum, m.Version)
		}
	}
	var names []string
	chunks := 0
	for _, p := range m.Partitions {
		names = append(names, p.Name)
		chunks += len(p.Chunks)
	}
	if got, want := strings.Join(names, ", "), strings.Join(partitionNames, ", "); got != want {
		return fmt.Errorf("partitions are %.70q, want %q", got, want)
	}
	if chunks > maxChunks {
		return fmt.Errorf("%d chunks, want at most %d", chunks, maxChunks)
	}
	for i := range m.Partitions {
		if err := m.Partitions[i].check(); err != nil {
			return fmt.Errorf("partition %s: %w", m.Partitions[i].Name, err)
		}
	}
	return nil
}

func (p *Partition) check() error {
	if p.Size <= 0 || p.Size > maxPartition {
		return fmt.Errorf("size is %d, want 1 to %d", p.Size, int64(maxPartition))
	}
	if want := (p.Size + ChunkSize - 1) / ChunkSize; int64(len(p.Chunks)) != want {
		return fmt.Errorf("%d chunks, its size %d makes %d", len(p.Chunks), p.Size, want)
	}
	if p.SHA256 == (Sum{}) {
		return errors.New("has no sha256")
	}
	offset := int64(0)
	for i, c := range p.Chunks {
		switch {
		case c.Offset != offset:
			return fmt.Errorf("chunk %d: offset is %d, want %d, where the one before ends", i, c.Offset, offset)
		case c.Size <= 0 || c.Size > maxFrame:
			return fmt.Errorf("chunk %d: size is %d, want 1 to %d", i, c.Size, maxFrame)
		case c.SHA256 == Sum{} || c.Plain == Sum{}:
			return fmt.Errorf("chunk %d: has no sha256 or no plain", i)
		}
		offset += c.Size
	}
	return nil
}

// The reasons for which a right bundle is not for a gateway; errors wrap them.
var (
	ErrBoard   = errors.New("firmware for another board")
	ErrOlder   = errors.New("older firmware")
	ErrMinimum = errors.New("firmware that needs a step between")
)

// Fits says whether a gateway may take it, by its board and the version that it
// runs; the same version again is fine. ErrBoard, ErrOlder and ErrMinimum.
func (m *Manifest) Fits(board, running string) error {
	switch {
	case m.Board != board:
		return fmt.Errorf("%w: it is for %s, and this is %s", ErrBoard, m.Board, board)
	case CompareVersions(m.Version, running) < 0:
		return fmt.Errorf("%w: it has version %s, and %s is running", ErrOlder, m.Version, running)
	case m.Minimum != "" && CompareVersions(running, m.Minimum) < 0:
		return fmt.Errorf("%w: it updates version %s and newer, and %s is running: update to one of %s to %s before", ErrMinimum, m.Minimum, running, m.Minimum, m.Version)
	}
	return nil
}
