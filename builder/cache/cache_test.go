package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestGet(t *testing.T) {
	d := Dir{t.TempDir(), t.Logf}
	broken := errors.New("broken")
	_, err := d.Get(t.Context(), "s", "k", func(tmp string) error {
		if err := os.WriteFile(filepath.Join(tmp, "half"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.Path, "s", "k")); err == nil {
		t.Error("a failed output has its final name")
	}

	// What an interrupted build left behind is not part of the next one.
	tmp := filepath.Join(d.Path, "s", "k.tmp")
	if err := os.MkdirAll(filepath.Join(tmp, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	var builds atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			dir, err := d.Get(t.Context(), "s", "k", func(tmp string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(tmp, "whole"), nil, 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if files, _ := os.ReadDir(dir); len(files) != 1 || files[0].Name() != "whole" {
				t.Errorf("the output holds %v", files)
			}
		})
	}
	all.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times, want once", builds.Load())
	}
}

func TestPrune(t *testing.T) {
	d := Dir{t.TempDir(), t.Logf}
	for _, key := range []string{"old", "used", "new"} {
		if _, err := d.Get(t.Context(), "s", key, func(string) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if key != "new" {
			old := time.Now().Add(-2 * keep)
			if err := os.Chtimes(filepath.Join(d.Path, "s", key), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := d.Get(t.Context(), "s", "used", func(string) error { return errors.New("built again") }); err != nil {
		t.Error(err)
	}
	if err := d.Prune("s"); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(d.Path, "s", "*[dw]"))
	if len(left) != 2 {
		t.Errorf("left: %v, want new and used", left)
	}
}

// A build waits for another one, says so, and can be interrupted.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arm64.lock")
	told := make(chan string, 10)
	log := func(format string, args ...any) { told <- fmt.Sprintf(format, args...) }
	unlock, err := Lock(t.Context(), path, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path, log); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v", err)
	}
	if s := <-told; !strings.Contains(s, "waiting for another build") {
		t.Errorf("logged %q", s)
	}
	done := make(chan error)
	go func() {
		unlock, err := Lock(t.Context(), path, log)
		if err == nil {
			unlock()
		}
		done <- err
	}()
	<-told
	unlock()
	if err := <-done; err != nil {
		t.Errorf("after the first ended: %v", err)
	}
}

func TestKey(t *testing.T) {
	if Key("a", "b") == Key("ab") || Key("a", "b") == Key("b", "a") {
		t.Error("keys do not tell their parts apart")
	}
}
