package shortcut

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
)

// bindTo binds a guest's socket to one of its own addresses and ports.
func bindTo(t *testing.T, f *os.File, a netip.AddrPort) {
	t.Helper()
	fd, err := socket.Dup(f)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	address := socket.NewAddress(a)
	if err := address.Bind(fd); err != nil {
		t.Fatal(err)
	}
}

// A port of the guest's is used for the same target again at once, where a
// kernel allows that: after the target has closed first, which leaves TIME_WAIT
// at the listener's end, and after a reset from either side.
func testPortAgain(t *testing.T, g *guest, f family) {
	ends := map[string]func(guest, host *net.TCPConn){
		"the host closes first": func(guest, host *net.TCPConn) {
			host.CloseWrite()
			io.ReadAll(guest)
			guest.Close()
		},
		"the host resets": func(guest, host *net.TCPConn) {
			host.SetLinger(0)
			host.Close()
			guest.Read(make([]byte, 1))
			guest.Close()
		},
		"the guest resets": func(guest, host *net.TCPConn) {
			guest.SetLinger(0)
			guest.Close()
		},
	}
	at := netip.AddrPortFrom(own[0].Addr(), 4000)
	if f.name == "ipv6" {
		at = netip.AddrPortFrom(own[1].Addr(), 4000)
	}
	conns := make(chan *net.TCPConn)
	done := make(chan struct{})
	to := f.listenTCP(t, func(c *net.TCPConn) {
		conns <- c
		<-done
	})
	defer close(done)
	n := uint64(0)
	for name, end := range ends {
		sockets := g.sockets(t, f, 10)
		for i, s := range sockets {
			bindTo(t, s, at)
			c, err := connect(s, to)
			if err != nil {
				t.Errorf("%s, connection %d: %v", name, i, err)
				continue
			}
			n++
			host := receive(t, conns, "the connection to the target")
			wantEcho(t, c, host)
			end(c, host)
			host.Close()
		}
	}
	g.want(t, counts{connected: n, putBack: n})
}
