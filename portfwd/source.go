package portfwd

import (
	"math/rand/v2"
	"net/netip"
)

// route returns what an inbound connection through the stack looks like to the
// guest: the source it comes from, and the target. client is not IPv4-mapped.
// It returns false if the guest and we have no two addresses of one family, or
// if the rule is for clients on loopback only.
func (p *Publisher) route(l Listener, client netip.AddrPort) (source, target netip.AddrPort, ok bool) {
	address := l.Target
	if !address.IsValid() {
		address = p.guestFor(client.Addr())
	}
	source = client
	if l.Source == SourceGateway || address.Is4() != client.Addr().Is4() || !p.visible(client.Addr()) {
		source = netip.AddrPortFrom(p.gatewayFor(address), client.Port())
	}
	ok = address.IsValid() && !address.IsLoopback() && source.Addr().IsValid()
	return source, netip.AddrPortFrom(address, l.TargetPort), ok
}

// gatewayFor returns the gateway's address of the same family as a.
func (p *Publisher) gatewayFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return p.addresses.Load().Gateway4
	}
	return p.addresses.Load().Gateway6
}

// otherFamily is route for the guest's address of another family than the
// tried one has. It returns false if there is none, or if the rule names its
// target.
func (p *Publisher) otherFamily(l Listener, client netip.AddrPort, tried netip.Addr) (source, target netip.AddrPort, ok bool) {
	address := p.addresses.Load().Guest4
	if tried.Is4() {
		address = p.addresses.Load().Guest6
	}
	gateway := p.gatewayFor(address)
	if l.Target.IsValid() || !address.IsValid() || !gateway.IsValid() {
		return source, target, false
	}
	return netip.AddrPortFrom(gateway, client.Port()), netip.AddrPortFrom(address, l.TargetPort), true
}

// noAddress stands for the client of a Unix socket, with a port for those that
// see it as another.
func noAddress() netip.AddrPort {
	return anotherPort(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
}

// guestFor returns the guest's address of the client's family, or the other
// one.
func (p *Publisher) guestFor(client netip.Addr) netip.Addr {
	a := p.addresses.Load()
	first, second := a.Guest6, a.Guest4
	if client.Is4() {
		first, second = second, first
	}
	if first.IsValid() {
		return first
	}
	return second
}

// visible tells whether the guest may see a client's address: not loopback,
// which its programs trust (CVE-2021-20199), none of the host, which we deny
// to it, none that is only valid on another link, and none of its own.
func (p *Publisher) visible(client netip.Addr) bool {
	if client.IsLoopback() || client.IsUnspecified() || client.IsLinkLocalUnicast() || client.IsMulticast() {
		return false
	}
	if a := p.addresses.Load(); client == a.Guest4 || client == a.Guest6 {
		return false
	}
	_, host := (*p.hostAddrs.Load())[client]
	return !host
}

// dynamicPort is the first of the ports that nothing is assigned to, RFC 6335
// section 6.
const dynamicPort = 49152

// anotherPort returns a with a random port, for when its own is taken.
func anotherPort(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), uint16(dynamicPort+rand.IntN(1<<16-dynamicPort)))
}
