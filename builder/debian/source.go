package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Source is a source package in the cache.
type Source struct {
	Name, Version string
	DSC           string // path of its description, NAME_VERSION.dsc
	Files         []File // all it consists of, the description first
}

// File is one file of a source package.
type File struct {
	Name, SHA256, Path string
}

// FetchSource gets a source package, from the cache if that has it. It fails with a
// *StaleError if the mirror does not have this version.
func (r *Repo) FetchSource(ctx context.Context, name, version string) (*Source, error) {
	if !isName(name) || !isVersion(version) {
		return nil, fmt.Errorf("fetching source %q version %q: not a name and version of Debian", name, version)
	}
	dir := filepath.Join(r.dir, "sources", name+"_"+escapeVersion(version))
	s, err := readSource(dir, name, version)
	if err == nil {
		return s, nil
	}
	err = r.src.use(ctx, func() error {
		s, err = readSource(dir, name, version) // again: another build may just have got it
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			r.log("warning: the cached source is damaged and fetched again: %v", err)
		}
		err = r.src.retryGone(ctx, func() error {
			s, err = r.downloadSource(ctx, dir, name, version)
			return err
		})
		if !errors.Is(err, ErrGone) {
			return err
		}
		has, verr := r.src.versions(ctx, "showsrc", "--only-source", name)
		if verr != nil {
			return verr
		}
		if !slices.Contains(has, version) {
			return &StaleError{Name: name, Version: version, Source: true, Has: has}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fetching source %s %s: %w", name, version, err)
	}
	return s, nil
}

// downloadSource fills the folder dir, which appears only when all is there.
func (r *Repo) downloadSource(ctx context.Context, dir, name, version string) (*Source, error) {
	argv := []string{"apt-get", "source", "-q", "--download-only", "--only-source", name + "=" + version}
	uris, err := r.src.run(ctx, "", append(argv, "--print-uris")...)
	if err != nil {
		return nil, err
	}
	size := sizeOf(uris)
	r.log("fetching source %s %s, %s", name, version, humanSize(size))
	tmp := filepath.Join(r.dir, "sources", ".fetch")
	if err := emptyDir(tmp); err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	stop := r.watch(tmp, size)
	_, err = r.src.run(ctx, tmp, argv...)
	stop()
	if err != nil {
		return nil, err
	}
	if _, err := readSource(tmp, name, version); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, err
	}
	return readSource(dir, name, version)
}

// sizeOf adds up the sizes in what apt-get --print-uris prints: 'URI' file size hash.
func sizeOf(uris string) int64 {
	var sum int64
	for line := range strings.Lines(uris) {
		if f := strings.Fields(line); strings.HasPrefix(line, "'") && len(f) > 2 {
			n, _ := strconv.ParseInt(f[2], 10, 64) // only for the bar of the download
			sum += n
		}
	}
	return sum
}

// readSource reads the source package in folder dir and checks all its files against its
// description; apt has checked the description against the signed index.
func readSource(dir, name, version string) (*Source, error) {
	plain := version[strings.Index(version, ":")+1:] // file names have no epoch
	dsc := filepath.Join(dir, name+"_"+plain+".dsc")
	text, err := os.ReadFile(dsc)
	if err != nil {
		return nil, err
	}
	d, err := parseDSC(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dsc, err)
	}
	sum, err := sumAndSync(dsc)
	if err != nil {
		return nil, err
	}
	s := &Source{Name: name, Version: version, DSC: dsc, Files: []File{{filepath.Base(dsc), sum, dsc}}}
	for line := range strings.Lines(d["checksums-sha256"]) {
		f := strings.Fields(line) // hash, size, name
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || filepath.Base(f[2]) != f[2] {
			return nil, fmt.Errorf("%s: Checksums-Sha256 has a bad line %q", dsc, line)
		}
		path := filepath.Join(dir, f[2])
		sum, err := sumAndSync(path)
		if err != nil {
			return nil, err
		}
		if sum != f[0] {
			return nil, fmt.Errorf("%s has SHA-256 %s, not %s as its .dsc says", path, sum, f[0])
		}
		s.Files = append(s.Files, File{f[2], sum, path})
	}
	if len(s.Files) == 1 {
		return nil, fmt.Errorf("%s: no Checksums-Sha256", dsc)
	}
	return s, nil
}

// parseDSC reads a .dsc, with or without the maintainer's signature around it: that one is
// not what counts, the archive's is.
func parseDSC(text string) (stanza, error) {
	if strings.HasPrefix(text, "-----BEGIN PGP SIGNED MESSAGE-----") {
		_, text, _ = strings.Cut(text, "\n\n")
		text, _, _ = strings.Cut(text, "\n-----BEGIN PGP SIGNATURE-----")
	}
	all, err := parseStanzas(text)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("%d paragraphs, not one", len(all))
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// Unpack unpacks the source, Debian's patches applied, into the folder dir, which must not
// exist. A failure leaves nothing there.
func (s *Source) Unpack(ctx context.Context, dir string) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpacking source %s: %s is there already: remove it", s.Name, dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("unpacking source %s: %w", s.Name, err)
	}
	// --no-check: apt has followed the signatures to the .dsc, and we to the other files.
	if _, err := run(ctx, "", nil, "dpkg-source", "--no-check", "--no-copy", "-x", s.DSC, dir); err != nil {
		os.RemoveAll(dir)
		return fmt.Errorf("unpacking source %s %s into %s: %w", s.Name, s.Version, dir, err)
	}
	return nil
}
