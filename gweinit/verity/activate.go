package verity

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is the device-mapper's; devtmpfs has it once dm-mod is loaded.
const control = "/dev/mapper/control"

// sectorSize is the device-mapper's, whatever the disk's is.
const sectorSize = 512

// request is what the ioctls take, see the kernel's linux/dm-ioctl.h. There are
// no holes in it, on 32 bits neither.
type request struct {
	unix.DmIoctl
	target unix.DmTargetSpec
	params [512]byte // ends in NUL
}

// Activate makes a read-only block device of the image on the block device,
// and returns its path. Reading a block of it that does not fit the root hash
// fails with EIO. Nothing has been read when it returns.
func Activate(name, device string, p Params) (string, error) {
	f, err := os.Open(control)
	if err != nil {
		return "", fmt.Errorf("the device-mapper: %w: is the module dm-verity loaded?", err)
	}
	defer f.Close()

	created, err := call(f, unix.DM_DEV_CREATE, newRequest(name))
	if err != nil {
		return "", fmt.Errorf("device-mapper: create the device %s: %w", name, err)
	}
	load := newRequest(name)
	load.Target_count = 1
	load.target.Length = p.Blocks * BlockSize / sectorSize
	copy(load.target.Target_type[:], "verity")
	table := p.table(device)
	if len(table) >= len(load.params) {
		return "", fmt.Errorf("device-mapper: the table %q is too long", table)
	}
	copy(load.params[:], table)
	if _, err := call(f, unix.DM_TABLE_LOAD, load); err != nil {
		return "", fmt.Errorf("device-mapper: load the table %q: %w (the kernel's log says why)", table, err)
	}
	// The name is misleading: without DM_SUSPEND_FLAG it resumes the device,
	// which makes the loaded table the active one.
	if _, err := call(f, unix.DM_DEV_SUSPEND, newRequest(name)); err != nil {
		return "", fmt.Errorf("device-mapper: resume the device %s: %w", name, err)
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(created.Dev)), nil
}

func newRequest(name string) *request {
	r := &request{}
	r.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0} // the oldest that will do
	r.Data_size = uint32(unsafe.Sizeof(*r))
	r.Data_start = uint32(unsafe.Offsetof(r.target))
	r.Flags = unix.DM_READONLY_FLAG
	copy(r.Name[:len(r.Name)-1], name)
	return r
}

// call returns the kernel's answer, which is in the request.
func call(f *os.File, number uintptr, r *request) (*request, error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), number, uintptr(unsafe.Pointer(r)))
	if errno != 0 {
		return nil, errno
	}
	return r, nil
}
