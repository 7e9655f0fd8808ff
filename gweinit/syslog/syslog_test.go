package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	gosyslog "log/syslog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for machines that are busy.
const patience = 20 * time.Second

// bench is a Logger with a pipe for /dev/kmsg. A pipe that is written to with
// O_DIRECT gives one write with each read, as /dev/kmsg does.
type bench struct {
	t    *testing.T
	o    Options
	kmsg *os.File
	log  *Logger
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	o := Options{
		Kmsg: filepath.Join(dir, "kmsg"), Socket: filepath.Join(dir, "socket"),
		File: filepath.Join(dir, "log", "messages"), MaxSize: 512 << 10, Keep: 3,
	}
	if err := unix.Mkfifo(o.Kmsg, 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, o: o, log: New(o)}
	b.openKmsg()
	return b
}

func (b *bench) openKmsg() {
	b.t.Helper()
	fd, err := unix.Open(b.o.Kmsg, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK|unix.O_DIRECT)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), b.o.Kmsg)
	b.t.Cleanup(func() { f.Close() })
	b.kmsg = f
}

// kernel makes the kernel log.
func (b *bench) kernel(records ...string) {
	b.t.Helper()
	for _, r := range records {
		if _, err := b.kmsg.WriteString(r + "\n"); err != nil {
			b.t.Fatal(err)
		}
	}
}

// running is a Run.
type running struct {
	t      *testing.T
	cancel func()
	ended  chan error
}

// start returns when Run listens.
func (b *bench) start() running {
	b.t.Helper()
	os.Remove(b.o.Socket)
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	r := running{b.t, cancel, make(chan error, 1)}
	go func() { r.ended <- b.log.Run(ctx) }()
	b.wait("the socket", func() bool {
		info, err := os.Stat(b.o.Socket)
		return err == nil && info.Mode().Perm() == 0o666
	})
	return r
}

// end ends Run.
func (r running) end() {
	r.t.Helper()
	r.cancel()
	if err := r.error(); err != nil {
		r.t.Error(err)
	}
}

// error returns what Run returns.
func (r running) error() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		r.t.Fatal("Run does not end")
		return nil
	}
}

func (b *bench) wait(what string, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("no %s", what)
		}
	}
}

// waitLine waits for what ends a line.
func (b *bench) waitLine(text string) {
	b.t.Helper()
	b.wait(text, func() bool {
		got, _ := os.ReadFile(b.o.File)
		return bytes.Contains(got, []byte(text+"\n"))
	})
}

// dial connects to the socket, as syslog(3) does.
func (b *bench) dial() *net.UnixConn {
	b.t.Helper()
	c, err := net.Dial("unixgram", b.o.Socket)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

func (b *bench) send(c net.Conn, messages ...string) {
	b.t.Helper()
	for _, m := range messages {
		if _, err := c.Write([]byte(m)); err != nil {
			b.t.Fatal(err)
		}
	}
}

var lineRE = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO |WARN |ERROR) \S`)

// lines returns the lines of the file, without their times.
func (b *bench) lines() []string {
	b.t.Helper()
	text, ended := strings.CutSuffix(read(b.t, b.o.File), "\n")
	if !ended {
		b.t.Errorf("torn: %q", text)
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if !lineRE.MatchString(line) {
			b.t.Errorf("line %q", line)
			continue
		}
		lines[i] = line[25:]
	}
	return lines
}

// want compares the lines from the kernel, and those from programs: there is no
// order between them.
func (b *bench) want(want ...string) {
	b.t.Helper()
	byName := func(a, b string) int {
		fromProgram := func(s string) int { return strings.Count(s[:min(len(s), 15)], "[") }
		return fromProgram(a) - fromProgram(b)
	}
	got := b.lines()
	slices.SortStableFunc(got, byName)
	if !slices.Equal(got, want) {
		b.t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func me(format string) string { return fmt.Sprintf(format, os.Getpid()) }

// What is there when Run is to end is written, and nothing is left open.
func TestRun(t *testing.T) {
	b := newBench(t)
	before := runtime.NumGoroutine()
	r := b.start()
	if n := runtime.NumGoroutine() - before; n > 3 {
		t.Errorf("%d goroutines", n)
	}
	b.kernel("5,0,0,-;Linux version 6.1.0", "6,1,1000,-;usb 1-1: new device\n SUBSYSTEM=usb", "14,2,2000,-;gweinit: ready", "4,5,3000,-;late")
	c := b.dial()
	b.send(c, "<30>Nov 24 23:16:17 pump[123]: water level 7", "<14>pump: a\nkernel: b\x00", "<14>"+strings.Repeat("x", 8000))
	r.end()
	b.want(
		"INFO  kernel: Linux version 6.1.0",
		"INFO  kernel: usb 1-1: new device",
		"INFO  gweinit: ready",
		"WARN  gweinit: 2 kernel lines lost",
		"WARN  kernel: late",
		"INFO  pump[123]: water level 7",
		me(`INFO  pump[%d]: a\nkernel: b`),
		me("INFO  unknown[%d]: ")+strings.Repeat("x", 2045)+"...",
	)
	if b.log.file.f != nil {
		t.Error("the file is open")
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("the socket is open")
	}
	if info, err := os.Stat(b.o.File); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
}

// A Run that is to end at once takes what is there nevertheless.
func TestRunEnded(t *testing.T) {
	b := newBench(t)
	b.kernel("5,0,0,-;Linux version 6.1.0")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.log.Run(ctx); err != nil {
		t.Error(err)
	}
	b.want("INFO  kernel: Linux version 6.1.0")
}

// After an error it may be called again, and repeats nothing.
func TestRunAgain(t *testing.T) {
	b := newBench(t)
	r := b.start()
	b.kernel("3,0,0,-;a", "6,1,0,-;b")
	b.waitLine("kernel: a")
	b.kmsg.Close() // no more is to come from the pipe
	err := r.error()
	if err == nil || !strings.Contains(err.Error(), "read "+b.o.Kmsg+": unexpected EOF") {
		t.Errorf("the kernel's log ends: %v", err)
	}
	b.want("ERROR kernel: a", "INFO  kernel: b")

	b.openKmsg()
	b.kernel("3,0,0,-;a", "6,1,0,-;b", "6,2,0,-;c")
	r = b.start()
	b.send(b.dial(), "<14>pump[1]: d")
	r.end()
	b.want("ERROR kernel: a", "INFO  kernel: b", "INFO  kernel: c", "INFO  pump[1]: d")
}

func TestRunErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(o *Options) error
		want string
	}{
		{"no kernel's log", func(o *Options) error { return os.Remove(o.Kmsg) }, "open KMSG: no such file or directory"},
		{"a folder for the socket", func(o *Options) error { return os.MkdirAll(filepath.Join(o.Socket, "x"), 0o755) }, "listen on SOCKET: remove SOCKET: directory not empty"},
		{"no folder for the socket", func(o *Options) error { o.Socket = "/no/such"; return nil }, "listen on SOCKET: no such file or directory"},
		{"a kernel's log that cannot be waited for", func(o *Options) error { return errors.Join(os.Remove(o.Kmsg), os.Mkdir(o.Kmsg, 0o755)) }, "read KMSG: is a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			if err := tt.do(&b.o); err != nil {
				t.Fatal(err)
			}
			err := New(b.o).Run(context.Background())
			if got := strings.NewReplacer(b.o.Kmsg, "KMSG", b.o.Socket, "SOCKET").Replace(fmt.Sprint(err)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// broken is an input with a mistake in it.
type broken struct{}

func (broken) run(take func(record)) error {
	take(own(priNotice, "a line"))
	panic("oh")
}
func (broken) stop()        {}
func (broken) Close() error { return nil }

// A mistake does not end PID 1.
func TestPanic(t *testing.T) {
	b := newBench(t)
	err := b.log.run(context.Background(), broken{}, broken{})
	if err == nil || !strings.Contains(err.Error(), "panic: oh") {
		t.Errorf("got %v", err)
	}
	b.want("INFO  gweinit: a line", "INFO  gweinit: a line")
}

// Descriptors that somebody sends along do not pile up in PID 1.
func TestDescriptors(t *testing.T) {
	b := newBench(t)
	r := b.start()
	c := b.dial()
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := count()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		werr := raw.Write(func(fd uintptr) bool {
			err = unix.Sendmsg(int(fd), []byte("<14>pump[1]: a"), unix.UnixRights(0, 1, 2), nil, 0)
			return err != unix.EAGAIN
		})
		if err := errors.Join(werr, err); err != nil {
			t.Fatal(err)
		}
	}
	b.send(c, "<11>pump[1]: end")
	b.waitLine("pump[1]: end")
	if n := count() - before; n > 1 { // the log's own
		t.Errorf("%d descriptors more", n)
	}
	r.end()
	if got := len(b.lines()); got != 21 {
		t.Errorf("%d lines", got)
	}
}

// A program that logs as fast as it can leaves room for others.
func TestFlood(t *testing.T) {
	b := newBench(t)
	r := b.start()
	c := b.dial()
	for range 3000 {
		b.send(c, "<11>Nov 24 23:16:17 pump[123]: the pump is dry, the pump is dry")
	}
	b.send(c, "<11>Nov 24 23:16:17 valve[124]: closed")
	b.kernel("3,0,0,-;a")
	r.end()
	count := map[string]int{}
	for _, line := range b.lines() {
		count[line]++
	}
	for line, want := range map[string]int{
		"ERROR pump[123]: the pump is dry, the pump is dry": 500,
		"ERROR valve[124]: closed":                          1,
		"ERROR kernel: a":                                   1,
		"WARN  gweinit: 2500 lines of pump[123] left out":   1,
	} {
		if count[line] != want {
			t.Errorf("%s: %d, want %d", line, count[line], want)
		}
	}
}

// The programs that people use.
func TestLoggers(t *testing.T) {
	b := newBench(t)
	r := b.start()
	w, err := gosyslog.Dial("unixgram", b.o.Socket, gosyslog.LOG_DAEMON|gosyslog.LOG_INFO, "goprogram")
	if err == nil {
		err = w.Warning("from Go")
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	want := []string{me("WARN  goprogram[%d]: from Go")}
	if logger, err := exec.LookPath("logger"); err != nil {
		t.Logf("no logger here, which is in bsdutils: %v", err)
	} else {
		for _, tt := range []struct{ args, want string }{
			{"-t pump -p user.err water level 7", "ERROR pump[PID]: water level 7"},
			{"-t pump --id=4711 -p kern.debug x", "DEBUG pump[4711]: x"},
			{"-t kernel x", "INFO  kernel[PID]: x"},
			{"-t pump --rfc5424 --id=4711 x y", "INFO  pump[4711]: x y"},
			{"-t pump --rfc5424=notime,notq,nohost --msgid m --sd-id a@1 --sd-param b=\"c\" x", `INFO  pump[PID]: [a@1 b="c"] x`},
		} {
			cmd := exec.Command(logger, append([]string{"-u", b.o.Socket, "--socket-errors=on"}, strings.Fields(tt.args)...)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("logger %s: %v, %s", tt.args, err, out)
			}
			want = append(want, strings.ReplaceAll(tt.want, "PID", fmt.Sprint(cmd.Process.Pid)))
		}
	}
	r.end()
	b.want(want...)
}

// The real /dev/kmsg: what is in the ring, then what comes.
func TestKmsgDevice(t *testing.T) {
	t.Parallel() // it takes a second
	b := newBench(t)
	b.o.Kmsg = "/dev/kmsg"
	b.log = New(b.o)
	w, err := os.OpenFile(b.o.Kmsg, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("the kernel's log is not for us: %v", err)
	}
	defer w.Close()
	r := b.start()
	r.end()
	if first := b.lines(); !slices.ContainsFunc(first, func(s string) bool { return strings.HasPrefix(s[6:], "kernel: ") }) {
		t.Errorf("nothing in the ring: %q", first)
	}
	r = b.start()
	time.Sleep(20 * time.Millisecond) // it waits now, most probably
	start := time.Now()
	marker := fmt.Sprintf("gwe-test[%d]: Füllstand\x01 at %d", os.Getpid(), start.UnixNano())
	if _, err := w.WriteString("<15>" + marker + "\n"); err != nil {
		t.Skipf("the kernel's log takes nothing: %v", err)
	}
	want := strings.ReplaceAll(marker, "\x01", `\x01`)
	b.waitLine(want)
	end := time.Now()
	r.end()
	found := 0
	for line := range strings.Lines(read(t, b.o.File)) {
		if strings.HasSuffix(line, " DEBUG "+want+"\n") {
			found++
			at, err := time.Parse(time.RFC3339, line[:24])
			if err != nil || at.Before(start.Add(-time.Second)) || at.After(end) {
				t.Errorf("%s was written between %v and %v, %v", line, start, end, err)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d times", found)
	}
}

// loop runs a Logger's write with a clock that the test moves.
func loop(l *Logger) (take func(...record), end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	records, ended := make(chan record), make(chan error, 1)
	go func() { ended <- l.write(ctx.Done(), records, func() { close(records) }) }()
	take = func(rs ...record) {
		for _, r := range rs {
			records <- r
		}
		synctest.Wait()
	}
	end = func() error {
		cancel()
		return <-ended
	}
	return take, end
}

func line(priority int, format string, args ...any) record {
	return record{time: time.Now(), priority: priority, text: fmt.Sprintf(format, args...), from: kernel, name: kernel.name}
}

// Lines are written together, but not late, and nothing wakes up for nothing.
func TestTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{File: path, MaxSize: 1 << 20, Keep: 1})
		take, end := loop(l)
		lines := func() int {
			synctest.Wait()
			b, _ := os.ReadFile(path)
			return bytes.Count(b, []byte("\n"))
		}
		check := func(what string, want int) {
			t.Helper()
			if got := lines(); got != want {
				t.Errorf("%s: %d lines, want %d", what, got, want)
			}
		}
		take(line(6, "a"))
		time.Sleep(together / 2)
		take(line(4, "b"))
		check("not yet", 0)
		time.Sleep(together / 2)
		check("after a second", 2)
		take(line(7, "c"))
		take(line(3, "d"))
		check("an error", 4)
		for range 100 {
			take(line(6, "%s", strings.Repeat("x", 200)))
		}
		if got := lines(); got <= 50 || got >= 104 {
			t.Errorf("16 KiB: %d lines", got)
		}
		time.Sleep(together)
		check("the rest", 104)
		if !l.due().IsZero() || !l.limit.due.IsZero() {
			t.Errorf("it wakes up for nothing, at %v, %v", l.due(), l.limit.due)
		}
		take(line(6, "last"))
		if err := end(); err != nil {
			t.Error(err)
		}
		check("the end", 105)
	})
}

// What is left out is told at the end of the interval.
func TestLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{File: path, MaxSize: 1 << 20, Keep: 1})
		take, end := loop(l)
		for round := range 2 {
			for i := range 600 {
				take(record{time: time.Now(), priority: 6, text: fmt.Sprintf("pump[1]: %d", i), from: source{name: "pump"}, name: "pump[1]"})
			}
			time.Sleep(interval + together)
			synctest.Wait()
			got := read(t, path)
			if n := strings.Count(got, "\n"); n != 501*(round+1) || !strings.HasSuffix(got, " WARN  gweinit: 100 lines of pump[1] left out\n") {
				t.Errorf("round %d: %d lines, at the end %s", round, n, got[len(got)-50:])
			}
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// A full disk is waited for; old files make room for data.
func TestFull(t *testing.T) {
	dir := tmpfs(t)
	path := filepath.Join(dir, "messages")
	for _, old := range []string{".1", ".2"} {
		write(t, path+old, "old\n")
	}
	ballast := fill(t, dir, 0)
	refill := func() {
		f, err := os.OpenFile(ballast, os.O_WRONLY|os.O_APPEND, 0)
		for err == nil {
			_, err = f.Write(make([]byte, 4<<10))
		}
		if f.Close(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{File: path, MaxSize: 12 << 10, Keep: 2})
		take, end := loop(l)
		exists := func() (is string) {
			synctest.Wait()
			for _, name := range []string{path + ".1", path + ".2"} {
				if _, err := os.Stat(name); err == nil {
					is += filepath.Ext(name)
				}
			}
			return is
		}
		take(line(3, "first"))
		if got := exists(); got != ".1" {
			t.Errorf("after a try: %s", got)
		}
		refill()
		time.Sleep(firstRetry - 1)
		if got := exists(); got != ".1" {
			t.Errorf("tried again at once: %s", got)
		}
		time.Sleep(1)
		if got := exists(); got != "" {
			t.Errorf("after two tries: %s", got)
		}
		refill()
		for i := range 1500 {
			take(line(3, "%4d %s", i, strings.Repeat("x", 60)))
		}
		// The tries are after 1, 3, 7, 15, 25, ... seconds.
		time.Sleep(time.Minute)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4*time.Second - 1)
		if got := exists(); got != "" {
			t.Errorf("too early: %s", got)
		}
		time.Sleep(1)
		if got := exists(); got != ".1.2" {
			t.Errorf("there is room: %s", got)
		}
		got := strings.Split(read(t, path), "\n")
		lost := 0
		if len(got) < 3 || got[len(got)-1] != "" {
			t.Fatalf("got %q", got)
		}
		got = got[len(got)-3 : len(got)-1]
		fmt.Sscanf(got[1][25:], "ERROR gweinit: %d lines lost: no space left on device", &lost)
		want := fmt.Sprintf("ERROR %4d %s", 1500-lost-1, strings.Repeat("x", 60))
		if lost < 100 || got[0][25:] != want {
			t.Errorf("got %q,\nwant %s before that", got, want)
		}
		if l.lost != 0 || !l.due().IsZero() || cap(l.buf) > 2*most {
			t.Errorf("%d lost, next at %v, %d bytes", l.lost, l.due(), cap(l.buf))
		}
		take(line(6, "end"))
		if err := end(); err != nil {
			t.Error(err)
		}
		if got := read(t, path); !strings.HasSuffix(got, " INFO  end\n") {
			t.Errorf("at the end %s", got[len(got)-50:])
		}
	})
}

// Without a place to write to, lines wait, and Run says that they do.
func TestNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{File: filepath.Join(dir, "log", "messages"), MaxSize: 1 << 20, Keep: 1})
		take, end := loop(l)
		take(line(6, "a"), line(3, "b"))
		err := end()
		if err == nil || !strings.Contains(err.Error(), "2 lines not written: mkdir "+dir+"/log: no such file or directory") {
			t.Errorf("got %v", err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		take, end = loop(l)
		take(line(6, "c"))
		if err := end(); err != nil {
			t.Error(err)
		}
		if got := read(t, filepath.Join(dir, "log", "messages")); strings.Count(got, "\n") != 3 {
			t.Errorf("got %s", got)
		}
	})
}
