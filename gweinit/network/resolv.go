package network

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/durable"
)

// maxDNS is the C library's limit.
const maxDNS = 3

// resolvConf returns resolv.conf(5).
func resolvConf(servers []netip.Addr, search []string) []byte {
	var b bytes.Buffer
	b.WriteString("# The network settings of this gateway and DHCP make this file.\n")
	for _, a := range servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	b.WriteString("options timeout:3 attempts:2\n")
	return b.Bytes()
}

// replace makes data the content of a file that others may be reading. A file
// that has it already is left alone.
func replace(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return durable.WriteFile(path, data, 0o644)
}

// appendNew appends what is not in the list yet.
func appendNew[T comparable](list []T, more ...T) []T {
	for _, v := range more {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}
