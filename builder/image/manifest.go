package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/disk"
)

// Manifest is all that an image consists of. Written down, as out/BOARD.json,
// it is a CycloneDX document.
type Manifest struct {
	Board         string
	Arch          string // Debian's name
	Version       string
	Epoch         int64 // seconds since 1970, in all files
	Release       bool
	Overlays      []string
	Apps          []App
	Suite         string
	KernelPackage string // the board's; as a rule it stands for the newest kernel of its kind
	Kernel        string // version, as uname -r prints it
	Packages      []debian.Package
	UBoot         UBoot
	Go            string // version of the compiler
	GoModules     []GoModule
	Tools         map[string]string // versions of the host packages that made it
	Partitions    []disk.Partition
	Slot          SlotSize
	RootHash      string   // by which dm-verity checks the root
	Keys          []string // IDs of those whose firmware it takes
	Image         File
	Compressed    File
}

// UBoot says which U-Boot runs before the image, and what it was built from
// when Debian's could not be used.
type UBoot struct {
	Package string // the board's
	SHA256  string
	Source  *Source
}

// Source is a Debian source package that the builder compiled.
type Source struct {
	Name    string
	Version string
	SHA256  map[string]string // of its files, and of the project's patches and options
}

// SlotSize is how much of a slot is used, in bytes.
type SlotSize struct {
	BootImage int64
	Root      int64 // squashfs and hash tree
}

// GoModule is a module that is compiled into a program of the image.
type GoModule struct {
	Path    string
	Version string
	Sum     string
}

// File is a file of the output.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ReadManifest reads BOARD.json, which a build has written.
func ReadManifest(path string) (*Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := Decode(f)
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) { // names the file
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
