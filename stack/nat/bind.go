package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"taproot/internal/socket"

	"golang.org/x/sys/unix"
)

// A Bind says where the host's sockets start, for each family. The zero value
// leaves it to the host's routes, as zero fields do. What goes to the host's
// loopback is not bound: it would not arrive, or not as from there.
type Bind struct {
	// Addr4 and Addr6 are source addresses. They must be the host's own when
	// a flow opens; while they are not, the guest is told that there is no way
	// to the network.
	Addr4, Addr6 netip.Addr

	// Device4 and Device6 are names of network devices that packets leave by,
	// whatever the routes say. A process without privileges may say so since
	// Linux 5.7. A device that is missing counts as an address that is.
	Device4, Device6 string
}

// of returns what is said for a family.
func (b Bind) of(v6 bool) (addr netip.Addr, device string) {
	if v6 {
		return b.Addr6, b.Device6
	}
	return b.Addr4, b.Device4
}

// isSet reports whether anything is said for a family.
func (b Bind) isSet(v6 bool) bool {
	addr, device := b.of(v6)
	return addr.IsValid() || device != ""
}

// Control binds a socket that is about to be connected to address. It is a
// net.Dialer's Control, for what the gateway itself asks the network.
func (b Bind) Control(_, address string, c syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("bind for %s: %w", address, err)
	}
	controlErr := c.Control(func(fd uintptr) { err = b.start(int(fd), target.Addr().Unmap()) })
	if controlErr != nil {
		return controlErr
	}
	return err
}

// start binds a socket that is about to be connected to target.
func (b Bind) start(fd int, target netip.Addr) error {
	if target.IsLoopback() {
		return nil
	}
	addr, device := b.of(target.Is6())
	if err := bindDevice(fd, device); err != nil {
		return err
	}
	if !addr.IsValid() {
		return nil
	}
	// ip(7), since Linux 4.2: the port is chosen when the target is known, so
	// that each target has all ports. It is the same number for IPv6.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	return bindAddr(fd, netip.AddrPortFrom(addr, 0))
}

// Stream returns a non-blocking socket that is to be connected to target: set up
// for a relay, bound as b says, and unknown to the runtime's poller.
func (b Bind) Stream(target netip.Addr) (fd int, err error) {
	fd, err = unix.Socket(socket.Family(target), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	socket.Stream(fd)
	if err := b.start(fd, target); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindDevice makes a socket's packets leave by a device; "" leaves it alone.
func bindDevice(fd int, device string) error {
	if device == "" {
		return nil
	}
	if err := unix.BindToDevice(fd, device); err != nil {
		return fmt.Errorf("bind to device %s: %w", device, noWay(os.NewSyscallError("setsockopt", err)))
	}
	return nil
}

// bindAddr is bind(2).
func bindAddr(fd int, a netip.AddrPort) error {
	to := socket.NewAddress(a)
	if err := to.Bind(fd); err != nil {
		return fmt.Errorf("bind to %v: %w", a, noWay(err))
	}
	return nil
}

// noWay says of an address or a device that the host does not have what that
// means for the guest: there is no way out. From connect(2), the same errors
// mean something else.
func noWay(err error) error {
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w (%v)", unix.ENETUNREACH, err)
	}
	return err
}
