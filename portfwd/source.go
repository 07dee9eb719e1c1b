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
	if address.Is4() != client.Addr().Is4() || !p.visible(client.Addr()) {
		a := p.addresses.Load()
		gateway := a.Gateway6
		if address.Is4() {
			gateway = a.Gateway4
		}
		source = netip.AddrPortFrom(gateway, client.Port())
	}
	ok = address.IsValid() && !address.IsLoopback() && source.Addr().IsValid()
	return source, netip.AddrPortFrom(address, l.TargetPort), ok
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
