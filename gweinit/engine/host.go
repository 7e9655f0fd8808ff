package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/engine/report"
	"github.com/exosite/gwe/gweinit/gateway"
)

// hostWait is for an answer of PID 1, which may wait for a slow card.
const hostWait = time.Minute

// machine is the gateway, by way of PID 1, or a workstation, which has none.
type machine struct {
	control control.Client
	gateway bool
}

func newMachine(root string) machine {
	return machine{control.Client{Socket: filepath.Join(root, control.Socket)}, gateway.Here(root)}
}

func (m machine) Status(ctx context.Context) json.RawMessage {
	text, err := m.call(ctx, "gweinit.status")
	if s, ok := text.(string); ok && err == nil {
		return json.RawMessage(s)
	}
	return nil
}

func (m machine) Programs(ctx context.Context) []report.Program {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	programs, err := report.Programs(ctx, m.control)
	if err != nil {
		return nil
	}
	return programs
}

func (m machine) CheckedIn(ctx context.Context) error { return m.order(ctx, "gweinit.checkedIn") }

func (m machine) KeepIdentity(ctx context.Context, gatewayText string) error {
	return m.order(ctx, "gweinit.keepIdentity", gatewayText)
}

// order has PID 1 do something. Where there is none nothing is to be done.
func (m machine) order(ctx context.Context, method string, args ...any) error {
	_, err := m.call(ctx, method, args...)
	if !m.gateway && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) || errors.As(err, new(control.Fault))) {
		return nil
	}
	return err
}

func (m machine) call(ctx context.Context, method string, args ...any) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	return m.control.Call(ctx, method, args...)
}

// serialNumber is by what the cloud knows the gateway.
type serialNumber struct {
	serial string
	iface  string // whose address the serial is, if that was not configured
}

// errNoSerial is what gwe refuses to run with.
var errNoSerial = errors.New(`the gateway has no serial number: set one ("gwe --set-uuid SERIAL"), or the link whose address it is ("gwe --set-iface eth0")`)

// serial returns the serial number: that of the settings, else the address of
// the link that they name, else, on a gateway, that of its first link.
func (e *Engine) serial(ctx context.Context) (serialNumber, error) {
	if e.settings.UUID != "" {
		return serialNumber{serial: e.settings.UUID}, nil
	}
	id, name := serialNumber{}, e.settings.Iface
	if name == "" {
		name = firstLink(e.host.Status(ctx))
		id.iface = name
	}
	if name == "" {
		return serialNumber{}, errNoSerial
	}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return serialNumber{}, fmt.Errorf("the serial number is the address of %s: %w", name, err)
	}
	if len(link.HardwareAddr) == 0 {
		return serialNumber{}, fmt.Errorf("the serial number is the address of %s, which has none", name)
	}
	id.serial = strings.ToUpper(link.HardwareAddr.String())
	return id, nil
}

// firstLink returns the link that PID 1 prefers of those that are there.
func firstLink(status json.RawMessage) string {
	var s struct {
		Network struct {
			Links []struct{ Name, MAC string }
		}
	}
	json.Unmarshal(status, &s)
	for _, l := range s.Network.Links {
		if l.MAC != "" {
			return l.Name
		}
	}
	return ""
}

// onTrial says whether the firmware has to prove itself, for which it has little
// time.
func onTrial(status json.RawMessage) bool {
	var s struct {
		Slot  string
		Slots struct{ Trial string }
	}
	json.Unmarshal(status, &s)
	return s.Slot != "" && s.Slots.Trial == s.Slot
}

// folderChanges tells of changes in a folder, of any file, a short time after the
// last of several. It ends with ctx.
func folderChanges(ctx context.Context, dir string) (<-chan struct{}, error) {
	fail := func(err error) (<-chan struct{}, error) {
		return nil, fmt.Errorf("watch %s for changes: %w", dir, err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return fail(err)
	}
	context.AfterFunc(ctx, func() { f.Close() })
	changes := make(chan struct{}, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond)
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes, nil
}
