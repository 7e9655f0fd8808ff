package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/slot"
)

const bundleUsage = `Makes of the built image what gateways update themselves with:
BOARD.vVERSION.fw in the output folder. Only gateways that trust the key take it:
their image was built with the same one. Without -key it is the development key,
which everyone has. An image that does not trust the key is refused.

With -inspect it shows what a bundle is and checks all of it. Exit status 1 if
anything is not right, a signature that is not trusted as well.

  builder bundle -board qemu-arm64
  builder bundle -board rpi3 -key ../acme.key -minimum 1.2.0 -release
  builder bundle -inspect out/rpi3.v1.4.0.fw -trust ../acme.key.pub
`

func bundleCommand(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var j bundleJob
	flags.StringVar(&j.board, "board", "", "`name` of the board, a folder in boards/")
	flags.StringVar(&j.key, "key", "", "secret key `file` of builder key or minisign (default: the development key)")
	flags.StringVar(&j.minimum, "minimum", "", "oldest `version` that may update to this one; older needs a step between")
	flags.BoolVar(&j.release, "release", false, "refuse what must not reach a customer")
	flags.StringVar(&j.out, "out", "out", "`folder` of the built images, and of the bundle")
	inspect := flags.String("inspect", "", "only show and check this bundle `file`")
	trust := flags.String("trust", "", "with -inspect: public key `file` (default: that of the development key)")
	asJSON := flags.Bool("json", false, "print a JSON object")
	if err := parse(flags, args); err != nil {
		return err
	}
	var r bundleReport
	var problem error
	switch {
	case *inspect == "" && *trust != "":
		return errors.New("-trust is for -inspect; say what signs the bundle with -key")
	case *inspect != "" && (j != bundleJob{out: j.out}):
		return errors.New("-inspect is about a bundle that is there: of the other flags it takes -trust and -json only")
	case *inspect != "":
		if r, problem = inspectBundle(ctx, *inspect, *trust); r.Board == "" {
			return problem
		}
	default:
		var err error
		if r, err = j.run(ctx); err != nil {
			return err
		}
	}
	print := r.print
	if *asJSON {
		print = func() error { return printJSON(r) }
	}
	return errors.Join(print(), problem)
}

// bundleReport is what the command tells about a bundle.
type bundleReport struct {
	File       string            `json:"file"`
	Board      string            `json:"board"`
	Version    string            `json:"version"`
	Minimum    string            `json:"minimum,omitempty"`
	Key        string            `json:"key"`
	Trusted    bool              `json:"trusted"`
	Size       int64             `json:"size"`
	Digest     bundle.Sum        `json:"digest"` // SHA-256 of the manifest
	Partitions []bundlePartition `json:"partitions"`
	Problem    string            `json:"problem,omitempty"`
}

type bundlePartition struct {
	Name       string     `json:"name"`
	Size       int64      `json:"size"`
	Compressed int64      `json:"compressed"`
	Chunks     int        `json:"chunks"`
	SHA256     bundle.Sum `json:"sha256"`
}

// reportOf is about the bundle in file; problem is what Check found.
func reportOf(file string, b *bundle.Bundle, problem error) bundleReport {
	r := bundleReport{
		File: file, Board: b.Board, Version: b.Version, Minimum: b.Minimum, Key: b.Key,
		Trusted: !errors.Is(problem, bundle.ErrSignature), Size: b.Size, Digest: b.Digest,
	}
	if problem != nil {
		r.Problem = problem.Error()
	}
	for _, p := range b.Partitions {
		row := bundlePartition{Name: p.Name, Size: p.Size, Chunks: len(p.Chunks), SHA256: p.SHA256}
		for _, c := range p.Chunks {
			row.Compressed += c.Size
		}
		r.Partitions = append(r.Partitions, row)
	}
	return r
}

func (r *bundleReport) print() error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	trusted := "not trusted"
	if r.Trusted {
		trusted = "trusted"
	}
	row("file", "%s", r.File)
	row("board", "%s", r.Board)
	row("version", "%s", r.Version)
	if r.Minimum != "" {
		row("minimum", "%s", r.Minimum)
	}
	row("key", "%s, %s", r.Key, trusted)
	row("size", "%.1f MB", float64(r.Size)/1e6)
	for _, p := range r.Partitions {
		row(p.Name, "%.1f MB, %.1f MB compressed, %d chunks", float64(p.Size)/1e6, float64(p.Compressed)/1e6, p.Chunks)
	}
	return t.Flush()
}

// inspectBundle checks a bundle; the report has no board if it cannot be read.
func inspectBundle(ctx context.Context, file, trust string) (bundleReport, error) {
	pub, _, err := signing.Public(trust)
	if err != nil {
		return bundleReport{}, fmt.Errorf("-trust: %w", err)
	}
	keys, err := bundle.ParseKeys(pub)
	if err != nil {
		return bundleReport{}, err
	}
	b, err := checkBundle(ctx, file, keys)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	if b == nil {
		return bundleReport{}, err
	}
	return reportOf(file, b, err), err
}

func checkBundle(ctx context.Context, file string, keys bundle.Keys) (*bundle.Bundle, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bundle.Check(&contextReader{ctx: ctx, r: f}, keys, nil)
}

// bundleJob makes a bundle of a built image.
type bundleJob struct {
	board, key, minimum, out string
	release                  bool
}

func (j bundleJob) run(ctx context.Context) (bundleReport, error) {
	none := bundleReport{}
	if _, err := board.Load("boards", j.board); err != nil {
		return none, err
	}
	if j.minimum != "" {
		if err := bundle.CheckVersion(j.minimum); err != nil {
			return none, fmt.Errorf("-minimum: %w", err)
		}
	}
	m, err := image.ReadManifest(filepath.Join(j.out, j.board+".json"))
	if err != nil {
		return none, buildFirst(err, j.board)
	}
	if j.release && !m.Release {
		return none, fmt.Errorf("%s is not of a release: make board=%s release=1 image", filepath.Join(j.out, m.Image.Name), j.board)
	}
	sign, pub, development, err := signing.Load(j.key, func() ([]byte, error) { return askPassword("Password of " + j.key + ": ") })
	if err != nil {
		return none, err
	}
	if j.release && development {
		return none, errors.New("everyone has the development key: a release is signed with a key of your own, which make key=FILE key makes")
	}
	keys, err := bundle.ParseKeys(pub)
	if err != nil {
		return none, err
	}
	if err := j.isTrusted(keys, m); err != nil {
		return none, err
	}
	img, err := os.Open(filepath.Join(j.out, m.Image.Name))
	if err != nil {
		return none, buildFirst(err, j.board)
	}
	defer img.Close()
	if err := isImage(ctx, img, m); err != nil {
		return none, err
	}
	parts, err := slotParts(ctx, img, m)
	if err != nil {
		return none, err
	}
	return j.write(ctx, bundle.Manifest{Board: j.board, Version: m.Version, Minimum: j.minimum}, sign, keys, parts)
}

// isTrusted makes sure that who has updated to the image takes the next firmware of
// the same key as well.
func (j bundleJob) isTrusted(key bundle.Keys, m *image.Manifest) error {
	id := key.IDs()[0]
	if slices.Contains(m.Keys, id) {
		return nil
	}
	trusted := "no key"
	if len(m.Keys) > 0 {
		trusted = "key " + strings.Join(m.Keys, ", ")
	}
	build := "make board=" + j.board
	if j.key != "" {
		build += " key=" + j.key
	}
	if m.Release {
		build += " release=1"
	}
	return fmt.Errorf("%s trusts %s, and this is key %s, of which gateways would take nothing any more after the update: build the image with the same key: %s image",
		filepath.Join(j.out, m.Image.Name), trusted, id, build)
}

// isImage makes sure that what is read is what BOARD.json is about: neither has
// been built again or written to.
func isImage(ctx context.Context, img *os.File, m *image.Manifest) error {
	h := sha256.New()
	if _, err := io.Copy(h, &contextReader{ctx: ctx, r: img}); err != nil {
		return err
	}
	if sum := fmt.Sprintf("%x", h.Sum(nil)); sum != m.Image.SHA256 {
		return fmt.Errorf("%s is not the image that %s.json is about: its SHA-256 is %s, not %s: build it again: make board=%s image",
			img.Name(), strings.TrimSuffix(img.Name(), ".img"), sum, m.Image.SHA256, m.Board)
	}
	return nil
}

// slotParts are the contents of slot a.
func slotParts(ctx context.Context, img io.ReaderAt, m *image.Manifest) ([]bundle.Part, error) {
	in := &contextReaderAt{ctx: ctx, r: img, total: m.Slot.BootImage + m.Slot.Root}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		in.progress = bar(os.Stderr)
	}
	var parts []bundle.Part
	for _, p := range []struct {
		name, partition string
		size            int64
	}{
		{"kernel", slot.A.KernelPartition(), m.Slot.BootImage},
		{"rootfs", slot.A.RootPartition(), m.Slot.Root},
	} {
		i := slices.IndexFunc(m.Partitions, func(d disk.Partition) bool { return d.Name == p.partition })
		if i < 0 || p.size <= 0 || p.size > m.Partitions[i].Size {
			return nil, fmt.Errorf("%s.json says nothing of partition %s and how much of it is used: build the image again: make board=%s image", m.Board, p.partition, m.Board)
		}
		parts = append(parts, bundle.Part{Name: p.name, Content: io.NewSectionReader(in, m.Partitions[i].Offset, p.size), Size: p.size})
	}
	return parts, nil
}

// write leaves a bundle that has been read back, or nothing.
func (j bundleJob) write(ctx context.Context, m bundle.Manifest, sign func([]byte) ([]byte, error), keys bundle.Keys, parts []bundle.Part) (bundleReport, error) {
	file := filepath.Join(j.out, fmt.Sprintf("%s.v%s.fw", m.Board, m.Version))
	f, err := os.CreateTemp(j.out, "."+filepath.Base(file)+".")
	if err != nil {
		return bundleReport{}, err
	}
	defer os.Remove(f.Name()) // unless it was renamed
	defer f.Close()
	if _, err := bundle.Write(f, m, sign, parts...); err != nil {
		return bundleReport{}, fmt.Errorf("%s: %w", file, err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return bundleReport{}, err
	}
	b, err := checkBundle(ctx, f.Name(), keys)
	if err != nil {
		return bundleReport{}, fmt.Errorf("read back %s: %w", file, err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return bundleReport{}, err
	}
	return reportOf(file, b, nil), nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// contextReaderAt ends with its context, and shows how much was read.
type contextReaderAt struct {
	ctx         context.Context
	r           io.ReaderAt
	done, total int64
	progress    func(done, total int64) // may be nil
}

func (c *contextReaderAt) ReadAt(p []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.ReadAt(p, at)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}
