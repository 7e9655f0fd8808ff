package signing

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/exosite/gwe/gweinit/bundle"
)

// noPassword is for keys that have none.
func noPassword() ([]byte, error) { return nil, errors.New("asked for a password") }

func password(p string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(p), nil }
}

func ids(t *testing.T, pub []byte) []string {
	t.Helper()
	keys, err := bundle.ParseKeys(pub)
	if err != nil {
		t.Fatal(err)
	}
	return keys.IDs()
}

// bundleOf makes a bundle that opens with keys of the text pub.
func bundleOf(t *testing.T, sign func([]byte) ([]byte, error), pub []byte) {
	t.Helper()
	part := func(name string) bundle.Part {
		return bundle.Part{Name: name, Content: strings.NewReader(name), Size: int64(len(name))}
	}
	var file bytes.Buffer
	if _, err := bundle.Write(&file, bundle.Manifest{Board: "b", Version: "1"}, sign, part("kernel"), part("rootfs")); err != nil {
		t.Fatal(err)
	}
	keys, err := bundle.ParseKeys(pub)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Check(&file, keys, nil); err != nil {
		t.Error(err)
	}
}

// What is made here signs, for us and for Debian's minisign; and the other way
// round.
func TestKeys(t *testing.T) {
	t.Chdir(t.TempDir())
	minisign := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command("minisign", args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("minisign %v (make setup installs it): %v\n%s", args, err, out)
		}
	}
	if _, err := Create("plain", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Create("locked", []byte("secret")); err != nil { // takes a second and 1 GiB, as thieves shall need
		t.Fatal(err)
	}
	minisign("", "-G", "-W", "-s", "debian", "-p", "debian.pub")
	for file, secret := range map[string]string{"plain": "", "locked": "secret", "debian": ""} {
		info, err := os.Stat(file)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", file, info.Mode(), err)
		}
		ask := noPassword
		if secret != "" {
			ask = password(secret)
		}
		sign, pub, development, err := Load(file, ask)
		if err != nil || development {
			t.Fatalf("%s: development %v, %v", file, development, err)
		}
		trusted, development, err := Public(file)
		if err != nil || development || !slices.Equal(ids(t, trusted), ids(t, pub)) {
			t.Errorf("%s: %q, %v, %v; want %q", file, trusted, development, err, pub)
		}
		bundleOf(t, sign, pub)
		minisign(secret+"\n", "-S", "-s", file, "-m", file+".pub")
		minisign("", "-V", "-p", file+".pub", "-m", file+".pub")
	}
	// The cost of a guess is in the key. Too much is refused as a wrong password
	// is, without the work.
	text, err := os.ReadFile("locked")
	if err != nil {
		t.Fatal(err)
	}
	line := bytes.IndexByte(text, '\n') + 1
	copy(text[line+38*4/3:], "////////")
	if err := os.WriteFile("locked", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := Load("locked", password("secret")); err == nil || err.Error() != "signing key locked: wrong password, or a damaged key" {
		t.Error(err)
	}
	no := errors.New("no terminal")
	if _, _, _, err := Load("locked", func() ([]byte, error) { return nil, no }); !errors.Is(err, no) {
		t.Error(err)
	}
}

func TestDevelopment(t *testing.T) {
	sign, pub, development, err := Load("", noPassword)
	if err != nil || !development {
		t.Fatal(development, err)
	}
	bundleOf(t, sign, pub)
	if trusted, development, err := Public(""); err != nil || !development || !slices.Equal(ids(t, trusted), ids(t, pub)) {
		t.Error(development, err)
	}
	// By any other name it is what it is.
	dir := t.TempDir()
	own := minisign.PublicKey{}
	if _, key, err := minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	} else {
		own = key.Public().(minisign.PublicKey)
	}
	file := filepath.Join(dir, "acme.key")
	for name, data := range map[string][]byte{file: developmentKey, file + ".pub": append(encodePublic(own), developmentPub...)} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{file, file + ".pub"} {
		if _, development, err := Public(name); err != nil || !development {
			t.Errorf("%s: %v, %v", name, development, err)
		}
	}
	// What is trusted beside it does not sign.
	if _, pub, development, err := Load(file, noPassword); err != nil || !development || !slices.Equal(ids(t, pub), ids(t, developmentPub)) {
		t.Errorf("%q, %v, %v", pub, development, err)
	}
	if err := os.Remove(file + ".pub"); err != nil {
		t.Fatal(err)
	}
	sign, pub, development, err = Load(file, noPassword)
	if err != nil || !development {
		t.Fatal(development, err)
	}
	bundleOf(t, sign, pub)
}

func TestRefusals(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"a", "b"} {
		if _, err := Create(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	text := func(file string) []byte {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, data := range map[string][]byte{
		"mixed": text("a"), "mixed.pub": text("b.pub"), "empty.pub": nil, "garbled": text("a")[:100], "garbled.pub": text("a.pub")[:90], "taken.pub": nil,
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func(file string) error { _, _, _, err := Load(file, noPassword); return err }
	public := func(file string) error { _, _, err := Public(file); return err }
	create := func(file string) error { _, err := Create(file, nil); return err }
	for _, tt := range []struct {
		call func(string) error
		file string
		want string
	}{
		{load, "none", "signing key: open none: no such file or directory"},
		{load, "a.pub", "a.pub is a public key, which can be trusted only: to sign, name the secret key, without .pub"},
		{load, "mixed", "mixed.pub is not the public half of mixed: images that trust the one take no firmware signed with the other"},
		{load, "garbled", "signing key garbled: this is no secret key of minisign: make one with make key"},
		{public, "none", "public key: open none.pub: no such file or directory"},
		{public, "none.pub", "public key: open none.pub: no such file or directory"},
		{public, "empty", "public key: empty.pub: there is no key in it"},
		{public, "garbled", "public key: garbled.pub: line 2: this is no public key of minisign"},
		{create, "a", "a is there already, and may be the only key to gateways in the field: take another name"},
		{create, "taken", "taken.pub is there already"},
		{create, "nowhere/a", "open nowhere/a: no such file or directory"},
	} {
		if err := tt.call(tt.file); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
	if _, err := os.Stat("taken"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a secret key without its public half is left")
	}
}
