//go:build qemu

package stories

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/exosite/gwe/builder/image"
)

// The same sources give the same bytes: built in another folder, by nothing
// but the downloads, in another time zone and language, with other permissions
// for new files. With build_uboot=1 this includes U-Boot.
func TestReproducible(t *testing.T) {
	t.Parallel() // with the waiting of TestWatchdog
	builder := builderProgram(t)
	for _, name := range sample { // not at once: each takes both cores
		t.Run(name, func(t *testing.T) {
			b := buildOf(t, name)
			dir, cache, out := projectCopy(t), coldCache(t), t.TempDir()
			if os.Getenv("build_uboot") == "" {
				keepUBoot(t, cache)
			}
			cmd := exec.Command("sh", "-c", `umask 077; exec "$@"`, "sh", builder, "image", "-json", "-board", name, "-overlays", "base busybox dev",
				"-version", "1.0.0", "-mirror", os.Getenv("mirror"), "-cache", cache, "-out", out)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "TZ=Pacific/Kiritimati", "LC_ALL=C.UTF-8", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.Epoch), "GOCACHE="+t.TempDir())
			var said bytes.Buffer
			cmd.Stderr = &said
			text, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, said.String())
			}
			m, err := image.Decode(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if m.Image != b.Image || m.Compressed != b.Compressed {
				t.Errorf("the image is %+v, compressed %+v; the other one %+v, %+v", m.Image, m.Compressed, b.Image, b.Compressed)
				for i, p := range m.Partitions {
					if other := b.Partitions[i]; p != other {
						t.Errorf("partition %s: %+v\nthe other: %+v", p.Name, p, other)
					}
				}
			}
			first, err := os.ReadFile(filepath.Join(b.out, name+".json"))
			if err != nil || !bytes.Equal(first, text) {
				t.Errorf("%s.json differs, %v", name, err)
			}
		})
	}
}

// keepUBoot gives a cold cache the U-Boots of the user's one.
func keepUBoot(t testing.TB, cache string) {
	t.Helper()
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(user, "gateway-engine", "u-boot"), filepath.Join(cache, "u-boot")); err != nil {
		t.Fatal(err)
	}
}
