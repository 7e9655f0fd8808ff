package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/signing"
)

const imageUsage = `Leaves BOARD.img, BOARD.img.zst and BOARD.json in the output folder.
BOARD.json lists all that the image consists of; it is a CycloneDX document.
With -lock the kernel and all packages are those of an earlier BOARD.json: what
the cache has needs no network, the rest has to be on the mirror still.

  builder image -board qemu-arm64
  builder image -board qemu-mipsel -overlays "base busybox dev" -version 1.2.0
  builder image -board qemu-arm64 -apps "apps/sine ../door.v1.2.tar.gz"
  builder image -board qemu-arm64 -mirror "URL-OF-A-DEBIAN-MIRROR"
  builder image -board qemu-arm64 -lock out/qemu-arm64.json
  builder image -board qemu-arm64 -provision provision.yaml
  builder image -board qemu-arm64 -release -key FILE
`

func imageCommand(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var o image.Options
	where := commonFlags(flags, &o)
	overlays := flags.String("overlays", "base busybox", "`names` of overlays, folders in overlays/, later ones on top")
	apps := flags.String("apps", "", "`paths` of apps to install at the first boot: folders with a gwe-buildfile.json, or tarballs")
	flags.StringVar(&o.Version, "version", "", "version of the firmware (default: from the git commit)")
	flags.BoolVar(&o.Release, "release", false, "refuse what must not reach a customer")
	flags.StringVar(&o.Lock, "lock", "", "BOARD.json `file` of the build whose packages to take (default: the newest packages)")
	flags.StringVar(&o.Provision, "provision", "", "provision.yaml `file`, applied at the first boot; the image then has its secrets")
	key := flags.String("key", "", "secret key `file` of whose firmware the gateway takes; its FILE.pub goes into the image (default: the development key)")
	asJSON := flags.Bool("json", false, "print BOARD.json at the end")
	if err := parse(flags, args); err != nil {
		return err
	}
	trust, development, err := signing.Public(*key)
	if err != nil {
		return err
	}
	if o.Release && development { // everybody has it
		return errors.New("release: name your own key with key=FILE (make key key=FILE makes one)")
	}
	o.Trust = trust
	o.Overlays, o.Apps = strings.Fields(*overlays), strings.Fields(*apps)
	if err := where(); err != nil {
		return err
	}
	start := time.Now()
	m, err := image.Build(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: %d MB, %.1f MB compressed; slot %.1f MB; %.1f s\n", filepath.Join(o.Out, m.Image.Name),
		m.Image.Size>>20, float64(m.Compressed.Size)/1e6, float64(m.Slot.BootImage+m.Slot.Root)/1e6, time.Since(start).Seconds())
	if *asJSON {
		return m.Encode(os.Stdout)
	}
	return nil
}

const cacheName = "gateway-engine"

// commonFlags are those of the commands that fetch packages. The function that
// it returns is called when they have been parsed.
func commonFlags(flags *flag.FlagSet, o *image.Options) (parsed func() error) {
	o.Project, o.Log = ".", progress(os.Stderr)
	if isTerminal(os.Stderr) {
		o.Progress = bar(os.Stderr)
	}
	flags.StringVar(&o.Board, "board", "", "`name` of the board, a folder in boards/")
	mirror := flags.String("mirror", "", "`URLs` of the Debian archive and its security archive (default: those of the host's apt)")
	flags.StringVar(&o.Out, "out", "out", "output `folder`")
	flags.StringVar(&o.Cache, "cache", "", "`folder` for downloads and finished stages (default: "+filepath.Join("~", ".cache", cacheName)+")")
	return func() error {
		o.Mirrors = strings.Fields(*mirror)
		if o.Cache != "" {
			return nil
		}
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("%w: say where to keep downloads with -cache", err)
		}
		o.Cache = filepath.Join(cache, cacheName)
		return nil
	}
}

// progress prints one line an event, with the time since the start.
func progress(w *os.File) func(string, ...any) {
	start := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(w, "%6.1f s  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
}

// bar draws a bar on a terminal, and removes it at the end.
func bar(w io.Writer) func(done, total int64) {
	const width = 40
	return func(done, total int64) {
		if done == total {
			fmt.Fprint(w, "\r\x1b[K")
			return
		}
		full := int(done * width / total)
		fmt.Fprintf(w, "\r          [%s%s] %.1f of %.1f MB", strings.Repeat("#", full), strings.Repeat(".", width-full), float64(done)/1e6, float64(total)/1e6)
	}
}

const boardsUsage = `  builder boards
  builder boards -json
`

func boardsCommand(_ context.Context, flags *flag.FlagSet, args []string) error {
	asJSON := flags.Bool("json", false, "print a JSON array")
	if err := parse(flags, args); err != nil {
		return err
	}
	names, err := board.List("boards")
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("there is no folder boards/ with boards here: run in the project's folder")
	}
	type row struct {
		Name        string `json:"name"`
		Arch        string `json:"arch"`
		Kernel      string `json:"kernel"`
		Description string `json:"description"`
	}
	var rows []row
	for _, name := range names {
		b, err := board.Load("boards", name)
		if err != nil {
			return err
		}
		rows = append(rows, row{b.Name, b.Arch, b.Kernel.Package, b.Description})
	}
	if *asJSON {
		return printJSON(rows)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Name, r.Arch, r.Kernel, r.Description)
	}
	return t.Flush()
}

const setupUsage = `Installs with apt-get, as root or with sudo, what the host lacks; nothing if
all is there.

  builder setup -board qemu-arm64
  builder setup -board "qemu-arm64 qemu-mipsel" -boot -test
`

// hostPackages have the tools that every image is made with.
func hostPackages() []string {
	return []string{
		"debian-archive-keyring", "device-tree-compiler", "dosfstools", "dpkg-dev", "e2fsprogs", "git", "gpgv",
		"kmod", "mtools", "patch", "squashfs-tools", "u-boot-tools", "xz-utils",
	}
}

// testPackages have the tools that the tests check with.
func testPackages() []string {
	return []string{"bmap-tools", "busybox-static", "chromium", "cpio", "cryptsetup-bin", "curl", "dnsmasq-base", "fdisk", "gdisk", "gnupg", "minisign", "mosquitto-clients", "python3", "supervisor", "zbar-tools", "zstd"}
}

func setupCommand(ctx context.Context, flags *flag.FlagSet, args []string) error {
	boards := flags.String("board", "", "`names` of the boards to build")
	boot := flags.Bool("boot", false, "also what booting the boards in QEMU needs")
	test := flags.Bool("test", false, "also what the tests need")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *boards == "" && !*test {
		_, err := board.Load("boards", "")
		return err
	}
	packages := hostPackages()
	if *test {
		packages = append(packages, testPackages()...)
	}
	for _, name := range strings.Fields(*boards) {
		b, err := board.Load("boards", name)
		if err != nil {
			return err
		}
		if *boot {
			packages = append(packages, b.Machine.Packages...)
		}
		if b.UBoot.Build != nil {
			packages = append(packages, b.UBoot.Build.Packages...)
		}
	}
	slices.Sort(packages)
	return debian.Install(ctx, progress(os.Stderr), slices.Compact(packages)...)
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
