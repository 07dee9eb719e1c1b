package stack

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/tap"
)

// defaultTTL is the TTL or hop limit of what the stack sends itself.
const defaultTTL = 64

// errFamilies says that a datagram's two addresses are of different families.
var errFamilies = errors.New("source and destination of different families")

// errTooLong says that a datagram does not fit an IP packet.
var errTooLong = errors.New("datagram longer than an IP packet")

// SendUDP sends a datagram to the guest. With segment above zero, payload is
// several datagrams of that many bytes each, the last of which may be shorter.
// The payload stays the caller's.
func (s *Stack) SendUDP(source, destination netip.AddrPort, payload []byte, segment int) error {
	if source.Addr().Is4() != destination.Addr().Is4() {
		return errFamilies
	}
	if segment <= 0 || segment >= len(payload) {
		return s.sendDatagram(source, destination, payload)
	}
	if s.link.Features().USO && s.fits(destination.Addr(), segment) && len(payload) <= maxSuperframe {
		return s.sendSuperframe(source, destination, payload, segment)
	}
	for len(payload) > 0 {
		n := min(segment, len(payload))
		if err := s.sendDatagram(source, destination, payload[:n]); err != nil {
			return err
		}
		payload = payload[n:]
	}
	return nil
}

// maxSuperframe is how much payload a superframe of datagrams may have, in
// bytes: the longest IPv4 packet without its headers.
const maxSuperframe = 65535 - header.IPv4MinimumSize - header.UDPMinimumSize

// fits tells whether a datagram with n bytes of payload needs no fragments.
func (s *Stack) fits(to netip.Addr, n int) bool {
	return ipHeaderLen(to)+header.UDPMinimumSize+n <= s.mtu
}

func ipHeaderLen(a netip.Addr) int {
	if a.Is4() {
		return header.IPv4MinimumSize
	}
	return header.IPv6MinimumSize
}

// sendDatagram sends one datagram, in fragments if it must be.
func (s *Stack) sendDatagram(source, destination netip.AddrPort, payload []byte) error {
	if len(payload) > maxSuperframe {
		return errTooLong
	}
	if !s.fits(destination.Addr(), len(payload)) {
		return s.SendPacket(s.completeDatagram(source, destination, payload))
	}
	if !s.link.Features().Checksum {
		return s.link.SendFrame(tap.Header{}, s.completeDatagram(source, destination, payload))
	}
	return s.sendOffloaded(source, destination, payload, tap.Header{})
}

// sendSuperframe sends several datagrams as one frame.
func (s *Stack) sendSuperframe(source, destination netip.AddrPort, payload []byte, segment int) error {
	return s.sendOffloaded(source, destination, payload, tap.Header{Segmentation: tap.SegmentUDP, SegmentSize: uint16(segment)})
}

// A datagramHead has room for the headers of a datagram, which would be
// allocated for each otherwise.
type datagramHead [header.IPv6MinimumSize + header.UDPMinimumSize]byte

// sendOffloaded sends a frame whose UDP checksum the guest's kernel completes.
func (s *Stack) sendOffloaded(source, destination netip.AddrPort, payload []byte, h tap.Header) error {
	b := s.datagramHeads.Get().(*datagramHead)
	defer s.datagramHeads.Put(b)
	ipLen := ipHeaderLen(destination.Addr())
	size := header.UDPMinimumSize + len(payload)
	head := b[:ipLen+header.UDPMinimumSize]
	s.putIP(head, source.Addr(), destination.Addr(), uint8(header.UDPProtocolNumber), size)
	putUDP(head[ipLen:], source.Port(), destination.Port(), size)
	sum := pseudoSum(source.Addr(), destination.Addr(), uint8(header.UDPProtocolNumber), size)
	binary.BigEndian.PutUint16(head[ipLen+6:], sum)
	h.NeedsChecksum = true
	h.ChecksumStart = uint16(header.EthernetMinimumSize + ipLen)
	h.ChecksumOffset = 6 // of the UDP checksum in its header, RFC 768
	h.HeaderLen = uint16(header.EthernetMinimumSize + len(head))
	return s.link.SendFrame(h, head, payload)
}

// completeDatagram returns a packet with all checksums.
func (s *Stack) completeDatagram(source, destination netip.AddrPort, payload []byte) []byte {
	ipLen := ipHeaderLen(destination.Addr())
	b := make([]byte, ipLen+header.UDPMinimumSize+len(payload))
	size := len(b) - ipLen
	s.putIP(b, source.Addr(), destination.Addr(), uint8(header.UDPProtocolNumber), size)
	putUDP(b[ipLen:], source.Port(), destination.Port(), size)
	copy(b[ipLen+header.UDPMinimumSize:], payload)
	sum := ^checksum.Checksum(b[ipLen:], pseudoSum(source.Addr(), destination.Addr(), uint8(header.UDPProtocolNumber), size))
	if sum == 0 {
		sum = 0xffff // RFC 768: zero means no checksum
	}
	binary.BigEndian.PutUint16(b[ipLen+6:], sum)
	return b
}

// putIP writes an IP header in front of size bytes.
func (s *Stack) putIP(b []byte, source, destination netip.Addr, protocol uint8, size int) {
	if source.Is4() {
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(header.IPv4MinimumSize + size),
			ID:          uint16(s.fragmentID.Add(1)),
			TTL:         defaultTTL,
			Protocol:    protocol,
			SrcAddr:     toAddress(source),
			DstAddr:     toAddress(destination),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		return
	}
	b[0], b[1], b[2], b[3] = 6<<4, 0, 0, 0
	binary.BigEndian.PutUint16(b[4:], uint16(size))
	b[6], b[7] = protocol, defaultTTL
	src, dst := source.As16(), destination.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
}

// putUDP writes a UDP header without its checksum. size counts the header.
func putUDP(b []byte, source, destination uint16, size int) {
	binary.BigEndian.PutUint16(b, source)
	binary.BigEndian.PutUint16(b[2:], destination)
	binary.BigEndian.PutUint16(b[4:], uint16(size))
	binary.BigEndian.PutUint16(b[6:], 0)
}

// pseudoSum returns the sum of the pseudo-header (RFC 768, RFC 8200 §8.1),
// not inverted.
func pseudoSum(source, destination netip.Addr, protocol uint8, size int) uint16 {
	return header.PseudoHeaderChecksum(tcpipProtocol(protocol), toAddress(source), toAddress(destination), uint16(size))
}

// SendICMP6 sends an ICMPv6 message from one of the gateway's addresses and
// fills in its checksum. Hop limit 255, as neighbour discovery wants it
// (RFC 4861 §6.1.2).
func (s *Stack) SendICMP6(source, destination netip.Addr, message []byte) error {
	b := make([]byte, header.IPv6MinimumSize+len(message))
	s.putIP(b, source, destination, uint8(header.ICMPv6ProtocolNumber), len(message))
	b[7] = 255
	copy(b[header.IPv6MinimumSize:], message)
	body := b[header.IPv6MinimumSize:]
	body[2], body[3] = 0, 0
	sum := checksum.Checksum(body, pseudoSum(source, destination, uint8(header.ICMPv6ProtocolNumber), len(message)))
	binary.BigEndian.PutUint16(body[2:], ^sum)
	return s.SendPacket(b)
}
