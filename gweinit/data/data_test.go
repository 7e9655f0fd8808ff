package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// tool runs a program of the host.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MKE2FS_CONFIG=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// mke2fs writes an empty file system as builder/disk does, with a journal if
// there is room for one.
func mke2fs(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ext4")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	args := []string{"-q", "-F", "-t", "ext4", "-L", "data", "-b", "4096", "-m", "1", "-I", "256"}
	features := "none,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
	if size > 8*mib {
		args = append(args, "-J", "size=4")
		features += ",has_journal"
	}
	tool(t, "mke2fs", append(args, "-O", features, "-E", "lazy_itable_init=0,lazy_journal_init=0,resize=67108864", path)...)
	return path
}

// loop makes a block device of a file.
func loop(t *testing.T, file string, options ...string) string {
	t.Helper()
	dev := strings.TrimSpace(tool(t, "losetup", append(options, "--find", "--show", file)...))
	t.Cleanup(func() { tool(t, "losetup", "--detach", dev) })
	return dev
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// put writes to a device as dd would.
func put(t *testing.T, dev string, data []byte, off int64) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, dev string) []byte {
	t.Helper()
	data, err := os.ReadFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// gateway is a file system on a device that is mounted in a test.
type gateway struct {
	FS
	t   *testing.T
	ran []string // calls of e2fsck
	log []string
}

func newGateway(t *testing.T, file string) *gateway {
	g := &gateway{t: t}
	g.FS = FS{Device: file, Blank: "/nonexistent/blank", Target: t.TempDir(), Log: func(format string, args ...any) {
		g.log = append(g.log, fmt.Sprintf(format, args...))
	}}
	g.E2fsck = func(ctx context.Context, output io.Writer, args ...string) (int, error) {
		g.ran = append(g.ran, strings.Join(args[:len(args)-1], " "))
		cmd := exec.CommandContext(ctx, "e2fsck", args...)
		cmd.Stdout, cmd.Stderr = output, output
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
			return exit.ExitCode(), nil
		}
		return 0, err
	}
	t.Cleanup(func() { unix.Unmount(g.Target, unix.MNT_DETACH) })
	return g
}

func (g *gateway) unmount() {
	g.t.Helper()
	if err := unix.Unmount(g.Target, 0); err != nil {
		g.t.Fatal(err)
	}
}

// big is a file that takes several blocks.
var big = noise(300 << 10)

// fill mounts the sound file system and puts files into it.
func (g *gateway) fill() {
	g.t.Helper()
	if recreated, err := g.Mount(g.t.Context()); err != nil || recreated {
		g.t.Fatalf("recreated %v, %v", recreated, err)
	}
	err := errors.Join(
		os.Mkdir(g.Target+"/gwe", 0o700),
		os.WriteFile(g.Target+"/gwe/cik", []byte("e469e336"), 0o600),
		os.WriteFile(g.Target+"/big", big, 0o600),
	)
	if err != nil {
		g.t.Fatal(err)
	}
}

// has tells what of fill's files is there: "all", "nothing", or "some".
func (g *gateway) has() string {
	g.t.Helper()
	cik, _ := os.ReadFile(g.Target + "/gwe/cik")
	data, _ := os.ReadFile(g.Target + "/big")
	names, err := filepath.Glob(g.Target + "/*/*")
	if err != nil {
		g.t.Fatal(err)
	}
	switch {
	case string(cik) == "e469e336" && bytes.Equal(data, big):
		return "all"
	case len(names) == 0:
		return "nothing"
	}
	return "some"
}

func debugfs(command string) func(*testing.T, string) {
	return func(t *testing.T, dev string) { t.Helper(); tool(t, "debugfs", "-w", "-R", command, dev) }
}

func overwrite(data []byte, off int64) func(*testing.T, string) {
	return func(t *testing.T, dev string) { t.Helper(); put(t, dev, data, off) }
}

// Real file systems, damaged in the ways of the field, real e2fsck, real mounts.
func TestMount(t *testing.T) {
	const small, large = 30 * mib, 200 * mib // without and with a second superblock
	blank := mke2fs(t, small)
	for _, tt := range []struct {
		name   string
		size   int64
		damage func(t *testing.T, dev string)
		ran    string // runs of e2fsck
		want   string // of the files
	}{
		{"sound", small, func(*testing.T, string) {}, "", "all"},
		{"error flag", small, debugfs("ssv state 2"), "-f -y", "all"},
		{"error flag, and a file that is lost", small, func(t *testing.T, dev string) {
			debugfs("ssv state 2")(t, dev)
			debugfs("unlink /gwe")(t, dev)
		}, "-f -y", "some"},
		{"error flag, free blocks are wrong", small, func(t *testing.T, dev string) {
			debugfs("ssv state 2")(t, dev)
			debugfs("ssv free_blocks_count 77")(t, dev)
			debugfs("freeb 1500 10")(t, dev)
		}, "-f -y", "all"},
		{"no root folder", small, debugfs("clri <2>"), "-f -y", "some"},
		{"bad checksum, second superblock", large, overwrite([]byte("X"), 1024+0x78), "-f -y", "all"},
		{"bad checksum, no other superblock", small, overwrite([]byte("X"), 1024+0x78), "-f -y,-f -y", "nothing"},
		{"zeros as superblock, second superblock", large, overwrite(make([]byte, 4096), 0), "-f -y", "all"},
		{"garbage as superblock, second superblock", large, overwrite(noise(4096), 0), "-f -y", "all"},
		{"garbage as superblock, no other", small, overwrite(noise(4096), 0), "-f -y,-f -y", "nothing"},
		{"garbage over superblock and group descriptors", large, overwrite(noise(64<<10), 0), "-f -y", "all"},
		{"garbage over the group descriptors, second copy", large, overwrite(noise(4096), 4096), "-f -y", "all"},
		{"garbage over the group descriptors, no other copy", small, overwrite(noise(4096), 4096), "-f -y", "nothing"},
		{"garbage over bitmaps and inodes", small, overwrite(noise(200<<10), 33*4096), "-f -y", "nothing"},
		{"garbage over the inode table behind the files", small, overwrite(noise(8192), 80*4096), "", "all"},
		{"all zeros", small, overwrite(make([]byte, small), 0), "-f -y,-f -y", "nothing"},
		{"all garbage", small, overwrite(noise(small), 0), "-f -y,-f -y", "nothing"},
		{"re-creation was cut short", large, overwrite([]byte(unfinished), 0), "", "nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, loop(t, mke2fs(t, tt.size)))
			g.Blank = blank
			g.fill()
			g.unmount()
			tt.damage(t, g.Device)
			g.log = nil
			recreated, err := g.Mount(t.Context())
			if err != nil {
				t.Fatalf("%v\n%s", err, strings.Join(g.log, "\n"))
			}
			t.Logf("\n%s", strings.Join(g.log, "\n"))
			if got := strings.Join(g.ran, ","); got != tt.ran {
				t.Errorf("e2fsck %q, want %q", got, tt.ran)
			}
			if got := g.has(); got != tt.want {
				t.Errorf("%s is there, want %s", got, tt.want)
			}
			if fresh := strings.Contains(strings.Join(g.log, "\n"), "is an empty file system now"); recreated != fresh {
				t.Errorf("re-created: %v, the log says %v", recreated, fresh)
			}
			if err := os.WriteFile(g.Target+"/new", big, 0o600); err != nil {
				t.Error(err)
			}
			g.unmount()
			tool(t, "e2fsck", "-fn", g.Device)
			super := tool(t, "dumpe2fs", "-h", g.Device)
			if saved := tt.want != "nothing"; (saved || recreated) && !strings.Contains(super, "has_journal") {
				t.Errorf("the journal is gone:\n%s", super)
			}
			// Whatever it was, the next boot finds nothing to do.
			g.log = nil
			if recreated, err := g.Mount(t.Context()); err != nil || recreated || g.log != nil {
				t.Errorf("the next boot: re-created %v, %v, %q", recreated, err, g.log)
			}
		})
	}
}

// The disk of a gateway whose power went while it wrote: the journal is the
// kernel's to replay. Without one, it takes a check.
func TestMountAfterPowerCut(t *testing.T) {
	for _, journal := range []bool{true, false} {
		image := mke2fs(t, 30*mib)
		wantRan := []string(nil)
		if !journal {
			tool(t, "tune2fs", "-O", "^has_journal", image)
			wantRan = []string{"-f -y"}
		}
		g := newGateway(t, loop(t, powerCut(t, image)))
		if recreated, err := g.Mount(t.Context()); err != nil || recreated || !slices.Equal(g.ran, wantRan) || g.has() != "all" {
			t.Errorf("journal %v: re-created %v, %v, e2fsck %q, files: %s", journal, recreated, err, g.ran, g.has())
		}
	}
}

// powerCut returns what is on the disk while it is mounted.
func powerCut(t *testing.T, image string) (snapshot string) {
	t.Helper()
	g := newGateway(t, loop(t, image))
	g.fill()
	for _, name := range []string{"/gwe/cik", "/big"} {
		f, err := os.Open(g.Target + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	snapshot = filepath.Join(t.TempDir(), "snapshot")
	if err := os.WriteFile(snapshot, content(t, g.Device), 0o600); err != nil {
		t.Fatal(err)
	}
	if super := tool(t, "dumpe2fs", "-h", snapshot); !strings.Contains(super, "needs_recovery") && !strings.Contains(super, "not clean") {
		t.Fatalf("there is nothing to recover:\n%s", super)
	}
	return snapshot
}

// What is not the file system's fault costs no data.
func TestMountKeepsTheData(t *testing.T) {
	fake := func(status int, err error) func(context.Context, io.Writer, ...string) (int, error) {
		return func(context.Context, io.Writer, ...string) (int, error) { return status, err }
	}
	for _, tt := range []struct {
		name   string
		damage string // command of debugfs
		change func(g *gateway)
		want   string
	}{
		{"no e2fsck", "ssv state 2", func(g *gateway) {
			g.E2fsck = fake(0, &os.PathError{Op: "start", Path: "/sbin/e2fsck", Err: unix.ENOENT})
		}, "e2fsck -f -y DEV: start /sbin/e2fsck: no such file or directory"},
		{"e2fsck hangs", "ssv state 2", func(g *gateway) {
			g.E2fsck = func(ctx context.Context, output io.Writer, _ ...string) (int, error) {
				fmt.Fprintln(output, "Pass 1: Checking inodes, blocks, and sizes")
				<-ctx.Done()
				return 0, ctx.Err()
			}
		}, "e2fsck -f -y DEV: context deadline exceeded"},
		{"e2fsck failed, but there is a superblock", "ssv state 2", func(g *gateway) { g.E2fsck = fake(8, nil) }, "e2fsck -f -y DEV: exit status 8"},
		{"usage of e2fsck", "ssv state 2", func(g *gateway) { g.E2fsck = fake(16, nil) }, "e2fsck -f -y DEV: exit status 16"},
		{"e2fsck was canceled", "ssv state 2", func(g *gateway) { g.E2fsck = fake(32|4, nil) }, "e2fsck -f -y DEV: exit status 36"},
		{"no libraries for e2fsck", "ssv state 2", func(g *gateway) { g.E2fsck = fake(127, nil) }, "exit status 127"},
		{"no mount point", "ssv mtime now", func(g *gateway) { g.Target += "/none" }, "mount DEV on TARGET: no such file or directory"},
		{"no blank", "clri <2>", func(g *gateway) { g.E2fsck = fake(4, nil) }, "open the blank file system: open /nonexistent/blank: no such file or directory"},
		{"a blank that is too large", "clri <2>", func(g *gateway) {
			g.E2fsck, g.Blank = fake(4, nil), mke2fs(g.t, 31*mib)
		}, "re-create DEV: it has 31457280 bytes, the blank file system 32505856"},
		{"a blank that is none", "clri <2>", func(g *gateway) {
			g.E2fsck, g.Blank = fake(4, nil), mke2fs(g.t, 2*mib)
			tool(g.t, "dd", "if=/dev/zero", "of="+g.Blank, "bs=4096", "count=1", "conv=notrunc", "status=none")
		}, "the blank file system: there is no superblock"},
		{"a part of a blank", "clri <2>", func(g *gateway) {
			g.E2fsck, g.Blank = fake(4, nil), mke2fs(g.t, 9*mib)
			tool(g.t, "truncate", "-s", "8M", g.Blank)
		}, "the blank file system has 8388608 bytes and should have 9437184"},
		{"the time is up before the re-creation", "clri <2>", func(g *gateway) {
			g.Blank = mke2fs(g.t, 30*mib)
			g.E2fsck = func(ctx context.Context, _ io.Writer, _ ...string) (int, error) {
				<-ctx.Done()
				return 4, nil
			}
		}, "at byte 0 of 31457280: context deadline exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, loop(t, mke2fs(t, 30*mib)))
			g.fill()
			g.unmount()
			debugfs(tt.damage)(t, g.Device)
			before := content(t, g.Device)
			tt.change(g)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			recreated, err := g.Mount(ctx)
			want := strings.NewReplacer("DEV", g.Device, "TARGET", g.Target).Replace(tt.want)
			if recreated || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("re-created %v, %v; want %q", recreated, err, want)
			}
			// The kernel may note in superblock and journal what it has found.
			after := content(t, g.Device)
			if !bytes.Contains(after, big[:100<<10]) || !bytes.Equal(after[:1024], before[:1024]) {
				t.Error("the partition was written to")
			}
		})
	}
}

// A partition that ends too early is no reason to throw away what is on it:
// the partition table is wrong.
func TestMountTruncated(t *testing.T) {
	image := mke2fs(t, 30*mib)
	g := newGateway(t, loop(t, image))
	g.fill()
	g.unmount()
	short := newGateway(t, loop(t, image, "--sizelimit", fmt.Sprint(20*mib)))
	short.Blank = mke2fs(t, 10*mib)
	if recreated, err := short.Mount(t.Context()); recreated || err == nil || errors.Is(err, errDamaged) {
		t.Errorf("re-created %v, %v\n%s", recreated, err, strings.Join(short.log, "\n"))
	}
	if recreated, err := g.Mount(t.Context()); err != nil || recreated || g.has() != "all" {
		t.Errorf("as a whole again: re-created %v, %v, files: %s", recreated, err, g.has())
	}
}

func TestMountNoDisk(t *testing.T) {
	image := mke2fs(t, 30*mib)
	for name, dev := range map[string]string{
		"no device":          filepath.Join(t.TempDir(), "none"),
		"unreadable":         t.TempDir(),
		"no block device":    image,
		"write-protected":    loop(t, image, "--read-only"),
		"not there any more": "/dev/loop-none",
	} {
		g := newGateway(t, dev)
		if recreated, err := g.Mount(t.Context()); recreated || err == nil || g.ran != nil || !strings.Contains(err.Error(), dev) {
			t.Errorf("%s: re-created %v, %v, e2fsck %q", name, recreated, err, g.ran)
		}
	}
}

// A file system that e2fsck finds sound and the kernel does not mount.
// e2fsck has left errors, but what can be mounted is not thrown away.
func TestMountWithErrorsLeft(t *testing.T) {
	g := newGateway(t, loop(t, mke2fs(t, 30*mib)))
	g.fill()
	g.unmount()
	debugfs("ssv state 2")(t, g.Device)
	g.E2fsck = func(context.Context, io.Writer, ...string) (int, error) { return 4, nil }
	if recreated, err := g.Mount(t.Context()); err != nil || recreated || g.has() != "all" {
		t.Errorf("re-created %v, %v, files: %s", recreated, err, g.has())
	}
}

func TestMountAfterUselessCheck(t *testing.T) {
	g := newGateway(t, loop(t, mke2fs(t, 30*mib)))
	g.fill()
	g.unmount()
	g.Blank = mke2fs(t, 20*mib)
	debugfs("clri <2>")(t, g.Device)
	g.E2fsck = func(context.Context, io.Writer, ...string) (int, error) { return 1, nil }
	if recreated, err := g.Mount(t.Context()); err != nil || !recreated || g.has() != "nothing" {
		t.Errorf("re-created %v, %v, files: %s", recreated, err, g.has())
	}
}

func TestLines(t *testing.T) {
	numbered := func(from, to int) (text string) {
		for i := from; i <= to; i++ {
			text += fmt.Sprintln("line", i)
		}
		return text
	}
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"no end of line", "a\nb", "a\nb\n"},
		{"blank lines", "\n\na\r\n\nb\n\n", "a\nb\n"},
		{"control characters", "\x1b[31mPass 1\x07:\n", "[31mPass 1 :\n"},
		{"a long line", strings.Repeat("x", 10000) + "\ny\n", strings.Repeat("x", lineLength) + "\ny\n"},
		{"just enough", numbered(1, 50), numbered(1, 50)},
		{"too many", numbered(1, 1000), numbered(1, 40) + "(950 more lines)\n" + numbered(991, 1000)},
	} {
		var got strings.Builder
		l := &lines{log: func(format string, args ...any) {
			fmt.Fprintln(&got, strings.TrimPrefix(fmt.Sprintf(format, args...), "e2fsck: "))
		}}
		for chunk := range slices.Chunk([]byte(tt.in), 7) { // as a pipe has them
			l.Write(chunk)
		}
		l.close()
		if n, err := io.WriteString(l, "too late\n"); n != 0 || err == nil {
			t.Errorf("%s: after the end %d bytes are taken, %v", tt.name, n, err)
		}
		if got.String() != tt.want {
			t.Errorf("%s: got\n%swant\n%s", tt.name, got.String(), tt.want)
		}
	}
}
