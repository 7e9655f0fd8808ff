// Package debian fetches Debian packages and their sources through a private apt root: the
// host's own apt gains no source, no architecture and no package, and apt checks every
// signature against Debian's keyring.
//
// All functions stop when their context ends. Errors of apt carry its own complaint and what
// to do about it, never a password.
package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Config says where packages come from and where they are kept.
type Config struct {
	Dir     string                           // cache folder: apt roots in apt/ARCH, downloads in debs, sources in sources
	Suite   string                           // release name, such as "bookworm"
	Arch    string                           // Debian's name of the architecture: "arm64", "mipsel"
	Old     bool                             // take an index past its date: of a mirror with old versions, for packages whose version is known
	Mirrors []string                         // base URIs of the Debian archive and, optionally, the security archive; none: those of the host's apt
	Log     func(format string, args ...any) // takes one progress line a call; may be nil
	// Progress, unless nil, is called again and again during a download, and at its end with
	// done equal to total, both in bytes.
	Progress func(done, total int64)
}

// Repo is one suite and architecture of the Debian archive. It may be used by several
// goroutines, and its cache by several processes, at once.
type Repo struct {
	dir, suite, arch string
	log              func(string, ...any)
	progress         func(done, total int64)
	bin, src         *root // two, since the index of sources is large and rarely wanted
}

// NotFoundError says that the archive has no such packages.
type NotFoundError struct {
	Names       []string
	Arch, Suite string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("Debian %s has no package %s for %s: check the spelling (search packages with apt-cache search), or take a package this suite and architecture have",
		e.Suite, strings.Join(e.Names, ", "), e.Arch)
}

// StaleError says that the mirror does not have a package that is known from an earlier
// lookup.
type StaleError struct {
	Name, Version string
	Source        bool     // a source package
	Has           []string // the versions that the mirror has
}

func (e *StaleError) Unwrap() error { return ErrGone }

func (e *StaleError) Error() string {
	what := fmt.Sprintf("package %s version %s", e.Name, e.Version)
	if e.Source {
		what = "source " + what
	}
	switch {
	case e.Has == nil:
		return what + " is not on the mirror, which has none of that name"
	case slices.Contains(e.Has, e.Version):
		return what + " on the mirror has another SHA-256: it was rebuilt, or another archive made it"
	}
	return fmt.Sprintf("%s is no longer on the mirror, which has %s now", what, strings.Join(e.Has, ", "))
}

// Open prepares a Repo. It asks the network nothing: the first Lookup or download does.
func Open(ctx context.Context, c Config) (*Repo, error) {
	return open(ctx, c, debianKeyring)
}

func open(ctx context.Context, c Config, keyring string) (*Repo, error) {
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("cache folder %s: %w", c.Dir, err)
	}
	if strings.ContainsAny(dir, "\"\n") { // apt.conf has no escape for these
		return nil, fmt.Errorf("cache folder %q: apt cannot take a quote or a line break in a path: choose another folder", dir)
	}
	if !isWord(c.Suite) || !isWord(c.Arch) {
		return nil, fmt.Errorf("suite %q, architecture %q: not names Debian uses", c.Suite, c.Arch)
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("Debian's signing keys: %w: install the package debian-archive-keyring", err)
	}
	mirrors := c.Mirrors
	if len(mirrors) == 0 {
		if mirrors, err = hostMirrors(ctx, c.Log); err != nil {
			return nil, err
		}
	}
	for _, m := range mirrors {
		if !strings.Contains(m, ":/") || strings.ContainsAny(m, " \t\n[]#") {
			return nil, fmt.Errorf("mirror %q: not a base URI such as http://mirror.example.invalid/debian", redact(m))
		}
	}
	if len(mirrors) == 1 && !c.Old {
		c.Log("warning: no security archive: packages come without Debian's security updates")
	}
	host, err := run(ctx, "", nil, "apt-config", "dump", "Acquire", "Dir::Etc::netrc", "Dir::Etc::netrcparts")
	if err != nil {
		return nil, err
	}
	options := "signed-by=" + keyring
	if c.Old {
		options += " check-valid-until=no"
	}
	newRoot := func(name, arch, sources string) *root {
		d := filepath.Join(dir, "apt", name)
		return &root{dir: d, title: c.Suite + " " + name, log: c.Log, sources: sources, conf: aptConf(host, d, arch, os.Geteuid() == 0)}
	}
	return &Repo{
		dir: dir, suite: c.Suite, arch: c.Arch, log: c.Log, progress: c.Progress,
		bin: newRoot(c.Arch, c.Arch, sourcesList("deb", "Packages", options, c.Suite, mirrors)),
		src: newRoot("source", "", sourcesList("deb-src", "Sources", options, c.Suite, mirrors)),
	}, nil
}

// Lookup finds the newest version of each named package, in the order asked, each name once.
// It fails with a *NotFoundError if there are packages the archive does not have.
func (r *Repo) Lookup(ctx context.Context, names ...string) ([]Package, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var pkgs []Package
	err := r.bin.use(ctx, func() (err error) {
		pkgs, err = r.show(ctx, names)
		return err
	})
	return pkgs, err
}

func (r *Repo) show(ctx context.Context, names []string) ([]Package, error) {
	argv := []string{"apt-cache", "show", "--no-all-versions"}
	for _, n := range names {
		if !isName(n) { // apt would take some of these for patterns
			return nil, &NotFoundError{Names: []string{n}, Arch: r.arch, Suite: r.suite}
		}
		argv = append(argv, n)
	}
	out, err := r.bin.run(ctx, "", argv...)
	if err != nil && !errors.Is(err, errUnknown) {
		return nil, fmt.Errorf("looking up packages: %w", err)
	}
	stanzas, err := parseStanzas(out)
	if err != nil {
		return nil, fmt.Errorf("looking up packages: answer of apt-cache show: %w", err)
	}
	found := map[string]Package{}
	for _, s := range stanzas {
		p, err := newPackage(s)
		if err != nil {
			return nil, fmt.Errorf("looking up packages: answer of apt-cache show: %w", err)
		}
		found[p.Name] = p
	}
	var pkgs []Package
	var missing []string
	for _, n := range names {
		if p, ok := found[n]; !ok {
			missing = append(missing, n)
		} else if !slices.ContainsFunc(pkgs, func(q Package) bool { return q.Name == p.Name }) {
			pkgs = append(pkgs, p)
		}
	}
	if missing != nil {
		return nil, &NotFoundError{Names: missing, Arch: r.arch, Suite: r.suite}
	}
	return pkgs, nil
}

// Fetch downloads what the cache does not have and returns the paths of the .deb files, in
// order. What is in the cache needs neither network nor apt; it is checked all the same. It
// fails with a *StaleError if the mirror has replaced a package meanwhile.
func (r *Repo) Fetch(ctx context.Context, pkgs ...Package) ([]string, error) {
	var paths []string
	for _, p := range pkgs {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("fetching packages: %w", err)
		}
		paths = append(paths, r.path(p))
	}
	want, err := r.absent(pkgs)
	if err != nil || len(want) == 0 {
		return paths, err
	}
	for _, p := range want {
		if _, err := os.Stat(r.path(p)); err == nil {
			r.log("warning: the cached package %s %s is damaged and fetched again", p.Name, p.Version)
		}
	}
	err = r.bin.use(ctx, func() error {
		err := r.bin.retryGone(ctx, func() error { return r.download(ctx, pkgs) })
		if errors.Is(err, ErrGone) {
			return r.stale(ctx, pkgs, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return paths, nil
}

func (r *Repo) path(p Package) string {
	file := fmt.Sprintf("%s_%s_%s.deb", p.Name, escapeVersion(p.Version), p.Arch)
	return filepath.Join(r.dir, "debs", p.SHA256, file)
}

// absent lists the packages, each once, that the cache does not have whole.
func (r *Repo) absent(pkgs []Package) ([]Package, error) {
	var out []Package
	for _, p := range pkgs {
		path := r.path(p)
		if slices.ContainsFunc(out, func(q Package) bool { return r.path(q) == path }) {
			continue
		}
		sum, err := sumAndSync(path)
		if err == nil && sum == p.SHA256 {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for package %s in the cache: %w", p.Name, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// download gets what the cache lacks of pkgs, in one call of apt.
func (r *Repo) download(ctx context.Context, pkgs []Package) error {
	want, err := r.absent(pkgs) // again: another build may just have got them
	if err != nil || len(want) == 0 {
		return err
	}
	argv := []string{"apt-get", "download", "-q"}
	var size int64
	for _, p := range want {
		argv = append(argv, p.Name+"="+p.Version)
		size += p.Size
	}
	r.log("fetching %d package(s) for %s, %s", len(want), r.arch, humanSize(size))
	tmp := filepath.Join(r.dir, "debs", ".fetch-"+r.arch) // a fixed name under the lock: a killed build's leavings go
	if err := emptyDir(tmp); err != nil {
		return fmt.Errorf("fetching packages: %w", err)
	}
	defer os.RemoveAll(tmp)
	stop := r.watch(tmp, size)
	_, aptErr := r.bin.run(ctx, tmp, argv...)
	stop()
	if err := r.collect(tmp, want); err != nil { // also after a failure: what did arrive is not fetched again
		return fmt.Errorf("storing packages: %w", err)
	}
	if aptErr != nil {
		return fmt.Errorf("fetching packages: %w", aptErr)
	}
	left, err := r.absent(want)
	if err == nil && len(left) > 0 {
		p := left[0]
		err = &StaleError{Name: p.Name, Version: p.Version, Has: []string{p.Version}}
	}
	return err
}

// watch reports how much of total bytes has arrived in folder tmp, until stop.
func (r *Repo) watch(tmp string, total int64) (stop func()) {
	if r.progress == nil {
		return func() {}
	}
	end, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				r.progress(total, total)
				return
			case <-time.After(200 * time.Millisecond):
			}
			var done int64
			files, _ := os.ReadDir(tmp) // a file may just be going
			for _, f := range files {
				if info, err := f.Info(); err == nil {
					done += info.Size()
				}
			}
			r.progress(min(done, total), total)
		}
	}()
	return func() { close(end); <-ended }
}

// collect moves the wanted packages, known by their hash, out of folder tmp into the cache.
func (r *Repo) collect(tmp string, want []Package) error {
	files, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, file := range files {
		f := filepath.Join(tmp, file.Name())
		sum, err := sumAndSync(f)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(want, func(p Package) bool { return p.SHA256 == sum })
		if i < 0 {
			continue
		}
		to := r.path(want[i])
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.Rename(f, to); err != nil {
			return err
		}
	}
	return nil
}

// stale turns gone, that packages are not on the mirror, into the first one that it has only
// in other versions.
func (r *Repo) stale(ctx context.Context, pkgs []Package, gone error) error {
	want, err := r.absent(pkgs)
	if err != nil {
		return err
	}
	for _, p := range want {
		has, err := r.bin.versions(ctx, "show", p.Name)
		if err != nil {
			return err
		}
		if !slices.Contains(has, p.Version) {
			return &StaleError{Name: p.Name, Version: p.Version, Has: has}
		}
	}
	return gone
}

// versions lists the versions of a package in the index; show is apt-cache's command.
func (r *root) versions(ctx context.Context, show ...string) ([]string, error) {
	out, err := r.run(ctx, "", append([]string{"apt-cache"}, show...)...)
	if err != nil && !errors.Is(err, errUnknown) {
		return nil, fmt.Errorf("looking up versions: %w", err)
	}
	stanzas, err := parseStanzas(out)
	if err != nil {
		return nil, fmt.Errorf("looking up versions: answer of apt-cache: %w", err)
	}
	var all []string
	for _, s := range stanzas {
		if v := s["version"]; !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	return all, nil
}

// sumAndSync returns the SHA-256 of a file in hexadecimal, with its bytes safe on the disk.
func sumAndSync(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), f.Sync()
}

func emptyDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

func humanSize(n int64) string {
	if n < 1e6 {
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
