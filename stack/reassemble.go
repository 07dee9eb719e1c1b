package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/stack/link"
)

// overduePerSecond is how many ICMP errors a second tell the guest of packets that
// were never complete. Nobody waits for them but who tries something out.
const overduePerSecond = 10

// reassemble takes a fragment. The packet that it completes goes to gVisor.
func (s *Stack) reassemble(f *link.Frame) bool {
	whole, taken := s.fragments.Add(s.packetOf(f))
	if whole != nil && !isNeighbourDiscovery(whole) {
		s.link.Deliver(append(f.Head[:header.EthernetMinimumSize:header.EthernetMinimumSize], whole...))
	}
	return taken
}

// packetOf returns the packet in a frame in one piece, which is valid until the next
// frame.
func (s *Stack) packetOf(f *link.Frame) []byte {
	if f.Len() <= len(f.Head) {
		return f.Head[atIP:]
	}
	b := append(s.scratch[:0], f.Head[atIP:]...)
	return append(b, f.Body(len(f.Head))...)
}

// isNeighbourDiscovery tells whether a packet is a message of a kind that does not
// come in fragments (RFC 6980 §5).
func isNeighbourDiscovery(packet []byte) bool {
	const first, last = 133, 137 // RFC 4861 §4: router solicitation to redirect
	return len(packet) > header.IPv6MinimumSize && packet[0]>>4 == 6 &&
		packet[6] == uint8(header.ICMPv6ProtocolNumber) &&
		packet[header.IPv6MinimumSize] >= first && packet[header.IPv6MinimumSize] <= last
}

// tellOverdue tells the guest that a packet was never complete, in the name of its
// destination, which would have (RFC 792, RFC 4443 §3.3).
func (s *Stack) tellOverdue(first []byte) {
	source, destination, ok := ordinaryEnds(first)
	if !ok || !s.overdue.Allow() {
		return
	}
	const code = 1 // fragment reassembly time exceeded
	if destination.Is4() {
		const most = 576 - header.IPv4MinimumSize - header.ICMPv4MinimumSize // RFC 1812 §4.3.2.3
		message := append([]byte{byte(header.ICMPv4TimeExceeded), code, 0, 0, 0, 0, 0, 0}, first[:min(len(first), most)]...)
		_ = s.sendICMP4(destination, source, message) // counted by the link
		return
	}
	const most = header.IPv6MinimumMTU - header.IPv6MinimumSize - header.ICMPv6MinimumSize // RFC 4443 §2.4 (c)
	message := append([]byte{byte(header.ICMPv6TimeExceeded), code, 0, 0, 0, 0, 0, 0}, first[:min(len(first), most)]...)
	_ = s.SendICMP6(destination, source, message)
}

// ordinaryEnds returns the addresses of a packet, if an ICMP error may speak of it
// (RFC 1122 §3.2.2).
func ordinaryEnds(packet []byte) (source, destination netip.Addr, ok bool) {
	if packet[0]>>4 == 4 {
		ok = isOrdinary4(packet[12:16]) && isOrdinary4(packet[16:20])
		return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), ok
	}
	source, destination = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	return source, destination, isOrdinary6(source) && isOrdinary6(destination)
}

// sendICMP4 sends an ICMP message whose checksum is zero.
func (s *Stack) sendICMP4(source, destination netip.Addr, message []byte) error {
	b := make([]byte, header.IPv4MinimumSize+len(message))
	s.putIP(b, source, destination, uint8(header.ICMPv4ProtocolNumber), len(message))
	body := b[header.IPv4MinimumSize:]
	copy(body, message)
	binary.BigEndian.PutUint16(body[2:], header.ICMPv4Checksum(body, 0))
	return s.SendPacket(b)
}
