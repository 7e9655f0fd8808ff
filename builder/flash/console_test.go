package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/flash/flashtest"
	"github.com/exosite/gwe/gweinit/selftest"
)

func unit(n int) selftest.Result {
	return selftest.Result{Pass: true, Serial: fmt.Sprintf("GW-%06d", n), MAC: "52:54:00:12:34:56", Board: "rpi3", Version: "1.0.0", Storage: selftest.OK, Network: selftest.OK}
}

// started reads a console in the background.
func started(ctx context.Context, console io.ReadCloser) <-chan any {
	all := make(chan any, 100)
	go func() {
		defer close(all)
		for r, err := range ReadSelftests(ctx, console) {
			if err != nil {
				all <- err
			} else {
				all <- r
			}
		}
	}()
	return all
}

func heard(t *testing.T, from <-chan any) (got any, more bool) {
	t.Helper()
	select {
	case got, more = <-from:
		return got, more
	case <-time.After(10 * time.Second):
		t.Fatal("nothing comes")
		return nil, false
	}
}

func TestConsole(t *testing.T) {
	gateway, path := flashtest.Terminal(t)
	console, err := OpenConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	termios, err := unix.IoctlGetTermios(int(console.(*os.File).Fd()), unix.TCGETS)
	if err != nil || termios.Cflag&(unix.CBAUD|unix.CSIZE|unix.CLOCAL|unix.CREAD|unix.PARENB|unix.CSTOPB) != unix.B115200|unix.CS8|unix.CLOCAL|unix.CREAD || termios.Lflag != 0 {
		t.Errorf("%+v, %v", termios, err)
	}
	// The console has not become ours: we have none in /dev/tty, or another one.
	if tty, err := os.Open("/dev/tty"); err == nil {
		var mine, its unix.Stat_t
		if unix.Fstat(int(tty.Fd()), &mine) == nil && unix.Stat(path, &its) == nil && mine.Rdev == its.Rdev {
			t.Error("it is the controlling terminal")
		}
		tty.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all := started(ctx, console)
	fmt.Fprintf(gateway, "\xff\x00U-Boot 2023.01\r\n\x03\x04\x11\x13gweinit: %s\r\n", unit(1))
	if got, _ := heard(t, all); got != unit(1) {
		t.Errorf("%v", got)
	}
	torn := unit(2).String()
	io.WriteString(gateway, "gweinit: "+torn[:60])
	time.Sleep(20 * time.Millisecond) // it comes in pieces
	io.WriteString(gateway, torn[60:]+"\r\n")
	if got, _ := heard(t, all); got != unit(2) {
		t.Errorf("in pieces: %v", got)
	}
	io.WriteString(gateway, torn[:60]) // the power goes
	cancel()
	if got, more := heard(t, all); more {
		t.Errorf("after the end: %v", got)
	}
}

func TestConsoleEnds(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		_, path := flashtest.Terminal(t)
		console, err := OpenConsole(path)
		if err != nil {
			t.Fatal(err)
		}
		all := started(t.Context(), console)
		time.Sleep(10 * time.Millisecond)
		console.Close()
		if got, _ := heard(t, all); !errors.Is(asError(got), os.ErrClosed) {
			t.Errorf("%v", got)
		}
	})
	t.Run("pulled out", func(t *testing.T) {
		gateway, path := flashtest.Terminal(t)
		console, err := OpenConsole(path)
		if err != nil {
			t.Fatal(err)
		}
		defer console.Close()
		all := started(t.Context(), console)
		fmt.Fprintf(gateway, "gweinit: %s\r\n", unit(1))
		if got, _ := heard(t, all); got != unit(1) {
			t.Errorf("%v", got)
		}
		gateway.Close()
		got, more := heard(t, all)
		if more && !errors.Is(asError(got), unix.EIO) {
			t.Errorf("%v", got)
		}
	})
}

func asError(got any) error {
	err, _ := got.(error)
	return err
}

func TestOpenConsoleFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "it is no serial port", file + "x": "no such file", "/dev/null": "it is no serial port"} {
		if c, err := OpenConsole(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", path, c, err)
		}
	}
}

func TestReadSelftests(t *testing.T) {
	random := rand.NewChaCha8([32]byte{7})
	noise := func(n int) string {
		b := make([]byte, n)
		random.Read(b)
		return strings.ReplaceAll(string(b), "\n", "\x80")
	}
	line := func(n int) string { return "gweinit: " + unit(n).String() + "\r\n" }
	text := line(1) + noise(100_000) + line(2) + // no line break for long
		noise(3*consoleKeep-100) + line(3) + // over the end of a piece
		strings.Repeat("x", 4*consoleKeep) + "\n" + line(4) + line(4) +
		strings.TrimSuffix(line(5), "\r\n") + line(6)[:50] + "\r\n" + line(6)[:70]
	want := []int{1, 2, 3, 4, 4, 5}
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(text), "byte by byte": iotest.OneByteReader(strings.NewReader(text)), "by halves": iotest.HalfReader(strings.NewReader(text)),
	} {
		var got []int
		for r, err := range ReadSelftests(t.Context(), io.NopCloser(r)) {
			n := 0
			fmt.Sscanf(r.Serial, "GW-%d", &n)
			if got = append(got, n); err != nil || r != unit(n) {
				t.Errorf("%s: %v, %v", name, r, err)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for range ReadSelftests(t.Context(), io.NopCloser(strings.NewReader(text))) {
		break
	}
	broken := errors.New("the cable is broken")
	last := error(nil)
	for _, err := range ReadSelftests(t.Context(), io.NopCloser(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)))) {
		last = err
	}
	if last != broken {
		t.Errorf("an error: %v", last)
	}
}

func FuzzReadSelftests(f *testing.F) {
	f.Add([]byte(unit(1).String()+"\n"), 10)
	f.Add(bytes.Repeat([]byte{0x80}, 100), 5000)
	f.Fuzz(func(t *testing.T, noise []byte, times int) {
		noise = bytes.Repeat(noise, min(max(times, 0), 100))
		n := 0
		for r, err := range ReadSelftests(t.Context(), io.NopCloser(bytes.NewReader(append(noise, "\n"+unit(7).String()+"\n"...)))) {
			if n++; err != nil {
				t.Error(err)
			} else if r == unit(7) {
				return
			}
		}
		t.Errorf("the last is not among %d", n)
	})
}
