package nat

import (
	"net/netip"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/test/settle"
)

func TestUDPSuperframes(t *testing.T) {
	for _, f := range families {
		// More than the kernel takes at once (UDP_MAX_SEGMENTS is 64 or 128),
		// so the second one goes one by one.
		for _, count := range []int{3, 150} {
			t.Run(f.name, func(t *testing.T) {
				u, _ := startUDP(t)
				server := listen(t, f.loopback)
				const segment = 100
				payload := strings.Repeat("0123456789", count*segment/10) + "tail"
				d := datagram(netip.AddrPortFrom(f.guest, freePort(t)), netip.AddrPortFrom(f.gateway, portOf(server)), payload)
				d.Segment = segment
				u.Handle(d)
				var got strings.Builder
				for i := range count + 1 {
					b, _ := read(t, server)
					if i < count && len(b) != segment {
						t.Fatalf("datagram %d: got %d bytes, want %d", i, len(b), segment)
					}
					got.WriteString(b)
				}
				if got.String() != payload {
					t.Error("payload arrived changed")
				}
			})
		}
	}
}

func TestUDPJoinedReplies(t *testing.T) {
	u, guest := startUDP(t)
	server := listen(t, "127.0.0.1:0")
	u.Handle(datagram(netip.AddrPortFrom(guest4, freePort(t)), netip.AddrPortFrom(gateway4, portOf(server)), "x"))
	_, mapped := read(t, server)
	var c socket.Control
	c.Segment(1000)
	payload := strings.Repeat("y", 5500)
	first, size := c.Bytes()
	if _, _, err := server.WriteMsgUDPAddrPort([]byte(payload), unsafe.Slice(first, size), mapped); err != nil {
		t.Skipf("this kernel has no UDP_SEGMENT: %v", err)
	}
	got := next(t, guest.datagrams)
	if got.payload != payload || got.segment != 1000 {
		t.Errorf("got %d bytes in segments of %d, want %d in 1000", len(got.payload), got.segment, len(payload))
	}
}

// TestUDPBusySocketGrows wants room on the host's socket for who gets much.
func TestUDPBusySocketGrows(t *testing.T) {
	u, guest := startUDP(t)
	server := listen(t, "127.0.0.1:0")
	source := netip.AddrPortFrom(guest4, freePort(t))
	u.Handle(datagram(source, netip.AddrPortFrom(gateway4, portOf(server)), "x"))
	_, mapped := read(t, server)
	u.mu.RLock()
	s := u.mappings[origin{guest: source}].socket
	u.mu.RUnlock()
	want := receiveBuffer(t, s.FD())
	for _, size := range []int{1000, busyBatch} {
		if got := receiveBuffer(t, s.FD()); got != want {
			t.Errorf("receive buffer before %d bytes: got %v, want %v", size, got, want)
		}
		if _, err := server.WriteToUDPAddrPort(make([]byte, size), mapped); err != nil {
			t.Fatal(err)
		}
		next(t, guest.datagrams)
	}
	other, err := socket.New(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	if err := unix.SetsockoptInt(other.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, busyBuffer); err != nil {
		t.Fatal(err)
	}
	want = receiveBuffer(t, other.FD())
	settle.Until(t, "the buffer has grown", func() bool { return receiveBuffer(t, s.FD()) == want })
}

func receiveBuffer(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
