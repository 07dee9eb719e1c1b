package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrInherited says that a descriptor is not what it was said to be by the process
// that it comes from.
var ErrInherited = errors.New("not the connection that it was said to be")

// CheckInherited returns nil for a TCP socket that is connected from local to peer, and
// makes it non-blocking; addresses that are not valid may be any. One that says that
// it is connected no more, since both ends have closed it, and which belongs to local
// is right where ended is true. Everything else is ErrInherited.
func CheckInherited(fd int, local, peer netip.AddrPort, ended bool) error {
	if err := checkStream(fd); err != nil {
		return err
	}
	from, err := LocalAddress(fd)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInherited, err)
	}
	to, err := peerAddress(fd)
	switch {
	case err == unix.ENOTCONN && ended:
		to = peer
	case err != nil:
		return fmt.Errorf("%w: %w", ErrInherited, os.NewSyscallError("getpeername", err))
	}
	if !same(from, local) || !same(to, peer) {
		return fmt.Errorf("%w: from %v to %v, not from %v to %v", ErrInherited, from, to, local, peer)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return nil
}

// checkStream wants a TCP socket.
func checkStream(fd int) error {
	for _, want := range []struct{ option, value int }{{unix.SO_PROTOCOL, unix.IPPROTO_TCP}, {unix.SO_TYPE, unix.SOCK_STREAM}, {unix.SO_ACCEPTCONN, 0}} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.option)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInherited, os.NewSyscallError("getsockopt", err))
		}
		if got != want.value {
			return fmt.Errorf("%w: no TCP connection", ErrInherited)
		}
	}
	return nil
}

// same tells whether an address of a socket is the one that is wanted, if one is.
func same(got, want netip.AddrPort) bool {
	return !want.IsValid() || got.Port() == want.Port() && got.Addr().Unmap() == want.Addr().Unmap().WithZone("")
}

// peerAddress is LocalAddress for the other side. Its error is a bare syscall.Errno.
func peerAddress(fd int) (netip.AddrPort, error) {
	var a Address
	a.len = unix.SizeofSockaddrInet6
	_, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.raw[0])), uintptr(unsafe.Pointer(&a.len)))
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return a.AddrPort(), nil
}

// SameNamespace returns nil if two sockets are of the same network namespace, or the
// kernel does not tell (before Linux 5.14).
func SameNamespace(a, b int) error {
	if same, known, err := compareNamespaces(a, b); err != nil || known && !same {
		return errors.Join(fmt.Errorf("%w: of another network namespace", ErrInherited), err)
	}
	return nil
}

// OtherNamespace returns nil if two sockets are of different network namespaces, or the
// kernel does not tell.
func OtherNamespace(a, b int) error {
	if same, known, err := compareNamespaces(a, b); err != nil || known && same {
		return errors.Join(fmt.Errorf("%w: of one network namespace", ErrInherited), err)
	}
	return nil
}

// compareNamespaces tells whether two sockets are of the same network namespace, if the
// kernel does (SO_NETNS_COOKIE).
func compareNamespaces(a, b int) (same, known bool, err error) {
	one, err := unix.GetsockoptUint64(a, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == unix.ENOPROTOOPT {
		return false, false, nil
	}
	two, errB := unix.GetsockoptUint64(b, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return one == two, true, os.NewSyscallError("getsockopt", errors.Join(err, errB))
}
