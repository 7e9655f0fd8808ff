package cga

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Limits are the most that a tarball may have.
type Limits struct {
	Entries int   // files, links and folders, those included that are only in paths
	Bytes   int64 // as Contents.Bytes
}

// DefaultLimits are for who does not know how much room there is.
var DefaultLimits = Limits{Entries: 20_000, Bytes: 512 << 20}

const (
	maxPath      = 1000     // bytes of a name, or of what a link points to
	maxComponent = 255      // bytes, as the file systems have it
	maxNames     = 2 << 20  // bytes of all names: they are kept, to find those that are there twice
	maxConf      = 64 << 10 // bytes of a supervisor.conf
	maxFirstLine = 256      // bytes; the kernel reads that many of a script
	maxFolders   = 16       // that have an install.sh or the like
	maxFindings  = 100
	maxHops      = 10 // from link to link

	// perEntry is what headers of an entry may take in the stream: names that do
	// not fit, and macOS's attributes. An archive can have headers without end.
	perEntry = 4 << 10

	block = 4096 // of ext4, bytes
)

// The members that an app is known by.
const (
	installScript  = "install.sh"
	setupScript    = "setup.py"
	supervisorConf = "supervisor.conf"
)

// Contents is what a tarball has.
type Contents struct {
	Entries int    // files, links and folders, those included that are only in paths
	Bytes   int64  // that they take on ext4: files in whole blocks, and a block for each folder
	Dir     string // where Entry and supervisor.conf are: a folder at the top level; "": the top level
	Entry   string // "install.sh", or "setup.py" where that is not there; "": neither
	Conf    []byte // supervisor.conf; nil: there is none
}

// Inspect reads a tarball, and says what is wrong with it. Everything that Unpack
// refuses is an error among the findings; the contents are those of what is good.
// The error is that of r or ctx.
func Inspect(ctx context.Context, r io.Reader, l Limits) (Contents, []Finding, error) {
	w := newWalker(l)
	if err := w.walk(ctx, r); err != nil {
		return w.contents, w.findings, err
	}
	return w.contents, w.findings, nil
}

// Unpack unpacks a tarball into dir, an empty folder, which is made if it is not
// there. The files belong to who calls it, with the permissions and times of the
// tarball. An archive that has something dangerous or broken in it is refused,
// as is one without an install.sh that can be executed, or a setup.py. The error
// names the entry, and dir has what was unpacked until then: nothing is ever
// written outside of it.
func Unpack(ctx context.Context, r io.Reader, dir string, l Limits) (Contents, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return Contents{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Contents{}, err
	}
	defer root.Close()
	w := newWalker(l)
	w.root = root
	if err := w.walk(ctx, r); err != nil {
		return w.contents, fmt.Errorf("unpack: %w", err)
	}
	return w.contents, nil
}

// kind is what a name stands for.
type kind uint8

const (
	implied    kind = iota + 1 // a folder that is only in paths so far
	folder                     // a folder
	file                       // a file that cannot be executed
	executable                 // a file that can be executed
	link                       // a symbolic link
)

func (k kind) String() string {
	switch k {
	case implied, folder:
		return "a folder"
	case link:
		return "a link"
	}
	return "a file"
}

// RefusedError is why an archive is not unpacked: what is wrong is in the
// archive, and trying again is no use.
type RefusedError struct{ Entry, Text string }

func (e *RefusedError) Error() string {
	if e.Entry == "" {
		return e.Text
	}
	return e.Entry + ": " + e.Text
}

// walker goes through an archive once.
type walker struct {
	limits   Limits
	root     *os.Root // nil: only look
	contents Contents
	findings []Finding

	seen  map[string]kind
	names int               // bytes of the keys of seen, and of what links point to
	links map[string]string // what they point to
	apps  map[string]*app   // by folder
	buf   []byte
}

func newWalker(l Limits) *walker {
	return &walker{limits: l, seen: map[string]kind{}, links: map[string]string{}, apps: map[string]*app{}, buf: make([]byte, 64<<10)}
}

// errStop ends a walk that cannot go on; what is wrong is in the findings.
var errStop = errors.New("the archive is refused")

// refuse is how all that is wrong with an entry ends: with an error if it is
// being unpacked. Otherwise the walk goes on.
func (w *walker) refuse(entry, format string, args ...any) error {
	if w.root != nil {
		return &RefusedError{printable(entry), fmt.Sprintf(format, args...)}
	}
	w.find(Error, entry, format, args...)
	if len(w.findings) < maxFindings {
		return nil
	}
	w.findings = append(w.findings, Finding{Severity: Error, Text: "there is more than is listed"})
	return errStop
}

// find is for what is no reason to refuse the archive.
func (w *walker) find(s Severity, entry, format string, args ...any) {
	if w.root == nil && len(w.findings) < maxFindings {
		w.findings = append(w.findings, Finding{s, printable(entry), fmt.Sprintf(format, args...)})
	}
}

// stop refuses the archive where reading on would be no use, or endless.
func (w *walker) stop(entry, format string, args ...any) error {
	if err := w.refuse(entry, format, args...); err != nil {
		return err
	}
	return errStop
}

func (w *walker) walk(ctx context.Context, r io.Reader) error {
	source := &source{ctx: ctx, r: r}
	err := w.read(source)
	if source.err != nil {
		return source.err // whatever the others made of it
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// read reads the archive from its first to its last byte.
func (w *walker) read(source io.Reader) error {
	z, err := gzip.NewReader(bufio.NewReaderSize(source, 64<<10))
	if err != nil {
		return w.stop("", "this is no gzip archive: %v", err)
	}
	defer z.Close()
	stream := &stream{r: z, left: w.limits.Bytes + int64(w.limits.Entries)*perEntry + 1<<20}
	t := tar.NewReader(stream)
	last := ""
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return w.broken(last, err)
		}
		last = h.Name
		if err := w.entry(h, t); err != nil {
			return err
		}
	}
	if !stream.ended() {
		w.find(Warning, "", "the archive has no end: it may have been cut off before it was compressed")
	}
	if err := w.end(stream); err != nil {
		return err
	}
	return w.judge()
}

// broken refuses what no archive has.
func (w *walker) broken(last string, err error) error {
	where := "at its beginning"
	if last != "" {
		where = "behind " + printable(last)
	}
	switch {
	case errors.Is(err, errTooLong):
		return w.stop(last, "%v", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return w.stop("", "the archive is cut off %s", where)
	case errors.Is(err, gzip.ErrHeader):
		return w.stop("", "there is something behind the archive's end that is no gzip")
	}
	return w.stop("", "the archive is broken %s: %v", where, err)
}

// end reads what is behind the last entry: the zeros that fill up the archive,
// and the checksums of gzip.
func (w *walker) end(s *stream) error {
	for {
		n, err := s.Read(w.buf)
		for _, b := range w.buf[:n] {
			if b != 0 {
				return w.stop("", "there is something behind the archive's end, as when two are put together")
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return w.broken("", err)
		}
	}
}
