package socket

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// descriptor returns that of a connection or listener, which the test closes.
func descriptor(t *testing.T, network, address string) (fd int, at netip.AddrPort) {
	t.Helper()
	var err error
	var closer interface{ Close() error }
	if network == "udp4" {
		var c net.PacketConn
		if c, err = net.ListenPacket(network, address); err == nil {
			f, _ := c.(*net.UDPConn).File()
			fd, _ = Dup(f)
			f.Close()
			closer = c
		}
	} else {
		var l net.Listener
		if l, err = net.Listen(network, address); err == nil {
			f, _ := l.(*net.TCPListener).File()
			fd, _ = Dup(f)
			f.Close()
			closer, at = l, l.Addr().(*net.TCPAddr).AddrPort()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closer.Close()
		unix.Close(fd)
	})
	return fd, at
}

// TestCheckInherited wants only the connection that is wanted.
func TestCheckInherited(t *testing.T) {
	listener, at := descriptor(t, "tcp4", "127.0.0.1:0")
	datagrams, _ := descriptor(t, "udp4", "127.0.0.1:0")
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, client, err := AcceptFrom(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(server)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fresh, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fresh)
	other := netip.AddrPortFrom(at.Addr(), 1)
	for name, tt := range map[string]struct {
		fd          int
		local, peer netip.AddrPort
		right       bool
	}{
		"the connection":    {server, at, client, true},
		"any":               {server, netip.AddrPort{}, netip.AddrPort{}, true},
		"another local end": {server, other, client, false},
		"another peer":      {server, at, other, false},
		"a listener":        {listener, at, netip.AddrPort{}, false},
		"not connected":     {fresh, netip.AddrPort{}, netip.AddrPort{}, false},
		"UDP":               {datagrams, netip.AddrPort{}, netip.AddrPort{}, false},
		"a Unix socket":     {pair[0], netip.AddrPort{}, netip.AddrPort{}, false},
		"nothing":           {-1, netip.AddrPort{}, netip.AddrPort{}, false},
	} {
		err := CheckInherited(tt.fd, tt.local, tt.peer, false)
		if tt.right && err != nil || !tt.right && !errors.Is(err, ErrInherited) {
			t.Errorf("%s: got %v, want right: %v", name, err, tt.right)
		}
	}
	if err := SameNamespace(server, listener); err != nil {
		t.Errorf("one namespace: got %v", err)
	}
	if err := OtherNamespace(server, listener); !errors.Is(err, ErrInherited) {
		t.Errorf("one namespace: got %v, want %v", err, ErrInherited)
	}
	if err := OtherNamespace(server, -1); !errors.Is(err, ErrInherited) {
		t.Errorf("no socket: got %v, want %v", err, ErrInherited)
	}
	if err := SameNamespace(server, -1); !errors.Is(err, ErrInherited) {
		t.Errorf("no socket: got %v, want %v", err, ErrInherited)
	}
}
