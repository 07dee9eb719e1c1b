package engine

import (
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"

	"taproot/portfwd"
	"taproot/stack/flow"
)

// accepted tells whether a client's socket is one that a rule's listener has accepted: it
// has that one's address. Whoever has taken an engine over can have that too, if it binds
// beside the listener (SO_REUSEPORT): see servers, and decision 037.
func accepted(r portfwd.Rule, client int) bool {
	at, err := unix.Getsockname(client)
	return err == nil && r.Reached(addrPortOf(at))
}

// servers are the ports of the host on which somebody listens. Who has such a one at the
// other end is no client, which has one of its own: an engine that somebody has taken
// over could leave the guest a connection to a service of the host.
type servers []portfwd.Open

// learnServers looks once who listens on the host.
func (r *replacement) learnServers(log *slog.Logger) {
	if r.learned {
		return
	}
	r.learned = true
	diag, err := diagSocket()
	if err != nil {
		log.Debug("not known who listens on the host", "error", err)
		return
	}
	scanner := portfwd.NewScanner(diag)
	defer scanner.Close()
	if r.servers, err = scanner.Scan(flow.TCP); err != nil {
		log.Debug("not known who listens on the host", "error", err)
	}
}

// accepts tells whether a client's socket has a client at the other end, or nobody.
func (s servers) accepts(client int) bool {
	sa, err := unix.Getpeername(client)
	if err != nil {
		return true // both ends have closed it: nothing comes from there
	}
	peer := addrPortOf(sa)
	for _, o := range s {
		if o.Port == peer.Port() && (o.Addr.Unmap() == peer.Addr() || o.Addr.IsUnspecified() && isOwn(sa)) {
			return false
		}
	}
	return true
}

// isOwn tells whether an address is of this host: a socket can be bound to it.
func isOwn(sa unix.Sockaddr) bool {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		sa = &unix.SockaddrInet4{Addr: a.Addr}
	case *unix.SockaddrInet6:
		sa = &unix.SockaddrInet6{Addr: a.Addr, ZoneId: a.ZoneId}
	}
	family := unix.AF_INET
	if _, ok := sa.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, sa) == nil
}

// addrPortOf returns an address of a socket; the zero one if it is none of the network.
func addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
