package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// followed follows a file until the end of the test.
func followed(t *testing.T, path string, head int64) *output {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := &output{}
	done := make(chan error, 1)
	go func() { done <- follow(ctx, path, head, out, 5*time.Millisecond) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Error(err)
		}
	})
	return out
}

func expect(t *testing.T, out *output, want string) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); out.String() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got %q, want %q", out, want)
		}
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	os.WriteFile(path, []byte("0123456789\n"), 0o600)
	out, all := followed(t, path, 4), followed(t, path, 1024)
	expect(t, out, "789\n")
	expect(t, all, "0123456789\n")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := "789\n"
	add := func(s string) {
		t.Helper()
		write(t, f, s)
		want += s
		expect(t, out, want)
	}
	add("a")
	add("b\n")
	f.Truncate(0)
	want += truncated
	expect(t, out, want)
	add("c\n")
	// Moved away, and still written to.
	os.Rename(path, path+".moved")
	add("d\n")
	write(t, f, "e\n")
	os.WriteFile(path, []byte("f\n"), 0o600)
	want += "e\nf\n"
	expect(t, out, want)
	// Removed.
	os.Remove(path)
	os.WriteFile(path, []byte("g\n"), 0o600)
	want += "g\n"
	expect(t, out, want)
	// Rotated twice at once.
	os.WriteFile(path+".2", []byte("rest of g\n"), 0o600)
	older, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer older.Close()
	write(t, older, "h\n")
	os.Rename(path, path+".2")
	os.WriteFile(path+".1", []byte("i\n"), 0o600)
	os.WriteFile(path+".new", []byte("j\n"), 0o600)
	os.Rename(path+".new", path)
	want += "h\ni\nj\n"
	expect(t, out, want)
}

// A Log that rotates while it is followed, often within lines.
func TestFollowRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := New(Options{Path: path, MaxBytes: 2000, Backups: 30})
	defer l.Close()
	if err := l.Open(); err != nil {
		t.Fatal(err)
	}
	out := followed(t, path, 1024)
	r, w := pipe(t)
	reader := l.Follow(r)
	var want strings.Builder
	for i := range 6000 {
		line := strconv.Itoa(i) + "\n"
		want.WriteString(line)
		write(t, w, line[:1])
		if i%7 == 0 {
			drained(t, reader)
		}
		if i%100 == 0 {
			time.Sleep(7 * time.Millisecond)
		}
		write(t, w, line[1:])
	}
	drained(t, reader)
	expect(t, out, want.String())
}

func TestFollowErrors(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	if err := Follow(ctx, filepath.Join(dir, "none"), 1024, &output{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, path := range []string{dir, "/dev/null"} {
		if err := Follow(ctx, path, 1024, &output{}); !errors.Is(err, syscall.ESPIPE) {
			t.Error(err)
		}
	}
	path := filepath.Join(dir, "log")
	os.WriteFile(path, []byte("hello\n"), 0o600)
	if err := Follow(ctx, path, 1024, failingWriter{}); !errors.Is(err, syscall.EPIPE) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if err := Follow(ctx, path, 1024, &output{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type failingWriter struct{}

func (failingWriter) Write(p []byte) (int, error) { return 0, fmt.Errorf("write: %w", syscall.EPIPE) }
