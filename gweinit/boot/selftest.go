package boot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/network"
	"github.com/exosite/gwe/gweinit/selftest"
)

const (
	// selftestFile is the result once it is a pass. A /data that is new may be on a
	// card that is, so it is not in the identity record.
	selftestFile = "selftest.json"
	// selftestLimit is for a network that has to get its address first, and for the
	// root to be read.
	selftestLimit = 90 * time.Second
	// selftestWait is for small files, on the slowest card.
	selftestWait = 20 * time.Second
	// networkAgain is between two looks for a network that did not come in time.
	networkAgain = 5 * time.Second
)

// startSelftest has the gateway test itself, for the line that made it.
func startSelftest(s *system) error {
	go s.guard("self-test", (*system).testItself)
	return nil
}

// testItself tests the gateway at each boot until it has passed once. Its line on the
// console comes whatever hangs. If only the network is missing, it passes once that
// comes: a cable may be plugged in late, and after a power outage a router is slow.
func (s *system) testItself() error {
	end := time.Now().Add(selftestLimit)
	var before selftest.Result
	var settings gateway.Settings // not to be read after a hang, nor is before
	storage := s.within(selftestWait, func(*system) (err error) {
		if before, err = readSelftest(gatewayFolder); err == nil && !before.Pass {
			settings, _, err = gateway.Files{Dir: gatewayFolder}.Load()
		}
		return err
	})
	known := storage == nil
	if known && before.Pass {
		s.selftest.Store(&before)
		return nil
	}
	tested := make(chan struct{})
	go func() {
		defer close(tested)
		if known {
			storage = s.within(selftestLimit, func(s *system) error { return s.testStorage(end) })
		}
	}()
	reached := s.awaitNetwork(end)
	<-tested
	if s.down.Load() { // what was tested is on its way down
		return nil
	}
	r := selftest.Result{Board: s.board, Version: s.version, Storage: note(storage)}
	if err := s.failedPhases("boot"); err != nil {
		r.Boot = err.Error()
	}
	if known {
		r = s.judgeNetwork(r, settings, reached)
	} else { // the serial number would be another one
		r.MAC, r.Network = macOf("", s.links()), note(reached)
	}
	s.tell(r)
	if !r.Pass {
		if r = s.awaitPass(r); !r.Pass {
			return nil
		}
		s.tell(r)
	}
	// If it cannot be kept it comes again: better twice than never.
	return s.within(selftestWait, func(*system) error {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return durable.WriteFile(filepath.Join(gatewayFolder, selftestFile), text, 0o600)
	})
}

// judgeNetwork completes a result with what depends on the network.
func (s *system) judgeNetwork(r selftest.Result, settings gateway.Settings, reached error) selftest.Result {
	r.MAC = macOf(settings.Iface, s.links())
	if r.Serial = cmp.Or(settings.UUID, r.MAC); r.Serial == "" && reached == nil {
		reached = fmt.Errorf("no serial number is set, and link %q has no address to be one", settings.Iface)
	}
	r.Network = note(reached)
	r.Pass = r.Storage == selftest.OK && r.Network == selftest.OK && r.Boot == ""
	return r
}

// awaitPass waits for a network, if that is all that a result lacks. What hangs here
// keeps nobody waiting.
func (s *system) awaitPass(r selftest.Result) selftest.Result {
	for !r.Pass && r.Storage == selftest.OK && r.Boot == "" && s.failedPhases("network") == nil {
		time.Sleep(networkAgain)
		err := s.testNetwork()
		if s.down.Load() {
			break
		}
		if err != nil {
			continue
		}
		settings, _, err := gateway.Files{Dir: gatewayFolder}.Load() // they may have been set meanwhile
		r = s.judgeNetwork(r, settings, err)
	}
	return r
}

// tell tells console and cloud of a result.
func (s *system) tell(r selftest.Result) {
	s.announce("%s", r)
	s.selftest.Store(&r)
	s.selftestNews.Store(true) // after it is there
	s.tellSelftest()
}

// note says for a person what is wrong.
func note(err error) string {
	if err == nil {
		return selftest.OK
	}
	return err.Error()
}

// readSelftest reads the result of a boot before; none if it did not pass, or what
// is there cannot be understood.
func readSelftest(dir string) (r selftest.Result, err error) {
	text, err := durable.ReadFile(filepath.Join(dir, selftestFile), 4<<10)
	if errors.Is(err, unix.EIO) {
		return r, err
	}
	if err != nil || json.Unmarshal(text, &r) != nil || !r.Pass {
		return selftest.Result{}, nil
	}
	return r, nil
}

// tellSelftest has the engine check in once more, if what it reported was asked for
// before there was the result: the next time is hours away.
func (s *system) tellSelftest() {
	if !s.checkedIn.Load() || !s.selftestNews.Swap(false) {
		return
	}
	go s.guard("report the self-test", func(s *system) error {
		_, err := s.supervisor.Methods()["supervisor.signalProcess"].Run(context.Background(), []any{"gwe", "USR1"})
		return err
	})
}

// links are those of the network, if that was started.
func (s *system) links() []network.LinkStatus {
	if s.network == nil {
		return nil
	}
	return s.network.Status().Links
}

// macOf returns the address of the link that is configured for the serial number, as
// the engine has it: of the first link if there is none.
func macOf(iface string, links []network.LinkStatus) string {
	mac := ""
	if iface == "" {
		if i := slices.IndexFunc(links, func(l network.LinkStatus) bool { return l.MAC != "" }); i >= 0 {
			mac = links[i].MAC
		}
	} else if link, err := net.InterfaceByName(iface); err == nil {
		mac = link.HardwareAddr.String()
	}
	return strings.ToUpper(mac)
}

// phaseKeys are under what phases are told that failed; all others under "boot", so
// that nobody throws away a good card.
var phaseKeys = map[string]string{
	"note the boot of a firmware on trial":      "storage",
	"grow the data partition":                   "storage",
	"reset to the factory settings if asked to": "storage",
	"mount /data":                       "storage",
	"make the folders of /data":         "storage",
	"restore the identity":              "storage",
	"grow the file system of /data":     "storage",
	"refill the boots of the good slot": "storage",
	"set the host name":                 "network",
	"bring the loopback interface up":   "network",
	"start the network":                 "network",
}

// failedPhases says which phases failed that are told under a key.
func (s *system) failedPhases(key string) error {
	failed := slices.DeleteFunc(s.failures(), func(name string) bool { return cmp.Or(phaseKeys[name], "boot") != key })
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("failed at boot: %s", strings.Join(failed, ", "))
}

// testNetwork says what is wrong with the network now. It may hang.
func (s *system) testNetwork() error {
	if err := testSettings(s); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return lacking(s.links())
}

// testSettings says what is wrong with the network's settings. While those are
// written it waits for the disk.
func testSettings(s *system) error {
	if text := s.settings.Status().Error; text != "" {
		return errors.New(text)
	}
	return nil
}

// awaitNetwork waits for a link that is complete.
func (s *system) awaitNetwork(end time.Time) error {
	if err := s.failedPhases("network"); err != nil {
		return err
	}
	if err := s.within(selftestWait, testSettings); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	for {
		err := lacking(s.links())
		if err == nil || s.down.Load() || time.Now().After(end) {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// lacking says what the links lack, unless one is complete: a gateway with two need
// not have both cables in.
func lacking(links []network.LinkStatus) error {
	if len(links) == 0 {
		return errors.New("there is no link of those in the settings")
	}
	var lacks []string
	for _, l := range links {
		if complete(l) {
			return nil
		}
		text := l.Name + ": " + l.State
		if l.Error != "" {
			text += ": " + l.Error
		}
		lacks = append(lacks, text)
	}
	return errors.New(strings.Join(lacks, "; "))
}

// complete says whether a link has what its settings want: a link-local address only
// if they do.
func complete(l network.LinkStatus) bool {
	if !l.Carrier || l.Error != "" {
		return false
	}
	how, _, _ := strings.Cut(l.State, ":")
	for _, a := range l.Addresses {
		if how != "dhcp" || !a.Addr().IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}
