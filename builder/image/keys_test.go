package image

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/rootfs"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/bundle"
)

// newKey returns a public key file's text, and the key's ID.
func newKey(t *testing.T) (text []byte, id string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if _, err := signing.Create(file, nil); err != nil {
		t.Fatal(err)
	}
	text, _, err := signing.Public(file)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := bundle.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return text, keys.IDs()[0]
}

const developmentID = "13B34B1824B3D4F1"

// What the root trusts is noted; of a release it is what its maker alone can sign
// with.
func TestAddKeys(t *testing.T) {
	a, idA := newKey(t)
	b, idB := newKey(t)
	development, _, err := signing.Public("")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, data []byte) func(*rootfs.Tree) error {
		return func(t *rootfs.Tree) error { return t.File(name, 0o644, data, "overlays/acme/"+name) }
	}
	link := func(name, target string) func(*rootfs.Tree) error {
		return func(t *rootfs.Tree) error { return t.Link(name, target, "overlays/acme/"+name) }
	}
	const folder = "etc/gweinit/keys/"
	for _, tt := range []struct {
		name    string
		trust   []byte
		tree    []func(*rootfs.Tree) error
		keys    []string // in the manifest
		release string   // the error of a release; "": none
	}{
		{"one", a, nil, []string{idA}, ""},
		{"one of an overlay", a, []func(*rootfs.Tree) error{file(folder+"new.pub", b)}, []string{idA, idB}, ""},
		{"only of an overlay", nil, []func(*rootfs.Tree) error{file(folder+"new.pub", b)}, []string{idB}, ""},
		{"two in a file, and one again", slices.Concat(a, b), []func(*rootfs.Tree) error{file(folder+"same.pub", a)}, []string{idA, idB}, ""},
		{"none", nil, nil, nil, "release: there is no key in etc/gweinit/keys, so no gateway could ever be updated: name your own with key=FILE"},
		{"not where the gateway looks", nil, []func(*rootfs.Tree) error{file(folder+"a.key", a), file(folder+"more/a.pub", a), file("etc/gweinit/a.pub", development)}, nil, "release: there is no key in "},
		{"an empty file", nil, []func(*rootfs.Tree) error{file(folder+"a.pub", nil)}, nil, "release: there is no key in "},
		{"the development key", development, nil, []string{developmentID}, "release: etc/gweinit/keys/firmware.pub (from the builder): the development key is in it"},
		{"the development key of an overlay", a, []func(*rootfs.Tree) error{file(folder+"dev.pub", development)}, []string{developmentID, idA},
			"release: etc/gweinit/keys/dev.pub (from overlays/acme/etc/gweinit/keys/dev.pub): the development key is in it, which everyone has: take it out"},
		{"the development key behind another", slices.Concat(a, development), nil, []string{idA, developmentID}, "the development key is in it"},
		{"the development key by a symlink", a, []func(*rootfs.Tree) error{file("usr/share/dev", development), link(folder+"z.pub", "/usr/share/dev")}, []string{idA, developmentID},
			"etc/gweinit/keys/z.pub (from overlays/acme/etc/gweinit/keys/z.pub): the development key is in it"},
		{"the development key in a folder behind a symlink", nil, []func(*rootfs.Tree) error{file("usr/keys/dev.pub", development), link("etc/gweinit/keys", "../../usr/keys")}, []string{developmentID},
			"usr/keys/dev.pub (from overlays/acme/usr/keys/dev.pub): the development key is in it"},
		{"no key", a, []func(*rootfs.Tree) error{file(folder+"new.pub", []byte("key"))}, []string{idA},
			"release: etc/gweinit/keys/new.pub (from overlays/acme/etc/gweinit/keys/new.pub): line 1: this is no public key of minisign: that is 56 characters that begin with RW: correct it, or take it out"},
		{"a symlink to nowhere", a, []func(*rootfs.Tree) error{link(folder+"new.pub", "/data/new.pub")}, []string{idA}, "new.pub"},
		{"a folder", a, []func(*rootfs.Tree) error{file(folder+"new.pub/x", nil)}, []string{idA}, "this is no file: take it out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, release := range []bool{false, true} {
				tree := rootfs.NewTree()
				for _, add := range tt.tree {
					if err := add(tree); err != nil {
						t.Fatal(err)
					}
				}
				b := &build{Options: Options{Release: release, Trust: tt.trust, Log: func(string, ...any) {}}}
				err := b.addKeys(tree)
				if release && tt.release != "" {
					if err == nil || !strings.Contains(err.Error(), tt.release) {
						t.Errorf("release: got %v, want %s", err, tt.release)
					}
					continue
				}
				if err != nil || !slices.Equal(b.manifest.Keys, tt.keys) {
					t.Errorf("release %v: %v, %v, want %v", release, b.manifest.Keys, err, tt.keys)
				}
			}
		})
	}
}

// A key of an overlay is not replaced without a word.
func TestKeyInTheSamePlace(t *testing.T) {
	key, _ := newKey(t)
	tree := rootfs.NewTree()
	if err := tree.File("etc/gweinit/keys/firmware.pub", 0o644, key, "overlays/acme"); err != nil {
		t.Fatal(err)
	}
	b := &build{Options: Options{Trust: key, Log: func(string, ...any) {}}}
	if err := b.addKeys(tree); err == nil || !strings.Contains(err.Error(), "(from overlays/acme) is where the key of key=FILE goes: give it another name") {
		t.Errorf("got %v", err)
	}
}

// The keys of a provision.yaml in a release are checked before anything is built.
func TestProvisionKeys(t *testing.T) {
	line := func(text []byte) string {
		fields := strings.Fields(string(text))
		return fields[len(fields)-1]
	}
	own, _ := newKey(t)
	development, _, err := signing.Public("")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, tt := range []struct {
		name, yaml string
		want       string // "": no error about it
	}{
		{"an own key", "firmware_keys: [" + line(own) + "]\n", ""},
		{"no key", "product: abc\n", ""},
		{"the development key", fmt.Sprintf("product: abc\nfirmware_keys: [%s, %s]\n", line(own), line(development)),
			"firmware_keys[2]: the development key is in it, which everyone has: take it out"},
	} {
		file := filepath.Join(dir, "provision.yaml")
		if err := os.WriteFile(file, []byte(tt.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		text, err := provisioning(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkProvisionKeys(text); (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if tt.want == "" {
			continue
		}
		_, err = Build(t.Context(), Options{Project: "../..", Board: "qemu-arm64", Release: true, Provision: file, Trust: own, Out: dir, Cache: dir, Log: t.Logf})
		if err == nil || err.Error() != "release: "+file+": "+tt.want {
			t.Errorf("%s: a build: %v", tt.name, err)
		}
	}
	blank, err := provisioning("")
	if err == nil {
		err = checkProvisionKeys(blank)
	}
	if err != nil {
		t.Error(err)
	}
}
