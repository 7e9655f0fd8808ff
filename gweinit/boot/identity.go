package boot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/provision"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/ubenv"
)

const gatewayFolder = "/data/gwe"

// identityWait is longer than the record takes on the slowest card.
const identityWait = 30 * time.Second

// withIdentity lends the identity record, to one at a time. Who waits for one
// that hangs in a broken disk gives up.
func (s *system) withIdentity(do func(*identity.Store) error) error {
	select {
	case s.identity <- struct{}{}:
		defer func() { <-s.identity }()
	case <-time.After(identityWait):
		return errors.New("the identity record is in use, and its user does not end")
	}
	part, err := ubenv.Open(partition(slot.StatePartition))
	if err != nil {
		return err
	}
	defer part.Close()
	return do(identity.NewStore(part))
}

// restoreIdentity puts back into /data/gwe what the gateway is, if that was
// lost with /data.
func restoreIdentity(s *system) error {
	return s.withIdentity(restore)
}

func restore(store *identity.Store) error {
	record, err := store.Load()
	if errors.Is(err, identity.ErrNone) {
		return nil // nothing was recorded yet
	}
	if err != nil {
		return err
	}
	restored, err := identity.Restore(record, gatewayFolder)
	if len(restored) > 0 {
		logInfo("restored from the identity record: %s", strings.Join(restored, ", "))
	}
	// If the power went in the middle of a save, one copy is older.
	return errors.Join(err, store.Save(record))
}

// provisioning is what applies settings, with a record that is lent.
func (s *system) provisioning(store *identity.Store) provision.Gateway {
	return provision.Gateway{
		Boot:   provision.OnBoot("/boot/provision.yaml", partition(slot.BootPartition)),
		Store:  store,
		Dir:    gatewayFolder,
		Memory: s.noData.Load(),
	}
}

// askReset asks for a factory reset at the next boot.
func (s *system) askReset(kind string) error {
	return s.withIdentity(func(store *identity.Store) error { return s.provisioning(store).AskReset(kind) })
}

// resetLimit is for writing the blank file system.
const resetLimit = 5 * time.Minute

// resetIfAsked does the factory reset that somebody has asked for, before /data
// is mounted.
func resetIfAsked(s *system) error {
	return s.withIdentity(func(store *identity.Store) error { return s.provisioning(store).Reset(s.wipe) })
}

// wipe makes the data partition empty.
func (s *system) wipe(kind string) error {
	logInfo("factory reset: %s", kind)
	if err := printLine("gweinit: factory reset: " + kind); err != nil {
		logError("factory reset: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), resetLimit)
	defer cancel()
	return s.dataFS().Reset(ctx)
}

// applyProvisioning makes the settings in provision.yaml the gateway's, once.
func applyProvisioning(s *system) error {
	return s.withIdentity(func(store *identity.Store) error {
		gateway := s.provisioning(store)
		pending, err := gateway.Read()
		if err != nil || pending == nil {
			return err
		}
		if pending.FactoryReset != "" {
			err := gateway.AskReset(pending.FactoryReset)
			if err == nil {
				err = s.withoutData(func() error { return gateway.Reset(s.wipe) })
				err = errors.Join(err, restore(store))
			}
			if err != nil {
				return pending.Fail(fmt.Errorf("factory reset: %w", err))
			}
		}
		changed, err := pending.Commit()
		if len(changed) > 0 {
			logInfo("provisioned: %s", strings.Join(changed, ", "))
		}
		return err
	})
}
