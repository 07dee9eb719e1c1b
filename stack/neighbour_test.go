package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/stack/link"
	"taproot/tap"
	"taproot/tap/taptest"
)

// arpRequest returns an ARP request in a frame from the guest.
func arpRequest(sender, target string) []byte {
	frame := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	copy(frame, bytes.Repeat([]byte{0xff}, 6))
	copy(frame[6:], guestMAC)
	binary.BigEndian.PutUint16(frame[12:], uint16(header.ARPProtocolNumber))
	b := header.ARP(frame[header.EthernetMinimumSize:])
	b.SetIPv4OverEthernet()
	b.SetOp(header.ARPRequest)
	copy(b.HardwareAddressSender(), guestMAC)
	copy(b.ProtocolAddressSender(), netip.MustParseAddr(sender).AsSlice())
	copy(b.ProtocolAddressTarget(), netip.MustParseAddr(target).AsSlice())
	return frame
}

// solicitation returns a neighbour solicitation in a frame from the guest.
func solicitation(source, target string) []byte {
	const size = 24
	frame := make([]byte, header.EthernetMinimumSize+header.IPv6MinimumSize, header.EthernetMinimumSize+header.IPv6MinimumSize+size)
	t := netip.MustParseAddr(target)
	copy(frame, gatewayMAC)
	copy(frame[6:], guestMAC)
	binary.BigEndian.PutUint16(frame[12:], uint16(header.IPv6ProtocolNumber))
	header.IPv6(frame[header.EthernetMinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength:     size,
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          255,
		SrcAddr:           toAddress(netip.MustParseAddr(source)),
		DstAddr:           toAddress(solicitedNode(t)),
	})
	message := make([]byte, size)
	message[0] = uint8(header.ICMPv6NeighborSolicit)
	copy(message[8:], t.AsSlice())
	return append(frame, message...)
}

// TestNeighbours asks for the hardware addresses of many, and wants answers
// about some.
func TestNeighbours(t *testing.T) {
	copied := func(a netip.Addr) bool { return a != guest4 && a != guest6 }
	for _, tt := range []struct {
		name       string
		neighbours func(netip.Addr) bool
		frame      []byte
		target     string // "": no answer
		flags      uint8
	}{
		{"gateway", nil, arpRequest("10.0.2.100", "10.0.2.2"), "10.0.2.2", 0},
		{"gateway, by a probe", nil, arpRequest("0.0.0.0", "10.0.2.2"), "10.0.2.2", 0},
		{"somebody else", nil, arpRequest("10.0.2.100", "10.0.2.50"), "", 0},
		{"somebody else, copied", copied, arpRequest("10.0.2.100", "10.0.2.50"), "10.0.2.50", 0},
		{"somebody else, by a probe", copied, arpRequest("0.0.0.0", "10.0.2.50"), "", 0},
		{"the guest", copied, arpRequest("10.0.2.50", "10.0.2.100"), "", 0},
		{"an announcement", copied, arpRequest("10.0.2.50", "10.0.2.50"), "", 0},
		{"nobody", copied, arpRequest("10.0.2.100", "0.0.0.0"), "", 0},
		{"a group", copied, arpRequest("10.0.2.100", "224.0.0.1"), "", 0},

		{"gateway, IPv6", nil, solicitation("fd00::64", "fd00::2"), "fd00::2", naRouter | naSolicited | naOverride},
		{"gateway, link-local", nil, solicitation("fe80::64", "fe80::2"), "fe80::2", naRouter | naSolicited | naOverride},
		{"gateway, by a probe, IPv6", nil, solicitation("::", "fd00::2"), "fd00::2", naRouter | naOverride},
		{"somebody else, IPv6", nil, solicitation("fd00::64", "fd00::50"), "", 0},
		{"somebody else, copied, IPv6", copied, solicitation("fd00::64", "fd00::50"), "fd00::50", naRouter | naSolicited},
		{"somebody else, by a probe, IPv6", copied, solicitation("::", "fd00::50"), "", 0},
		{"the guest, IPv6", copied, solicitation("fd00::50", "fd00::64"), "", 0},
		{"a group, IPv6", copied, solicitation("fd00::64", "ff02::1"), "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent := answers(t, Config{
				MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6},
				LinkLocal: netip.MustParseAddr("fe80::2"), Neighbours: tt.neighbours,
			}, tt.frame)
			checkNeighbour(t, sent, tt.target, tt.flags)
		})
	}
}

// checkNeighbour wants one frame about target, or none.
func checkNeighbour(t *testing.T, sent [][]byte, target string, flags uint8) {
	t.Helper()
	if target == "" {
		if len(sent) != 0 {
			t.Errorf("got %d answers, want none: %x", len(sent), sent)
		}
		return
	}
	if len(sent) != 1 {
		t.Fatalf("got %d answers, want 1: %x", len(sent), sent)
	}
	frame := sent[0]
	if got := frame[:6]; !bytes.Equal(got, guestMAC) {
		t.Errorf("destination: got %x, want %v", got, guestMAC)
	}
	about := netip.MustParseAddr(target)
	if about.Is4() {
		b := header.ARP(frame[header.EthernetMinimumSize:])
		if b.Op() != header.ARPReply || !bytes.Equal(b.HardwareAddressSender(), gatewayMAC) ||
			!bytes.Equal(b.ProtocolAddressSender(), about.AsSlice()) {
			t.Errorf("got %x, want a reply about %v", frame, target)
		}
		return
	}
	ip := header.IPv6(frame[header.EthernetMinimumSize:])
	message := header.ICMPv6(ip.Payload())
	if ip.HopLimit() != 255 || message.Type() != header.ICMPv6NeighborAdvert || message[4] != flags ||
		!bytes.Equal(message[8:24], about.AsSlice()) || !bytes.Equal(message[24:], append([]byte{2, 1}, gatewayMAC...)) {
		t.Errorf("got %x, want an advertisement of %v with flags %x", frame, target, flags)
	}
	if ip.SourceAddress() != toAddress(about) {
		t.Errorf("source: got %v, want %v", ip.SourceAddress(), target)
	}
	if header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: message, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()}) != message.Checksum() {
		t.Error("checksum is wrong")
	}
}

func TestLinkLocalRefused(t *testing.T) {
	for _, a := range []string{"10.0.2.2", "fd00::2", "169.254.1.1"} {
		device, other, err := taptest.Pair(tap.Features{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Device: device, MTU: 1500, MAC: gatewayMAC, LinkLocal: netip.MustParseAddr(a)}); err == nil {
			t.Errorf("%v: got no error", a)
		}
		device.Close()
		other.Close()
	}
}

// answers gives a gateway a frame and returns what it sends, until it answers
// a request that it always answers.
func answers(t *testing.T, cfg Config, frame []byte, prepare ...func(*Stack)) (sent [][]byte) {
	t.Helper()
	return answersToAll(t, cfg, [][]byte{frame}, prepare...)
}

// answersToAll is answers for several frames.
func answersToAll(t *testing.T, cfg Config, frames [][]byte, prepare ...func(*Stack)) (sent [][]byte) {
	t.Helper()
	device, guest, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Device, cfg.MTU = device, 1500
	s := newStack(t, cfg)
	for _, f := range prepare {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	w := guest.NewWriter()
	last := arpRequest("10.0.2.99", gateway4.String())
	for _, f := range append(slices.Clone(frames), last) {
		w.Add(f)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	came := make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, tap.MaxFrame)
		var once sync.Once
		_ = guest.NewReader(b).Run(func(n int) { // ends with the device
			if bytes.HasSuffix(b[:n], netip.MustParseAddr("10.0.2.99").AsSlice()) {
				once.Do(func() { close(came) })
				return
			}
			sent = append(sent, bytes.Clone(b[:n]))
		})
	}()
	await(t, "the answer that always comes", came)
	guest.Close()
	cancel()
	await(t, "the end of reading", read)
	await(t, "the end", ended)
	return sent
}

// TestAsksAreLimited wants a guest that asks too often not to be heard.
func TestAsksAreLimited(t *testing.T) {
	device, guest, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	const most, asked = 1, 20
	s := newStack(t, Config{Device: device, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4}, AsksPerSecond: most})
	heard := 0
	for range asked {
		if !s.Classify(&link.Frame{Head: arpRequest("10.0.2.100", "10.0.2.2")}) {
			heard++
		}
	}
	// More than the first one only if this took more than a second.
	if n := s.Suppressed(); heard < most || n == 0 || int(n) != asked-heard {
		t.Errorf("got %d heard and %d suppressed of %d, want %d", heard, n, asked, most)
	}
}

// TestStopWhileAsked stops a gateway as the guest asks who it is. What the guest's
// kernel sends to it then still comes.
func TestStopWhileAsked(t *testing.T) {
	for name, question := range map[string][]byte{
		"IPv4": arpRequest("10.0.2.100", "10.0.2.2"),
		"IPv6": solicitation("fd00::64", "fd00::2"),
	} {
		t.Run(name, func(t *testing.T) {
			device, guest, err := taptest.Pair(tap.Features{})
			if err != nil {
				t.Fatal(err)
			}
			defer guest.Close()
			s := newStack(t, Config{Device: device, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}})
			got := make(chan string, 2)
			s.HandleUDP(func(d Datagram) { got <- string(d.Payload) })
			w := guest.NewWriter()
			send := func(frame []byte) {
				w.Add(frame)
				if err := w.Flush(); err != nil {
					t.Error(err)
				}
			}
			send(question)
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- s.Run(t.Context()) }()
			b := make([]byte, tap.MaxFrame)
			answers := 0
			_ = guest.NewReader(b).Run(func(int) { // ends with the device
				if answers++; answers == 1 {
					send(datagramFrame(s, netip.AddrPortFrom(guest4, 4000), netip.AddrPortFrom(server4, 53), []byte("last words")))
				}
			})
			if err := <-ended; err != nil || answers != 1 || len(got) != 1 {
				t.Errorf("got %d answers, %d datagrams and error %v, want one of each and nil", answers, len(got), err)
			}
		})
	}
}
