package nat

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
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
	for i := range 3*outboxLen + 1 {
		to := i / 5 % len(servers)
		payload := fmt.Sprint(i, " ")
		if i%7 == 3 {
			payload += strings.Repeat("x", outboxMax)
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
	if u.outbox.n != 0 {
		t.Errorf("held: got %d, want 0", u.outbox.n)
	}
}

// Datagrams of one size go together, up to a shorter one, another place, another
// TOS, or what a packet holds; none is lost or joined.
func TestUDPHoldBackAlike(t *testing.T) {
	u, _ := startHolding(t)
	servers := []*net.UDPConn{listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")}
	initiator := netip.AddrPortFrom(guest4, freePort(t))
	for _, tt := range []struct {
		sizes []int
		to    []int // index of the server, the first if there are fewer
		tos   []uint8
		want  []int // datagrams in each message
	}{
		{sizes: []int{5}, want: []int{1}},
		{sizes: []int{5, 5, 5}, want: []int{3}},
		{sizes: []int{5, 5, 4, 5, 5}, want: []int{3, 2}},
		{sizes: []int{5, 6, 6}, want: []int{1, 2}},
		{sizes: []int{5, 0, 0, 5}, want: []int{1, 1, 1, 1}},
		{sizes: []int{5, 5, 5, 5}, to: []int{0, 0, 1, 1}, want: []int{2, 2}},
		{sizes: []int{5, 5, 5, 5}, tos: []uint8{0, 8, 8, 8}, want: []int{1, 3}},
		{sizes: slices.Repeat([]int{1472}, outboxLen), want: []int{outboxLen}},
		{sizes: []int{1473, 1473, 1473}, want: []int{1, 1, 1}},
	} {
		var want [2][]string
		for i, size := range tt.sizes {
			server, payload := 0, strings.Repeat(string(rune('A'+i)), size)
			if i < len(tt.to) {
				server = tt.to[i]
			}
			d := datagram(initiator, netip.AddrPortFrom(gateway4, portOf(servers[server])), payload)
			if i < len(tt.tos) {
				d.TOS = tt.tos[i]
			}
			want[server] = append(want[server], payload)
			u.Handle(d)
		}
		n := u.outbox.pack()
		if got := u.outbox.counts[:n]; !slices.Equal(got, tt.want) {
			t.Errorf("%v bytes: got messages of %v datagrams, want %v", tt.sizes, got, tt.want)
		}
		u.Flush()
		for i, server := range servers {
			for _, w := range want[i] {
				if got, _ := read(t, server); got != w {
					t.Fatalf("%v bytes, server %d: got %.20q, want %.20q", tt.sizes, i, got, w)
				}
			}
		}
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
