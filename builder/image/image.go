// Package image builds a board's firmware image, stage by stage. What a stage
// made is cached under what it was made from.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/cache"
	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/rootfs"
	"github.com/exosite/gwe/builder/uboot"
)

// suite is the Debian release that images are made of, whatever the host
// runs: it is the last one with 32-bit MIPS.
const suite = "bookworm"

// Options say what to build from what.
type Options struct {
	Project  string   // folder with boards, overlays and gweinit
	Board    string   // name
	Overlays []string // names, later ones on top
	Version  string   // "" takes it from the commit
	Release  bool     // refuse what must not reach a customer
	Mirrors  []string // of Debian; none: the host's
	Cache    string   // folder
	Out      string   // folder of the results
	Log      func(format string, args ...any)
	Progress func(done, total int64) // of a download, in bytes; may be nil
}

// Manifest is out/BOARD.json: all that the image consists of.
type Manifest struct {
	Board      string           `json:"board"`
	Version    string           `json:"version"`
	Epoch      int64            `json:"epoch"` // seconds since 1970, in all files
	Release    bool             `json:"release"`
	Overlays   []string         `json:"overlays"`
	Suite      string           `json:"suite"`
	Kernel     string           `json:"kernel"` // version, as uname -r prints it
	Packages   []debian.Package `json:"packages"`
	UBoot      UBoot            `json:"uboot"`
	Go         string           `json:"go"` // version of the compiler
	GoModules  []GoModule       `json:"go_modules"`
	Partitions []disk.Partition `json:"partitions"`
	Slot       SlotSize         `json:"slot"`
	Image      File             `json:"image"`
	Compressed File             `json:"compressed"`
}

// UBoot says which U-Boot runs before the image, and what it was built from
// when Debian's could not be used.
type UBoot struct {
	SHA256 string  `json:"sha256"`
	Source *Source `json:"source,omitempty"`
}

// Source is a Debian source package that the builder compiled.
type Source struct {
	Name    string            `json:"name"`
	Version string            `json:"version"`
	SHA256  map[string]string `json:"sha256"` // of its files, and of the project's patches and options
}

// SlotSize is how much of a slot is used, in bytes.
type SlotSize struct {
	BootImage int64 `json:"boot_image"`
	Root      int64 `json:"root"`
}

// GoModule is a module that is compiled into a program of the image.
type GoModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"`
}

// File is a file of the output.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// build is one run of Build.
type build struct {
	Options
	board    *board.Board
	overlays []*rootfs.Overlay
	cache    cache.Dir
	repo     *debian.Repo
	time     time.Time
	tmp      string
	manifest Manifest
	debs     map[string]string // path by package name
	tools    map[string]string // version of what the stages run, by host package
	// libraries are the versions of the modules in the builder.
	libraries string

	kernelPackage string
	kernel        kernelFiles
	initramfs     string
	bootImage     string
	root          string
	uboot         string
}

// Build builds the image into o.Out: BOARD.img, BOARD.img.zst, BOARD.json and,
// in BOARD/, what the board's QEMU machine needs beside it. Nothing has its
// final name before it is complete.
func Build(ctx context.Context, o Options) (*Manifest, error) {
	b := &build{Options: o, cache: cache.Dir{Path: o.Cache, Log: o.Log}, debs: map[string]string{}}
	if err := b.load(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, fmt.Errorf("folder for the image: %w", err)
	}
	b.tmp = filepath.Join(o.Out, "."+o.Board+".tmp")
	unlock, err := cache.Lock(ctx, filepath.Join(o.Out, "."+o.Board+".lock"), o.Log)
	if err != nil {
		return nil, fmt.Errorf("folder for the image: %w", err)
	}
	defer unlock()
	if err := os.RemoveAll(b.tmp); err != nil { // of a build that was interrupted
		return nil, fmt.Errorf("folder for the image: %w", err)
	}
	if err := os.Mkdir(b.tmp, 0o755); err != nil {
		return nil, fmt.Errorf("folder for the image: %w", err)
	}
	for _, stage := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"tools", b.findTools},
		{"packages", b.fetchPackages},
		{"U-Boot", b.makeUBoot},
		{"kernel", b.makeKernel},
		{"initramfs", b.makeInitramfs},
		{"boot image", b.makeBootImage},
		{"root", b.makeRoot},
		{"disk", b.makeDisk},
		{"results", b.publish},
	} {
		start := time.Now()
		if err := stage.run(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", stage.name, err), os.RemoveAll(b.tmp))
		}
		if d := time.Since(start); d > 100*time.Millisecond {
			b.Log("%-12s %5.1f s", stage.name, d.Seconds())
		}
	}
	return &b.manifest, os.RemoveAll(b.tmp)
}

func (b *build) load(ctx context.Context) error {
	var err error
	if b.board, err = board.Load(filepath.Join(b.Project, "boards"), b.Board); err != nil {
		return err
	}
	for _, name := range b.Overlays {
		o, err := LoadOverlay(b.Project, name)
		if err != nil {
			return err
		}
		if b.Release && !o.Release {
			return fmt.Errorf("overlay %s is not for a release image: leave it out, or build without release", name)
		}
		b.overlays = append(b.overlays, o)
	}
	rev, err := revisionOf(ctx, b.Project, b.Version)
	if err != nil {
		return err
	}
	if b.Release && strings.HasSuffix(rev.version, "dirty") {
		return fmt.Errorf("version %s: a release is built from a commit: commit the changes, or build without release", rev.version)
	}
	b.time = rev.time
	b.manifest = Manifest{
		Board: b.Board, Version: rev.version, Epoch: rev.time.Unix(), Release: b.Release,
		Overlays: b.Overlays, Suite: suite,
	}
	b.Log("image of %s, version %s, overlays %v", b.Board, rev.version, b.Overlays)
	return nil
}

// LoadOverlay loads one of the project's overlays.
func LoadOverlay(project, name string) (*rootfs.Overlay, error) {
	dir := filepath.Join(project, "overlays", name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || filepath.Base(name) != name || strings.Trim(name, ".") == "" {
		files, _ := filepath.Glob(filepath.Join(project, "overlays", "*", "overlay.yaml"))
		var known []string
		for _, f := range files {
			known = append(known, filepath.Base(filepath.Dir(f)))
		}
		return nil, fmt.Errorf("unknown overlay %q: there is no folder %s; known: %v", name, dir, known)
	}
	return rootfs.LoadOverlay(dir)
}

// recipe is part of every cache key: it changes when a stage does its work
// differently.
const recipe = "1"

// findTools notes the versions of the host's tools and of the libraries that
// make the cached outputs: another version may give other bytes.
func (b *build) findTools(ctx context.Context) error {
	packages := []string{"device-tree-compiler", "kmod", "squashfs-tools", "u-boot-tools"}
	if how := b.board.UBoot.Build; how != nil {
		packages = append(packages, how.Packages...)
	}
	var err error
	if b.tools, err = debian.Installed(ctx, packages...); err != nil {
		return err
	}
	for _, p := range packages {
		if b.tools[p] == "" {
			return fmt.Errorf("the host lacks the package %s: make board=%s setup", p, b.Board)
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			b.libraries += m.Path + " " + m.Version + "\n"
		}
	}
	return nil
}

// key is the cache key of an output that the host's tools make from the parts.
func (b *build) key(tools []string, parts ...string) string {
	all := []string{recipe}
	for _, t := range tools {
		all = append(all, t, b.tools[t])
	}
	return cache.Key(append(all, parts...)...)
}

// fetchPackages finds and downloads everything that comes as a Debian package.
func (b *build) fetchPackages(ctx context.Context) error {
	var err error
	b.repo, err = debian.Open(ctx, debian.Config{Dir: b.Cache, Suite: suite, Arch: b.board.Arch, Mirrors: b.Mirrors, Log: b.Log, Progress: b.Progress})
	if err != nil {
		return err
	}
	meta, err := b.repo.Lookup(ctx, b.board.Kernel.Package)
	if err != nil {
		return err
	}
	// The meta package names the kernel of the day.
	if b.kernelPackage, err = meta[0].DependsOn("linux-image-"); err != nil {
		return err
	}
	names := []string{b.kernelPackage}
	if b.board.UBoot.Build == nil {
		names = append(names, b.board.UBoot.Package)
	}
	for _, o := range b.overlays {
		for _, p := range o.Packages {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	pkgs, err := b.repo.Lookup(ctx, names...)
	if err != nil {
		return err
	}
	paths, err := b.repo.Fetch(ctx, pkgs...)
	if err != nil {
		return err
	}
	for i, p := range pkgs {
		b.debs[p.Name] = paths[i]
	}
	b.manifest.Packages = pkgs
	return nil
}

// sha returns the SHA-256 of a package's file.
func (b *build) sha(pkg string) string {
	i := slices.IndexFunc(b.manifest.Packages, func(p debian.Package) bool { return p.Name == pkg })
	return b.manifest.Packages[i].SHA256
}

func (b *build) makeDisk(ctx context.Context) error {
	script := filepath.Join(b.tmp, "boot.scr")
	if err := uboot.WriteScript(ctx, b.board, b.time, script); err != nil {
		return err
	}
	var err error
	b.manifest.Partitions, err = disk.Write(ctx, disk.Content{
		Boot:      map[string]string{"boot.scr": script},
		BootImage: b.bootImage,
		Root:      b.root,
		Time:      b.time,
	}, b.tmp, filepath.Join(b.tmp, b.Board+".img"))
	if err != nil {
		return err
	}
	for path, size := range map[string]*int64{b.bootImage: &b.manifest.Slot.BootImage, b.root: &b.manifest.Slot.Root} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		*size = info.Size()
	}
	return nil
}

// publish compresses the image and gives all results their final names. A
// manifest describes what is beside it, so the old one goes first, and the new
// one comes last.
func (b *build) publish(ctx context.Context) error {
	img, zst, manifest := b.Board+".img", b.Board+".img.zst", b.Board+".json"
	sum, err := disk.Compress(filepath.Join(b.tmp, img), filepath.Join(b.tmp, zst))
	if err != nil {
		return err
	}
	b.manifest.Image = File{img, disk.Size, sum}
	if b.manifest.Compressed, err = describe(b.tmp, zst); err != nil {
		return err
	}
	text, err := json.MarshalIndent(b.manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.tmp, manifest), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := copyFile(b.uboot, filepath.Join(b.tmp, UBootFile)); err != nil {
		return err
	}
	machine := filepath.Join(b.Out, b.Board)
	if err := os.MkdirAll(machine, 0o755); err != nil {
		return err
	}
	for _, name := range []string{img, zst, manifest, UBootFile} {
		if err := sync(filepath.Join(b.tmp, name)); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(b.Out, manifest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range []struct{ name, dir string }{{UBootFile, machine}, {img, b.Out}, {zst, b.Out}, {manifest, b.Out}} {
		if err := os.Rename(filepath.Join(b.tmp, f.name), filepath.Join(f.dir, f.name)); err != nil {
			return err
		}
		if err := sync(f.dir); err != nil {
			return err
		}
	}
	for _, stage := range []string{"kernel", "vmlinuz", "initramfs", "boot-image", "root", "u-boot"} {
		if err := b.cache.Prune(stage); err != nil {
			b.Log("%v", err)
		}
	}
	return nil
}

// sync makes a file or folder durable.
func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// UBootFile is the name of U-Boot in the output's folder BOARD.
const UBootFile = "u-boot.bin"

func describe(dir, name string) (File, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, fmt.Errorf("read back %s: %w", name, err)
	}
	return File{name, n, hex.EncodeToString(h.Sum(nil))}, nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
