package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is a link as the kernel has it.
type device struct {
	index     int
	name      string
	mac       net.HardwareAddr
	mtu       int
	ethernet  bool
	noARP     bool
	loopback  bool
	up        bool
	carrier   bool
	isVLAN    bool
	vlan      int // ID
	parent    int // index; 0 without
	addresses []address
}

type address struct {
	prefix netip.Prefix
	flags  int // unix.IFA_F_...
}

// readDevices returns all links with their addresses.
func readDevices() ([]*device, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	byIndex := map[int]*device{}
	var devices []*device
	for _, l := range links {
		a := l.Attrs()
		d := &device{
			index:    a.Index,
			name:     a.Name,
			mac:      a.HardwareAddr,
			mtu:      a.MTU,
			ethernet: a.EncapType == "ether" && len(a.HardwareAddr) == 6,
			noARP:    a.RawFlags&unix.IFF_NOARP != 0,
			loopback: a.RawFlags&unix.IFF_LOOPBACK != 0,
			up:       a.RawFlags&unix.IFF_UP != 0,
			// Running is false while, for example, 802.1X has not let us in.
			carrier: a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
			parent:  a.ParentIndex,
		}
		if v, ok := l.(*netlink.Vlan); ok {
			d.isVLAN, d.vlan = true, v.VlanId
		}
		devices = append(devices, d)
		byIndex[d.index] = d
	}
	for _, a := range addrs {
		d := byIndex[a.LinkIndex]
		if p := toPrefix(a.IPNet); d != nil && p.IsValid() {
			d.addresses = append(d.addresses, address{p, a.Flags})
		}
	}
	return devices, nil
}

// whole repeats a list of the kernel's that changed while it was read.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// isGone says whether an error means that what it is about is not there.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist)
}

// handle names a link to the kernel.
func (d *device) handle() netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index, Name: d.name}}
}

func (d *device) addAddress(p netip.Prefix) error {
	a := &netlink.Addr{
		IPNet: toIPNet(p),
		Flags: unix.IFA_F_NOPREFIXROUTE, // the route is ours, for its metric
		Scope: unix.RT_SCOPE_UNIVERSE,
	}
	if p.Addr().Is4() && p.Addr().IsLinkLocalUnicast() {
		a.Scope = unix.RT_SCOPE_LINK
	}
	if err := netlink.AddrReplace(d.handle(), a); err != nil {
		return fmt.Errorf("set address %v: %w", p, err)
	}
	added := address{prefix: p}
	if p.Addr().Is6() {
		added.flags = unix.IFA_F_TENTATIVE
	}
	d.addresses = append(d.addresses, added)
	return nil
}

func (d *device) removeAddress(p netip.Prefix) error {
	if err := netlink.AddrDel(d.handle(), &netlink.Addr{IPNet: toIPNet(p)}); err != nil && !isGone(err) {
		return fmt.Errorf("remove address %v: %w", p, err)
	}
	d.addresses = slices.DeleteFunc(d.addresses, func(a address) bool { return a.prefix == p })
	return nil
}

// watchKernel calls changed after each change of links, addresses or routes,
// and when it may have missed one, until ctx is done. What has changed it does
// not say: the manager looks at everything.
func (m *Manager) watchKernel(ctx context.Context, changed func()) {
	for pause := m.kernelRetry; ctx.Err() == nil; pause = min(2*pause, kernelRetryMost) {
		err := watchKernel(ctx, changed)
		if ctx.Err() != nil {
			return
		}
		m.o.Log.Warn("watch links", "err", err, "again_in", pause)
		sleep(ctx, pause)
	}
}

func watchKernel(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	var groups uint32
	for _, g := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	} {
		groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	var buf [16]byte // the rest of a message is cut off
	for {
		changed() // also at first: what was before counts, too
		_, err := f.Read(buf[:])
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // that one is too many changes at once
			return err
		}
	}
}

// kernelRetryMost is the longest wait after a call of the kernel failed.
const kernelRetryMost = time.Minute

// setting writes a setting of a link in /proc/sys/net, such as ipv4 arp_ignore.
// A kernel that has no such setting, or a link that is gone, is no error.
func (l *link) setting(family, name, value string) error {
	path := "/proc/sys/net/" + family + "/conf/" + l.name + "/" + name
	if l.settings[path] == value {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		f.Close()
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("write %s to %s: %w", value, path, err)
	}
	l.settings[path] = value
	return nil
}
