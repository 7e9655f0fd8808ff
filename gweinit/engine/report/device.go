package report

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a device_info of at most 8 KiB: bytes of JSON unless they say otherwise.
const (
	maxMounts    = 3 << 10
	mostMounts   = 100 // that are asked at all
	maxAddresses = 3 << 10
	maxDevice    = 40 // of a device's name
	maxTarget    = 80 // of a mount point
	maxPerLink   = 8  // addresses
	maxProc      = 256 << 10
	smallTmpfs   = 1 << 10 // KiB: one that does not matter
	statfsLimit  = 2 * time.Second
)

// deviceInfo is the JSON of a device_info: texts as commands print them.
type deviceInfo struct {
	Uname   string `json:"uname"`            // uname -a
	DF      string `json:"df"`               // df -k
	Free    string `json:"free"`             // free -k
	IPAddrs string `json:"ipaddrs"`          // ip -br addr, without the loopback
	Uptime  string `json:"uptime,omitempty"` // uptime
	Time    string `json:"time,omitempty"`   // RFC 3339, UTC
}

// machine is where the parts of a device_info come from.
type machine struct {
	root   string
	uname  func() (string, error)
	statfs func(path string) (space, error)
	links  func() ([]link, error)
	now    func() time.Time
}

// Device returns the device_info, at most 8 KiB, of the machine whose /proc is
// below root. A part that cannot be read has the reason as its text; only if that
// is so for all of them there is an error. It takes 2 s at most, whatever
// happened to a mounted file system.
func Device(root string) (Report, error) {
	return machine{root: root, uname: uname, statfs: statfs, links: links, now: time.Now}.report()
}

func (m machine) report() (Report, error) {
	info := deviceInfo{Time: m.now().UTC().Format(time.RFC3339)}
	var facts deviceInfo
	var errs []error
	for _, part := range []struct {
		text, fact *string
		read       func() (text, fact string, err error)
	}{
		{&info.Uname, &facts.Uname, func() (string, string, error) {
			text, err := m.uname()
			return text, text, err
		}},
		{&info.DF, &facts.DF, m.df},
		{&info.Free, &facts.Free, m.free},
		{&info.IPAddrs, &facts.IPAddrs, func() (string, string, error) {
			links, err := m.links()
			text, fact := addresses(links)
			return text, fact, err
		}},
		{&info.Uptime, new(string), func() (string, string, error) {
			up, err := m.read("uptime")
			if err != nil {
				return "", "", err
			}
			load, err := m.read("loadavg")
			if err != nil {
				return "", "", err
			}
			text, err := uptime(up, load)
			return text, "", err
		}},
	} {
		var err error
		if *part.text, *part.fact, err = part.read(); err != nil {
			errs = append(errs, err)
			*part.text = cut("cannot be read: "+err.Error(), 200)
			*part.fact = "cannot be read"
		}
	}
	if len(errs) == 5 {
		return Report{}, fmt.Errorf("device_info: %w", errors.Join(errs...))
	}
	return finish(info, facts)
}

// read returns a file of /proc.
func (m machine) read(name string) (string, error) {
	f, err := os.Open(filepath.Join(m.root, "proc", name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxProc))
	return string(text), err
}

// uname is as "uname -a" prints it.
func uname() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	var words []string
	for _, field := range [][]byte{u.Sysname[:], u.Nodename[:], u.Release[:], u.Version[:], u.Machine[:]} {
		words = append(words, unix.ByteSliceToString(field))
	}
	return cut(strings.Join(words, " ")+" GNU/Linux", 400), nil
}

// uptime makes "up 1 day, 2:03:04, load average: 0.43, 0.49, 1.68" of
// /proc/uptime and /proc/loadavg.
func uptime(up, load string) (string, error) {
	seconds, _, _ := strings.Cut(up, " ")
	s, err := strconv.ParseFloat(seconds, 64)
	loads := strings.Fields(load)
	if err != nil || s < 0 || s > 1e9 || len(loads) < 3 {
		return "", fmt.Errorf("/proc/uptime is %q, /proc/loadavg %q", cut(up, 40), cut(load, 40))
	}
	return cut(fmt.Sprintf("up %s, load average: %s", duration(time.Duration(s)*time.Second), strings.Join(loads[:3], ", ")), 200), nil
}

// free is as "free -k" prints it. The fact is the available memory in quarters of
// the total.
func (m machine) free() (text, fact string, err error) {
	meminfo, err := m.read("meminfo")
	if err != nil {
		return "", "", err
	}
	return free(meminfo)
}

func free(meminfo string) (text, fact string, err error) {
	kib := map[string]uint64{}
	for line := range strings.Lines(meminfo) {
		name, value, _ := strings.Cut(line, ":")
		if fields := strings.Fields(value); len(fields) > 0 {
			if n, err := strconv.ParseUint(fields[0], 10, 50); err == nil {
				kib[name] = n
			}
		}
	}
	total, unused := kib["MemTotal"], kib["MemFree"]
	if total == 0 {
		return "", "", errors.New("/proc/meminfo has no MemTotal")
	}
	cache := kib["Buffers"] + kib["Cached"] + kib["SReclaimable"]
	available, ok := kib["MemAvailable"]
	if !ok { // Linux before 3.14
		available = unused + cache
	}
	available = min(available, total)
	swap, swapFree := kib["SwapTotal"], min(kib["SwapFree"], kib["SwapTotal"])
	const row = "%-7s%12d%12d%12d"
	text = fmt.Sprintf("%-7s%12s%12s%12s%12s%12s%12s\n", "", "total", "used", "free", "shared", "buff/cache", "available") +
		fmt.Sprintf(row+"%12d%12d%12d\n", "Mem:", total, total-available, unused, kib["Shmem"], cache, available) +
		fmt.Sprintf(row+"\n", "Swap:", swap, swap-swapFree, swapFree)
	return text, fmt.Sprintf("%d KiB, %d/4 available", total, available*4/total), nil
}

// link is a network interface and its addresses, as 192.168.1.5/24.
type link struct {
	name      string
	up        bool
	addresses []string
}

// links returns those of the machine but the loopback.
func links() ([]link, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the network interfaces: %w", err)
	}
	var links []link
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		l := link{name: i.Name, up: i.Flags&(net.FlagUp|net.FlagRunning) == net.FlagUp|net.FlagRunning}
		addrs, err := i.Addrs() // it may be gone
		if err != nil {
			l.addresses = []string{err.Error()}
		}
		for _, a := range addrs {
			l.addresses = append(l.addresses, a.String())
		}
		links = append(links, l)
	}
	return links, nil
}

// addresses are as "ip -br addr" prints them. The facts are names and addresses.
func addresses(links []link) (text, fact string) {
	slices.SortFunc(links, func(a, b link) int { return strings.Compare(a.name, b.name) })
	var rows [][]string
	var facts strings.Builder
	for _, l := range links {
		slices.SortFunc(l.addresses, func(a, b string) int { // IPv4 first
			v6 := func(s string) string {
				if strings.Contains(s, ":") {
					return "6"
				}
				return "4"
			}
			return strings.Compare(v6(a)+a, v6(b)+b)
		})
		list := l.addresses
		if n := len(list) - maxPerLink; n > 0 {
			list = append(slices.Clone(list[:maxPerLink]), fmt.Sprintf("(and %d more)", n))
		}
		state := "DOWN"
		if l.up {
			state = "UP"
		}
		all := cut(strings.Join(list, " "), maxPerLink*50)
		rows = append(rows, []string{cut(l.name, 16), state, all})
		fmt.Fprintf(&facts, "%s %s\n", cut(l.name, 16), all)
	}
	return table(rows, "", maxAddresses), lines(facts.String(), maxAddresses)
}

// table lays out rows in columns: those in right are to the right, "<" and ">"
// by column. It ends after most bytes, as JSON counts them, with a note.
func table(rows [][]string, align string, most int) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			width := widths[i]
			switch {
			case i < len(align) && align[i] == '>':
				fmt.Fprintf(&line, "%*s ", width, cell)
			case i < len(row)-1:
				fmt.Fprintf(&line, "%-*s ", width, cell)
			default:
				line.WriteString(cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return lines(b.String(), most)
}

// lines returns as many lines of a text as have a place in most bytes, as JSON
// counts them, and a note of the rest.
func lines(text string, most int) string {
	left, end := most-len("... and 1000000 more lines\\n"), 0
	for line := range strings.Lines(text) {
		// Quotes, backslashes and the line's end are two bytes each.
		if left -= len(line) + strings.Count(line, `"`) + strings.Count(line, `\`) + 1; left < 0 {
			return text[:end] + fmt.Sprintf("... and %d more lines\n", strings.Count(text[end:], "\n"))
		}
		end += len(line)
	}
	return text
}
