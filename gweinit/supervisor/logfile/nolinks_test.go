package logfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A link that an app has made in the way of its log leads to a file of the gateway:
// whatever is done with the log, that stays as it is, and those beside it.
func TestNoLinks(t *testing.T) {
	const secret = "not the app's"
	for _, tt := range []struct {
		name string
		lost bool // the output cannot be written anywhere
		make func(app, log, gateway string) error
	}{
		{"a link to the file", true, func(_, log, gateway string) error { return os.Symlink(gateway, log) }},
		{"a link to a folder on the way", true, func(app, _, gateway string) error {
			return errors.Join(os.RemoveAll(app), os.Symlink(filepath.Dir(gateway), app))
		}},
		{"a relative link", true, func(_, log, gateway string) error {
			return os.Symlink("../gateway/commands.json", log)
		}},
		{"a link to nothing", true, func(_, log, gateway string) error { return os.Symlink(gateway+".new", log) }},
		{"a link to itself", true, func(_, log, _ string) error { return os.Symlink("log", log) }},
		{"a link beside it", false, func(_, log, gateway string) error { return os.Symlink(gateway, log+".1") }},
	} {
		for _, before := range []bool{true, false} { // the log was opened
			dir := t.TempDir()
			app, gateway := filepath.Join(dir, "app"), filepath.Join(dir, "gateway", "commands.json")
			path := filepath.Join(app, "log")
			for file, text := range map[string]string{gateway: secret, filepath.Join(dir, "gateway", "log"): secret, filepath.Join(dir, "gateway", "log.1"): secret} {
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.MkdirAll(app, 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			told := make(chan error, 1)
			l := New(Options{Path: path, MaxBytes: 1000, Backups: 2, NoLinks: true, Problem: func(err error) { told <- err }})
			l.file.retry = 0
			if Linked(path) {
				t.Errorf("%s: linked already", tt.name)
			}
			link := func() {
				if err := tt.make(app, path, gateway); err != nil {
					t.Fatal(err)
				}
				if Linked(path) != tt.lost {
					t.Errorf("%s: linked is %v", tt.name, !tt.lost)
				}
			}
			if before {
				link()
			} else {
				wait(t, run(t, l, "echo hello").Done(), "end")
				if tt.lost {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
				link()
			}
			if err := l.Reopen(); errors.Is(err, ErrLink) != tt.lost || !tt.lost && err != nil {
				t.Errorf("%s: reopen: %v", tt.name, err)
			}
			wait(t, run(t, l, "seq 1000").Done(), "end") // and rotate
			if err := l.Clear(); errors.Is(err, ErrLink) != tt.lost || !tt.lost && err != nil {
				t.Errorf("%s: clear: %v", tt.name, err)
			}
			wait(t, run(t, l, "echo end").Done(), "end")
			l.file.removeOldest()
			l.Close()
			for _, file := range []string{"commands.json", "log", "log.1"} {
				if got := content(t, filepath.Join(dir, "gateway", file)); got != secret {
					t.Errorf("%s (before: %v): %s has %q", tt.name, before, file, got)
				}
			}
			if entries, _ := os.ReadDir(filepath.Join(dir, "gateway")); len(entries) != 3 {
				t.Errorf("%s (before: %v): %v are in the other folder", tt.name, before, entries)
			}
			if !tt.lost {
				if got := content(t, path); got != "end\n" {
					t.Errorf("%s: the log has %q", tt.name, got)
				}
				continue
			}
			select {
			case err := <-told:
				if !errors.Is(err, ErrLink) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: told %v", tt.name, err)
				}
			case <-time.After(5 * time.Second):
				t.Errorf("%s: the loss is not told", tt.name)
			}
		}
	}
}

// The app replaces the folder of its log by a link while that is rotated, again and
// again.
func TestNoLinksRace(t *testing.T) {
	dir := t.TempDir()
	app, other, gateway := filepath.Join(dir, "app"), filepath.Join(dir, "other"), filepath.Join(dir, "gateway")
	for _, d := range []string{app, gateway} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"log", "log.1", "log.2"} {
		if err := os.WriteFile(filepath.Join(gateway, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := New(Options{Path: filepath.Join(app, "log"), MaxBytes: 100, Backups: 2, NoLinks: true})
	l.file.retry = 0
	end := make(chan struct{})
	swapped := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-end:
				swapped <- n
				return
			default:
			}
			os.Rename(app, other)
			os.Symlink(gateway, app)
			os.Remove(app)
			os.Rename(other, app)
			n++
		}
	}()
	for range 20 {
		wait(t, run(t, l, "seq 10000").Done(), "end")
		l.Clear()
		l.file.removeOldest()
	}
	close(end)
	if n := <-swapped; n < 100 {
		t.Errorf("only %d swaps", n)
	}
	l.Close()
	for _, name := range []string{"log", "log.1", "log.2"} {
		if got := content(t, filepath.Join(gateway, name)); got != name {
			t.Errorf("%s has %q", name, got)
		}
	}
	if entries, _ := os.ReadDir(gateway); len(entries) != 3 {
		t.Errorf("%v are there", entries)
	}
}
