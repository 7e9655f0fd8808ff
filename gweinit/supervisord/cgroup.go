package supervisord

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/exosite/gwe/gweinit/mountinfo"
)

// makeCgroup makes a group (v2) below that of this process, for its programs.
func makeCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	root, path := mountOf(string(mounts)), ""
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			path = strings.TrimSpace(p)
		}
	}
	if root == "" || path == "" {
		return "", errors.New("cgroup v2 is not mounted")
	}
	group := filepath.Join(root, path, fmt.Sprintf("supervisord-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return group, nil
}

// mountOf returns the mount point of cgroup v2.
func mountOf(text string) string {
	for _, m := range mountinfo.Parse(text) {
		if m.Type == "cgroup2" {
			return m.Target
		}
	}
	return ""
}
