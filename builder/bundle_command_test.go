package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/bundle"
)

// builtSlot makes the image of the board "shell" one with this in slot a, as a
// build would; it trusts the key of a file, the development key for "".
func builtSlot(t *testing.T, kernel, root string, release bool, key string) {
	t.Helper()
	pub, _, err := signing.Public(key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := bundle.ParseKeys(pub)
	if err != nil {
		t.Fatal(err)
	}
	img := make([]byte, 3<<20)
	copy(img[1<<20:], kernel)
	copy(img[2<<20:], root)
	file := image.File{Name: "shell.img", Size: int64(len(img)), SHA256: fmt.Sprintf("%x", sha256.Sum256(img))}
	sum := file.SHA256
	m := image.Manifest{
		Board: "shell", Version: "1.2.0", Release: release, Image: file, Compressed: file, UBoot: image.UBoot{SHA256: sum},
		Partitions: []disk.Partition{
			{Name: "kernel_a", Offset: 1 << 20, Size: 1 << 20, SHA256: sum}, {Name: "kernel_b", SHA256: sum},
			{Name: "rootfs_a", Offset: 2 << 20, Size: 1 << 20, SHA256: sum}, {Name: "rootfs_b", SHA256: sum},
		},
		Slot: image.SlotSize{BootImage: int64(len(kernel)), Root: int64(len(root))}, Keys: keys.IDs(),
	}
	var manifest bytes.Buffer
	if err := m.Encode(&manifest); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"out/shell.img": img, "out/shell.json": manifest.Bytes()} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// succeed runs a command line and returns what it printed.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := builder(t, args...)
	if status != 0 || stderr != "" {
		t.Fatalf("%v: status %d\n%s%s", args, status, stdout, stderr)
	}
	return stdout
}

// outFiles lists the output folder, hidden files too.
func outFiles(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("out")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestBundle(t *testing.T) {
	project(t, "")
	builtSlot(t, "the boot image", "the root", false, "")
	const file = "out/shell.v1.2.0.fw"
	if got, want := succeed(t, "bundle", "-board", "shell", "-minimum", "1.0"), `file      out/shell.v1.2.0.fw
board     shell
version   1.2.0
minimum   1.0
key       13B34B1824B3D4F1, trusted
size      0.0 MB
kernel    0.0 MB, 0.0 MB compressed, 1 chunks
rootfs    0.0 MB, 0.0 MB compressed, 1 chunks
`; got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	} else if inspected := succeed(t, "bundle", "-inspect", file); inspected != want {
		t.Errorf("inspected, got\n%s, want\n%s", inspected, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	printed := succeed(t, "bundle", "-board", "shell", "-minimum", "1.0", "-json")
	var made, inspected bundleReport
	if err := json.Unmarshal([]byte(printed), &made); err != nil || made.File != file || made.Size != int64(len(first)) || !made.Trusted ||
		len(made.Partitions) != 2 || made.Partitions[0].Size != 14 || made.Partitions[1].SHA256 != sha256.Sum256([]byte("the root")) {
		t.Errorf("-json: %v\n%s", err, printed)
	}
	if again := succeed(t, "bundle", "-inspect", file, "-json"); again != printed {
		t.Errorf("inspected with -json, got\n%s, want\n%s", again, printed)
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the same image makes another bundle, %v", err)
	}

	if _, err := signing.Create("acme.key", nil); err != nil {
		t.Fatal(err)
	}
	builtSlot(t, "the boot image", "the root", true, "acme.key")
	succeed(t, "bundle", "-board", "shell", "-release", "-key", "acme.key")
	succeed(t, "bundle", "-inspect", file, "-trust", "acme.key.pub")
	succeed(t, "bundle", "-inspect", file, "-trust", "acme.key")
	status, stdout, stderr := builder(t, "bundle", "-inspect", file)
	if status != 1 || !strings.Contains(stdout, "board     shell\nversion   1.2.0\n") || !strings.Contains(stdout, ", not trusted\n") ||
		!strings.Contains(stderr, "builder bundle: "+file+": signature not trusted: signed by key ") {
		t.Errorf("with another key: status %d\n%s%s", status, stdout, stderr)
	}
	status, stdout, _ = builder(t, "bundle", "-inspect", file, "-json")
	if err := json.Unmarshal([]byte(stdout), &inspected); err != nil || status != 1 || inspected.Trusted || !strings.Contains(inspected.Problem, "signature not trusted") {
		t.Errorf("with another key and -json: status %d, %v\n%s", status, err, stdout)
	}
	if got, want := outFiles(t), "shell shell.img shell.json shell.v1.2.0.fw"; got != want {
		t.Errorf("the output has %s, want %s", got, want)
	}
}

func TestBundleRefuses(t *testing.T) {
	project(t, "")
	var both []byte
	for _, name := range []string{"acme.key", "dev.key"} {
		if _, err := signing.Create(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename("dev.key.pub", "acme2.pub"); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stale := func() { // the image has been written to
		img, err := os.ReadFile("out/shell.img")
		if err != nil {
			t.Fatal(err)
		}
		img[100] ^= 1
		write("out/shell.img", img)
	}
	remove := func(name string) func() {
		return func() {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	good := func() []byte {
		t.Helper()
		builtSlot(t, "kernel", "root", false, "")
		succeed(t, "bundle", "-board", "shell")
		data, err := os.ReadFile("out/shell.v1.2.0.fw")
		if err != nil {
			t.Fatal(err)
		}
		remove("out/shell.v1.2.0.fw")()
		return data
	}()
	// Beside both.key there is acme.key's public half too; it signs with its own.
	if _, err := signing.Create("both.key", nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"both.key.pub", "acme.key.pub"} {
		pub, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, pub...)
	}
	write("both.key.pub", both)
	write("long.fw", append(bytes.Clone(good), 0))
	write("short.fw", good[:len(good)-1])
	bad := bytes.Clone(good)
	bad[bytes.Index(bad, []byte("\x28\xb5\x2f\xfd"))+10] ^= 1
	write("bad.fw", bad)
	for _, tt := range []struct {
		args    string
		release bool
		before  func()
		stderr  string
	}{
		{"", false, nil, "which board? One of: shell"},
		{"-board rpi9", false, nil, `unknown board "rpi9"`},
		{"-board shell", false, remove("out/shell.json"), "shell.json: no such file or directory: build it first: make board=shell image"},
		{"-board shell", false, remove("out/shell.img"), "shell.img: no such file or directory: build it first: make board=shell image"},
		{"-board shell", false, stale, "out/shell.img is not the image that out/shell.json is about: its SHA-256 is "},
		{"-board shell", false, func() { builtSlot(t, "kernel", "", false, "") }, "shell.json says nothing of partition rootfs_a and how much of it is used: build the image again"},
		{"-board shell", false, func() { builtSlot(t, strings.Repeat("x", 1<<20+1), "root", false, "") }, "shell.json says nothing of partition kernel_a"},
		{"-board shell -minimum v1", false, nil, `-minimum: version "v1": want a digit first`},
		{"-board shell -minimum 1.3", false, nil, "minimum 1.3 is newer than version 1.2.0 itself"},
		{"-board shell -release -key acme.key", false, nil, "out/shell.img is not of a release: make board=shell release=1 image"},
		{"-board shell -release", true, nil, "everyone has the development key: a release is signed with a key of your own"},
		{"-board shell -key none", false, nil, "signing key: open none: no such file or directory"},
		{"-board shell -key acme.key.pub", false, nil, "acme.key.pub is a public key, which can be trusted only"},
		{"-board shell -key acme.key", false, nil, "out/shell.img trusts key 13B34B1824B3D4F1, and this is key "},
		{"-board shell -key acme.key", true, nil, "build the image with the same key: make board=shell key=acme.key release=1 image"},
		{"-board shell", false, func() { builtSlot(t, "kernel", "root", false, "acme.key") }, "and this is key 13B34B1824B3D4F1, of which gateways would take nothing any more"},
		{"-board shell -key both.key", false, func() { builtSlot(t, "kernel", "root", false, "acme.key") }, "out/shell.img trusts key "},
		{"-board shell -trust acme.key.pub", false, nil, "-trust is for -inspect"},
		{"-board shell -inspect long.fw", false, nil, "-inspect is about a bundle that is there"},
		{"-inspect none.fw", false, nil, "none.fw: open none.fw: no such file or directory"},
		{"-inspect long.fw -trust none", false, nil, "-trust: public key: open none.pub: no such file or directory"},
		{"-inspect out/shell.json", false, nil, "out/shell.json: not a firmware bundle: at byte 0 there should be the header of manifest.json"},
		{"-inspect long.fw", false, nil, "long.fw: not a firmware bundle: it goes on at byte "},
		{"-inspect short.fw", false, nil, "short.fw: the firmware bundle ends at byte "},
		{"-inspect bad.fw", false, nil, "bad.fw: damaged chunk: "},
		{"-inspect bad.fw -trust acme2.pub", false, nil, "signature not trusted: "},
	} {
		t.Run(tt.args, func(t *testing.T) {
			builtSlot(t, "kernel", "root", tt.release, "")
			if tt.before != nil {
				tt.before()
			}
			status, _, stderr := builder(t, append([]string{"bundle"}, strings.Fields(tt.args)...)...)
			if status != 1 || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("status %d\n%swant %s", status, stderr, tt.stderr)
			}
			if got := outFiles(t); strings.Contains(got, ".fw") {
				t.Errorf("left in the output: %s", got)
			}
		})
	}
}

// A firmware that trusts the next key too is signed with the old one, and is one to
// sign with the next one after.
func TestBundleRotation(t *testing.T) {
	project(t, "")
	var both []byte
	for _, name := range []string{"old.key", "new.key"} {
		if _, err := signing.Create(name, nil); err != nil {
			t.Fatal(err)
		}
		pub, err := os.ReadFile(name + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, pub...)
	}
	if err := os.WriteFile("both.pub", both, 0o644); err != nil {
		t.Fatal(err)
	}
	builtSlot(t, "kernel", "root", true, "both.pub")
	for _, key := range []string{"old.key", "new.key"} {
		succeed(t, "bundle", "-board", "shell", "-release", "-key", key)
		succeed(t, "bundle", "-inspect", "out/shell.v1.2.0.fw", "-trust", key)
	}
}

// What BOARD.json of an older builder does not say is not signed.
func TestBundleWithoutKeys(t *testing.T) {
	err := bundleJob{board: "shell", out: "out"}.isTrusted(bundle.Keys{{}}, &image.Manifest{Image: image.File{Name: "shell.img"}})
	if err == nil || !strings.Contains(err.Error(), "out/shell.img trusts no key, and this is key ") || !strings.HasSuffix(err.Error(), ": make board=shell image") {
		t.Error(err)
	}
}

// An interrupt leaves the bundle of before.
func TestBundleInterrupted(t *testing.T) {
	project(t, "")
	builtSlot(t, "kernel", "root", false, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := bundleCommand(ctx, flag.NewFlagSet("bundle", flag.ContinueOnError), []string{"-board", "shell"})
	if got := outFiles(t); !errors.Is(err, context.Canceled) || got != "shell shell.img shell.json" {
		t.Errorf("%v, the output has %s", err, got)
	}
}

func TestKey(t *testing.T) {
	t.Chdir(t.TempDir())
	status, stdout, stderr := builder(t, "key")
	if status != 1 || !strings.Contains(stderr, "builder key: which file? Say -out FILE, or make key=FILE key") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	// In a test there is no terminal to ask on.
	stdout = succeed(t, "key", "-out", "acme.key")
	pub, err := os.ReadFile("acme.key.pub")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Fields(string(pub))
	if lines := strings.Split(stdout, "\n"); lines[0] != line[len(line)-1] || !strings.HasPrefix(lines[0], "RW") || lines[1] != "acme.key.pub" || !slices.Contains(lines, "acme.key") {
		t.Errorf("printed %q, the public key is %q", stdout, pub)
	}
	before, err := os.ReadFile("acme.key")
	if err != nil {
		t.Fatal(err)
	}
	status, _, stderr = builder(t, "key", "-out", "acme.key")
	after, err := os.ReadFile("acme.key")
	if status != 1 || !strings.Contains(stderr, "acme.key is there already, and may be the only key to gateways in the field") || err != nil || !bytes.Equal(before, after) {
		t.Errorf("again: status %d, %s, %v", status, stderr, err)
	}
	if left, _ := filepath.Glob("*"); len(left) != 2 {
		t.Errorf("there are %v", left)
	}
	// make clean takes what is in out/, whatever it is called.
	if err := errors.Join(os.MkdirAll("out/keys", 0o755), os.Mkdir("outer", 0o755), os.Symlink("out", "elsewhere")); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"out/a.key", "./out/../out/keys/a.key", "elsewhere/keys/a.key", filepath.Join(here, "out/a.key"), "outer/../out/a.key", "out/none/a.key"} {
		status, _, stderr := builder(t, "key", "-out", file)
		if status != 1 || !strings.Contains(stderr, file+" is in out/, which make clean deletes: keep it outside of out/") {
			t.Errorf("%s: status %d, %s", file, status, stderr)
		}
	}
	for _, file := range []string{"outer/a.key", "out.key", "out/../b.key"} {
		succeed(t, "key", "-out", file)
	}
	if left, _ := filepath.Glob("out/*"); len(left) != 1 {
		t.Errorf("in out/ there are %v", left)
	}
}
