package usage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/exosite"
)

// one is what a request used.
func one(consumer string) exosite.Report {
	u := exosite.Usage{TotRx: 10, MaxRx: 10, TotTx: 20, MaxTx: 20, Num: 1}
	return exosite.Report{"eth0": {TopConsumer: consumer, Consumers: map[string]map[string]exosite.Usage{consumer: {"write": u}}}}
}

const addTo = "GWE_TEST_ADD_TO" // a file: the test is one of the programs

func TestMain(m *testing.M) {
	if path := os.Getenv(addTo); path != "" {
		for range 10 {
			if _, err := Add(path, one("gdc")); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		return
	}
	os.Exit(m.Run())
}

// 20 processes, and goroutines in one, lose nothing.
func TestManyAdd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run/gwe/usage.json")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), addTo+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		all.Go(func() {
			if _, err := Add(path, one("gwe")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	sum, err := Add(path, nil)
	c := sum["eth0"].Consumers
	if err != nil || c["gdc"]["write"].Num != 200 || c["gwe"]["write"].Num != 20 || c["gdc"]["write"].TotRx != 2000 || sum["eth0"].TopConsumer != "gdc" {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestFileBefore(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"garbled": func(path string) error { return os.WriteFile(path, []byte("\x00\x00\x00"), 0o644) },
		"torn":    func(path string) error { return os.WriteFile(path, []byte(`{"eth0":{"gwe":{"wri`), 0o644) },
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"null":    func(path string) error { return os.WriteFile(path, []byte("null"), 0o644) },
		"negative": func(path string) error {
			return os.WriteFile(path, []byte(`{"eth0":{"gwe":{"write":{"num":-1}}}}`), 0o644)
		},
		"too large": func(path string) error { return os.Truncate(path, maxFile+1) },
		"a link":    func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a pipe":    func(path string) error { return unix.Mkfifo(path, 0o644) },
		"one beside that a killed process left": func(path string) error {
			return os.WriteFile(path+".new", []byte("torn"), 0o600)
		},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "usage.json")
		if name == "too large" {
			os.WriteFile(path, nil, 0o644)
		}
		if err := prepare(path); err != nil {
			t.Fatal(err)
		}
		for n := range int64(2) {
			sum, err := Add(path, one("gwe"))
			if got := sum["eth0"].Consumers["gwe"]["write"].Num; err != nil || got != n+1 {
				t.Errorf("%s: %+v, %v, want %d", name, sum, err, n+1)
			}
		}
	}
}

// Without a report it asks for the sum, and writes nothing.
func TestEmpty(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gwe", "usage.json")
	for _, r := range []exosite.Report{nil, {}} {
		if sum, err := Add(path, r); err != nil || sum == nil || len(sum) != 0 {
			t.Errorf("%v, %v", sum, err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := Add(path, one("gwe")); err != nil {
		t.Fatal(err)
	}
	if sum, err := Add(path, nil); err != nil || !reflect.DeepEqual(sum, one("gwe")) {
		t.Errorf("%v, %v", sum, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	for name, mode := range map[string]os.FileMode{path: 0o644, path + ".lock": 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%v, %v", info, err)
		}
	}
}

// An app that is not root must not be able to write, or to keep others from it.
func TestReadOnly(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "usage") // the test's own folder is not for others to enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "usage.json")
	if _, err := Add(path, one("gwe")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if os.Getuid() == 0 {
			runtime.LockOSThread() // which ends with the goroutine
			if err := unix.Setfsuid(65534); err != nil {
				t.Error(err)
			}
		}
		for _, path := range []string{path, filepath.Join(dir, "gwe", "usage.json"), filepath.Join(dir, "other.json")} {
			if sum, err := Add(path, one("app")); err == nil || !strings.Contains(err.Error(), path) || !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v, %v", path, sum, err)
			}
		}
		if sum, err := Add(path, nil); err != nil || len(sum) != 1 {
			t.Errorf("the sum: %v, %v", sum, err)
		}
	}()
	<-ended
}

// A lock that stays does not keep a program for ever.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.json")
	lock, err := os.Create(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = Add(path, one("gwe"))
	if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "locked by another process for 1s") || took < patience || took > 20*patience {
		t.Errorf("%v after %v", err, took)
	}
}
