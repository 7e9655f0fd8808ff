package debian

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// buildDeb makes a package of the given files and returns its path.
func buildDeb(t *testing.T, control string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	writeFiles(t, dir, map[string]string{"DEBIAN/control": control + "Maintainer: Test <test@example.invalid>\nDescription: test\n"})
	deb := filepath.Join(t.TempDir(), "test.deb")
	command(t, dir, "dpkg-deb", "--build", "--root-owner-group", ".", deb)
	return deb
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func command(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

func TestWalk(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16) // more than a pipe holds
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"DEBIAN/control": "Package: test\nVersion: 1\nArchitecture: all\nMaintainer: Test <test@example.invalid>\nDescription: test\n",
		"a/hello":        "hello",
		"b/big":          big,
	})
	if err := errors.Join(os.Link(dir+"/a/hello", dir+"/a/same"), os.Symlink("../a/hello", dir+"/b/link")); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(t.TempDir(), "test.deb")
	command(t, dir, "dpkg-deb", "--build", "--root-owner-group", ".", deb)

	got := map[string]string{}
	err := Walk(t.Context(), deb, func(h *tar.Header, r io.Reader) error {
		text, err := io.ReadAll(r)
		got[h.Name] = string(h.Typeflag) + h.Linkname + string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "5", "a/hello": "0hello", "a/same": "1a/hello", "b": "5", "b/big": "0" + big, "b/link": "2../a/hello"}
	if !reflect.DeepEqual(got, want) {
		delete(got, "b/big")
		t.Errorf("got %q", got)
	}

	n := 0
	if err := Walk(t.Context(), deb, func(*tar.Header, io.Reader) error { n++; return ErrStop }); err != nil || n != 1 {
		t.Errorf("stopped: %d visits, %v", n, err)
	}
	if err := Walk(t.Context(), deb, func(*tar.Header, io.Reader) error { return os.ErrInvalid }); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("the visitor's error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Walk(ctx, deb, func(_ *tar.Header, r io.Reader) error { cancel(); <-ctx.Done(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}

	whole, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"empty": nil, "cut": whole[:len(whole)-200], "other": []byte("hello, world, this is no package")} {
		bad := filepath.Join(t.TempDir(), name+".deb")
		if err := os.WriteFile(bad, text, 0o644); err != nil {
			t.Fatal(err)
		}
		err := Walk(t.Context(), bad, func(_ *tar.Header, r io.Reader) error { io.Copy(io.Discard, r); return nil })
		checkErr(t, err, bad+": dpkg-deb")
	}
	checkErr(t, Walk(t.Context(), "/nonexistent.deb", nil), "/nonexistent.deb")
}
