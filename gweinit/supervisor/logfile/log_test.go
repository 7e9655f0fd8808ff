package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// run runs a shell command with its output followed, to the end.
func run(t testing.TB, l *Log, command string) *Reader {
	t.Helper()
	r, w := pipe(t)
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Stdout = w
	reader := l.Follow(r)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return reader
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return r, w
}

func wait(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(5 * time.Second):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s: not within 5 s\n%s", what, buf[:runtime.Stack(buf, true)])
	}
}

func drained(t testing.TB, r *Reader) {
	t.Helper()
	if !r.Drained(5 * time.Second) {
		t.Fatal("not drained")
	}
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

// generations returns what is in all the files, oldest first, after a check of
// their sizes.
func generations(t testing.TB, o Options) (files []string) {
	t.Helper()
	for i := o.Backups; i >= 0; i-- {
		b, err := os.ReadFile((&file{path: o.Path}).name(i))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) > o.MaxBytes {
			t.Errorf("older file %d has %d bytes, more than %d", i, len(b), o.MaxBytes)
		}
		files = append(files, string(b))
	}
	if _, err := os.Stat((&file{path: o.Path}).name(o.Backups + 1)); err == nil {
		t.Error("there is one file too many")
	}
	return files
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 5 s: ", what)
		}
	}
}

func TestRotation(t *testing.T) {
	for i, backups := range []int{0, 1, 3, 1000, 0, 1, 3, 1000} {
		noLinks := i >= 4
		t.Run(fmt.Sprint(backups, noLinks), func(t *testing.T) {
			o := Options{Path: filepath.Join(t.TempDir(), "log"), MaxBytes: 10000, Backups: backups, NoLinks: noLinks}
			l := New(o)
			defer l.Close()
			const last = 200000
			wait(t, run(t, l, "seq "+strconv.Itoa(last)).Done(), "end")
			files := generations(t, o)
			for _, s := range files {
				if !strings.HasSuffix(s, "\n") {
					t.Error("a file ends within a line")
				}
			}
			lines := strings.Fields(strings.Join(files, ""))
			for i, line := range lines {
				if want := strconv.Itoa(last - len(lines) + 1 + i); line != want {
					t.Fatalf("got %s, want %s", line, want)
				}
			}
			if backups > 0 && len(lines) < min(backups*9980/7, last) {
				t.Errorf("only %d lines in %d files", len(lines), len(files))
			}
			if len(files) > 1 && len(files[0]) < 9980 {
				t.Errorf("a file of %d bytes was rotated", len(files[0]))
			}
		})
	}
}

// Parts of lines are written at once, and yet are in one file in the end.
func TestRotationOfParts(t *testing.T) {
	for _, backups := range []int{0, 100000} {
		o := Options{Path: filepath.Join(t.TempDir(), "log"), MaxBytes: 100, Backups: backups}
		l := New(o)
		defer l.Close()
		r, w := pipe(t)
		reader := l.Follow(r)
		var all string
		for i := range 1000 {
			part := fmt.Sprint(i, strings.Repeat("x", rand.Intn(20)))
			if rand.Intn(3) == 0 {
				part += "\n"
			}
			if n := len(all) - strings.LastIndex(all, "\n"); n > 50 {
				part += "\n"
			}
			write(t, w, part)
			all += part
			if rand.Intn(2) == 0 {
				drained(t, reader)
				if got := content(t, o.Path); !strings.HasSuffix(all, got) {
					t.Fatalf("%q is not at the end of what was written", got)
				}
			}
		}
		write(t, w, "\n")
		all += "\n"
		w.Close()
		wait(t, reader.Done(), "end")
		files := generations(t, o)
		got := strings.Join(files, "")
		if backups == 0 && !strings.HasSuffix(all, got) || backups > 0 && got != all {
			t.Errorf("%d backups: not what was written", backups)
		}
		for i, s := range files {
			if !strings.HasSuffix(s, "\n") {
				t.Fatalf("file %d ends within a line: %q", i, s)
			}
		}
	}
}

func TestLongLine(t *testing.T) {
	o := Options{Path: filepath.Join(t.TempDir(), "log"), MaxBytes: 100, Backups: 10}
	l := New(o)
	defer l.Close()
	r, w := pipe(t)
	reader := l.Follow(r)
	all := "short\n" + strings.Repeat("x", 130) + strings.Repeat("y", 130) + "\nshort\n"
	write(t, w, all[:130])
	drained(t, reader)
	write(t, w, all[130:])
	w.Close()
	wait(t, reader.Done(), "end")
	files := generations(t, o)
	if strings.Join(files, "") != all || files[0] != "short\n" || len(files) != 4 {
		t.Errorf("%q", files)
	}
}

// A folder is in the way.
func TestRotationFails(t *testing.T) {
	var told atomic.Int32
	o := Options{Path: filepath.Join(t.TempDir(), "log"), MaxBytes: 1000, Backups: 3, Problem: func(err error) {
		told.Add(1)
		if !errors.Is(err, syscall.EISDIR) {
			t.Error(err)
		}
	}}
	l := New(o)
	defer l.Close()
	l.file.retry = time.Hour
	if err := os.Mkdir(o.Path+".1", 0o755); err != nil {
		t.Fatal(err)
	}
	wait(t, run(t, l, "seq -w 100 490").Done(), "end") // 1564 bytes
	if got := content(t, o.Path); !strings.HasPrefix(got, "100\n") || !strings.HasSuffix(got, "490\n") {
		t.Errorf("lines are lost: %q", got)
	}
	wait(t, run(t, l, "seq -w 491 690").Done(), "end")
	got := content(t, o.Path)
	// 2000 bytes are gone: 100 to 599.
	if !strings.HasPrefix(got, "gweinit: 2000 bytes of output are missing here: ") || !strings.Contains(got, "directory\n600\n") || !strings.HasSuffix(got, "690\n") {
		t.Errorf("%q", got)
	}
	wait(t, run(t, l, "seq -w 10000").Done(), "end")
	if n := len(content(t, o.Path)); n > 2000 {
		t.Errorf("%d bytes", n)
	}
	if told.Load() != 1 {
		t.Errorf("told %d times", told.Load())
	}
	// A very long line, and then the way is free.
	wait(t, run(t, l, "head -c 10000 /dev/zero").Done(), "end")
	os.Remove(o.Path + ".1")
	wait(t, run(t, l, "seq -w 10000").Done(), "end")
	files := generations(t, o)
	if len(files) != 4 || !strings.HasSuffix(files[3], "10000\n") {
		t.Errorf("%q", files)
	}
}

// A folder is in the way of older files only.
func TestRotationFailsHalfway(t *testing.T) {
	o := Options{Path: filepath.Join(t.TempDir(), "log"), MaxBytes: 1000, Backups: 5}
	os.MkdirAll(o.Path+".3/a", 0o755)
	l := New(o)
	defer l.Close()
	wait(t, run(t, l, "seq 10001 11000").Done(), "end")
	got := content(t, o.Path+".2") + content(t, o.Path+".1") + content(t, o.Path)
	if len(got) < 2000 || !strings.HasSuffix(got, "11000\n") {
		t.Errorf("%q", got)
	}
}

// Two names for the same file: a rename does nothing, and says it is done.
func TestRotationOfLinks(t *testing.T) {
	o := Options{Path: filepath.Join(t.TempDir(), "log"), MaxBytes: 1000, Backups: 1}
	l := New(o)
	defer l.Close()
	if err := l.Open(); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(o.Path, o.Path+".1"); err != nil {
		t.Fatal(err)
	}
	wait(t, run(t, l, "seq 10001 11000").Done(), "end")
	if got := content(t, o.Path); len(got) > 2000 || !strings.HasSuffix(got, "11000\n") {
		t.Errorf("%q", got)
	}
}

func TestMissingFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	var told atomic.Int32
	l := New(Options{Path: filepath.Join(dir, "log"), Problem: func(err error) { told.Add(1) }})
	defer l.Close()
	l.every = 0
	l.file.retry = 20 * time.Millisecond
	if err := l.Open(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for range 3 {
		wait(t, run(t, l, "seq 100000").Done(), "end")
		if _, err := l.Write([]byte("a remark\n")); err != nil {
			t.Error(err)
		}
	}
	l.flush(l.mark(), time.Time{})
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder was made")
	}
	if told.Load() != 1 {
		t.Errorf("told %d times", told.Load())
	}
	os.Mkdir(dir, 0o755)
	time.Sleep(25 * time.Millisecond)
	wait(t, run(t, l, "echo hello").Done(), "end")
	want := fmt.Sprintf("gweinit: %d bytes of output are missing here: no such file or directory\nhello\n", 3*(588895+9))
	if got := content(t, filepath.Join(dir, "log")); got != want {
		t.Errorf("%q, not %q", got, want)
	}
	os.RemoveAll(dir)
	wait(t, run(t, l, "echo hello").Done(), "end")
	eventually(t, "told again", func() bool { return told.Load() == 2 })
}

func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs to be root to mount a disk that can be filled")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	o := Options{Path: filepath.Join(dir, "log"), MaxBytes: 16 << 10, Backups: 10}
	l := New(o)
	defer l.Close()
	l.file.retry = 10 * time.Millisecond
	wait(t, run(t, l, "seq 10001 40000").Done(), "end")
	// Older files had to go, but no line that came after them.
	got := strings.Join(generations(t, o), "")
	lines := strings.Fields(got)
	if len(got) < 40<<10 {
		t.Errorf("there are but %d bytes", len(got))
	}
	for i, line := range lines {
		if want := strconv.Itoa(40000 - len(lines) + 1 + i); line != want {
			t.Fatalf("got %s, want %s", line, want)
		}
	}

	// Somebody else fills the disk.
	for i := range 10 {
		os.Remove(fmt.Sprint(o.Path, ".", i))
	}
	os.Remove(o.Path)
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(dir, "other"), make([]byte, 1<<20), 0o600) // what there is room for
	wait(t, run(t, l, "seq 10001 40000").Done(), "end")
	had := content(t, o.Path)
	os.Remove(filepath.Join(dir, "other"))
	time.Sleep(15 * time.Millisecond)
	wait(t, run(t, l, "echo hello").Done(), "end")
	got = content(t, o.Path)
	rest, ok := strings.CutPrefix(got, had)
	var missing int
	_, err := fmt.Sscanf(strings.TrimPrefix(rest, "\n"), "gweinit: %d bytes of output are missing here: no space left on device", &missing)
	if !ok || err != nil || !strings.HasSuffix(got, "device\nhello\n") {
		t.Errorf("%v, %q", err, rest)
	}
	if missing+len(had) != 180000 {
		t.Errorf("%d bytes are missing, %d were written", missing, len(had))
	}
}

// slow is a disk.
type slow struct {
	gate chan struct{} // each write takes one; nil or closed: as many as there are
	mu   sync.Mutex
	all  bytes.Buffer
}

func (s *slow) write(_ *os.File, p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *slow) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func TestDiskHangs(t *testing.T) {
	var told atomic.Int32
	l := New(Options{Path: filepath.Join(t.TempDir(), "log"), Problem: func(err error) {
		told.Add(1)
		if !errors.Is(err, errHangs) {
			t.Error(err)
		}
	}})
	disk := &slow{gate: make(chan struct{})}
	l.file.write = disk.write
	l.stall = 50 * time.Millisecond
	start := time.Now()
	reader := run(t, l, "head -c 2000000 /dev/zero | tr '\\0' 'x'; echo")
	if took := time.Since(start); took > time.Second {
		t.Errorf("the program took %v", took)
	}
	if reader.Drained(10 * time.Millisecond) {
		t.Error("drained")
	}
	start = time.Now()
	l.mu.Lock()
	if l.queued > queueSize {
		t.Errorf("%d bytes are queued", l.queued)
	}
	l.mu.Unlock()
	eventually(t, "told", func() bool { return told.Load() == 1 })
	close(disk.gate)
	wait(t, reader.Done(), "end")
	wait(t, run(t, l, "echo hello").Done(), "end")
	got := disk.String()
	written := strings.Count(got, "x")
	i := strings.Index(got, "gweinit: ")
	var missing int
	if i >= 0 {
		fmt.Sscanf(got[i:], "gweinit: %d bytes of output are missing here: the disk hangs\n", &missing)
	}
	if written+missing != 2000001 || i != written || !strings.HasSuffix(got, "hangs\nhello\n") {
		t.Errorf("%d written, %d missing, %q", written, missing, got[max(i, 0):])
	}
	if told.Load() != 1 {
		t.Errorf("told %d times", told.Load())
	}
	l.Close()
}

func TestCloseWhileDiskHangs(t *testing.T) {
	l := New(Options{Path: filepath.Join(t.TempDir(), "log")})
	disk := &slow{gate: make(chan struct{})}
	l.file.write = disk.write
	l.stall = 20 * time.Millisecond
	l.Write([]byte("hello\n"))
	start := time.Now()
	l.Close()
	if time.Since(start) > time.Second {
		t.Error("Close hangs")
	}
	close(disk.gate)
	eventually(t, "written and closed", func() bool {
		l.disk.Lock()
		defer l.disk.Unlock()
		return l.file.f == nil && disk.String() == "hello\n"
	})
}

func TestSlowDisk(t *testing.T) {
	l := New(Options{Path: filepath.Join(t.TempDir(), "log"), Problem: func(err error) { t.Error(err) }})
	defer l.Close()
	disk := &slow{}
	l.file.write = func(f *os.File, p []byte) (int, error) {
		time.Sleep(5 * time.Millisecond)
		return disk.write(f, p)
	}
	wait(t, run(t, l, "seq 700000").Done(), "end")
	got := strings.Fields(disk.String())
	if len(got) != 700000 || got[699999] != "700000" {
		t.Errorf("%d lines", len(got))
	}
}

func TestByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := New(Options{Path: path, MaxBytes: 1000, Backups: 2})
	defer l.Close()
	r, w := pipe(t)
	reader := l.Follow(r)
	do := func(s, file, want string) {
		t.Helper()
		write(t, w, s)
		drained(t, reader)
		if got := content(t, file); got != want {
			t.Errorf("%s: %q, not %q", file, got, want)
		}
	}
	if err := l.Open(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Fatal(info, err)
	}
	do("1\n", path, "1\n")
	os.Remove(path)
	do("2\n", path, "2\n")
	do("33", path, "2\n33")
	os.Truncate(path, 0)
	do("4\n", path, "4\n")
	os.Rename(path, path+".moved")
	do("5\n", path+".moved", "4\n5\n")
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	do("6\n", path, "6\n")
	os.WriteFile(path+".1", []byte("old\n"), 0o600)
	if err := l.Clear(); err != nil {
		t.Fatal(err)
	}
	do("7\n", path, "7\n")
	do("", path+".1", "old\n")
	// A remark begins a line.
	do("part", path, "7\npart")
	l.Write([]byte("remark\n"))
	do("8\n", path, "7\npart\nremark\n8\n")
	l.Write([]byte("remark\n"))
	do("", path, "7\npart\nremark\n8\nremark\n")
	write(t, w, "part")
	drained(t, reader)
	l.Reopen()
	l.Write([]byte("remark\n"))
	do("", path, "7\npart\nremark\n8\nremark\npart\nremark\n")
	os.Remove(path)
	if err := l.Clear(); err != nil {
		t.Error(err)
	}
	do("", path, "")
	l.Close()
	if err := l.Reopen(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if _, err := l.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	do("dropped\n", path, "")
	w.Close()
	wait(t, reader.Done(), "end")
}

func TestNotRegular(t *testing.T) {
	null := New(Options{Path: "/dev/null", MaxBytes: 10})
	wait(t, run(t, null, "seq 1000").Done(), "end")
	if err := null.Clear(); err != nil {
		t.Error(err)
	}
	null.Close()
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode().IsRegular() {
		t.Fatal("/dev/null is gone")
	}

	full := New(Options{Path: "/dev/full", MaxBytes: 10})
	wait(t, run(t, full, "seq 100000").Done(), "end")
	full.Close()

	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	l := New(Options{Path: fifo, MaxBytes: 10})
	defer l.Close()
	l.file.retry = 0
	if err := l.Open(); !errors.Is(err, syscall.ENXIO) {
		t.Error(err)
	}
	wait(t, run(t, l, "seq 100000").Done(), "end")
	f, err := openRead(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wait(t, run(t, l, "echo hello").Done(), "end")
	buf := make([]byte, 1000)
	n, err := f.Read(buf)
	if got := string(buf[:n]); err != nil || got != "gweinit: 588895 bytes of output are missing here: no such device or address\nhello\n" {
		t.Error(got, err)
	}

	// Nobody reads any more.
	l.file.patience = 10 * time.Millisecond
	wait(t, run(t, l, "seq 100000").Done(), "end")
	n, _ = io.ReadFull(f, make([]byte, 588895))
	wait(t, run(t, l, "echo hello").Done(), "end")
	m, err := f.Read(buf)
	want := fmt.Sprintf("gweinit: %d bytes of output are missing here: i/o timeout\nhello\n", 588895-n)
	if got := strings.TrimPrefix(string(buf[:m]), "\n"); err != nil || got != want {
		t.Errorf("%q, not %q, %v", got, want, err)
	}

	// A file that is stdout is not rotated.
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	stdout := New(Options{Path: fmt.Sprint("/proc/self/fd/", out.Fd()), MaxBytes: 10})
	defer stdout.Close()
	wait(t, run(t, stdout, "seq 100").Done(), "end")
	if err := stdout.Clear(); err != nil {
		t.Error(err)
	}
	if got := content(t, out.Name()); len(got) != 292 {
		t.Errorf("%q", got)
	}
}

func TestLine(t *testing.T) {
	var mu sync.Mutex
	var got []string
	l := New(Options{Line: func(line []byte) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(line))
	}})
	defer l.Close()
	if err := errors.Join(l.Open(), l.Clear(), l.Reopen()); err != nil {
		t.Error(err)
	}
	r, w := pipe(t)
	reader := l.Follow(r)
	write(t, w, "one\ntw")
	drained(t, reader)
	l.Write([]byte("remark\n"))
	write(t, w, "o\n\n\x00\xff\r\n"+strings.Repeat("x", maxLine)+"\n"+strings.Repeat("y", maxLine+1))
	drained(t, reader)
	write(t, w, "y\nend")
	w.Close()
	wait(t, reader.Done(), "end")
	want := []string{"one", "remark", "two", "", "\x00\xff\r", strings.Repeat("x", maxLine), strings.Repeat("y", maxLine), "yy", "end"}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q", got)
	}
}

// The lines are the same however the output is cut.
func TestLineCut(t *testing.T) {
	for range 50 {
		var data []byte
		for range 5 {
			n := rand.Intn(10)
			if rand.Intn(2) == 0 {
				n = rand.Intn(3)*maxLine + rand.Intn(5) - 2
			}
			data = append(data, bytes.Repeat([]byte("x"), max(n, 0))...)
			data = append(data, '\n')
		}
		split := func(size func() int) (got []string) {
			var s lines
			line := func(b []byte) { got = append(got, string(b)) }
			for rest := data; len(rest) > 0; {
				n := min(size(), len(rest))
				s.add(rest[:n], line)
				rest = rest[n:]
			}
			s.end(line)
			return got
		}
		whole := split(func() int { return len(data) })
		for _, limit := range []int{10, 1000, maxLine, 2 * maxLine} {
			cut := split(func() int { return 1 + rand.Intn(limit) })
			if !slices.Equal(whole, cut) {
				t.Fatalf("%q\n%q", whole, cut)
			}
		}
	}
}

func TestStripANSI(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := New(Options{Path: path, StripANSI: true})
	defer l.Close()
	wait(t, run(t, l, `printf 'a\033[1'; sleep 0.02; printf 'mb\033'; sleep 0.02; printf '[0mc\033x\033'; seq 100000; printf '\033'`).Done(), "end")
	got := content(t, path)
	if !strings.HasPrefix(got, "abc\x1bx\x1b1\n2\n") || !strings.HasSuffix(got, "\n100000\n\x1b") || len(got) != 588895+7 {
		t.Errorf("%q", got[:100])
	}
}

func TestLeftovers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := New(Options{Path: path})
	defer l.Close()
	reader := run(t, l, "(sleep 0.2; echo late) & echo now")
	drained(t, reader)
	if got := content(t, path); got != "now\n" {
		t.Errorf("%q", got)
	}
	wait(t, run(t, l, "echo new").Done(), "end")
	select {
	case <-reader.Done():
		t.Error("it is at its end")
	default:
	}
	wait(t, reader.Done(), "end")
	if got := content(t, path); got != "now\nnew\nlate\n" {
		t.Errorf("%q", got)
	}
	drained(t, reader)
}

// A pipe that blocks, one that is closed, and none.
func TestOtherPipes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := New(Options{Path: path})
	defer l.Close()
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	reader := l.Follow(os.NewFile(uintptr(fds[0]), "pipe"))
	syscall.Write(fds[1], []byte("hello\n"))
	drained(t, reader)
	if got := content(t, path); got != "hello\n" {
		t.Errorf("%q", got)
	}
	reader.Close()
	wait(t, reader.Done(), "end")
	if _, err := syscall.Write(fds[1], []byte("hello\n")); err != syscall.EPIPE {
		t.Error(err)
	}
	syscall.Close(fds[1])
	r, _ := pipe(t)
	r.Close()
	reader = l.Follow(r)
	wait(t, reader.Done(), "end")
	drained(t, reader)
	reader = l.Follow(nil)
	wait(t, reader.Done(), "end")
	drained(t, reader)
	reader.Close()
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// All at once, with several writers: nothing is left behind.
func TestAllAtOnce(t *testing.T) {
	files, routines := openFiles(t), runtime.NumGoroutine()
	dir := t.TempDir()
	for i := range 20 {
		path := filepath.Join(dir, strconv.Itoa(i))
		l := New(Options{Path: path, MaxBytes: 50000, Backups: 2, Line: func([]byte) {}, Problem: func(err error) { t.Error(err) }})
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				reader := run(t, l, "seq 20000")
				reader.Drained(time.Millisecond)
				<-reader.Done()
			})
		}
		stop := make(chan struct{})
		var other sync.WaitGroup
		for _, do := range []func(){
			func() { l.Clear() }, func() { l.Reopen() }, func() { l.Open() }, func() { os.Remove(path) },
			func() { os.Truncate(path, 0) }, func() { l.Write([]byte("remark\n")) },
		} {
			other.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						do()
						time.Sleep(50 * time.Microsecond)
					}
				}
			})
		}
		if i%2 == 0 {
			time.Sleep(time.Millisecond * time.Duration(i))
			l.Close()
		}
		group.Wait()
		close(stop)
		other.Wait()
		l.Close()
	}
	for end := time.Now().Add(5 * time.Second); openFiles(t) > files || runtime.NumGoroutine() > routines; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d files, were %d; %d goroutines, were %d\n%s", openFiles(t), files, runtime.NumGoroutine(), routines, buf[:runtime.Stack(buf, true)])
		}
	}
}

func BenchmarkPipe(b *testing.B) {
	for _, to := range []string{"/dev/shm", os.TempDir()} {
		for _, strip := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/strip=%v", strings.Trim(to, "/"), strip), func(b *testing.B) {
				dir, err := os.MkdirTemp(to, "logfile")
				if err != nil {
					b.Fatal(err)
				}
				defer os.RemoveAll(dir)
				l := New(Options{Path: filepath.Join(dir, "log"), MaxBytes: 1 << 20, Backups: 2, StripANSI: strip,
					Problem: func(err error) { b.Error(err) }})
				defer l.Close()
				chunk := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 655)
				r, w := pipe(b)
				b.SetBytes(int64(len(chunk)))
				b.ReportAllocs()
				reader := l.Follow(r)
				for b.Loop() {
					w.Write(chunk)
				}
				w.Close()
				<-reader.Done()
			})
		}
	}
}

// Small chunks one at a time, as of a program that says something now and then.
func BenchmarkSmall(b *testing.B) {
	l := New(Options{Path: filepath.Join("/dev/shm", "logfile-small"), MaxBytes: 1 << 20, Backups: 2})
	defer os.Remove(l.path)
	defer l.Close()
	r, w := pipe(b)
	defer w.Close()
	line := []byte(strings.Repeat("x", 99) + "\n")
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	reader := l.Follow(r)
	for b.Loop() {
		w.Write(line)
		reader.Drained(time.Second)
	}
}

// BenchmarkIdle tells how much memory a followed pipe takes that has had output.
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		dir := b.TempDir()
		const count = 400
		memory := func() int64 {
			runtime.GC()
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc + m.StackInuse + m.OtherSys)
		}
		before := memory()
		var logs [count]*Log
		var readers [count]*Reader
		var writers [count]*os.File
		for i := range count {
			logs[i] = New(Options{Path: filepath.Join(dir, strconv.Itoa(i)), MaxBytes: 1 << 20, Backups: 2})
			r, w := pipe(b)
			readers[i], writers[i] = logs[i].Follow(r), w
		}
		for range 3 {
			for i := range count {
				write(b, writers[i], strings.Repeat("x", 5000)+"\npart")
				drained(b, readers[i])
			}
		}
		after := memory()
		b.ReportMetric(float64(after-before)/count, "B/pipe")
		for i := range count {
			writers[i].Close()
			<-readers[i].Done()
			logs[i].Close()
		}
	}
}
