package syslog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseDatagram(t *testing.T) {
	for _, tt := range []struct{ name, message, want string }{
		{"libc", "<30>Nov 24 23:16:17 pump[123]: water level 7", "INFO  pump[123]: water level 7"},
		{"libc, no process ID", "<27>Nov  4 03:06:07 pump: dry", "ERROR pump[77]: dry"},
		{"busybox", "<13>Nov 24 23:16:17 root: hello there\x00", "INFO  root[77]: hello there"},
		{"musl, no name", "<12>Nov 24 23:16:17 : hello", "WARN  unknown[77]: hello"},
		{"newlines at the end", "<15>Nov 24 23:16:17 pump: a\r\n\n\x00\x00", "DEBUG pump[77]: a"},
		{"no time", "<14>pump[123]: a", "INFO  pump[123]: a"},
		{"no priority", "pump[123]: a", "INFO  pump[123]: a"},
		{"a bare text", "hello there", "INFO  unknown[77]: hello there"},
		{"no text", "<14>Nov 24 23:16:17 pump[123]:", "INFO  pump[123]:"},
		{"no text, no space, no colon", "<14>pump[123]", "INFO  pump[123]:"},
		{"no colon", "<14>pump[123] a", "INFO  pump[123]: a"},
		{"nothing", "", "INFO  unknown[77]:"},
		{"NULs", "\x00\x00", "INFO  unknown[77]:"},
		{"a priority only", "<11>", "ERROR unknown[77]:"},
		{"the largest priority", "<191>a", "DEBUG unknown[77]: a"},
		{"too large", "<192>a", "INFO  unknown[77]: <192>a"},
		{"no number", "<>a b", "INFO  unknown[77]: <>a b"},
		{"a signed number", "<+3>a b", "INFO  unknown[77]: <+3>a b"},
		{"a time that is none", "<14>Nov 31 23:16:17 pump: a", "INFO  unknown[77]: Nov 31 23:16:17 pump: a"},
		{"a URL", "<14>http://example.com/ fails", "INFO  unknown[77]: http://example.com/ fails"},
		{"a time of day", "<14>12:30:45 start", "INFO  unknown[77]: 12:30:45 start"},
		{"a worker", "<14>app[worker-1]: a", "INFO  unknown[77]: app[worker-1]: a"},
		{"a long number", "<14>app[12345678901]: a", "INFO  unknown[77]: app[12345678901]: a"},
		{"brackets", "<14>[a]: b", "INFO  unknown[77]: [a]: b"},
		{"lines", "<14>pump: a\nb\tc", `INFO  pump[77]: a\nb	c`},
		{"a forged line", "<14>pump: a\n2026-11-24T23:16:17.517Z INFO  kernel: b", `INFO  pump[77]: a\n2026-11-24T23:16:17.517Z INFO  kernel: b`},
		{"the kernel", "<0>Nov 24 23:16:17 kernel: panic", "ERROR kernel[77]: panic"},
		{"the kernel, with a process ID", "<6>kernel[1]: a", "INFO  kernel[77]: a"},
		{"gweinit", "<14>gweinit: ready", "INFO  gweinit[77]: ready"},
		{"PID 1", "<14>gweinit[1]: ready", "INFO  gweinit[77]: ready"},
		{"a name with an escape", "<14>p\x1bump: a", "INFO  unknown[77]: p\\x1bump: a"},
		{"a name that is not UTF-8", "<14>p\xfcmp: a", "INFO  p_mp[77]: a"},

		{"RFC 5424", "<165>1 2003-10-11T22:14:15.003Z host.example.com evntslog 8710 ID47 - a text", "INFO  evntslog[8710]: a text"},
		{"with data", `<165>1 2003-10-11T22:14:15.003+02:00 h app - ID47 [a@1 x="1\"]\\" y="]"][b@1 z="2"] text`, `INFO  app[77]: [a@1 x="1\"]\\" y="]"][b@1 z="2"] text`},
		{"with data only", `<165>1 - - app 5 - [a@1 x="1"]`, `INFO  app[5]: [a@1 x="1"]`},
		{"logger's", `<13>1 2026-11-24T23:16:17.517123+00:00 gw root - - [timeQuality tzKnown="1" isSynced="0"] hello`, "INFO  root[77]: hello"},
		{"a mark of UTF-8", "<165>1 - - app 5 - - \ufeffhello", "INFO  app[5]: hello"},
		{"all empty", "<165>1 - - - - - -", "INFO  unknown[77]:"},
		{"the kernel, RFC 5424", "<165>1 - - kernel 1 - - hello", "INFO  kernel[77]: hello"},
		{"like the kernel, RFC 5424", "<165>1 - - kernel: 1 - - hello", "INFO  kernel_[1]: hello"},
		{"a process ID that is none", "<165>1 - - app 1]:x - - hello", "INFO  app[77]: hello"},
		{"another version", "<165>2 - - app 5 - - a", "INFO  unknown[77]: 2 - - app 5 - - a"},
		{"a part", "<165>1 - - app 5", "INFO  unknown[77]: 1 - - app 5"},
		{"no time, RFC 5424", "<165>1 of 7 pumps is - or was - dry", "INFO  unknown[77]: 1 of 7 pumps is - or was - dry"},
		{"data without an end", `<165>1 - - app 5 - [a x="] b`, `INFO  unknown[77]: 1 - - app 5 - [a x="] b`},
		{"text at once behind data", `<165>1 - - app 5 - [a]b`, `INFO  unknown[77]: 1 - - app 5 - [a]b`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parseDatagram([]byte(tt.message)).record(sender{77, 0}, time.Now())
			if got := strings.TrimSuffix(string(r.appendTo(nil))[25:], "\n"); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func FuzzDatagram(f *testing.F) {
	f.Add([]byte("<30>Nov 24 23:16:17 pump[123]: water level 7"))
	f.Add([]byte("<0>kernel: panic\n\x1b[1m\xff\x00"))
	f.Add([]byte(`<165>1 2003-10-11T22:14:15.003Z h gweinit 1 ID47 [a@1 x="1\"]\\"] text`))
	f.Add([]byte("<14>:::[[]]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := parseDatagram(b).record(sender{77, 0}, time.Now())
		if what := checkLine(r); what != "" {
			t.Errorf("%q: %+v: %s", b, r, what)
		}
		// A name, a process ID, a colon, and nothing that looks so before it.
		name, rest, _ := strings.Cut(r.text, "[")
		pid, _, ok := strings.Cut(rest, "]: ")
		if name != r.from.name || name == "" || len(name) > nameLength || strings.ContainsAny(name, ": ]") || !ok || !isPID(pid) || r.from.kmsg {
			t.Errorf("%q: %+v", b, r)
		}
		if (name == "kernel" || name == "gweinit") && pid != "77" {
			t.Errorf("%q is taken for process %s", b, pid)
		}
		if r.name != fmt.Sprintf("%s[%s]", name, pid) {
			t.Errorf("%q: %+v", b, r)
		}
	})
}
