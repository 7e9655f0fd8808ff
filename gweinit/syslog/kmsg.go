package syslog

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kmsgRecord is a record of /dev/kmsg.
type kmsgRecord struct {
	priority int
	number   uint64
	at       time.Duration // since the machine has started
	text     string
}

// parseKmsg parses "PRIORITY,NUMBER,MICROSECONDS,FLAGS[,...];TEXT\n", then
// lines of KEY=VALUE about the device. See Documentation/ABI/testing/dev-kmsg.
func parseKmsg(b []byte) (kmsgRecord, error) {
	head, text, ok := strings.Cut(string(b), ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return kmsgRecord{}, fmt.Errorf("%q does not begin with PRIORITY,NUMBER,MICROSECONDS;", b[:min(len(b), 80)])
	}
	priority, err := strconv.ParseUint(fields[0], 10, 31)
	number, err2 := strconv.ParseUint(fields[1], 10, 64)
	micros, err3 := strconv.ParseUint(fields[2], 10, 64)
	if err := errors.Join(err, err2, err3); err != nil {
		return kmsgRecord{}, err
	}
	text, _, _ = strings.Cut(text, "\n")
	return kmsgRecord{
		priority: int(priority),
		number:   number,
		at:       time.Duration(min(micros, math.MaxInt64/1000)) * time.Microsecond,
		text:     strings.TrimRight(unescape(text), "\n\r\x00 "),
	}, nil
}

// unescape replaces \xNN, as which the kernel gives what isn't printable ASCII.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], `\x`) && len(s) >= i+4 {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b = append(b, byte(c))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// line returns the text of a record as it is written, and whose it is.
func (r kmsgRecord) line() (text string, from source, name string) {
	text = clean(r.text)
	if r.priority>>3 == 0 { // the kernel does not let others have this facility
		return "kernel: " + text, kernel, kernel.name
	}
	// A program writes its name itself, as PID 1 does.
	text = strings.TrimLeft(text, " \t")
	if rest, ok := strings.CutPrefix(text, kernel.name); ok && strings.IndexAny(rest, ":[") == 0 {
		text = "kernel[?]" + rest
	}
	name, _, _ = cutName(text)
	if name = cleanName(name); name == "" {
		name = "unknown"
	}
	return text, source{kmsg: true, name: name}, name
}

// kmsg reads the kernel's log.
type kmsg struct {
	packets
	next  *uint64       // number of the first record that was not read
	drift time.Duration // how far the kernel's clock for records is behind
}

func openKmsg(path string, next *uint64) (*kmsg, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	p, err := newPackets(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &kmsg{packets: p, next: next}, nil
}

func (k *kmsg) run(take func(record)) error {
	buf := make([]byte, 8<<10) // the kernel's records are not larger
	for {
		var n int
		waited, err := k.packets.next(func(fd int) (err error) {
			n, err = unix.Read(fd, buf)
			return err
		})
		switch {
		case err == errStopped:
			return nil
		case err == syscall.EPIPE:
			continue // records were overwritten; the number of the next tells how many
		case err == nil && n == 0:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", k.file.Name(), err)
		}
		k.take(buf[:n], waited, monotonic(), take)
	}
}

// take takes a record that was read at now, since the machine has started.
func (k *kmsg) take(b []byte, waited bool, now time.Duration, take func(record)) {
	r, err := parseKmsg(b)
	if err != nil {
		note := own(priWarn, "record of the kernel's log: %s", clean(err.Error()))
		note.from, note.name = kernel, kernel.name
		take(note)
		return
	}
	if r.number < *k.next {
		return // read before an error
	}
	if lost := r.number - *k.next; lost > 0 {
		note := own(priWarn, "%d kernel lines lost", lost)
		note.from, note.name = kernel, kernel.name
		take(note)
	}
	*k.next = r.number + 1
	line := record{time: time.Now().Add(-k.age(r.at, now, waited)), priority: r.priority}
	line.text, line.from, line.name = r.line()
	take(line)
}

// age is how long ago a record was made. The clock of the kernel's log is not
// corrected by NTP as the other is, and after weeks they differ by minutes. But
// a record that was waited for is new.
func (k *kmsg) age(at, now time.Duration, waited bool) time.Duration {
	if waited {
		k.drift = now - at
	}
	return max(now-at-k.drift, 0)
}

// monotonic is the time since the machine has started.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // it does not fail; lines would have the time of now
	}
	return time.Duration(ts.Nano())
}
