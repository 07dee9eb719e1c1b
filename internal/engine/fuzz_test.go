package engine

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
	"taproot/tap"
	"taproot/test/settle"
)

// fuzzes tells whether this process looks for inputs, and does not only try seeds.
func fuzzes() bool {
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}

// gatewayMAC is the hardware address of the gateway under test, and guestMAC that of
// its guest.
var gatewayMAC, guestMAC = []byte{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}, []byte{2, 0, 0, 0, 0, 1}

// splitFrames reads an input as frames: each is two bytes of length, in network byte
// order, and then as many bytes, or what is left. The first ten of these are the
// virtio-net header.
func splitFrames(b []byte) (frames [][]byte) {
	const most = 16 // what a test that fails can be understood by
	for len(b) >= 2 && len(frames) < most {
		n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
		frames, b = append(frames, b[2:2+n]), b[2+n:]
	}
	return frames
}

// joinFrames is the reverse, without virtio-net header.
func joinFrames(frames ...[]byte) (b []byte) {
	for _, f := range frames {
		b = binary.BigEndian.AppendUint16(b, uint16(tap.HeaderLen+len(f)))
		b = append(append(b, make([]byte, tap.HeaderLen)...), f...)
	}
	return b
}

// checksum is that of RFC 1071, over the pieces one after the other; all but the last
// have an even length.
func checksum(pieces ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range pieces {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ipFrame returns a frame of the guest. at is where the checksum of l4 is; it covers
// the pseudo-header, except for ICMP of IPv4.
func ipFrame(from, to netip.Addr, proto byte, at int, l4 []byte) []byte {
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(len(l4))), []byte{0, 0, 0, proto})
	if proto == unix.IPPROTO_ICMP {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(l4[at:], checksum(pseudo, l4))
	link := slices.Concat(gatewayMAC, guestMAC)
	if from.Is6() {
		head := append([]byte{0x60, 0, 0, 0}, byte(len(l4)>>8), byte(len(l4)), proto, 64)
		return slices.Concat(link, []byte{0x86, 0xdd}, head, from.AsSlice(), to.AsSlice(), l4)
	}
	head := slices.Concat([]byte{0x45, 0, byte((20 + len(l4)) >> 8), byte(20 + len(l4)), 0, 1, 0, 0, 64, proto, 0, 0}, from.AsSlice(), to.AsSlice())
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return slices.Concat(link, []byte{8, 0}, head, l4)
}

// udpFrame, tcpFrame and echoFrame return frames of the guest.
func udpFrame(from, to netip.AddrPort, payload string) []byte {
	l4 := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port())
	l4 = append(binary.BigEndian.AppendUint16(l4, uint16(8+len(payload))), 0, 0)
	return ipFrame(from.Addr(), to.Addr(), unix.IPPROTO_UDP, 6, append(l4, payload...))
}

func tcpFrame(from, to netip.AddrPort, flags byte) []byte {
	l4 := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port())
	l4 = append(l4, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	return ipFrame(from.Addr(), to.Addr(), unix.IPPROTO_TCP, 16, l4)
}

func echoFrame(from, to netip.Addr) []byte {
	l4 := []byte{8, 0, 0, 0, 0, 7, 0, 1, 'p', 'i', 'n', 'g'}
	if from.Is6() {
		l4[0] = 128
		return ipFrame(from, to, unix.IPPROTO_ICMPV6, 2, l4)
	}
	return ipFrame(from, to, unix.IPPROTO_ICMP, 2, l4)
}

// fuzzSpec describes a gateway with the usual addresses on a host with some.
func fuzzSpec() (*spec, error) {
	p, err := plan.Offsets{
		MAC: guestMAC, Net4: plan.Network{Prefix: netip.MustParsePrefix("10.0.2.0/24")}, Net6: plan.Network{Prefix: netip.MustParsePrefix("fd00::/64")},
	}.Plan(nil)
	if err != nil {
		return nil, err
	}
	p.GatewayMAC = gatewayMAC
	s := newSpec(&p, &Config{})
	s.Host = hostState{
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
		Servers:   []netip.AddrPort{outsideDNS},
	}
	s.Features = tap.Features{Header: true, Checksum: true, TSO: true, USO: true}
	return s, nil
}

// A fuzzGateway is a whole gateway of an engine that runs, whose device is a socket.
type fuzzGateway struct {
	*gateway
	guest   int // the other end of the device
	stopped chan struct{}
	cancel  context.CancelFunc
	drained sync.WaitGroup
}

// startFuzzGateway starts one. Nobody reads what it tells its supervisor.
func startFuzzGateway(t *testing.T) *fuzzGateway {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	s, err := fuzzSpec()
	if err != nil {
		t.Fatal(err)
	}
	_, w := newWirePair(t)
	f := &fuzzGateway{guest: fds[1], stopped: make(chan struct{})}
	f.gateway, err = newGateway(start{spec: s, device: os.NewFile(uintptr(fds[0]), "device")}, w, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() {
		defer close(f.stopped)
		_ = f.run(ctx) // ends when the guest's end does
	}()
	f.drained.Go(func() {
		for b := make([]byte, 1<<17); ; {
			if n, err := unix.Read(f.guest, b); n <= 0 && err != unix.EINTR {
				return
			}
		}
	})
	return f
}

// send sends a frame as the guest. One that no device would give is not sent.
func (f *fuzzGateway) send(b []byte) {
	if len(b) > 0 && len(b) <= tap.HeaderLen+tap.MaxFrame {
		_, _ = unix.Write(f.guest, b)
	}
}

// stop ends it and waits for all of it.
func (f *fuzzGateway) stop(t *testing.T) {
	f.cancel()
	select {
	case <-f.stopped:
	case <-time.After(settle.Patience):
		t.Fatal("the gateway does not end")
	}
	_ = unix.Shutdown(f.guest, unix.SHUT_RDWR)
	f.drained.Wait()
	unix.Close(f.guest)
}

// FuzzGateway gives a whole engine frames, and holds what leaves the host against
// what the frames ask for and the policy allows, by a reference that is as simple as
// it can be. At the end a proper datagram and a proper SYN must get through.
func FuzzGateway(f *testing.F) {
	out := needOutside(f)
	if out == nil {
		f.Fuzz(func(*testing.T, []byte) {}) // all were tried in another process
		return
	}
	for _, frames := range gatewaySeeds() {
		f.Add(joinFrames(frames...))
	}
	n := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		for ok := true; ok; {
			_, ok = out.next(false) // of the input before
		}
		before := settle.Descriptors()
		g := startFuzzGateway(t)
		frames := splitFrames(b)
		for _, frame := range frames {
			g.send(frame)
		}
		n++
		left := g.mark(t, out, fmt.Sprintf("marker %d", n))
		g.stop(t)
		for d, ok := out.next(false); ok; d, ok = out.next(false) {
			left = append(left, d)
		}
		checkDepartures(t, frames, left)
		settle.Until(t, "all descriptors are closed", func() bool { return settle.Descriptors() <= before+2 }) // those of newWirePair
	})
}

// mark sends a proper datagram and a proper SYN, and returns what left until both
// did, without these.
func (f *fuzzGateway) mark(t *testing.T, out *outside, text string) (left []departure) {
	t.Helper()
	from, to := netip.MustParseAddrPort("10.0.2.100:65000"), netip.MustParseAddrPort("198.51.100.99:65001")
	f.send(append(make([]byte, tap.HeaderLen), udpFrame(from, to, text)...))
	f.send(append(make([]byte, tap.HeaderLen), tcpFrame(from, to, 2)...))
	datagram, syn := false, false
	settle.Until(t, "a datagram and a SYN after all that leave", func() bool {
		for d, ok := out.next(false); ok; d, ok = out.next(false) {
			switch {
			case d.to == to && d.proto == unix.IPPROTO_UDP && d.payload == text:
				datagram = true
			case d.to == to && d.proto == unix.IPPROTO_TCP:
				syn = true
			default:
				left = append(left, d)
			}
		}
		return datagram && syn
	})
	return left
}

// gatewaySeeds are what a guest sends, well and badly.
func gatewaySeeds() [][][]byte {
	g4, g6 := netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("fd00::64")
	at := netip.AddrPortFrom
	var seeds [][][]byte
	for _, to := range []string{
		"198.51.100.80:80", "[2001:db8::80]:80", "198.51.100.1:9", "127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "[::]:80", "10.0.2.2:80", "10.0.2.3:53",
		"[fd00::3]:53", "169.254.169.254:80", "192.0.2.2:80", "[64:ff9b::7f00:1]:80", "[2002:7f00:1::]:80", "[::7f00:1]:80", "255.255.255.255:67", "10.0.2.255:9",
		"224.0.0.251:5353", "[ff02::1:2]:547", "[fe80::1%0]:80", "240.0.0.1:9",
	} {
		target, err := netip.ParseAddrPort(to)
		if err != nil {
			panic(err) // a seed is wrong
		}
		target = at(target.Addr().WithZone(""), target.Port())
		from := g4
		if target.Addr().Is6() {
			from = g6
		}
		seeds = append(seeds, [][]byte{
			udpFrame(at(from, 4000), target, "query"), tcpFrame(at(from, 4001), target, 2), echoFrame(from, target.Addr()),
			tcpFrame(at(from, 4001), target, 0x10), tcpFrame(at(from, 4001), target, 4),
		})
	}
	spoofed := at(netip.MustParseAddr("8.8.8.8"), 1)
	to := at(netip.MustParseAddr("198.51.100.1"), 9)
	first, second := udpFrame(at(g4, 7), to, "a long payload in pieces"), udpFrame(at(g4, 7), to, "")
	first[20], second[20], second[21] = 0x20, 0, 2 // more fragments; the one at byte 16
	binary.BigEndian.PutUint16(first[24:], 0)
	seeds = append(seeds, [][]byte{udpFrame(spoofed, to, "x"), tcpFrame(spoofed, to, 2)}, [][]byte{first, second})
	dhcp := slices.Concat([]byte{1, 1, 6, 0, 1, 2, 3, 4}, make([]byte, 20), guestMAC, make([]byte, 202), []byte{99, 130, 83, 99, 53, 1, 1, 255})
	query := "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04host\x07taproot\x08internal\x00\x00\x01\x00\x01"
	seeds = append(seeds, [][]byte{
		udpFrame(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), string(dhcp)),
		udpFrame(at(g4, 9), netip.MustParseAddrPort("10.0.2.3:53"), query),
		udpFrame(at(g6, 9), netip.MustParseAddrPort("[fd00::3]:53"), "\x00\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x1c\x00\x01"),
	})
	return seeds
}
