package boot

import (
	"errors"
	"fmt"
	"strings"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/provision"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/ubenv"
)

const gatewayFolder = "/data/gwe"

// withIdentity lends the identity record, to one at a time.
func (s *system) withIdentity(do func(*identity.Store) error) error {
	s.identityMu.Lock()
	defer s.identityMu.Unlock()
	part, err := ubenv.Open(partition(slot.StatePartition))
	if err != nil {
		return err
	}
	defer part.Close()
	return do(identity.NewStore(part))
}

// loadIdentity returns the identity record, an empty one if nothing was
// recorded yet.
func loadIdentity(store *identity.Store) (identity.Record, error) {
	record, err := store.Load()
	if errors.Is(err, identity.ErrNone) {
		return identity.Record{}, nil
	}
	return record, err
}

// restoreIdentity puts back into /data/gwe what the gateway is, if that was
// lost with /data.
func restoreIdentity(s *system) error {
	return s.withIdentity(restore)
}

func restore(store *identity.Store) error {
	record, err := loadIdentity(store)
	if err != nil {
		return err
	}
	restored, err := identity.Restore(record, gatewayFolder)
	if len(restored) > 0 {
		logInfo("restored from the identity record: %s", strings.Join(restored, ", "))
	}
	return err
}

// wishReset asks for a factory reset at the next boot.
func (s *system) wishReset(kind string) error {
	if kind != config.ResetSettings && kind != config.ResetEverything {
		return fmt.Errorf("factory reset of %q, want %s or %s", kind, config.ResetSettings, config.ResetEverything)
	}
	return s.withIdentity(func(store *identity.Store) error {
		record, err := loadIdentity(store)
		if err != nil {
			return err
		}
		record.Reset = kind
		return store.Save(record)
	})
}

// resetIfWished does the factory reset that somebody has asked for, before
// /data is mounted. When the power goes, the next boot begins again.
func resetIfWished(s *system) error {
	return s.withIdentity(func(store *identity.Store) error {
		record, err := loadIdentity(store)
		if err != nil || record.Reset == "" {
			return err
		}
		return s.reset(store, record.Reset)
	})
}

// reset makes /data, which must not be mounted, empty, and leaves of the record
// what the gateway was when it left the factory. The wish for it goes last.
func (s *system) reset(store *identity.Store, kind string) error {
	record, err := loadIdentity(store)
	if err != nil {
		return err
	}
	logInfo("factory reset: %s", kind)
	ctx, cancel := repairTime()
	defer cancel()
	if err := s.dataFS().Reset(ctx); err != nil {
		return err
	}
	record = provision.Reset(record, kind == config.ResetEverything)
	record.Reset = ""
	return store.Save(record)
}

// applyProvisioning makes the settings in provision.yaml the gateway's, once.
func applyProvisioning(s *system) error {
	return s.withIdentity(func(store *identity.Store) error {
		pending, err := provision.Gateway{
			Boot:   provision.OnBoot("/boot/provision.yaml", partition(slot.BootPartition)),
			Store:  store,
			Dir:    gatewayFolder,
			Memory: s.noData.Load(),
		}.Read()
		if err != nil || pending == nil {
			return err
		}
		if kind := pending.FactoryReset; kind != "" {
			err := s.withoutData(func() error { return s.reset(store, kind) })
			if err := errors.Join(err, restore(store)); err != nil {
				return fmt.Errorf("factory reset: %w", err)
			}
		}
		changed, err := pending.Commit()
		if len(changed) > 0 {
			logInfo("provisioned: %s", strings.Join(changed, ", "))
		}
		return err
	})
}
