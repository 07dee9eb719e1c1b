package socket

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Start begins to connect a non-blocking socket, and returns what Progress does:
// the answer of a near host is often there when connect(2) returns.
func Start(fd int, target *Address) error {
	if err := connectTo(uintptr(fd), target); err != syscall.EINPROGRESS && err != syscall.EINTR {
		return err
	}
	return Progress(fd)
}

// Begin is Start for a socket whose answer cannot be there yet: it does not look.
func Begin(fd int, target *Address) error {
	if err := connectTo(uintptr(fd), target); err != syscall.EINTR {
		return err
	}
	return syscall.EINPROGRESS
}

// Progress tells what has become of a socket that is being connected: nil when it
// is connected, EINPROGRESS while it is not, and the bare syscall.Errno of
// connect(2) otherwise. It does not ask connect(2) again, which throws away what
// has come before a reset.
func Progress(fd int) error {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	var now unix.Timespec
	_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	switch {
	case errno == unix.EINTR || errno == 0 && p[0].Revents == 0:
		return syscall.EINPROGRESS
	case errno != 0:
		return errno
	case p[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0:
		return nil
	}
	if cause, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && cause != 0 {
		return syscall.Errno(cause)
	}
	return syscall.ECONNRESET // it was told before
}

// IsReset tells whether the error of connecting means that the target has taken
// the connection, and reset it before anybody looked. Its error is told once: who
// reads the socket then finds what was sent before, and an end like that of a FIN.
func IsReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EPIPE)
}

// Receive takes one message from a socket, without waiting, and returns its length,
// which may be more than fits into b. The error is a bare syscall.Errno.
func Receive(fd int, b []byte) (n int, err error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// PassOn gives one socket what was sent to another before that was reset, as far as
// it fits.
func PassOn(from, to int) {
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(from, b)
		if n <= 0 || err != nil {
			return
		}
		if written, err := unix.Write(to, b[:n]); written < n || err != nil {
			return
		}
	}
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
	l := unix.Linger{Onoff: 1}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unix.SizeofLinger, 0)
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) // nothing was promised to be delivered
}
