package portfwd

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// newClient returns a client's socket, connected to a published port.
func newClient(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(settle.Patience))
	return c
}

// wantAnswer wants a client to receive text.
func wantAnswer(t *testing.T, c *net.UDPConn, text string) {
	t.Helper()
	b := make([]byte, 1<<16)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != text {
		t.Errorf("got %q, %v, want %q", b[:n], err, text)
	}
}

// wantAsked wants the guest to receive text, and returns it.
func (b *bench) wantAsked(t *testing.T, text string) datagram {
	t.Helper()
	select {
	case d := <-b.guest.datagrams:
		if d.payload != text {
			t.Errorf("guest: got %q, want %q", d.payload, text)
		}
		return d
	case <-time.After(settle.Patience):
		t.Fatalf("guest: got nothing, want %q", text)
	}
	return datagram{}
}

// answer is the guest's reply to a datagram.
func (b *bench) answer(t *testing.T, d datagram, text string) {
	t.Helper()
	if !b.publisher.HandleDatagram(d.destination, d.source, []byte(text), 0) {
		t.Errorf("answer to %v: not taken", d)
	}
}

func TestInboundUDP(t *testing.T) {
	for _, tt := range []struct {
		name, listen, client string
		target               netip.AddrPort
		source, reached      netip.Addr
	}{
		{"IPv4", "127.0.0.1:0", "127.0.0.1", netip.AddrPortFrom(guest4, 80), gateway4, guest4},
		{"IPv6", "[::1]:0", "::1", netip.AddrPortFrom(guest6, 80), gateway6, guest6},
		{"any, by IPv4", "", "127.0.0.2", port(80), gateway4, guest4},
		{"any, by IPv6", "", "::1", port(80), gateway6, guest6},
		{"IPv6 to an IPv4 target", "", "::1", netip.AddrPortFrom(guest4, 80), gateway4, guest4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, flow.Config{})
			e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort(tt.listen), Target: tt.target})
			c := newClient(t, e.at(tt.client)) // connected: takes answers from there only
			for _, word := range []string{"one", "two"} {
				c.Write([]byte(word))
				got := b.wantAsked(t, word)
				from := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
				want := datagram{netip.AddrPortFrom(tt.source, from), netip.AddrPortFrom(tt.reached, 80), word, 0}
				if got != want {
					t.Errorf("guest: got %v, want %v", got, want)
				}
				b.answer(t, got, "answer "+word)
				wantAnswer(t, c, "answer "+word)
			}
			if got := b.flows.Len(flow.UDP); got != 1 {
				t.Errorf("flows: got %d, want 1", got)
			}
			if b.publisher.HandleDatagram(netip.AddrPortFrom(tt.reached, 81), netip.AddrPortFrom(tt.source, 1), []byte("x"), 0) {
				t.Error("no flow: got true, want false")
			}
		})
	}
}

// TestSameClient has one client write to two ports that lead to the same one.
func TestSameClient(t *testing.T) {
	b := newBench(t, flow.Config{})
	first := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	second := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(settle.Patience))
	for _, e := range []Entry{first, second} {
		to := net.UDPAddrFromAddrPort(e.at("127.0.0.1"))
		if _, err := c.WriteTo([]byte("question"), to); err != nil {
			t.Fatal(err)
		}
		b.answer(t, b.wantAsked(t, "question"), "answer")
		if _, from, err := c.ReadFrom(make([]byte, 100)); err != nil || from.String() != to.String() {
			t.Errorf("answer: got one from %v, %v, want %v", from, err, to)
		}
	}
	if got := b.flows.Len(flow.UDP); got != 2 {
		t.Errorf("flows: got %d, want 2", got)
	}
}

func TestIdleUDP(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
	c := newClient(t, e.at("127.0.0.1"))
	c.Write([]byte("question"))
	d := b.wantAsked(t, "question")
	const slack = 3 // ticks of the Publisher's own meanwhile
	sweep := func(ticks int) {
		for range ticks {
			b.publisher.datagrams.sweep()
		}
	}
	sweep(int(unassuredIdle/tickLength) - slack)
	b.answer(t, d, "answer") // just in time
	sweep(int(unassuredIdle/tickLength) - slack)
	c.Write([]byte("more")) // just in time, and more than new life
	b.wantAsked(t, "more")
	sweep(int(defaultUDPIdle/tickLength) - slack)
	if got := b.flows.Len(flow.UDP); got != 1 {
		t.Errorf("flows: got %d, want 1", got)
	}
	sweep(slack + 1)
	if got := b.flows.Len(flow.UDP); got != 0 {
		t.Errorf("flows: got %d, want 0", got)
	}
	if b.publisher.HandleDatagram(d.destination, d.source, []byte("late"), 0) {
		t.Error("late answer: got true, want false")
	}
	c.Write([]byte("again"))
	b.wantAsked(t, "again")
}

func TestRemoveUDP(t *testing.T) {
	b := newBench(t, flow.Config{})
	for _, loopback := range []bool{false, true} {
		e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.2:0"), Loopback: loopback})
		c := newClient(t, e.at("127.0.0.2"))
		c.Write([]byte("question"))
		settle.Until(t, "the flow", func() bool { return b.flows.Len(flow.UDP) == 1 })
		if err := b.table.Remove(e.ID); err != nil {
			t.Fatal(err)
		}
		if got := b.flows.Len(flow.UDP); got != 0 {
			t.Errorf("flows: got %d, want 0", got)
		}
		if isTaken(flow.UDP, "127.0.0.2", e.Rule.Listen.Port()) {
			t.Error("the port is still taken")
		}
	}
}

// TestFullUDP fills the table: clients who were never answered give way to others, and
// so do those who have said nothing after the answer. Those who have do only when they
// are idle.
func TestFullUDP(t *testing.T) {
	b := newBench(t, flow.Config{MaxUDP: 1})
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
	var c *net.UDPConn
	for _, word := range []string{"first", "second", "answered", "assured"} {
		c = newClient(t, e.at("127.0.0.1"))
		c.Write([]byte(word))
		d := b.wantAsked(t, word)
		if word == "answered" || word == "assured" {
			b.answer(t, d, "answer")
			wantAnswer(t, c, "answer")
		}
	}
	say := func(word string) {
		t.Helper()
		c.Write([]byte(word))
		b.wantAsked(t, word)
	}
	say("more")
	stats := &b.publisher.Stats
	if full, evicted := stats.Full.Load(), stats.Evicted.Load(); full != 0 || evicted != 3 {
		t.Errorf("not assured: got %d refused and %d evicted, want 0 and 3", full, evicted)
	}
	newClient(t, e.at("127.0.0.1")).Write([]byte("refused"))
	settle.Until(t, "the limit", func() bool { return stats.Full.Load() == 1 })
	say("still there")
	for range 2 { // seconds
		b.publisher.datagrams.sweep()
	}
	c = newClient(t, e.at("127.0.0.1"))
	say("in place of who is idle")
	if full, evicted := stats.Full.Load(), stats.Evicted.Load(); full != 1 || evicted != 4 {
		t.Errorf("assured and idle: got %d refused and %d evicted, want 1 and 4", full, evicted)
	}
}

// TestFullLocalUDP does the same with clients who are led past the stack.
func TestFullLocalUDP(t *testing.T) {
	b := newBench(t, flow.Config{MaxUDP: 1})
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	at := func(server netip.AddrPort) Entry {
		return b.add(t, Rule{Proto: flow.UDP, Loopback: true, Listen: addrPort("127.0.0.2:0"), Target: port(server.Port())})
	}
	e := at(silent.LocalAddr().(*net.UDPAddr).AddrPort())
	for range 3 {
		newClient(t, e.at("127.0.0.2")).Write([]byte("x"))
		silent.SetDeadline(time.Now().Add(settle.Patience))
		if _, _, err := silent.ReadFrom(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	c := newClient(t, at(serveUDP(t, "127.0.0.1:0")).at("127.0.0.2"))
	c.Write([]byte("question"))
	wantAnswer(t, c, "QUESTION")
	if got := b.flows.Len(flow.UDP); got != 1 {
		t.Errorf("flows: got %d, want 1", got)
	}
}

// serveUDP answers each datagram with itself in capitals, until the test ends.
func serveUDP(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo([]byte(strings.ToUpper(string(b[:n]))), from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestLoopbackUDP(t *testing.T) {
	v4, v6 := serveUDP(t, "127.0.0.1:0"), serveUDP(t, "[::1]:0")
	for _, tt := range []struct {
		name, listen, client string
		direction            Direction
		server               netip.AddrPort
	}{
		{"inbound IPv4", "127.0.0.2:0", "127.0.0.2", Inbound, v4},
		{"inbound IPv6", "[::1]:0", "::1", Inbound, v6},
		{"inbound any, by IPv4", "", "127.0.0.2", Inbound, v4},
		{"outbound IPv4", "127.0.0.2:0", "127.0.0.2", Outbound, v4},
		{"outbound any, by IPv6", "", "::1", Outbound, v6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, flow.Config{})
			e := b.add(t, Rule{Direction: tt.direction, Proto: flow.UDP, Loopback: true, Listen: addrPort(tt.listen), Target: port(tt.server.Port())})
			for range 3 {
				c := newClient(t, e.at(tt.client))
				for range 5 { // the first ones wait for the socket
					c.Write([]byte("question"))
				}
				for range 5 {
					wantAnswer(t, c, "QUESTION")
				}
			}
			if got := b.flows.Len(flow.UDP); got != 3 {
				t.Errorf("flows: got %d, want 3", got)
			}
		})
	}
}

// TestLargeUDP sends the largest datagrams there are both ways.
func TestLargeUDP(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
	c := newClient(t, e.at("127.0.0.1"))
	large := strings.Repeat("x", 65507)
	if _, err := c.Write([]byte(large)); err != nil {
		t.Fatal(err)
	}
	b.answer(t, b.wantAsked(t, large), large)
	wantAnswer(t, c, large)
}

// TestSegmentsUDP answers with several datagrams at once.
func TestSegmentsUDP(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
	c := newClient(t, e.at("127.0.0.1"))
	c.Write([]byte("question"))
	d := b.wantAsked(t, "question")
	if !b.publisher.HandleDatagram(d.destination, d.source, []byte("aaaabbbbcc"), 4) {
		t.Fatal("not taken")
	}
	for _, want := range []string{"aaaa", "bbbb", "cc"} {
		wantAnswer(t, c, want)
	}
}

// TestSilentUDP has a flow whose target nobody listens at, and later somebody
// does.
func TestSilentUDP(t *testing.T) {
	b := newBench(t, flow.Config{})
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := l.LocalAddr().(*net.UDPAddr).AddrPort()
	l.Close()
	e := b.add(t, Rule{Proto: flow.UDP, Loopback: true, Listen: addrPort("127.0.0.2:0"), Target: port(target.Port())})
	c := newClient(t, e.at("127.0.0.2"))
	for range 10 {
		c.Write([]byte("lost"))
	}
	var f *flow.Flow
	settle.Until(t, "all gone", func() bool {
		flows := slices.Collect(b.flows.All())
		if len(flows) == 1 {
			f = flows[0]
		}
		return f != nil && f.ToTarget.Load() == 40
	})
	serveUDP(t, target.String())
	c.Write([]byte("found"))
	wantAnswer(t, c, "FOUND")
}
