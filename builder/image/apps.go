package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/exosite/gwe/builder/cache"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/rootfs"
	"github.com/exosite/gwe/gweinit/cga"
	"github.com/exosite/gwe/gweinit/slot"
)

// App is an application that the image brings. The gateway installs it at its
// first boot.
type App struct {
	Name    string
	Version string
	SHA256  string // of the tarball
	Size    int64  // of the tarball, bytes
}

// appsDir is where the gateway looks for tarballs.
const appsDir = "usr/share/gweinit/apps"

// app is one of the image's, as the builder has it.
type app struct {
	App
	from     string // as the user has named it
	tarball  string // path
	contents cga.Contents
}

// findApps looks whether the apps are there, which needs no work of minutes.
func (b *build) findApps() error {
	for _, from := range b.Apps {
		info, err := os.Stat(from)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("app %s: there is no such folder or tarball", from)
		case err != nil:
			return fmt.Errorf("app %s: %w", from, err)
		case info.IsDir():
			if _, err := os.Stat(filepath.Join(from, cga.BuildfileName)); err != nil {
				return fmt.Errorf("app %s: a folder with a %s, or a tarball is expected: %w", from, cga.BuildfileName, err)
			}
			b.apps = append(b.apps, app{from: from})
		default:
			if _, err := cga.ParseName(filepath.Base(from)); err != nil {
				return fmt.Errorf("app %s: %w", from, err)
			}
			b.apps = append(b.apps, app{from: from, tarball: from})
		}
	}
	return nil
}

// makeApps builds the tarballs of the apps, and checks them as the gateway will.
// What a folder's commands make depends on more than its files, so that only
// they can tell whether it is made already, as the Go tool does.
func (b *build) makeApps(ctx context.Context) error {
	for i := range b.apps {
		a := &b.apps[i]
		var err error
		if a.tarball == "" {
			a.tarball, err = b.buildApp(ctx, a.from, filepath.Join(b.tmp, "apps", fmt.Sprint(i)))
		}
		if err == nil {
			err = b.checkApp(ctx, a)
		}
		if err != nil {
			return fmt.Errorf("app %s: %w", a.from, err)
		}
		for _, other := range b.apps[:i] {
			if other.Name == a.Name {
				return fmt.Errorf("app %s: it is %s %s, and %s is %s %s: leave one out", a.from, a.Name, a.Version, other.from, other.Name, other.Version)
			}
		}
		b.manifest.Apps = append(b.manifest.Apps, a.App)
	}
	return nil
}

// buildApp builds the app in the folder dir into the folder out. The commands
// run where their sources are, as relative paths and Go's modules need it, so
// builds for several boards take turns.
func (b *build) buildApp(ctx context.Context, dir, out string) (tarball string, err error) {
	file := filepath.Join(dir, cga.BuildfileName)
	unlock, err := cache.Lock(ctx, file, b.Log)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	b.Log("building app %s", dir)
	var said bytes.Buffer
	env := append(b.goEnv(ctx), "GOFLAGS=-trimpath -buildvcs=false", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", oldest.Unix()))
	tarball, err = cga.Build(ctx, file, cga.Options{Out: out, Env: env, Output: &said})
	if err != nil && said.Len() > 0 {
		return "", fmt.Errorf("%w\n%s", err, bytes.TrimSpace(said.Bytes()))
	}
	return tarball, err
}

// checkApp checks an app's tarball, and notes what it is.
func (b *build) checkApp(ctx context.Context, a *app) error {
	name, err := cga.ParseName(filepath.Base(a.tarball))
	if err != nil {
		return err
	}
	f, err := os.Open(a.tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	contents, findings, err := cga.Inspect(ctx, f, cga.DefaultLimits)
	if err != nil {
		return err
	}
	var bad []string
	for _, f := range findings {
		if f.Severity == cga.Error {
			bad = append(bad, f.String())
		} else {
			b.Log("app %s: %v", name.App, f)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("a gateway would refuse it:\n%s", strings.Join(bad, "\n"))
	}
	about, err := describe(filepath.Dir(a.tarball), filepath.Base(a.tarball))
	if err != nil {
		return err
	}
	a.App, a.contents = App{name.App, name.Version, about.SHA256, about.Size}, contents
	if err := b.noteModules(f); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(a.tarball), err)
	}
	return nil
}

// noteModules adds the Go modules in a tarball's programs to the manifest.
func (b *build) noteModules(f io.ReadSeeker) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || h.FileInfo().Mode()&0o111 == 0 {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if info, err := buildinfo.Read(bytes.NewReader(data)); err == nil { // else it is not Go's
			b.addGoModules(info)
		}
	}
}

// addApps adds the tarballs to the root, which is complete but for them.
func (b *build) addApps(t *rootfs.Tree) error {
	for _, a := range b.apps {
		conf := path.Join("etc/supervisor/conf.d", a.Name+".conf")
		if e, err := t.Open(conf); err == nil {
			return fmt.Errorf("app %s: the root has a program %s already, from %s: rename the app, or leave out one of the two", a.from, a.Name, e.From)
		}
		if _, err := t.Open("usr/bin/python3"); err != nil && a.contents.Entry == "setup.py" {
			return fmt.Errorf("app %s: setup.py installs it, which needs the overlay python", a.from)
		}
		data, err := os.ReadFile(a.tarball)
		if err != nil {
			return err
		}
		name := cga.Name{App: a.Name, Version: a.Version}
		if err := t.File(path.Join(appsDir, name.File()), 0o644, data, "app "+a.from); err != nil {
			return err
		}
	}
	return nil
}

// blameApps adds to the error that the root is too large which apps there are,
// if it would fit without them. They are compressed already.
func (b *build) blameApps(err error) error {
	var large *disk.TooLarge
	if !errors.As(err, &large) || large.Partition != slot.A.RootPartition() {
		return err
	}
	apps := slices.Clone(b.apps)
	slices.SortStableFunc(apps, func(x, y app) int { return int(y.Size - x.Size) })
	var sum int64
	var list []string
	for _, a := range apps {
		sum += a.Size
		list = append(list, fmt.Sprintf("%s %.1f MB", a.Name, float64(a.Size)/1e6))
	}
	if large.Size-sum > large.Room {
		return err
	}
	return fmt.Errorf("%w; without the apps it would fit (%s): leave some out, and install them over the air", err, strings.Join(list, ", "))
}
