package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLoadOverlay(t *testing.T) {
	for _, name := range []string{"base", "busybox", "dev"} {
		o, err := LoadOverlay("../..", name)
		if err != nil || o.Name != name || o.Release != (name != "dev") {
			t.Errorf("%s: got %+v, %v", name, o, err)
		}
	}
	// A name is a folder in overlays/, nothing else.
	for _, name := range []string{"", "bsae", "base/etc", "../overlays/base", "/tmp", "base/", ".", ".."} {
		_, err := LoadOverlay("../..", name)
		if err == nil || !strings.Contains(err.Error(), "unknown overlay") || !strings.Contains(err.Error(), "base busybox dev") {
			t.Errorf("%q: got %v, want the known ones", name, err)
		}
	}
}

// What an overlay needs comes with it, and before it, once.
func TestLoadOverlays(t *testing.T) {
	project := t.TempDir()
	for name, needs := range map[string]string{
		"base": "", "libc": "", "python": "libc", "robot": "python, base", "ring": "loop", "loop": "robot, ring", "lost": "nobody",
	} {
		dir := filepath.Join(project, "overlays", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "overlay.yaml"), []byte("description: x\nneeds: ["+needs+"]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		names string
		want  string // names, or of the error
	}{
		{"", ""},
		{"base libc", "base libc"},
		{"base python", "base libc python"},
		{"python libc base", "libc python base"},
		{"robot", "libc python base robot"},
		{"base base", "base"},
		{"base ring", "overlays need each other: ring, loop, ring"},
		{"lost", `overlay lost: needs: unknown overlay "nobody"`},
	} {
		all, err := LoadOverlays(project, strings.Fields(tt.names))
		var got []string
		for _, o := range all {
			got = append(got, o.Name)
		}
		if err != nil {
			if !strings.Contains(err.Error(), tt.want) || tt.want == "" {
				t.Errorf("%q: got %v, want %q", tt.names, err, tt.want)
			}
		} else if !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("%q: got %v, want %s", tt.names, got, tt.want)
		}
	}
}
