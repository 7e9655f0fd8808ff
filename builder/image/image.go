// Package image builds a board's firmware image, stage by stage. What a stage
// made is cached under what it was made from.
package image

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/exosite/gwe/gweinit/config"
)

// suite is the Debian release that images are made of, whatever the host
// runs: it is the last one with 32-bit MIPS.
const suite = "bookworm"

// Options say what to build from what.
type Options struct {
	Project  string   // folder with boards, overlays and gweinit
	Board    string   // name
	Overlays []string // names, later ones on top
	Apps     []string // folders with a buildfile, or tarballs
	Version  string   // "" takes it from the commit
	Release  bool     // refuse what must not reach a customer
	Lock     string   // BOARD.json of the build whose packages to take; "" takes the newest
	// Provision is a provision.yaml that the image brings; "" leaves a blank one.
	Provision string
	// Trust is the text of a minisign public key file: whose firmware the gateway
	// takes. Without one it takes nobody's.
	Trust    []byte
	Mirrors  []string // of Debian; none: the host's
	Cache    string   // folder
	Out      string   // folder of the results
	Log      func(format string, args ...any)
	Progress func(done, total int64) // of a download, in bytes; may be nil
}

// build is one run of Build.
type build struct {
	Options
	board    *board.Board
	lock     *Manifest // nil without
	overlays []*rootfs.Overlay
	apps     []app
	cache    cache.Dir
	repo     *debian.Repo
	time     time.Time
	tmp      string
	manifest Manifest
	debs     map[string]string // path by package name
	tools    map[string]string // version of what the stages run, by host package
	// libraries are the versions of the modules in the builder.
	libraries string
	// provision is provision.yaml of the boot partition, as it was checked.
	provision []byte

	kernelPackage string
	kernel        kernelFiles
	initramfs     string
	bootImage     string
	data          string
	root          string // with its hash tree
	verity        string // what dm-verity has to know of the root
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
		{"apps", b.makeApps}, // before the downloads: mistakes are most likely here
		{"packages", b.fetchPackages},
		{"U-Boot", b.makeUBoot},
		{"kernel", b.makeKernel},
		{"initramfs", b.makeInitramfs},
		{"data", b.makeData},
		{"root", b.makeRoot},
		{"boot image", b.makeBootImage}, // it has the root's hash
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
	if b.overlays, err = LoadOverlays(b.Project, b.Overlays); err != nil {
		return err
	}
	b.Overlays = nil
	for _, o := range b.overlays {
		if b.Release && !o.Release {
			return fmt.Errorf("overlay %s is not for a release image: leave it out, or build without release", o.Name)
		}
		b.Overlays = append(b.Overlays, o.Name)
	}
	if err := b.findApps(); err != nil {
		return err
	}
	text, err := provisioning(b.Provision)
	if err != nil { // before the work of minutes
		return err
	}
	if b.Release {
		if err := checkProvisionKeys(text); err != nil {
			return fmt.Errorf("release: %s: %w", b.Provision, err)
		}
	}
	b.provision = text
	if err := b.loadLock(); err != nil {
		return err
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
		Board: b.Board, Arch: b.board.Arch, Version: rev.version, Epoch: rev.time.Unix(), Release: b.Release,
		Overlays: b.Overlays, Suite: suite, KernelPackage: b.board.Kernel.Package, UBoot: UBoot{Package: b.board.UBoot.Package},
	}
	b.Log("image of %s, version %s, overlays %v", b.Board, rev.version, b.Overlays)
	return nil
}

// LoadOverlays loads overlays of the project. Each comes behind those that it
// needs, which need not be named.
func LoadOverlays(project string, names []string) ([]*rootfs.Overlay, error) {
	var all []*rootfs.Overlay
	var add func(names, path []string) error
	add = func(names, path []string) error {
		for _, name := range names {
			if slices.Contains(path, name) {
				return fmt.Errorf("overlays need each other: %s", strings.Join(append(path, name), ", "))
			}
			if slices.ContainsFunc(all, func(o *rootfs.Overlay) bool { return o.Name == name }) {
				continue
			}
			o, err := LoadOverlay(project, name)
			if err != nil && len(path) > 0 {
				return fmt.Errorf("overlay %s: needs: %w", path[len(path)-1], err)
			} else if err != nil {
				return err
			}
			if err := add(o.Needs, append(path, name)); err != nil {
				return err
			}
			all = append(all, o)
		}
		return nil
	}
	return all, add(names, nil)
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
const recipe = "3"

// findTools notes the versions of the host's tools and of the libraries that
// make the outputs: another version may give other bytes.
func (b *build) findTools(ctx context.Context) error {
	packages := []string{"device-tree-compiler", "dosfstools", "e2fsprogs", "kmod", "mtools", "squashfs-tools", "u-boot-tools"}
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
	b.manifest.Tools = b.tools
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
	b.repo, err = debian.Open(ctx, debian.Config{
		Dir: b.Cache, Suite: suite, Arch: b.board.Arch, Mirrors: b.Mirrors, Old: b.lock != nil, Log: b.Log, Progress: b.Progress,
	})
	if err != nil {
		return err
	}
	if b.kernelPackage, err = b.findKernel(ctx); err != nil {
		return err
	}
	names := []string{b.kernelPackage}
	if b.board.UBoot.Build == nil {
		names = append(names, b.board.UBoot.Package)
	}
	if b.board.Firmware != nil {
		names = append(names, b.board.Firmware.Package)
	}
	for _, o := range b.overlays {
		for _, p := range o.Packages {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	pkgs, err := b.lookup(ctx, names...)
	if err != nil {
		return err
	}
	paths, err := b.repo.Fetch(ctx, pkgs...)
	if err != nil {
		return b.withRemedy(err)
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

// bootFiles makes what the boot partition holds: paths on the host by name.
func (b *build) bootFiles(ctx context.Context) (map[string]string, error) {
	dir := filepath.Join(b.tmp, "boot")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	files := map[string]string{}
	add := func(name string, write func(path string) error) error {
		for other := range files {
			if strings.EqualFold(name, other) { // in a FAT they are the same
				return fmt.Errorf("%s: firmware: two files of the boot partition are named %s", filepath.Join(b.board.Dir, "board.yaml"), name)
			}
		}
		files[name] = filepath.Join(dir, name)
		return write(files[name])
	}
	copyOf := func(file string) func(string) error { // disk.Write sets the times of what it gets
		return func(path string) error { return copyFile(file, path) }
	}
	err := errors.Join(
		add("boot.scr", func(path string) error { return uboot.WriteScript(ctx, b.board, b.time, path) }),
		add(disk.ProvisionFile, func(path string) error {
			return os.WriteFile(path, b.provision, 0o600)
		}),
	)
	fw := b.board.Firmware
	if err != nil || fw == nil {
		return files, err
	}
	own, err := b.board.FirmwareFiles()
	if err != nil {
		return nil, err
	}
	for name, file := range own {
		if err := add(name, copyOf(file)); err != nil {
			return nil, err
		}
	}
	for _, member := range fw.Files {
		err := add(filepath.Base(member), func(path string) error { return extract(ctx, b.debs[fw.Package], member, path) })
		if err != nil {
			return nil, err
		}
	}
	for _, dtb := range b.kernel.dtbs {
		if err := add(filepath.Base(dtb), copyOf(dtb)); err != nil {
			return nil, err
		}
	}
	return files, errors.Join(
		add(fw.UBoot, copyOf(b.uboot)),
		add(fw.Env, func(path string) error { return uboot.WriteEnv(ctx, b.board, nil, path) }),
	)
}

// provisioning returns the provision.yaml of the boot partition: the given one,
// checked as the device will, or a blank one.
func provisioning(file string) ([]byte, error) {
	if file == "" {
		return config.Blank(), nil
	}
	return ReadProvision(file)
}

// ReadProvision reads a provision.yaml, checks it as the device will, and
// returns it in the form in which it is on the boot partition.
func ReadProvision(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("provisioning: %w", err)
	}
	padded, err := config.File(text)
	if err != nil {
		return nil, fmt.Errorf("provisioning: %s:\n%w", file, err)
	}
	return padded, nil
}

func (b *build) makeDisk(ctx context.Context) error {
	files, err := b.bootFiles(ctx)
	if err != nil {
		return err
	}
	b.manifest.Partitions, err = disk.Write(ctx, disk.Content{
		Boot:      files,
		HybridMBR: b.board.Firmware != nil,
		BootImage: b.bootImage,
		Root:      b.root,
		Data:      b.data,
		Time:      b.time,
	}, b.tmp, filepath.Join(b.tmp, b.Board+".img"))
	if err != nil {
		return b.blameApps(err)
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
