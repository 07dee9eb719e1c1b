package socket

import (
	"slices"
	"strings"
	"testing"

	"net/netip"

	"golang.org/x/sys/unix"
)

// Datagrams of one size go together, up to a shorter one, another place, other
// control messages, or what a packet holds; none is lost or joined, and all
// arrive in order.
func TestOutbox(t *testing.T) {
	for _, family := range []struct{ name, from, to string }{
		{"IPv4", "127.0.0.1:0", "127.0.0.1:0"},
		{"IPv6", "[::1]:0", "[::1]:0"},
		{"IPv4 by IPv6", "[::]:0", "127.0.0.1:0"},
	} {
		t.Run(family.name, func(t *testing.T) { testOutbox(t, family.from, family.to) })
	}
}

// outboxCase is what an Outbox is given.
type outboxCase struct {
	sizes []int
	to    []int // index of the server, the first if there are fewer
	tos   []int32
	want  []int // datagrams in each message
}

func outboxCases() []outboxCase {
	return []outboxCase{
		{sizes: []int{5}, want: []int{1}},
		{sizes: []int{5, 5, 5}, want: []int{3}},
		{sizes: []int{5, 5, 4, 5, 5}, want: []int{3, 2}},
		{sizes: []int{5, 6, 6}, want: []int{1, 2}},
		{sizes: []int{5, 0, 0, 5}, want: []int{1, 1, 1, 1}},
		{sizes: []int{5, 5, 5, 5}, to: []int{0, 0, 1, 1}, want: []int{2, 2}},
		{sizes: []int{5, 5, 5, 5}, tos: []int32{0, 8, 8, 8}, want: []int{1, 3}},
		{sizes: slices.Repeat([]int{ethernet6}, OutboxLen), want: []int{OutboxLen}},
		{sizes: []int{ethernet4 + 1, ethernet4 + 1, ethernet4 + 1}, want: []int{1, 1, 1}},
	}
}

func testOutbox(t *testing.T, from, to string) {
	sender, _ := udp(t, from)
	servers := make([]*Socket, 2)
	places := make([]Address, len(servers))
	for i := range servers {
		var port uint16
		servers[i], port = udp(t, to)
		// One that was joined by us must not be joined again.
		_ = unix.SetsockoptInt(servers[i].FD(), unix.IPPROTO_UDP, unix.UDP_GRO, 0)
		address := netip.MustParseAddrPort(to).Addr()
		if strings.HasPrefix(from, "[::]") {
			address = netip.AddrFrom16(address.As16())
		}
		places[i] = NewAddress(netip.AddrPortFrom(address, port))
	}
	box, batch := new(Outbox), NewBatch()
	for _, tt := range outboxCases() {
		want := make([][]string, len(servers))
		for i, size := range tt.sizes {
			server, payload := 0, strings.Repeat(string(rune('A'+i)), size)
			if i < len(tt.to) {
				server = tt.to[i]
			}
			var c Control
			if i < len(tt.tos) && tt.tos[i] != 0 {
				c.Integer(unix.IPPROTO_IP, unix.IP_TTL, tt.tos[i])
			}
			want[server] = append(want[server], payload)
			box.Add(&places[server], []byte(payload), c)
		}
		n := box.pack()
		if got := box.counts[:n]; !slices.Equal(got, tt.want) {
			t.Errorf("%v bytes: got messages of %v datagrams, want %v", tt.sizes, got, tt.want)
		}
		next := 0
		box.Send(sender, func(i int, taken bool) {
			if i != next || !taken {
				t.Errorf("%v bytes: datagram %d: got %d, taken %v", tt.sizes, next, i, taken)
			}
			next++
		})
		if next != len(tt.sizes) || box.Len() != 0 {
			t.Errorf("%v bytes: %d told, %d left", tt.sizes, next, box.Len())
		}
		for i, server := range servers {
			if got := receiveAll(t, batch, server, len(want[i])); !slices.Equal(got, want[i]) {
				t.Errorf("%v bytes, server %d: got %.40q, want %.40q", tt.sizes, i, got, want[i])
			}
		}
	}
}

// receiveAll takes n datagrams.
func receiveAll(t *testing.T, b *Batch, s *Socket, n int) []string {
	t.Helper()
	var all []string
	for len(all) < n {
		for _, m := range receive(t, b, s) {
			all = append(all, string(m.Payload))
		}
	}
	return all
}

// TestOutboxWithoutSegments has a kernel that does not cut messages: it says so
// about each datagram of one, and takes the others.
func TestOutboxWithoutSegments(t *testing.T) {
	sender, _ := udp(t, "127.0.0.1:0")
	// Without checksums there is no UDP_SEGMENT (udp_send_skb of Linux 6.18).
	if err := unix.SetsockoptInt(sender.FD(), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
		t.Fatal(err)
	}
	server, port := udp(t, "127.0.0.1:0")
	to := NewAddress(netip.AddrPortFrom(loopback4, port))
	box := new(Outbox)
	for _, payload := range []string{"aaaa", "bb", "ccc", "ccc", "ccc", "d"} {
		box.Add(&to, []byte(payload), Control{})
	}
	var refused []int
	box.Send(sender, func(i int, taken bool) {
		if taken {
			return
		}
		refused = append(refused, i)
		if err := sender.SendMessage(&to, nil, box.Payload(i), &Control{}); err != nil {
			t.Error(err)
		}
	})
	if len(refused) == 0 {
		t.Error("refused: got none: this kernel cuts without checksums")
	}
	want := []string{"aaaa", "bb", "ccc", "ccc", "ccc", "d"}
	if got := receiveAll(t, NewBatch(), server, len(want)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOutboxConnected sends to where the socket is connected.
func TestOutboxConnected(t *testing.T) {
	sender, _ := udp(t, "127.0.0.1:0")
	server, port := udp(t, "127.0.0.1:0")
	if err := unix.Connect(sender.FD(), &unix.SockaddrInet4{Addr: loopback4.As4(), Port: int(port)}); err != nil {
		t.Fatal(err)
	}
	// One that was joined by us must not be joined again.
	_ = unix.SetsockoptInt(server.FD(), unix.IPPROTO_UDP, unix.UDP_GRO, 0)
	box, batch := new(Outbox), NewBatch()
	for _, want := range [][]string{{"a"}, {"aa", "bb", "c"}, {"", "a"}} {
		for _, payload := range want {
			box.Add(nil, []byte(payload), Control{})
		}
		box.Send(sender, func(i int, taken bool) {
			if !taken {
				t.Errorf("%q: datagram %d is not taken", want, i)
			}
		})
		if got := receiveAll(t, batch, server, len(want)); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
