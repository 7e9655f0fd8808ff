package provision

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/ini.v1"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/identity"
)

// The files below /data/gwe that follow from a provision.yaml.
const (
	settingsFile = "provision.yaml" // all that was ever given: the factory settings
	gatewayFile  = "Gateway.cfg"
	engineFile   = "Engine.config"
	caFile       = "keys/exosite-ca.pem"
	keysFile     = "keys/firmware.pub"
	networkFile  = "network.yaml"
	timezoneFile = "timezone"
)

var allFiles = []string{settingsFile, gatewayFile, engineFile, caFile, keysFile, networkFile, timezoneFile}

// caPath is where the engine finds the certificates.
const caPath = "/data/gwe/" + caFile

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
		engine := openINI(existing[engineFile])
		set(engine, "engine", "debug_level", p.LogLevel)
		set(engine, "exosite", "host", p.Exosite.Host)
		if p.Exosite.CA != "" {
			set(engine, "exosite", "ca", caPath)
			files[caFile] = []byte(p.Exosite.CA)
		}
		files[engineFile] = encodeINI(engine)
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

// The section and the keys of Gateway.cfg.
const (
	device = "device"
	cik    = "cik"
	model  = "model"
	vendor = "vendor"
	uuid   = "uuid"
	iface  = "iface"
)

func gatewayConfig(p config.Provision, existing []byte) []byte {
	f := openINI(existing)
	if p.Product != "" && (p.Product != get(f, vendor) || p.Product != get(f, model)) ||
		p.Serial != "" && p.Serial != get(f, uuid) ||
		// Without a serial number the link's address is it; which link the
		// default was is not known here.
		p.Serial == "" && get(f, uuid) == "" && get(f, iface) != "" && p.Interface != "" && p.Interface != get(f, iface) {
		f.Section(device).DeleteKey(cik)
	}
	set(f, device, vendor, p.Product)
	set(f, device, model, p.Product)
	set(f, device, uuid, p.Serial)
	set(f, device, iface, p.Interface)
	return encodeINI(f)
}

// factory returns the record after a factory reset: it has only what follows from
// the factory settings and, unless everything is to go, who the gateway is: its
// CIK, and the product and serial number that this belongs to. If this firmware
// cannot read the factory settings, what may follow from them stays.
func factory(r identity.Record, everything bool) identity.Record {
	before := r.Files
	gateway := openINI(before[gatewayFile])
	p, err := config.ParseProvision(before[settingsFile])
	if err != nil {
		r.Files = map[string][]byte{}
		for _, name := range allFiles {
			if data, ok := before[name]; ok {
				r.Files[name] = data
			}
		}
		if _, ok := before[gatewayFile]; ok && everything {
			gateway.Section(device).DeleteKey(cik)
			r.Files[gatewayFile] = encodeINI(gateway)
		}
		return r
	}
	r.Files = Files(p, nil)
	if everything {
		return r
	}
	f := openINI(r.Files[gatewayFile])
	if get(gateway, cik) != "" {
		f = ini.Empty() // the CIK's device, and nothing of another
	}
	for _, key := range []string{cik, model, vendor, uuid, iface} {
		set(f, device, key, get(gateway, key))
	}
	if len(f.Section(device).Keys()) > 0 {
		r.Files[gatewayFile] = encodeINI(f)
	}
	return r
}

// openINI returns what can be read of an INI file, if it is nothing.
func openINI(text []byte) *ini.File {
	for _, lenient := range []bool{false, true} {
		if f, err := parseINI(text, lenient); err == nil {
			return f
		}
	}
	return ini.Empty()
}

// parseINI reads an INI file whole, or leniently: without lines that are none.
func parseINI(text []byte, lenient bool) (f *ini.File, err error) {
	defer caught(&err)
	return ini.LoadSources(ini.LoadOptions{SkipUnrecognizableLines: lenient}, bytes.Clone(text))
}

// caught makes an error of a panic: a garbled file must not keep new settings
// out for ever.
func caught(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v", r)
	}
}

// get returns a value of the device.
func get(f *ini.File, key string) string { return value(f, device, key) }

func value(f *ini.File, section, key string) string {
	if s, err := f.GetSection(section); err == nil && s.HasKey(key) {
		return s.Key(key).Value()
	}
	return ""
}

// set sets a value, if there is one.
func set(f *ini.File, section, key, value string) {
	if value != "" {
		f.Section(section).Key(key).SetValue(value)
	}
}

// encodeINI returns the text of an INI file. One that the library would not
// read as the same, such as with a backslash at the end of a line, loses all
// that is not known here.
func encodeINI(f *ini.File) []byte {
	if text, err := tryINI(f); err == nil {
		return text
	}
	known := ini.Empty()
	for _, at := range []struct{ section, key string }{
		{device, cik}, {device, model}, {device, vendor}, {device, uuid}, {device, iface},
		{"engine", "debug_level"}, {"exosite", "host"}, {"exosite", "ca"},
	} {
		if v := value(f, at.section, at.key); !strings.ContainsFunc(v, garbled) {
			set(known, at.section, at.key, v)
		}
	}
	text, _ := tryINI(known)
	return text
}

// garbled says whether r is in no value that is known here.
func garbled(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'`\\#;%", r) }

func tryINI(f *ini.File) (text []byte, err error) {
	defer caught(&err)
	var buf bytes.Buffer
	if _, err := f.WriteTo(&buf); err != nil {
		return nil, err
	}
	back, err := parseINI(buf.Bytes(), false)
	if err == nil && !sameINI(f, back) {
		err = errors.New("reads back differently")
	}
	return buf.Bytes(), err
}

// sameINI compares sections, keys and values.
func sameINI(a, b *ini.File) bool {
	list := func(f *ini.File) (all []string) {
		for _, s := range f.Sections() {
			for _, k := range s.Keys() {
				all = append(all, s.Name(), k.Name(), k.Value())
			}
		}
		return all
	}
	return slices.Equal(list(a), list(b))
}
