package durable

import (
	"os"
	"path/filepath"
	"strings"
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
