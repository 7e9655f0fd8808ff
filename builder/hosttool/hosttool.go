// Package hosttool runs the host's tools that make parts of an image, in an
// environment in which nothing of the user's can change what they make.
package hosttool

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Tool says how to run a program.
type Tool struct {
	Package string    // Debian package that has it, for messages
	Dir     string    // to run in; "" is the current one
	Time    time.Time // SOURCE_DATE_EPOCH, unless zero
	Env     []string  // more variables
}

// Run runs the program to its end. The end of its output is in the error.
func (t Tool) Run(ctx context.Context, name string, args ...string) error {
	_, err := t.Output(ctx, name, args...)
	return err
}

// Output runs the program to its end and returns what it printed.
func (t Tool) Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, find(name), args...)
	cmd.Dir = t.Dir
	// Variables such as ARCH and MAKEFLAGS change builds, and files such as
	// ~/.mtoolsrc change what is written.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "TZ=UTC"}, t.Env...)
	if !t.Time.IsZero() {
		cmd.Env = append(cmd.Env, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", t.Time.Unix()))
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return string(out), nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	said := string(out)
	if i := strings.Index(said, "\nUsage:"); i > 0 { // mkimage shows it behind every error
		said = said[:i]
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return "", fmt.Errorf("%s (package %s): %w\n%s", cmd, t.Package, err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
}

// find also looks where administrators' tools are, which is not on everybody's
// PATH.
func find(name string) string {
	if _, err := exec.LookPath(name); err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path
			}
		}
	}
	return name
}
