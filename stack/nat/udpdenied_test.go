package nat

import (
	"net/netip"
	"testing"

	"taproot/stack"
)

func TestUDPDenied(t *testing.T) {
	for _, test := range []struct {
		source, destination, gateway string
		typ, code                    uint8
	}{
		{"10.0.2.100:1000", "169.254.169.254:80", "10.0.2.2", 3, 13},
		{"10.0.2.100:1000", "127.0.0.1:80", "", 0, 0}, // loopback is never answered
		{"[fd00::64]:1000", "[fe80::1]:80", "fd00::2", 1, 1},
	} {
		u, guest := newTestUDP(t)
		u.Handle(datagram(netip.MustParseAddrPort(test.source), netip.MustParseAddrPort(test.destination), "x"))
		if got := u.Stats.Denied.Load(); got != 1 {
			t.Errorf("%s: denied: got %d, want 1", test.destination, got)
		}
		u.close()
		if test.gateway == "" {
			continue
		}
		e := parseError(t, next(t, guest.packets))
		if e.source.String() != test.gateway || e.typ != test.typ || e.code != test.code {
			t.Errorf("%s: got %v %d %d, want %v %d %d", test.destination, e.source, e.typ, e.code, test.gateway, test.typ, test.code)
		}
	}
}

func TestUDPDeniedOtherwise(t *testing.T) {
	d := datagram(netip.AddrPortFrom(guest4, 1000), netip.MustParseAddrPort("169.254.169.254:80"), "x")
	u, guest := newTestUDP(t, func(c *UDPConfig) { c.Denied = NetUnreachable })
	u.Handle(d)
	if got := parseError(t, next(t, guest.packets)); got.typ != 3 || got.code != 0 {
		t.Errorf("got %d %d, want 3 0", got.typ, got.code)
	}
	u.close()
	u, guest = newTestUDP(t, func(c *UDPConfig) { c.Denied = Silent })
	u.Handle(d)
	if len(guest.packets) != 0 || u.Stats.Denied.Load() != 1 {
		t.Errorf("silent: got %d packets, %d counted, want 0 and 1", len(guest.packets), u.Stats.Denied.Load())
	}
	u.close()
}

// TestUDPPublished has a published port's reply to an address that no rule
// allows.
func TestUDPPublished(t *testing.T) {
	var seen []stack.Datagram
	reply := datagram(netip.AddrPortFrom(guest4, 80), netip.AddrPortFrom(gateway4, 4000), "reply")
	reply.TTL = 1
	u, guest := newTestUDP(t, func(c *UDPConfig) {
		c.Published = func(d stack.Datagram) bool {
			seen = append(seen, d)
			return d.Source.Port() == 80
		}
	})
	defer u.close()
	u.Handle(reply)
	u.Handle(datagram(netip.AddrPortFrom(guest4, 81), netip.MustParseAddrPort("169.254.169.254:80"), "x"))
	if len(seen) != 2 || string(seen[0].Payload) != "reply" {
		t.Errorf("asked about %v", seen)
	}
	if _, peers := u.sizes(); peers != 0 || u.Stats.Denied.Load() != 1 || u.Stats.Expired.Load() != 0 {
		t.Errorf("got %d flows, %d denied, want 0 and the other datagram", peers, u.Stats.Denied.Load())
	}
	next(t, guest.packets) // about the other
}
