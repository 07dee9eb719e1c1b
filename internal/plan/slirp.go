package plan

import (
	"net"
	"net/netip"
)

// Slirp is the network of slirp4netns: the places of Offsets in a network that
// is used as it is asked for, any address of which the guest may send from.
type Slirp struct {
	Interface string           // "" means tap0
	MTU       int              // 0 means DefaultMTU
	MAC       net.HardwareAddr // nil means a random one

	// Net4 is the IPv4 network; the zero value means 10.0.2.0/24.
	Net4 netip.Prefix

	// IPv6 adds fd00::/64, from which the guest's kernel forms its address by
	// router advertisements.
	IPv6 bool
}

// Places that slirp4netns gives away by DHCP.
const (
	poolOffset = 15
	poolSize   = 16
)

// slirpLinkLocal is where the router advertisements of slirp4netns come from.
var slirpLinkLocal = netip.MustParseAddr("fe80::2")

// Plan implements engine.Planner. It never warns.
func (s Slirp) Plan(Warn) (Plan, error) {
	o := Offsets{Interface: s.Interface, MTU: s.MTU, MAC: s.MAC, Net4: Network{Prefix: s.Net4}, Net6: Network{Off: !s.IPv6}}
	p, err := o.plan(nil, nil)
	if err != nil {
		return Plan{}, err
	}
	network := p.V4.First().Masked()
	p.V4.Sources = []netip.Prefix{network}
	p.V4.Pool, p.V4.PoolSize = offset(network.Addr(), poolOffset), poolSize
	if s.IPv6 {
		network := p.V6.First().Masked()
		p.LinkLocal = slirpLinkLocal
		p.V6.Advertised = true
		p.V6.Sources = []netip.Prefix{network}
		p.V6.Guest = []netip.Prefix{autonomous(network, p.MAC)}
		p.V6.Routes = nil
	}
	return p, nil
}

// autonomous returns the address that a host with this hardware address forms
// in network, which is a /64 (RFC 4862 §5.5.3, RFC 4291 appendix A).
func autonomous(network netip.Prefix, mac net.HardwareAddr) netip.Prefix {
	b := network.Addr().As16()
	copy(b[8:11], mac[:3])
	b[8] ^= 2
	b[11], b[12] = 0xff, 0xfe
	copy(b[13:], mac[3:])
	return netip.PrefixFrom(netip.AddrFrom16(b), network.Bits())
}
