package boot

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/network"
	"github.com/exosite/gwe/gweinit/network/settings"
)

// imageNetwork is the network of a gateway that is not told otherwise.
const imageNetwork = "/etc/gweinit/network.yaml"

// fallbackNetwork is for an image whose own is of no use.
var fallbackNetwork = config.Network{Links: []config.Link{{Name: "eth*"}, {Name: "usb*"}}}

const settingsWait = 20 * time.Second

// startNetwork sets up the network, and keeps it so. /etc/resolv.conf and
// /etc/hosts are links to /run.
func startNetwork(s *system) error {
	image := fallbackNetwork
	text, err := os.ReadFile(imageNetwork)
	if err == nil {
		var n config.Network
		if n, err = config.ParseNetwork(text); err != nil {
			err = fmt.Errorf("%s: %w", imageNetwork, err)
		} else {
			image = n
		}
	}
	s.network = network.New(network.Options{
		Log:        logger,
		ResolvConf: "/run/resolv.conf",
		Changed:    s.networkChanged,
	})
	s.settings = &settings.Settings{Options: settings.Options{
		Dir:   gatewayFolder,
		Image: image,
		Apply: func(n config.Network) {
			s.rename(func(h *hostname) { h.given = n.Hostname }) // programs see it from the beginning
			s.network.Apply(n)
		},
		Record: s.recordNetwork,
		Log:    logger,
	}}
	s.background("network", s.network.Run)
	// A disk that hangs must not keep the gateway off the network.
	late := time.AfterFunc(settingsWait, func() {
		logError("network settings: /data does not answer; using those of the image")
		s.network.Apply(image)
	})
	defer late.Stop()
	return errors.Join(err, s.settings.Start())
}

// networkChanged is called by the network.
func (s *system) networkChanged(st network.Status) {
	s.rename(func(h *hostname) { h.learned = st.Hostname })
	for _, l := range st.Links {
		if len(l.Addresses) > 0 { // before that nobody can be asked for the time
			s.clock.Servers(st.NTP)
			break
		}
	}
}

// recordNetwork keeps the good network.yaml in the identity record too.
func (s *system) recordNetwork(text []byte) error {
	return s.withIdentity(func(store *identity.Store) error {
		record, err := store.Load()
		if err != nil && !errors.Is(err, identity.ErrNone) {
			return err
		}
		if record.Files == nil {
			record.Files = map[string][]byte{}
		}
		const name = "network.yaml"
		if record.Files[name] = text; len(text) == 0 {
			delete(record.Files, name)
		}
		return store.Save(record)
	})
}

// hostname is where the name of this host comes from.
type hostname struct {
	sync.Mutex
	given   string // in the settings; it counts at once, and before all others
	learned string // by DHCP
}

// nameHost gives the host a name, which the network may know better.
func nameHost(s *system) error {
	s.hostname.Lock()
	defer s.hostname.Unlock()
	return s.hostname.set()
}

// rename sets the name after a change.
func (s *system) rename(change func(*hostname)) {
	s.hostname.Lock()
	defer s.hostname.Unlock()
	change(&s.hostname)
	if err := s.hostname.set(); err != nil {
		logError("set the host name: %v", err)
	}
}

// set makes the name that counts, else the image's, that of this host.
func (h *hostname) set() error {
	name := cmp.Or(h.given, h.learned)
	if name == "" {
		name = "gateway"
		text, err := os.ReadFile("/etc/hostname")
		switch given := strings.TrimSpace(string(text)); {
		case err == nil && given != "":
			name = given
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	if now, err := os.Hostname(); err == nil && now == name {
		if _, err := os.Stat("/run/hosts"); err == nil {
			return nil
		}
	}
	// As Debian has it: a host without an address still has its name.
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + name + "\n"
	return errors.Join(
		unix.Sethostname([]byte(name)),
		durable.WriteFile("/run/hosts", []byte(hosts), 0o644),
	)
}

// loopbackUp sets lo up; the kernel then gives it 127.0.0.1 and ::1 by itself.
func loopbackUp(*system) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
