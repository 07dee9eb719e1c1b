package policy

import (
	"fmt"
	"net/netip"
)

// A Config says what the rules are. A family that the guest does not have is
// left out.
type Config struct {
	// Gateway4 and Gateway6 are the gateway's addresses as the guest sees
	// them; the host's loopback is reached there. They are left zero where the
	// guest was told of a real router, which it may talk to.
	Gateway4, Gateway6 netip.Addr

	// Resolver4 and Resolver6 are where the guest finds DNS.
	Resolver4, Resolver6 netip.Addr

	// Guests are the guest's own addresses with the length of their networks,
	// as in 10.0.2.100/24: the address, not the network. The guest may have
	// copied them from the host. See Rules.SetGuests.
	Guests []netip.Prefix

	// Sources are networks any address of which the guest may send from, save
	// for the gateway's, the resolver's and those that are no host's: where it
	// takes addresses by DHCP or makes them up by itself.
	Sources []netip.Prefix

	// HostLoopback are the ports of the host's loopback that the guest reaches
	// at the gateway's address, by TCP and UDP. Zero opens none.
	HostLoopback Ports

	// AllowHost are the ports of the host's own, non-loopback addresses that
	// the guest may reach, by TCP and UDP; echo has no port and needs "all".
	// Zero opens none.
	AllowHost Ports

	// Published tells whether a port of the host's own, non-loopback addresses
	// is one that leads back to the guest, which may reach it then. It must not
	// block; nil opens none.
	Published func(p Proto, dst netip.AddrPort) bool

	// AllowLinkLocal opens 169.254.0.0/16, fe80::/10 and the addresses of
	// cloud metadata services.
	AllowLinkLocal bool

	// HostAddrs are the host's own addresses, see Rules.SetHostAddrs.
	HostAddrs []netip.Addr

	// Maps are destinations that mean another address of the host's side, see
	// Rules.SetMaps.
	Maps []Map
}

func (c *Config) check() error {
	for _, f := range []struct {
		name string
		addr netip.Addr
		is   func(netip.Addr) bool
	}{
		{"Gateway4", c.Gateway4, netip.Addr.Is4},
		{"Resolver4", c.Resolver4, netip.Addr.Is4},
		{"Gateway6", c.Gateway6, is6},
		{"Resolver6", c.Resolver6, is6},
	} {
		if f.addr.IsValid() && !f.is(f.addr) {
			return fmt.Errorf("policy %s %s: wrong address family", f.name, f.addr)
		}
	}
	return nil
}

func is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }
