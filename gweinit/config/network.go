package config

import "net/netip"

// Network is network.yaml, and the section "network" of provision.yaml.
type Network struct {
	// Hostname is that of the gateway; without one DHCP's counts.
	Hostname string `yaml:"hostname,omitempty"`
	// Links are used in order of preference: the first that is up gets the
	// traffic. Links that are not listed stay down.
	Links []Link `yaml:"links,omitempty"`
	// DNS servers are asked instead of those that the links bring.
	DNS []netip.Addr `yaml:"dns,omitempty"`
	// FallbackDNS servers are asked when there are no others.
	FallbackDNS []netip.Addr `yaml:"fallback_dns,omitempty"`
	// NTP servers beside those that DHCP brings: host names or addresses, and
	// a port if it isn't NTP's.
	NTP []string `yaml:"ntp,omitempty"`
}

// Link says how a network link is set up.
type Link struct {
	// Name is the kernel's, "eth0", or a pattern as path.Match has it, "eth*".
	// A link takes the first entry that matches.
	Name string `yaml:"name"`
	// VLAN makes the link, which then needs a name without a pattern, a VLAN
	// (IEEE 802.1Q) on another.
	VLAN *VLAN `yaml:"vlan,omitempty"`
	// IPv4 is how the link gets its address: DHCP (the default), Static,
	// LinkLocal or Off. DHCP falls back to link-local.
	IPv4 string `yaml:"ipv4,omitempty"`
	// Addresses are fixed ones of both families, with their prefix length.
	// One of IPv4 goes with Static only.
	Addresses []netip.Prefix `yaml:"addresses,omitempty"`
	// Gateway is the IPv4 gateway, with Static only.
	Gateway netip.Addr `yaml:"gateway,omitempty"`
	// IPv6 is Auto (the default: the kernel's SLAAC) or Off.
	IPv6 string `yaml:"ipv6,omitempty"`
	// Gateway6 is the IPv6 gateway; router advertisements bring one by
	// themselves.
	Gateway6 netip.Addr `yaml:"gateway6,omitempty"`
	// MTU in bytes; 0 leaves it alone.
	MTU int `yaml:"mtu,omitempty"`
}

// VLAN is a tagged network on another link.
type VLAN struct {
	Parent string `yaml:"parent"` // name of the link
	ID     int    `yaml:"id"`     // 1 to 4094
}

// How a link gets addresses.
const (
	DHCP      = "dhcp"
	Static    = "static"
	LinkLocal = "link-local"
	Off       = "off"
	Auto      = "auto"
)
