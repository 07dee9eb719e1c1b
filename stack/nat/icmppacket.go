package nat

import (
	"encoding/binary"
	"net/netip"
)

// An ipHeader is what we write into an IP header. The rest is fixed: no
// options, no fragment.
type ipHeader struct {
	source, destination netip.Addr // both of the same family
	protocol            uint8
	ttl, tos            uint8
	length              int // bytes after the header

	// id is IPv4's identification. 0 means that the packet is never
	// fragmented and needs none, RFC 6864 section 4.1.
	id uint16
}

// append adds the header to b.
func (h ipHeader) append(b []byte) []byte {
	if h.source.Is4() {
		return h.append4(b)
	}
	return h.append6(b)
}

func (h ipHeader) append4(b []byte) []byte {
	const dontFragment = 0x4000
	start := len(b)
	b = append(b, 4<<4|ipv4HeaderLen/4, h.tos)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4HeaderLen+h.length))
	b = binary.BigEndian.AppendUint16(b, h.id)
	if h.id == 0 {
		b = binary.BigEndian.AppendUint16(b, dontFragment)
	} else {
		b = append(b, 0, 0)
	}
	b = append(b, h.ttl, h.protocol, 0, 0)
	source, destination := h.source.As4(), h.destination.As4()
	b = append(b, source[:]...)
	b = append(b, destination[:]...)
	binary.BigEndian.PutUint16(b[start+10:], checksum(0, b[start:]))
	return b
}

func (h ipHeader) append6(b []byte) []byte {
	b = append(b, 6<<4|h.tos>>4, h.tos<<4, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(h.length))
	b = append(b, h.protocol, h.ttl)
	source, destination := h.source.As16(), h.destination.As16()
	b = append(b, source[:]...)
	return append(b, destination[:]...)
}

// len returns the length of the header in bytes.
func (h ipHeader) len() int {
	if h.source.Is4() {
		return ipv4HeaderLen
	}
	return ipv6HeaderLen
}

// pseudo returns the sum over the pseudo-header of RFC 8200 section 8.1. It is
// 0 for IPv4, since ICMP has none there.
func (h ipHeader) pseudo() uint32 {
	if h.source.Is4() {
		return 0
	}
	source, destination := h.source.As16(), h.destination.As16()
	return sum(sum(uint32(h.length)+uint32(h.protocol), source[:]), destination[:])
}

// checksum returns the Internet checksum of b, RFC 1071, starting from a sum
// over something else. b is at most 64 KiB, so that 32 bits hold the sum.
func checksum(start uint32, b []byte) uint16 {
	s := sum(start, b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// sum adds up b as big-endian 16 bit words.
func sum(s uint32, b []byte) uint32 {
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// udpOriginal rebuilds the start of a datagram as the guest sent it: IP and
// UDP header, then data, which is what an error quoted of the payload. length
// is the length of the whole payload in bytes. The UDP checksum is 0: nobody
// can verify it in a quotation.
func udpOriginal(source, destination netip.AddrPort, sent header, data []byte) []byte {
	h := ipHeader{
		source:      source.Addr(),
		destination: destination.Addr(),
		protocol:    protoUDP,
		ttl:         sent.ttl,
		tos:         sent.tos,
		length:      udpHeaderLen + int(sent.length),
	}
	data = data[:min(len(data), int(sent.length))]
	b := h.append(make([]byte, 0, h.len()+udpHeaderLen+len(data)))
	b = binary.BigEndian.AppendUint16(b, source.Port())
	b = binary.BigEndian.AppendUint16(b, destination.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(h.length))
	b = append(b, 0, 0)
	return append(b, data...)
}

// echoOriginal rebuilds the start of an echo request as the guest sent it.
// message is what an error quoted of the ICMP message, with the identifier
// that the host used in place of source's port; it may be empty.
func echoOriginal(source, destination netip.AddrPort, sent header, message []byte) []byte {
	h := ipHeader{
		source:      source.Addr(),
		destination: destination.Addr(),
		protocol:    protoICMP4,
		ttl:         sent.ttl,
		tos:         sent.tos,
		length:      icmpHeaderLen + int(sent.length),
	}
	echo := uint8(icmp4Echo)
	if source.Addr().Is6() {
		h.protocol, echo = protoICMP6, icmp6Echo
	}
	message = message[:min(len(message), h.length)]
	b := h.append(make([]byte, 0, h.len()+max(icmpHeaderLen, len(message))))
	if len(message) < icmpHeaderLen {
		b = append(b, echo, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, source.Port())
		return append(b, 0, 0)
	}
	b = append(b, message...)
	setEchoID(b[h.len():], source.Port())
	return b
}

// setEchoID replaces the identifier of an echo message and corrects the
// checksum, RFC 1624 section 3. message has at least 8 bytes.
func setEchoID(message []byte, id uint16) {
	old := binary.BigEndian.Uint16(message[4:])
	s := uint32(^binary.BigEndian.Uint16(message[2:])) + uint32(^old) + uint32(id)
	binary.BigEndian.PutUint16(message[2:], checksum(s, nil))
	binary.BigEndian.PutUint16(message[4:], id)
}

// echoReply returns a complete IP packet with an echo reply, which may be
// larger than the guest's MTU. h says everything but protocol and length.
// message is the reply as the host's kernel gave it, at least its header of 8
// bytes; it is copied and gets id as its identifier.
func echoReply(h ipHeader, id uint16, message []byte) []byte {
	h.protocol, h.length = protoICMP4, len(message)
	if h.source.Is6() {
		h.protocol = protoICMP6
	}
	b := h.append(make([]byte, 0, h.len()+h.length))
	b = append(b, message...)
	message = b[h.len():]
	message[2], message[3] = 0, 0
	binary.BigEndian.PutUint16(message[4:], id)
	binary.BigEndian.PutUint16(message[2:], checksum(h.pseudo(), message))
	return b
}

// appendEcho appends the header of an echo message without its checksum.
func appendEcho(b []byte, typ uint8, id, seq uint16) []byte {
	b = append(b, typ, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, id)
	return binary.BigEndian.AppendUint16(b, seq)
}
