package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/slot"
)

// mount is one line of what is mounted. /proc, /sys, /dev and /run come
// mounted from the initramfs.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const safe = unix.MS_NOSUID | unix.MS_NODEV

func mounts() []mount {
	return []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777,size=25%"},
		{"tmpfs", "/tmp", "tmpfs", safe, "mode=1777,size=25%"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", safe | unix.MS_NOEXEC, ""},
		// Never written on the device: a torn FAT is a dead gateway.
		{partition(slot.BootPartition), "/boot", "vfat", safe | unix.MS_NOEXEC | unix.MS_RDONLY, "umask=0077"},
	}
}

func partition(name string) string { return "/dev/disk/by-partlabel/" + name }

func mountAll(*system) error {
	var errs []error
	for _, m := range mounts() {
		errs = append(errs, m.mount())
	}
	return errors.Join(errs...)
}

func (m mount) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount point %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

// makeFolders makes what programs expect below /data.
func makeFolders(*system) error {
	var errs []error
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{"/data/gwe", 0o700},
		{"/data/apps", 0o755},
		{"/data/generations", 0o700},
		{"/data/shared", 0o755}, // what apps see as /data
		{"/data/shared/gwe", 0o700},
		{"/data/log", 0o755},
		{"/data/var", 0o755},
		{"/data/var/cache", 0o755},
		{"/data/var/lib", 0o755},
		{"/data/var/log", 0o755},
		{"/data/var/spool", 0o755},
		{"/data/var/tmp", 0o1777},
	} {
		if err := os.Mkdir(d.path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
			continue
		}
		if info, err := os.Lstat(d.path); err == nil && !info.IsDir() {
			continue // an app has put a link there, of its own view
		}
		if err := unix.Chmod(d.path, uint32(d.mode)); err != nil {
			errs = append(errs, fmt.Errorf("chmod %s: %w", d.path, err))
		}
	}
	if err := os.Symlink("/run", "/data/var/run"); err != nil && !errors.Is(err, os.ErrExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bindFolders binds the parts of the root that are written to those of /data.
func bindFolders(*system) error {
	var errs []error
	for _, b := range []mount{
		{"/data/var", "/var", "", unix.MS_BIND, ""},
		{"/data/log", "/var/log", "", unix.MS_BIND, ""},
	} {
		errs = append(errs, b.mount())
	}
	return errors.Join(errs...)
}
