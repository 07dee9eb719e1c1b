package engine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"taproot/userns"
)

// Places of the gateway, the resolver and the guest in their network. They are
// those of slirp4netns, which programs and people know.
const (
	gatewayOffset  = 2
	resolverOffset = 3
	guestOffset    = 100
)

// defaultMTU is what Ethernet has, in bytes of IP packet: the truth about most
// paths, and with offloads as fast as more.
const defaultMTU = 1500

// gatewayMAC is the gateway's hardware address: locally administered, and the
// same for every guest, which never meet.
var gatewayMAC = [6]byte{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}

// A network is one family of the guest's network. The zero value is a family
// that is off.
type network struct {
	prefix                   netip.Prefix
	gateway, resolver, guest netip.Addr
}

// newNetwork places gateway, resolver and guest in prefix.
func newNetwork(prefix netip.Prefix) (network, error) {
	prefix = prefix.Masked()
	n := network{prefix: prefix}
	for _, p := range []struct {
		offset uint8
		to     *netip.Addr
	}{{gatewayOffset, &n.gateway}, {resolverOffset, &n.resolver}, {guestOffset, &n.guest}} {
		*p.to = offset(prefix.Addr(), p.offset)
	}
	last := offset(prefix.Addr(), guestOffset+1) // the broadcast address at the least
	if !prefix.Contains(n.guest) || prefix.Addr().Is4() && !prefix.Contains(last) {
		return network{}, fmt.Errorf("network %v: no room for the guest at offset %d", prefix, guestOffset)
	}
	return n, nil
}

// offset returns the address that is n after a, whose last byte is zero or
// leaves room for n.
func offset(a netip.Addr, n uint8) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] += n
	a, _ = netip.AddrFromSlice(b)
	return a
}

// on tells whether the guest has this family.
func (n network) on() bool { return n.prefix.IsValid() }

// guestPrefix returns the guest's address with the length of its network.
func (n network) guestPrefix() netip.Prefix {
	if !n.on() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(n.guest, n.prefix.Bits())
}

// A plan is a Config with all choices made.
type plan struct {
	name   string
	mtu    int
	mac    net.HardwareAddr // the guest's
	v4, v6 network
}

// errNoFamily says that both families are off.
var errNoFamily = errors.New("both IPv4 and IPv6 are off")

// newPlan makes the choices that a Config leaves open. routes are the host's.
func newPlan(cfg Config, routes []route) (plan, error) {
	p := plan{name: cfg.Interface, mtu: cfg.MTU, mac: cfg.MAC}
	if p.name == "" {
		p.name = "tap0"
	}
	if p.mtu == 0 {
		p.mtu = defaultMTU
	}
	if p.mac == nil {
		p.mac = randomMAC()
	}
	if cfg.Net4.Off && cfg.Net6.Off {
		return plan{}, errNoFamily
	}
	var err error
	if p.v4, err = choose(cfg.Net4, candidates4(), routes, cfg.warn); err != nil {
		return plan{}, err
	}
	if p.v6, err = choose(cfg.Net6, candidates6(), routes, cfg.warn); err != nil {
		return plan{}, err
	}
	return p, nil
}

func (cfg Config) warn(message, hint string) {
	if cfg.Warn != nil {
		cfg.Warn(message, hint)
	}
}

// choose returns the network that n asks for. candidates are what it may be
// when the choice is ours, the default first.
func choose(n Network, candidates []netip.Prefix, routes []route, warn func(message, hint string)) (network, error) {
	if n.Off {
		return network{}, nil
	}
	if n.Auto {
		for _, c := range candidates {
			if _, found := clash(c, routes); !found {
				return newNetwork(c)
			}
		}
		return network{}, fmt.Errorf("choose a network: all of %d ranges from %v on clash with the host's routes", len(candidates), candidates[0])
	}
	prefix := n.Prefix
	if !prefix.IsValid() {
		prefix = candidates[0]
	}
	if prefix.Addr().Is4() != candidates[0].Addr().Is4() {
		return network{}, fmt.Errorf("network %v: want one like %v", prefix, candidates[0])
	}
	if r, found := clash(prefix, routes); found {
		option := "--net"
		if prefix.Addr().Is6() {
			option = "--net6"
		}
		warn(fmt.Sprintf("the guest's network %v hides the host's route %v", prefix.Masked(), r), option+"=auto picks a free one")
	}
	return newNetwork(prefix)
}

// candidates4 are 10.0.2.0/24 to 10.0.255.0/24, then 192.168.0.0/24 and up.
func candidates4() []netip.Prefix {
	var list []netip.Prefix
	for i := 2; i < 256; i++ {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24))
	}
	for i := range 256 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24))
	}
	return list
}

// candidates6 are fd00::/64 to fd00:0:0:ff::/64, then fd74:6170::/64 and up.
func candidates6() []netip.Prefix {
	var list []netip.Prefix
	for _, head := range [][4]byte{{0xfd, 0}, {0xfd, 't', 'a', 'p'}} {
		for i := range 256 {
			list = append(list, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: head[0], 1: head[1], 2: head[2], 3: head[3], 7: byte(i)}), 64))
		}
	}
	return list
}

// randomMAC returns a locally administered unicast address.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails, crypto/rand
	mac[0] = mac[0]&^1 | 2
	return mac
}

// setup returns what the stage makes in the guest's namespaces.
func (p plan) setup() userns.Setup {
	s := userns.Setup{Interface: p.name, MTU: p.mtu, MAC: p.mac}
	for _, n := range []network{p.v4, p.v6} {
		if n.on() {
			s.Addresses = append(s.Addresses, n.guestPrefix())
			s.Gateways = append(s.Gateways, n.gateway)
		}
	}
	return s
}

// spec returns what the engine is told, without the host's state.
func (p plan) spec(cfg Config) *spec {
	return &spec{
		MTU: p.mtu, MAC: gatewayMAC[:],
		Guest4: p.v4.guestPrefix(), Guest6: p.v6.guestPrefix(),
		Gateway4: p.v4.gateway, Gateway6: p.v6.gateway,
		Resolver4: p.v4.resolver, Resolver6: p.v6.resolver,
		HostLoopback: cfg.HostLoopback, AllowHost: cfg.AllowHost, AllowLinkLocal: cfg.AllowLinkLocal,
		ServeDNS: !cfg.DNS.Off,
	}
}
