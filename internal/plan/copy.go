package plan

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"taproot/userns"
)

// Copy is the network of pasta: the addresses, the routes and the name of one
// of the host's interfaces, the template. What is given explicitly replaces
// what would be copied.
type Copy struct {
	// Template is the host's interface; "" means, for each family, that of the
	// default route, or the only one with a route.
	Template string

	Interface  string           // "" means the template's name, or tap0
	MTU        int              // 0 leaves the kernel's
	MAC        net.HardwareAddr // the guest's; nil leaves the kernel's
	GatewayMAC net.HardwareAddr // nil means 9a:55:9a:55:9a:55

	// MapGateway says that the gateway's address means the host, so that the
	// host's router itself is out of reach.
	MapGateway bool

	V4, V6 CopyFamily
}

// A CopyFamily is what Copy does for one address family. The zero value copies
// everything.
type CopyFamily struct {
	Off bool

	// Addresses replace the host's; then no routes are copied.
	Addresses []netip.Addr

	// Bits is the length of the network of Addresses; 0 means the host's, or
	// that of the address's class (RFC 791), or 64.
	Bits int

	// Gateway replaces the host's; then no routes are copied.
	Gateway netip.Addr

	// NoRoutes leaves out all routes but the default one, NoAddresses all
	// addresses but the first.
	NoRoutes, NoAddresses bool

	// Resolver is where the guest finds DNS; invalid if nowhere.
	Resolver netip.Addr
}

// Addresses of a guest whose host has no network (RFC 3927).
var (
	localGuest    = netip.MustParsePrefix("169.254.2.1/16")
	localGateway4 = netip.MustParseAddr("169.254.2.2")
	localGateway6 = netip.MustParseAddr("fe80::1")
	linkLocal6    = netip.MustParsePrefix("fe80::/10")
)

// A host is what Copy must know of the host's network.
type host struct {
	routes    []route
	addresses []address
}

// Plan copies what the host has now.
func (c Copy) Plan(warn Warn) (Plan, error) {
	var h host
	var err error
	if h.routes, err = hostRoutes(); err != nil {
		return Plan{}, err
	}
	if h.addresses, err = hostAddresses(); err != nil {
		return Plan{}, err
	}
	return c.plan(h)
}

// plan is Plan for a host.
func (c Copy) plan(h host) (Plan, error) {
	p := Plan{Interface: c.Interface, MTU: c.MTU, MAC: c.MAC, GatewayMAC: c.GatewayMAC, Neighbours: true, Follows: true}
	if p.GatewayMAC == nil {
		p.GatewayMAC = net.HardwareAddr{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}
	}
	if c.V4.Off && c.V6.Off {
		return Plan{}, errNoFamily
	}
	if c.Template != "" && !h.has(c.Template) {
		return Plan{}, fmt.Errorf("interface %s: no address and no route", c.Template)
	}
	device4, device6 := c.template(h, true), c.template(h, false)
	if !c.V4.Off {
		p.V4 = c.V4.family(h.of(device4, true), c.MapGateway)
	}
	if !c.V6.Off {
		p.V6 = c.V6.family(h.of(device6, false), c.MapGateway)
	}
	p.V6.autonomous()
	if p.Interface == "" {
		p.Interface = cmp.Or(device4, device6, "tap0")
	}
	if !p.V4.On() && !p.V6.On() && !p.V6.Gateway.IsValid() {
		c.local(&p)
	}
	if p.V6.Gateway.IsLinkLocalUnicast() {
		p.LinkLocal = p.V6.Gateway
	}
	return p, nil
}

// autonomous lets the guest form addresses of its own, as it could in the
// host's place, if its network has the size for it (RFC 4862 section 5.5.3).
func (f *Family) autonomous() {
	if f.First().Bits() == 64 {
		f.Autonomous, f.Sources = true, []netip.Prefix{f.First().Masked()}
	}
}

// local gives the guest link-local addresses: the host has no others.
func (c Copy) local(p *Plan) {
	if !c.V4.Off {
		p.V4 = c.V4.local(Family{Guest: []netip.Prefix{localGuest}, Gateway: localGateway4})
	}
	if !c.V6.Off {
		p.V6 = c.V6.local(Family{Sources: []netip.Prefix{linkLocal6}, Gateway: localGateway6})
	}
}

func (c *CopyFamily) local(f Family) Family {
	f.Routes, f.Resolver = []userns.Route{defaultRoute(f.Gateway)}, c.Resolver
	return f
}

// template returns the name of the interface to copy for a family, "" if there
// is none.
func (c Copy) template(h host, v4 bool) string {
	if c.Template != "" {
		return c.Template
	}
	devices := map[string]bool{}
	first := ""
	best := -1
	for _, r := range h.routes {
		if r.prefix.Addr().Is4() != v4 {
			continue
		}
		devices[r.device] = true
		if r.prefix.Bits() == 0 && (best < 0 || r.metric < best) {
			first, best = r.device, r.metric
		}
	}
	if first == "" && len(devices) == 1 {
		for first = range devices {
		}
	}
	return first
}

// has tells whether an interface has anything to copy.
func (h host) has(device string) bool {
	return slices.ContainsFunc(h.addresses, func(a address) bool { return a.device == device }) ||
		slices.ContainsFunc(h.routes, func(r route) bool { return r.device == device })
}

// of returns what one interface has of one family.
func (h host) of(device string, v4 bool) host {
	var of host
	for _, r := range h.routes {
		if r.device == device && r.prefix.Addr().Is4() == v4 {
			of.routes = append(of.routes, r)
		}
	}
	for _, a := range h.addresses {
		if a.device == device && device != "" && a.prefix.Addr().Is4() == v4 && !a.prefix.Addr().IsLinkLocalUnicast() {
			of.addresses = append(of.addresses, a)
		}
	}
	return of
}

// family copies one interface's addresses and routes of one family.
func (c *CopyFamily) family(h host, mapGateway bool) Family {
	f := Family{Guest: c.addresses(h), Gateway: c.Gateway, Foreign: !mapGateway, Resolver: c.Resolver}
	if !f.On() {
		return Family{}
	}
	if !f.Gateway.IsValid() {
		f.Gateway = h.gateway()
	}
	if len(h.addresses) > 0 {
		f.Host = h.addresses[0].prefix.Addr()
	}
	if c.Gateway.IsValid() || len(c.Addresses) > 0 || c.NoRoutes {
		if f.Gateway.IsValid() {
			f.Routes = []userns.Route{defaultRoute(f.Gateway)}
		}
	} else {
		f.Routes = h.copied()
	}
	for i := range f.Routes {
		r := &f.Routes[i]
		r.OnLink = r.OnLink || r.Gateway.IsValid() && !r.Gateway.IsLinkLocalUnicast() && !within(f.Guest, r.Gateway)
	}
	if !f.Gateway.IsValid() { // a link without one; errors need a source
		f.Gateway, f.Foreign = localGateway4, false
		if f.Guest[0].Addr().Is6() {
			f.Gateway = localGateway6
		}
	}
	return f
}

// addresses returns the guest's addresses.
func (c *CopyFamily) addresses(h host) []netip.Prefix {
	var list []netip.Prefix
	for _, a := range c.Addresses {
		list = append(list, netip.PrefixFrom(a, c.bits(a, h)))
	}
	if list != nil {
		return list
	}
	for _, a := range h.addresses {
		prefix := a.prefix
		if c.Bits != 0 {
			prefix = netip.PrefixFrom(prefix.Addr(), c.Bits)
		}
		list = append(list, prefix)
		if c.NoAddresses {
			break
		}
	}
	return list
}

// bits returns the length of the network of an address that was given.
func (c *CopyFamily) bits(a netip.Addr, h host) int {
	if c.Bits != 0 {
		return c.Bits
	}
	for _, own := range h.addresses {
		if own.prefix.Contains(a) {
			return own.prefix.Bits()
		}
	}
	if a.Is6() {
		return 64
	}
	switch b := a.As4(); { // RFC 791 section 3.2
	case b[0] < 128:
		return 8
	case b[0] < 192:
		return 16
	case b[0] < 224:
		return 24
	}
	return 32
}

// gateway returns the gateway of the best default route.
func (h host) gateway() netip.Addr {
	var best *route
	for i := range h.routes {
		if r := &h.routes[i]; r.prefix.Bits() == 0 && (best == nil || r.metric < best.metric) {
			best = r
		}
	}
	if best == nil {
		return netip.Addr{}
	}
	return best.gateway
}

// copied returns the routes for the guest. What the kernel makes with an
// address, it makes in the guest too.
func (h host) copied() []userns.Route {
	var list []userns.Route
	for _, r := range h.routes {
		if !r.kernel {
			list = append(list, userns.Route{Destination: r.prefix, Gateway: r.gateway, Metric: r.metric, OnLink: r.onLink})
		}
	}
	return list
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
