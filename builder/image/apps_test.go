package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/rootfs"
)

// appBuild is a build of a board that has come as far as the apps.
func appBuild(t *testing.T, name string, apps ...string) *build {
	t.Helper()
	o := Options{Apps: apps, Log: func(string, ...any) {}}
	b := &build{Options: o, tmp: t.TempDir()}
	var err error
	if b.board, err = board.Load("../../boards", name); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *build) findAndMakeApps(ctx context.Context) error {
	if err := b.findApps(); err != nil {
		return err
	}
	return b.makeApps(ctx)
}

// members returns what is in a tarball, by name.
func members(t *testing.T, tarball string) map[string][]byte {
	t.Helper()
	f, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// The examples build for all boards, at the same time too, and a gateway takes
// them.
func TestExampleApps(t *testing.T) {
	examples := map[string][]string{
		"coffee-reporter": {"coffee_level.py", "install.sh", "report_coffee.py", "supervisor.conf"},
		"load-shell":      {"install.sh", "load.sh", "supervisor.conf"},
		"send-log":        {"install.sh"},
		"sine":            {"install.sh", "sine", "supervisor.conf"},
	}
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(examples)) {
		paths = append(paths, filepath.Join("../../apps", name))
	}
	names, err := board.List("../../boards")
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		name string
		*build
		err error
	}
	results := make(chan result)
	all := append(names, "again")
	for _, name := range all {
		b := appBuild(t, strings.Replace(name, "again", "qemu-mipsel", 1), paths...)
		go func() { results <- result{name, b, b.findAndMakeApps(t.Context())} }()
	}
	builds := map[string]*build{}
	for range all {
		r := <-results
		if r.err != nil {
			t.Errorf("%s: %v", r.name, r.err)
		} else {
			builds[r.name] = r.build
		}
	}
	if t.Failed() {
		return
	}
	for name, b := range builds {
		for i, app := range slices.Sorted(maps.Keys(examples)) {
			got := b.apps[i]
			if got.App != b.manifest.Apps[i] || got.Name != app || got.Version != "1.0" || len(got.SHA256) != 64 || got.Size == 0 || got.contents.Entry != "install.sh" {
				t.Errorf("%s: app %+v, manifest %+v", name, got, b.manifest.Apps[i])
			}
			files := members(t, got.tarball)
			if list := slices.Sorted(maps.Keys(files)); !slices.Equal(list, examples[app]) {
				t.Errorf("%s: %s has %v, want %v", name, app, list, examples[app])
			}
			for file, text := range files {
				if strings.HasSuffix(file, ".sh") && name == names[0] {
					check := exec.Command("sh", "-n")
					check.Stdin = bytes.NewReader(text)
					if out, err := check.CombinedOutput(); err != nil {
						t.Errorf("%s of %s: %v: %s", file, app, err, out)
					}
				}
			}
			if app == "sine" {
				info, err := buildinfo.Read(bytes.NewReader(files["sine"]))
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range info.Settings {
					if want := b.board.Go["GOARCH"]; s.Key == "GOARCH" && s.Value != want {
						t.Errorf("%s: sine is for %s, want %s", name, s.Value, want)
					}
				}
			}
		}
		if !slices.ContainsFunc(b.manifest.GoModules, func(m GoModule) bool { return m.Path == "golang.org/x/sys" }) {
			t.Errorf("%s: the modules in sine are not in the manifest: %v", name, b.manifest.GoModules)
		}
	}
	if !slices.Equal(builds["again"].manifest.Apps, builds["qemu-mipsel"].manifest.Apps) {
		t.Errorf("built twice: %+v\nand            %+v", builds["again"].manifest.Apps, builds["qemu-mipsel"].manifest.Apps)
	}
	if _, err := os.Stat("../../apps/sine/sine"); err == nil {
		t.Error("the program has been left in the sources")
	}
}

// folder makes an app's folder.
func folder(t *testing.T, dir, buildfile string, files ...string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, "gwe-buildfile.json") {
		text := "#!/bin/sh\n"
		if name == "gwe-buildfile.json" {
			text = buildfile
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAppsRefused(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	buildfile := func(name, version, commands string) string {
		return `{"name": "` + name + `", "version": "` + version + `", "includes": ["*.sh", "*.py"], "excludes": [], "pre_build_cmds": [` + commands + `], "post_build_cmds": []}`
	}
	write := func(name string) string {
		if err := os.WriteFile(in(name), []byte("no gzip"), 0o644); err != nil {
			t.Fatal(err)
		}
		return in(name)
	}
	door := folder(t, in("door"), buildfile("door", "1.0", ""), "install.sh")
	if err := os.Mkdir(in("empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		apps []string
		want []string
	}{
		{"not there", []string{in("none")}, []string{in("none"), "no such folder or tarball"}},
		{"no buildfile", []string{in("empty")}, []string{in("empty"), "gwe-buildfile.json"}},
		{"no name", []string{write("door.tar.gz")}, []string{in("door.tar.gz")}},
		{"no tarball", []string{write("door.v1.tar.gz")}, []string{in("door.v1.tar.gz")}},
		{"of Gateway Engine itself", []string{write("gwe.v1.tar.gz")}, []string{in("gwe.v1.tar.gz"), "gwe"}},
		{"no installer", []string{folder(t, in("bare"), buildfile("bare", "1", ""), "a.py")}, []string{in("bare"), "install.sh"}},
		{"a command fails", []string{folder(t, in("fails"), buildfile("fails", "1", `"echo no such compiler; exit 3"`), "install.sh")}, []string{in("fails"), "exit status 3", "no such compiler"}},
		{"two versions", []string{door, folder(t, in("door2"), buildfile("door", "2.0", ""), "install.sh")},
			[]string{"door2: it is door 2.0", in("door") + " is door 1.0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := appBuild(t, "qemu-arm64", tt.apps...).findAndMakeApps(t.Context())
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestAddApps(t *testing.T) {
	dir := t.TempDir()
	buildfile := `{"name": "NAME", "version": "1.2-3", "includes": ["*.sh", "*.py"], "excludes": [], "pre_build_cmds": [], "post_build_cmds": []}`
	door := folder(t, filepath.Join(dir, "door"), strings.Replace(buildfile, "NAME", "door", 1), "install.sh")
	library := folder(t, filepath.Join(dir, "library"), strings.Replace(buildfile, "NAME", "library", 1), "setup.py")
	for _, tt := range []struct {
		name, app, file string // of the root
		want            string // of the error; "": none
	}{
		{"app", door, "etc/passwd", ""},
		{"program of that name", door, "etc/supervisor/conf.d/door.conf", "has a program door already, from an overlay"},
		{"library with Python", library, "usr/bin/python3", ""},
		{"library without", library, "etc/passwd", "needs the overlay python"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := appBuild(t, "qemu-arm64", tt.app)
			if err := b.findAndMakeApps(t.Context()); err != nil {
				t.Fatal(err)
			}
			tree := rootfs.NewTree()
			if err := tree.File(tt.file, 0o644, nil, "an overlay"); err != nil {
				t.Fatal(err)
			}
			err := b.addApps(tree)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			e, err := tree.Open("usr/share/gweinit/apps/" + filepath.Base(tt.app) + ".v1.2-3.tar.gz")
			if err != nil || e.Mode != 0o644 || int64(len(e.Data)) != b.apps[0].Size {
				t.Errorf("got %v with %d bytes, %v", e.Mode, len(e.Data), err)
			}
		})
	}
}

// Apps are named when the root is too large because of them.
func TestBlameApps(t *testing.T) {
	b := &build{apps: []app{{App: App{Name: "small", Size: 2e6}}, {App: App{Name: "large", Size: 9e6}}}}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"they are the reason", &disk.TooLarge{Partition: "rootfs_a", Size: 30e6, Room: 24e6}, "without the apps it would fit (large 9.0 MB, small 2.0 MB)"},
		{"not without them either", &disk.TooLarge{Partition: "rootfs_a", Size: 40e6, Room: 24e6}, ""},
		{"the kernel", &disk.TooLarge{Partition: "kernel_a", Size: 17e6, Room: 16e6}, ""},
		{"something else", errors.New("no space left"), ""},
	} {
		got := b.blameApps(tt.err)
		if !errors.Is(got, tt.err) || tt.want == "" && got != tt.err || !strings.Contains(got.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, got, tt.want)
		}
	}
}
