package plan

import (
	"fmt"
	"net"
	"net/netip"

	"taproot/userns"
)

// Places of the gateway, the resolver and the guest in their network. They are
// those of slirp4netns, which programs and people know.
const (
	gatewayOffset  = 2
	resolverOffset = 3
	guestOffset    = 100
)

// Offsets is a private network, in which offset 2 is the gateway, 3 the
// resolver and 100 the guest.
type Offsets struct {
	Interface string           // "" means tap0
	MTU       int              // 0 means DefaultMTU
	MAC       net.HardwareAddr // nil means a random one

	Net4, Net6 Network
}

// A Network is the choice of one family's network.
type Network struct {
	// Off leaves the family out of the guest.
	Off bool

	// Auto picks a range that does not clash with the host's routes.
	Auto bool

	// Prefix is the network; the zero value means 10.0.2.0/24 or fd00::/64.
	Prefix netip.Prefix
}

// Plan makes the choices that are left open. It warns of a network that hides
// one of the host's.
func (o Offsets) Plan(warn Warn) (Plan, error) {
	routes, err := hostRoutes()
	if err != nil {
		warn.warn(fmt.Sprintf("clashes not looked for: %v", err), "")
	}
	return o.plan(routes, warn)
}

// plan is Plan for a host with these routes.
func (o Offsets) plan(routes []route, warn Warn) (Plan, error) {
	p := Plan{Interface: o.Interface, MTU: o.MTU, MAC: o.MAC, GatewayMAC: gatewayMAC()}
	if p.Interface == "" {
		p.Interface = "tap0"
	}
	if p.MTU == 0 {
		p.MTU = DefaultMTU
	}
	if p.MAC == nil {
		p.MAC = randomMAC()
	}
	if o.Net4.Off && o.Net6.Off {
		return Plan{}, errNoFamily
	}
	var err error
	if p.V4, err = choose(o.Net4, candidates4(), routes, warn); err != nil {
		return Plan{}, err
	}
	if p.V6, err = choose(o.Net6, candidates6(), routes, warn); err != nil {
		return Plan{}, err
	}
	return p, nil
}

// newFamily places gateway, resolver and guest in prefix.
func newFamily(prefix netip.Prefix) (Family, error) {
	prefix = prefix.Masked()
	guest := offset(prefix.Addr(), guestOffset)
	last := offset(prefix.Addr(), guestOffset+1) // the broadcast address at the least
	if !prefix.Contains(guest) || prefix.Addr().Is4() && !prefix.Contains(last) {
		return Family{}, fmt.Errorf("network %v: no room for the guest at offset %d", prefix, guestOffset)
	}
	gateway := offset(prefix.Addr(), gatewayOffset)
	return Family{
		Guest:    []netip.Prefix{netip.PrefixFrom(guest, prefix.Bits())},
		Routes:   []userns.Route{defaultRoute(gateway)},
		Gateway:  gateway,
		Resolver: offset(prefix.Addr(), resolverOffset),
	}, nil
}

// offset returns the address that is n after a, whose last byte is zero or
// leaves room for n.
func offset(a netip.Addr, n uint8) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] += n
	a, _ = netip.AddrFromSlice(b)
	return a
}

// choose returns the family that n asks for. candidates are what its network
// may be when the choice is ours, the default first.
func choose(n Network, candidates []netip.Prefix, routes []route, warn Warn) (Family, error) {
	if n.Off {
		return Family{}, nil
	}
	if n.Auto {
		for _, c := range candidates {
			if _, found := clash(c, routes); !found {
				return newFamily(c)
			}
		}
		return Family{}, fmt.Errorf("choose a network: all of %d ranges from %v on clash with the host's routes", len(candidates), candidates[0])
	}
	prefix := n.Prefix
	if !prefix.IsValid() {
		prefix = candidates[0]
	}
	if prefix.Addr().Is4() != candidates[0].Addr().Is4() {
		return Family{}, fmt.Errorf("network %v: want one like %v", prefix, candidates[0])
	}
	if r, found := clash(prefix, routes); found {
		option := "--net"
		if prefix.Addr().Is6() {
			option = "--net6"
		}
		warn.warn(fmt.Sprintf("the guest's network %v hides the host's route %v", prefix.Masked(), r), option+"=auto picks a free one")
	}
	return newFamily(prefix)
}

// candidates4 are 10.0.2.0/24 to 10.0.255.0/24, then 192.168.0.0/24 and up.
func candidates4() []netip.Prefix {
	var list []netip.Prefix
	for i := 2; i < 256; i++ {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24))
	}
	for i := range 256 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24))
	}
	return list
}

// candidates6 are fd00::/64 to fd00:0:0:ff::/64, then fd74:6170::/64 and up.
func candidates6() []netip.Prefix {
	var list []netip.Prefix
	for _, head := range [][4]byte{{0xfd, 0}, {0xfd, 't', 'a', 'p'}} {
		for i := range 256 {
			list = append(list, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: head[0], 1: head[1], 2: head[2], 3: head[3], 7: byte(i)}), 64))
		}
	}
	return list
}
