// Package flashtest has what tests of flashing need: an image, and loop devices that
// are card readers.
package flashtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/gweinit/config"
)

// Build makes the image of a board "test" in a folder, as a build leaves it:
// test.img, test.img.zst and test.json. Partition table and boot partition are real,
// what is in its slot is random.
func Build(dir string) (err error) {
	const mib = 1 << 20
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, data, 0o644))
		return path
	}
	noise := make([]byte, 9*mib+1000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	clear(noise[5*mib : 5*mib+100000])
	c := disk.Content{
		Boot:      map[string]string{"boot.scr": file("boot.scr", noise[:70000]), disk.ProvisionFile: file("provision.yaml", config.Blank())},
		BootImage: file("kernel", noise[:3*mib]), Root: file("root", noise), Data: filepath.Join(dir, "data"),
		Time: time.Unix(1700000000, 0),
	}
	path := filepath.Join(dir, "test.img")
	if err = errors.Join(err, disk.WriteData(context.Background(), c.Time, c.Data)); err != nil {
		return err
	}
	m := image.Manifest{Board: "test", Version: "1.2.3", UBoot: image.UBoot{Package: "u-boot-test", SHA256: strings.Repeat("0", 64)}, Image: image.File{Name: "test.img", Size: disk.Size}}
	if m.Partitions, err = disk.Write(context.Background(), c, dir, path); err != nil {
		return err
	}
	if m.Image.SHA256, err = disk.Compress(path, path+".zst"); err != nil {
		return err
	}
	m.Compressed = image.File{Name: "test.img.zst", Size: 1, SHA256: m.Image.SHA256} // which nobody looks at
	var text bytes.Buffer
	if err := m.Encode(&text); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "test.json"), text.Bytes(), 0o644)
}

// Reader is a card reader without a card until the end of the test: a loop device,
// which needs root. Its number is so high that who looks for any that is free takes
// another one.
func Reader(t testing.TB) (path string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	number := 0
	for {
		number = 1000 + rand.IntN(1<<19)
		if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, number); err == nil {
			break
		} else if !errors.Is(err, unix.EEXIST) {
			t.Fatalf("loop device %d: %v", number, err)
		}
	}
	path = fmt.Sprintf("/dev/loop%d", number)
	t.Cleanup(func() {
		exec.Command("losetup", "--detach", path).Run() // there may be no card in it
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, number)
			if err == nil {
				return
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(end) { // somebody still looks at it
				t.Errorf("remove %s: %v", path, err)
				return
			}
		}
	})
	return path
}

// Insert puts a card into a reader. It has the memory of a file, and is not removable
// as far as the kernel knows. The options are losetup's.
func Insert(t testing.TB, reader, file string, options ...string) {
	t.Helper()
	if out, err := exec.Command("losetup", append(options, reader, file)...).CombinedOutput(); err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
}

// Remove takes the card out of a reader.
func Remove(t testing.TB, reader string) {
	t.Helper()
	if out, err := exec.Command("losetup", "--detach", reader).CombinedOutput(); err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
}

// Loop is a card in a reader of its own.
func Loop(t testing.TB, file string, options ...string) (path string) {
	t.Helper()
	path = Reader(t)
	Insert(t, path, file, options...)
	return path
}

// File is the memory of a card that is new.
func File(t testing.TB, size int64) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "card")
	if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// Terminal is a pseudo terminal: what a person or a gateway has of it, and the path
// of what a program has.
func Terminal(t testing.TB) (far *os.File, path string) {
	t.Helper()
	far, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { far.Close() })
	number, err := unix.IoctlGetUint32(int(far.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(far.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return far, fmt.Sprintf("/dev/pts/%d", number)
}
