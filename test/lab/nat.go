package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of the network behind the host that [Lab.Behind] makes: its interface, and
// the addresses of host and guest.
const (
	BehindInterface = "tap0"
	BehindGateway4  = "10.0.2.2"
	BehindGateway6  = "fd00::2"
	BehindGuest4    = "10.0.2.100"
	BehindGuest6    = "fd00::64"
)

// behindHost is the host's end of the cable to the namespace behind it.
const behindHost = "guest0"

// Behind makes one more namespace: a guest that the host's kernel itself
// connects, with forwarding and masquerading, as root would connect a
// container. What the host may not reach there either (Metadata4 and
// Metadata6) is answered "administratively prohibited". There may be one of
// them in a laboratory. It fails the test when that is not possible.
func (l *Lab) Behind(name string) *Namespace {
	l.t.Helper()
	n, err := newNamespace(l, name)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { n.close() })
	err = errors.Join(
		sysctls(l.Host, map[string]string{
			"net/ipv4/ip_forward":          "1",
			"net/ipv6/conf/all/forwarding": "1",
		}),
		n.up(),
		cable(l.Host, behindHost, n, BehindInterface),
		l.Host.addresses(behindHost, BehindGateway4+"/24", BehindGateway6+"/64"),
		n.addresses(BehindInterface, BehindGuest4+"/24", BehindGuest6+"/64"),
		n.route(unix.RTN_UNICAST, BehindGateway4, "0.0.0.0/0"),
		n.route(unix.RTN_UNICAST, BehindGateway6, "::/0"),
		l.Host.route(unix.RTN_PROHIBIT, "", Metadata4+"/32", Metadata6+"/128"),
		l.Host.Do(func() error { return masquerade(HostInterface) }),
	)
	if err != nil {
		l.t.Fatal(fmt.Errorf("%s behind the host: %w", name, err))
	}
	return n
}

// Masquerade makes what leaves the namespace by an interface look as if it
// came from there, for both families. It fails the test when that is not
// possible.
func (n *Namespace) Masquerade(name string) {
	n.lab.t.Helper()
	if err := n.Do(func() error { return masquerade(name) }); err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
}

// masquerade does that in the namespace of the calling thread.
func masquerade(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "lab"})
	chain := conn.AddChain(&nftables.Chain{
		Name:     "postrouting",
		Table:    table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
		&expr.Masq{},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("masquerade: %w", err)
	}
	return nil
}

// Drop makes the namespace's way to these addresses lead nowhere: packets
// vanish without an answer, as on a line that was cut. It fails the test when
// that is not possible.
func (n *Namespace) Drop(addresses ...string) {
	n.lab.t.Helper()
	n.changeHoles(netlink.RouteAdd, addresses)
}

// Mend undoes Drop.
func (n *Namespace) Mend(addresses ...string) {
	n.lab.t.Helper()
	n.changeHoles(netlink.RouteDel, addresses)
}

func (n *Namespace) changeHoles(change func(*netlink.Route) error, addresses []string) {
	n.lab.t.Helper()
	err := n.Do(func() error {
		for _, text := range addresses {
			a := netip.MustParseAddr(text)
			if a.Is6() && !hasIPv6() {
				continue
			}
			hole := &netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: ipNet(netip.PrefixFrom(a, a.BitLen()))}
			if err := change(hole); err != nil {
				return fmt.Errorf("blackhole %s: %w", text, err)
			}
		}
		return nil
	})
	if err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
}

// PathMTU makes the namespace, a router, say to packets for these addresses
// that are longer than mtu bytes that they are too big. Who sends them cannot
// know it before. It fails the test when that is not possible.
func (n *Namespace) PathMTU(mtu int, addresses ...string) {
	n.lab.t.Helper()
	err := n.Do(func() error {
		for _, text := range addresses {
			a := netip.MustParseAddr(text)
			ways, err := netlink.RouteGet(a.AsSlice())
			if err != nil || len(ways) == 0 {
				return fmt.Errorf("route to %s: %d ways, %w", text, len(ways), err)
			}
			narrow := &netlink.Route{
				LinkIndex: ways[0].LinkIndex, Scope: unix.RT_SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())),
				MTU: mtu, MTULock: true, // only a locked one counts for what is forwarded
			}
			if err := netlink.RouteAdd(narrow); err != nil {
				return fmt.Errorf("narrow way to %s: %w", text, err)
			}
		}
		return nil
	})
	if err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
}
