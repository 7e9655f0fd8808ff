//go:build qemu

package stories

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/slot"
)

// A USB-serial adapter is plugged in while the gateway runs, and works; so do
// CAN sockets, with nothing set up by hand.
func TestFieldbus(t *testing.T) {
	usb := map[string]string{ // how the machine comes to a USB host
		"qemu-arm64":    "-device qemu-xhci",
		"qemu-arm":      "-device qemu-xhci",
		"qemu-mipsel":   "-usb",
		"qemu-mips64el": "-usb",
		"rpi3":          "", // it has one, with a network adapter in it
	}
	eachThorough(t, func(t *testing.T, b *build) {
		out := t.TempDir()
		manifest, err := buildImage(out, b.Board, "base", "busybox", "fieldbus", "dev")
		if err != nil {
			t.Fatal(err)
		}
		withFieldbus := &build{manifest, b.board, out}
		line := filepath.Join(out, "line")
		m, plug := withFieldbus.card(t).bootMonitored(t, append(strings.Fields(usb[b.Board]), "-chardev", "file,id=line,path="+line)...)
		if rest := m.ready(withFieldbus, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		m.runs("test ! -e /dev/ttyUSB0")
		fmt.Fprintln(plug, "device_add usb-serial,chardev=line,id=adapter")
		m.runs("i=0; until test -c /dev/ttyUSB0; do i=$((i+1)); test $i -lt 20 || break; sleep 1; done; test -c /dev/ttyUSB0")
		m.runs("stty -F /dev/ttyUSB0 raw; echo over the line > /dev/ttyUSB0")
		if got := m.runs("readlink /sys/class/tty/ttyUSB0/device/driver | sed 's/.*\\///'"); got != "ftdi_sio" {
			t.Errorf("its driver is %q", got)
		}
		var sent []byte
		for range 20 {
			if sent, _ = os.ReadFile(line); strings.Contains(string(sent), "over the line") {
				break
			}
			time.Sleep(500 * time.Millisecond)
		}
		if !strings.Contains(string(sent), "over the line") {
			t.Errorf("the adapter has sent %q", sent)
		}
		fmt.Fprintln(plug, "device_del adapter")
		m.runs("i=0; while test -e /dev/ttyUSB0; do i=$((i+1)); test $i -lt 20 || break; sleep 1; done; test ! -e /dev/ttyUSB0")

		m.runs("ip link add dev can0 type vcan && ip link set can0 up")
		m.runs("grep -q '^vcan ' /proc/modules") // the kernel has asked modprobe for it
		m.runs("modprobe -q -- net-pf-29 && grep -q '^can ' /proc/modules")
		if got := m.runs("modprobe no_such_module; echo $?"); !strings.HasSuffix(got, "1") {
			t.Errorf("modprobe of nothing: %q", got)
		}
		if kb, err := strconv.Atoi(m.runs("awk '/^RssAnon/{print $2}' /proc/1/status")); err != nil || kb > 6<<10 {
			t.Errorf("PID 1 has %d kB, want at most 6 MB; %v", kb, err)
		}
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
	}, slices.Collect(maps.Keys(usb))...)
}
