package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/clock"
	"github.com/exosite/gwe/gweinit/durable"
)

// clockSet is there once the time is right, and says by what: programs wait for
// it.
const clockSet = "/run/clock-set"

// startClock lets no program see a time before this firmware was built.
func startClock(s *system) error {
	build := time.Time{}
	info, err := os.Stat("/etc/os-release") // the builder gives all files one time
	if err == nil {
		build = info.ModTime()
	}
	s.clock = clock.New(clock.Options{
		File:  filepath.Join(gatewayFolder, "clock"),
		Build: build,
		RTC:   "/dev/rtc0",
		Log:   logger,
		Set: func(source string) {
			if err := durable.WriteFile(clockSet, []byte(source+"\n"), 0o644); err != nil {
				logError("clock: %v", err)
			}
		},
	})
	return errors.Join(err, s.clock.Floor())
}

// keepClock sets the clock by what is here, and from then on by the network.
func keepClock(s *system) error {
	err := s.clock.Restore()
	s.clockKept.Store(true)
	s.background("clock", s.clock.Run)
	return err
}

// storeClock is for the next boot.
func storeClock(s *system) error {
	if s.clock == nil || !s.clockKept.Load() { // a reboot in the middle of the boot
		return nil
	}
	return s.clock.Store()
}

const zones = "/usr/share/zoneinfo"

// setTimezone links /run/localtime, which /etc/localtime is a link to.
func setTimezone(s *system) error {
	zone := "Etc/UTC"
	text, err := os.ReadFile(filepath.Join(gatewayFolder, "timezone"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if given := strings.TrimSpace(string(text)); given != "" {
		// The name is from provision.yaml, or by hand.
		if loc, err2 := time.LoadLocation(given); err2 != nil || given == "Local" {
			err = errors.Join(err, errors.New("time zone "+given+" is not known here; it is UTC"))
		} else {
			zone = given
			s.zone = loc
		}
	}
	const link = "/run/localtime"
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(err, os.Symlink(filepath.Join(zones, zone), link))
}
