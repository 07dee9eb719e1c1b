package portfwd

import (
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

// A spot is where a published port is reached.
type spot struct {
	proto flow.Proto
	at    netip.AddrPort // unspecified: any address of the family
}

// spots are where published ports are reached by anybody who reaches the host.
type spots struct {
	mu sync.RWMutex
	// +checklocks:mu
	sockets map[spot]int // how many there are
}

// Listens tells whether an inbound rule listens on a port at an address of the
// host, for everybody who comes there: not only on one device. It does not
// block; the answer changes as rules come and go.
//
// A guest that reaches its own published ports at the host's addresses
// ("hairpin") needs no more of the host opened to it than these.
func (p *Publisher) Listens(proto flow.Proto, at netip.AddrPort) bool {
	address := at.Addr().Unmap().WithZone("")
	anywhere := netip.IPv6Unspecified()
	if address.Is4() {
		anywhere = netip.IPv4Unspecified()
	}
	s := &p.spots
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sockets[spot{proto, netip.AddrPortFrom(address, at.Port())}] > 0 ||
		s.sockets[spot{proto, netip.AddrPortFrom(anywhere, at.Port())}] > 0
}

// change notes that a listener came, with by 1, or went, with by -1.
func (s *spots) change(l *listener, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range l.spots {
		if s.sockets[at] += by; s.sockets[at] == 0 {
			delete(s.sockets, at)
		}
	}
}

// spotsOf returns where a listener's socket is reached: two for one that takes
// both families, none for one of loopback or of a device.
func spotsOf(l *listener) []spot {
	if l.Unix || l.Direction != Inbound {
		return nil
	}
	fd := l.socket.FD()
	at, err := socket.LocalAddress(fd)
	if err != nil {
		return nil
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if device, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil || device != "" || at.Addr().IsLoopback() {
		return nil
	}
	list := []spot{{l.Proto, at}}
	if at.Addr() == netip.IPv6Unspecified() {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err == nil && only == 0 {
			list = append(list, spot{l.Proto, netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())})
		}
	}
	return list
}
