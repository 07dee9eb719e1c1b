package portfwd

import (
	"net/netip"
	"testing"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

// TestRefusedUDP wants a client whose datagram the guest refuses to be led to its
// address of the other family, once.
func TestRefusedUDP(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("[::1]:0"), Target: port(80)})
	c := newClient(t, e.at("::1"))
	refuse := func(d datagram, payload []byte) {
		t.Helper()
		b.publisher.HandleRefusal(d.source, d.destination, payload)
	}
	c.Write([]byte("one"))
	first := b.wantAsked(t, "one")
	refuse(first, []byte("one"))
	second := b.wantAsked(t, "one")
	if want := netip.AddrPortFrom(guest4, 80); second.destination != want || second.source.Addr() != gateway4 {
		t.Errorf("got %v, want it at %v", second, want)
	}
	refuse(first, []byte("one")) // is late
	b.answer(t, second, "answer")
	wantAnswer(t, c, "answer")
	refuse(second, nil) // somebody has answered
	c.Write([]byte("two"))
	if got := b.wantAsked(t, "two"); got.destination != second.destination {
		t.Errorf("after an answer: got %v, want %v", got.destination, second.destination)
	}
	if got := b.flows.Len(flow.UDP); got != 1 {
		t.Errorf("flows: got %d, want 1", got)
	}
}

// TestRefusedUDPTwice wants a client that is refused by both families to begin
// anew, and one whose rule says where it leads to stay there.
func TestRefusedUDPTwice(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	fixed := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0"), Target: netip.AddrPortFrom(guest4, 81)})
	c := newClient(t, e.at("127.0.0.1"))
	for range 2 {
		c.Write([]byte("one"))
		d := b.wantAsked(t, "one")
		if want := netip.AddrPortFrom(guest4, 80); d.destination != want {
			t.Fatalf("got %v, want %v", d.destination, want)
		}
		b.publisher.HandleRefusal(d.source, d.destination, nil) // it is not known what the datagram had
		c.Write([]byte("two"))
		d = b.wantAsked(t, "two")
		if want := netip.AddrPortFrom(guest6, 80); d.destination != want {
			t.Fatalf("turned: got %v, want %v", d.destination, want)
		}
		b.publisher.HandleRefusal(d.source, d.destination, []byte("two"))
	}
	c = newClient(t, fixed.at("127.0.0.1"))
	c.Write([]byte("three"))
	d := b.wantAsked(t, "three")
	b.publisher.HandleRefusal(d.source, d.destination, []byte("three"))
	c.Write([]byte("four"))
	if got := b.wantAsked(t, "four"); got.destination != d.destination {
		t.Errorf("a target: got %v, want %v", got.destination, d.destination)
	}
}

// TestRefusedUDPJoined wants nothing sent again of which nobody knows how many
// datagrams it was.
func TestRefusedUDPJoined(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	b.publisher.datagrams.mu.Lock()
	l := b.publisher.datagrams.listeners[1]
	b.publisher.datagrams.mu.Unlock()
	from := addrPort("127.0.0.1:4000")
	b.publisher.datagrams.fromClient(l, socket.Message{From: socket.NewAddress(from), Payload: []byte("aabb")}, 2)
	d := b.wantAsked(t, "aabb")
	b.publisher.HandleRefusal(d.source, d.destination, []byte("aabb"))
	c := newClient(t, e.at("127.0.0.1"))
	c.Write([]byte("next"))
	b.wantAsked(t, "next")
}
