package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/cache"
	"github.com/exosite/gwe/builder/debian"
)

// SourcePackage is a Debian source package that belongs to an image.
type SourcePackage struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	For     []string `json:"for"`             // the binary packages, each with its version
	Folder  string   `json:"folder"`          // below the one of all
	Files   []File   `json:"files,omitempty"` // names are relative to Folder; none before it is collected
}

// Sources lists the source packages that belong to the image, by name: those
// that its packages were built from, and those that have a part in them.
func (m *Manifest) Sources() []SourcePackage {
	byRef := map[debian.SourceRef]*SourcePackage{}
	add := func(s debian.SourceRef, binary string) {
		p := byRef[s]
		if p == nil {
			p = &SourcePackage{Name: s.Name, Version: s.Version, Folder: s.Name + "_" + strings.ReplaceAll(s.Version, ":", "%3a")}
			byRef[s] = p
		}
		if !slices.Contains(p.For, binary) {
			p.For = append(p.For, binary)
		}
	}
	for _, p := range m.Packages {
		for _, s := range append([]debian.SourceRef{{Name: p.Source, Version: p.SourceVersion}}, p.BuiltUsing...) {
			add(s, p.Name+" "+p.Version)
		}
	}
	if s := m.UBoot.Source; s != nil {
		add(debian.SourceRef{Name: s.Name, Version: s.Version}, UBootFile)
	}
	var all []SourcePackage
	for _, p := range byRef {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b SourcePackage) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return all
}

// SourcesDir is the folder for the sources of the image of board in out.
func SourcesDir(out, board string) string { return filepath.Join(out, board+"-sources") }

// sourcesIndex is the file that lists what is in the folder.
const sourcesIndex = "index.json"

// CollectSources collects the sources that belong to the image of o.Board in
// o.Out, each in a folder of its own, and a list of them. The folder appears
// when it is complete; what could be downloaded stays in the cache. Of the
// options it heeds only those that say where things are.
func CollectSources(ctx context.Context, o Options) ([]SourcePackage, error) {
	if _, err := board.Load(filepath.Join(o.Project, "boards"), o.Board); err != nil {
		return nil, err
	}
	manifest := filepath.Join(o.Out, o.Board+".json")
	if _, err := os.Stat(manifest); err != nil { // no lock without an image
		return nil, err
	}
	unlock, err := cache.Lock(ctx, filepath.Join(o.Out, "."+o.Board+".lock"), o.Log)
	if err != nil {
		return nil, fmt.Errorf("folder of the image: %w", err)
	}
	defer unlock()
	m, err := ReadManifest(manifest)
	if err != nil {
		return nil, err
	}
	repo, err := debian.Open(ctx, debian.Config{
		Dir: o.Cache, Suite: m.Suite, Arch: m.Arch, Mirrors: o.Mirrors, Old: true, Log: o.Log, Progress: o.Progress,
	})
	if err != nil {
		return nil, err
	}
	final := SourcesDir(o.Out, o.Board)
	tmp := filepath.Join(o.Out, "."+filepath.Base(final)+".tmp")
	if err := os.RemoveAll(tmp); err != nil { // of a run that was interrupted
		return nil, fmt.Errorf("folder for the sources: %w", err)
	}
	defer os.RemoveAll(tmp)
	all := m.Sources()
	var missing error
	for i := range all {
		s := &all[i]
		src, err := repo.FetchSource(ctx, s.Name, s.Version)
		if errors.Is(err, debian.ErrGone) {
			missing = errors.Join(missing, err) // and go on: the others are worth having
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := s.collect(src, filepath.Join(tmp, s.Folder)); err != nil {
			return nil, fmt.Errorf("source %s %s: %w", s.Name, s.Version, err)
		}
		if u := m.UBoot.Source; u != nil && u.Name == s.Name && u.Version == s.Version {
			if err := s.collectOurs(u, src, o.Project, filepath.Join(tmp, s.Folder)); err != nil {
				return nil, fmt.Errorf("what %s was built from: %w", UBootFile, err)
			}
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("not all sources can be had: name a mirror that has old versions with mirror=URL, collect where the cache has them, or build the image again and collect then:\n%w", missing)
	}
	text, err := json.MarshalIndent(struct {
		Board   string          `json:"board"`
		Version string          `json:"version"`
		Image   File            `json:"image"`
		Sources []SourcePackage `json:"sources"`
	}{m.Board, m.Version, m.Image, all}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tmp, sourcesIndex), append(text, '\n'), 0o644); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(final); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, final); err != nil {
		return nil, err
	}
	return all, sync(o.Out)
}

// collect puts the files of a source package, which FetchSource has checked,
// into folder dir.
func (s *SourcePackage) collect(src *debian.Source, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range src.Files {
		to := filepath.Join(dir, f.Name)
		if os.Link(f.Path, to) != nil { // on another file system, perhaps
			if err := copyFile(f.Path, to); err != nil {
				return err
			}
		}
		if err := s.add(dir, f.Name, f.SHA256); err != nil {
			return err
		}
	}
	return nil
}

// collectOurs adds the project's part in U-Boot, its patches and options.
func (s *SourcePackage) collectOurs(u *Source, src *debian.Source, project, dir string) error {
	if err := u.check(src); err != nil {
		return err
	}
	for name, sum := range u.SHA256 {
		if slices.ContainsFunc(src.Files, func(f debian.File) bool { return f.Name == name }) {
			continue
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			return err
		}
		if err := copyFile(filepath.Join(project, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("%v: check out the commit that the image was built from, or build it again", err)
		}
		if err := s.add(dir, name, sum); err != nil {
			return fmt.Errorf("%w: check out the commit that the image was built from, or build it again", err)
		}
	}
	slices.SortFunc(s.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// add notes a file of the folder, if it is the one that is wanted.
func (s *SourcePackage) add(dir, name, sum string) error {
	f, err := describe(dir, name)
	if err != nil {
		return err
	}
	if f.SHA256 != sum {
		return fmt.Errorf("%s has SHA-256 %s, want %s", name, f.SHA256, sum)
	}
	s.Files = append(s.Files, f)
	return nil
}
