// Package board loads and checks the boards: folders of data under boards/.
// A board is added without any Go code.
package board

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Board is what boards/NAME/board.yaml says, with the boot commands beside it.
type Board struct {
	Name string `yaml:"-"`
	Dir  string `yaml:"-"`
	// BootCommands, from boot.cmd: starts the boot image that is at
	// ${image_addr} with ${bootargs}. They return when the image is refused.
	BootCommands string `yaml:"-"`

	Description string            `yaml:"description"`
	Arch        string            `yaml:"arch"` // Debian's name of the architecture
	Go          map[string]string `yaml:"go"`   // the Go compiler's environment
	Kernel      Kernel            `yaml:"kernel"`
	UBoot       UBoot             `yaml:"uboot"`
	// Firmware, if any, loads U-Boot from the boot partition.
	Firmware *Firmware `yaml:"firmware"`
	// Disk is the folder in /sys of the controller that U-Boot boots from;
	// other disks are never searched for partitions.
	Disk    string  `yaml:"disk"`
	Machine Machine `yaml:"machine"`
}

// Kernel says which kernel, and how U-Boot is to be given it.
type Kernel struct {
	Package     string   `yaml:"package"`     // Debian's meta package
	Format      string   `yaml:"format"`      // of its vmlinuz: arm64-image, elf or zimage
	Compression string   `yaml:"compression"` // in the boot image: none or gzip
	Arch        string   `yaml:"arch"`        // U-Boot's name of the architecture
	Load        uint64   `yaml:"load"`        // address, also of the entry unless the ELF file has one
	DTBs        []string `yaml:"dtbs"`        // device trees of the package that go into the boot image
	FDT         uint64   `yaml:"fdt"`         // address of the one that boot.cmd takes
	Modules     []string `yaml:"modules"`     // loaded in the initramfs, with what they depend on
	Drivers     []string `yaml:"drivers"`     // in the root, loaded when their device appears
}

// UBoot says where U-Boot comes from and which memory the boot script uses.
type UBoot struct {
	Package string            `yaml:"package"` // Debian package
	File    string            `yaml:"file"`    // of the package, or
	Build   *UBootBuild       `yaml:"build"`   // how to build it from the package's source
	Format  string            `yaml:"format"`  // of the boot images it takes: fit or legacy
	Device  string            `yaml:"device"`  // interface and number of the disk: "virtio 0"
	Script  uint64            `yaml:"script"`  // address of boot.scr
	State   uint64            `yaml:"state"`   // address of the boot state and its read-back copy
	Image   uint64            `yaml:"image"`   // address of the boot image
	Console string            `yaml:"console"` // kernel argument
	EnvSize uint64            `yaml:"env_size"`
	Env     map[string]string `yaml:"env"` // preset and read-only
}

// UBootBuild says how U-Boot is built from Debian's source package.
type UBootBuild struct {
	Defconfig string   `yaml:"defconfig"`
	Config    string   `yaml:"config"`  // file of options, below the board's folder
	Patches   []string `yaml:"patches"` // files, likewise
	Cross     string   `yaml:"cross"`   // CROSS_COMPILE
	Packages  []string `yaml:"packages"`
	File      string   `yaml:"file"` // the result, in the build folder
}

// Firmware says what the boot partition holds for a board whose boot ROM
// starts from there: these files, those of the board's folder boot/, the
// device trees, U-Boot and its preset environment. Such a ROM finds the
// partition by an MBR.
type Firmware struct {
	Package string   `yaml:"package"`
	Files   []string `yaml:"files"` // of the package
	UBoot   string   `yaml:"uboot"` // U-Boot's name in the partition
	Env     string   `yaml:"env"`   // its preset environment's
}

// Machine is the QEMU machine that runs the board's images.
type Machine struct {
	Packages []string `yaml:"packages"`
	Memory   int      `yaml:"memory"` // MB
	// MemoryMin is the least that the firmware in front of Linux needs, in MB;
	// a machine with less is simulated by the kernel argument mem=.
	MemoryMin int    `yaml:"memory_min"`
	Flash     *Flash `yaml:"flash"`
	// Command is QEMU's, words separated by blanks, with {image}, {memory},
	// {flash} and {uboot} in the place of what they name.
	Command []string `yaml:"command"`
}

// Flash is the machine's NOR flash, offsets and sizes in bytes.
type Flash struct {
	Size  uint64  `yaml:"size"`
	Env   uint64  `yaml:"env"`
	UBoot *uint64 `yaml:"uboot"` // U-Boot is in it, too
	Swap  uint64  `yaml:"swap"`  // the 32-bit words below are stored swapped
}

// Sizes of what the boot script keeps in memory.
const (
	scriptSize = 64 << 10
	stateSize  = 64 << 10 // a copy of the state, and the read-back copy 32 KiB above
	fdtSize    = 1 << 20  // U-Boot adds to it
	// ImageSize is that of a kernel partition: the largest boot image.
	ImageSize = 16 << 20
)

// List returns the names of the boards in dir, sorted.
func List(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "board.yaml"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	slices.Sort(names)
	return names, nil
}

// Load reads and checks dir/name. Errors name the file and the key.
func Load(dir, name string) (*Board, error) {
	file := filepath.Join(dir, name, "board.yaml")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || name == "" || strings.ContainsAny(name, `/\`) {
		names, _ := List(dir)
		if len(names) == 0 {
			return nil, fmt.Errorf("no boards in %s: run in the project's folder", dir)
		}
		if name == "" {
			return nil, fmt.Errorf("which board? One of: %s", strings.Join(names, ", "))
		}
		return nil, fmt.Errorf("unknown board %q: there is no %s. Known: %s", name, file, strings.Join(names, ", "))
	}
	if err != nil {
		return nil, err
	}
	b := &Board{Name: name, Dir: filepath.Join(dir, name)}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(b); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document", file)
	}
	cmd, err := os.ReadFile(filepath.Join(b.Dir, "boot.cmd"))
	if err != nil {
		return nil, fmt.Errorf("board %s: its boot commands: %w", name, err)
	}
	b.BootCommands = strings.TrimSpace(string(cmd))
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

// Path returns the path of a file that the board's YAML names.
func (b *Board) Path(file string) string { return filepath.Join(b.Dir, filepath.FromSlash(file)) }

func (b *Board) check() error {
	for _, f := range []struct{ key, value string }{
		{"description", b.Description},
		{"arch", b.Arch},
		{"go: GOARCH", b.Go["GOARCH"]},
		{"kernel: package", b.Kernel.Package},
		{"uboot: device", b.UBoot.Device},
		{"uboot: console", b.UBoot.Console},
		{"disk", b.Disk},
	} {
		if f.value == "" {
			return fmt.Errorf("%s: is missing", f.key)
		}
	}
	for key := range b.Go {
		if !slices.Contains([]string{"GOARCH", "GOARM", "GOARM64", "GOMIPS", "GOMIPS64"}, key) {
			return fmt.Errorf("go: %s: want GOARCH, GOARM, GOARM64, GOMIPS or GOMIPS64", key)
		}
	}
	if err := oneOf("kernel: format", b.Kernel.Format, "arm64-image", "elf", "zimage"); err != nil {
		return err
	}
	if err := oneOf("kernel: compression", b.Kernel.Compression, "none", "gzip"); err != nil {
		return err
	}
	if err := oneOf("kernel: arch", b.Kernel.Arch, "arm", "arm64", "mips"); err != nil {
		return err
	}
	if len(b.Kernel.Modules) == 0 {
		return errors.New("kernel: modules: is empty, but the root is a squashfs")
	}
	for _, list := range []struct {
		key   string
		names []string
	}{{"modules", b.Kernel.Modules}, {"drivers", b.Kernel.Drivers}} {
		for i, m := range list.names {
			if m == "" || strings.ContainsAny(m, "/. ") {
				return fmt.Errorf("kernel: %s: %q is not a module's name (without folder and .ko)", list.key, m)
			}
			if slices.Contains(list.names[:i], m) {
				return fmt.Errorf("kernel: %s: %s is there twice", list.key, m)
			}
		}
	}
	if (len(b.Kernel.DTBs) > 0) != (b.Kernel.FDT != 0) {
		return errors.New("kernel: dtbs and fdt: one without the other")
	}
	for _, dtb := range b.Kernel.DTBs {
		if !filepath.IsLocal(dtb) || !strings.HasSuffix(dtb, ".dtb") {
			return fmt.Errorf("kernel: dtbs: %q: want a path below the package's device trees, like broadcom/bcm2837-rpi-3-b.dtb", dtb)
		}
	}
	if len(strings.Fields(b.UBoot.Device)) != 2 {
		return fmt.Errorf("uboot: device: %q: want an interface and a number, like \"mmc 0\"", b.UBoot.Device)
	}
	if !strings.HasPrefix(b.Disk, "devices/") || !strings.HasSuffix(b.Disk, "/") || strings.Contains(b.Disk, "..") {
		return fmt.Errorf("disk: %q: want the controller's folder in /sys, like devices/platform/soc/3f202000.mmc/", b.Disk)
	}
	if b.BootCommands == "" {
		return errors.New("boot.cmd: is empty")
	}
	if err := b.checkUBoot(); err != nil {
		return err
	}
	if err := b.checkFirmware(); err != nil {
		return err
	}
	if err := b.CheckMemory(b.Kernel.Load, 1); err != nil {
		return err
	}
	return b.checkMachine()
}

func (b *Board) checkUBoot() error {
	u := &b.UBoot
	switch {
	case u.Package == "":
		return errors.New("uboot: package: is missing")
	case (u.Build == nil) == (u.File == ""):
		return errors.New("uboot: want file or build, one of the two")
	}
	if err := oneOf("uboot: format", u.Format, "fit", "legacy"); err != nil {
		return err
	}
	if u.Format == "fit" && len(b.Kernel.DTBs) > 0 {
		return errors.New("kernel: dtbs: only a boot image of the format legacy carries them")
	}
	if ub := u.Build; ub != nil {
		if ub.Defconfig == "" || ub.Config == "" || ub.Cross == "" || ub.File == "" {
			return errors.New("uboot: build: want defconfig, config, cross and file")
		}
		for _, f := range append([]string{ub.Config}, ub.Patches...) {
			if _, err := os.Stat(b.Path(f)); err != nil {
				return fmt.Errorf("uboot: build: %w", err)
			}
		}
	}
	// A prompt, or a key pressed by noise on the line, is a dead gateway.
	if u.Env["bootdelay"] != "-2" {
		return fmt.Errorf("uboot: env: bootdelay: %q: want \"-2\", which never stops at a prompt", u.Env["bootdelay"])
	}
	// The script has to be where the other addresses leave room for it.
	load := fmt.Sprintf("; load %s:1 %#x boot.scr && source %#[2]x; reset", u.Device, u.Script)
	if !strings.HasSuffix(u.Env["bootcmd"], load) {
		return fmt.Errorf("uboot: env: bootcmd: has to end in %q, with the board's device and script, and the reset in place of a prompt", load)
	}
	if u.EnvSize == 0 {
		return errors.New("uboot: env_size: is missing")
	}
	return nil
}

func (b *Board) checkFirmware() error {
	fw := b.Firmware
	if fw == nil {
		return nil
	}
	if fw.Package == "" || len(fw.Files) == 0 || fw.UBoot == "" || fw.Env == "" {
		return errors.New("firmware: want package, files, uboot and env")
	}
	if _, err := b.FirmwareFiles(); err != nil {
		return err
	}
	return nil
}

// FirmwareFiles returns the files in the board's folder boot/, which go into
// the boot partition, by name.
func (b *Board) FirmwareFiles() (map[string]string, error) {
	files := map[string]string{}
	if b.Firmware == nil {
		return files, nil
	}
	dir := b.Path("boot")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("firmware: its own files: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			return nil, fmt.Errorf("firmware: %s is no file", filepath.Join(dir, e.Name()))
		}
		files[e.Name()] = filepath.Join(dir, e.Name())
	}
	return files, nil
}

func (b *Board) checkMachine() error {
	m := &b.Machine
	if len(m.Command) == 0 {
		return errors.New("machine: command: is missing")
	}
	if m.Memory == 0 || m.Memory < m.MemoryMin {
		return fmt.Errorf("machine: memory: %d MB: want at least memory_min", m.Memory)
	}
	command := strings.Join(m.Command, " ")
	if !strings.Contains(command, "{image}") || !strings.Contains(command, "{memory}") {
		return errors.New("machine: command: has to use {image} and {memory}")
	}
	if strings.Contains(command, "{flash}") != (m.Flash != nil) {
		return errors.New("machine: flash, and {flash} in command: one without the other")
	}
	if f := m.Flash; f != nil {
		if f.Env+b.UBoot.EnvSize > f.Size || f.Swap > f.Size {
			return errors.New("machine: flash: the environment or the swapped part ends behind the flash")
		}
		if f.Swap%4 != 0 {
			return errors.New("machine: flash: swap: want whole 32-bit words")
		}
		if f.UBoot != nil && *f.UBoot >= f.Env {
			return errors.New("machine: flash: uboot: has to be before env")
		}
	}
	return nil
}

// CheckMemory checks that a kernel of the given size and address in memory,
// and all that the boot script loads, stay out of each other's way.
func (b *Board) CheckMemory(load, size uint64) error {
	type region struct {
		key        string
		start, end uint64
	}
	regions := []region{
		{"kernel: load", load, load + size},
		{"uboot: script", b.UBoot.Script, b.UBoot.Script + scriptSize},
		{"uboot: state", b.UBoot.State, b.UBoot.State + stateSize},
		{"uboot: image", b.UBoot.Image, b.UBoot.Image + ImageSize},
	}
	if b.Kernel.FDT != 0 {
		regions = append(regions, region{"kernel: fdt", b.Kernel.FDT, b.Kernel.FDT + fdtSize})
	}
	for _, r := range regions {
		if r.start == 0 {
			return fmt.Errorf("%s: is missing", r.key)
		}
	}
	slices.SortFunc(regions, func(a, b region) int { return int(int64(a.start) - int64(b.start)) })
	for i, r := range regions[1:] {
		if p := regions[i]; p.end > r.start {
			return fmt.Errorf("%s: %#x-%#x overlaps %s: %#x-%#x", p.key, p.start, p.end, r.key, r.start, r.end)
		}
	}
	return nil
}

func oneOf(key, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("%s: %q: want %s", key, value, strings.Join(allowed, " or "))
	}
	return nil
}
