package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// installed is a base, a layer over it, and the other folders that an installer
// may write to, as real overlays make them.
type installed struct {
	t    testing.TB
	tmp  string
	base string
	dir  string // of the layer
}

func newInstalled(t testing.TB, base ...string) *installed {
	tmp := t.TempDir()
	w := &installed{t, tmp, filepath.Join(tmp, "base"), filepath.Join(tmp, "5")}
	for _, dir := range []string{w.base, w.dir, filepath.Join(w.dir, Root)} {
		mkdir(t, dir)
	}
	tree(t, w.base, base...)
	return w
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// tree makes files ("PATH" or "PATH=content"), links ("PATH>target") and folders
// ("PATH/").
func tree(t testing.TB, top string, files ...string) {
	t.Helper()
	for _, f := range files {
		name, data, _ := strings.Cut(f, "=")
		link, target, isLink := strings.Cut(name, ">")
		path := filepath.Join(top, link)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// run runs a shell script in an overlay with upper over lower.
func run(t testing.TB, upper, lower, script string) {
	t.Helper()
	tmp := t.TempDir()
	work, merged := upper+".work", filepath.Join(tmp, "merged")
	for _, dir := range []string{upper, work, merged} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off,metacopy=off,redirect_dir=off", lower, upper, work)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatalf("mount an overlay (%s): %v", options, err)
	}
	defer func() {
		if err := errors.Join(unix.Unmount(merged, 0), os.RemoveAll(work)); err != nil {
			t.Fatal(err)
		}
	}()
	shell(t, merged, script)
}

func shell(t testing.TB, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// install runs a script in the layer, whose folder is the current one.
func (w *installed) install(script string) {
	w.t.Helper()
	run(w.t, filepath.Join(w.dir, Root), w.base, script)
}

// dump lists a tree, a line for each name: type and content.
func dump(t testing.TB, top string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == top {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, path)
		switch {
		case d.IsDir():
			fmt.Fprintf(&b, "%s/ %o\n", name, info.Mode().Perm())
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			fmt.Fprintf(&b, "%s>%s\n", name, target)
			return err
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			fmt.Fprintf(&b, "%s=%s\n", name, data)
			return err
		default:
			fmt.Fprintf(&b, "%s %v\n", name, info.Mode())
		}
		marks, err := marksOf(path)
		if len(marks) > 0 {
			fmt.Fprintf(&b, "%s has %q\n", name, marks)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return b.String()
}
