package image

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/exosite/gwe/builder/rootfs"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/config"
)

// keysFolder has the keys whose firmware the gateway takes: all *.pub in it, those
// of overlays as well.
const keysFolder = "etc/gweinit/keys"

var errDevelopmentKey = errors.New("the development key is in it, which everyone has: take it out")

// addKeys adds the key of the options to the root, and notes which ones it has then.
func (b *build) addKeys(t *rootfs.Tree) error {
	if len(b.Trust) > 0 {
		const name = keysFolder + "/firmware.pub"
		if own, err := t.Open(name); err == nil { // a rotation would lose one of them
			return fmt.Errorf("%s (from %s) is where the key of key=FILE goes: give it another name", name, own.From)
		}
		if err := t.File(name, 0o644, b.Trust, "the builder"); err != nil {
			return err
		}
	}
	folder, err := t.Open(keysFolder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range t.List() {
		if err != nil || path.Dir(e.Path) != folder.Path || !strings.HasSuffix(e.Path, ".pub") {
			continue
		}
		keys, err := keysOf(t, e.Path)
		if err == nil && b.Release && signing.HasDevelopment(keys) {
			err = errDevelopmentKey
		}
		if err != nil {
			err = fmt.Errorf("%s (from %s): %w", e.Path, e.From, err)
			if b.Release {
				return fmt.Errorf("release: %w", err)
			}
			b.Log("%v", err)
		}
		for _, id := range keys.IDs() {
			if !slices.Contains(b.manifest.Keys, id) {
				b.manifest.Keys = append(b.manifest.Keys, id)
			}
		}
	}
	if b.Release && len(b.manifest.Keys) == 0 {
		return fmt.Errorf("release: there is no key in %s, so no gateway could ever be updated: name your own with key=FILE (make key key=FILE makes one)", keysFolder)
	}
	return nil
}

// keysOf reads keys as the gateway will: the good ones, and an error for the rest.
func keysOf(t *rootfs.Tree, name string) (bundle.Keys, error) {
	file, err := t.Open(name) // it may be a symlink
	if err != nil {
		return nil, err
	}
	if !file.Mode.IsRegular() {
		return nil, errors.New("this is no file: take it out")
	}
	keys, err := bundle.ParseKeys(file.Data)
	if err != nil {
		err = fmt.Errorf("%w: correct it, or take it out", err)
	}
	return keys, err
}

// checkProvisionKeys checks the keys that a provision.yaml brings to a release.
func checkProvisionKeys(file []byte) error {
	text, ok := config.Text(file)
	if !ok {
		return nil
	}
	p, err := config.ParseProvision(text)
	if err != nil {
		return err
	}
	return CheckKeys(p.FirmwareKeys)
}

// CheckKeys checks the keys of firmware that settings bring to a release.
func CheckKeys(firmwareKeys []string) error {
	for i, key := range firmwareKeys {
		keys, err := bundle.ParseKeys([]byte(key))
		if err == nil && signing.HasDevelopment(keys) {
			err = errDevelopmentKey
		}
		if err != nil {
			return fmt.Errorf("firmware_keys[%d]: %w", i+1, err)
		}
	}
	return nil
}
