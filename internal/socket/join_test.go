package socket

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestJoin has datagrams of one size joined up to a shorter one, an empty one,
// another sender, the most bytes, or one that GRO has joined already.
func TestJoin(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sizes []int
		from  []int // index of the sender, the first if there are fewer
		most  int
		want  []string // "bytes/segment" of each message
	}{
		{"one", []int{5}, nil, 100, []string{"5/0"}},
		{"equal", []int{5, 5, 5}, nil, 100, []string{"15/5"}},
		{"the last is shorter", []int{5, 5, 3, 5}, nil, 100, []string{"13/5", "5/0"}},
		{"longer", []int{5, 6, 6, 7}, nil, 100, []string{"5/0", "12/6", "7/0"}},
		{"empty", []int{0, 0, 5, 0, 5, 5}, nil, 100, []string{"0/0", "0/0", "5/0", "0/0", "10/5"}},
		{"two senders", []int{5, 5, 5, 5}, []int{0, 0, 1, 0}, 100, []string{"10/5", "5/0", "5/0"}},
		{"no more room", []int{5, 5, 5}, nil, 14, []string{"10/5", "5/0"}},
		{"more than the most", []int{50, 50}, nil, 10, []string{"50/0", "50/0"}},
		{"a whole batch", slices.Repeat([]int{1400}, BatchLen), nil, 1 << 16, []string{fmt.Sprint(BatchLen*1400, "/1400")}},
		{"large", []int{30000, 30000, 30000}, nil, 65507, []string{"60000/30000", "30000/0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, port := udp(t, "127.0.0.1:0")
			to := NewAddress(netip.AddrPortFrom(loopback4, port))
			first, _ := udp(t, "127.0.0.1:0")
			second, _ := udp(t, "127.0.0.1:0")
			senders := []*Socket{first, second}
			var sent strings.Builder
			for i, size := range tt.sizes {
				from := 0
				if i < len(tt.from) {
					from = tt.from[i]
				}
				payload := strings.Repeat(string(rune('a'+i)), size)
				sent.WriteString(payload)
				if err := senders[from].Send(&to, netip.Addr{}, []byte(payload), 0); err != nil {
					t.Fatal(err)
				}
			}
			got, payload := joined(t, server, len(tt.sizes), tt.most)
			if !slices.Equal(got, tt.want) || payload != sent.String() {
				t.Errorf("got %v, %d bytes as sent: %v, want %v", got, len(payload), payload == sent.String(), tt.want)
			}
		})
	}
}

// joined receives n datagrams, all of which are there, and describes them.
func joined(t *testing.T, s *Socket, n, most int) (messages []string, payload string) {
	t.Helper()
	b := NewBatch()
	got, err := b.Receive(s)
	if err != nil || got != n {
		t.Fatalf("receive: got %d, %v, want %d", got, err, n)
	}
	for i := 0; i < got; {
		var m Message
		var segment int
		m, segment, i = b.Join(i, got, most)
		messages = append(messages, fmt.Sprint(len(m.Payload), "/", segment))
		payload += string(m.Payload)
	}
	return messages, payload
}

// TestJoinGRO leaves alone what GRO has joined, and joins nothing to it.
func TestJoinGRO(t *testing.T) {
	server, port := udp(t, "127.0.0.1:0")
	sender, _ := udp(t, "127.0.0.1:0")
	to := NewAddress(netip.AddrPortFrom(loopback4, port))
	var c Control
	c.Segment(600)
	if err := sender.SendMessage(&to, nil, make([]byte, 1400), &Control{}); err != nil {
		t.Fatal(err)
	}
	if err := sender.SendMessage(&to, nil, make([]byte, 1200), &c); err != nil {
		t.Skip(err)
	}
	if on, err := unix.GetsockoptInt(server.FD(), unix.IPPROTO_UDP, unix.UDP_GRO); err != nil || on == 0 {
		t.Skip("no UDP_GRO")
	}
	if err := sender.SendMessage(&to, nil, make([]byte, 600), &Control{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"1400/0", "1200/600", "600/0"}
	if got, _ := joined(t, server, 3, 1<<16); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestJoinAllocations wants none for what is received.
func TestJoinAllocations(t *testing.T) {
	server, port := udp(t, "[::]:0")
	sender, _ := udp(t, "127.0.0.1:0")
	to := NewAddress(netip.AddrPortFrom(loopback4, port))
	b, payload := NewBatch(), make([]byte, 100)
	got := testing.AllocsPerRun(10, func() {
		for range 5 {
			_ = sender.Send(&to, netip.Addr{}, payload, 0)
		}
		n, _ := b.Receive(server)
		for i := 0; i < n; {
			var m Message
			m, _, i = b.Join(i, n, 1<<16)
			_, _ = m.From.AddrPort(), m.Local()
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}
