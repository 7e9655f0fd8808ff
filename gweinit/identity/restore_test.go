package identity

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree lists what is below dir: names with modes and contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		line := name + " " + info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(data)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestRestore(t *testing.T) {
	r := Record{Files: map[string][]byte{"cik": []byte("CIK"), "keys/a": []byte("A"), "keys/b": []byte("B")}}
	for _, tt := range []struct {
		name     string
		prepare  func(dir string) error
		restored string
		err      string // parts, divided by "|"
		tree     string
	}{
		{"all is lost", func(string) error { return nil }, "cik keys/a keys/b", "",
			"cik -rw------- CIK\nkeys drwx------\nkeys/a -rw------- A\nkeys/b -rw------- B"},
		{"what is there stays as it is", func(dir string) error {
			if err := os.Mkdir(dir+"/keys", 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(dir+"/cik", nil, 0o644); err != nil {
				return err
			}
			return os.WriteFile(dir+"/keys/b", []byte("newer"), 0o640)
		}, "keys/a", "", "cik -rw-r--r-- \nkeys drwxr-xr-x\nkeys/a -rw------- A\nkeys/b -rw-r----- newer"},
		{"garbled by a repair of the disk", func(dir string) error {
			return os.WriteFile(dir+"/cik", []byte("C\x00\x00"), 0o600)
		}, "cik keys/a keys/b", "",
			"cik -rw------- CIK\ncik.garbled -rw------- C\x00\x00\nkeys drwx------\nkeys/a -rw------- A\nkeys/b -rw------- B"},
		{"links are not followed", func(dir string) error {
			if err := os.Symlink("../outside", dir+"/keys"); err != nil {
				return err
			}
			return os.Symlink("../nowhere", dir+"/cik")
		}, "", "keys/a in |keys is no folder|keys/b in ", "cik Lrwxrwxrwx\nkeys Lrwxrwxrwx"},
		{"nor links inside", func(dir string) error {
			if err := os.Mkdir(dir+"/elsewhere", 0o700); err != nil {
				return err
			}
			return os.Symlink("elsewhere", dir+"/keys")
		}, "cik", "keys is no folder", "cik -rw------- CIK\nelsewhere drwx------\nkeys Lrwxrwxrwx"},
		{"a file in place of a folder, and the reverse", func(dir string) error {
			if err := os.Mkdir(dir+"/cik", 0o700); err != nil {
				return err
			}
			return os.WriteFile(dir+"/keys", nil, 0o600)
		}, "", "keys is no folder", "cik drwx------\nkeys -rw------- "},
		{"rests of a boot that was cut short", func(dir string) error {
			if err := os.WriteFile(dir+"/.cik.restore", []byte("CI"), 0o600); err != nil {
				return err
			}
			if err := os.Mkdir(dir+"/keys", 0o700); err != nil {
				return err
			}
			return os.Symlink("../../outside/x", dir+"/keys/.a.restore")
		}, "cik keys/a keys/b", "", "cik -rw------- CIK\nkeys drwx------\nkeys/a -rw------- A\nkeys/b -rw------- B"},
		{"one that fails", func(dir string) error { return os.MkdirAll(dir+"/.cik.restore/full", 0o700) },
			"keys/a keys/b", "restore cik in ", ".cik.restore drwx------\n.cik.restore/full drwx------\nkeys drwx------\nkeys/a -rw------- A\nkeys/b -rw------- B"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, outside := filepath.Join(t.TempDir(), "gwe"), ""
			outside = filepath.Join(filepath.Dir(dir), "outside")
			for _, d := range []string{dir, outside} {
				if err := os.Mkdir(d, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := tt.prepare(dir); err != nil {
				t.Fatal(err)
			}
			for _, wanted := range []string{tt.restored, ""} { // the second time there is nothing left to do
				got, err := Restore(r, dir)
				if !slices.Equal(got, strings.Fields(wanted)) {
					t.Errorf("restored %q, want %q", got, wanted)
				}
				if (err == nil) != (tt.err == "") {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				for _, part := range strings.Split(tt.err, "|") {
					if err != nil && !strings.Contains(err.Error(), part) {
						t.Errorf("error %v, want %q", err, part)
					}
				}
				if got := tree(t, dir); got != tt.tree {
					t.Errorf("got\n%s\nwant\n%s", got, tt.tree)
				}
			}
			if got := tree(t, outside); got != "" {
				t.Errorf("outside there is now\n%s", got)
			}
		})
	}
}

func TestRestoreRefuses(t *testing.T) {
	dir := t.TempDir()
	r := Record{Files: map[string][]byte{"../cik": []byte(secret), "a/b/c": []byte(secret), "good": nil}}
	got, err := Restore(r, dir)
	if !slices.Equal(got, []string{"good"}) || err == nil || !strings.Contains(err.Error(), "relative clean path") ||
		!strings.Contains(err.Error(), "more than one folder") || strings.Contains(err.Error(), secret) {
		t.Errorf("restored %q, %v", got, err)
	}
	link := filepath.Join(t.TempDir(), "gwe")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, filepath.Join(dir, "good"), filepath.Join(dir, "none")} {
		if got, err := Restore(r, path); err == nil || got != nil {
			t.Errorf("into %s: restored %q, %v", path, got, err)
		}
	}
}
