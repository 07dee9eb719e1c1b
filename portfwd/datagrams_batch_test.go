package portfwd

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack/flow"
	"taproot/test/settle"
)

// newHolding is newBench with answers held back until Flush.
func newHolding(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, flow.Config{})
	b.publisher.datagrams.outbox = new(outbox)
	return b
}

// setListeners sets an option of all UDP sockets.
func (b *bench) setListeners(t *testing.T, level, name, value int) {
	t.Helper()
	d := b.publisher.datagrams
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		if err := unix.SetsockoptInt(l.socket.FD(), level, name, value); err != nil {
			t.Fatal(err)
		}
	}
}

// asked returns the next n datagrams that the guest gets, each by itself.
func (b *bench) asked(t *testing.T, n int) []datagram {
	t.Helper()
	var all []datagram
	patience := time.After(settle.Patience)
	for len(all) < n {
		select {
		case d := <-b.guest.datagrams:
			size := len(d.payload)
			if d.segment > 0 {
				size = d.segment
			}
			for rest := d.payload; ; rest = rest[size:] {
				size = min(size, len(rest))
				all = append(all, datagram{d.source, d.destination, rest[:size], 0})
				if size == len(rest) {
					break
				}
			}
		case <-patience:
			t.Fatalf("guest: got %d datagrams, want %d", len(all), n)
		}
	}
	return all
}

// TestTrainsUDP has datagrams of all sizes arrive as they were sent, one by one
// or as a train, whether the kernel joins them, we do, or nobody.
func TestTrainsUDP(t *testing.T) {
	sizes := []int{100, 100, 100, 40, 100, 0, 0, 40, 200, 1472, 1472, 3, 1, 1, 65507, 65507, 9}
	for _, gro := range []int{0, 1} {
		t.Run(fmt.Sprint("UDP_GRO ", gro), func(t *testing.T) {
			b := newBench(t, flow.Config{})
			e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
			b.setListeners(t, unix.IPPROTO_UDP, unix.UDP_GRO, gro)
			c := newClient(t, e.at("127.0.0.1"))
			var want []string
			for i, size := range sizes {
				payload := strings.Repeat(string(rune('a'+i)), size)
				want = append(want, payload)
				c.Write([]byte(payload))
			}
			wantPayloads(t, b.asked(t, len(want)), want)
			want = want[:0]
			for i := range 7 { // the last of a train is shorter
				want = append(want, strings.Repeat(string(rune('A'+i)), 1000-100*(i/6)))
			}
			sendTrain(t, c, strings.Join(want, ""), 1000)
			wantPayloads(t, b.asked(t, len(want)), want)
		})
	}
}

func wantPayloads(t *testing.T, got []datagram, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("guest: got %d datagrams, want %d", len(got), len(want))
	}
	for i, w := range want {
		if got[i].payload != w {
			t.Errorf("guest: datagram %d: got %d bytes %.10q, want %d bytes %.10q", i, len(got[i].payload), got[i].payload, len(w), w)
		}
	}
}

// sendTrain sends several datagrams of one size in one call, or skips the test.
func sendTrain(t *testing.T, c *net.UDPConn, payload string, segment int) {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	s, err := socket.Take(f)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	var control socket.Control
	control.Segment(segment)
	if err := s.SendMessage(nil, nil, []byte(payload), &control); err != nil {
		t.Skipf("this kernel has no UDP_SEGMENT: %v", err)
	}
}

// TestHeldUDP has answers of all sizes, to several clients, arrive in order and
// at their own clients, also where the kernel does not cut messages.
func TestHeldUDP(t *testing.T) {
	for _, tt := range []struct {
		name, listen, client string
		unchecked            int // SO_NO_CHECK, without which there is no UDP_SEGMENT
	}{
		{"IPv4", "127.0.0.1:0", "127.0.0.1", 0},
		{"IPv6", "[::1]:0", "::1", 0},
		{"any, by IPv4", "", "127.0.0.2", 0},
		{"IPv4 without UDP_SEGMENT", "127.0.0.1:0", "127.0.0.1", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newHolding(t)
			e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort(tt.listen)})
			b.setListeners(t, unix.SOL_SOCKET, unix.SO_NO_CHECK, tt.unchecked)
			clients := make([]*net.UDPConn, 3)
			flows := make([]datagram, len(clients))
			for i := range clients {
				clients[i] = newClient(t, e.at(tt.client))
				clients[i].Write([]byte("question"))
				flows[i] = b.wantAsked(t, "question")
			}
			want := make([][]string, len(clients))
			for i := range 3*socket.OutboxLen + 1 {
				to, size := i/4%len(clients), []int{100, 100, 100, 50, 0, 1400, socket.OutboxMax + 1}[i%7]
				payload := fmt.Sprintf("%.*s", size, fmt.Sprintf("%-*d", size, i))
				want[to] = append(want[to], payload)
				b.answer(t, flows[to], payload)
			}
			b.publisher.Flush()
			b.publisher.Flush() // nothing is left
			for i, c := range clients {
				for _, w := range want[i] {
					wantAnswer(t, c, w)
				}
			}
			if got := b.publisher.Stats.Dropped.Load(); got != 0 {
				t.Errorf("dropped: got %d, want 0", got)
			}
		})
	}
}

// TestThousandClientsUDP has a thousand clients whose flows all live, each of
// whom gets the answers to its own questions.
func TestThousandClientsUDP(t *testing.T) {
	const count, part = 1000, 50 // few enough at a time for the socket's buffer
	b := newHolding(t)
	e := b.add(t, Rule{Proto: flow.UDP})
	clients := make([]*net.UDPConn, count)
	for i := range clients {
		clients[i] = newClient(t, e.at([]string{"127.0.0.1", "::1"}[i%2]))
	}
	for round := range 2 {
		for chunk := range slices.Chunk(clients, part) {
			for _, c := range chunk {
				fmt.Fprintf(c, "%d %v", round, c.LocalAddr())
			}
			for _, d := range b.asked(t, len(chunk)) {
				b.answer(t, d, "to "+d.payload)
			}
			b.publisher.Flush()
			for _, c := range chunk {
				wantAnswer(t, c, fmt.Sprintf("to %d %v", round, c.LocalAddr()))
			}
		}
		slices.Reverse(clients)
	}
	if got := b.flows.Len(flow.UDP); got != count {
		t.Errorf("flows: got %d, want %d", got, count)
	}
}

// TestGoneClientUDP has a client whose host says that it is gone: the others
// notice nothing.
func TestGoneClientUDP(t *testing.T) {
	for _, hold := range []string{"at once", "held"} {
		t.Run(hold, func(t *testing.T) {
			b := newBench(t, flow.Config{})
			if hold == "held" {
				b = newHolding(t)
			}
			e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
			gone, c := newClient(t, e.at("127.0.0.1")), newClient(t, e.at("127.0.0.1"))
			gone.Write([]byte("question"))
			lost := b.wantAsked(t, "question")
			gone.Close()
			c.Write([]byte("question"))
			d := b.wantAsked(t, "question")
			for range 3 {
				for range 3 {
					b.answer(t, lost, "into the void")
					b.answer(t, d, "answer")
				}
				b.publisher.Flush()
				for range 3 {
					wantAnswer(t, c, "answer")
				}
				c.Write([]byte("question"))
				b.wantAsked(t, "question")
			}
			if got := b.publisher.Stats.Dropped.Load(); got != 0 {
				t.Errorf("dropped: got %d, want 0", got)
			}
		})
	}
}

// TestRemoveHeldUDP removes a rule whose answers are held: the socket goes when
// they have gone.
func TestRemoveHeldUDP(t *testing.T) {
	b := newHolding(t)
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
	c := newClient(t, e.at("127.0.0.1"))
	c.Write([]byte("question"))
	b.answer(t, b.wantAsked(t, "question"), "answer")
	removed := make(chan error)
	go func() { removed <- b.table.Remove(e.ID) }()
	settle.Until(t, "the end of the flow", func() bool { return b.flows.Len(flow.UDP) == 0 })
	b.publisher.Flush()
	wantAnswer(t, c, "answer")
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if isTaken(flow.UDP, "127.0.0.1", e.Rule.Listen.Port()) {
		t.Error("the port is still taken")
	}
}

// TestAllocationsUDP wants none for an answer.
func TestAllocationsUDP(t *testing.T) {
	b := newHolding(t)
	e := b.add(t, Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
	c := newClient(t, e.at("127.0.0.1"))
	c.Write([]byte("question"))
	d := b.wantAsked(t, "question")
	payload := make([]byte, 1400)
	for _, held := range []int{1, socket.OutboxLen} {
		got := testing.AllocsPerRun(10, func() {
			for range held {
				b.publisher.HandleDatagram(d.destination, d.source, payload, 0)
			}
			b.publisher.Flush()
		})
		if got != 0 {
			t.Errorf("%d answers: got %v allocations, want 0", held, got)
		}
	}
}
