package socket

import (
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Accept takes a connection from a listener, without waiting. The client's
// address is as the socket has it, so IPv4 may be mapped. The error is a bare
// syscall.Errno.
func (s *Socket) Accept() (*os.File, netip.AddrPort, error) {
	var a Address
	a.len = unix.SizeofSockaddrInet6
	fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(s.fd), uintptr(unsafe.Pointer(&a.raw[0])),
		uintptr(unsafe.Pointer(&a.len)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return nil, netip.AddrPort{}, errno
	}
	return os.NewFile(fd, "tcp"), a.AddrPort(), nil
}
