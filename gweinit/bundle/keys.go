package bundle

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aead.dev/minisign"
)

// Keys are the public keys whose signatures are trusted.
type Keys []minisign.PublicKey

// maxKeyFile bounds what is read of a file that is no key.
const maxKeyFile = 64 << 10

// LoadKeys reads keys from files, and of folders from all *.pub in them; what is
// not there has none. It returns what it could read, and errors for the rest.
func LoadKeys(paths ...string) (Keys, error) {
	var keys Keys
	var errs []error
	for _, path := range paths {
		files := []string{path}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			entries, err := os.ReadDir(path)
			errs = append(errs, err)
			files = nil
			for _, e := range entries {
				if strings.HasSuffix(e.Name(), ".pub") {
					files = append(files, filepath.Join(path, e.Name()))
				}
			}
		}
		for _, file := range files {
			text, err := readKeyFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("firmware keys: %w", err))
				continue
			}
			some, err := ParseKeys(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("firmware keys: %s: %w", file, err))
			}
			keys = append(keys, some...)
		}
	}
	return keys.unique(), errors.Join(errs...)
}

func readKeyFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

// ParseKeys reads minisign's public keys, one a line; comments ("untrusted
// comment: ...") and empty lines are skipped. It returns the good ones, and
// errors for other lines.
func ParseKeys(text []byte) (Keys, error) {
	var keys Keys
	var errs []error
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || bytes.HasPrefix(line, []byte("untrusted comment:")) {
			continue
		}
		var key minisign.PublicKey
		// Strict: a key has one text.
		if _, err := base64.StdEncoding.Strict().DecodeString(string(line)); err != nil || key.UnmarshalText(line) != nil {
			errs = append(errs, fmt.Errorf("line %d: this is no public key of minisign: that is 56 characters that begin with RW", i+1))
			continue
		}
		keys = append(keys, key)
	}
	return keys.unique(), errors.Join(errs...)
}

// unique leaves out a key that is there already.
func (k Keys) unique() Keys {
	var keys Keys
	for _, key := range k {
		if !slices.ContainsFunc(keys, func(other minisign.PublicKey) bool { return other.Equal(key) }) {
			keys = append(keys, key)
		}
	}
	return keys
}

// IDs are the keys' IDs as minisign prints them.
func (k Keys) IDs() []string {
	ids := []string{}
	for _, key := range k {
		ids = append(ids, keyID(key.ID()))
	}
	return ids
}

func keyID(id uint64) string { return fmt.Sprintf("%X", id) }

// verify returns the ID of the key that a signature says it is made with, and
// ErrSignature unless it is made with one of k, for this manifest.
func (k Keys) verify(manifest, signature []byte) (string, error) {
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return "", fmt.Errorf("%w: %s is no signature of minisign", ErrSignature, signatureName)
	}
	id := keyID(s.KeyID)
	if s.Algorithm != minisign.HashEdDSA { // one kind is enough to be looked after
		return id, fmt.Errorf("%w: %s is of minisign's legacy kind: sign without -l", ErrSignature, signatureName)
	}
	known := false
	for _, key := range k {
		if minisign.Verify(key, manifest, signature) {
			return id, nil
		}
		known = known || key.ID() == s.KeyID
	}
	switch {
	case known:
		return id, fmt.Errorf("%w: the signature of key %s does not fit the manifest", ErrSignature, id)
	case len(k) == 0:
		return id, fmt.Errorf("%w: signed by key %s, and no key is trusted", ErrSignature, id)
	}
	return id, fmt.Errorf("%w: signed by key %s, which is not trusted; trusted are %s", ErrSignature, id, strings.Join(k.IDs(), ", "))
}
