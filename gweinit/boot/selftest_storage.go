package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/ubenv"
)

// testStorage says what is wrong with the disk. Reading the root, which finds out
// most, is under way already.
func (s *system) testStorage(end time.Time) error {
	if err := s.failedPhases("storage"); err != nil {
		return err
	}
	if s.noData.Load() {
		return errors.New("/data is in memory")
	}
	device, err := filepath.EvalSymlinks(partition(slot.DataPartition))
	if err != nil {
		return err
	}
	sys, err := filepath.EvalSymlinks(filepath.Join("/sys/class/block", filepath.Base(device)))
	if err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/data", &fs); err != nil {
		return fmt.Errorf("size of /data: %w", err)
	}
	if err := testGrown(sys, uint64(fs.Blocks)*uint64(fs.Bsize)); err != nil {
		return err
	}
	if err := testWriting(filepath.Join(gatewayFolder, ".selftest"), s.down.Load); err != nil {
		return err
	}
	err = testBootState(partition(slot.StatePartition))
	if err != nil { // it may have been read in the middle of a write
		time.Sleep(time.Second)
		err = testBootState(partition(slot.StatePartition))
	}
	if err != nil {
		return err
	}
	return s.testRoot(end)
}

// testRoot waits until the root is read, and says how that ended.
func (s *system) testRoot(end time.Time) error {
	for ; ; time.Sleep(100 * time.Millisecond) {
		if ended := s.rootRead.Load(); ended != nil {
			if *ended != nil {
				return fmt.Errorf("read the root: %w", *ended)
			}
			return nil
		}
		if s.down.Load() || time.Now().After(end) {
			return errors.New("the root is not read to its end")
		}
	}
}

// testGrown says whether a file system of so many bytes has all of its partition,
// and that the rest of its disk. sys is the folder of the partition in /sys.
func testGrown(sys string, size uint64) error {
	var disk, start, part uint64 // bytes
	for file, n := range map[string]*uint64{"../size": &disk, "start": &start, "size": &part} {
		text, err := os.ReadFile(filepath.Join(sys, file))
		if err != nil {
			return err
		}
		sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 50)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(sys, file), err)
		}
		*n = sectors * 512
	}
	// The partition ends on a MiB, before the second partition table.
	if start+part+2<<20 < disk {
		return fmt.Errorf("the data partition ends at %d MiB of a disk of %d MiB", (start+part)>>20, disk>>20)
	}
	// ext4's journal takes 4 MiB, its tables one at first, and then less than 1 %.
	if size+8<<20+part/50 < part {
		return fmt.Errorf("/data has %d MiB of a partition of %d MiB", size>>20, part>>20)
	}
	return nil
}

// testWriting has a file written and read, and leaves none behind, be it of a boot
// before.
func testWriting(path string, stop func() bool) error {
	if err := durable.Remove(path); err != nil {
		return err
	}
	err := writeAndRead(path, stop)
	return errors.Join(err, durable.Remove(path))
}

// writeAndRead writes a MiB of noise to a file, and reads it back from the disk.
func writeAndRead(path string, stop func() bool) error {
	const size, chunk = 1 << 20, 64 << 10
	// O_DIRECT wants whole pages; and this memory is given back at the end.
	memory, err := unix.Mmap(-1, 0, 2*chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("memory for the test of the disk: %w", err)
	}
	defer unix.Munmap(memory)
	got, want := memory[:chunk], memory[chunk:]
	var seed [32]byte
	for i := 0; i < len(seed); i += 8 {
		binary.NativeEndian.PutUint64(seed[i:], rand.Uint64())
	}

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	noise := rand.NewChaCha8(seed)
	for off := 0; off < size; off += chunk {
		if stop() {
			return errors.New("the test of the disk was ended")
		}
		noise.Read(want)
		if _, err := f.Write(want); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	disk, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	noise.Seed(seed)
	for off := 0; off < size; off += chunk {
		if stop() {
			return errors.New("the test of the disk was ended")
		}
		noise.Read(want)
		if _, err := io.ReadFull(disk, got); err != nil {
			return fmt.Errorf("read %s at byte %d: %w", path, off, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s reads back differently from what was written: the disk may be worn out", path)
		}
	}
	return nil
}

// testBootState says whether both copies of the boot state are valid, as they are
// once a slot has arrived.
func testBootState(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, slot.CopySize)
	for i, off := range []int64{ubenv.BootState, slot.SecondCopy} {
		_, err := f.ReadAt(buf, off)
		if err == nil {
			_, err = slot.Decode(buf)
		}
		if err != nil {
			return fmt.Errorf("copy %d of the boot state: %w", i+1, err)
		}
	}
	return nil
}
