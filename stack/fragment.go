package stack

import (
	"encoding/binary"
	"errors"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/tap"
)

// errPacket says that bytes to be sent are no IP packet.
var errPacket = errors.New("not an IP packet")

func tcpipProtocol(p uint8) tcpip.TransportProtocolNumber { return tcpip.TransportProtocolNumber(p) }

// SendPacket sends a complete IP packet, checksums included, to the guest. One
// that is longer than the MTU goes in fragments. The packet stays the caller's.
func (s *Stack) SendPacket(b []byte) error {
	switch {
	case len(b) >= header.IPv4MinimumSize && b[0]>>4 == 4:
		if len(b) > s.mtu {
			return s.fragment4(header.IPv4(b))
		}
	case len(b) >= header.IPv6MinimumSize && b[0]>>4 == 6:
		if len(b) > s.mtu {
			return s.fragment6(header.IPv6(b))
		}
	default:
		return errPacket
	}
	return s.link.SendFrame(tap.Header{}, b)
}

// fragment4 sends an IPv4 packet in fragments (RFC 791 §2.3).
func (s *Stack) fragment4(b header.IPv4) error {
	headerLen := int(b.HeaderLength())
	if headerLen < header.IPv4MinimumSize || headerLen > len(b) {
		return errPacket
	}
	size := (s.mtu - headerLen) &^ 7
	for offset, rest := 0, b[headerLen:]; len(rest) > 0; offset += size {
		n := min(size, len(rest))
		ip := append(header.IPv4(nil), b[:headerLen]...)
		ip.SetTotalLength(uint16(headerLen + n))
		flags := uint8(0)
		if n < len(rest) {
			flags = header.IPv4FlagMoreFragments
		}
		ip.SetFlagsFragmentOffset(flags, uint16(offset))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		if err := s.link.SendFrame(tap.Header{}, ip, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// fragment6 sends an IPv6 packet in fragments (RFC 8200 §4.5). The packets
// that come here have no extension headers.
func (s *Stack) fragment6(b header.IPv6) error {
	const fragmentHeader = 8
	id := s.fragmentID.Add(1)
	size := (s.mtu - header.IPv6MinimumSize - fragmentHeader) &^ 7
	for offset, rest := 0, b[header.IPv6MinimumSize:]; len(rest) > 0; offset += size {
		n := min(size, len(rest))
		h := append(header.IPv6(nil), b[:header.IPv6MinimumSize]...)
		h.SetPayloadLength(uint16(fragmentHeader + n))
		h.SetNextHeader(uint8(header.IPv6FragmentHeader))
		var more uint16
		if n < len(rest) {
			more = 1
		}
		h = append(h, b.NextHeader(), 0)
		h = binary.BigEndian.AppendUint16(h, uint16(offset)|more)
		h = binary.BigEndian.AppendUint32(h, id)
		if err := s.link.SendFrame(tap.Header{}, h, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}
