package engine

import (
	"log/slog"
	"net"
	"net/netip"

	"taproot/stack/policy"
	"taproot/tap"
	"taproot/userns"
)

// A Config says what `run` shall do. Front ends fill it in; New checks it.
type Config struct {
	// Guest names the command and the namespaces it gets.
	Guest userns.Config

	// Interface is the name of the TAP device in the guest; "" means "tap0".
	Interface string

	// MAC is the TAP device's hardware address in the guest; nil means a
	// random, locally administered one.
	MAC net.HardwareAddr

	// MTU is the TAP device's MTU: bytes of IP packet, without the Ethernet
	// header. 0 means 1500.
	MTU int

	// Net4 and Net6 are the guest's networks.
	Net4, Net6 Network

	// DNS says what answers at the guest's resolver address.
	DNS DNS

	// Offload says how the TAP device is opened.
	Offload tap.Offload

	// HostLoopback are the ports of the host's loopback that the guest reaches
	// at the gateway's address. The zero value opens none.
	HostLoopback policy.Ports

	// AllowHost are the ports of the host's own, non-loopback addresses that
	// the guest may reach. The zero value opens none.
	AllowHost policy.Ports

	// AllowLinkLocal opens 169.254.0.0/16, fe80::/10 and the cloud metadata
	// addresses.
	AllowLinkLocal bool

	// Log gets what the supervisor and the engine have to say; nil means
	// nothing is logged. Debug tells each step of start-up and each flow.
	Log *slog.Logger

	// Warn gets what the user should know although the guest starts: a network
	// that clashes with one of the host's, for instance. nil discards it.
	Warn func(message, hint string)
}

// A Network is the guest's network of one address family.
type Network struct {
	// Off leaves the family out of the guest.
	Off bool

	// Auto picks a range that does not clash with the host's routes.
	Auto bool

	// Prefix is the network; the zero value means 10.0.2.0/24 or fd00::/64.
	// Offset 2 is the gateway, 3 the resolver, 100 the guest.
	Prefix netip.Prefix
}

// DNS says what answers at the guest's resolver address.
type DNS struct {
	// Off means nothing answers, and the guest's resolv.conf is left alone.
	Off bool

	// Servers are the resolvers that get the guest's queries; none means those
	// of the host's resolv.conf, followed when it changes.
	Servers []netip.AddrPort
}
