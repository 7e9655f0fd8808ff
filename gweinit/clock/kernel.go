package clock

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// kernel is the clock of the kernel, and the RTC. The tests have their own.
type kernel interface {
	now() time.Time        // without the reading of the monotonic clock
	set(t time.Time) error // a step
	slew(s slew) error
	readRTC() (time.Time, error)
	writeRTC(t time.Time) error
}

// slew has the kernel make its clock right little by little. What is left of
// the one before is forgotten. The clock counts as synchronized, until the
// kernel finds after hours without another one that it may be 16 s wrong.
type slew struct {
	small    time.Duration // offset up to 0.5 s, from which the kernel also learns how fast its clock is
	large    time.Duration // the same, but at 0.5 ms per second, and there is nothing to learn
	maxError time.Duration
	interval time.Duration // until the next one
}

// From include/uapi/linux/timex.h, the same on all architectures.
const (
	adjOffset     = 0x0001
	adjMaxError   = 0x0004
	adjEstError   = 0x0008
	adjStatus     = 0x0010
	adjTimeConst  = 0x0020
	adjNano       = 0x2000
	adjSingleshot = 0x8001

	staPLL    = 0x0001
	staUnsync = 0x0040
)

// linux is the real kernel.
type linux struct {
	rtc string
}

func (linux) now() time.Time { return time.Now().Round(0) }

func (linux) set(t time.Time) error {
	ts, err := timespec(t)
	if err == nil {
		err = unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	}
	if err != nil {
		return fmt.Errorf("set the clock to %s: %w", show(t), err)
	}
	// The kernel's loop must start anew: it counts the seconds since the last
	// offset by this clock, and takes a step back for a negative time, which
	// turns what it learns around.
	if _, err := unix.Adjtimex(&unix.Timex{Modes: adjStatus, Status: staUnsync}); err != nil {
		return fmt.Errorf("adjtimex: start anew: %w", err)
	}
	return nil
}

func (linux) slew(s slew) error {
	large, small, err := s.timex()
	if err != nil {
		return err
	}
	if _, err := unix.Adjtimex(&large); err != nil {
		return fmt.Errorf("adjtimex: adjust by %v: %w", s.large, err)
	}
	if _, err := unix.Adjtimex(&small); err != nil {
		return fmt.Errorf("adjtimex: offset %v: %w", s.small, err)
	}
	return nil
}

// timex returns both calls. The kernel applies their offsets independently of
// each other, so each call also cancels what is left of the other kind.
func (s slew) timex() (large, small unix.Timex, err error) {
	large.Modes = adjSingleshot
	small.Modes = adjOffset | adjMaxError | adjEstError | adjStatus | adjTimeConst | adjNano
	small.Status = staPLL
	// Like systemd-timesyncd: an offset is gone by the next poll, and half of the
	// error in frequency. The constants of ntpd and busybox are for intervals
	// that double only after hours; with ours they take days to learn.
	constant := max(0, bits.Len64(uint64(s.interval/time.Second))-1-4)
	err = errors.Join(
		put(&large.Offset, s.large.Microseconds()),
		put(&small.Offset, s.small.Nanoseconds()),
		put(&small.Maxerror, s.maxError.Microseconds()),
		put(&small.Esterror, (s.small+s.large).Abs().Microseconds()),
		put(&small.Constant, int64(constant)),
	)
	return large, small, err
}

func (k linux) readRTC() (time.Time, error) {
	f, err := os.Open(k.rtc)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	r, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		return time.Time{}, fmt.Errorf("read the time of %s: %w", k.rtc, err)
	}
	return fromRTC(r), nil
}

func (k linux) writeRTC(t time.Time) error {
	f, err := os.Open(k.rtc)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetRTCTime(int(f.Fd()), toRTC(t)); err != nil {
		return fmt.Errorf("set %s to %s: %w", k.rtc, show(t), err)
	}
	return nil
}

// fromRTC returns the middle of the second that an RTC shows, in UTC.
func fromRTC(r *unix.RTCTime) time.Time {
	return time.Date(int(r.Year)+1900, time.Month(r.Mon+1), int(r.Mday), int(r.Hour), int(r.Min), int(r.Sec), 5e8, time.UTC)
}

func toRTC(t time.Time) *unix.RTCTime {
	t = t.UTC().Round(time.Second)
	return &unix.RTCTime{
		Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()),
		Mday: int32(t.Day()), Mon: int32(t.Month()) - 1, Year: int32(t.Year()) - 1900,
		Wday: int32(t.Weekday()), Yday: int32(t.YearDay()) - 1,
	}
}

func timespec(t time.Time) (ts unix.Timespec, err error) {
	return ts, errors.Join(put(&ts.Sec, t.Unix()), put(&ts.Nsec, int64(t.Nanosecond())))
}

// put stores a number in a field of a system call, which has 32 bits on some
// boards: there, 2038-01-19 is the last day of the seconds since 1970.
func put[T int32 | int64](field *T, n int64) error {
	*field = T(n)
	if int64(*field) != n {
		return fmt.Errorf("%d does not fit into the 32 bits of this board's system calls: %w", n, unix.EOVERFLOW)
	}
	return nil
}
