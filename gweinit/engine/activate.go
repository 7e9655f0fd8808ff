package engine

import (
	"context"

	"github.com/exosite/gwe/gweinit/gateway"
)

// credential is a CIK and whose it is.
type credential struct {
	device  gateway.Settings // as the file had it before
	changes []gateway.Change
}

// holds says whether the file has not been changed since by others: made another
// device, or given another CIK.
func (c *credential) holds(now gateway.Settings) bool {
	return gateway.SameDevice(now, c.device) && now.CIK == c.device.CIK
}

// activate gets a CIK, and stores it.
func (e *Engine) activate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, activationLimit)
	defer cancel()
	id, err := e.serial(ctx)
	if err != nil {
		return err
	}
	cik, err := e.cloud.Activate(ctx, id.serial)
	if err != nil {
		return err
	}
	e.log.Info("activated", "serial", id.serial)
	changes := []gateway.Change{{File: gateway.GatewayFile, Section: gateway.DeviceSection, Key: "cik", Value: cik}}
	if id.iface != "" { // by which it is known from now on
		changes = append(changes, gateway.Change{File: gateway.GatewayFile, Section: gateway.DeviceSection, Key: "iface", Value: id.iface})
	}
	e.unstored = &credential{device: e.settings, changes: changes}
	e.settings.CIK = cik
	if id.iface != "" {
		e.settings.Iface = id.iface
	}
	e.store(ctx)
	clear(e.sent)
	return nil
}

// store stores the CIK, if there is one that is not on the disk: one that gets
// lost is never given again.
func (e *Engine) store(ctx context.Context) {
	if e.unstored != nil {
		_, err := e.files.Update(func(now gateway.Settings) []gateway.Change {
			if !e.unstored.holds(now) {
				return nil
			}
			return e.unstored.changes
		})
		e.problem("store the CIK", err)
		if err != nil { // the next check-in tries again, or the next boot has it from the record
			text, err := e.files.Text(gateway.GatewayFile, e.unstored.changes...)
			if err == nil {
				err = e.host.KeepIdentity(context.WithoutCancel(ctx), string(text))
			}
			e.problem("keep the identity", err)
			return
		}
		e.unstored, e.unkept = nil, true
	}
	if e.unkept {
		err := e.host.KeepIdentity(context.WithoutCancel(ctx), "")
		e.problem("keep the identity", err)
		e.unkept = err != nil
	}
}
