package bundle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLoadKeys(t *testing.T) {
	_, first := key(t, trustedKey)
	_, second := key(t, otherKey)
	one, two := first[0].String(), second[0].String()
	const bad = "this is no public key of minisign: that is 56 characters that begin with RW"
	for _, tt := range []struct {
		name  string
		files map[string]string
		paths string
		ids   string
		errs  []string
	}{
		{"nothing", nil, "a.pub dir", "", nil},
		{"as minisign writes it", map[string]string{"a.pub": "untrusted comment: minisign public key " + trustedID + "\n" + one + "\n"}, "a.pub", trustedID, nil},
		{"lines", map[string]string{"a.pub": one + "\r\n\n  " + two}, "a.pub", trustedID + " " + otherID, nil},
		{"comments", map[string]string{"a.pub": "untrusted comment: a\n" + two + "\nuntrusted comment: b\n" + one}, "a.pub", otherID + " " + trustedID, nil},
		{"folder", map[string]string{"dir/b.pub": one, "dir/a.pub": two, "dir/c.key": "secret"}, "dir", otherID + " " + trustedID, nil},
		{"several, one twice", map[string]string{"dir/b.pub": one, "a.pub": one + "\n" + two}, "a.pub none dir", trustedID + " " + otherID, nil},
		{"garbled line", map[string]string{"a.pub": one + "\n" + two[:55] + "\n"}, "a.pub", trustedID, []string{"firmware keys: a.pub: line 2: " + bad}},
		{"garbled file", map[string]string{"dir/a.pub": "\x00\xff", "dir/b.pub": two}, "dir", otherID, []string{"dir/a.pub: line 1: " + bad}},
		{"secret key", map[string]string{"a.pub": trustedKey}, "a.pub", "", []string{bad}},
		{"another algorithm", map[string]string{"a.pub": "RX" + one[2:]}, "a.pub", "", []string{bad}},
		{"folder where a file should be", map[string]string{"dir/a.pub/x": "", "dir/b.pub": one}, "dir", trustedID, []string{"dir/a.pub: is a directory"}},
		{"empty", map[string]string{"a.pub": ""}, "a.pub", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for name, text := range tt.files {
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			keys, err := LoadKeys(strings.Fields(tt.paths)...)
			if got := keys.IDs(); !slices.Equal(got, strings.Fields(tt.ids)) {
				t.Errorf("keys %v, want %s", got, tt.ids)
			}
			if (err == nil) != (len(tt.errs) == 0) {
				t.Errorf("error %v, want %q", err, tt.errs)
			}
			for _, want := range tt.errs {
				if err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			}
		})
	}
}

func FuzzKeys(f *testing.F) {
	_, keys := key(f, trustedKey)
	f.Add([]byte("untrusted comment: x\n" + keys[0].String()))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, _ := ParseKeys(text)
		for _, k := range keys {
			if !strings.Contains(string(text), k.String()) {
				t.Fatalf("%s is not in %q", k, text)
			}
		}
	})
}
