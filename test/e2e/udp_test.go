package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"taproot/test/lab"
)

// TestUDP sends datagrams up to the largest there are. 1472 is the most that
// fits into a packet of 1500 bytes with IPv4, 65507 into any.
func TestUDP(t *testing.T) {
	t.Parallel()
	sizes := []string{"1", "512", "1472", "1473", "4096", "60000", "65507"}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			l := newLab(t)
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					lab.Need(t, f.needs...)
					l := l.With(t)
					port := serveUDPEcho(t, l.Outside, join(f.outside, 0))
					got := guestProgram(l, v.options, "udp", append([]string{join(f.outside, port)}, sizes...)...).MustRun()
					wantText(t, "sizes echoed", got, strings.Join(sizes, " "))
				})
			}
		})
	}
}

// TestUDPMapping: RFC 4787 REQ-1, one port for all servers, and it is the
// guest's own where that is free.
func TestUDPMapping(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			l := l.With(t)
			var servers []string
			for _, address := range []string{f.outside, f.second} {
				conn := l.Outside.ListenPacket("udp", join(address, 0))
				go tellPeer(conn)
				servers = append(servers, join(address, port(conn.LocalAddr())))
			}
			from := join(f.guest, 43210)
			got := guestProgram(l, nil, "udpports", append([]string{from}, servers...)...).MustRun()
			seen := join(f.host, 43210)
			wantText(t, "what the servers saw", got, seen+"\n"+seen)
		})
	}
	t.Run("port taken", func(t *testing.T) {
		l := l.With(t)
		l.Host.ListenPacket("udp", join(lab.Host4, 43211))
		l.Host.ListenPacket("udp", join("0.0.0.0", 43212))
		conn := l.Outside.ListenPacket("udp", join(lab.Outside4, 0))
		go tellPeer(conn)
		got := guestProgram(l, nil, "udpports", join(guest4, 43212), conn.LocalAddr().String()).MustRun()
		seen, err := netip.ParseAddrPort(strings.TrimSpace(got))
		if err != nil || seen.Port() == 43212 {
			t.Errorf("got %q, want another port than 43212", got)
		}
	})
}

// tellPeer answers each datagram with the address it came from.
func tellPeer(conn net.PacketConn) {
	b := make([]byte, 1500)
	for {
		_, peer, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		fmt.Fprint(packetWriter{conn, peer}, peer)
	}
}

// A packetWriter writes datagrams to one peer.
type packetWriter struct {
	net.PacketConn
	peer net.Addr
}

// Write sends one datagram.
func (w packetWriter) Write(b []byte) (int, error) { return w.WriteTo(b, w.peer) }

func TestUDPErrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := newShell(t, l)
	tests := []struct {
		name, target, want string
		needs              []lab.Feature
	}{
		{"refused ipv4", lab.Outside4, "ECONNREFUSED", nil},
		{"host ipv4", lab.NoHost4, "EHOSTUNREACH", nil},
		{"network ipv4", lab.NoNet4, "ENETUNREACH", nil},
		{"prohibited ipv4", lab.Prohibited4, "EHOSTUNREACH", nil},
		{"refused ipv6", lab.Outside6, "ECONNREFUSED", []lab.Feature{lab.IPv6}},
		{"address ipv6", lab.NoHost6, "EHOSTUNREACH", []lab.Feature{lab.IPv6}},
		{"network ipv6", lab.NoNet6, "ENETUNREACH", []lab.Feature{lab.IPv6}},
		{"prohibited ipv6", lab.Prohibited6, "EACCES", []lab.Feature{lab.IPv6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lab.Need(t, tt.needs...)
			got := s.with(t).must(program(l, "udperror", join(tt.target, 9)))
			wantText(t, "error", got, tt.want)
		})
	}
}
