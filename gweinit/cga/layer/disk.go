package layer

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
)

// Disk is what changes /data: everything that a power cut may interrupt.
// Package layertest has one whose power goes.
type Disk interface {
	// MakeFolder is durable.MakeFolder.
	MakeFolder(path string, mode os.FileMode) error
	// WriteFile is durable.WriteFile.
	WriteFile(path string, data []byte, mode os.FileMode) error
	// SyncFolder is durable.SyncFolder.
	SyncFolder(dir string) error
	// Sync returns when everything on the file system of dir is on the disk.
	Sync(dir string) error

	// These are durable after a SyncFolder or Sync only.

	// Mkdir makes a folder with this mode, whatever the umask is, and owner.
	Mkdir(path string, a Attributes) error
	// Set changes mode and owner.
	Set(path string, a Attributes) error
	// Rename replaces what is at to, if that is no folder.
	Rename(from, to string) error
	// Remove removes a file or an empty folder.
	Remove(path string) error
	// RemoveAll is os.RemoveAll.
	RemoveAll(path string) error
	// RemoveXattr removes an extended attribute. No link is followed.
	RemoveXattr(path, name string) error
}

// Attributes are mode and owner of a folder.
type Attributes struct {
	Mode     os.FileMode
	UID, GID int
}

// AttributesOf takes them from what Lstat said.
func AttributesOf(info os.FileInfo) Attributes {
	st := info.Sys().(*syscall.Stat_t)
	return Attributes{info.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky), int(st.Uid), int(st.Gid)}
}

// OS is the Disk of a gateway.
type OS struct{}

func (OS) MakeFolder(path string, mode os.FileMode) error { return durable.MakeFolder(path, mode) }
func (OS) WriteFile(path string, data []byte, mode os.FileMode) error {
	return durable.WriteFile(path, data, mode)
}
func (OS) SyncFolder(dir string) error  { return durable.SyncFolder(dir) }
func (OS) Rename(from, to string) error { return os.Rename(from, to) }
func (OS) Remove(path string) error     { return os.Remove(path) }
func (OS) RemoveAll(path string) error  { return os.RemoveAll(path) }

func (OS) Sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err = unix.Syncfs(int(f.Fd())); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("sync the file system of %s: %w", dir, err)
	}
	return nil
}

func (d OS) Mkdir(path string, a Attributes) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return d.Set(path, a)
}

func (OS) Set(path string, a Attributes) error {
	// The owner first: changing it takes set-gid away.
	if err := os.Lchown(path, a.UID, a.GID); err != nil {
		return err
	}
	return os.Chmod(path, a.Mode)
}

func (OS) RemoveXattr(path, name string) error {
	if err := unix.Lremovexattr(path, name); err != nil && err != unix.ENODATA {
		return &os.PathError{Op: "removexattr " + name, Path: path, Err: err}
	}
	return nil
}
