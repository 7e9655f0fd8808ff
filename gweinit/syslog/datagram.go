package syslog

import (
	"strconv"
	"strings"
	"time"
)

// datagram is a message that was sent to /dev/log.
type datagram struct {
	priority int
	name     string // of the program; may be empty
	pid      string // digits; may be empty
	text     string
}

// parseDatagram parses what libc sends, "<PRI>Mmm dd hh:mm:ss NAME[PID]: TEXT",
// any part of which may be missing, and RFC 5424. All else is text.
func parseDatagram(b []byte) datagram {
	d := datagram{priority: 1<<3 | priNotice} // of a user
	s := strings.TrimRight(string(b), "\x00\r\n ")
	if pri, rest, ok := strings.Cut(s, ">"); ok && len(pri) <= 4 && strings.HasPrefix(pri, "<") {
		if n, err := strconv.ParseUint(pri[1:], 10, 8); err == nil && n < 24<<3 {
			d.priority, s = int(n), rest
		}
	}
	if d.parse5424(s) {
		return d
	}
	// The sender's clock is ours.
	const stamp = len(time.Stamp)
	if len(s) >= stamp {
		if _, err := time.Parse(time.Stamp, s[:stamp]); err == nil {
			s = strings.TrimLeft(s[stamp:], " ")
		}
	}
	d.name, d.pid, d.text = cutName(s)
	return d
}

// parse5424 parses "1 TIME HOST APP PROCID MSGID SD TEXT" of RFC 5424. The ID
// of the message is left out.
func (d *datagram) parse5424(s string) bool {
	f := strings.SplitN(s, " ", 7)
	if len(f) < 7 || f[0] != "1" {
		return false
	}
	if _, err := time.Parse(time.RFC3339, f[1]); err != nil && f[1] != "-" {
		return false
	}
	data, text, ok := cutData(f[6])
	if !ok {
		return false
	}
	if f[3] != "-" {
		d.name = f[3]
	}
	if isPID(f[4]) {
		d.pid = f[4]
	}
	text = strings.TrimPrefix(text, "\ufeff")
	d.text = strings.TrimSpace(data + " " + text)
	return true
}

// cutData cuts the structured data, "-" or elements [ID NAME="VALUE" ...], from
// the text. That about the sender's clock, which util-linux's logger adds, is
// left out.
func cutData(s string) (data, text string, ok bool) {
	if rest, none := strings.CutPrefix(s, "-"); none {
		text, ok = strings.CutPrefix(rest, " ")
		return "", text, ok || rest == ""
	}
	for strings.HasPrefix(s, "[") {
		quoted, end := false, 0
		for i := 1; i < len(s) && end == 0; i++ {
			switch c := s[i]; {
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case !quoted && c == ']':
				end = i + 1
			}
		}
		if end == 0 {
			return "", "", false
		}
		if !strings.HasPrefix(s, "[timeQuality ") {
			data += s[:end]
		}
		s, ok = s[end:], true
	}
	if s == "" {
		return data, "", ok
	}
	text, space := strings.CutPrefix(s, " ")
	return data, text, ok && space
}

// sender is who has sent a datagram, as the kernel says. It is 0 for a process
// of another namespace.
type sender struct {
	pid int
	uid uint32
}

// record returns a datagram as a line.
func (d datagram) record(by sender, now time.Time) record {
	name, pid := cleanName(d.name), d.pid
	if name == "" {
		name = "unknown"
	}
	// A process ID that is not the sender's is that of its parent, usually; but
	// nobody is the kernel, or PID 1, who is not.
	if pid == "" || name == kernel.name || name == gweinit.name {
		pid = strconv.Itoa(by.pid)
	}
	full := name + "[" + pid + "]"
	return record{
		time: now, priority: d.priority,
		text: full + ": " + clean(d.text),
		from: source{uid: by.uid, name: name}, name: full,
	}
}
