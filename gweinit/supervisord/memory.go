package supervisord

import (
	"bufio"
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseMemory returns free heap to the kernel, and lets go of the pages of this
// program's file: the ones that are still used come back by themselves, and most
// of those that only initialised packages do not. PID 1 keeps them: they are
// shared with the other programs of this file, and a page that comes back needs a
// disk that works.
func releaseMemory() error {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, m := range readOnly(maps, exe) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return os.NewSyscallError("madvise", errno)
		}
	}
	return nil
}

type mapping struct{ start, end uintptr }

// readOnly returns the mappings of a file that cannot be written to (proc(5),
// maps): no others, as what was written would be lost.
func readOnly(maps []byte, file string) (list []mapping) {
	for s := bufio.NewScanner(bytes.NewReader(maps)); s.Scan(); {
		// address perms offset dev inode pathname
		f := strings.Fields(s.Text())
		if len(f) != 6 || f[5] != file || !strings.HasPrefix(f[1], "r-") || !strings.HasSuffix(f[1], "p") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, strconv.IntSize)
		end, err2 := strconv.ParseUint(to, 16, strconv.IntSize)
		if err1 == nil && err2 == nil && start < end {
			list = append(list, mapping{uintptr(start), uintptr(end)})
		}
	}
	return list
}
