package nat

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A socket is the non-blocking host socket of one mapping. It is closed when
// its last user has released it, so that nobody ever uses a descriptor number
// that was given to something else in the meantime.
type socket struct {
	fd   int
	v6   bool
	refs atomic.Int32

	// errors is held while the error queue is read and while a message is
	// sent again: taking one error off the queue makes the kernel report the
	// next one to whoever calls.
	errors sync.Mutex

	// discover is the value of IP_MTU_DISCOVER that was set last. Two senders
	// may race for it; the loser's datagram is then treated as the winner's.
	discover atomic.Int32
}

// openSocket returns a socket of the family and protocol with the options that
// all of ours have, and one reference to it.
func openSocket(v6 bool, protocol int) (*socket, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{fd: fd, v6: v6}
	s.refs.Store(1)
	if err := s.setOptions(); err != nil {
		s.release()
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return s, nil
}

// setOptions asks for the error queue, and keeps an IPv6 socket out of the
// IPv4 port space.
func (s *socket) setOptions() error {
	if !s.v6 {
		s.setDontFragment(false)
		return unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

// bind gives the socket the port of the guest's end, on the address and device
// that b says or on all of the host's. If the host refuses that port the
// kernel picks one: RFC 4787 REQ-3 wants the guest's port preserved where it
// is free. Ports below 1024 usually are not ours to take.
func (s *socket) bind(b Bind, o origin) error {
	addr, device := b.of(s.v6)
	switch {
	case o.local:
		addr, device = loopback(s.v6), ""
	case !addr.IsValid():
		addr = unspecified(s.v6)
	}
	if err := bindDevice(s.fd, device); err != nil {
		return err
	}
	err := bindAddr(s.fd, netip.AddrPortFrom(addr, o.guest.Port()))
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EACCES) {
		err = bindAddr(s.fd, netip.AddrPortFrom(addr, 0))
	}
	return err
}

func loopback(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func unspecified(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// acquire takes a reference. It returns false if the socket is closed.
func (s *socket) acquire() bool {
	for {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives a reference back; the last one closes the socket.
func (s *socket) release() {
	if s.refs.Add(-1) == 0 {
		unix.Close(s.fd) // nothing was promised to be delivered, so nothing to report
	}
}

// setDontFragment says whether what is sent next on an IPv4 socket carries the
// DF bit: with it the kernel refuses a datagram above the path's MTU with
// EMSGSIZE instead of fragmenting it. An IPv6 socket keeps the kernel's own
// way, see the package text.
func (s *socket) setDontFragment(df bool) {
	if s.v6 {
		return
	}
	// One more than the option's value, so that zero is "never set".
	want := int32(unix.IP_PMTUDISC_DONT + 1)
	if df {
		want = unix.IP_PMTUDISC_DO + 1
	}
	if s.discover.Swap(want) != want {
		// Every kernel has the option; without it we would fragment at worst.
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, int(want-1))
	}
}

// A sockaddr is a socket address as the kernel reads it, made once for many
// calls.
type sockaddr struct {
	raw [unix.SizeofSockaddrInet6]byte
	len uint32
}

func newSockaddr(a netip.AddrPort) (s sockaddr) {
	if a.Addr().Is4() {
		s.len = unix.SizeofSockaddrInet4
		binary.NativeEndian.PutUint16(s.raw[0:], unix.AF_INET)
		ip := a.Addr().As4()
		copy(s.raw[4:], ip[:])
	} else {
		s.len = unix.SizeofSockaddrInet6
		binary.NativeEndian.PutUint16(s.raw[0:], unix.AF_INET6)
		ip := a.Addr().As16()
		copy(s.raw[8:], ip[:]) // behind the flow label, which stays 0
	}
	binary.BigEndian.PutUint16(s.raw[2:], a.Port())
	return s
}

// parseSockaddr is the reverse of newSockaddr. It ignores flow label and zone,
// and returns the zero AddrPort for other families.
func parseSockaddr(raw []byte) netip.AddrPort {
	if len(raw) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(raw[2:])
	switch binary.NativeEndian.Uint16(raw) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port)
	case unix.AF_INET6:
		if len(raw) >= unix.SizeofSockaddrInet6 {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port)
		}
	}
	return netip.AddrPort{}
}
