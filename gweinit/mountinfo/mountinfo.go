// Package mountinfo reads the mounts of a process: proc_pid_mountinfo(5).
package mountinfo

import (
	"strconv"
	"strings"
)

// Mount is a mounted file system, or a part of one.
type Mount struct {
	Device  string // "179:7"
	Root    string // what of the file system is mounted; not "/" if that is bound
	Target  string // the mount point
	Type    string
	Source  string   // "/dev/mmcblk0p7"; "" if the kernel names none
	Options []string // of the file system
}

// Parse reads the text of a mountinfo file, the earliest mount first. A line that is not
// as it should be is passed over.
func Parse(text string) (mounts []Mount) {
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(rest) < 1 {
			continue
		}
		m := Mount{Device: fields[2], Root: unescape(fields[3]), Target: unescape(fields[4]), Type: rest[0]}
		if len(rest) > 1 {
			m.Source = unescape(rest[1])
		}
		if len(rest) > 2 {
			for option := range strings.SplitSeq(rest[2], ",") {
				m.Options = append(m.Options, unescape(option))
			}
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// unescape replaces \OOO, as which the kernel writes blanks, commas and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
