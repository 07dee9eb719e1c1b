package nat

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"taproot/internal/socket"

	"golang.org/x/sys/unix"
)

// A hostSocket is the host socket of one mapping.
type hostSocket struct {
	*socket.Socket
	v6 bool

	// errors is held while the error queue is read and while a message is
	// sent again: taking one error off the queue makes the kernel report the
	// next one to whoever calls.
	errors sync.Mutex

	// discover is the value of IP_MTU_DISCOVER that was set last. Two senders
	// may race for it; the loser's datagram is then treated as the winner's.
	discover atomic.Int32

	grown bool // grow was called; the reader's
}

// busyBuffer is the receive buffer of a socket that gets much at once, in bytes:
// the kernel's default, 208 KiB, is two or three messages joined by UDP_GRO, or what
// 100,000 datagrams per second bring in a millisecond in which we do not run.
// The kernel caps it at net.core.rmem_max.
const busyBuffer = 4 << 20

// grow makes room for more. It is called by the reader.
func (s *hostSocket) grow() {
	if !s.grown {
		s.grown = true
		_ = unix.SetsockoptInt(s.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, busyBuffer)
	}
}

// An option is a socket option that is on.
type option struct{ level, name int }

// openSocket returns the socket of a mapping, bound as c says, and one reference
// to it. It has the options that all of ours have, and more, which is not
// essential.
func openSocket(c *Config, o origin, protocol int, more option) (*hostSocket, error) {
	opened, err := socket.New(socket.Family(o.guest.Addr()), unix.SOCK_DGRAM, protocol)
	if err != nil {
		return nil, err
	}
	if c.Descriptors.Reached(opened.FD()) {
		opened.Release()
		return nil, os.NewSyscallError("socket", unix.EMFILE)
	}
	s := &hostSocket{Socket: opened, v6: o.guest.Addr().Is6()}
	_ = unix.SetsockoptInt(s.FD(), more.level, more.name, 1)
	if err = os.NewSyscallError("setsockopt", s.setOptions()); err == nil {
		err = s.bind(c.Bind, o)
	}
	if err != nil {
		s.Release()
		return nil, err
	}
	return s, nil
}

// setOptions asks for the error queue, and keeps an IPv6 socket out of the
// IPv4 port space.
func (s *hostSocket) setOptions() error {
	if !s.v6 {
		return unix.SetsockoptInt(s.FD(), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	if err := unix.SetsockoptInt(s.FD(), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(s.FD(), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

// bind gives the socket the port of the guest's end, on the address and device
// that b says or on all of the host's. If the host refuses that port the
// kernel picks one: RFC 4787 REQ-3 wants the guest's port preserved where it
// is free. Ports below 1024 usually are not ours to take.
func (s *hostSocket) bind(b Bind, o origin) error {
	addr, device := b.of(s.v6)
	switch {
	case o.local:
		addr, device = loopback(s.v6), ""
	case !addr.IsValid():
		addr = unspecified(s.v6)
	}
	if err := bindDevice(s.FD(), device); err != nil {
		return err
	}
	err := bindAddr(s.FD(), netip.AddrPortFrom(addr, o.guest.Port()))
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EACCES) {
		err = bindAddr(s.FD(), netip.AddrPortFrom(addr, 0))
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

// setDontFragment says whether what is sent next on an IPv4 socket carries the
// DF bit: with it the kernel refuses a datagram above the path's MTU with
// EMSGSIZE instead of fragmenting it. An IPv6 socket keeps the kernel's own
// way, see the package text.
func (s *hostSocket) setDontFragment(df bool) {
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
		_ = unix.SetsockoptInt(s.FD(), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, int(want-1))
	}
}
