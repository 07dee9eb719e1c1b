package stack

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"taproot/tap"
	"taproot/tap/taptest"
)

// A call is what a frame leads to: a datagram, a SYN or an echo request that is handed
// on, from where to where.
type call struct {
	proto    byte // of IP
	from, to netip.AddrPort
}

// Numbers of IP that have calls.
const (
	protoICMP, protoTCP, protoUDP, protoICMP6 = 1, 6, 17, 58
)

// A verdict is what a simple reader says of a frame.
type verdict struct {
	// calls are those that the frame may lead to, none or any of them, if it is read
	// as generously as possible.
	calls []call

	// sure says that the frame is well-formed beyond doubt: then it must lead to all
	// of calls.
	sure bool
}

// behindHeader returns a frame as a device gives it, behind a virtio-net header that
// says nothing.
func behindHeader(frame []byte) []byte { return append(make([]byte, tap.HeaderLen), frame...) }

// judge reads a frame, with its virtio-net header, by the RFCs alone, as simply as possible, and knows nothing of
// gVisor. Fragments lead to nothing for sure, and options, extension headers and
// virtio-net headers that say anything make a frame doubtful.
func judge(whole []byte) verdict {
	var v verdict
	if len(whole) < tap.HeaderLen+14 {
		return v
	}
	virtio, b := whole[:tap.HeaderLen], whole[tap.HeaderLen:]
	packet := b[14:]
	plain := !slices.ContainsFunc(virtio, func(c byte) bool { return c != 0 })
	toUs := string(b[:6]) == string(gatewayMAC)
	switch kind := binary.BigEndian.Uint16(b[12:]); {
	case kind == 0x0800 && len(packet) >= 20 && packet[0]>>4 == 4:
		v = judge4(packet)
	case kind == 0x86dd && len(packet) >= 40 && packet[0]>>4 == 6:
		v = judge6(packet)
	}
	v.sure = v.sure && plain && toUs && string(b[6:12]) == string(guestMAC) && len(v.calls) > 0
	for _, c := range v.calls {
		v.sure = v.sure && mayAsk(c.from.Addr()) && mayBeAsked(c.to.Addr()) && c.from.Port() != 0 && c.to.Port() != 0
	}
	return v
}

// judge4 reads an IPv4 packet (RFC 791).
func judge4(b []byte) verdict {
	from, to := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	length, headerLen := int(binary.BigEndian.Uint16(b[2:])), 4*int(b[0]&15)
	if headerLen < 20 || headerLen > len(b) || length < headerLen || length > len(b) {
		return verdict{}
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	sum := checksumOf(b[:headerLen])
	v := judgeTransport(b[9], from, to, b[headerLen:length], fragment&0x3fff != 0)
	v.sure = v.sure && headerLen == 20 && sum == 0xffff && fragment&^0x4000 == 0 && b[8] > 1 && length == len(b)
	return v
}

// judge6 reads an IPv6 packet (RFC 8200). Where there are other headers before that
// of the transport, which need not be in this fragment, it finds any of the three.
func judge6(b []byte) verdict {
	from, to := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length > len(b)-40 {
		return verdict{}
	}
	next, rest := b[6], b[40:40+length]
	for next == 0 || next == 43 || next == 60 {
		if len(rest) < 8 {
			return verdict{}
		}
		next, rest = rest[0], rest[min(len(rest), 8+8*int(rest[1])):]
	}
	if next == 44 && len(rest) >= 8 {
		rest = rest[8:]
		v := verdict{}
		for _, p := range []byte{protoUDP, protoTCP, protoICMP6} {
			v.calls = append(v.calls, judgeTransport(p, from, to, rest, true).calls...)
		}
		return v
	}
	v := judgeTransport(next, from, to, rest, false)
	v.sure = v.sure && b[6] == next && b[7] > 1 && length == len(b)-40 && len(rest) == length
	return v
}

// anyPort stands for the ports of a packet whose header may be in another fragment.
const anyPort = 0

// judgeTransport reads the header of UDP, TCP or an echo request.
func judgeTransport(proto byte, from, to netip.Addr, b []byte, fragment bool) verdict {
	at := func(i int) uint16 { return binary.BigEndian.Uint16(b[i:]) }
	c := call{proto, netip.AddrPortFrom(from, anyPort), netip.AddrPortFrom(to, anyPort)}
	if fragment {
		return verdict{calls: []call{c}}
	}
	if len(b) < 8 {
		return verdict{}
	}
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(len(b))), []byte{0, 0, 0, proto}, b)
	right := checksumOf(pseudo) == 0xffff
	switch {
	case proto == protoUDP:
		c.from, c.to = netip.AddrPortFrom(from, at(0)), netip.AddrPortFrom(to, at(2))
		return verdict{[]call{c}, right && at(6) != 0 && int(at(4)) == len(b)}
	case proto == protoTCP && len(b) >= 20:
		c.from, c.to = netip.AddrPortFrom(from, at(0)), netip.AddrPortFrom(to, at(2))
		if b[13]&0x02 == 0 {
			return verdict{}
		}
		return verdict{[]call{c}, right && b[12] == 5<<4 && b[13] == 0x02 && len(b) == 20}
	case proto == protoICMP && from.Is4() && b[0] == 8:
		c.from, c.to = netip.AddrPortFrom(from, at(4)), netip.AddrPortFrom(to, at(4))
		return verdict{[]call{c}, checksumOf(b) == 0xffff && b[1] == 0}
	case proto == protoICMP6 && from.Is6() && b[0] == 128:
		c.from, c.to = netip.AddrPortFrom(from, at(4)), netip.AddrPortFrom(to, at(4))
		return verdict{[]call{c}, right && b[1] == 0}
	}
	return verdict{}
}

// checksumOf is that of RFC 1071 before it is inverted: 0xffff where it is in b and
// right.
func checksumOf(b []byte) uint16 {
	sum := uint32(0)
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// mayAsk tells whether a source is that of a guest, and mayBeAsked whether a
// destination is an ordinary host beyond the gateway.
func mayAsk(a netip.Addr) bool { return a == guest4 || a == guest6 }

func mayBeAsked(a netip.Addr) bool {
	for _, p := range []string{"198.51.0.0/16", "203.0.113.0/24", "2001:db8::/32"} {
		if netip.MustParsePrefix(p).Contains(a) {
			return true
		}
	}
	return false
}

// covers tells whether a verdict allows a call.
func (v *verdict) covers(got call) bool {
	return slices.ContainsFunc(v.calls, func(c call) bool {
		same := func(want, got netip.AddrPort) bool {
			return want.Addr() == got.Addr() && (want.Port() == anyPort || want.Port() == got.Port())
		}
		return c.proto == got.proto && same(c.from, got.from) && same(c.to, got.to)
	})
}

// A witness notes what a gateway hands on.
type witness struct {
	mu sync.Mutex
	// +checklocks:mu
	calls []call
	udp   chan struct{} // closed when the marker's datagram came
	tcp   chan struct{} // closed when its SYN came
}

// marker is where the frames go that come after those under test.
var marker = netip.MustParseAddrPort("198.18.0.1:9")

func (w *witness) note(proto byte, from, to netip.AddrPort, marked chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if to != marker || marked == nil {
		w.calls = append(w.calls, call{proto, from, to})
		return
	}
	select {
	case <-marked:
	default:
		close(marked)
	}
}

// listen sets a gateway's handlers.
func (w *witness) listen(s *Stack) {
	s.HandleTCP(func(r *Request) {
		w.note(protoTCP, r.Source, r.Destination, w.tcp)
		r.Refuse()
	})
	s.HandleUDP(func(d Datagram) { w.note(protoUDP, d.Source, d.Destination, w.udp) })
	s.HandleEcho(func(e Echo) {
		proto := byte(protoICMP)
		if e.Source.Is6() {
			proto = protoICMP6
		}
		w.note(proto, netip.AddrPortFrom(e.Source, e.ID), netip.AddrPortFrom(e.Destination, e.ID), nil)
	})
}

// askFrame returns a frame of the guest's with a SYN.
func askFrame(from, to netip.AddrPort) []byte {
	l4 := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port())
	l4 = append(l4, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 0xff, 0xff, 0, 0, 0, 0)
	pseudo := slices.Concat(from.Addr().AsSlice(), to.Addr().AsSlice(), []byte{0, 0, 0, 20, 0, 0, 0, protoTCP}, l4)
	binary.BigEndian.PutUint16(l4[16:], ^checksumOf(pseudo))
	frame := slices.Concat(gatewayMAC, guestMAC)
	if from.Addr().Is6() {
		return slices.Concat(frame, []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protoTCP, 64}, from.Addr().AsSlice(), to.Addr().AsSlice(), l4)
	}
	head := slices.Concat([]byte{0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, protoTCP, 0, 0}, from.Addr().AsSlice(), to.Addr().AsSlice())
	binary.BigEndian.PutUint16(head[10:], ^checksumOf(head))
	return slices.Concat(frame, []byte{8, 0}, head, l4)
}

// outbound hands a frame to a gateway and returns what it hands on.
func outbound(t *testing.T, whole []byte) []call {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{Header: true, Checksum: true, TSO: true, USO: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}, Source: mayAsk})
	seen := &witness{udp: make(chan struct{}), tcp: make(chan struct{})}
	seen.listen(s)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	w := b.NewWriter()
	w.Add(whole)
	if len(whole) > 0 {
		_ = w.Flush() // longer than the wire takes: not written
	}
	from := netip.AddrPortFrom(guest4, 65009)
	for _, last := range [][]byte{askFrame(from, marker), datagramFrame(s, from, marker, []byte("marker"))} {
		w.Add(make([]byte, tap.HeaderLen))
		w.Add(last)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the datagram after", seen.udp)
	await(t, "the SYN after", seen.tcp)
	cancel()
	wg.Wait() // for requests too, which have workers of their own
	seen.mu.Lock()
	defer seen.mu.Unlock()
	return seen.calls
}

// outboundSeeds are frames of each kind.
func outboundSeeds(f *testing.F) [][]byte {
	a, b, err := taptest.Pair(tap.Features{})
	if err != nil {
		f.Fatal(err)
	}
	defer b.Close()
	s, err := New(Config{Device: a, MTU: 1500, MAC: gatewayMAC})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // ends the stack's own goroutines
	if err := s.Run(ctx); err != nil {
		f.Fatal(err)
	}
	var seeds [][]byte
	for _, row := range []struct {
		guest netip.Addr
		to    []string
	}{
		{guest4, []string{"198.51.100.1:80", "127.0.0.1:1", "224.0.0.1:9", "10.0.2.2:53"}},
		{guest6, []string{"[2001:db8::1]:80", "[::1]:1", "[ff02::1]:9", "[fd00::2]:53"}},
	} {
		for _, to := range row.to {
			from, to := netip.AddrPortFrom(row.guest, 4000), netip.MustParseAddrPort(to)
			seeds = append(seeds, datagramFrame(s, from, to, []byte("x")), askFrame(from, to))
		}
	}
	return seeds
}

// FuzzOutbound hands a frame to the stack and to a reader that is as simple as can be:
// what the stack hands on is what the frame says, from there and to there, and what is
// well-formed beyond doubt is handed on, once.
func FuzzOutbound(f *testing.F) {
	for _, frame := range outboundSeeds(f) {
		f.Add(behindHeader(frame))
	}
	f.Fuzz(func(t *testing.T, whole []byte) {
		want := judge(whole)
		got := outbound(t, whole)
		for _, c := range got {
			if !want.covers(c) {
				t.Errorf("handed on: %v, and the frame says %v", c, want.calls)
			}
		}
		if want.sure && len(got) != 1 {
			t.Errorf("handed on: %v, want %v", fmt.Sprint(got), want.calls)
		}
	})
}

// TestJudge wants the reference to be sure of what is well-formed.
func TestJudge(t *testing.T) {
	from, to := netip.AddrPortFrom(guest4, 4000), netip.MustParseAddrPort("198.51.100.1:80")
	frame := askFrame(from, to)
	v := judge(behindHeader(frame))
	if want := (call{protoTCP, from, to}); !v.sure || len(v.calls) != 1 || v.calls[0] != want {
		t.Errorf("got %+v, want to be sure of %v", v, want)
	}
	frame[40]++ // a bit of the segment
	if v := judge(behindHeader(frame)); v.sure {
		t.Errorf("got %+v, want a checksum that is wrong", v)
	}
}
