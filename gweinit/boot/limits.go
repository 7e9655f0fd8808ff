package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// limitPrograms makes the cgroup in which everything runs that PID 1 starts. A
// fork bomb must not take the last thread: Go ends a program that cannot have
// one, and no recover helps.
func limitPrograms(s *system) error {
	text, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		return err
	}
	threads, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("threads-max: %w", err)
	}
	const root = "/sys/fs/cgroup"
	group := filepath.Join(root, "programs")
	if err := os.Mkdir(group, 0o755); err != nil {
		return err
	}
	for _, w := range []struct{ file, value string }{
		{filepath.Join(root, "cgroup.subtree_control"), "+pids"},
		// As many threads as the kernel allows would also take all memory.
		{filepath.Join(group, "pids.max"), strconv.Itoa(threads / 4)},
	} {
		if err := os.WriteFile(w.file, []byte(w.value), 0); err != nil {
			return fmt.Errorf("write %s to %s: %w", w.value, w.file, err)
		}
	}
	s.programs, err = os.Open(group)
	return err
}
