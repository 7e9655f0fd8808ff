package image

import (
	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/disk"
)

// Manifest is out/BOARD.json: all that the image consists of.
type Manifest struct {
	Board      string           `json:"board"`
	Version    string           `json:"version"`
	Epoch      int64            `json:"epoch"` // seconds since 1970, in all files
	Release    bool             `json:"release"`
	Overlays   []string         `json:"overlays"`
	Suite      string           `json:"suite"`
	Kernel     string           `json:"kernel"` // version, as uname -r prints it
	Packages   []debian.Package `json:"packages"`
	UBoot      UBoot            `json:"uboot"`
	Go         string           `json:"go"` // version of the compiler
	GoModules  []GoModule       `json:"go_modules"`
	Partitions []disk.Partition `json:"partitions"`
	Slot       SlotSize         `json:"slot"`
	Image      File             `json:"image"`
	Compressed File             `json:"compressed"`
}

// UBoot says which U-Boot runs before the image, and what it was built from
// when Debian's could not be used.
type UBoot struct {
	SHA256 string  `json:"sha256"`
	Source *Source `json:"source,omitempty"`
}

// Source is a Debian source package that the builder compiled.
type Source struct {
	Name    string            `json:"name"`
	Version string            `json:"version"`
	SHA256  map[string]string `json:"sha256"` // of its files, and of the project's patches and options
}

// SlotSize is how much of a slot is used, in bytes.
type SlotSize struct {
	BootImage int64 `json:"boot_image"`
	Root      int64 `json:"root"`
}

// GoModule is a module that is compiled into a program of the image.
type GoModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"`
}

// File is a file of the output.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}
