//go:build qemu

package stories

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/signing"
)

// nowhere is a mirror that nobody can reach.
var nowhere = []string{"http://127.0.0.1:1/debian"}

// debsOf is a cache with nothing but the image's packages.
func debsOf(t *testing.T, b *build) string {
	t.Helper()
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "debs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range b.Packages {
		if out, err := exec.Command("cp", "-a", filepath.Join(user, "gateway-engine", "debs", p.SHA256), filepath.Join(dir, "debs")).CombinedOutput(); err != nil {
			t.Fatalf("copy a package: %v: %s", err, out)
		}
	}
	return dir
}

// writeLock writes a lock that differs from the image.
func writeLock(t *testing.T, b *build, change func(m *image.Manifest)) string {
	t.Helper()
	m := *b.Manifest
	m.Packages = slices.Clone(m.Packages)
	change(&m)
	path := filepath.Join(t.TempDir(), "lock.json")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.Encode(f); err != nil {
		t.Fatal(err)
	}
	return path
}

// Its BOARD.json builds an image again, to the byte, when the cache has the
// packages even without a network; and it says what it cannot build.
func TestLockedBuild(t *testing.T) {
	b := buildOf(t, "qemu-arm64")
	asBuilt := filepath.Join(b.out, "qemu-arm64.json")
	busybox := slices.IndexFunc(b.Packages, func(p debian.Package) bool { return p.Name == "busybox-static" })
	other := func(version, sha256 string) string {
		return writeLock(t, b, func(m *image.Manifest) {
			m.Packages[busybox].Version, m.Packages[busybox].SHA256 = version, sha256
		})
	}
	zero := strings.Repeat("0", 64)
	trust, _, err := signing.Public("")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, board, lock string
		mirrors           []string
		want              []string // of the error; none: the same image
		log               string
	}{
		{"offline", "qemu-arm64", asBuilt, nowhere, nil, ""},
		{"with another compiler", "qemu-arm64", writeLock(t, b, func(m *image.Manifest) { m.Go = "go1.0" }), nowhere, nil, "warning: other tools than the lock's, so the image may differ: " + b.Go + " (lock: go1.0)"},
		{"offline, and not in the cache", "qemu-arm64", other("1:0.1-1", zero), nowhere, []string{"the mirror cannot be reached"}, ""},
		{"a version that nobody has", "qemu-arm64", other("1:0.1-1", zero), mirrors(), []string{
			"lock.json", "package busybox-static version 1:0.1-1 is no longer on the mirror, which has 1:1.", "mirror=URL", "build without lock",
		}, ""},
		{"other bytes", "qemu-arm64", other(b.Packages[busybox].Version, zero), mirrors(), []string{"lock.json", "another SHA-256", "build without lock"}, ""},
		{"of another board", "qemu-mipsel", asBuilt, nowhere, []string{asBuilt, `board "qemu-arm64"`}, ""},
		{"no lock", "qemu-arm64", filepath.Join(b.out, b.Image.Name), nowhere, []string{b.Image.Name, "no JSON object"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log strings.Builder
			out := t.TempDir()
			m, err := image.Build(t.Context(), image.Options{
				Project: project, Board: tt.board, Overlays: b.Overlays, Version: "1.0.0", Lock: tt.lock, Trust: trust,
				Cache: debsOf(t, b), Out: out, Mirrors: tt.mirrors,
				Log: func(format string, args ...any) { fmt.Fprintf(&log, format+"\n", args...) },
			})
			if tt.want != nil {
				if err == nil {
					t.Fatal("it was built")
				}
				for _, want := range tt.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("the error lacks %q: %v", want, err)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.Image != b.Image || m.Compressed != b.Compressed {
				t.Errorf("another image: %+v", m.Image)
			}
			old, err := os.ReadFile(asBuilt)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := os.ReadFile(filepath.Join(out, "qemu-arm64.json")); err != nil || !bytes.Equal(again, old) {
				t.Errorf("another BOARD.json: %v\n%s", err, again)
			}
			if got := log.String(); strings.Contains(got, "updating") || !strings.Contains(got, tt.log) || tt.log == "" && strings.Contains(got, "warning") {
				t.Errorf("logged\n%s", got)
			}
		})
	}
}

// The sources of a small package and of the U-Boot that was built.
func TestSources(t *testing.T) {
	b := buildOf(t, "qemu-mipsel")
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	lock := writeLock(t, b, func(m *image.Manifest) {
		m.Packages = slices.DeleteFunc(m.Packages, func(p debian.Package) bool { return p.Name != "busybox-static" })
		m.Packages[0].BuiltUsing = nil
	})
	out, cache := t.TempDir(), t.TempDir()
	if err := os.Rename(lock, filepath.Join(out, "qemu-mipsel.json")); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command("cp", "-a", filepath.Join(user, "gateway-engine", "sources"), cache).CombinedOutput(); err != nil {
		t.Fatalf("copy the sources: %v: %s", err, msg)
	}
	o := image.Options{Project: project, Board: "qemu-mipsel", Cache: cache, Out: out, Log: t.Logf}
	for _, o.Mirrors = range [][]string{mirrors(), nowhere} { // the second time all is there
		all, err := image.CollectSources(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 2 || all[0].Name != "busybox" || all[1].Name != "u-boot" {
			t.Fatalf("got %+v", all)
		}
		for _, s := range all {
			for _, f := range s.Files {
				text, err := os.ReadFile(filepath.Join(image.SourcesDir(out, "qemu-mipsel"), s.Folder, f.Name))
				if err != nil || sha(text) != f.SHA256 {
					t.Errorf("%s: %v", f.Name, err)
				}
			}
		}
		if f := all[1].Files[0].Name; !strings.HasPrefix(f, "boards/qemu-mipsel/u-boot/") {
			t.Errorf("the project's part in U-Boot is missing: %s", f)
		}
	}
}
