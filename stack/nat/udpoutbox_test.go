package nat

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"taproot/internal/socket"
)

// startHolding is startUDP for a UDP that holds datagrams back.
func startHolding(t *testing.T) (*UDP, *fakeGuest) {
	t.Helper()
	u, guest := startUDP(t)
	u.outbox = newOutbox()
	return u, guest
}

// Everything arrives, in order, whatever does not go together in one call:
// other destinations, large datagrams, more than there is room for.
func TestUDPHoldBack(t *testing.T) {
	u, _ := startHolding(t)
	servers := []*net.UDPConn{listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")}
	guests := []netip.AddrPort{netip.AddrPortFrom(guest4, freePort(t)), netip.AddrPortFrom(guest4, freePort(t))}
	want := make([][]string, len(servers))
	for i := range 3*socket.OutboxLen + 1 {
		to := i / 5 % len(servers)
		payload := fmt.Sprint(i, " ")
		if i%7 == 3 {
			payload += strings.Repeat("x", socket.OutboxMax)
		}
		want[to] = append(want[to], payload)
		u.Handle(datagram(guests[to], netip.AddrPortFrom(gateway4, portOf(servers[to])), payload))
	}
	u.Flush()
	for i, server := range servers {
		for _, w := range want[i] {
			if got, _ := read(t, server); got != w {
				t.Fatalf("server %d: got %.20q, want %.20q", i, got, w)
			}
		}
	}
	u.Flush() // nothing is left, and nothing is sent twice
	if u.outbox.Len() != 0 {
		t.Errorf("held: got %d, want 0", u.outbox.Len())
	}
}

// A refusal costs the datagrams beside it nothing.
func TestUDPHoldBackRefused(t *testing.T) {
	u, guest := startHolding(t)
	server := listen(t, "127.0.0.1:0")
	closed := freePort(t)
	initiator := netip.AddrPortFrom(guest4, freePort(t))
	open := netip.AddrPortFrom(gateway4, portOf(server))
	for range 3 {
		u.Handle(datagram(initiator, netip.AddrPortFrom(gateway4, closed), "into the void"))
		u.Handle(datagram(initiator, open, "there"))
	}
	u.Flush()
	for range 3 {
		if got, _ := read(t, server); got != "there" {
			t.Errorf("got %q, want %q", got, "there")
		}
	}
	if got := parseError(t, next(t, guest.packets)); got.typ != icmp4Unreachable || got.code != 3 {
		t.Errorf("got %+v, want port unreachable", got)
	}
}
