package engine

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A route is one of the host's that is not its default.
type route struct {
	prefix netip.Prefix
	device string
}

// String returns the route as ip(8) prints it.
func (r route) String() string { return fmt.Sprintf("%v dev %s", r.prefix, r.device) }

// hostRoutes returns the host's unicast routes of both families, without
// default routes, link-local ones and those of the loopback device.
func hostRoutes() ([]route, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	names := make(map[int]string)
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			names[l.Attrs().Index] = l.Attrs().Name
		}
	}
	all, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	var routes []route
	for _, r := range all {
		prefix, ok := toPrefix(r.Dst)
		name, known := names[r.LinkIndex]
		if ok && known && r.Type == unix.RTN_UNICAST && prefix.Bits() > 0 && !prefix.Addr().IsLinkLocalUnicast() && !prefix.Addr().IsMulticast() {
			routes = append(routes, route{prefix, name})
		}
	}
	return routes, nil
}

// toPrefix returns n as netip has it; false for no network at all.
func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

// clash returns the first of routes that overlaps prefix.
func clash(prefix netip.Prefix, routes []route) (route, bool) {
	for _, r := range routes {
		if r.prefix.Overlaps(prefix) {
			return r, true
		}
	}
	return route{}, false
}

// hostAddresses returns all addresses of the host's interfaces.
func hostAddresses() ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs, nil
}
