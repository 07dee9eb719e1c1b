package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// A Map makes a destination of the guest's mean another address of the host's
// side. It is how the guest reaches what has no address that it could write:
// the host's loopback, the host under an address that the guest has too, and
// the host's name server.
type Map struct {
	// Guest is the destination as the guest writes it, Host the address to
	// dial for it, of the same family.
	Guest, Host netip.Addr

	// Ports are the ports of TCP and UDP that the map is for; they stay as
	// they are. Echo has no port: it needs all of them, and never goes to the
	// host's loopback.
	Ports Ports
}

// SetMaps replaces the maps. They come before all rules that deny, so that
// whoever sets a map answers for it; where the ports of two overlap the first
// counts. It fails without changing anything if the two addresses of a map
// are not of one family. Flows that exist are not touched.
func (r *Rules) SetMaps(maps []Map) error {
	list := slices.Clone(maps)
	for i := range list {
		m := &list[i]
		m.Guest, m.Host = m.Guest.Unmap().WithZone(""), m.Host.Unmap()
		if !m.Guest.IsValid() || m.Guest.BitLen() != m.Host.BitLen() {
			return fmt.Errorf("policy map %v to %v: not two addresses of one family", maps[i].Guest, maps[i].Host)
		}
	}
	r.maps.Store(&list)
	return nil
}

// mapped returns what dst, a destination of the guest's, is mapped to.
func (r *Rules) mapped(p Proto, dst netip.AddrPort) (host netip.Addr, ok bool) {
	for _, m := range *r.maps.Load() {
		if m.Guest != dst.Addr() {
			continue
		}
		if p == ICMP && m.Ports.All() || p != ICMP && m.Ports.Contains(dst.Port()) {
			return m.Host, true
		}
	}
	return netip.Addr{}, false
}
