package stack

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// fragmentsOf cuts the packet of a frame in two after so many bytes of data.
func fragmentsOf(frame []byte, first int) [][]byte {
	const ethernet = header.EthernetMinimumSize
	if frame[12] == 0x08 { // IPv4
		const head = ethernet + header.IPv4MinimumSize
		one, two := bytes.Clone(frame[:head+first]), append(bytes.Clone(frame[:head]), frame[head+first:]...)
		for i, b := range [][]byte{one, two} {
			ip := header.IPv4(b[ethernet:])
			ip.SetTotalLength(uint16(len(ip)))
			ip.SetFlagsFragmentOffset(uint8(1-i)*header.IPv4FlagMoreFragments, uint16(i*first))
		}
		return [][]byte{one, two}
	}
	const head = ethernet + header.IPv6MinimumSize
	next := frame[ethernet+6]
	fragment := func(offset int, more byte, data []byte) []byte {
		b := append(bytes.Clone(frame[:head]), next, 0, byte(offset>>8), byte(offset)|more, 0, 0, 0, 7)
		b = append(b, data...)
		ip := header.IPv6(b[ethernet:])
		ip.SetNextHeader(uint8(header.IPv6FragmentHeader))
		ip.SetPayloadLength(uint16(len(b) - head))
		return b
	}
	return [][]byte{fragment(0, 1, frame[head:head+first]), fragment(first, 0, frame[head+first:])}
}

// An echo request to the gateway in two fragments is answered, in either order. One for
// its hardware address is not (RFC 6980 §5), and a fragment alone is held.
func TestFragments(t *testing.T) {
	own := []netip.Addr{gateway4, gateway6}
	for _, test := range []struct {
		name   string
		frames [][]byte
		want   int  // answers
		held   bool // something, afterwards
	}{
		{"ipv4", fragmentsOf(echoRequest(&Stack{}, guest4, gateway4), 8), 1, false},
		{"ipv6", fragmentsOf(echoRequest(&Stack{}, guest6, gateway6), 8), 1, false},
		{"alone", fragmentsOf(echoRequest(&Stack{}, guest6, gateway6), 8)[:1], 0, true},
		{"neighbour", fragmentsOf(solicitation(guest6.String(), gateway6.String()), 8), 0, false},
	} {
		for _, backwards := range []bool{false, true} {
			frames := test.frames
			if last := len(frames) - 1; backwards {
				frames = [][]byte{frames[last], frames[0]}[:len(frames)]
			}
			var s *Stack
			sent := answersToAll(t, Config{MAC: gatewayMAC, Addresses: own}, frames, func(made *Stack) { s = made })
			if len(sent) != test.want {
				t.Errorf("%s, backwards %v: got %d answers, want %d", test.name, backwards, len(sent), test.want)
			}
			if held := s.Fragments().Held.Load(); (held != 0) != test.held {
				t.Errorf("%s, backwards %v: %d bytes are held", test.name, backwards, held)
			}
		}
	}
}

// TestOverdue wants the guest told of a packet that was never complete by its
// destination, and not of one to nobody in particular.
func TestOverdue(t *testing.T) {
	for _, test := range []struct {
		from, to netip.Addr
		told     bool
	}{
		{guest4, server4, true},
		{guest6, server6, true},
		{guest4, netip.MustParseAddr("255.255.255.255"), false},
		{guest6, netip.MustParseAddr("ff02::1"), false},
	} {
		first := fragmentsOf(echoRequest(&Stack{}, test.from, test.to), 8)[0][header.EthernetMinimumSize:]
		sent := answersToAll(t, Config{MAC: gatewayMAC, Addresses: []netip.Addr{gateway4}}, nil, func(s *Stack) { s.tellOverdue(first) })
		if !test.told {
			if len(sent) != 0 {
				t.Errorf("to %v: got %x, want nothing", test.to, sent)
			}
			continue
		}
		if len(sent) != 1 {
			t.Errorf("to %v: got %d messages, want 1", test.to, len(sent))
			continue
		}
		source, ok := sourceOf(sent[0])
		message := sent[0][header.EthernetMinimumSize+ipHeaderLen(test.to):]
		kind := byte(header.ICMPv4TimeExceeded)
		if test.to.Is6() {
			kind = byte(header.ICMPv6TimeExceeded)
		}
		if !ok || source != test.to || message[0] != kind || message[1] != 1 || !bytes.Equal(message[8:], first) {
			t.Errorf("to %v: got %x from %v", test.to, message, source)
		}
	}
}
