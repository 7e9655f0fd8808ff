package supervisord

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestReadOnly(t *testing.T) {
	const maps = `00400000-00401000 r--p 00000000 fd:00 1 /usr/bin/gweinit
00401000-00500000 r-xp 00001000 fd:00 1 /usr/bin/gweinit
00500000-00510000 rw-p 00100000 fd:00 1 /usr/bin/gweinit
00510000-00520000 rw-p 00000000 00:00 0
00600000-00700000 r-xp 00000000 fd:00 2 /usr/lib/libc.so.6
00700000-00800000 r--s 00000000 fd:00 1 /usr/bin/gweinit
garbage
7ffe0000-7fff0000 r-xp 00000000 00:00 0 [vdso]
`
	want := []mapping{{0x400000, 0x401000}, {0x401000, 0x500000}}
	if got := readOnly([]byte(maps), "/usr/bin/gweinit"); !reflect.DeepEqual(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// The program goes on, with less memory.
func TestRelease(t *testing.T) {
	before := resident(t)
	if err := releaseMemory(); err != nil {
		t.Fatal(err)
	}
	after := resident(t)
	if after >= before {
		t.Errorf("%d kB of files were resident, now %d kB", before, after)
	}
}

func resident(t *testing.T) (kb int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	for _, c := range strings.Fields(rest)[0] {
		kb = 10*kb + int(c-'0')
	}
	return kb
}
