package stack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// echoRequest returns an echo request with a word in a frame from the guest.
func echoRequest(s *Stack, source, destination netip.Addr) []byte {
	message := []byte{8, 0, 0, 0, 0, 7, 0, 9, 'w', 'o', 'r', 'd'}
	protocol, etherType := uint8(header.ICMPv4ProtocolNumber), header.IPv4ProtocolNumber
	if source.Is6() {
		message[0] = 128
		protocol, etherType = uint8(header.ICMPv6ProtocolNumber), header.IPv6ProtocolNumber
	}
	sum := uint16(0)
	if source.Is6() {
		sum = pseudoSum(source, destination, protocol, len(message))
	}
	binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, sum))
	ip := make([]byte, ipHeaderLen(source))
	s.putIP(ip, source, destination, protocol, len(message))
	frame := append(bytes.Clone(gatewayMAC), guestMAC...)
	frame = binary.BigEndian.AppendUint16(frame, uint16(etherType))
	return append(append(frame, ip...), message...)
}

// TestEchoOfGateway wants answers of the stack for its own addresses, and none
// for others', which it hands on.
func TestEchoOfGateway(t *testing.T) {
	own := []netip.Addr{gateway4, gateway6, netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("fd00::3")}
	for _, to := range append([]netip.Addr{server4, server6}, own...) {
		t.Run(to.String(), func(t *testing.T) {
			from := guest4
			if to.Is6() {
				from = guest6
			}
			sent := answers(t, Config{MAC: gatewayMAC, Addresses: own}, echoRequest(&Stack{}, from, to), func(s *Stack) {
				s.HandleEcho(func(Echo) {})
			})
			if to == server4 || to == server6 {
				if len(sent) != 0 {
					t.Errorf("got %x, want no answer", sent)
				}
				return
			}
			if len(sent) != 1 {
				t.Fatalf("got %d answers, want 1", len(sent))
			}
			packet := sent[0][header.EthernetMinimumSize:]
			message := packet[ipHeaderLen(to):]
			source, ok := sourceOf(sent[0])
			if !ok || source != to || message[0] != 0 && message[0] != 129 || string(message[4:]) != "\x00\x07\x00\x09word" {
				t.Errorf("from %v: got %x, want an echo reply from %v", source, message, to)
			}
		})
	}
}
