package socket

import (
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Start begins to connect a non-blocking socket, or tells what became of it:
// nil when it is connected, EINPROGRESS while it is not, and the bare
// syscall.Errno of connect(2) otherwise. The answer of a near host is often
// there when Start returns: asking twice saves waiting for it.
func Start(fd int, target *Address) error {
	err := connectTo(uintptr(fd), target)
	if err == syscall.EINPROGRESS || err == syscall.EINTR {
		err = connectTo(uintptr(fd), target)
	}
	switch err {
	case syscall.EISCONN:
		return nil
	case syscall.EALREADY, syscall.EINTR:
		return syscall.EINPROGRESS
	}
	return err
}

// AcceptFrom takes a connection from a listener, without waiting, as a
// descriptor that the runtime's poller does not know. The client's address is as
// the socket has it, so IPv4 may be mapped. The error is a bare syscall.Errno.
func AcceptFrom(listener int) (fd int, client netip.AddrPort, err error) {
	var a Address
	a.len = unix.SizeofSockaddrInet6
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&a.raw[0])),
		uintptr(unsafe.Pointer(&a.len)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), a.AddrPort(), nil
}

// LocalAddress returns the address that a socket has on its own side, which of a
// connection is the one that its client wanted to reach.
func LocalAddress(fd int) (netip.AddrPort, error) {
	var a Address
	a.len = unix.SizeofSockaddrInet6
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.raw[0])), uintptr(unsafe.Pointer(&a.len)))
	if errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", errno)
	}
	return a.AddrPort(), nil
}

// Reset closes a connection with RST.
func Reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd) // nothing was promised to be delivered, so nothing to report
}
