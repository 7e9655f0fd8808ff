package boot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/supervisor"
	"github.com/exosite/gwe/gweinit/ubenv"
	"github.com/exosite/gwe/gweinit/update"
)

const (
	// healthyFor is how long the programs of a trial have to be up without a
	// break, and hopelessFor how long one has to be down, before that counts.
	healthyFor  = 10 * time.Second
	hopelessFor = 10 * time.Second
	// lastWords are the lines of the log that tell how a trial ended.
	lastWords = 40
	// rootPause is between two reads of the root, so that they delay nobody, and
	// rootAgain before one that failed is tried again, rootTries times in all: a bus
	// may have an error, too.
	rootPause = 10 * time.Millisecond
	rootAgain = 2 * time.Second
	rootTries = 4
	// lastSteps is how long the steps may take that come before a slot is left.
	lastSteps = 20 * time.Second
	// arriveLimit is for the boot state on a disk that hangs.
	arriveLimit = 10 * time.Minute
)

func newKeeper() *update.Keeper {
	return &update.Keeper{Open: func() (update.Device, error) { return ubenv.Open(partition(slot.StatePartition)) }}
}

// noteBoot notes the boot of a firmware on trial, and how its boot before ended.
func noteBoot(s *system) error { return s.firmware.Booted(s.watchdog.reset) }

// readLastWords keeps the end of the log, which this boot is going to write to,
// if it may be the end of a trial.
func readLastWords(s *system) error {
	if u := s.firmware.Record().Update; u == nil || u.State != update.Trial {
		return nil
	}
	var err error
	s.lastWords, err = tailOfLog(messages)
	return err
}

// tailOfLog returns the last lines of kernel and PID 1 in a log, and in the older
// one beside it.
func tailOfLog(path string) (string, error) {
	const most = 64 << 10
	var lines []string
	for _, file := range []string{path + ".1", path} {
		text, err := readEnd(file, most)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, " kernel: ") || strings.Contains(line, " gweinit: ") {
				lines = append(lines, line)
			}
		}
	}
	return strings.Join(lines[max(0, len(lines)-lastWords):], ""), nil
}

// readEnd returns the last bytes of a file.
func readEnd(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, end-most), most))
}

// arrive tells the boot state that this slot has come up, and ends what a trial has
// left.
func arrive(s *system) error {
	a, err := s.firmware.Arrive(s.lastWords)
	if err != nil {
		return err
	}
	u := s.firmware.Record().Update
	switch {
	case a.Leave:
		s.leave(fmt.Sprintf("the trial of slot %s is over: %s", s.slot, u.Reason))
		return nil
	case a.Lost != nil:
		logError("%v; written anew with slot %s as the good one", a.Lost, s.slot)
	case a.Fallback != "":
		logError("%s", a.Fallback)
	}
	if a.Ended {
		logError("%s", outcome(u))
	}
	return nil
}

// outcome says how an update ended, or how it is.
func outcome(u *update.Update) string {
	text := fmt.Sprintf("firmware %s in slot %s: %s", u.Version, u.Slot, u.State)
	if u.Reason != "" {
		text += ": " + u.Reason
	}
	return text
}

// leave reboots out of a slot.
func (s *system) leave(why string) {
	s.announce("%s; rebooting", why)
	if err := s.ask(unix.SIGTERM); err != nil {
		logError("reboot: %v", err)
	}
}

// within runs a step until its limit. One that hangs in the kernel stays behind.
func (s *system) within(limit time.Duration, run func(*system) error) error {
	done := make(chan error, 1)
	go func() { done <- s.try(run) }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("%w: not done after %v", errHangs, limit)
	}
}

// errHangs is when a step has not come to its end.
var errHangs = errors.New("it hangs")

// announce tells the console and the log.
func (s *system) announce(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	logInfo("%s", text)
	if err := printLine("gweinit: " + text); err != nil {
		logError("announce: %v", err)
	}
}

// watchFirmware looks after what runs now: it reads the root once, judges a
// trial, and tries once more what is postponed.
func watchFirmware(s *system) error {
	go s.guard("look after the firmware", func(s *system) error {
		if err := s.arriveLate(); err != nil {
			return err
		}
		if u := s.firmware.Record().Update; u != nil {
			switch {
			case s.firmware.OnTrial():
				s.announce("firmware %s in slot %s is on trial, boot %d of %d", s.version, s.slot, len(u.Boots), slot.TrialTries)
				go s.guard("judge the trial", (*system).judge)
			case u.State == update.Postponed:
				go s.guard("try the firmware again", (*system).retry)
			}
		}
		return s.readRoot()
	})
	return nil
}

// arriveLate arrives, if that has not worked at ready. A disk that hangs for long is
// left; it may be that of a trial.
func (s *system) arriveLate() error {
	hung := time.Time{} // since when
	for !s.firmware.Arrived() && s.slot.Valid() {
		time.Sleep(time.Minute)
		err := s.within(time.Minute, arrive)
		switch {
		case err == nil:
		case !errors.Is(err, errHangs) && !errors.Is(err, update.ErrHangs):
			hung = time.Time{}
		case hung.IsZero():
			hung = time.Now()
		case time.Since(hung) > arriveLimit:
			s.leave("the disk with the boot state hangs")
			return err
		}
		if err != nil {
			logError("arrive: %v", err)
		}
	}
	return nil
}

func (s *system) guard(name string, run func(*system) error) {
	if err := s.try(run); err != nil {
		logError("%s: %v", name, err)
	}
}

// readRoot reads the whole root, which dm-verity checks.
func (s *system) readRoot() error {
	err := s.try(func(s *system) error {
		err := readAll("/dev/dm-0", rootPause, rootAgain)
		if errors.Is(err, unix.EIO) {
			return s.damaged(err)
		}
		return err
	})
	s.rootRead.Store(&err)
	return err
}

// damaged goes to the other slot if that is better, since the root cannot be read. It
// returns an error in any case: until the reboot the root is what it is.
func (s *system) damaged(err error) error {
	damage := fmt.Errorf("the root of slot %s is damaged (%w)", s.slot, err)
	why := damage.Error()
	if s.firmware.OnTrial() {
		return errors.Join(damage, s.endTrial(update.Corruption, why))
	}
	if err := s.firmware.Damaged(why); err != nil {
		s.rootDamage.Store(why)
		return fmt.Errorf("%w; going on with it: %w", damage, err)
	}
	s.leave(why)
	return damage
}

// readAll reads a device, with pauses, and keeps nothing of it in memory. What cannot
// be read is tried again.
func readAll(path string, pause, again time.Duration) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 128<<10)
	tries := 0
	for off := int64(0); ; {
		n, err := f.ReadAt(buf, off)
		unix.Fadvise(int(f.Fd()), off, int64(len(buf)), unix.FADV_DONTNEED)
		if off += int64(n); n > 0 {
			tries = 0
		}
		if err == io.EOF {
			return nil
		}
		if err == nil {
			time.Sleep(pause)
			continue
		}
		if tries++; tries == rootTries {
			return fmt.Errorf("%w, at byte %d, %d times", err, off, tries)
		}
		time.Sleep(again)
	}
}

// trial is what PID 1 has seen of one.
type trial struct {
	*update.Update
	end               time.Time // when it has to be healthy
	healthy, hopeless streak
}

// judge confirms the firmware on trial once it is healthy, or goes back. PID 1
// does that, since it may be gwe that is broken. It has an end, whatever happens.
func (s *system) judge() error {
	u := s.firmware.Record().Update
	limit := time.Duration(u.Limit) * time.Second
	if limit < update.MinLimit || limit > update.MaxLimit {
		limit = update.DefaultLimit
		u.Limit = int(limit.Seconds())
	}
	t := &trial{Update: u, end: time.Now().Add(limit)}
	// Whatever hangs below, and if it is the disk.
	late := time.AfterFunc(2*limit+2*lastSteps, func() { s.leave("the trial has no end") })
	defer late.Stop()
	said := ""
	for ; s.firmware.OnTrial() && !s.down.Load(); time.Sleep(time.Second) {
		var over bool
		err := s.within(limit, func(s *system) (err error) { over, err = s.look(t); return err })
		if err == nil && over {
			return nil
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			logError("judge the trial: %s", said)
		}
		if time.Now().After(t.end.Add(limit)) { // it should have been over long ago
			return s.endTrial(update.Hang, cmp.Or(said, "its root cannot be read"))
		}
	}
	return nil // somebody has confirmed it
}

// look looks at a trial, and says whether it is over.
func (s *system) look(t *trial) (over bool, err error) {
	waiting, lost := update.Health(t.Programs, s.programsNow(), s.incomplete.Load())
	limit := time.Duration(t.Limit) * time.Second
	switch {
	case s.down.Load(): // programs are being stopped
		return false, nil
	case t.healthy.lasts(len(waiting) == 0, healthyFor) && s.checkedIn.Load() && s.rootRead.Load() != nil:
		if err := s.confirm(); err != nil {
			return false, err
		}
		return true, nil
	case t.hopeless.lasts(len(lost) > 0, hopelessFor):
		return true, s.endTrial(update.Programs, update.NotUp(lost))
	case time.Now().Before(t.end):
		return false, nil
	case len(waiting) > 0:
		return true, s.endTrial(update.Programs, fmt.Sprintf("%s, after %v", update.NotUp(waiting), limit))
	case !s.checkedIn.Load():
		return true, s.endTrial(update.CheckIn, fmt.Sprintf("no check-in within %v", limit))
	}
	return false, nil // it is about to be healthy
}

// streak is how long something has been true.
type streak struct{ since time.Time }

func (s *streak) lasts(now bool, enough time.Duration) bool {
	switch {
	case !now:
		s.since = time.Time{}
	case s.since.IsZero():
		s.since = time.Now()
	}
	return now && time.Since(s.since) >= enough
}

func (s *system) confirm() error {
	if err := s.firmware.Confirm(); err != nil {
		return err
	}
	s.announce("firmware %s in slot %s is confirmed", s.version, s.slot)
	return nil
}

// endTrial goes back to the confirmed firmware. If that cannot be written, or hangs,
// the reboot comes nevertheless: U-Boot counts the boots of a trial.
func (s *system) endTrial(cause update.Cause, reason string) error {
	why := fmt.Sprintf("firmware %s in slot %s is no good: %s", s.version, s.slot, reason)
	logs := make(chan string, 1)
	noLog := s.within(lastSteps, func(*system) error {
		log, err := tailOfLog(messages)
		logs <- log
		return err
	})
	log := ""
	select {
	case log = <-logs:
	default:
	}
	err := s.within(lastSteps, func(s *system) error {
		became, err := s.firmware.Fail(cause, reason, log)
		if err == nil {
			s.announce("firmware %s in slot %s is %s: %s", s.version, s.slot, became, reason)
		}
		return err
	})
	if errors.Is(err, update.ErrNoTrial) { // somebody was faster
		return err
	}
	s.leave(why)
	return errors.Join(noLog, err)
}

// retry tries a firmware again that only had not checked in, now that the other one
// does.
func (s *system) retry() error {
	for !s.checkedIn.Load() {
		time.Sleep(time.Second)
	}
	u := s.firmware.Record().Update
	window, err := gateway.ParseWindow(u.Window)
	if err != nil {
		logError("%v; not waiting for it", err)
	}
	for err == nil && !window.Contains(time.Now().In(s.zone)) {
		time.Sleep(time.Minute)
	}
	for {
		now := s.firmware.Record().Update
		if now == nil || now.ID != u.ID || now.State.Done() { // somebody has changed his mind
			return nil
		}
		err := s.firmware.Retry(s.running())
		if err == nil {
			break
		}
		logError("%v", err)
		time.Sleep(time.Minute)
	}
	s.leave(fmt.Sprintf("trying firmware %s in slot %s again", u.Version, u.Slot))
	return nil
}

// programsNow are the programs as the health of a trial sees them.
func (s *system) programsNow() []update.Program {
	var list []update.Program
	if s.supervisor == nil {
		return nil
	}
	for _, p := range s.supervisor.Processes() {
		list = append(list, update.Program{
			Name: p.Name,
			Up:   p.State == supervisor.Running || p.State == supervisor.Exited && p.Expected,
			Down: p.State == supervisor.Fatal,
		})
	}
	return list
}

// running are the programs that an update must not break: those that are started at
// each boot, and stay up. One that ends again and again is not missed.
func (s *system) running() []string {
	names := []string{}
	for _, p := range s.supervisor.Processes() {
		if p.State == supervisor.Running && p.Lasting && (!p.Ended || p.Up >= healthyFor) {
			names = append(names, p.Name)
		}
	}
	return names
}

// rollback goes back to the firmware in the other slot: at once if this one, or
// that one, is on trial.
func (s *system) rollback() error {
	if s.firmware.OnTrial() {
		return s.endTrial(update.ByHand, "somebody has asked for it")
	}
	if r := s.firmware.Record(); r.Running() {
		return s.firmware.Cancel("somebody has asked for it")
	}
	id := fmt.Sprintf("hand-%x", time.Now().UnixNano())
	if err := s.firmware.Return(id, update.DefaultLimit, s.running()); err != nil {
		return err
	}
	s.leave(fmt.Sprintf("going back to slot %s", s.slot.Other()))
	return nil
}

// firmwareStatus is what gwe needs to know to update the firmware: JSON.
func (s *system) firmwareStatus(context.Context, []any) (any, error) {
	text, err := json.Marshal(update.Status{Board: s.board, Version: s.version, Slot: s.slot, Slots: s.firmware.State(), Record: s.firmware.Record()})
	return string(text), err
}

// noteEnd notes that a boot of a trial ends in good order.
func noteEnd(s *system) error { return s.firmware.Ended() }
