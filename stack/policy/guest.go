package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// A guest is what the guest's own addresses are. It is never changed after it
// is published.
type guest struct {
	addrs     addrSet
	broadcast addrSet        // of the networks of addrs and sources
	networks  []netip.Prefix // of addrs
	sources   []netip.Prefix // Config.Sources
	with4     bool           // whether the guest has IPv4
	with6     bool           // whether the guest has IPv6
}

// SetGuests replaces the guest's own addresses and the networks that it may
// send from, Config.Guests and Config.Sources, for a guest that follows the
// host's addresses. It fails without changing anything if one is not an
// address with the length of its network. Flows that exist are not touched.
func (r *Rules) SetGuests(guests, sources []netip.Prefix) error {
	g := &guest{addrs: make(addrSet), broadcast: make(addrSet), sources: slices.Clone(sources)}
	for _, p := range guests {
		if err := checkGuest(p); err != nil {
			return fmt.Errorf("policy guest %v: %w", p, err)
		}
		g.addrs[p.Addr()] = struct{}{}
		g.networks = append(g.networks, p.Masked())
	}
	for _, p := range sources {
		if err := checkPrefix(p); err != nil {
			return fmt.Errorf("policy source %v: %w", p, err)
		}
	}
	for _, p := range slices.Concat(guests, sources) {
		g.with4 = g.with4 || p.Addr().Is4()
		g.with6 = g.with6 || p.Addr().Is6()
		if b := broadcast(p); b.IsValid() {
			g.broadcast[b] = struct{}{}
		}
	}
	r.guest.Store(g)
	return nil
}

// checkGuest refuses what is not an address of a host with a length.
func checkGuest(p netip.Prefix) error {
	if err := checkPrefix(p); err != nil {
		return err
	}
	// RFC 3021, RFC 6164: with one host bit both addresses are usable.
	if p.Bits() < p.Addr().BitLen()-1 && p.Addr() == p.Masked().Addr() {
		return errors.New("a network, not an address in it")
	}
	return nil
}

// checkPrefix refuses what would never match an address of a packet.
func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("not an address with a length")
	case p.Addr().Is4In6():
		return errors.New("an IPv4 address in IPv6 form")
	}
	return nil
}

// Own reports whether addr is one of the guest's own addresses, Config.Guests.
func (r *Rules) Own(addr netip.Addr) bool { return r.guest.Load().addrs.has(addr.WithZone("")) }

// Source reports whether the guest may send from src: its own addresses, those
// of Config.Sources, any link-local one if it has IPv6, and those of networks
// behind it. The unspecified address, which DHCP and duplicate address detection
// use, is not among them: whoever serves those accepts it there.
func (r *Rules) Source(src netip.Addr) bool {
	src = src.WithZone("")
	g := r.guest.Load()
	switch {
	case g.addrs.has(src):
		return true
	case !src.IsValid() || src.Is4In6():
		return false
	case src.Is6() && src.IsLinkLocalUnicast():
		return g.with6
	case r.isGateway(src) || r.isResolver(src) || g.broadcast.has(src) || never(src) != "":
		return false
	case slices.ContainsFunc(g.sources, func(p netip.Prefix) bool { return p.Contains(src) }):
		return true
	}
	return r.isBehind(g, src)
}

// Behind returns the networks that may be behind a guest: those that are private
// (RFC 1918, RFC 4193), of a carrier's own (RFC 6598), or for benchmarks
// (RFC 2544).
func Behind() []netip.Prefix {
	return []netip.Prefix{
		prefix4(10, 0, 0, 0, 8), prefix4(172, 16, 0, 0, 12), prefix4(192, 168, 0, 0, 16),
		prefix4(100, 64, 0, 0, 10), prefix4(198, 18, 0, 0, 15),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc}), 7),
	}
}

func prefix4(a, b, c, d byte, bits int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, d}), bits)
}

// isBehind reports whether src may be of a network for which the guest is a
// router, as containers in it have: one of Behind, but not one that the guest
// shares with the gateway, where it has its own addresses only, and not one of
// the host's or of a cloud's services.
func (r *Rules) isBehind(g *guest, src netip.Addr) bool {
	has := g.with6
	if src.Is4() {
		has = g.with4
	}
	in := func(p netip.Prefix) bool { return p.Contains(src) }
	return has && slices.ContainsFunc(r.behind, in) && !r.isHost(src) && !isLinkLocal(src) &&
		!slices.ContainsFunc(g.networks, in)
}
