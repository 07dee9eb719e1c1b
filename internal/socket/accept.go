package socket

import (
	"net/netip"
	"os"
)

// Accept takes a connection from a listener, without waiting. The client's
// address is as the socket has it, so IPv4 may be mapped. The error is a bare
// syscall.Errno.
func (s *Socket) Accept() (*os.File, netip.AddrPort, error) {
	fd, client, err := AcceptFrom(s.fd)
	if err != nil {
		return nil, client, err
	}
	return os.NewFile(uintptr(fd), "tcp"), client, nil
}
