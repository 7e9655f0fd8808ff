package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// FileSize is the size of the file provision.yaml on the boot partition. It is
// there from the beginning, so that the device can overwrite its sectors
// without the file system.
const FileSize = 16 << 10

// maxText is the most that a document may have. The settings of a gateway that
// was provisioned more than once can be longer than each file was.
const maxText = 2 * FileSize

// doneMark begins the first line of a provision.yaml that was applied. Older
// and later firmware must know it too.
const doneMark = "# DONE: this gateway is provisioned"

const doneLine = doneMark + "; to provision it again, remove this line and fill in the settings.\n\n"

const template = `# The settings of this gateway. It applies them when it starts, once, and then
# empties this file. Remove "# " in front of the lines that you need, fill them
# in, and keep the blanks in front of words. What is not given stays as it is.

# product: a1b2c3d4e5f60000      # Exosite's product ID
# serial: GW-000123              # serial number; default: a MAC address
# interface: eth0                # whose MAC address is that; default: the first
# exosite:
#   host: gateways.example.com:443   # if it is not Exosite's own
#   ca: |                        # certificates to trust, if it has its own
#     -----BEGIN CERTIFICATE-----
#     (the lines of the PEM file)
#     -----END CERTIFICATE-----
# firmware_keys:                 # of firmware: second line of minisign.pub
#   - RW(56 characters)
# network:
#   hostname: gateway-17
#   links:                       # the first that is up gets the traffic
#     - name: eth0
#       ipv4: static             # dhcp (default), static, link-local, off
#       addresses: [192.168.1.5/24, "2001:db8::5/64"]
#       gateway: 192.168.1.1
#       ipv6: auto               # auto (default), off
#       gateway6: fe80::1
#       mtu: 1500
#     - name: eth0.7
#       vlan: {parent: eth0, id: 7}
#     - name: wwan*              # any name that begins with wwan
#   dns: [192.168.1.1]           # instead of those that the network brings
#   fallback_dns: [9.9.9.9]      # when there are no others
#   ntp: [pool.ntp.org]
# timezone: Europe/Berlin
# log_level: INFO                # DEBUG, INFO, WARNING, ERROR, CRITICAL
# factory_reset: settings        # settings (it stays who it is) or everything
`

// Blank returns a file without settings, FileSize bytes, that shows a person
// with a text editor what can be set.
func Blank() []byte { return fit(template, FileSize) }

// Done returns what the device overwrites an applied file of this size with:
// its first line, within the first 512 bytes, says that it was applied. A
// smaller one is the beginning of a larger one.
func Done(size int) []byte { return fit(doneLine+template, size) }

// fit cuts a text or pads it with line ends.
func fit(text string, size int) []byte {
	return []byte((text + strings.Repeat("\n", max(0, size-len(text))))[:size])
}

// File returns the file, FileSize bytes, with a document that ParseProvision
// takes. The error is an *Error.
func File(text []byte) ([]byte, error) {
	text, ok := Text(text)
	_, err := ParseProvision(text)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		err = errors.New("nothing is set in it")
	case len(text) > FileSize:
		err = fmt.Errorf("it has %d bytes, at most %d are allowed", len(text), FileSize)
	default:
		return fit(string(text), FileSize), nil
	}
	return nil, &Error{[]string{err.Error()}}
}

// Text returns the document in a file as an editor may have left it: of any
// size, padded or not, with Windows' line ends and byte order mark. It is not
// ok when there is nothing to apply: the file is blank, or begins with the mark
// of Done, whatever follows.
func Text(file []byte) (text []byte, ok bool) {
	text = plainText(file)
	return text, !isBlank(text) && !bytes.HasPrefix(text, []byte(doneMark))
}

// Marked says whether a file begins with the mark of Done, and if so, whether
// there are settings below it nevertheless: the file was not overwritten to its
// end, or a person has overlooked that line.
func Marked(file []byte) (marked, settings bool) {
	text := plainText(file)
	marked = bytes.HasPrefix(text, []byte(doneMark))
	return marked, marked && !isBlank(text)
}

func plainText(file []byte) []byte {
	text := bytes.TrimPrefix(file, []byte("\uFEFF"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	text = bytes.ReplaceAll(text, []byte("\r"), []byte("\n"))
	text = bytes.TrimRight(text, "\x00 \t\n\x1a") // Ctrl-Z ends a file of DOS
	if len(text) > 0 {
		text = append(bytes.Clone(text), '\n')
	}
	return text
}

// isBlank says whether there are only comments.
func isBlank(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}
