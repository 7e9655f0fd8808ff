package image

import (
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
