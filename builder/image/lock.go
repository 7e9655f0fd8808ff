package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/builder/debian"
)

// loadLock reads the manifest whose versions are to be built again. The lock
// pins what comes from Debian; all else comes from the project's commit.
func (b *build) loadLock() error {
	if b.Lock == "" {
		return nil
	}
	l, err := ReadManifest(b.Lock)
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	for _, c := range []struct{ what, locked, wanted string }{
		{"board", l.Board, b.Board},
		{"architecture", l.Arch, b.board.Arch},
		{"Debian release", l.Suite, suite},
		// What the board takes may have changed since.
		{"kernel package", l.KernelPackage, b.board.Kernel.Package},
		{"U-Boot package", l.UBoot.Package, b.board.UBoot.Package},
	} {
		if c.locked != c.wanted {
			return b.lockError("is of %s %q, the image of %s is of %q", c.what, c.locked, b.Board, c.wanted)
		}
	}
	b.lock = l
	return nil
}

// lockError says what is wrong with the lock, and what to do instead.
func (b *build) lockError(format string, args ...any) error {
	return fmt.Errorf("lock %s %w: take the BOARD.json of another build, or build without lock", b.Lock, fmt.Errorf(format, args...))
}

// findKernel names the package of the kernel: the lock's, or the newest one,
// which the board's meta package depends on. No lock has a meta package, since
// nothing of it is on the image.
func (b *build) findKernel(ctx context.Context) (string, error) {
	const prefix = "linux-image-"
	if b.lock != nil {
		return prefix + b.lock.Kernel, nil
	}
	meta, err := b.repo.Lookup(ctx, b.board.Kernel.Package)
	if err != nil {
		return "", err
	}
	return meta[0].DependsOn(prefix)
}

// lookup finds packages, in the lock's versions or in the newest ones.
func (b *build) lookup(ctx context.Context, names ...string) ([]debian.Package, error) {
	if b.lock == nil {
		return b.repo.Lookup(ctx, names...)
	}
	var pkgs []debian.Package
	for _, name := range names {
		i := slices.IndexFunc(b.lock.Packages, func(p debian.Package) bool { return p.Name == name })
		if i < 0 {
			return nil, b.lockError("has no package %s, which %s asks for", name, b.asker(name))
		}
		pkgs = append(pkgs, b.lock.Packages[i])
	}
	return pkgs, nil
}

// asker says what wants the package.
func (b *build) asker(pkg string) string {
	for _, o := range b.overlays {
		for _, p := range o.Packages {
			if p.Name == pkg {
				return "overlay " + o.Name
			}
		}
	}
	return "board " + b.Board
}

// ubootSource gets the source of the board's U-Boot, in the lock's version or
// in that of the newest package.
func (b *build) ubootSource(ctx context.Context) (*debian.Source, error) {
	if b.lock == nil {
		pkg, err := b.repo.Lookup(ctx, b.board.UBoot.Package)
		if err != nil {
			return nil, err
		}
		src, err := b.repo.FetchSource(ctx, pkg[0].Source, pkg[0].SourceVersion)
		return src, b.withRemedy(err)
	}
	locked := b.lock.UBoot.Source
	if locked == nil {
		return nil, b.lockError("has no source of U-Boot, which board %s builds", b.Board)
	}
	src, err := b.repo.FetchSource(ctx, locked.Name, locked.Version)
	if err != nil {
		return nil, b.withRemedy(err)
	}
	return src, locked.check(src)
}

// check compares a source package with the one that was compiled.
func (s *Source) check(src *debian.Source) error {
	for _, f := range src.Files {
		if want := s.SHA256[f.Name]; f.SHA256 != want {
			return fmt.Errorf("%s has SHA-256 %s, the one that was compiled %s: another archive made it: delete %s, and name the mirror of then with mirror=URL",
				f.Path, f.SHA256, cmp.Or(want, "no such file"), filepath.Dir(f.Path))
		}
	}
	return nil
}

// withRemedy adds what to do when the mirror does not have what it is asked for.
func (b *build) withRemedy(err error) error {
	switch stale := (*debian.StaleError)(nil); {
	case !errors.Is(err, debian.ErrGone):
		return err
	case b.lock != nil:
		return fmt.Errorf("lock %s: %w: name a mirror that has old versions with mirror=URL, build where the cache still has it, or build without lock", b.Lock, err)
	case errors.As(err, &stale):
		return fmt.Errorf("%w: run again to take that", err)
	}
	return fmt.Errorf("%w: try again later, or name another mirror with mirror=URL", err)
}

// compareTools warns of other tools than the lock's: they may make another
// image of the same packages.
func (b *build) compareTools() {
	if b.lock == nil {
		return
	}
	var other []string
	if b.manifest.Go != b.lock.Go {
		other = append(other, fmt.Sprintf("%s (lock: %s)", b.manifest.Go, b.lock.Go))
	}
	for _, name := range slices.Sorted(maps.Keys(b.tools)) {
		if then := b.lock.Tools[name]; then != b.tools[name] {
			other = append(other, fmt.Sprintf("%s %s (lock: %s)", name, b.tools[name], cmp.Or(then, "none")))
		}
	}
	if other != nil {
		b.Log("warning: other tools than the lock's, so the image may differ: %s", strings.Join(other, ", "))
	}
}
