package boot

import (
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/clock"
	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/network"
	"github.com/exosite/gwe/gweinit/network/settings"
)

// methods are what programs can ask PID 1 for.
func (s *system) methods() map[string]control.Method {
	return map[string]control.Method{
		"gweinit.status": s.method(0, func([]string) (any, error) {
			text, err := json.MarshalIndent(s.status(), "", "  ")
			return string(text), err
		}),
		// network.yaml as a whole; an empty text goes back to the image's.
		"gweinit.setNetwork": s.method(1, func(args []string) (any, error) {
			return true, s.settings.Set([]byte(args[0]))
		}),
		// network.yaml was edited in its place.
		"gweinit.reloadNetwork": s.method(0, func([]string) (any, error) {
			return true, s.settings.Reload()
		}),
		// The gateway has reached its cloud.
		"gweinit.checkedIn": s.method(0, func([]string) (any, error) {
			s.settings.CheckedIn()
			return true, nil
		}),
		// settings or everything; the gateway reboots.
		"gweinit.factoryReset": s.method(1, func(args []string) (any, error) {
			if err := s.askReset(args[0]); err != nil {
				return nil, err
			}
			return true, s.ask(unix.SIGTERM)
		}),
		"gweinit.reboot":   s.method(0, func([]string) (any, error) { return true, s.ask(unix.SIGTERM) }),
		"gweinit.poweroff": s.method(0, func([]string) (any, error) { return true, s.ask(unix.SIGUSR2) }),
	}
}

// method is one that takes n texts.
func (s *system) method(n int, run func(args []string) (any, error)) control.Method {
	return func(args []any) (any, error) {
		texts, err := control.Texts(args, n)
		if err != nil {
			return nil, err
		}
		return run(texts)
	}
}

// ask has the main loop do what a signal means, and does not wait.
func (s *system) ask(sig os.Signal) error {
	select {
	case s.signals <- sig:
		return nil
	default:
		return errors.New("the gateway is busy with others who ask it to reboot")
	}
}

// status is for reports.
type status struct {
	Board   string   `json:"board"`
	Version string   `json:"version"`
	Slot    string   `json:"slot"`
	Failed  []string `json:"failed,omitempty"` // phases of the boot
	Memory  bool     `json:"memory,omitempty"` // /data is gone at the next boot
	Network struct {
		network.Status
		Settings settings.Status `json:"settings"`
	} `json:"network"`
	Clock clock.Status `json:"clock"`
}

func (s *system) status() status {
	st := status{Board: s.board, Version: s.version, Slot: string(s.slot), Failed: s.failures(), Memory: s.noData.Load(), Clock: s.clock.Status()}
	st.Network.Status, st.Network.Settings = s.network.Status(), s.settings.Status()
	return st
}

// startControl takes calls from now on.
func startControl(s *system) error {
	l, err := control.Listen(control.Socket)
	if err != nil {
		return err
	}
	server := &control.Server{Methods: s.methods(), Log: logger}
	go func() { logError("control: %v", server.Serve(l)) }()
	return nil
}
