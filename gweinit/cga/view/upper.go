package view

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
)

// Upper is what an app has written outside of /data, /var, /tmp and /run: a folder
// that outlives its versions. Nothing may be mounted on it when it is changed.
type Upper struct{ Dir string }

// Below the folder.
const (
	upperRoot  = "root"
	upperWork  = "work"
	upperState = "layer.json"
)

// Aside is a folder of an upper: by the number of a layer, what was taken out when
// that was followed by another.
const Aside = "aside"

const opaque = "trusted.overlay.opaque" // overlayfs.rst: a folder that hides those below

// Root and Work are for the overlay.
func (u Upper) Root() string { return filepath.Join(u.Dir, upperRoot) }
func (u Upper) Work() string { return filepath.Join(u.Dir, upperWork) }

// upperOf is which layer the upper is for.
type upperOf struct {
	Layer int `json:"layer"`
	// To is the layer it is about to be for. Taken: what has to go for that has gone.
	To    int  `json:"to,omitempty"`
	Taken bool `json:"taken,omitempty"`
}

// Settle makes the upper one for a layer, whose root is given. What the app has
// written to places for which the layer brings something is put aside, or it would
// hide that; what was put aside when the layer was replaced comes back. A power cut
// at any step is made good by the next call, for whichever layer that is.
func (u Upper) Settle(layer int, root string) error {
	if err := u.settle(layer, root); err != nil {
		return fmt.Errorf("make what the app has written fit to its layer %d: %w", layer, err)
	}
	return nil
}

func (u Upper) settle(layer int, root string) error {
	for _, dir := range []string{u.Root(), u.Work()} {
		if err := durable.MakeFolder(dir, 0o755); err != nil {
			return err
		}
	}
	st, err := u.state()
	if err != nil {
		return err
	}
	if st.To != 0 && st.Taken {
		if st, err = u.become(st.To); err != nil {
			return err
		}
	}
	if st.To != 0 && st.To != layer {
		if st, err = u.become(st.Layer); err != nil { // back to where it was
			return err
		}
	}
	if st.Layer == layer {
		return nil
	}
	// Else it would not be known that something is aside.
	if err := u.write(upperOf{Layer: st.Layer, To: layer}); err != nil {
		return err
	}
	if err := u.take(root, u.aside(st.Layer), "."); err != nil {
		return err
	}
	// ext4 has its journal in order: what was renamed is durable with this.
	if err := u.write(upperOf{Layer: st.Layer, To: layer, Taken: true}); err != nil {
		return err
	}
	_, err = u.become(layer)
	return err
}

// become is the last step: what was put aside of a layer comes back.
func (u Upper) become(layer int) (st upperOf, err error) {
	if err := bringBack(u.aside(layer), u.Root()); err != nil {
		return st, err
	}
	st.Layer = layer
	return st, u.write(st)
}

func (u Upper) aside(layer int) string {
	return filepath.Join(u.Dir, Aside, strconv.Itoa(layer))
}

// state reads which layer it is for. If that is not known any more, what it has is
// treated as that of another.
func (u Upper) state() (st upperOf, err error) {
	data, err := durable.ReadFile(filepath.Join(u.Dir, upperState), 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	if json.Unmarshal(data, &st) != nil || st.Layer < 0 || st.To < 0 {
		return upperOf{}, nil
	}
	return st, nil
}

func (u Upper) write(st upperOf) error {
	step()
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(u.Dir, upperState), append(data, '\n'), 0o600)
}

// take moves aside what is in the upper at the places of a folder of the layer.
func (u Upper) take(root, aside, folder string) error {
	entries, err := os.ReadDir(filepath.Join(root, folder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		ours := filepath.Join(u.Root(), path)
		info, err := os.Lstat(ours)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if e.IsDir() && info.IsDir() {
			// It would hide all of the layer's.
			if err := unix.Lremovexattr(ours, opaque); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
				return fmt.Errorf("%s: %w", ours, err)
			}
			if err := u.take(root, aside, path); err != nil {
				return err
			}
			continue
		}
		to := filepath.Join(aside, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		step()
		if err := os.Rename(ours, to); err != nil {
			return err
		}
	}
	return nil
}

// step is between two changes that last; in tests the power goes there.
var step = func() {}

// bringBack moves what was put aside to its places, unless there is something now,
// and removes the rest.
func bringBack(aside, to string) error {
	entries, err := os.ReadDir(aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(aside, e.Name()), filepath.Join(to, e.Name())
		info, err := os.Lstat(to)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			step()
			err = os.Rename(from, to)
		case err == nil && e.IsDir() && info.IsDir():
			err = bringBack(from, to)
		}
		if err != nil {
			return err
		}
	}
	step()
	return os.RemoveAll(aside)
}
