package syslog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// folder returns "NAME=TEXT|..." of what is in a folder.
func folder(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		text := "a " + e.Type().String()[:1]
		if e.Type().IsRegular() {
			text = read(t, filepath.Join(dir, e.Name()))
		}
		got = append(got, e.Name()+"="+text)
	}
	return strings.Join(got, "|")
}

// A file is gone on with, whatever its end is.
func TestMend(t *testing.T) {
	nul := strings.Repeat("\x00", 10000)
	for _, tt := range []struct{ name, text, want string }{
		{"none", "-", "new\n"},
		{"empty", "", "new\n"},
		{"whole", "a\n", "a\nnew\n"},
		{"torn", "a\nb", "a\nb\nnew\n"},
		{"NULs", "a\n" + nul, "a\nnew\n"},
		{"torn, NULs", "a\nb" + nul, "a\nb\nnew\n"},
		{"only NULs", nul, "new\n"},
		{"as many as are read at once", "a\n" + nul[:4096-2], "a\nnew\n"},
		{"and one more", "a\n" + nul[:4096-1], "a\nnew\n"},
		{"NULs in between", "a\n\x00\x00b\n", "a\n\x00\x00b\nnew\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := file{path: filepath.Join(t.TempDir(), "messages"), max: 1 << 20, keep: 3}
			if tt.text != "-" {
				write(t, f.path, tt.text)
			}
			if n, err := f.write([]byte("new\n")); err != nil || n != 4 {
				t.Fatal(n, err)
			}
			if got := read(t, f.path); got != tt.want || f.size != int64(len(tt.want)) {
				t.Errorf("got %q, size %d", got, f.size)
			}
			f.close()
		})
	}
}

// Whichever of the files are there, after renames that a power cut has ended:
// writing goes on, and no more is dropped than has to be.
func TestRotate(t *testing.T) {
	for _, tt := range []struct{ name, before, after string }{
		{"first", "messages=aaaa", "messages=new|messages.1=aaaa"},
		{"second", "messages=aaaa|messages.1=bbbb", "messages=new|messages.1=aaaa|messages.2=bbbb"},
		{"all", "messages=aaaa|messages.1=bbbb|messages.2=cccc|messages.3=dddd", "messages=new|messages.1=aaaa|messages.2=bbbb|messages.3=cccc"},
		{"cut after the first rename", "messages=aaaa|messages.1=bbbb|messages.3=cccc", "messages=new|messages.1=aaaa|messages.2=bbbb|messages.3=cccc"},
		{"cut after the second", "messages=aaaa|messages.2=bbbb|messages.3=cccc", "messages=new|messages.1=aaaa|messages.2=bbbb|messages.3=cccc"},
		{"cut after the last", "messages.1=aaaa|messages.2=bbbb|messages.3=cccc", "messages=new|messages.1=aaaa|messages.2=bbbb|messages.3=cccc"},
		{"nothing", "", "messages=new"},
		{"others", "messages=aaaa|messages.4=x|messages.old=y", "messages=new|messages.1=aaaa|messages.4=x|messages.old=y"},
		{"too large", "messages=" + strings.Repeat("a", 1000), "messages=new|messages.1=" + strings.Repeat("a", 1000)},
		{"a folder for it", "messages=/|messages.1=aaaa", "messages=new|messages.1=aaaa|messages.aside1=a d"},
		{"a link for it", "messages=>|messages.1=aaaa", "messages=new|messages.1=aaaa|messages.aside1=a L"},
		{"a pipe for it", "messages=p", "messages=new|messages.aside1=a p"},
		{"one aside already", "messages=/|messages.aside1=/", "messages=new|messages.aside1=a d|messages.aside2=a d"},
		{"a folder for an older one", "messages=aaaa|messages.1=bbbb|messages.2=/|messages.3=cccc", "messages=new|messages.1=aaaa|messages.2=bbbb|messages.2.aside1=a d|messages.3=cccc"},
		{"a link for the oldest", "messages=aaaa|messages.1=bbbb|messages.2=cccc|messages.3=>", "messages=new|messages.1=aaaa|messages.2=bbbb|messages.3=cccc|messages.3.aside1=a L"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			outside := filepath.Join(t.TempDir(), "outside")
			write(t, outside, "outside")
			for entry := range strings.SplitSeq(tt.before, "|") {
				name, text, _ := strings.Cut(entry, "=")
				path, err := filepath.Join(dir, name), error(nil)
				switch text {
				case "":
				case "/":
					err = os.MkdirAll(filepath.Join(path, "full"), 0o755)
				case ">":
					err = os.Symlink(outside, path)
				case "p":
					err = unix.Mkfifo(path, 0o600)
				default:
					write(t, path, text+"\n")
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			f := file{path: filepath.Join(dir, "messages"), max: 8, keep: 3}
			if _, err := f.write([]byte("new\n")); err != nil {
				t.Fatal(err)
			}
			f.close()
			if got := strings.ReplaceAll(folder(t, dir), "\n", ""); got != tt.after {
				t.Errorf("got  %s\nwant %s", got, tt.after)
			}
			if got := read(t, outside); got != "outside" {
				t.Errorf("outside there is %q now", got)
			}
		})
	}
}

// Each set of files that may be there, and any size of batches: together they
// are bounded, and hold the last lines, each once and in order.
func TestFileLoad(t *testing.T) {
	const most, keep = 2000, 3
	for left := range 1 << (keep + 1) {
		dir := t.TempDir()
		f := file{path: filepath.Join(dir, "messages"), max: most, keep: keep}
		for i := range keep + 1 {
			if left>>i&1 == 1 {
				write(t, f.name(i), strings.Repeat("old\n", 300)+"torn")
			}
		}
		n := 0
		for batch := range 40 {
			var lines []byte
			for range batch*left%97 + 1 {
				lines = fmt.Appendf(lines, "line %d %s\n", n, strings.Repeat("x", n%50))
				n++
			}
			if m, err := f.write(lines); err != nil || m != len(lines) {
				t.Fatal(m, err)
			}
			for i := range keep + 1 {
				if info, err := os.Stat(f.name(i)); err == nil && info.Size() > most {
					t.Fatalf("%s has %d bytes", f.name(i), info.Size())
				}
			}
		}
		f.close()
		var all []byte
		for i := keep; i >= 0; i-- {
			b, _ := os.ReadFile(f.name(i))
			all = append(all, b...)
		}
		lines := bytes.Split(bytes.TrimSuffix(all, []byte("\n")), []byte("\n"))
		for i := range lines {
			line := lines[len(lines)-1-i]
			if string(line) == "torn" {
				break
			}
			if !bytes.HasPrefix(line, fmt.Appendf(nil, "line %d ", n-1-i)) {
				t.Fatalf("files %b: %d from the end there is %q", left, i, line)
			}
		}
	}
}

func TestFileLimits(t *testing.T) {
	for _, tt := range []struct {
		name  string
		max   int64
		keep  int
		lines string
		want  string
	}{
		{"a line no file has room for", 4, 1, "a\nlong line\nb\n", "messages=b\n|messages.1=long line\n"},
		{"just full", 4, 1, "a\nb\nc\n", "messages=c\n|messages.1=a\nb\n"},
		{"none is kept", 4, 0, "a\nb\nc\n", "messages=c\n"},
		{"no size", 0, 1, "a\nb\nc\n", "messages=c\n|messages.1=b\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			f := file{path: filepath.Join(dir, "messages"), max: tt.max, keep: tt.keep}
			defer f.close()
			if n, err := f.write([]byte(tt.lines)); err != nil || n != len(tt.lines) {
				t.Fatal(n, err)
			}
			if got := folder(t, dir); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// People do things to the file that is being written.
func TestFileChanged(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(path string) error
		want string
	}{
		{"nothing", func(string) error { return nil }, "messages=first\nsecond\n"},
		{"removed", os.Remove, "messages=second\n"},
		{"moved", func(path string) error { return os.Rename(path, path+".mine") }, "messages=second\n|messages.mine=first\n"},
		{"emptied", func(path string) error { return os.Truncate(path, 0) }, "messages=second\n"},
		{"removed with its folder", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, "messages=second\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			f := file{path: filepath.Join(dir, "messages"), max: 100, keep: 1}
			defer f.close()
			_, err := f.write([]byte("first\n"))
			if err := errors.Join(err, tt.do(f.path)); err != nil {
				t.Fatal(err)
			}
			if _, err := f.write([]byte("second\n")); err != nil {
				t.Fatal(err)
			}
			if got := folder(t, dir); got != tt.want || f.size != int64(len(read(t, f.path))) {
				t.Errorf("got %q, size %d", got, f.size)
			}
		})
	}
}

func TestFileErrors(t *testing.T) {
	f := file{path: filepath.Join(t.TempDir(), "data", "log", "messages"), max: 100, keep: 1}
	if _, err := f.write([]byte("x\n")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/data/log") {
		t.Errorf("no /data: %v", err)
	}
	dir := t.TempDir()
	for i := range 10 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("messages.aside%d", i+1)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.path = filepath.Join(dir, "messages")
	if err := os.Mkdir(f.path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := f.write([]byte("x\n")); err == nil || !strings.Contains(err.Error(), "messages aside") {
		t.Errorf("many folders: %v", err)
	}
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		if errors.Is(err, syscall.EPERM) {
			t.Skipf("mount a tmpfs: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// That it isn't busy is a part of the test.
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// fill fills a file system but for some pages of 4 KiB.
func fill(t *testing.T, dir string, pages int) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(0)
	for err == nil {
		var n int
		n, err = f.Write(make([]byte, 4<<10))
		size += int64(n)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Truncate(size - int64(pages)<<12); err != nil {
		t.Fatal(err)
	}
	return ballast
}

// What a full disk takes of a batch is whole lines.
func TestFileFull(t *testing.T) {
	dir := tmpfs(t)
	f := file{path: filepath.Join(dir, "messages"), max: 1 << 20, keep: 2}
	defer f.close()
	if _, err := f.write([]byte("first\n")); err != nil {
		t.Fatal(err)
	}
	ballast := fill(t, dir, 1) // beside the page that has the first line
	line := strings.Repeat("x", 699) + "\n"
	lines := []byte(strings.Repeat(line, 20))
	n, err := f.write(lines)
	if !errors.Is(err, syscall.ENOSPC) || n != 11*700 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if got, want := read(t, f.path), "first\n"+strings.Repeat(line, 11); got != want {
		t.Errorf("got %d bytes, want %d; the end is %q", len(got), len(want), got[len(got)-20:])
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := f.write(lines[n:]); err != nil {
		t.Error(err)
	}
	if got, want := read(t, f.path), "first\n"+strings.Repeat(line, 20); got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

func TestRemoveOldest(t *testing.T) {
	dir := t.TempDir()
	f := file{path: filepath.Join(dir, "messages"), keep: 3}
	for _, name := range []string{"", ".1", ".2", ".4", ".x"} {
		write(t, f.path+name, "")
	}
	if err := os.Mkdir(f.path+".3", 0o755); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		f.removeOldest()
	}
	if got := folder(t, dir); got != "messages=|messages.3=a d|messages.4=|messages.x=" {
		t.Error(got)
	}
}
