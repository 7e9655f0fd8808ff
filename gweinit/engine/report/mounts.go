package report

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/mountinfo"
)

// space is that of a file system in KiB, as statfs(2) tells it.
type space struct {
	total, used, available uint64
}

// percent is the part that is used as df counts it: of what users can have,
// rounded up.
func (s space) percent() (uint64, bool) {
	all := s.used + s.available
	if all == 0 {
		return 0, false
	}
	return (s.used*100 + all - 1) / all, true
}

// pseudo file systems have no space, or none that says anything.
var pseudo = []string{
	"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
	"fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rootfs", "rpc_pipefs", "securityfs", "sysfs",
	"tracefs",
}

// withSpace returns of the text of a mountinfo the file systems that have space: each
// device once, by mount point.
func withSpace(text string) []mountinfo.Mount {
	var all []mountinfo.Mount
	for _, m := range mountinfo.Parse(text) {
		// One that is mounted over another hides it.
		all = slices.DeleteFunc(all, func(o mountinfo.Mount) bool { return o.Target == m.Target })
		m.Source = cmp.Or(m.Source, "-")
		all = append(all, m)
	}
	all = slices.DeleteFunc(all, func(m mountinfo.Mount) bool {
		return slices.Contains(pseudo, m.Type) || m.Type == "tmpfs" && strings.HasPrefix(m.Target, "/sys/") ||
			m.Type == "overlay" && strings.HasPrefix(m.Target, "/run/apps/") // its room is that of /data
	})
	// Of several mounts of a device the one of all of it counts, else the first.
	seen := map[string]bool{}
	for _, m := range all {
		if m.Root == "/" {
			seen[m.Device+" /"] = true
		}
	}
	var unique []mountinfo.Mount
	for _, m := range all {
		if seen[m.Device] || m.Root != "/" && seen[m.Device+" /"] {
			continue
		}
		seen[m.Device] = true
		unique = append(unique, m)
	}
	slices.SortFunc(unique, func(a, b mountinfo.Mount) int { return strings.Compare(a.Target, b.Target) })
	return unique
}

// df is as "df -k" prints it. The facts are the use of each file system in steps
// of 10 %.
func (m machine) df() (text, fact string, err error) {
	mounted, err := m.read("self/mountinfo")
	if err != nil {
		return "", "", err
	}
	mounts := withSpace(mounted)
	mounts = mounts[:min(len(mounts), mostMounts)]
	spaces := m.spaces(mounts)
	rows := [][]string{{"Filesystem", "1K-blocks", "Used", "Available", "Use%", "Mounted on"}}
	var facts strings.Builder
	for i, mount := range mounts {
		source, target := cut(mount.Source, maxDevice), cut(mount.Target, maxTarget)
		if err := spaces[i].err; err != nil {
			rows = append(rows, []string{source, "-", "-", "-", "-", target + " (" + cut(err.Error(), 60) + ")"})
			fmt.Fprintf(&facts, "%s ?\n", target)
			continue
		}
		s := spaces[i].space
		if s.total == 0 || mount.Type == "tmpfs" && s.total < smallTmpfs {
			continue
		}
		use := "-"
		if p, ok := s.percent(); ok {
			use = fmt.Sprintf("%d%%", p)
			fmt.Fprintf(&facts, "%s %d0%%\n", target, p/10)
		}
		rows = append(rows, []string{
			source, strconv.FormatUint(s.total, 10), strconv.FormatUint(s.used, 10), strconv.FormatUint(s.available, 10), use, target,
		})
	}
	return table(rows, "<>>>>", maxMounts), lines(facts.String(), maxMounts), nil
}

// answer is that of statfs.
type answer struct {
	space space
	err   error
}

var errHangs = errors.New("does not answer")

// asked has the mount points that were asked and have not answered, and since
// when: a file system that hangs costs one thread, not one for each report.
var asked sync.Map

// spaces asks all mounts at once.
func (m machine) spaces(mounts []mountinfo.Mount) []answer {
	answers := make([]answer, len(mounts))
	results := make([]chan answer, len(mounts))
	for i, mount := range mounts {
		path := filepath.Join(m.root, mount.Target)
		since, before := asked.LoadOrStore(path, time.Now())
		if before && time.Since(since.(time.Time)) > statfsLimit {
			continue
		}
		results[i] = make(chan answer, 1)
		go func() {
			s, err := m.statfs(path)
			asked.Delete(path)
			results[i] <- answer{s, err}
		}()
	}
	limit := time.NewTimer(statfsLimit)
	defer limit.Stop()
	over := false
	for i, result := range results {
		answers[i].err = errHangs
		if result == nil {
			continue
		}
		if over { // others may have answered
			select {
			case answers[i] = <-result:
			default:
			}
			continue
		}
		select {
		case answers[i] = <-result:
		case <-limit.C:
			over = true
		}
	}
	return answers
}

func statfs(path string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return space{}, err
	}
	size := uint64(st.Frsize) // of a block; the fields' types differ by architecture
	if size == 0 {
		size = uint64(st.Bsize)
	}
	kib := func(blocks uint64) uint64 { return blocks * size / 1024 }
	return space{
		total: kib(uint64(st.Blocks)), used: kib(uint64(st.Blocks) - min(uint64(st.Bfree), uint64(st.Blocks))), available: kib(uint64(st.Bavail)),
	}, nil
}
