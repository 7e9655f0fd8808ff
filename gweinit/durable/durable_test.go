package durable

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "network.yaml")
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		prepare func() error
	}{
		{"new", func() error { return nil }},
		{"over one with another mode", func() error { return os.Chmod(path, 0o444) }},
		{"left by a power cut", func() error { return os.WriteFile(filepath.Join(dir, ".network.yaml.new"), []byte("torn"), 0o400) }},
		{"a link in the way", func() error { return os.Symlink(outside, filepath.Join(dir, ".network.yaml.new")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.prepare(); err != nil {
				t.Fatal(err)
			}
			if err := WriteFile(path, []byte(tt.name), 0o640); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			info, err2 := os.Lstat(path)
			if err != nil || err2 != nil || string(got) != tt.name || info.Mode() != 0o640 {
				t.Errorf("got %q, %v, %v, %v", got, info.Mode(), err, err2)
			}
			if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
				t.Errorf("the folder has %v, %v", names, err)
			}
		})
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "outside" {
		t.Errorf("the file outside: %q, %v", got, err)
	}
}

// What a power cut has left beside a file goes, and nothing else.
func TestTidy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "timezone")
	for _, name := range []string{"timezone", ".timezone.new", ".other.new"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := Tidy(path); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || strings.Join(names, " ") != filepath.Join(dir, ".other.new")+" "+path {
		t.Errorf("the folder has %q, %v", names, err)
	}
}

// Several processes may want the same folder.
func TestMakeFolderTogether(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "a/b/c")
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() { errs <- MakeFolder(path, 0o700) }()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestMakeFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a/b/c")
	for range 2 {
		if err := MakeFolder(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"file", "file/below"} {
		if err := MakeFolder(filepath.Join(dir, path), 0o700); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

// A write that fails leaves the file as it is, and nothing beside it.
func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder") // cannot be renamed over
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	err := WriteFile(folder, []byte("x"), 0o600)
	if err == nil || !strings.Contains(err.Error(), folder) {
		t.Errorf("got %v, want an error that names %s", err, folder)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("the folder has %v, %v", names, err)
	}
	if err := WriteFile(filepath.Join(dir, "missing", "x"), nil, 0o600); err == nil {
		t.Error("a folder that is not there: no error")
	}
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe") // without a writer, reading it never ends
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(path, 5); string(got) != "12345" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, tt := range []struct{ path, want string }{
		{path + "y", "no such file"},
		{pipe, "no regular file"},
		{link, "no regular file"},
		{dir, "no regular file"},
	} {
		if got, err := ReadFile(tt.path, 5); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %q, %v, want %q", tt.path, got, err, tt.want)
		}
	}
	if got, err := ReadFile(path, 4); err == nil || !strings.Contains(err.Error(), "more than 4 bytes") {
		t.Errorf("%q, %v", got, err)
	}
}
