package portfwd

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"taproot/internal/socket"
)

// proxyHeader returns the header that begins a connection to the guest, nil for
// none. client is accepted and comes from initiator; the guest sees it as source
// at target.
//
// It says who the client is and which address of the host it wrote to. For
// clients on loopback it says what the guest sees: no program shall trust them
// as its own (CVE-2021-20199). Those of a Unix socket have no address: v1 says
// UNKNOWN then, v2 LOCAL.
func (l Listener) proxyHeader(client *os.File, initiator, source, target netip.AddrPort) ([]byte, error) {
	if l.Proxy == 0 {
		return nil, nil
	}
	var from, to net.Addr
	if !l.Unix {
		if !initiator.Addr().IsLoopback() {
			var err error
			if source, target, err = ends(client, initiator); err != nil {
				return nil, fmt.Errorf("PROXY header: %w", err)
			}
		}
		from, to = net.TCPAddrFromAddrPort(source), net.TCPAddrFromAddrPort(target)
	}
	b, err := proxyproto.HeaderProxyFromAddrs(l.Proxy, from, to).Format()
	if err != nil {
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	return b, nil
}

// ends returns both addresses of an accepted connection.
func ends(client *os.File, initiator netip.AddrPort) (from, to netip.AddrPort, err error) {
	raw, err := client.SyscallConn()
	if err != nil {
		return from, to, err
	}
	var nameErr error
	err = raw.Control(func(fd uintptr) { to, nameErr = socket.LocalAddress(int(fd)) })
	if err == nil {
		err = nameErr
	}
	return initiator, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), err
}

// greetStream writes a header to a connection through the stack, before any
// other byte. There is room for it: at most 536 bytes, and nothing was sent yet.
func greetStream(guest Conn, header []byte) error {
	if len(header) == 0 {
		return nil
	}
	n, err := guest.WriteFrom(bytes.NewReader(header))
	if err == nil && n < len(header) {
		err = syscall.ENOBUFS
	}
	if err != nil {
		return fmt.Errorf("write PROXY header: %w", err)
	}
	return nil
}

// greet is greetStream for a socket.
func greet(target *os.File, header []byte) error {
	if len(header) == 0 {
		return nil
	}
	raw, err := target.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var writeErr error
	err = raw.Control(func(fd uintptr) { n, writeErr = unix.Write(int(fd), header) })
	switch {
	case err != nil:
	case writeErr != nil:
		err = writeErr
	case n < len(header):
		err = syscall.ENOBUFS
	}
	if err != nil {
		return fmt.Errorf("write PROXY header: %w", err)
	}
	return nil
}
