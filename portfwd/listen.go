package portfwd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

// A Socket describes a socket to be made in the guest's namespace.
type Socket struct {
	Family, Type, Protocol int

	// Bind is what it is bound to; invalid: not at all. Listen makes it a
	// listener, V6Only keeps it out of the IPv4 port space.
	Bind   netip.AddrPort
	Listen bool
	V6Only bool
}

// A SocketFunc makes sockets in the guest's namespace, all or none. The error
// wraps the syscall.Errno.
type SocketFunc func(ctx context.Context, sockets []Socket) ([]*os.File, error)

// backlog is how many connections wait to be accepted at most; the kernel
// takes less if net.core.somaxconn, 4096 by default, is less.
const backlog = 4096

// A bound is a socket that a rule has opened.
type bound struct {
	file *os.File
	port uint16 // that it listens on
	at   int    // number of the port in the rule's range

	unix *unixFile // nil for those that have no path

	given bool // somebody else may have it too
}

// closeAll closes sockets. Those of files are unlinked before.
func closeAll(sockets []bound) {
	for _, s := range sockets {
		s.file.Close()
	}
}

// addresses returns where a rule listens with a socket for each port. An invalid
// one stands for all of both families.
func (r Rule) addresses() []netip.Addr {
	if a := r.Listen.Addr(); a.IsValid() || r.Direction == Inbound && !r.Local {
		return []netip.Addr{a.Unmap()}
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}

// openHost opens the sockets of an inbound rule. Without a port that could be
// bound, or with one that could not if the rule is not weak, it opens none.
func (t *Table) openHost(r Rule) ([]bound, error) {
	if r.Local {
		return t.openLocal(r)
	}
	var sockets []bound
	var first error
	for i := range r.Count() {
		port := r.Listen.Port() + uint16(i)
		s, err := t.listenHost(r, port)
		if err == nil {
			s.at = i
			sockets = append(sockets, s)
			continue
		}
		if first == nil {
			first = &BindError{Proto: r.Proto, Port: port, Addr: r.Listen.Addr(), Err: err}
		}
		if !r.Weak || isExhausted(err) {
			closeAll(sockets)
			return nil, first
		}
	}
	if len(sockets) == 0 {
		return nil, first
	}
	return sockets, nil
}

// openLocal opens the sockets of an inbound rule on both loopbacks, with the
// same ports. Where the host has no IPv6, that of IPv4 is enough.
func (t *Table) openLocal(r Rule) ([]bound, error) {
	r.Local = false
	picks := r.Listen.Port() == 0
	for i := 1; ; i++ {
		r.Listen = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), r.Listen.Port())
		sockets, err := t.openHost(r)
		if err != nil {
			return nil, err
		}
		other := r
		other.Listen = netip.AddrPortFrom(netip.IPv6Loopback(), sockets[0].port-uint16(sockets[0].at))
		more, err := t.openHost(other)
		switch {
		case err == nil, r.Weak, errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
			return append(sockets, more...), nil
		}
		closeAll(sockets)
		if !picks || !errors.Is(err, syscall.EADDRINUSE) || i == pickTries {
			return nil, err
		}
	}
}

// pickTries is how often the kernel is asked for another port when the one that
// it picked for IPv4 is taken for IPv6.
const pickTries = 16

// isExhausted tells errors that the next port will meet as well.
func isExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// listenHost opens one socket of the host. Without an address it is one for
// both families where the host has both.
func (t *Table) listenHost(r Rule, port uint16) (bound, error) {
	address := r.Listen.Addr().Unmap()
	if address.IsValid() {
		return t.listenAt(r, netip.AddrPortFrom(address, port), address.Is6())
	}
	s, err := t.listenAt(r, netip.AddrPortFrom(netip.IPv6Unspecified(), port), false)
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return t.listenAt(r, netip.AddrPortFrom(netip.IPv4Unspecified(), port), false)
	}
	return s, err
}

// listenAt opens a socket at an address, or takes the one there that was passed
// to us.
func (t *Table) listenAt(r Rule, at netip.AddrPort, v6only bool) (bound, error) {
	if s, ok := t.passedAt(r, at, v6only); ok && r.Device == "" {
		return s, nil
	}
	return listenAt(r, at, v6only)
}

// listenAt opens a socket at an address.
func listenAt(r Rule, at netip.AddrPort, v6only bool) (bound, error) {
	if r.Proto == flow.UDP {
		return bindAt(r, at, v6only)
	}
	if at.Port() == 0 {
		return listenPicked(r, at, v6only)
	}
	s, err := bindAt(r, at, v6only)
	if err != nil {
		return s, err
	}
	if err := control(s.file, func(fd int) error { return unix.Listen(fd, backlog) }); err != nil {
		s.file.Close()
		return bound{}, os.NewSyscallError("listen", err)
	}
	return s, nil
}

// control calls f with a file's descriptor.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	if err := raw.Control(func(fd uintptr) { callErr = f(int(fd)) }); err != nil {
		return err
	}
	return callErr
}

// listenPicked has the kernel pick the port of a TCP socket, and binds another
// socket to it by its number: such a one keeps the port while it does not
// listen, see Refuser.
func listenPicked(r Rule, at netip.AddrPort, v6only bool) (bound, error) {
	picked, err := bindAt(r, at, v6only)
	if err != nil {
		return bound{}, err
	}
	defer picked.file.Close() // both have SO_REUSEADDR, and this one does not listen
	return listenAt(r, netip.AddrPortFrom(at.Addr(), picked.port), v6only)
}

// bindAt binds a socket to an address. It blocks, so that the runtime does not
// wake this process for connections that another one accepts.
func bindAt(r Rule, at netip.AddrPort, v6only bool) (bound, error) {
	typ := unix.SOCK_STREAM
	if r.Proto == flow.UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(socket.Family(at.Addr()), typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return bound{}, os.NewSyscallError("socket", err)
	}
	port, err := setUp(fd, r, at, v6only)
	if err != nil {
		unix.Close(fd)
		return bound{}, err
	}
	return bound{file: os.NewFile(uintptr(fd), r.Proto.String()+" "+endpoint(at)), port: port}, nil
}

// setUp binds a socket.
func setUp(fd int, r Rule, at netip.AddrPort, v6only bool) (port uint16, err error) {
	if at.Addr().Is6() {
		only := 0
		if v6only {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return 0, os.NewSyscallError("set IPV6_V6ONLY", err)
		}
	}
	if r.Proto == flow.TCP {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return 0, os.NewSyscallError("set SO_REUSEADDR", err)
		}
	}
	if r.Device != "" {
		if err := unix.BindToDevice(fd, r.Device); err != nil {
			return 0, fmt.Errorf("bind to device %s: %w", r.Device, err)
		}
	}
	if r.Freebind {
		if err := freebind(fd, at.Addr()); err != nil {
			return 0, err
		}
	}
	if err := bind(fd, at); err != nil {
		return 0, err
	}
	return portOf(fd)
}

// freebind lets a socket of an address's family be bound to any.
func freebind(fd int, a netip.Addr) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if a.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	return os.NewSyscallError("set IP_FREEBIND", unix.SetsockoptInt(fd, level, option, 1))
}

// bind binds a socket to an address, with its zone if it has one.
func bind(fd int, at netip.AddrPort) error {
	to := socket.NewAddress(at)
	if zone := at.Addr().Zone(); zone != "" {
		index, err := zoneIndex(zone)
		if err != nil {
			return err
		}
		to.SetZone(index)
	}
	return to.Bind(fd)
}

// zoneIndex returns the index of a zone, which may be one or a device's name.
func zoneIndex(zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	device, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("zone %s: %w", zone, syscall.ENODEV)
	}
	return uint32(device.Index), nil
}

// portOf returns the port that a socket is bound to.
func portOf(fd int) (uint16, error) {
	a, err := addressOf(fd)
	return a.Port(), err
}

// addressOf returns the address that a socket is bound to.
func addressOf(fd int) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("getsockname: %w", syscall.EAFNOSUPPORT)
}
