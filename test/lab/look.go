package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NamespaceOf is the network namespace of a process, together with the host's
// mounts. The process may end before it.
func (l *Lab) NamespaceOf(pid int, name string) *Namespace {
	l.t.Helper()
	n := &Namespace{Name: name, lab: l, mnt: l.Host.mnt}
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	var err1, err2 error
	n.net, err1 = os.Open(path)
	n.id, err2 = os.Readlink(path)
	if err := errors.Join(err1, err2); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { n.net.Close() })
	return n
}

// ID is the namespace as readlink(2) of /proc/PID/ns/net says it.
func (n *Namespace) ID() string { return n.id }

// A Link is what a network interface looks like.
type Link struct {
	Name      string
	MTU       int // bytes of IP packet
	Up        bool
	Multicast bool
	MAC       string
	Addresses []string // with prefix lengths, sorted; not those of the link only
	Tentative []string // those of Addresses that cannot be used yet
	Silent    bool     // it has an address of the link only, which cannot be used yet
	Routes    []string // "DESTINATION[ via GATEWAY]", sorted; only those somebody has set
}

// Links describes the interfaces of the namespace except lo. It fails the test
// when that is not possible.
func (n *Namespace) Links() []Link {
	n.lab.t.Helper()
	var found []Link
	err := n.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			if l.Attrs().Name == "lo" {
				continue
			}
			described, err := describe(l)
			if err != nil {
				return err
			}
			found = append(found, described)
		}
		return nil
	})
	if err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
	return found
}

func describe(l netlink.Link) (Link, error) {
	a := l.Attrs()
	d := Link{
		Name: a.Name, MTU: a.MTU, MAC: a.HardwareAddr.String(),
		Up: a.RawFlags&unix.IFF_UP != 0, Multicast: a.RawFlags&unix.IFF_MULTICAST != 0,
	}
	addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return d, fmt.Errorf("list addresses of %s: %w", a.Name, err)
	}
	for _, address := range addresses {
		tentative := address.Flags&unix.IFA_F_TENTATIVE != 0
		if address.Scope == unix.RT_SCOPE_LINK {
			d.Silent = d.Silent || tentative
			continue
		}
		d.Addresses = append(d.Addresses, address.IPNet.String())
		if tentative {
			d.Tentative = append(d.Tentative, address.IPNet.String())
		}
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return d, fmt.Errorf("list routes of %s: %w", a.Name, err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL {
			d.Routes = append(d.Routes, routeText(r))
		}
	}
	slices.Sort(d.Addresses)
	slices.Sort(d.Routes)
	return d, nil
}

func routeText(r netlink.Route) string {
	var b strings.Builder
	switch {
	case r.Dst != nil:
		b.WriteString(r.Dst.String())
	case r.Gw.To4() != nil || r.Family == netlink.FAMILY_V4:
		b.WriteString("0.0.0.0/0")
	default:
		b.WriteString("::/0")
	}
	if r.Gw != nil {
		b.WriteString(" via " + r.Gw.String())
	}
	return b.String()
}

// AddRoute adds a route to the namespace, over an interface; via is "" for one
// that needs no gateway. It fails the test when that is not possible.
func (n *Namespace) AddRoute(name, destination, via string) {
	n.lab.t.Helper()
	n.changeRoute(netlink.RouteAdd, name, destination, via)
}

// RemoveRoute is the reverse of AddRoute.
func (n *Namespace) RemoveRoute(name, destination, via string) {
	n.lab.t.Helper()
	n.changeRoute(netlink.RouteDel, name, destination, via)
}

func (n *Namespace) changeRoute(change func(*netlink.Route) error, name, destination, via string) {
	n.lab.t.Helper()
	err := n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(destination))}
		if via != "" {
			r.Gw = netip.MustParseAddr(via).AsSlice()
		} else {
			r.Scope = unix.RT_SCOPE_LINK
		}
		return change(r)
	})
	if err != nil {
		n.lab.t.Fatalf("%s: route %s: %v", n.Name, destination, err)
	}
}

// RemoveAddress takes an address, written with its prefix length, from an
// interface. It fails the test when that is not possible.
func (n *Namespace) RemoveAddress(name, prefix string) {
	n.lab.t.Helper()
	err := n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(prefix))})
	})
	if err != nil {
		n.lab.t.Fatalf("%s: address %s: %v", n.Name, prefix, err)
	}
}
