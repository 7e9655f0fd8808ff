package uboot

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// run runs a host tool of the given Debian package; the end of its output is
// in the error.
func run(ctx context.Context, pkg string, env []string, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	// Nothing of the user's: variables such as ARCH and MAKEFLAGS change builds.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "TZ=UTC"}, env...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return fmt.Errorf("%s (package %s): %w\n%s", cmd, pkg, err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
}
