package image

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/debian"
)

func TestSources(t *testing.T) {
	const want = `busybox 1:1.35.0-4+deb12u1 in busybox_1%3a1.35.0-4+deb12u1 for busybox-static 1:1.35.0-4+deb12u1+b1
ca-certificates 20250419~deb12u2 in ca-certificates_20250419~deb12u2 for ca-certificates 20250419~deb12u2
glibc 2.36-9+deb12u14 in glibc_2.36-9+deb12u14 for busybox-static 1:1.35.0-4+deb12u1+b1
linux 6.1.192-2 in linux_6.1.192-2 for linux-image-6.1.0-56-4kc-malta 6.1.192-2, busybox-static 1:1.35.0-4+deb12u1+b1
u-boot 2023.01+dfsg-2 in u-boot_2023.01+dfsg-2 for u-boot.bin
`
	got := ""
	for _, s := range sample().Sources() {
		got += fmt.Sprintf("%s %s in %s for %s\n", s.Name, s.Version, s.Folder, strings.Join(s.For, ", "))
	}
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

func TestCollect(t *testing.T) {
	cache, project := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(cache, "x_1.dsc"): "the description", filepath.Join(cache, "x_1.tar.xz"): "the source", filepath.Join(project, "boards/x/u-boot/fix.patch"): "a patch",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	src := &debian.Source{Files: []debian.File{
		{Name: "x_1.dsc", SHA256: sum("the description"), Path: filepath.Join(cache, "x_1.dsc")},
		{Name: "x_1.tar.xz", SHA256: sum("the source"), Path: filepath.Join(cache, "x_1.tar.xz")},
	}}
	compiled := func(more ...string) *Source {
		s := &Source{SHA256: map[string]string{"x_1.dsc": sum("the description"), "x_1.tar.xz": sum("the source"), "boards/x/u-boot/fix.patch": sum("a patch")}}
		for i := 0; i < len(more); i += 2 {
			s.SHA256[more[i]] = more[i+1]
		}
		return s
	}
	for _, tt := range []struct {
		name     string
		compiled *Source
		want     string
	}{
		{"as it was", compiled(), ""},
		{"a patch has changed", compiled("boards/x/u-boot/fix.patch", hash("0")), "boards/x/u-boot/fix.patch has SHA-256 " + sum("a patch") + ", want " + hash("0") + ": check out the commit"},
		{"a patch is gone", compiled("boards/x/u-boot/old.patch", hash("0")), "u-boot/old.patch: no such file or directory: check out the commit"},
		{"another source", compiled("x_1.tar.xz", hash("0")), "another archive made it"},
	} {
		dir := filepath.Join(t.TempDir(), "x_1")
		s := &SourcePackage{}
		if err := s.collect(src, dir); err != nil {
			t.Fatal(err)
		}
		err := s.collectOurs(tt.compiled, src, project, dir)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
			}
			continue
		}
		if err != nil || len(s.Files) != 3 || s.Files[0] != (File{"boards/x/u-boot/fix.patch", 7, sum("a patch")}) {
			t.Errorf("%s: got %+v, %v", tt.name, s.Files, err)
		}
		for _, f := range s.Files {
			text, err := os.ReadFile(filepath.Join(dir, f.Name))
			if err != nil || sum(string(text)) != f.SHA256 {
				t.Errorf("%s: %s has %q, %v", tt.name, f.Name, text, err)
			}
		}
	}
	src.Files[0].SHA256 = hash("0") // changed since it was checked
	if err := new(SourcePackage).collect(src, filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "x_1.dsc has SHA-256") {
		t.Errorf("damaged: %v", err)
	}
}
