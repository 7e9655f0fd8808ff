package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/exosite/gwe/gweinit/durable"
)

// maxAbout is what aboutFile has at most, in bytes: it names files of the base, and
// a base has some thousands.
const maxAbout = 8 << 20

// about is what is in aboutFile, as JSON; a firmware in the other slot may have
// another opinion of what is in there, so nothing is ever taken out of it.
type about struct {
	Base string `json:"base"` // version
	// Files are those of the base that the layer hides, with their fingerprints.
	Files map[string]string `json:"files,omitempty"`
}

// Describe notes, durably, which base a layer was made on and what it hides of
// that: DIR/about.json and DIR/base. It is called once, when the installer has
// ended. The layer owns what its accounts have besides others, a folder that
// Accounts has made of the base and the other apps; "": there are no other apps.
func Describe(dir, base, version, others string) error {
	a := about{Base: version, Files: map[string]string{}}
	accounts := false
	var prints fingerprints
	err := walk(filepath.Join(dir, Root), base, func(e entry) (err error) {
		if slices.Contains(accountFiles, e.path) {
			accounts = true
		} else if hides(e) {
			a.Files[e.path], err = prints.of(filepath.Join(base, e.path), e.base)
		}
		return err
	})
	if err == nil && accounts {
		err = keepAccounts(dir, base, others)
	}
	if err != nil {
		return fmt.Errorf("describe the layer %s: %w", dir, err)
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, aboutFile), append(data, '\n'), 0o644)
}

// hides says whether something hides a file or a link of the base.
func hides(e entry) bool {
	return !e.info.IsDir() && !isWhiteout(e.info) && e.base != nil && !e.base.IsDir()
}

// fingerprints tell contents apart. The zero value can be used.
type fingerprints struct {
	buf []byte // for all files: a layer may have 20,000
}

func (p *fingerprints) of(path string, info os.FileInfo) (string, error) {
	switch {
	case info.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if p.buf == nil {
			p.buf = make([]byte, 64<<10)
		}
		h := sha256.New()
		_, err = io.CopyBuffer(h, struct{ io.Reader }{f}, p.buf) // the file's own WriteTo has a buffer of its own
		return hex.EncodeToString(h.Sum(nil)), err
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return "link to " + target, err
	}
	return info.Mode().Type().String(), nil
}

// keepAccounts copies the account files without the layer's own lines.
func keepAccounts(dir, base, others string) error {
	if err := durable.MakeFolder(filepath.Join(dir, Base, "etc"), 0o700); err != nil {
		return err
	}
	for _, name := range accountFiles {
		data, _, err := readAccounts(name, others, base)
		if data == nil && err == nil {
			continue
		}
		if err == nil {
			err = durable.WriteFile(filepath.Join(dir, Base, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Stale returns the paths that hide a file of the base which is another than when
// the layer was made: of newer firmware. Accounts are not among them, as these
// are merged. If version is that of Describe there are none, and the layer is not
// walked.
func Stale(dir, base, version string) ([]string, error) {
	a, err := readAbout(dir)
	if err != nil || a.Base == version {
		return nil, err
	}
	var stale []string
	var prints fingerprints
	err = walk(filepath.Join(dir, Root), base, func(e entry) error {
		if !hides(e) || slices.Contains(accountFiles, e.path) {
			return nil
		}
		now, err := prints.of(filepath.Join(base, e.path), e.base)
		if now != a.Files[e.path] {
			stale = append(stale, "/"+e.path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare the layer %s with the firmware: %w", dir, err)
	}
	return stale, nil
}

func readAbout(dir string) (a about, err error) {
	path := filepath.Join(dir, aboutFile)
	data, err := durable.ReadFile(path, maxAbout)
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		return about{}, fmt.Errorf("read %s: %w", path, err)
	}
	return a, nil
}

// errSomething ends the walk of Empty.
var errSomething = errors.New("not empty")

// Empty says whether a layer changes nothing: it may have folders as those of the
// base, since overlayfs copies them on the way to something that was removed
// again, and what Python compiled.
func Empty(dir, base string) (bool, error) {
	top := filepath.Join(dir, Root)
	err := walk(top, base, func(e entry) error {
		if !e.info.IsDir() {
			return errSomething
		}
		if filepath.Base(e.path) == "__pycache__" {
			return fs.SkipDir
		}
		if !isFolder(e.base) || AttributesOf(e.info) != AttributesOf(e.base) {
			return errSomething
		}
		opaque, err := isOpaque(filepath.Join(top, e.path))
		if err == nil && opaque {
			err = errSomething
		}
		return err
	})
	if err == errSomething {
		return false, nil
	}
	return err == nil, err
}
