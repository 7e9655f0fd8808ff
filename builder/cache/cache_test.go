package cache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestGet(t *testing.T) {
	d := Dir(t.TempDir())
	broken := errors.New("broken")
	_, err := d.Get("s", "k", func(tmp string) error {
		if err := os.WriteFile(filepath.Join(tmp, "half"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(string(d), "s", "k")); err == nil {
		t.Error("a failed output has its final name")
	}

	// What an interrupted build left behind is not part of the next one.
	tmp := filepath.Join(string(d), "s", "k.tmp")
	if err := os.MkdirAll(filepath.Join(tmp, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	var builds atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			dir, err := d.Get("s", "k", func(tmp string) error {
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

func TestKey(t *testing.T) {
	if Key("a", "b") == Key("ab") || Key("a", "b") == Key("b", "a") || Key("a") != Key("a") {
		t.Error("keys do not tell their parts apart")
	}
}
