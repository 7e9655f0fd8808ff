package provision

import (
	"strings"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/identity"
)

// The files below /data/gwe that follow from a provision.yaml.
const (
	settingsFile = "provision.yaml" // all that was ever given: the factory settings
	gatewayFile  = gateway.GatewayFile
	engineFile   = gateway.EngineFile
	caFile       = "keys/exosite-ca.pem"
	keysFile     = "keys/firmware.pub"
	networkFile  = "network.yaml"
	timezoneFile = "timezone"
)

var allFiles = []string{settingsFile, gatewayFile, engineFile, caFile, keysFile, networkFile, timezoneFile}

// caPath is where the engine finds the certificates.
const caPath = gateway.Dir + "/" + caFile

// Files returns the files below /data/gwe that p changes, by their names. The
// existing ones are only read; what p does not say stays in them. When p makes
// the gateway another device, with another product or serial number, the CIK
// in Gateway.cfg is gone: it belongs to the one before.
func Files(p config.Provision, existing map[string][]byte) map[string][]byte {
	files := map[string][]byte{}
	p.FactoryReset = ""
	// What a later firmware has stored and this one cannot read is lost: in one
	// document with what this one is given, the later could not read it either.
	stored, _ := config.ParseProvision(existing[settingsFile])
	if !isZero(p) {
		files[settingsFile] = p.Over(stored).YAML()
	}
	if p.Product != "" || p.Serial != "" || p.Interface != "" {
		files[gatewayFile] = gatewayConfig(p, existing[gatewayFile])
	}
	if p.LogLevel != "" || p.Exosite != (config.Exosite{}) {
		engine := gateway.ParseINI(existing[engineFile])
		set(engine, gateway.EngineSection, "debug_level", p.LogLevel)
		set(engine, gateway.ExositeSection, "host", p.Exosite.Host)
		if p.Exosite.CA != "" {
			set(engine, gateway.ExositeSection, "ca", caPath)
			files[caFile] = []byte(p.Exosite.CA)
		}
		files[engineFile] = engine.Text()
	}
	if p.FirmwareKeys != nil {
		files[keysFile] = []byte(strings.Join(p.FirmwareKeys, "\n") + "\n")
	}
	if p.Network != nil {
		files[networkFile] = p.Network.YAML()
	}
	if p.Timezone != "" {
		files[timezoneFile] = []byte(p.Timezone + "\n")
	}
	return files
}

// isZero says whether nothing is given.
func isZero(p config.Provision) bool {
	return p.Product == "" && p.Serial == "" && p.Interface == "" && p.Exosite == (config.Exosite{}) && p.FirmwareKeys == nil &&
		p.Network == nil && p.Timezone == "" && p.LogLevel == "" && p.FactoryReset == ""
}

// The keys of Gateway.cfg.
const (
	cik    = "cik"
	model  = "model"
	vendor = "vendor"
	uuid   = "uuid"
	iface  = "iface"
)

func gatewayConfig(p config.Provision, existing []byte) []byte {
	f := gateway.ParseINI(existing)
	before := gateway.Device(f)
	set(f, gateway.DeviceSection, vendor, p.Product)
	set(f, gateway.DeviceSection, model, p.Product)
	set(f, gateway.DeviceSection, uuid, p.Serial)
	set(f, gateway.DeviceSection, iface, p.Interface)
	if !gateway.SameDevice(before, gateway.Device(f)) {
		f.Delete(gateway.DeviceSection, cik)
	}
	return f.Text()
}

// set sets a value, if there is one. Those of a provision.yaml and of an INI
// file can always be written.
func set(f *gateway.INI, section, key, value string) {
	if value != "" {
		f.Set(section, key, value)
	}
}

// factory returns the record after a factory reset: it has only what follows from
// the factory settings and, unless everything is to go, who the gateway is: its
// CIK, and the product and serial number that this belongs to. If this firmware
// cannot read the factory settings, what may follow from them stays.
func factory(r identity.Record, everything bool) identity.Record {
	before := r.Files
	own := gateway.ParseINI(before[gatewayFile])
	p, err := config.ParseProvision(before[settingsFile])
	if err != nil {
		r.Files = map[string][]byte{}
		for _, name := range allFiles {
			if data, ok := before[name]; ok {
				r.Files[name] = data
			}
		}
		if _, ok := before[gatewayFile]; ok && everything {
			own.Delete(gateway.DeviceSection, cik)
			r.Files[gatewayFile] = own.Text()
		}
		return r
	}
	r.Files = Files(p, nil)
	if everything {
		return r
	}
	f := gateway.ParseINI(r.Files[gatewayFile])
	if own.Value(gateway.DeviceSection, cik) != "" {
		f = gateway.ParseINI(nil) // the CIK's device, and nothing of another
	}
	for _, key := range []string{cik, model, vendor, uuid, iface} {
		set(f, gateway.DeviceSection, key, own.Value(gateway.DeviceSection, key))
	}
	if text := f.Text(); len(text) > 0 {
		r.Files[gatewayFile] = text
	}
	return r
}
