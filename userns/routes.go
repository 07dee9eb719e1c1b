package userns

import (
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// routes returns all routes of a setup in an order in which they can be added:
// what makes gateways reachable comes before them.
func (setup *Setup) routes() []Route {
	routes := slices.Clone(setup.Routes)
	slices.SortStableFunc(routes, func(a, b Route) int { return a.rank() - b.rank() })
	return routes
}

// rank is lower for a route that others may need: on the link before through a
// gateway, and to many addresses last.
func (r Route) rank() int {
	if !r.Gateway.IsValid() {
		return 0
	}
	return 1 + r.Destination.Addr().BitLen() - r.Destination.Bits()
}

// String returns the route in words.
func (r Route) String() string {
	s := "default route"
	if r.Destination.Bits() > 0 {
		s = "route to " + r.Destination.String()
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	return s
}

// header returns what a message of the route starts with.
func (r Route) header() unix.RtMsg {
	addr := r.Destination.Addr()
	h := unix.RtMsg{
		Family:  uint8(family(addr)),
		Dst_len: uint8(r.Destination.Bits()),
		Table:   unix.RT_TABLE_MAIN,
		Type:    unix.RTN_UNICAST,
	}
	switch {
	case r.Gateway.IsValid() && r.OnLink:
		h.Flags = unix.RTNH_F_ONLINK
	case !r.Gateway.IsValid() && addr.Is4():
		h.Scope = unix.RT_SCOPE_LINK
	}
	return h
}

// encode encodes the attributes of the route through a device.
func (r Route) encode(a *netlink.AttributeEncoder, link int32) {
	a.Bytes(unix.RTA_DST, r.Destination.Addr().AsSlice())
	if r.Gateway.IsValid() {
		a.Bytes(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	if r.Metric != 0 {
		a.Uint32(unix.RTA_PRIORITY, uint32(r.Metric))
	}
	a.Uint32(unix.RTA_OIF, uint32(link))
}

// addRoute adds a route through a device.
func (n *rtnl) addRoute(link int32, r Route) error {
	header := r.header()
	header.Protocol = unix.RTPROT_BOOT
	return n.set(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, header, func(a *netlink.AttributeEncoder) { r.encode(a, link) })
}

// deleteRoute removes a route through a device, whoever has set it.
func (n *rtnl) deleteRoute(link int32, r Route) error {
	return n.set(unix.RTM_DELROUTE, 0, r.header(), func(a *netlink.AttributeEncoder) { r.encode(a, link) })
}

// hasRoute tells whether there is a route to the same destination through the
// same gateway and device.
func (n *rtnl) hasRoute(link int32, r Route) (bool, error) {
	header := unix.RtMsg{Family: uint8(family(r.Destination.Addr()))}
	answers, err := n.execute(unix.RTM_GETROUTE, netlink.Dump, header, func(*netlink.AttributeEncoder) {})
	if err != nil {
		return false, err
	}
	want := mainRoute{r.Destination.Masked(), r.Gateway, uint32(link)}
	return slices.ContainsFunc(answers, func(m netlink.Message) bool {
		got, ok := parseRoute(m)
		return ok && got == want
	}), nil
}

// A mainRoute is a unicast route of the main table with one next hop.
type mainRoute struct {
	destination netip.Prefix
	gateway     netip.Addr // invalid for none
	link        uint32
}

// parseRoute returns the route of a message; false if it is another kind of
// route, or none.
func parseRoute(m netlink.Message) (r mainRoute, ok bool) {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return r, false
	}
	family, bits, table, kind := m.Data[0], int(m.Data[1]), m.Data[4], m.Data[7]
	a, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofRtMsg:])
	if err != nil || table != unix.RT_TABLE_MAIN || kind != unix.RTN_UNICAST {
		return r, false
	}
	destination := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		destination = netip.IPv6Unspecified()
	}
	for a.Next() {
		switch a.Type() {
		case unix.RTA_DST:
			destination, _ = netip.AddrFromSlice(a.Bytes())
		case unix.RTA_GATEWAY:
			r.gateway, _ = netip.AddrFromSlice(a.Bytes())
		case unix.RTA_OIF:
			r.link = a.Uint32()
		}
	}
	r.destination = netip.PrefixFrom(destination, bits).Masked()
	return r, a.Err() == nil && r.destination.IsValid()
}
