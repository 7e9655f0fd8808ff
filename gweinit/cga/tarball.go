package cga

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
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

// app is a folder that could be an app: the top level, or one below it.
type app struct {
	install, setup bool
	linked         bool   // install.sh is another file's
	firstLine      string // of install.sh, otherwise
	conf           []byte
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

// entry takes one entry. The error is that of refuse, or of the file system.
func (w *walker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // git archive has one
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return w.refuse(h.Name, "%v", err)
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return w.refuse(h.Name, "it has no name")
		}
		return nil
	}
	isFile := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse || h.Typeflag == tar.TypeCont
	if isFile && strings.HasPrefix(path.Base(name), "._") {
		return nil // what macOS keeps of a file beside it
	}
	k := file
	switch {
	case h.Typeflag == tar.TypeDir, isFile && strings.HasSuffix(h.Name, "/") && h.Size == 0: // old archives
		k, isFile = folder, false
	case isFile && h.Mode&0o111 != 0:
		k = executable
	case isFile:
	case h.Typeflag == tar.TypeSymlink:
		k = link
	case h.Typeflag == tar.TypeLink:
	case h.Typeflag == tar.TypeChar, h.Typeflag == tar.TypeBlock:
		return w.refuse(name, "it is a device")
	case h.Typeflag == tar.TypeFifo:
		return w.refuse(name, "it is a FIFO")
	default:
		return w.refuse(name, "it is of a kind (%q) that no app needs", h.Typeflag)
	}
	if h.Mode&0o6000 != 0 {
		if k != folder {
			return w.refuse(name, "it is set-uid or set-gid")
		}
		// Folders that a team shares have it, and here it means nothing.
		w.find(Warning, name, "its set-gid bit is not kept")
	}
	if ok, err := w.claim(name, k); !ok {
		return err
	}
	switch {
	case k == folder:
		return w.folder(name, h)
	case k == link:
		return w.link(name, h)
	case h.Typeflag == tar.TypeLink:
		return w.hardLink(name, h)
	}
	a, err := w.app(name)
	if err != nil {
		return err
	}
	return w.content(name, h, r, a)
}

// cleanName returns the name of an entry as a path from the top level; ".": the
// top level itself.
func cleanName(name string) (string, error) {
	if err := checkPath(name); err != nil {
		return "", err
	}
	if name[0] == '/' {
		return "", errors.New("it is an absolute path")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New(`it has ".." in it`)
		}
		if len(part) > maxComponent {
			return "", fmt.Errorf("a part of the name has %d bytes, at most %d are taken", len(part), maxComponent)
		}
	}
	return path.Clean(name), nil
}

func checkPath(name string) error {
	switch {
	case name == "":
		return errors.New("it has no name")
	case len(name) > maxPath:
		return fmt.Errorf("the path has %d bytes, at most %d are taken", len(name), maxPath)
	case !utf8.ValidString(name):
		return errors.New("the name is not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == 0x2028 || r == 0x2029 }):
		return errors.New("the name has control characters")
	}
	return nil
}

// claim takes a name, and the folders above it that are not there yet. It is not
// ok if the name cannot be taken; then the error is that of refuse.
func (w *walker) claim(name string, k kind) (ok bool, err error) {
	for i := range name {
		if name[i] != '/' {
			continue
		}
		above := name[:i]
		switch w.seen[above] {
		case implied, folder:
		case 0:
			if ok, err := w.add(above, implied); !ok {
				return false, err
			}
			if w.root != nil {
				if err := w.root.Mkdir(above, 0o755); err != nil {
					return false, err
				}
			}
		default:
			return false, w.refuse(name, "%s, which it is below, is %v", above, w.seen[above])
		}
	}
	switch was := w.seen[name]; {
	case was == implied && k == folder:
		w.seen[name] = folder
		return true, nil
	case was == implied:
		return false, w.refuse(name, "it is there twice, as a folder and as %v", k)
	case was != 0:
		return false, w.refuse(name, "it is there twice")
	}
	return w.add(name, k)
}

func (w *walker) add(name string, k kind) (ok bool, err error) {
	size := int64(0)
	if k == implied || k == folder {
		size = block
	}
	if w.contents.Entries++; w.contents.Entries > w.limits.Entries {
		return false, w.stop(name, "there are more than %d entries", w.limits.Entries)
	}
	if w.names += len(name); w.names > maxNames {
		return false, w.stop(name, "the names of all entries have more than %d bytes", maxNames)
	}
	if err := w.take(name, size); err != nil {
		return false, err
	}
	// A part of another entry's name would keep the whole of it.
	name = strings.Clone(name)
	w.seen[name] = k
	return true, nil
}

// take counts bytes, before anything of them is written.
func (w *walker) take(name string, size int64) error {
	blocks := size / block // size can be as large as there are
	if size%block != 0 {
		blocks++
	}
	if blocks > (w.limits.Bytes-w.contents.Bytes)/block {
		return w.stop(name, "with it the archive takes more than %d bytes", w.limits.Bytes)
	}
	w.contents.Bytes += blocks * block
	return nil
}

func (w *walker) folder(name string, h *tar.Header) error {
	if w.root == nil {
		return nil
	}
	// It is there already if an earlier entry is in it. Installers have to get
	// into it, whatever the archive says.
	if err := w.root.Mkdir(name, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	return w.root.Chmod(name, permissions(h)|0o700)
}

func permissions(h *tar.Header) os.FileMode { return os.FileMode(h.Mode & 0o777) }

// link takes a symbolic link. Nothing is ever written through it: claim refuses
// what would be below it.
func (w *walker) link(name string, h *tar.Header) error {
	target := h.Linkname
	if err := checkPath(target); err != nil {
		return w.refuse(name, "what the link points to: %v", err)
	}
	if path.IsAbs(target) {
		return w.refuse(name, "the link points out of the archive, to %s", target)
	}
	for at := range steps(name, target) {
		if at == ".." {
			return w.refuse(name, "the link points out of the archive, to %s", target)
		}
	}
	if w.names += len(target); w.names > maxNames {
		return w.stop(name, "the names of all entries have more than %d bytes", maxNames)
	}
	w.links[name] = target
	if err := w.linkedMember(name); err != nil {
		return err
	}
	if w.root == nil {
		return nil
	}
	return w.root.Symlink(target, name)
}

// steps are the paths that the target of a link leads through, one after the
// other and the last one at its end, if none of them is a link; "..": outside.
func steps(name, target string) iter.Seq[string] {
	return func(yield func(string) bool) {
		at := path.Dir(name)
		for part := range strings.SplitSeq(target, "/") {
			if part == "" || part == "." {
				continue
			}
			if at = path.Join(at, part); !yield(at) || at == ".." {
				return
			}
		}
	}
}

// checkLink refuses a link that leads through another one: what ".." is then,
// only the kernel knows. One to a link is a name for it, as libraries have them.
func (w *walker) checkLink(name string) error {
	before := ""
	for at := range steps(name, w.links[name]) {
		if w.seen[before] == link {
			return w.refuse(name, "the link leads through %s, which is a link too", before)
		}
		before = at
	}
	return nil
}

// hardLink takes a hard link. The one that it is a name for may not be given
// another content by it.
func (w *walker) hardLink(name string, h *tar.Header) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return w.refuse(name, "the hard link's target: %v", err)
	}
	k := w.seen[target]
	if k != file && k != executable || target == name {
		return w.refuse(name, "it is a hard link to %s, which is no file that came before it", printable(target))
	}
	w.seen[name] = k
	if err := w.linkedMember(name); err != nil {
		return err
	}
	if w.root == nil {
		return nil
	}
	return w.root.Link(target, name)
}

// linkedMember takes what an app is known by if it is a link.
func (w *walker) linkedMember(name string) error {
	a, err := w.app(name)
	if a == nil {
		return err
	}
	switch path.Base(name) {
	case supervisorConf:
		return w.refuse(name, "it is a link: want a file")
	case setupScript:
		a.setup = true
	case installScript:
		a.install, a.linked = true, true
	}
	return nil
}

// content takes the content of a file; a is not nil if it is of the members that
// an app is known by.
func (w *walker) content(name string, h *tar.Header, r io.Reader, a *app) error {
	if err := w.take(name, h.Size); err != nil {
		return err
	}
	var to io.Writer = io.Discard
	var f *os.File
	if w.root != nil {
		var err error
		if f, err = w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer f.Close()
		to = f
	}
	var kept keeper
	if a != nil {
		kept.max = maxFirstLine
		if path.Base(name) == supervisorConf {
			kept.max = maxConf + 1
		}
		to = io.MultiWriter(to, &kept)
	}
	if err := w.copy(to, name, r); err != nil {
		return err
	}
	if a != nil {
		if err := w.member(name, a, kept.data); err != nil {
			return err
		}
	}
	if f == nil {
		return nil
	}
	// Whatever the umask says.
	if err := f.Chmod(permissions(h)); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// Python compiles a module again if its time is another one.
	if sec := h.ModTime.Unix(); sec < 0 || sec > math.MaxUint32 {
		return nil
	}
	return w.root.Chtimes(name, h.ModTime, h.ModTime)
}

// copy copies with the walker's own buffer. What cannot be read is refused, what
// cannot be written is an error.
func (w *walker) copy(to io.Writer, name string, r io.Reader) error {
	for {
		n, err := r.Read(w.buf)
		if n > 0 {
			if _, err := to.Write(w.buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return w.broken(name, err)
		}
	}
}

// isMember says whether a name is one that an app is known by.
func isMember(name string) bool {
	if strings.Count(name, "/") > 1 {
		return false
	}
	switch path.Base(name) {
	case installScript, setupScript, supervisorConf:
		return true
	}
	return false
}

// app returns the app that a file says something of; nil: none. Which one is it,
// the end of the archive tells.
func (w *walker) app(name string) (*app, error) {
	if !isMember(name) {
		return nil, nil
	}
	dir := path.Dir(name)
	if w.apps[dir] == nil {
		if len(w.apps) == maxFolders {
			return nil, w.stop(name, "more than %d folders have an install.sh, setup.py or supervisor.conf", maxFolders)
		}
		w.apps[dir] = &app{}
	}
	return w.apps[dir], nil
}

func (w *walker) member(name string, a *app, data []byte) error {
	switch path.Base(name) {
	case installScript:
		a.install = true
		a.firstLine, _, _ = strings.Cut(string(data), "\n")
	case setupScript:
		a.setup = true
	case supervisorConf:
		if len(data) > maxConf {
			return w.refuse(name, "it has more than %d bytes", maxConf)
		}
		a.conf = append([]byte{}, data...)
	}
	return nil
}

// judge looks at the archive as a whole.
func (w *walker) judge() error {
	for _, name := range slices.Sorted(maps.Keys(w.links)) {
		if err := w.checkLink(name); err != nil {
			return err
		}
	}
	dir := w.choose()
	for _, other := range slices.Sorted(maps.Keys(w.apps)) {
		if other != dir && w.apps[other].conf != nil {
			w.find(Warning, path.Join(other, supervisorConf), "it is not beside the app's install.sh, and nobody reads it")
		}
	}
	if w.contents.Entries == 0 {
		return w.refuse("", "the archive is empty")
	}
	if dir == "" {
		return w.refuse("", "there is no install.sh and no setup.py, neither at the top level nor in one folder there")
	}
	a := w.apps[dir]
	w.contents.Conf = a.conf
	if dir != "." {
		w.contents.Dir = dir
	}
	if !a.install {
		w.contents.Entry = setupScript
		w.find(Warning, path.Join(dir, setupScript), "without an install.sh the gateway needs a Python for it")
		return nil
	}
	w.contents.Entry = installScript
	return w.checkInstall(path.Join(dir, installScript), a)
}

// choose returns the folder of the app, "." or one at the top level; "": none.
func (w *walker) choose() string {
	if a := w.apps["."]; a != nil && (a.install || a.setup) {
		return "."
	}
	for _, has := range []func(*app) bool{
		func(a *app) bool { return a.install },
		func(a *app) bool { return a.setup },
	} {
		var dirs []string
		for dir, a := range w.apps {
			if has(a) {
				dirs = append(dirs, dir)
			}
		}
		if len(dirs) == 1 {
			return dirs[0]
		}
	}
	return ""
}

// checkInstall says what is in the way of running install.sh.
func (w *walker) checkInstall(name string, a *app) error {
	k, at := w.seen[name], name
	for range maxHops {
		if k != link {
			break
		}
		to := w.links[at]
		for step := range steps(at, to) {
			at = step
		}
		k = w.seen[at]
	}
	switch k {
	case executable:
	case file:
		return w.refuse(name, "its x bit is not set: chmod +x install.sh")
	default:
		return w.refuse(name, "the link does not lead to a file")
	}
	if !a.linked {
		w.checkShebang(name, a.firstLine)
	}
	return nil
}

func (w *walker) checkShebang(name, line string) {
	rest, ok := strings.CutPrefix(line, "#!")
	interpreter, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), " ")
	switch {
	case strings.HasPrefix(line, "\ufeff"):
		w.find(Error, name, "it begins with a byte order mark, so that the kernel does not see its #!")
	case strings.HasPrefix(line, "\x7fELF"):
		w.find(Warning, name, "it is a binary: it has to be that of the gateway's processor")
	case !ok:
		w.find(Error, name, "its first line is not #!/bin/sh")
	case strings.HasSuffix(line, "\r"):
		w.find(Error, name, "its lines end with CR and LF, as on Windows: the kernel looks for an interpreter with CR in its name")
	case !path.IsAbs(interpreter):
		w.find(Error, name, "its first line has to name an interpreter, such as #!/bin/sh")
	case interpreter != "/bin/sh":
		w.find(Warning, name, "its interpreter %s has to be on the gateway", printable(interpreter))
	}
}
