package flash

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/mountinfo"
)

// Largest is the size, in bytes, above which something is taken for a disk and
// not for a gateway's card.
const Largest = 128 << 30

// Card is a block device as a card to be overwritten.
type Card struct {
	Path      string // as it was given
	Name      string // the kernel's, such as sdb
	Model     string // of the card, or of its reader; may be ""
	ID        string // likewise: the card's CID, or what the reader says; may be ""
	Size      int64  // bytes; 0: there is no card in the reader
	Removable bool
	ReadOnly  bool
	Uses      []string // what the host has it for: "mounted on /", "swap", "dm-0"
	System    bool     // the host runs from it
	seq       string   // another one for another card
	place     string   // where its reader is plugged in, and which one that is
}

var (
	errInUse    = errors.New("it is in use")
	errReadOnly = errors.New("it is write-protected: look at the lock on the card's side")
	errNoCard   = errors.New("there is no card in it")
)

// host is where the kernel tells about devices; tests have another one.
type host struct{ sys, proc string }

// Examine looks at a block device. It does not open it. The error says that it is
// none that could be a card.
func Examine(path string) (Card, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Card{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Card{}, errors.New("it is no block device: want the card's, such as /dev/sdb or /dev/mmcblk0 (lsblk lists them)")
	}
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	c, err := host{"/sys", "/proc"}.examine(number)
	c.Path = path
	return c, err
}

// examine looks at the device of this number, MAJOR:MINOR.
func (h host) examine(number string) (c Card, err error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(h.sys, "dev/block", number))
	if errors.Is(err, fs.ErrNotExist) {
		return c, errors.New("there is no such device any more")
	}
	if err != nil {
		return c, err
	}
	c.Name = filepath.Base(dir)
	attribute := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return strings.Join(strings.Fields(string(text)), " ")
	}
	if n := attribute("partition"); n != "" {
		return c, fmt.Errorf("it is partition %s of a disk: give the disk, /dev/%s", n, filepath.Base(filepath.Dir(dir)))
	}
	sectors, err := strconv.ParseInt(attribute("size"), 10, 64)
	if err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "size"), err)
	}
	c.Size = sectors * 512
	c.Model = strings.TrimSpace(attribute("device/vendor") + " " + cmp.Or(attribute("device/model"), attribute("device/name"), attribute("loop/backing_file")))
	c.ID = cmp.Or(attribute("device/cid"), attribute("device/wwid"), attribute("device/serial"))
	// A slot of the mainboard has fixed cards as far as the kernel knows; soldered
	// ones are of the type MMC.
	c.Removable = attribute("removable") == "1" || attribute("device/type") == "SD"
	c.ReadOnly = attribute("ro") == "1"
	c.place = place(dir, c.Model)
	c.seq = cmp.Or(attribute("diskseq"), "before Linux 5.15")
	return c, h.findUses(&c, dir)
}

// place tells readers from others that get their names later: /dev/sdb is what is
// plugged in next.
func place(dir, model string) string {
	at, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	if err != nil { // a loop device
		return dir
	}
	if slot, card, ok := strings.Cut(at, "/mmc_host/"); ok { // the card is a device of its own
		name, _, _ := strings.Cut(card, "/")
		return slot + "/mmc_host/" + name
	}
	lun := at[strings.LastIndexAny(at, ":/")+1:]
	if i := strings.LastIndex(at, "/host"); i >= 0 { // has another number each time
		at = at[:i]
	}
	return at + " " + lun + " " + model
}

// findUses lists what the device, its partitions and what is made of them are
// used for.
func (h host) findUses(c *Card, dir string) error {
	mounts, err := os.ReadFile(filepath.Join(h.proc, "self/mountinfo"))
	if err != nil {
		return err
	}
	swaps, err := os.ReadFile(filepath.Join(h.proc, "swaps"))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without swap
		return err
	}
	seen := map[string]bool{}
	var look func(dir string) error
	look = func(dir string) error {
		if seen[dir] {
			return nil
		}
		seen[dir] = true
		number, err := os.ReadFile(filepath.Join(dir, "dev"))
		if err != nil {
			return err
		}
		name := "/dev/" + filepath.Base(dir)
		for _, m := range mountinfo.Parse(string(mounts)) {
			// Some file systems have numbers of their own, and name the device only.
			if m.Device == strings.TrimSpace(string(number)) || resolved(m.Source) == name {
				c.Uses = append(c.Uses, "mounted on "+m.Target)
				c.System = c.System || slices.Contains([]string{"/", "/boot", "/boot/efi", "/boot/firmware", "/usr"}, m.Target)
			}
		}
		for line := range strings.Lines(string(swaps)) {
			if fields := strings.Fields(line); len(fields) > 0 && resolved(fields[0]) == name {
				c.Uses, c.System = append(c.Uses, "swap"), true
			}
		}
		for _, kind := range []string{"holders/*", "*/partition"} {
			found, err := filepath.Glob(filepath.Join(dir, kind))
			if err != nil {
				return err
			}
			for _, f := range found {
				if kind == "*/partition" {
					f = filepath.Dir(f)
				} else {
					c.Uses = append(c.Uses, "part of "+filepath.Base(f))
				}
				if f, err = filepath.EvalSymlinks(f); err != nil {
					return err
				}
				if err := look(f); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err = look(dir)
	slices.Sort(c.Uses)
	c.Uses = slices.Compact(c.Uses)
	return err
}

// resolved is what a path in /dev stands for, such as /dev/disk/by-label/x.
func resolved(path string) string {
	if !strings.HasPrefix(path, "/dev/") {
		return ""
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// Refuse says why the card must not be overwritten with so many bytes; nil: it
// may be. Force allows what is large or not removable, never what is in use.
func (c Card) Refuse(need int64, force bool) error {
	switch {
	case c.System:
		return fmt.Errorf("this computer runs from it: %s", strings.Join(c.Uses, ", "))
	case len(c.Uses) > 0:
		return fmt.Errorf("%w: %s", errInUse, strings.Join(c.Uses, ", "))
	case c.Size == 0:
		return errNoCard
	case c.ReadOnly:
		return errReadOnly
	case c.Size < need:
		return tooSmall(c.Size, need)
	case force:
		return nil
	case !c.Removable:
		return fmt.Errorf("it is not removable (%s, %s), so it may be a disk of this computer: -force writes to it nevertheless", cmp.Or(c.Model, "no model"), SizeText(c.Size))
	case c.Size > Largest:
		return fmt.Errorf("it has %s, more than %s, as disks have: -force writes to it nevertheless", SizeText(c.Size), SizeText(Largest))
	}
	return nil
}

func tooSmall(size, need int64) error {
	has, needs := SizeText(size), SizeText(need)
	if has == needs {
		has, needs = fmt.Sprintf("%d bytes", size), fmt.Sprint(need)
	}
	return fmt.Errorf("it is too small: it has %s, and the image %s", has, needs)
}

// SizeText is a size as the makers of cards tell it.
func SizeText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%d bytes", n)
}
