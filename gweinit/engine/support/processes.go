package support

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	mostProcesses = 2000
	maxCommand    = 300 // bytes that are shown
)

// addProcesses adds a list of all processes, as ps makes it. Environments are not
// in it.
func (b *bundle) addProcesses() {
	var pids []int
	for _, e := range b.list("proc") {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	var text strings.Builder
	fmt.Fprintf(&text, "%7s %7s %s %8s %7s  %s\n", "PID", "PPID", "S", "RSS/KiB", "THREADS", "COMMAND")
	for i, pid := range pids {
		if i == mostProcesses || text.Len() > maxFile {
			fmt.Fprintf(&text, "... and %d more\n", len(pids)-i)
			break
		}
		line, err := b.process(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, errEnded) {
			continue
		}
		if err != nil {
			line = fmt.Sprintf("%7d %v", pid, err)
		}
		fmt.Fprintln(&text, line)
	}
	b.add("processes.txt", []byte(text.String()), b.now, "")
}

var errEnded = errors.New("it has ended")

// process is a line about a process.
func (b *bundle) process(pid int) (string, error) {
	dir := "proc/" + strconv.Itoa(pid)
	c, err := b.readBytes(dir + "/stat")
	if err != nil {
		return "", err
	}
	// "pid (comm) state ppid ...": comm may have blanks and parentheses.
	open, end := bytes.IndexByte(c.text, '('), bytes.LastIndexByte(c.text, ')')
	if open < 0 || end < open {
		return "", errEnded
	}
	comm := string(c.text[open+1 : end])
	fields := strings.Fields(string(c.text[end+1:]))
	if len(fields) < 22 {
		return "", fmt.Errorf("%s/stat has %d fields", dir, len(fields))
	}
	state, parent, threads := fields[0], fields[1], fields[17]
	pages, _ := strconv.ParseInt(fields[21], 10, 64)
	rss := pages * int64(os.Getpagesize()/1024)

	command := "[" + comm + "]"
	// This can hang where stat does not.
	if c, err := b.readBytes(dir + "/cmdline"); err == nil && len(c.text) > 0 {
		args := bytes.ReplaceAll(bytes.TrimRight(c.text, "\x00"), []byte{0}, []byte{' '})
		command = string(b.mask.text(args)) // before it is cut
		if first, _, _ := strings.Cut(command, " "); !strings.HasPrefix(filepath.Base(first), comm) {
			command = "[" + comm + "] " + command
		}
	}
	command = b.printable(command)
	if len(command) > maxCommand {
		command = strings.ToValidUTF8(command[:maxCommand], "") + "..."
	}
	return fmt.Sprintf("%7d %7s %s %8d %7s  %s", pid, parent, state, rss, threads, command), nil
}

// addGroups adds what the programs' control groups say of their use.
func (b *bundle) addGroups() {
	const groups = "sys/fs/cgroup/programs"
	var text strings.Builder
	for _, e := range b.list(groups) {
		if !e.IsDir() {
			continue
		}
		fmt.Fprintf(&text, "%s:", b.printable(e.Name()))
		for _, name := range []string{"pids.current", "pids.max", "memory.current", "memory.peak", "memory.max", "memory.events", "cpu.stat"} {
			if c, err := b.read(filepath.Join(groups, e.Name(), name)); err == nil {
				fmt.Fprintf(&text, " %s=%s", name, strings.Join(strings.Fields(string(c.text)), ","))
			}
		}
		text.WriteByte('\n')
	}
	if text.Len() > 0 {
		b.add("groups.txt", []byte(text.String()), b.now, "control groups of programs")
	}
}
