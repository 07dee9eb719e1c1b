package lab

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of a network nested in a guest's, as container engines make it: the guest's
// bridge, its addresses and networks, and those of the container.
const (
	NestedBridge   = "br0"
	NestedGateway4 = "172.30.0.1"
	NestedGateway6 = "fd00:30::1"
	Nested4        = "172.30.0.2"
	Nested6        = "fd00:30::2"
	NestedNet4     = "172.30.0.0/24"
	NestedNet6     = "fd00:30::/64"
)

// Nest makes a namespace behind this one, which forwards from now on: a bridge,
// a veth pair, addresses and default routes. Nothing is masqueraded. It fails
// the test when that is not possible.
func (n *Namespace) Nest(name string) *Namespace {
	n.lab.t.Helper()
	inner, err := newNamespace(n.lab, name)
	if err != nil {
		n.lab.t.Fatal(err)
	}
	n.lab.t.Cleanup(func() { inner.close() })
	const port = "port0"
	err = errors.Join(
		sysctls(n, map[string]string{
			"net/ipv4/ip_forward":          "1",
			"net/ipv6/conf/all/forwarding": "1",
		}),
		inner.up(),
		cable(n, port, inner, "eth0"),
		n.bridge(NestedBridge, port),
		n.addresses(NestedBridge, NestedGateway4+"/24", NestedGateway6+"/64"),
		inner.addresses("eth0", Nested4+"/24", Nested6+"/64"),
		inner.route(unix.RTN_UNICAST, NestedGateway4, "0.0.0.0/0"),
		inner.route(unix.RTN_UNICAST, NestedGateway6, "::/0"),
	)
	if err != nil {
		n.lab.t.Fatal(fmt.Errorf("%s behind %s: %w", name, n.Name, err))
	}
	return inner
}

// bridge makes a bridge with one port.
func (n *Namespace) bridge(name, port string) error {
	return n.Do(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = name
		bridge := &netlink.Bridge{LinkAttrs: attributes}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("%s: add %s: %w", n.Name, name, err)
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return fmt.Errorf("%s: find %s: %w", n.Name, port, err)
		}
		if err := netlink.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("%s: %s into %s: %w", n.Name, port, name, err)
		}
		return setUp(name)
	})
}
