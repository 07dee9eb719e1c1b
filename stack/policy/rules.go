package policy

import (
	"fmt"
	"net/netip"
	"sync/atomic"
)

// A Config says what the rules are. A family that the guest does not have is
// left zero.
type Config struct {
	// Gateway4 and Gateway6 are the gateway's addresses as the guest sees
	// them; the host's loopback is reached there.
	Gateway4, Gateway6 netip.Addr

	// Resolver4 and Resolver6 are where the guest finds DNS.
	Resolver4, Resolver6 netip.Addr

	// Guest4 and Guest6 are the guest's own addresses with the length of
	// their networks, as in 10.0.2.100/24: the address, not the network.
	Guest4, Guest6 netip.Prefix

	// HostLoopback are the ports of the host's loopback that the guest reaches
	// at the gateway's address, by TCP and UDP. Zero opens none.
	HostLoopback Ports

	// AllowHost are the ports of the host's own, non-loopback addresses that
	// the guest may reach, by TCP and UDP; echo has no port and needs "all".
	// Zero opens none.
	AllowHost Ports

	// AllowLinkLocal opens 169.254.0.0/16, fe80::/10 and the addresses of
	// cloud metadata services.
	AllowLinkLocal bool

	// HostAddrs are the host's own addresses, see Rules.SetHostAddrs.
	HostAddrs []netip.Addr
}

// Rules are the address policy of one guest. They are safe for concurrent use
// and never block.
type Rules struct {
	config     Config // HostAddrs unused, see hostAddrs
	broadcast4 netip.Addr
	hostAddrs  atomic.Pointer[addrSet]
}

// An addrSet is never changed after it is published.
type addrSet map[netip.Addr]struct{}

// New returns the rules that config describes. It fails if an address is of
// the wrong family or Guest4 or Guest6 names a network instead of an address.
func New(config Config) (*Rules, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	r := &Rules{config: config, broadcast4: broadcast(config.Guest4)}
	r.SetHostAddrs(config.HostAddrs)
	r.config.HostAddrs = nil
	return r, nil
}

// SetHostAddrs replaces the host's own addresses, those that AllowHost is
// about. Zones are ignored. Flows that exist are not touched.
func (r *Rules) SetHostAddrs(addrs []netip.Addr) {
	set := make(addrSet, len(addrs))
	for _, a := range addrs {
		set[a.Unmap().WithZone("")] = struct{}{}
	}
	r.hostAddrs.Store(&set)
}

// Check decides whether the guest may reach dst, the destination as the guest
// wrote it, and returns the address to dial on the host for it. Otherwise err
// is a *Denied. For ICMP the port is 0 and means nothing.
func (r *Rules) Check(p Proto, dst netip.AddrPort) (target netip.AddrPort, err error) {
	addr := dst.Addr().Unmap().WithZone("")
	target = netip.AddrPortFrom(addr, dst.Port())
	if !addr.IsValid() {
		return netip.AddrPort{}, &Denied{ruleInvalid, p, dst}
	}
	if r.isGateway(addr) {
		if p == ICMP || !r.config.HostLoopback.Contains(dst.Port()) {
			return netip.AddrPort{}, &Denied{ruleHostLoopback, p, dst}
		}
		return netip.AddrPortFrom(loopbackFor(addr), dst.Port()), nil
	}
	rule := r.forbids(p, target)
	if v4, ok := embedded4(addr); ok && rule == "" {
		rule = r.forbidsEmbedded(p, netip.AddrPortFrom(v4, dst.Port()))
	}
	if rule != "" {
		return netip.AddrPort{}, &Denied{rule, p, dst}
	}
	return target, nil
}

// Source reports whether the guest may send from src: its own addresses, and
// any link-local one if it has IPv6. The unspecified address, which DHCP and
// duplicate address detection use, is not among them: whoever serves those
// accepts it there.
func (r *Rules) Source(src netip.Addr) bool {
	src = src.WithZone("")
	if src.Is4() {
		return r.config.Guest4.IsValid() && src == r.config.Guest4.Addr()
	}
	if !r.config.Guest6.IsValid() || src.Is4In6() {
		return false
	}
	return src == r.config.Guest6.Addr() || src.IsLinkLocalUnicast()
}

// forbids returns the name of the rule that forbids dst, or "". dst is valid,
// so that it never equals the zero Addr of a family that is left out. The
// gateway's addresses are not its business.
func (r *Rules) forbids(p Proto, dst netip.AddrPort) string {
	addr := dst.Addr()
	switch {
	case addr == r.config.Resolver4 || addr == r.config.Resolver6:
		return ruleResolver
	case addr == r.config.Guest4.Addr() || addr == r.config.Guest6.Addr():
		return ruleGuest
	case addr == r.broadcast4:
		return ruleBroadcast
	}
	if rule := never(addr); rule != "" {
		return rule
	}
	if r.isHost(addr) && !r.hostPort(p, dst.Port()) {
		return ruleHost
	}
	if isLinkLocal(addr) && !r.config.AllowLinkLocal {
		return ruleLinkLocal
	}
	return ""
}

// forbidsEmbedded is forbids for an IPv4 address found inside another one.
// There the gateway is not a way to anywhere.
func (r *Rules) forbidsEmbedded(p Proto, dst netip.AddrPort) string {
	if r.isGateway(dst.Addr()) {
		return ruleHostLoopback
	}
	return r.forbids(p, dst)
}

func (r *Rules) isGateway(addr netip.Addr) bool {
	return addr == r.config.Gateway4 || addr == r.config.Gateway6
}

func (r *Rules) isHost(addr netip.Addr) bool {
	_, ok := (*r.hostAddrs.Load())[addr]
	return ok
}

// hostPort reports whether AllowHost opens port for p.
func (r *Rules) hostPort(p Proto, port uint16) bool {
	if p == ICMP {
		return r.config.AllowHost.All()
	}
	return r.config.AllowHost.Contains(port)
}

func (c *Config) check() error {
	for _, f := range []struct {
		name string
		addr netip.Addr
		is   func(netip.Addr) bool
	}{
		{"Gateway4", c.Gateway4, netip.Addr.Is4},
		{"Resolver4", c.Resolver4, netip.Addr.Is4},
		{"Guest4", c.Guest4.Addr(), netip.Addr.Is4},
		{"Gateway6", c.Gateway6, is6},
		{"Resolver6", c.Resolver6, is6},
		{"Guest6", c.Guest6.Addr(), is6},
	} {
		if f.addr.IsValid() && !f.is(f.addr) {
			return fmt.Errorf("policy %s %s: wrong address family", f.name, f.addr)
		}
	}
	for _, p := range []netip.Prefix{c.Guest4, c.Guest6} {
		// RFC 3021, RFC 6164: with one host bit both addresses are usable.
		if p.IsValid() && p.Bits() < p.Addr().BitLen()-1 && p.Addr() == p.Masked().Addr() {
			return fmt.Errorf("policy guest %s: a network, not an address in it", p)
		}
	}
	return nil
}

func is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }

// loopbackFor returns the host's loopback address of addr's family.
func loopbackFor(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
