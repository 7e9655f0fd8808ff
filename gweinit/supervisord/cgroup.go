package supervisord

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// mountOf returns the mount point of cgroup v2 (proc(5), mountinfo).
func mountOf(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		mounted, super, _ := strings.Cut(line, " - ")
		fields := strings.Fields(mounted)
		if strings.HasPrefix(super, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	return ""
}
