// Package cgatest has what tests of apps need: tarballs, and a firmware's root that
// installers can run in. The device does not contain it.
package cgatest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// File is one of a tarball.
type File struct {
	Name, Text string
	Mode       int64
}

// Plain is a file that is no program.
func Plain(name, text string) File { return File{name, text, 0o644} }

// Executable is a file that is a program.
func Executable(name, text string) File { return File{name, text, 0o755} }

// Script is an install.sh that ends at the first command that fails.
func Script(text string) File { return File{"install.sh", "#!/bin/sh\nset -e\n" + text, 0o755} }

// Supervised is a supervisor.conf with these options.
func Supervised(text string) File { return File{"supervisor.conf", "[supervisord]\n" + text, 0o644} }

// Tarball is one of files.
func Tarball(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	a := tar.NewWriter(z)
	var errs []error
	for _, f := range files {
		errs = append(errs, a.WriteHeader(&tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Text)), Typeflag: tar.TypeReg}))
		_, err := a.Write([]byte(f.Text))
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, a.Close(), z.Close())...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// applets are those of busybox that the root of Base has.
var applets = []string{
	"sh", "cat", "chmod", "cp", "dd", "echo", "false", "find", "grep", "id", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "poweroff",
	"ps", "reboot", "rm", "sed", "setsid", "sleep", "stat", "test", "touch", "tr", "true", "wc", "yes",
}

// Base makes the root of a firmware in a folder, with the host's static busybox, which
// "make setup" installs.
func Base(t testing.TB, dir string) {
	t.Helper()
	var errs []error
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "var", "data", "root", "etc/supervisor/conf.d", "usr/bin", "usr/local/bin"} {
		errs = append(errs, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	errs = append(errs, err, os.WriteFile(filepath.Join(dir, "usr/bin/busybox"), busybox, 0o755), os.Symlink("usr/bin", filepath.Join(dir, "bin")))
	for _, applet := range applets {
		errs = append(errs, os.Symlink("busybox", filepath.Join(dir, "usr/bin", applet)))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
