// Package signing has the keys that sign firmware bundles. They are minisign's,
// in files that minisign reads and writes as well: KEY is secret, and KEY.pub is
// its public half.
//
// development.key is for those who have no key yet: everyone has it, so what it
// signs is no better than what is not signed. It never gets into a release.
package signing

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"aead.dev/minisign"

	"github.com/exosite/gwe/gweinit/bundle"
)

// Public knowledge, see the package.
var (
	//go:embed development.key
	developmentKey []byte
	//go:embed development.pub
	developmentPub []byte
)

// Public returns the public half of a key, as text for the images that shall
// trust it: of the development key for "", and of several keys if KEY.pub has
// several. The name may be that of the public file itself.
func Public(keyFile string) (pub []byte, development bool, err error) {
	if keyFile == "" {
		return developmentPub, true, nil
	}
	if pub, err = os.ReadFile(publicFile(keyFile)); err != nil {
		return nil, false, fmt.Errorf("public key: %w", err)
	}
	keys, err := bundle.ParseKeys(pub)
	if err == nil && len(keys) == 0 {
		err = errors.New("there is no key in it")
	}
	if err != nil {
		return nil, false, fmt.Errorf("public key: %s: %w", publicFile(keyFile), err)
	}
	return pub, HasDevelopment(keys), nil
}

// Load returns what signs with a key, with the development key for "", and its
// public half, that one alone. It asks for the password if the key has one.
func Load(keyFile string, password func() ([]byte, error)) (sign func(manifest []byte) ([]byte, error), pub []byte, development bool, err error) {
	text := developmentKey
	if keyFile != "" {
		if strings.HasSuffix(keyFile, publicSuffix) {
			return nil, nil, false, fmt.Errorf("%s is a public key, which can be trusted only: to sign, name the secret key, without %s", keyFile, publicSuffix)
		}
		if text, err = os.ReadFile(keyFile); err != nil {
			return nil, nil, false, fmt.Errorf("signing key: %w", err)
		}
	}
	key, err := decode(text, password)
	if err != nil {
		return nil, nil, false, fmt.Errorf("signing key %s: %w", keyFile, err)
	}
	own := key.Public().(minisign.PublicKey)
	trusted, _, err := Public(keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the secret half has it all
	case err != nil:
		return nil, nil, false, err
	default:
		// Images are built with KEY.pub. This bundle would be for none of them.
		keys, _ := bundle.ParseKeys(trusted)
		if !has(keys, own) {
			return nil, nil, false, fmt.Errorf("%s is not the public half of %s: images that trust the one take no firmware signed with the other", publicFile(keyFile), keyFile)
		}
	}
	sign = func(manifest []byte) ([]byte, error) { return bundle.Sign(key, manifest) }
	return sign, encodePublic(own), HasDevelopment(bundle.Keys{own}), nil
}

// decode reads a secret key.
func decode(text []byte, password func() ([]byte, error)) (minisign.PrivateKey, error) {
	text = bytes.TrimSpace(text)
	if !minisign.IsEncrypted(text) {
		var key minisign.PrivateKey
		if err := key.UnmarshalText(text); err != nil {
			return key, errors.New("this is no secret key of minisign: make one with make key")
		}
		return key, nil
	}
	secret, err := password()
	if err != nil {
		return minisign.PrivateKey{}, err
	}
	key, err := minisign.DecryptKey(string(secret), text)
	if err != nil {
		return key, errors.New("wrong password, or a damaged key")
	}
	return key, nil
}

// Create makes a key pair, FILE and FILE.pub, neither of which may exist, and
// returns the public key. An empty password leaves the key unprotected.
func Create(file string, password []byte) (minisign.PublicKey, error) {
	pub, key, err := minisign.GenerateKey(nil)
	if err != nil {
		return pub, err
	}
	text, err := key.MarshalText()
	if len(password) > 0 {
		text, err = minisign.EncryptKey(string(password), key)
	}
	if err != nil {
		return pub, err
	}
	if err := create(file, append(text, '\n'), 0o600); err != nil {
		return pub, err
	}
	if err := create(file+publicSuffix, encodePublic(pub), 0o644); err != nil {
		return pub, errors.Join(err, os.Remove(file))
	}
	return pub, nil
}

// create writes a file that is not there.
func create(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and may be the only key to gateways in the field: take another name", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

const publicSuffix = ".pub"

func publicFile(keyFile string) string {
	return strings.TrimSuffix(keyFile, publicSuffix) + publicSuffix
}

func encodePublic(key minisign.PublicKey) []byte {
	text, _ := key.MarshalText() // never fails
	return append(text, '\n')
}

func has(keys bundle.Keys, key minisign.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k minisign.PublicKey) bool { return k.Equal(key) })
}

// HasDevelopment says whether the development key is among them.
func HasDevelopment(keys bundle.Keys) bool {
	development, _ := bundle.ParseKeys(developmentPub)
	return slices.ContainsFunc(keys, func(k minisign.PublicKey) bool { return has(development, k) })
}
