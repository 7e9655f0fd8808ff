package config

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Provision is provision.yaml: what makes a gateway out of an image that is
// the same for all. What is not given ("", nil) is left as it is.
type Provision struct {
	Product   string // Exosite's product ID; vendor and model are the same
	Serial    string
	Interface string // its MAC address is the serial if there is no other; by default the first link's
	Exosite   Exosite
	// FirmwareKeys are minisign's public keys of those whose firmware the
	// gateway takes: the second line of their files.
	FirmwareKeys []string
	Network      *Network
	Timezone     string // such as "Europe/Berlin"
	LogLevel     string // DEBUG, INFO, WARNING, ERROR or CRITICAL
	FactoryReset string // ResetSettings or ResetEverything, before the rest is applied
}

// Exosite is the server, if it is not Exosite's own.
type Exosite struct {
	Host string // "host" or "host:port"; an IPv6 address is in brackets
	CA   string // certificates to trust, in PEM
}

// What a factory reset takes: everything on /data but who the gateway is, or
// that as well.
const (
	ResetSettings   = "settings"
	ResetEverything = "everything"
)

const (
	maxSerial = 128
	maxKeys   = 8
)

// ParseProvision reads provision.yaml, as strictly as ParseNetwork. A document
// that is empty or has comments only is the zero Provision; one that sets
// nothing in another way is an error.
func ParseProvision(text []byte) (Provision, error) {
	var doc document
	var p Provision
	if root := doc.open(text); root != nil {
		p = readProvision(field{&doc, root, ""})
	}
	if err := doc.err(); err != nil {
		return Provision{}, err
	}
	return p, nil
}

func readProvision(f field) (p Provision) {
	o := f.object("product", "serial", "interface", "exosite", "firmware_keys", "network", "timezone", "log_level", "factory_reset")
	if o != nil && len(f.node.Content) == 0 {
		f.failf("nothing is set")
	}
	if f, ok := o["product"]; ok {
		p.Product = f.checked(isProduct, "a product ID: letters, digits, - and _, at most 63")
	}
	if f, ok := o["serial"]; ok {
		p.Serial = f.checked(IsSerial, "a serial number: letters, digits and -._:@, at most "+strconv.Itoa(maxSerial))
	}
	if f, ok := o["interface"]; ok {
		p.Interface = f.checked(isLinkName, "the name of a link, such as eth0 (at most 15 characters)")
	}
	if f, ok := o["exosite"]; ok {
		p.Exosite = readExosite(f)
	}
	if f, ok := o["firmware_keys"]; ok {
		p.FirmwareKeys = readKeys(f)
	}
	if f, ok := o["network"]; ok {
		n := readNetwork(f)
		p.Network = &n
	}
	if f, ok := o["timezone"]; ok {
		p.Timezone = f.checked(isTimezone, "a time zone, such as Europe/Berlin or UTC")
	}
	if f, ok := o["log_level"]; ok {
		p.LogLevel = f.oneOf("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
	}
	if f, ok := o["factory_reset"]; ok {
		p.FactoryReset = f.oneOf(ResetSettings, ResetEverything)
	}
	return p
}

func readExosite(f field) (e Exosite) {
	o := f.object("host", "ca")
	if o != nil && len(f.node.Content) == 0 {
		f.failf("nothing is set")
	}
	if f, ok := o["host"]; ok {
		e.Host = f.checked(isHostPort, "a host name with or without a port, such as gateways.example.com:443")
	}
	if f, ok := o["ca"]; ok {
		e.CA = readCA(f)
	}
	return e
}

// readCA reads certificates and returns them as PEM has them, without what may
// stand between.
func readCA(f field) string {
	s, ok := f.text()
	if !ok {
		return ""
	}
	const hint = "; put all of the PEM file below \"ca: |\", with blanks in front of each line"
	var out strings.Builder
	n := 0
	rest := []byte(s)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" { // a key, perhaps
			f.failf("number %d in it is a %s, want only certificates", n, quote(block.Type))
			return ""
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			f.failf("certificate %d is not valid: %v", n, err)
			return ""
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	switch begins := strings.Count(s, "-----BEGIN "); {
	case begins > n: // Decode passes over what it cannot read
		f.failf("%d of the %d certificates in it are cut off or not PEM%s", begins-n, begins, hint)
	case n == 0:
		f.failf("there is no certificate in it%s", hint)
	}
	return out.String()
}

func readKeys(f field) []string {
	var keys []string
	list := f.list(maxKeys)
	if list != nil && len(list) == 0 {
		f.failf("is empty; give a key or remove the line")
	}
	for _, f := range list {
		s, ok := f.text()
		if !ok {
			continue
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(s)
		switch {
		case strings.ContainsAny(s, "\r\n"), err != nil, len(raw) != 42, string(raw[:2]) != "Ed":
			f.failf("this is no public key of minisign: that is the second line of minisign.pub, 56 characters that begin with RW")
			continue
		case slices.Contains(keys, s):
			f.failf("this key is there twice")
		}
		keys = append(keys, s)
	}
	return keys
}

// isProduct allows what can be the first part of a host name at Exosite, and
// an old model name.
func isProduct(s string) bool { return len(s) <= 63 && isWord(s, "-_") }

// IsSerial allows what every INI file, URL and topic of MQTT takes as it is.
func IsSerial(s string) bool { return len(s) <= maxSerial && isWord(s, "-._:@") }

// isWord says whether s is of ASCII letters, digits and the others, and begins
// with a letter or digit.
func isWord(s, others string) bool {
	for i, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c|0x20 && c|0x20 <= 'z':
		case i > 0 && strings.IndexByte(others, c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return false
		}
	} else {
		host = s
	}
	inner, bracketed := strings.CutPrefix(s, "[")
	if !bracketed {
		a, err := netip.ParseAddr(host)
		return isServer(host) && (err != nil || a.Is4())
	}
	inner, _, bracketed = strings.Cut(inner, "]")
	a, err2 := netip.ParseAddr(inner)
	return bracketed && err2 == nil && a.Is6() && isServer(inner) && (err == nil || s == "["+inner+"]")
}

// isTimezone says whether this machine knows the time zone: by its files, or
// by time/tzdata.
func isTimezone(s string) bool {
	if s == "Local" || len(s) > 64 || s != path.Clean(s) || !isWord(s, "/_+-") {
		return false
	}
	_, err := time.LoadLocation(s)
	return err == nil
}

// Over returns what a gateway is set to that had d and is given p: what p says,
// else what d says. The factory reset is p's own.
func (p Provision) Over(d Provision) Provision {
	for _, s := range []struct{ own, other *string }{
		{&p.Product, &d.Product}, {&p.Serial, &d.Serial}, {&p.Interface, &d.Interface},
		{&p.Exosite.Host, &d.Exosite.Host}, {&p.Exosite.CA, &d.Exosite.CA},
		{&p.Timezone, &d.Timezone}, {&p.LogLevel, &d.LogLevel},
	} {
		if *s.own == "" {
			*s.own = *s.other
		}
	}
	if p.FirmwareKeys == nil {
		p.FirmwareKeys = d.FirmwareKeys
	}
	if p.Network == nil {
		p.Network = d.Network
	}
	return p
}

// YAML returns provision.yaml. ParseProvision reads the same from
// it if p is what ParseProvision would return.
func (p Provision) YAML() []byte {
	m := newMapping()
	m.addText("product", p.Product)
	m.addText("serial", p.Serial)
	m.addText("interface", p.Interface)
	if p.Exosite != (Exosite{}) {
		e := newMapping()
		e.addText("host", p.Exosite.Host)
		e.addText("ca", p.Exosite.CA)
		m.add("exosite", &e.Node)
	}
	if p.FirmwareKeys != nil {
		m.add("firmware_keys", texts(p.FirmwareKeys, text))
	}
	if p.Network != nil {
		m.add("network", &p.Network.mapping().Node)
	}
	m.addText("timezone", p.Timezone)
	m.addText("log_level", p.LogLevel)
	m.addText("factory_reset", p.FactoryReset)
	if len(m.Content) == 0 {
		return []byte("# Nothing is set.\n")
	}
	return m.encode("# The factory settings of this gateway.\n")
}
