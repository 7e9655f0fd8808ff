package image

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/rootfs"
)

// locked is a build of qemu-mipsel with a lock, loaded.
func locked(t *testing.T, lock *Manifest) (*build, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lock.json")
	if err := os.WriteFile(path, encode(t, lock), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &build{Options: Options{Board: "qemu-mipsel", Lock: path}, board: &board.Board{Arch: "mipsel"}}
	b.board.Kernel.Package, b.board.UBoot.Package = "linux-image-4kc-malta", "u-boot-qemu"
	b.overlays = []*rootfs.Overlay{{Name: "busybox", Packages: []rootfs.PackageFiles{{Name: "busybox-static"}, {Name: "less"}}}}
	return b, b.loadLock()
}

func TestLock(t *testing.T) {
	b, err := locked(t, sample())
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := b.findKernel(t.Context())
	if err != nil || kernel != "linux-image-6.1.0-56-4kc-malta" {
		t.Errorf("kernel %s, %v", kernel, err)
	}
	pkgs, err := b.lookup(t.Context(), "busybox-static", kernel)
	if err != nil || pkgs[0].Version != "1:1.35.0-4+deb12u1+b1" || pkgs[1].SHA256 != hash("1") {
		t.Errorf("got %+v, %v", pkgs, err)
	}
	for name, want := range map[string]string{
		"less":           "has no package less, which overlay busybox asks for: ",
		"raspi-firmware": "has no package raspi-firmware, which board qemu-mipsel asks for: ",
	} {
		_, err := b.lookup(t.Context(), "busybox-static", name)
		checkLockErr(t, b, err, want)
	}
	b.lock.UBoot.Source = nil
	_, err = b.ubootSource(t.Context())
	checkLockErr(t, b, err, "has no source of U-Boot, which board qemu-mipsel builds: ")
}

func checkLockErr(t *testing.T, b *build, err error, want string) {
	t.Helper()
	want = "lock " + b.Lock + " " + want
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "or build without lock") {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLockOfAnother(t *testing.T) {
	for _, tt := range []struct {
		change func(*Manifest)
		want   string
	}{
		{func(m *Manifest) { m.Board = "qemu-arm64" }, `is of board "qemu-arm64", the image of qemu-mipsel is of "qemu-mipsel": `},
		{func(m *Manifest) { m.Arch = "mips64el" }, `is of architecture "mips64el", the image of qemu-mipsel is of "mipsel": `},
		{func(m *Manifest) { m.Suite = "trixie" }, `is of Debian release "trixie"`},
		{func(m *Manifest) { m.KernelPackage = "linux-image-octeon" }, `is of kernel package "linux-image-octeon"`},
		{func(m *Manifest) { m.UBoot.Package = "u-boot-rpi" }, `is of U-Boot package "u-boot-rpi"`},
	} {
		m := sample()
		tt.change(m)
		b, err := locked(t, m)
		checkLockErr(t, b, err, tt.want)
	}
}

func TestSourceCheck(t *testing.T) {
	s := sample().UBoot.Source
	src := &debian.Source{Files: []debian.File{{Name: "u-boot_2023.01+dfsg-2.dsc", SHA256: hash("5"), Path: "/cache/u-boot/u-boot.dsc"}}}
	if err := s.check(src); err != nil {
		t.Error(err)
	}
	src.Files[0].SHA256 = hash("0")
	if err := s.check(src); err == nil || !strings.Contains(err.Error(), "has SHA-256 "+hash("0")+", the one that was compiled "+hash("5")) || !strings.Contains(err.Error(), "delete /cache/u-boot,") {
		t.Errorf("got %v", err)
	}
}

func TestRemedy(t *testing.T) {
	stale := fmt.Errorf("fetching: %w", &debian.StaleError{Name: "one", Version: "1", Has: []string{"2"}})
	gone := fmt.Errorf("fetching: %w", debian.ErrGone)
	for _, tt := range []struct {
		lock *Manifest
		err  error
		want string
	}{
		{nil, stale, "which has 2 now: run again to take that"},
		{nil, gone, "try again later"},
		{nil, os.ErrClosed, "file already closed"},
		{sample(), stale, "lock out/x.json: fetching: package one version 1 is no longer on the mirror, which has 2 now: name a mirror that has old versions with mirror=URL"},
		{sample(), gone, "lock out/x.json: fetching: "},
		{sample(), os.ErrClosed, "file already closed"},
	} {
		b := &build{Options: Options{Lock: "out/x.json"}, lock: tt.lock}
		if err := b.withRemedy(tt.err); !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
	if (&build{}).withRemedy(nil) != nil {
		t.Error("no error became one")
	}
}

func TestCompareTools(t *testing.T) {
	var log []string
	b := &build{tools: map[string]string{"squashfs-tools": "1:4.6.1-1", "mtools": "4.0.43-1"}}
	b.Log = func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
	b.manifest.Go = "go1.26.8"
	b.compareTools() // no lock
	b.lock = sample()
	b.compareTools()
	if log != nil {
		t.Errorf("the same tools: %q", log)
	}
	b.tools["squashfs-tools"], b.tools["gcc"], b.manifest.Go = "1:5", "12", "go1.27"
	b.compareTools()
	want := "warning: other tools than the lock's, so the image may differ: go1.27 (lock: go1.26.8), gcc 12 (lock: none), squashfs-tools 1:5 (lock: 1:4.6.1-1)"
	if !slices.Equal(log, []string{want}) {
		t.Errorf("got  %q\nwant %q", log, want)
	}
}
