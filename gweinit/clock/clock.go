// Package clock keeps the gateway's clock right.
//
// Many boards have no clock with a battery (RTC): their kernel starts in 1970,
// which breaks certificates, logs and schedules. Here the clock is never
// earlier than the build of the firmware or the last time that was stored in
// /data. It counts as set only by an RTC that has gone on meanwhile, or by NTP.
package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Sources of a clock that is set.
const (
	FromRTC = "rtc"
	FromNTP = "ntp"
)

// Options are what a Clock needs.
type Options struct {
	File  string    // /data/gwe/clock: it was modified at the stored time
	RTC   string    // /dev/rtc0
	Build time.Time // of the firmware
	Log   *slog.Logger
	// Set is called when the clock has been set: with FromRTC, if at all, by
	// Restore, and with FromNTP once by Run, which waits for it.
	Set func(source string)
}

// Clock is the gateway's clock. The zero value is of no use: see New.
type Clock struct {
	o      Options
	build  time.Time
	kernel kernel
	ask    func(server string, nth int, now func() time.Time) reply
	wake   chan struct{}

	disk sync.Mutex // one writer of the file and of the RTC

	mu     sync.Mutex
	floor  time.Time // earlier times are not stored
	list   []string  // of servers
	status Status
	polled time.Time // when status.Polled was, by the monotonic clock

	poller // belongs to the goroutine of Run
}

// Status says how the clock is.
type Status struct {
	Source  string        `json:"source"`           // what has set the clock; "" if nothing has
	Server  string        `json:"server,omitempty"` // that was believed last
	Stratum int           `json:"stratum,omitempty"`
	Offset  time.Duration `json:"offset_ns"`       // by which the clock was behind
	Polled  time.Time     `json:"polled,omitzero"` // when that was
	Error   string        `json:"error,omitempty"` // why the last poll had no result
}

// New returns a clock that has done nothing yet.
func New(o Options) *Clock {
	build := o.Build
	// Without a date, or with that of a reproducible build from 1980, the limits
	// would keep the right time out.
	if written := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); build.Before(written) {
		build = written
	}
	return &Clock{
		o: o, build: build, floor: build, kernel: linux{rtc: o.RTC}, ask: askServer,
		wake:   make(chan struct{}, 1),
		poller: newPoller(),
	}
}

// most is how long a firmware may be in use.
const most = 20 // years

// check says why a time cannot be right.
func (c *Clock) check(t time.Time) error {
	if t.Before(c.build) {
		return fmt.Errorf("%s is before the build of the firmware, %s", show(t), show(c.build))
	}
	if t.After(c.build.AddDate(most, 0, 0)) {
		return fmt.Errorf("%s is more than %d years after the build of the firmware, %s", show(t), most, show(c.build))
	}
	return nil
}

func show(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Floor sets the clock to the build of the firmware unless it shows a time that
// can be right. It needs nothing, so that it can be the first step of all.
func (c *Clock) Floor() error {
	if c.check(c.kernel.now()) == nil {
		return nil
	}
	return c.kernel.set(c.build)
}

// behind is how much earlier than the stored time an RTC may be that is
// believed.
const behind = 10 * time.Minute

// Restore sets the clock to what the RTC shows, but at least to the stored time.
// It comes after /data is mounted and the drivers are there, and before Run.
func (c *Clock) Restore() error {
	var errs []error
	floor := c.build
	stored, err := storedTime(c.o.File)
	if err == nil && !stored.IsZero() {
		if stored.After(floor) {
			err = c.check(stored)
		}
		if err != nil {
			err = fmt.Errorf("the time stored in %s is ignored: %w", c.o.File, err)
		} else if stored.After(floor) {
			floor = stored
		}
	}
	errs = append(errs, err)
	c.mu.Lock()
	c.floor = floor
	c.mu.Unlock()

	want := c.kernel.now()
	rtc, believed, err := c.readRTC(floor)
	errs = append(errs, err)
	// Where the kernel has set its clock by the RTC, another step gains nothing.
	step := believed && rtc.Sub(want).Abs() > time.Second
	if step {
		want = rtc
	}
	if want.Before(floor) || c.check(want) != nil {
		want, step = floor, true
	}
	if step {
		if err := c.kernel.set(want); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	if !believed {
		c.o.Log.Info("the clock is not set; it goes on from", "time", show(want))
	} else {
		c.announce(FromRTC)
	}
	return errors.Join(errs...)
}

// readRTC returns the time of the RTC, and whether to believe it: one without
// power starts again at a fixed date.
func (c *Clock) readRTC(floor time.Time) (t time.Time, believed bool, err error) {
	t, err = c.kernel.readRTC()
	switch {
	case noRTC(err):
		return t, false, nil
	case errors.Is(err, unix.EINVAL): // so says the driver
		c.o.Log.Warn("the RTC has lost its time; is its battery empty?", "rtc", c.o.RTC)
		return t, false, nil
	case err != nil:
		return t, false, err
	}
	if t.Before(floor.Add(-behind)) {
		c.o.Log.Warn("the RTC shows a time that has been; is its battery empty?", "rtc", c.o.RTC, "time", show(t), "stored", show(floor))
		return t, false, nil
	}
	if t.After(floor) {
		if err := c.check(t); err != nil {
			return t, false, fmt.Errorf("%s is ignored: %w", c.o.RTC, err)
		}
	}
	return t, true, nil
}

func noRTC(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// announce says that the clock is set.
func (c *Clock) announce(source string) {
	c.mu.Lock()
	c.status.Source = source
	c.mu.Unlock()
	c.o.Log.Info("the clock is set", "source", source, "time", show(c.kernel.now()))
	c.o.Set(source)
}

// Store stores the time in /data, and in the RTC if it is from NTP. It is for
// the shutdown; Run does it from time to time.
func (c *Clock) Store() error {
	err := c.storeFile()
	if c.Status().Source == FromNTP {
		err = errors.Join(err, c.writeRTC())
	}
	return err
}

func (c *Clock) storeFile() error {
	c.disk.Lock()
	defer c.disk.Unlock()
	c.mu.Lock()
	floor := c.floor
	c.mu.Unlock()
	now := c.kernel.now()
	if now.Before(floor) || c.check(now) != nil { // somebody has set it
		return fmt.Errorf("the clock shows a time that cannot be right; it is not stored in %s", c.o.File)
	}
	return storeTime(c.o.File, now)
}

// writeRTC sets the RTC. The kernel can do so every 11 minutes (NTP marks the
// clock as synchronized), but not every board's kernel is built that way, nor
// for every RTC, and both do no harm to each other.
func (c *Clock) writeRTC() error {
	c.disk.Lock()
	defer c.disk.Unlock()
	if err := c.kernel.writeRTC(c.kernel.now()); !noRTC(err) {
		return err
	}
	return nil
}

// Status returns how the clock is.
func (c *Clock) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	if !c.polled.IsZero() {
		// From the monotonic clock: the other may have been set by that poll.
		s.Polled = c.kernel.now().Add(-time.Since(c.polled)).Round(time.Second).UTC()
	}
	return s
}
