package policy

import (
	"net/netip"
	"sync/atomic"
)

// Rules are the address policy of one guest. They are safe for concurrent use
// and never block.
type Rules struct {
	config    Config // of its lists none is used
	behind    []netip.Prefix
	guest     atomic.Pointer[guest]
	hostAddrs atomic.Pointer[addrSet]
	maps      atomic.Pointer[[]Map] // what it points to is never changed
}

// An addrSet is never changed after it is published.
type addrSet map[netip.Addr]struct{}

func (s addrSet) has(a netip.Addr) bool {
	_, ok := s[a]
	return ok
}

// New returns the rules that config describes. It fails if an address is of
// the wrong family or Guests names a network instead of an address.
func New(config Config) (*Rules, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	r := &Rules{config: config, behind: Behind()}
	r.SetHostAddrs(config.HostAddrs)
	if err := r.SetGuests(config.Guests, config.Sources); err != nil {
		return nil, err
	}
	if err := r.SetMaps(config.Maps); err != nil {
		return nil, err
	}
	r.config.HostAddrs, r.config.Guests, r.config.Sources, r.config.Maps = nil, nil, nil, nil
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
	if host, ok := r.mapped(p, target); ok {
		if p == ICMP && host.IsLoopback() {
			return netip.AddrPort{}, &Denied{ruleHostLoopback, p, dst}
		}
		return netip.AddrPortFrom(host, dst.Port()), nil
	}
	if r.isGateway(addr) {
		if p == ICMP || !r.config.HostLoopback.Contains(dst.Port()) {
			return netip.AddrPort{}, &Denied{ruleHostLoopback, p, dst}
		}
		return netip.AddrPortFrom(loopbackFor(addr), dst.Port()), nil
	}
	rule := r.forbids(p, target)
	if rule == ruleHost && r.isPublished(p, target) {
		rule = ""
	}
	if v4, ok := embedded4(addr); ok && rule == "" {
		rule = r.forbidsEmbedded(p, netip.AddrPortFrom(v4, dst.Port()))
	}
	if rule != "" {
		return netip.AddrPort{}, &Denied{rule, p, dst}
	}
	return target, nil
}

// forbids returns the name of the rule that forbids dst, or "". dst is valid,
// so that it never equals the zero Addr of a family that is left out. The
// gateway's addresses are not its business.
func (r *Rules) forbids(p Proto, dst netip.AddrPort) string {
	addr, guest := dst.Addr(), r.guest.Load()
	switch {
	case r.isResolver(addr):
		return ruleResolver
	case guest.addrs.has(addr):
		return ruleGuest
	case guest.broadcast.has(addr):
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

func (r *Rules) isResolver(addr netip.Addr) bool {
	return addr == r.config.Resolver4 || addr == r.config.Resolver6
}

func (r *Rules) isHost(addr netip.Addr) bool { return (*r.hostAddrs.Load()).has(addr) }

// hostPort reports whether AllowHost opens port for p.
func (r *Rules) hostPort(p Proto, port uint16) bool {
	if p == ICMP {
		return r.config.AllowHost.All()
	}
	return r.config.AllowHost.Contains(port)
}

// isPublished reports whether dst, of the host, leads back to the guest.
func (r *Rules) isPublished(p Proto, dst netip.AddrPort) bool {
	return p != ICMP && r.config.Published != nil && !isLinkLocal(dst.Addr()) && r.config.Published(p, dst)
}

// loopbackFor returns the host's loopback address of addr's family.
func loopbackFor(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
