package firmware

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/update"
)

const (
	// clockPatience is how long a window waits for the clock to be set.
	clockPatience = 24 * time.Hour
	// rebootAgain is after how long a reboot that has not come is asked for again.
	rebootAgain = 5 * time.Minute
	// impatient is how often PID 1 is asked every second.
	impatient = 60
)

// Installer installs firmware that the cloud has ordered; see command.Installer.
//
// What counts is the signature in the bundle. A SHA-256 of the whole file in the
// command is refused: to check it, all of the file would have to be fetched, each
// time, also what the gateway has.
type Installer struct {
	Gateway
	// Source is where the content of this name comes from.
	Source func(name string) (Source, error)
	// Settings are how long a trial may take, and when the gateway may reboot for
	// it: a gateway.Window.
	Settings func() (limit time.Duration, window string)
}

// Takes says whether it is firmware. Whether it is for this gateway the bundle says.
func (i *Installer) Takes(item command.Item) bool {
	return item.Do == command.Install && strings.HasSuffix(item.Name, ".fw")
}

// Install returns when the trial has ended. As that goes over reboots, it mostly is
// called several times.
func (i *Installer) Install(ctx context.Context, job command.Job) (output string, err error) {
	if len(job.Items) != 1 {
		return "", fmt.Errorf("%d firmwares in one command: one at a time", len(job.Items))
	}
	item := job.Items[0]
	st, err := i.Host.Firmware(ctx)
	if err != nil {
		return "", command.Later(err)
	}
	switch u := st.Update; {
	case u == nil:
	case u.ID == job.ID && u.State != update.Writing && !unordered(st):
		return i.follow(ctx, job.ID)
	case u.ID != job.ID && u.State == update.Trial:
		return "", command.Later(onTrial(u))
	}
	if item.SHA256 != "" {
		return "", fmt.Errorf("%s: firmware is checked by the signature in it: leave out sha256", item.Name)
	}
	source, err := i.Source(item.Name)
	if err != nil {
		return "", err
	}
	tell := &progress{name: item.Name, tell: job.Tell}
	w := &writer{Gateway: i.Gateway, ID: job.ID, Source: source, Progress: tell.at}
	if err := w.write(ctx); errors.Is(err, errRunning) {
		return fmt.Sprintf("firmware %s is running already", w.bundle.Version), nil
	} else if err != nil {
		return "", err
	}
	if err := i.awaitWindow(ctx, tell); err != nil {
		return "", err
	}
	limit, window := i.Settings()
	if err := i.Host.Activate(ctx, job.ID, limit, window); err != nil {
		return "", command.Later(err)
	}
	tell.say("verified, rebooting")
	return i.follow(ctx, job.ID)
}

func onTrial(u *update.Update) error {
	return fmt.Errorf("the firmware %s is on trial, of command %s: wait for its end", u.Version, u.ID)
}

// follow waits for the end of a trial, and says how it was.
func (i *Installer) follow(ctx context.Context, id string) (output string, err error) {
	var asked time.Time
	for n := 0; ; n++ {
		st, err := i.Host.Firmware(ctx)
		if err != nil {
			return "", command.Later(err)
		}
		u := st.Update
		switch {
		case u == nil || u.ID == "": // PID 1 makes a new one of the boot state, which has no IDs
			return "", errors.New("what became of the firmware is not known: PID 1's record of it is lost")
		case u.ID != id:
			return "", errors.New("another firmware was installed before this one was confirmed")
		case u.State == update.Confirmed,
			u.State == update.Trial && st.Slots != nil && st.Slots.Good == u.Slot: // which could not be noted
			return fmt.Sprintf("firmware %s confirmed in slot %s", u.Version, u.Slot), nil
		case u.State == update.Rejected:
			return u.Log, fmt.Errorf("firmware %s was rejected (%s): %s", u.Version, u.Cause, u.Reason)
		case u.State == update.Writing:
			return "", command.Later(fmt.Errorf("slot %s has to be written once more", u.Slot))
		case unordered(st):
			return "", command.Later(fmt.Errorf("slot %s was not put on trial, though it was to be: it has to be activated once more", u.Slot))
		case u.State != update.Trial && u.State != update.Postponed:
			return "", command.Later(fmt.Errorf("PID 1 says that firmware %s is %q, which this Gateway Engine does not know: it is older than PID 1", u.Version, u.State))
		}
		if pending(st) && (asked.IsZero() || time.Since(asked) >= rebootAgain) {
			asked = time.Now()
			if err := i.Host.Reboot(ctx); err != nil {
				return "", command.Later(fmt.Errorf("reboot into the trial: %w", err))
			}
		}
		pause := time.Second
		if n >= impatient {
			pause = 10 * time.Second
		}
		if err := sleep(ctx, pause); err != nil {
			return "", err
		}
	}
}

// pending says whether the next boot is one of the trial, and this is not.
func pending(st update.Status) bool {
	u := st.Update
	return u.State == update.Trial && st.Slot != u.Slot && st.Slots != nil && st.Slots.Trial == u.Slot && st.Slots.TrialLeft > 0
}

// unordered says whether PID 1's record is ahead of the boot state: it says that the
// slot is to be tried, and then the boot state could not be written. No boot will
// try it.
func unordered(st update.Status) bool {
	u, s := st.Update, st.Slots
	return u.State == update.Trial && s != nil && s.Trial != u.Slot && s.Good != u.Slot && st.Slot != u.Slot
}

// awaitWindow waits until the gateway may reboot. It comes before the slot is
// activated: else any power cut would begin the trial.
func (i *Installer) awaitWindow(ctx context.Context, tell *progress) error {
	start, told := time.Now(), false
	for {
		_, text := i.Settings() // which may change
		window, err := gateway.ParseWindow(text)
		if err != nil {
			return nil // as PID 1 does
		}
		var wait time.Duration
		if _, err := os.Stat(i.path(clockFile)); err == nil {
			wait = window.Until(time.Now())
		} else if text != "" && time.Since(start) < clockPatience {
			wait = time.Minute
		}
		if wait == 0 {
			return nil
		}
		if !told {
			told = true
			tell.say("verified, reboots in the window " + text)
		}
		if err := sleep(ctx, min(wait, time.Minute)); err != nil { // the clock may be set meanwhile
			return err
		}
	}
}
