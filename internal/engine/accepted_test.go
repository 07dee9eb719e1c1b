package engine

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"taproot/portfwd"
)

// TestAccepted wants a client of a rule to have the rule's address, and at its other end
// nobody who listens.
func TestAccepted(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp"} { // one address, all of them
		address := map[string]string{"tcp4": "127.0.0.1:0", "tcp": ":0"}[network]
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		c, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		var r replacement
		r.learnServers(slog.New(slog.DiscardHandler))
		for name, tt := range map[string]struct {
			conn           net.Conn
			rule           uint16
			reached, peers bool
		}{
			"a client":       {server, port, true, true},
			"another rule's": {server, port - 1, false, true},
			"a service":      {c, c.LocalAddr().(*net.TCPAddr).AddrPort().Port(), true, false},
		} {
			f, err := tt.conn.(*net.TCPConn).File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			rule := portfwd.Rule{Listen: netip.AddrPortFrom(netip.Addr{}, tt.rule), Ports: 1}
			if got := accepted(rule, int(f.Fd())); got != tt.reached {
				t.Errorf("%s, %s: got reached %v", network, name, got)
			}
			if got := r.servers.accepts(int(f.Fd())); got != tt.peers {
				t.Errorf("%s, %s: got %v for who is at the other end", network, name, got)
			}
		}
	}
}
