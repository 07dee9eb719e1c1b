package plan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A route is one of the host's unicast routes.
type route struct {
	prefix  netip.Prefix
	device  string
	gateway netip.Addr // invalid if what it leads to is on the link
	metric  int
	onLink  bool // the gateway is on the link whatever the addresses say
	kernel  bool // made by the kernel together with an address
}

// String returns the route as ip(8) prints it.
func (r route) String() string { return fmt.Sprintf("%v dev %s", r.prefix, r.device) }

// hostRoutes returns the host's unicast routes of both families in the main
// table, without those of the loopback device and link-local ones.
func hostRoutes() ([]route, error) {
	names, err := hostLinks()
	if err != nil {
		return nil, err
	}
	all, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	var routes []route
	for _, r := range all {
		prefix, ok := toPrefix(r.Dst)
		if !ok || r.Type != unix.RTN_UNICAST || prefix.Addr().IsLinkLocalUnicast() || prefix.Addr().IsMulticast() {
			continue
		}
		base := route{prefix: prefix, metric: r.Priority, kernel: r.Protocol == unix.RTPROT_KERNEL}
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Flags: r.Flags}}
		}
		for _, h := range hops {
			name, known := names[h.LinkIndex]
			if !known {
				continue
			}
			hop := base
			hop.device, hop.onLink = name, h.Flags&unix.RTNH_F_ONLINK != 0
			if gateway, ok := netip.AddrFromSlice(h.Gw); ok {
				hop.gateway = gateway.Unmap()
			}
			routes = append(routes, hop)
		}
	}
	return routes, nil
}

// wholeTries is how often whole asks. An answer comes in parts of some 32 KiB,
// so that only hosts with hundreds of routes ever meet a change in between.
const wholeTries = 10

// whole calls list again if what it lists changed meanwhile (NLM_F_DUMP_INTR
// of linux/netlink.h): then something may be missing or be there twice.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range wholeTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}

// hostLinks returns the names of the host's interfaces but the loopback.
func hostLinks() (map[int]string, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	names := make(map[int]string)
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			names[l.Attrs().Index] = l.Attrs().Name
		}
	}
	return names, nil
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

// clash returns the first of routes, default routes apart, that overlaps
// prefix.
func clash(prefix netip.Prefix, routes []route) (route, bool) {
	for _, r := range routes {
		if r.prefix.Bits() > 0 && r.prefix.Overlaps(prefix) {
			return r, true
		}
	}
	return route{}, false
}

// An address is one of the host's.
type address struct {
	prefix netip.Prefix
	device string // "" for the loopback's
}

// hostAddresses returns all addresses of the host's interfaces.
func hostAddresses() ([]address, error) {
	names, err := hostLinks()
	if err != nil {
		return nil, err
	}
	list, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var addrs []address
	for _, a := range list {
		if prefix, ok := toPrefix(a.IPNet); ok {
			addrs = append(addrs, address{prefix, names[a.LinkIndex]})
		}
	}
	return addrs, nil
}

// HostAddresses returns all addresses of the host's interfaces.
func HostAddresses() ([]netip.Addr, error) {
	list, err := hostAddresses()
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, len(list))
	for i, a := range list {
		addrs[i] = a.prefix.Addr()
	}
	return addrs, nil
}
