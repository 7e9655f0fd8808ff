package clock

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestFloor(t *testing.T) {
	for _, tt := range []struct {
		name  string
		shows string
		steps bool
	}{
		{"without an RTC", "1970-01-01T00:00:03Z", true},
		{"a second before the build", "2026-11-01T11:59:59Z", true},
		{"the kernel has read the RTC", "2027-03-01T00:00:00Z", false},
		{"an RTC gone wild", "2099-01-01T00:00:00Z", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t, at(tt.shows))
			if err := s.Floor(); err != nil {
				t.Fatal(err)
			}
			if (len(s.kernel.steps()) == 1 && s.kernel.steps()[0].Equal(build)) != tt.steps {
				t.Errorf("steps %v, want one: %v", s.kernel.steps(), tt.steps)
			}
			if got := s.Status().Source; got != "" || len(s.set) > 0 {
				t.Errorf("the clock counts as set by %q", got)
			}
		})
	}
	s := newSetup(t, at("1970-01-01T00:00:03Z"))
	s.kernel.noSet = unix.EPERM
	if err := s.Floor(); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want EPERM", err)
	}
}

// A build that has no date must not make the limits useless.
func TestNoBuild(t *testing.T) {
	for _, b := range []time.Time{{}, time.Unix(0, 0), at("1980-01-01T00:00:00Z")} {
		c := New(Options{Build: b})
		if err := c.check(at("2026-11-24T00:00:00Z")); err != nil {
			t.Errorf("build %v: %v", b, err)
		}
		if c.check(at("1999-01-01T00:00:00Z")) == nil || c.check(at("2050-01-01T00:00:00Z")) == nil {
			t.Errorf("build %v: no limits", b)
		}
	}
}

func TestRestore(t *testing.T) {
	const early = "1970-01-01T00:00:09Z"
	for _, tt := range []struct {
		name    string
		shows   string
		stored  string // "": missing, "folder", or a time
		rtc     string
		noRTC   error
		want    string // what the clock shows
		steps   int
		source  string
		err     string
		warning string
	}{
		{"first boot", "2026-11-01T12:00:05Z", "", "", unix.ENOENT, "2026-11-01T12:00:05Z", 0, "", "", ""},
		{"no Floor", early, "", "", unix.ENOENT, "2026-11-01T12:00:00Z", 1, "", "", ""},
		{"stored", "2026-11-01T12:00:05Z", "2027-01-01T00:00:00Z", "", unix.ENOENT, "2027-01-01T00:00:00Z", 1, "", "", ""},
		{"stored before an update", "2026-11-01T12:00:05Z", "2026-10-01T00:00:00Z", "", unix.ENODEV, "2026-11-01T12:00:05Z", 0, "", "", ""},
		{"stored in an absurd future", "2026-11-01T12:00:05Z", "2046-11-02T00:00:00Z", "", unix.ENXIO, "2026-11-01T12:00:05Z", 0, "", "20 years after the build", ""},
		{"a folder", "2026-11-01T12:00:05Z", "folder", "", unix.ENOENT, "2026-11-01T12:00:05Z", 0, "", "no regular file", ""},
		{"RTC", "2026-11-01T12:00:05Z", "2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z", nil, "2027-01-02T00:00:00Z", 1, FromRTC, "", ""},
		{"RTC, read by the kernel", "2027-01-02T00:00:00Z", "2027-01-01T00:00:00Z", "2027-01-02T00:00:01Z", nil, "2027-01-02T00:00:00Z", 0, FromRTC, "", ""},
		{"RTC, first boot", "2026-11-01T12:00:05Z", "", "2026-12-02T00:00:00Z", nil, "2026-12-02T00:00:00Z", 1, FromRTC, "", ""},
		{"RTC a bit behind", "2026-11-01T12:00:05Z", "2027-01-01T00:00:00Z", "2026-12-31T23:55:00Z", nil, "2027-01-01T00:00:00Z", 1, FromRTC, "", ""},
		{"RTC far behind", "2026-11-01T12:00:05Z", "2027-01-01T00:00:00Z", "2026-12-31T23:45:00Z", nil, "2027-01-01T00:00:00Z", 1, "", "", "time that has been"},
		{"RTC without power", early, "", "2000-01-01T00:00:00Z", nil, "2026-11-01T12:00:00Z", 1, "", "", "time that has been"},
		{"RTC in an absurd future", "2099-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2099-01-01T00:00:00Z", nil, "2027-01-01T00:00:00Z", 1, "", "20 years after the build", ""},
		{"RTC without a time", "2026-11-01T12:00:05Z", "2027-01-01T00:00:00Z", "", unix.EINVAL, "2027-01-01T00:00:00Z", 1, "", "", "lost its time"},
		{"RTC fails", "2026-11-01T12:00:05Z", "2027-01-01T00:00:00Z", "", unix.EIO, "2027-01-01T00:00:00Z", 1, "", "input/output error", ""},
		{"a stored time that is bad, and a good RTC", "2026-11-01T12:00:05Z", "folder", "2026-12-01T00:00:00Z", nil, "2026-12-01T00:00:00Z", 1, FromRTC, "no regular file", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetup(t, at(tt.shows))
			switch tt.stored {
			case "":
			case "folder":
				if err := os.Mkdir(s.o.File, 0o755); err != nil {
					t.Fatal(err)
				}
			default:
				if err := storeTime(s.o.File, at(tt.stored)); err != nil {
					t.Fatal(err)
				}
			}
			if s.kernel.noRTC = tt.noRTC; tt.rtc != "" {
				s.kernel.rtc = at(tt.rtc)
			}
			err := s.Restore()
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if d := s.kernel.now().Sub(at(tt.want)); d < 0 || d > time.Second {
				t.Errorf("the clock shows %v, want %v", s.kernel.now(), tt.want)
			}
			if len(s.kernel.steps()) != tt.steps {
				t.Errorf("steps %v, want %d", s.kernel.steps(), tt.steps)
			}
			want := []string(nil)
			if tt.source != "" {
				want = []string{tt.source}
			}
			if got := s.sources(); !slices.Equal(got, want) || s.Status().Source != tt.source {
				t.Errorf("set by %q, status %q, want %q", got, s.Status().Source, tt.source)
			}
			if warned := strings.Contains(s.log.String(), "level=WARN"); warned != (tt.warning != "") || !strings.Contains(s.log.String(), tt.warning) {
				t.Errorf("log %q, want a warning: %q", s.log, tt.warning)
			}
		})
	}
}

// A clock that could not be set does not count as set.
func TestRestoreFails(t *testing.T) {
	s := newSetup(t, build)
	s.kernel.rtc, s.kernel.noRTC, s.kernel.noSet = build.Add(day), nil, unix.EPERM
	if err := s.Restore(); !errors.Is(err, unix.EPERM) || s.Status().Source != "" || len(s.set) > 0 {
		t.Errorf("got %v, set by %q", err, s.Status().Source)
	}
}

func TestStore(t *testing.T) {
	s := newSetup(t, build.Add(time.Hour))
	if err := s.Restore(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a new file, and the same one
		if err := s.Store(); err != nil {
			t.Fatal(err)
		}
		got, err := storedTime(s.o.File)
		if d := s.kernel.now().Sub(got); err != nil || d < 0 || d > time.Second {
			t.Errorf("stored %v, %v, but the clock shows %v", got, err, s.kernel.now())
		}
		s.kernel.shows(build.Add(2 * time.Hour))
	}
	stored, _ := storedTime(s.o.File)
	for _, bad := range []time.Time{at("1999-01-01T00:00:00Z"), build.AddDate(21, 0, 0)} {
		s.kernel.shows(bad)
		if err := s.Store(); err == nil || !strings.Contains(err.Error(), s.o.File) {
			t.Errorf("at %v: error %v, want one that names the file", bad, err)
		}
	}
	if got, _ := storedTime(s.o.File); !got.Equal(stored) {
		t.Errorf("stored %v instead of %v", got, stored)
	}
	if len(s.kernel.writes()) > 0 {
		t.Error("the RTC was written without NTP")
	}
}

func TestStoreTimeFails(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link, filepath.Join(dir, "missing", "clock"), "/dev/null"} {
		if err := storeTime(path, build); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that names it", path, err)
		}
	}
	if info, err := os.Stat(target); err != nil || info.ModTime().Equal(build) {
		t.Errorf("the target of the link: %v, %v", info, err)
	}
}

// A /data that became read-only is reported once, and again when it works.
func TestStoreReadOnly(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		runtime.LockOSThread() // and never unlock: the thread has mounts of its own
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Skip("needs root: ", err)
		}
		remount := func(flags uintptr) {
			if err := unix.Mount("clock", dir, "tmpfs", flags, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		remount(0)
		s := newSetup(t, build.Add(time.Hour))
		s.o.File = filepath.Join(dir, "clock")
		if err := s.Store(); err != nil {
			t.Fatal(err)
		}
		run := func(d time.Duration) {
			ctx, cancel := contextFor(d)
			defer cancel()
			s.Run(ctx)
		}
		remount(unix.MS_REMOUNT | unix.MS_RDONLY)
		run(time.Hour + time.Minute)
		if got := s.log.count("level=ERROR"); got != 1 || s.log.count("read-only file system") != 1 {
			t.Errorf("%d errors in an hour, want 1:\n%s", got, s.log)
		}
		remount(unix.MS_REMOUNT)
		run(11 * time.Minute)
		if s.log.count("works again") != 1 {
			t.Errorf("log:\n%s", s.log)
		}
		if got, err := storedTime(s.o.File); err != nil || got.Before(build.Add(2*time.Hour)) {
			t.Errorf("stored %v, %v", got, err)
		}
	})
}

func TestPut(t *testing.T) {
	var narrow int32
	var wide int64
	for _, tt := range []struct {
		n    int64
		fits bool // into 32 bits
	}{
		{0, true},
		{-500_000_000, true},
		{at("2038-01-19T03:14:07Z").Unix(), true},
		{at("2038-01-19T03:14:08Z").Unix(), false},
		{math.MaxInt32 + 1<<32, false}, // would come back as something that looks right
		{math.MinInt64, false},
	} {
		err := put(&narrow, tt.n)
		if (err == nil) != tt.fits || err == nil && int64(narrow) != tt.n || err != nil && !errors.Is(err, unix.EOVERFLOW) {
			t.Errorf("32 bits: %d is %d, %v", tt.n, narrow, err)
		}
		if err := put(&wide, tt.n); err != nil || wide != tt.n {
			t.Errorf("64 bits: %d is %d, %v", tt.n, wide, err)
		}
	}
}

func TestTimespec(t *testing.T) {
	for _, tt := range []time.Time{at("2026-11-24T23:15:00.123456789Z"), at("2038-01-19T03:14:07.999999999Z")} {
		ts, err := timespec(tt)
		if err != nil || int64(ts.Sec) != tt.Unix() || int(ts.Nsec) != tt.Nanosecond() {
			t.Errorf("%v is %v, %v", tt, ts, err)
		}
	}
}

func TestTimex(t *testing.T) {
	for _, tt := range []struct {
		slew
		large, small, maxError, estError, constant int64
	}{
		{slew{interval: 64 * time.Second}, 0, 0, 0, 0, 2},
		{slew{small: -499 * time.Millisecond, maxError: time.Second, interval: 2048 * time.Second}, 0, -499e6, 1e6, 499e3, 7},
		{slew{large: 10 * time.Second, maxError: 12 * time.Second, interval: 128 * time.Second}, 1e7, 0, 12e6, 1e7, 3},
		{slew{interval: time.Second}, 0, 0, 0, 0, 0},
	} {
		large, small, err := tt.timex()
		if err != nil || large.Modes != 0x8001 || small.Modes != 0x203d || small.Status != 1 || large.Status != 0 {
			t.Errorf("%+v: %+v %+v %v", tt.slew, large, small, err)
		}
		got := []int64{int64(large.Offset), int64(small.Offset), int64(small.Maxerror), int64(small.Esterror), int64(small.Constant)}
		if want := []int64{tt.large, tt.small, tt.maxError, tt.estError, tt.constant}; !slices.Equal(got, want) {
			t.Errorf("%+v: got %v, want %v", tt.slew, got, want)
		}
	}
}

func TestRTC(t *testing.T) {
	r := toRTC(at("2028-02-29T23:59:58.7+05:00"))
	want := unix.RTCTime{Sec: 59, Min: 59, Hour: 18, Mday: 29, Mon: 1, Year: 128, Wday: 2, Yday: 59}
	if *r != want {
		t.Errorf("got %+v, want %+v", *r, want)
	}
	if got := fromRTC(r); !got.Equal(at("2028-02-29T18:59:59.5Z")) {
		t.Errorf("got %v", got)
	}
	// _IOR('p', 9, 36 bytes) and _IOW('p', 10, 36 bytes): MIPS has other bits for
	// the direction (arch/mips/include/uapi/asm/ioctl.h).
	read, write := uint32(2), uint32(1)
	shift := 30
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		read, write, shift = 2, 4, 29
	}
	if got := uint32(unix.RTC_RD_TIME); got != read<<shift|36<<16|'p'<<8|9 {
		t.Errorf("RTC_RD_TIME is %#x", got)
	}
	if got := uint32(unix.RTC_SET_TIME); got != write<<shift|36<<16|'p'<<8|10 {
		t.Errorf("RTC_SET_TIME is %#x", got)
	}
	k := linux{rtc: filepath.Join(t.TempDir(), "rtc0")}
	if _, err := k.readRTC(); !noRTC(err) {
		t.Errorf("read: %v", err)
	}
	if err := k.writeRTC(build); !noRTC(err) {
		t.Errorf("write: %v", err)
	}
}

func TestStatusJSON(t *testing.T) {
	s := newSetup(t, build)
	text, err := json.Marshal(s.Status())
	if want := `{"source":"","offset_ns":0}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v, want %s", text, err, want)
	}
}
