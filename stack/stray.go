package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
)

// A Stray is a segment of the guest's that belongs to no connection of the stack
// and does not ask for one. It is valid until its handler returns.
type Stray struct {
	Source, Destination netip.AddrPort

	DSCP             uint8 // RFC 2474, without the two bits of ECN
	Sequence         uint32
	Acknowledgement  uint32
	SYNACK           bool   // it answers a SYN, and does not refuse it
	network, segment []byte // headers, not ours
	data             stack.Range
}

// HandleStray sets who gets the segments that the stack would answer with RST.
// The handler runs on the link's reader, must not block, and returns true when it
// took the segment.
func (s *Stack) HandleStray(h func(*Stray) bool) { s.stray = h }

// takeStray hands a segment that nobody wants to its handler.
func (s *Stack) takeStray(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	if s.stray == nil {
		return false
	}
	tcp := header.TCP(pkt.TransportHeader().Slice())
	_, tos := hopLimit(pkt)
	return s.stray(&Stray{
		Source:      netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort),
		Destination: netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort),
		DSCP:        tos >> 2, Sequence: tcp.SequenceNumber(), Acknowledgement: tcp.AckNumber(),
		SYNACK:  tcp.Flags()&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagSyn|header.TCPFlagAck,
		network: pkt.NetworkHeader().Slice(), segment: tcp, data: pkt.Data().AsRange(),
	})
}

// PutBackStray sends a segment back to the guest's device, with another code
// point: from where it came, to where it was to go. A superframe stays one.
func (s *Stack) PutBackStray(stray *Stray, dscp uint8) error {
	packet := append([]byte(nil), stray.network...)
	packet = append(packet, stray.segment...)
	packet = append(packet, stray.data.ToSlice()...)
	setDSCP(packet, dscp)
	tcp := header.TCP(packet[len(stray.network):])
	sum := pseudoSum(stray.Source.Addr(), stray.Destination.Addr(), uint8(header.TCPProtocolNumber), len(tcp))
	if !s.link.Features().Checksum {
		tcp.SetChecksum(0)
		tcp.SetChecksum(^checksum.Checksum(tcp, sum))
		return s.link.SendFrame(tap.Header{}, packet)
	}
	tcp.SetChecksum(sum)
	return s.link.SendFrame(s.offloads(stray.Source.Addr(), len(stray.network), tcp), packet)
}

// offloads says that a segment behind n bytes of IP header lacks its checksum, and
// how to cut it where it is longer than the MTU.
func (s *Stack) offloads(source netip.Addr, n int, tcp header.TCP) tap.Header {
	h := tap.Header{NeedsChecksum: true, ChecksumStart: uint16(atIP + n), ChecksumOffset: header.TCPChecksumOffset}
	if n+len(tcp) <= s.mtu {
		return h
	}
	headers := n + int(tcp.DataOffset())
	h.Segmentation = tap.SegmentTCPv4
	if source.Is6() {
		h.Segmentation = tap.SegmentTCPv6
	}
	const cwr = 1 << 7 // RFC 3168 §6.1
	h.ECN = uint8(tcp.Flags())&cwr != 0
	h.SegmentSize, h.HeaderLen = uint16(s.mtu-headers), uint16(atIP+headers)
	return h
}
