package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names and addresses (RFC 2544 §C.2.2: 198.18.0.0/15 is for benchmarks) of
// the cable between host and outside that everything is measured over, and of
// the one between host and guest that the kernel limit uses.
const (
	cableName      = "bench0"
	cableHost      = "198.18.0.1/24"
	cableOutside   = "198.18.0.2/24"
	cableMTU       = 65535 // the most that a veth takes
	limitName      = "guest0"
	limitHost      = "198.18.1.1/24"
	limitGuest     = "198.18.1.2/24"
	guestInterface = "tap0"
	tableName      = "bench"
)

// attachVeth gives the network namespace of process pid an interface, an
// address and a default route through the calling one, which forwards and
// masquerades as it would for a rootful container.
func attachVeth(pid, mtu int) error {
	guest, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer guest.Close()
	if _, err := addVeth(limitName, guest, mtu); err != nil {
		return err
	}
	// The masquerade exists only while the limit is measured: connection
	// tracking would cost the other contestants too.
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		addMasquerade(netip.MustParsePrefix(limitHost), limitName),
		configure(limitName, limitHost, mtu),
		// Last: the guest tries to connect all the time.
		configureGuest(guest, limitGuest, netip.MustParsePrefix(limitHost).Addr(), mtu),
	)
}

// addVeth adds a veth pair: one end with a name in the calling namespace, the
// other, guestInterface, in a guest's.
func addVeth(name string, guest *os.File, mtu int) (netlink.Link, error) {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = name, mtu
	veth := netlink.NewVeth(attributes)
	veth.PeerName = guestInterface
	veth.PeerNamespace = netlink.NsFd(int(guest.Fd()))
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("add %s: %w", name, err)
	}
	return veth, nil
}

// configureGuest sets up the other end of a veth pair.
func configureGuest(guest *os.File, address string, gateway netip.Addr, mtu int) error {
	return inNetwork(guest, func() error {
		if err := configure(guestInterface, address, mtu); err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("default route: %w", err)
		}
		return nil
	})
}

// inNetwork calls f in a network namespace.
func inNetwork(away *os.File, f func() error) error {
	return elsewhere(func() error {
		if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network: %w", err)
		}
		return f()
	})
}

// elsewhere calls f, which may change the calling thread's network namespace,
// and changes it back.
func elsewhere(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("return to network: %w", back))
	}
	// A thread that ended instead would take with it the guests that it has
	// started: their parent-death signal is bound to it.
	runtime.UnlockOSThread()
	return err
}

// configure gives an interface of the calling thread's namespace its MTU and address and sets it up.
func configure(name, address string, mtu int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	prefix := netip.MustParsePrefix(address)
	ipNet := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("%s: MTU %d: %w", name, mtu, err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet}); err != nil {
		return fmt.Errorf("%s: address %s: %w", name, address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: up: %w", name, err)
	}
	return nil
}

// addMasquerade makes what comes from a network look as if it came from here,
// unless it leaves by the interface of that network. The network's prefix must
// be 24 bits long.
func addMasquerade(network netip.Prefix, inside string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	chain := conn.AddChain(&nftables.Chain{
		Name:     "postrouting",
		Table:    table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, inside)
	address := network.Addr().As4()
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 3}, // ip saddr
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address[:3]},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name},
		&expr.Masq{},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add masquerade: %w", err)
	}
	return nil
}

// detachVeth undoes attachVeth. The pair would go with the guest by itself,
// but only some time after the guest has ended.
func detachVeth() error {
	return errors.Join(removeLink(), removeMasquerade())
}

// removeLink removes the veth pair if it is still there.
func removeLink() error {
	link, err := netlink.LinkByName(limitName)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", limitName, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", limitName, err)
	}
	return nil
}

// removeMasquerade undoes addMasquerade.
func removeMasquerade() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove masquerade: %w", err)
	}
	return nil
}

// loopbackRows are the keys of the rows that mean something without a guest: an
// MTU does not, but for that of loopback, which is about mtuLarge.
func loopbackRows() []string {
	keys := []string{"pingpong-p50", "pingpong-p99", inGuest.segmentKey(false), inGuest.segmentKey(true), "dns-queries"}
	for _, s := range streams() {
		if s.mtu == mtuLarge {
			keys = append(keys, s.rateKey())
		}
	}
	for _, n := range connectClients() {
		keys = append(keys, inGuest.key("connect", n))
	}
	for _, n := range requestFlows() {
		keys = append(keys, inGuest.requestKey(n))
	}
	return keys
}
