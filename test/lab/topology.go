package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of every laboratory, all from the ranges for documentation
// (RFC 5737, RFC 3849).
const (
	Host4   = "192.0.2.2"
	Host6   = "2001:db8:0:1::2"
	Router4 = "192.0.2.1"
	Router6 = "2001:db8:0:1::1"

	// The servers' addresses.
	Outside4 = "198.51.100.1"
	Outside6 = "2001:db8:0:2::1"
	// More addresses of the same servers.
	Second4 = "203.0.113.1"
	Second6 = "2001:db8:3::1"
	// Metadata is where clouds keep their secrets (RFC 3927 range). The
	// outside answers there.
	Metadata4 = "169.254.169.254"
	Metadata6 = "fd00:ec2::254"

	// The router answers: host unreachable (ICMP 3/1, 1/3). For IPv6 there
	// is no such route, so nobody has this address on the last link; to
	// find out takes the router three seconds.
	NoHost4 = "203.0.113.65"
	NoHost6 = "2001:db8:0:2::dead"
	// The router has no route: network unreachable (3/0, 1/0).
	NoNet4 = "203.0.113.200"
	NoNet6 = "2001:db8:200::1"
	// The router answers: administratively prohibited (3/13, 1/1).
	Prohibited4 = "203.0.113.97"
	Prohibited6 = "2001:db8:99::1"
	// The router drops silently.
	Silent4 = "203.0.113.129"
	Silent6 = "2001:db8:128::1"
)

// Names of the interfaces: the host's only one, and the outside's.
const (
	HostInterface    = "eth0"
	OutsideInterface = "eth0"
)

// build makes the links, addresses and routes of the picture in doc.go.
func (l *Lab) build() error {
	return errors.Join(
		sysctls(l.Host, map[string]string{
			"net/ipv4/ping_group_range": fmt.Sprintf("0 %d", l.lastID()),
		}),
		sysctls(l.Router, map[string]string{
			"net/ipv4/ip_forward":          "1",
			"net/ipv6/conf/all/forwarding": "1",
		}),
		l.Host.up(), l.Router.up(), l.Outside.up(),
		cable(l.Router, "host0", l.Host, HostInterface),
		cable(l.Router, "out0", l.Outside, OutsideInterface),
		l.Host.addresses(HostInterface, Host4+"/24", Host6+"/64"),
		l.Router.addresses("host0", Router4+"/24", Router6+"/64"),
		l.Router.addresses("out0", "198.51.100.254/24", "2001:db8:0:2::fe/64"),
		l.Outside.addresses(OutsideInterface, Outside4+"/24", Outside6+"/64",
			Second4+"/32", Second6+"/128", Metadata4+"/32", Metadata6+"/128"),
		l.Host.route(unix.RTN_UNICAST, Router4, "0.0.0.0/0"),
		l.Host.route(unix.RTN_UNICAST, Router6, "::/0"),
		l.Outside.route(unix.RTN_UNICAST, "198.51.100.254", "0.0.0.0/0"),
		l.Outside.route(unix.RTN_UNICAST, "2001:db8:0:2::fe", "::/0"),
		l.Router.route(unix.RTN_UNICAST, Outside4, "203.0.113.0/26", Metadata4+"/32"),
		l.Router.route(unix.RTN_UNICAST, Outside6, "2001:db8:3::/48", Metadata6+"/128"),
		l.Router.route(unix.RTN_UNREACHABLE, "", NoHost4+"/32"),
		l.Router.route(unix.RTN_PROHIBIT, "", Prohibited4+"/32", "2001:db8:99::/48"),
		l.Router.route(unix.RTN_BLACKHOLE, "", "203.0.113.128/26", "2001:db8:128::/48"),
	)
}

// sysctls writes settings below /proc/sys, in the namespace's view of them.
func sysctls(n *Namespace, settings map[string]string) error {
	return n.Do(func() error {
		for name, value := range settings {
			if strings.HasPrefix(name, "net/ipv6/") && !hasIPv6() {
				continue
			}
			if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
		}
		return nil
	})
}

// Sysctl sets name, written with slashes, in the namespace. It fails the test
// when that is not possible.
func (n *Namespace) Sysctl(name, value string) {
	n.lab.t.Helper()
	if err := sysctls(n, map[string]string{name: value}); err != nil {
		n.lab.t.Fatal(err)
	}
}

// up starts the loopback interface and does away with duplicate address
// detection, which would keep new IPv6 addresses unusable for a second, and
// with the limit of six ICMP errors in a row, which tests would meet.
func (n *Namespace) up() error {
	err := sysctls(n, map[string]string{
		"net/ipv6/conf/default/accept_dad": "0",
		"net/ipv6/conf/all/accept_dad":     "0",
		"net/ipv6/conf/default/accept_ra":  "0",
		"net/ipv6/icmp/ratelimit":          "0",
		"net/ipv4/icmp_ratelimit":          "0",
	})
	if err != nil {
		return err
	}
	return n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("%s: find lo: %w", n.Name, err)
		}
		return netlink.LinkSetUp(lo)
	})
}

// cable joins two namespaces by a veth pair, both ends up.
func cable(a *Namespace, nameA string, b *Namespace, nameB string) error {
	err := a.Do(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = nameA
		veth := netlink.NewVeth(attributes)
		veth.PeerName = nameB
		veth.PeerNamespace = netlink.NsFd(int(b.net.Fd()))
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("cable %s to %s: %w", a.Name, b.Name, err)
		}
		return setUp(nameA)
	})
	if err != nil {
		return err
	}
	return b.Do(func() error { return setUp(nameB) })
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// addresses gives an interface addresses with their prefix lengths.
func (n *Namespace) addresses(name string, prefixes ...string) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: find %s: %w", n.Name, name, err)
		}
		for _, text := range prefixes {
			prefix := netip.MustParsePrefix(text)
			if prefix.Addr().Is6() && !hasIPv6() {
				continue
			}
			address := &netlink.Addr{IPNet: ipNet(prefix)}
			if prefix.Addr().Is6() {
				address.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, address); err != nil {
				return fmt.Errorf("%s: address %s: %w", n.Name, text, err)
			}
		}
		return nil
	})
}

// route adds routes of one type; via is "" for those that end here.
func (n *Namespace) route(kind int, via string, prefixes ...string) error {
	return n.Do(func() error {
		for _, text := range prefixes {
			prefix := netip.MustParsePrefix(text)
			if prefix.Addr().Is6() && !hasIPv6() {
				continue
			}
			route := &netlink.Route{Type: kind, Dst: ipNet(prefix)}
			if via != "" {
				route.Gw = net.ParseIP(via)
			}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("%s: route %s: %w", n.Name, text, err)
			}
		}
		return nil
	})
}

// Addresses gives an interface of the namespace more addresses, each written
// with its prefix length. It fails the test when that is not possible.
func (n *Namespace) Addresses(name string, prefixes ...string) {
	n.lab.t.Helper()
	if err := n.addresses(name, prefixes...); err != nil {
		n.lab.t.Fatal(err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
