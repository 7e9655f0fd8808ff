package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Names are arguments of gweinit, or those of links to it.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "gweinit"), ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range []string{"init", "modprobe", "sh"} {
		if err := os.Symlink("gweinit", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	const usage, pid1 = "usage: gweinit NAME [ARGUMENT...]\nNAME: app-installer, call, gdc, gwe, init, modprobe, supervisorctl, supervisord", "init is PID 1 of a Gateway Engine image"
	for _, tt := range []struct{ args, want string }{
		{"gweinit", usage},
		{"gweinit intt", usage},
		{"gweinit -h", usage},
		{"sh -c true", usage},
		{"gweinit init", pid1},
		{"gweinit /usr/sbin/init", pid1},
		{"init", pid1},
		{"init 6", pid1},
		{"modprobe", "modprobe: which module?"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(tt.args)
			cmd := exec.Command(filepath.Join(dir, args[0]), args[1:]...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 || stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), tt.want) {
				t.Errorf("%v, stdout %q\nstderr %q\nwant exit status 2, %q", err, &stdout, &stderr, tt.want)
			}
		})
	}
}
