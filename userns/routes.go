package userns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routes returns all routes of a setup in an order in which they can be added:
// what makes gateways reachable comes before them.
func (setup *Setup) routes() []Route {
	var routes []Route
	for _, gateway := range setup.Gateways {
		everything := netip.PrefixFrom(gateway, 0).Masked()
		routes = append(routes, Route{Destination: everything, Gateway: gateway})
	}
	routes = append(routes, setup.Routes...)
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

// addRoutes adds routes through the device of that index.
func addRoutes(h *netlink.Handle, index int, routes []Route) error {
	for _, r := range routes {
		err := h.RouteAdd(r.netlink(index))
		if errors.Is(err, unix.EEXIST) {
			err = sameRoute(h, index, r)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", r, err)
		}
	}
	return nil
}

// sameRoute returns nil if the route that is in the way is the same one.
func sameRoute(h *netlink.Handle, index int, r Route) error {
	route := r.netlink(index)
	const all = netlink.RT_FILTER_DST | netlink.RT_FILTER_GW | netlink.RT_FILTER_OIF
	routes, err := h.RouteListFiltered(family(r.Destination.Addr()), route, all)
	if err != nil {
		return err
	}
	if len(routes) == 0 {
		return unix.EEXIST
	}
	return nil
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

// netlink returns the route through the device of that index.
func (r Route) netlink(index int) *netlink.Route {
	addr := r.Destination.Addr()
	route := &netlink.Route{
		LinkIndex: index,
		Dst: &net.IPNet{
			IP:   addr.AsSlice(),
			Mask: net.CIDRMask(r.Destination.Bits(), addr.BitLen()),
		},
		Priority: r.Metric,
	}
	switch {
	case r.Gateway.IsValid():
		route.Gw = r.Gateway.AsSlice()
		if r.OnLink {
			route.Flags = int(netlink.FLAG_ONLINK)
		}
	case addr.Is4():
		route.Scope = netlink.SCOPE_LINK
	}
	return route
}

// family returns the address family of an address.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
