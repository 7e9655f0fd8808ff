package boot

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/clock"
	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/network"
	"github.com/exosite/gwe/gweinit/network/settings"
	"github.com/exosite/gwe/gweinit/selftest"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

// methods are what programs can ask PID 1 for.
func (s *system) methods() map[string]control.Method {
	return map[string]control.Method{
		"gweinit.status": {
			Help: "What there is to report about board, slot, network and clock: JSON.", Result: control.String,
			Run: func(context.Context, []any) (any, error) {
				text, err := json.MarshalIndent(s.status(), "", "  ")
				return string(text), err
			},
		},
		"gweinit.setNetwork": s.order("New network settings: network.yaml as a whole. Empty: those of the image.", func(args []any) error {
			return s.settings.Set([]byte(args[0].(string)))
		}, control.Text("yaml")),
		"gweinit.reloadNetwork": s.order("Take network.yaml, which was edited in its place.", func([]any) error {
			return s.settings.Reload()
		}),
		"gweinit.keepIdentity": s.order("Keep Gateway.cfg and Engine.config as they are now in the identity record, which outlives /data. If /data does not take a new Gateway.cfg, its text.", func(args []any) error {
			err := s.withIdentity(func(store *identity.Store) error { return s.provisioning(store).Keep(args[0].(string)) })
			return errors.Join(err, showSettings())
		}, control.Param{Name: "gateway", Type: control.String, Default: ""}),
		"gweinit.firmware": {
			Help: "What the slots have, and how the latest update of the firmware goes: JSON.", Result: control.String, Run: s.firmwareStatus,
		},
		"gweinit.begin": {
			Help: "The other slot is about to be written, with the firmware of this version, for the command of this ID. The result is the slot.", Result: control.String,
			Params: []control.Param{control.Text("id"), control.Text("version")},
			Run: func(_ context.Context, args []any) (any, error) {
				target, err := s.firmware.Begin(args[0].(string), args[1].(string), s.running())
				if err == nil {
					s.announce("firmware %s is being written to slot %s", args[1], target)
				}
				return string(target), err
			},
		},
		"gweinit.activate": s.order("The slot is written and verified: the next boot is its trial, for so many seconds. In the window (HH:MM-HH:MM, or empty) it may be tried again.", func(args []any) error {
			if err := s.firmware.Activate(args[0].(string), time.Duration(args[1].(int))*time.Second, args[2].(string), s.running()); err != nil {
				return err
			}
			s.announce("it is written and verified; the next boot is its trial")
			return nil
		}, control.Text("id"), control.Param{Name: "limit", Type: control.Int}, control.Text("window")),
		"gweinit.confirm": s.order("The firmware on trial is good.", func([]any) error { return s.confirm() }),
		"gweinit.rollback": s.order("Go back to the firmware in the other slot, and reboot. If that one is on trial, it is not tried.", func([]any) error {
			return s.rollback()
		}),
		"gweinit.checkedIn": s.order("The gateway has reached its cloud.", func([]any) error {
			s.checkedIn.Store(true)
			s.settings.CheckedIn()
			s.tellSelftest()
			return nil
		}),
		"gweinit.switchGeneration": {
			Help: "Make the programs those of the apps that are installed by now.", Result: control.Boolean,
			Run: func(ctx context.Context, _ []any) (any, error) { return true, s.switchGeneration(ctx) },
		},
		"gweinit.factoryReset": s.order("Back to the factory's settings, and reboot. What: settings, or everything.", func(args []any) error {
			if err := s.askReset(args[0].(string)); err != nil {
				return err
			}
			return s.ask(unix.SIGTERM)
		}, control.Text("what")),
		"gweinit.reboot":   s.order("Reboot the gateway.", func([]any) error { return s.ask(unix.SIGTERM) }),
		"gweinit.poweroff": s.order("Switch the gateway off.", func([]any) error { return s.ask(unix.SIGUSR2) }),
	}
}

// order is a method that is done, or fails.
func (s *system) order(help string, run func(args []any) error, params ...control.Param) control.Method {
	return control.Method{Help: help, Result: control.Boolean, Params: params, Run: func(_ context.Context, args []any) (any, error) {
		return true, run(args)
	}}
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
	Board   string `json:"board"`
	Version string `json:"version"`
	Slot    string `json:"slot"`
	Slots   *slots `json:"slots,omitempty"` // nil: the boot state is not known
	// Rollback is why this slot runs and not the one that was to.
	Rollback string   `json:"rollback,omitempty"`
	Damage   string   `json:"damage,omitempty"` // of the root
	Failed   []string `json:"failed,omitempty"` // phases of the boot
	Memory   bool     `json:"memory,omitempty"` // /data is gone at the next boot
	Network  struct {
		network.Status
		Settings settings.Status `json:"settings"`
	} `json:"network"`
	Clock    clock.Status     `json:"clock"`
	Selftest *selftest.Result `json:"selftest,omitempty"` // of this boot, or of the one that passed
}

// slots is the boot state.
type slots struct {
	Good      string  `json:"good"`
	Trial     string  `json:"trial,omitempty"`
	TrialLeft uint32  `json:"trial_left,omitempty"` // boots
	A         oneSlot `json:"a"`
	B         oneSlot `json:"b"`
}

type oneSlot struct {
	Status  string `json:"status"`
	Left    uint32 `json:"left"`              // boots
	Version string `json:"version,omitempty"` // as far as it is known
}

// slots returns the boot state as it was last written.
func (s *system) slots() *slots {
	st, versions := s.firmware.State(), s.firmware.Record().Versions
	if st == nil {
		return nil
	}
	return &slots{
		Good: string(st.Good), Trial: string(st.Trial), TrialLeft: st.TrialLeft,
		A: oneSlot{string(st.A.Status), st.A.Left, versions[slot.A]}, B: oneSlot{string(st.B.Status), st.B.Left, versions[slot.B]},
	}
}

func (s *system) status() status {
	rollback := s.firmware.Record().Fallback
	if u := s.firmware.Record().Update; u != nil && (u.State == update.Rejected || u.State == update.Postponed) {
		rollback = outcome(u)
	}
	damage, _ := s.rootDamage.Load().(string)
	s.selftestNews.Store(false) // before it is read
	st := status{Board: s.board, Version: s.version, Slot: string(s.slot), Slots: s.slots(), Rollback: rollback, Damage: damage, Failed: s.failures(), Memory: s.noData.Load(), Clock: s.clock.Status(), Selftest: s.selftest.Load()}
	st.Network.Status, st.Network.Settings = s.network.Status(), s.settings.Status()
	return st
}

// startControl takes calls from now on.
func startControl(s *system) error {
	s.makeSupervisor() // it has programs to run whoever can call it
	l, err := control.Listen(control.Socket, 0o700, -1, -1)
	if err != nil {
		return err
	}
	methods := s.supervisor.Methods()
	maps.Copy(methods, s.methods())
	server := &control.Server{Methods: methods, Pages: s.supervisor.Pages(), Log: logger}
	go func() { logError("control: %v", server.Serve(context.Background(), l)) }()
	return nil
}
