package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/gweinit/engine/firmware"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

// Firmware asks PID 1 for what the slots have, and how an update goes.
func (m machine) Firmware(ctx context.Context) (st update.Status, err error) {
	answer, err := m.call(ctx, "gweinit.firmware")
	if err == nil {
		text, _ := answer.(string)
		err = json.Unmarshal([]byte(text), &st)
	}
	if err != nil {
		return st, fmt.Errorf("ask PID 1 for the slots: %w", err)
	}
	return st, nil
}

// Begin has PID 1 mark the other slot as being written.
func (m machine) Begin(ctx context.Context, id, version string) (slot.Name, error) {
	answer, err := m.call(ctx, "gweinit.begin", id, version)
	if err != nil {
		return "", err
	}
	name, _ := answer.(string)
	if n := slot.Name(name); n.Valid() {
		return n, nil
	}
	return "", fmt.Errorf("gweinit.begin: the answer is %q, want a or b", name)
}

// Activate has PID 1 put that slot on trial.
func (m machine) Activate(ctx context.Context, id string, limit time.Duration, window string) error {
	_, err := m.call(ctx, "gweinit.activate", id, int(limit/time.Second), window)
	return err
}

// Reboot reboots the gateway.
func (m machine) Reboot(ctx context.Context) error {
	_, err := m.call(ctx, "gweinit.reboot")
	return err
}

// slots prints what the slots have, and how the latest update goes.
func slots(root string, asJSON bool, out, errs io.Writer) int {
	st, err := newMachine(root).Firmware(context.Background())
	if err != nil {
		fmt.Fprintf(errs, "gwe: %v\n", err)
		return 1
	}
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.Encode(st)
		return 0
	}
	printSlots(out, st)
	return 0
}

func printSlots(out io.Writer, st update.Status) {
	if st.Slots == nil {
		fmt.Fprintf(out, "slot %s is running, with %s; the boot state is not known\n", st.Slot, st.Version)
		return
	}
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "slot\tstate\tversion\tboots left\t")
	for _, n := range []slot.Name{slot.A, slot.B} {
		one, version, notes := *st.Slots.Slot(n), cmp.Or(st.Versions[n], "-"), ""
		left := one.Left
		if n == st.Slots.Trial {
			left, notes = st.Slots.TrialLeft, "on trial"
		}
		if n == st.Slots.Good {
			notes = "confirmed"
		}
		if n == st.Slot {
			notes += ", running"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", n, one.Status, version, left, strings.TrimPrefix(notes, ", "))
	}
	t.Flush()
	if u := st.Update; u != nil {
		fmt.Fprintf(out, "update from %s to %s in slot %s, command %s: %s\n", cmp.Or(u.From, "-"), cmp.Or(u.Version, "-"), u.Slot, cmp.Or(u.ID, "-"), u.State)
		if u.Reason != "" {
			fmt.Fprintf(out, "  %s: %s\n", u.Cause, u.Reason)
		}
	}
	if st.Fallback != "" {
		fmt.Fprintln(out, st.Fallback)
	}
}

// orderFirmware has PID 1 confirm the trial, or go back.
func orderFirmware(root, method string, out, errs io.Writer) int {
	if _, err := newMachine(root).call(context.Background(), "gweinit."+method); err != nil {
		fmt.Fprintf(errs, "gwe: %s: %v\n", method, err)
		return 1
	}
	fmt.Fprintln(out, map[string]string{"confirm": "confirmed", "rollback": "going back to the other slot"}[method])
	return 0
}

// installFirmware installs a bundle by hand.
func installFirmware(root, from string, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fail := func(err error) int {
		fmt.Fprintf(errs, "gwe: install firmware: %v\n", err)
		return 1
	}
	trust, err := exosite.GatewayTrust(root, "")
	if err != nil {
		return fail(err)
	}
	source, closer, err := firmware.Open(from, os.Stdin, trust)
	if err != nil {
		return fail(err)
	}
	defer closer.Close()
	if err := firmware.ByHand(ctx, firmware.Gateway{Host: newMachine(root), Root: root}, source, out); err != nil {
		return fail(err)
	}
	return 0
}
