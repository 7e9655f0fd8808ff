// Package view makes what apps and their installers see as the root directory:
// the firmware with the layers of the apps over it, and in the place of /data and
// /var what is theirs.
//
//	/            the firmware, the layers, and what this app has written itself
//	/data        /data/shared of the gateway: settings and layers are not in it
//	/data/gwe    copies of the gateway's settings
//	/var, /tmp, /run, /dev, /sys, /proc   those of the gateway
//
// It is no fence: apps run as root. It keeps what goes wrong in one from the
// others and from the gateway.
package view

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/layer"
)

// Places below the gateway's root.
const (
	Shared = "data/shared"   // what apps see as /data
	Shown  = "run/apps/.gwe" // copies of the settings, which apps see as /data/gwe
	Roots  = "run/apps"      // the root directories of programs, by the app's name
	vars   = "data/var"
	logs   = "data/log"
)

// Marker is in /data/gwe of a view, and nowhere else: there are no layers to work
// with.
const Marker = "/data/gwe/.app"

// Mount is one of those that make a view.
type Mount struct {
	Source, Target, Type string // Target: below the view's root
	Flags                uintptr
	Data                 string
	File                 bool // and no folder
}

// Make makes the mounts below a folder, in order. After an error it undoes what it
// has done.
func Make(root string, mounts []Mount) error {
	for _, m := range mounts {
		if err := m.mount(root); err != nil {
			return errors.Join(err, Unmake(root))
		}
	}
	return nil
}

func (m Mount) mount(root string) error {
	target := filepath.Join(root, m.Target)
	// A layer can have a link in a folder's place.
	if info, err := os.Lstat(target); err != nil || !info.IsDir() && !m.File {
		return fmt.Errorf("mount %s on %s: an app has removed or replaced the folder /%s", m.Source, target, m.Target)
	}
	bind := m.Flags & unix.MS_BIND
	if err := unix.Mount(m.Source, target, m.Type, m.Flags, m.Data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.Source, target, err)
	}
	if bind != 0 && m.Flags&unix.MS_RDONLY != 0 { // a bind takes that only later
		if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", target, err)
		}
	}
	return nil
}

// Unmake takes away all that is mounted on a folder and below. What still uses it
// keeps it until it ends.
func Unmake(root string) error {
	for range 16 { // what lies over another at the same place
		err := unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == unix.EINVAL, err == unix.ENOENT: // nothing is mounted there
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", root, err)
		}
	}
	return fmt.Errorf("unmount %s: there is always more", root)
}

// Overlay is a mount of folders over each other: the lowest first, and upper, which
// takes what is written, with work beside it.
func Overlay(target string, lower []string, upper, work string, options ...string) (Mount, error) {
	lower = slices.Clone(lower)
	slices.Reverse(lower)
	// Nothing but the files themselves is to be in a layer: it is for other stacks
	// and later kernels, too.
	data := append([]string{
		"lowerdir=" + strings.Join(lower, ":"), "upperdir=" + upper, "workdir=" + work,
		"index=off", "metacopy=off", "redirect_dir=off",
	}, options...)
	for _, path := range append(lower, upper, work) {
		if strings.ContainsAny(path, `,:\`) {
			return Mount{}, fmt.Errorf("overlay on %s: the path %s cannot be an option of mount", target, path)
		}
	}
	m := Mount{Source: "overlay", Target: target, Type: "overlay", Data: strings.Join(data, ",")}
	if len(m.Data) >= os.Getpagesize() {
		return Mount{}, fmt.Errorf("overlay on %s: %d layers do not fit into the kernel's page of options", target, len(lower))
	}
	return m, nil
}

// Program are the mounts for a running app: lower are firmware and layers, upper
// what the app has written.
func Program(gateway string, lower []string, upper, work string) ([]Mount, error) {
	gateway = cmp.Or(gateway, "/")
	root, err := Overlay("", lower, upper, work)
	if err != nil {
		return nil, err
	}
	bind := func(target, source string, flags uintptr) Mount {
		return Mount{Source: source, Target: target, Flags: unix.MS_BIND | flags}
	}
	here := func(path string) string { return filepath.Join(gateway, path) }
	return []Mount{
		root,
		bind("proc", "/proc", 0),
		bind("sys", "/sys", 0),
		bind("dev", "/dev", unix.MS_REC),
		bind("run", here("run"), 0),
		bind("tmp", here("tmp"), 0),
		bind("var", here(vars), 0),
		bind("var/log", here(logs), 0),
		bind("data", here(Shared), 0),
		bind("data/gwe", here(Shown), unix.MS_RDONLY),
	}, nil
}

// layerWork is a folder of a layer, for the kernel while its installer runs.
const layerWork = "work"

// Installer are the mounts for an app's installer, whose writes all go to the
// folders of its layer; and its /tmp, /run and /data/gwe to tmp, run and gwe there,
// which the caller has made. Layers that are to be committed together with it have
// written to /var and so on, too: pending are their folders. The mounts are for a
// mount and a PID namespace of their own.
func Installer(gateway, dir string, lower, pending []string) ([]Mount, error) {
	gateway = cmp.Or(gateway, "/")
	var mounts []Mount
	over := func(target, upper string, lower ...string) error {
		upper, work := filepath.Join(dir, upper), filepath.Join(dir, layerWork, upper)
		for _, path := range []string{upper, work} {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
		}
		// All of /data is synced before the layer counts.
		m, err := Overlay(target, lower, upper, work, "volatile")
		mounts = append(mounts, m)
		return err
	}
	overData := func(target, upper, below string) error {
		lower := []string{filepath.Join(gateway, below)}
		for _, other := range pending {
			if dir := filepath.Join(other, upper); isFolder(dir) {
				lower = append(lower, dir)
			}
		}
		return over(target, upper, lower...)
	}
	bind := func(target, source string, flags uintptr) error {
		mounts = append(mounts, Mount{Source: source, Target: target, Flags: unix.MS_BIND | flags})
		return nil
	}
	fresh := func(target, fstype string, data string) error {
		mounts = append(mounts, Mount{Source: fstype, Target: target, Type: fstype, Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: data})
		return nil
	}
	hide := func(target string) error {
		if _, err := os.Stat(filepath.Join("/", target)); err == nil {
			mounts = append(mounts, Mount{Source: os.DevNull, Target: target, Flags: unix.MS_BIND, File: true})
		}
		return nil
	}
	return mounts, errors.Join(
		over("", layer.Root, lower...),
		fresh("proc", "proc", ""),
		hide("proc/sysrq-trigger"), // it reboots at once
		// Without the control groups, of which it could remove some.
		bind("sys", "/sys", 0),
		// Devices can be written to; they cannot be removed.
		bind("dev", "/dev", unix.MS_RDONLY),
		bind("dev/pts", "/dev/pts", 0),
		fresh("dev/shm", "tmpfs", "mode=1777,size=10%"),
		bind("run", filepath.Join(dir, "run"), 0),
		bind("tmp", filepath.Join(dir, "tmp"), 0),
		overData("var", layer.Var, vars),
		overData("var/log", layer.Log, logs),
		overData("data", layer.Data, Shared),
		bind("data/gwe", filepath.Join(dir, "gwe"), 0),
	)
}

func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// LogFile returns where a log file that an app knows by a path is on the gateway, ""
// if that is in the app's own root directory. Links there, which apps can make, must
// not be followed: they are for the app's root directory.
func LogFile(gateway, path string) string {
	path = filepath.Join("/", path)
	for _, place := range []struct{ in, on string }{
		// /var/run is a link of the gateway's own.
		{"/var/log/", logs}, {"/var/run/", "run"}, {"/var/", vars}, {"/data/", Shared}, {"/tmp/", "tmp"}, {"/run/", "run"},
	} {
		if rest, ok := strings.CutPrefix(path, place.in); ok {
			return filepath.Join(cmp.Or(gateway, "/"), place.on, rest)
		}
	}
	return ""
}
