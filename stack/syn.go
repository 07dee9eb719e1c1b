package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/stack/link"
	"taproot/tap"
)

// maxSYN is the longest frame that is taken for a SYN, in bytes: all headers,
// and a full Ethernet packet of data that TCP Fast Open may send along (RFC 7413
// §4.1.2). Longer ones are the stack's business.
const maxSYN = 2048

// A SYN is a frame of the guest's that asks for a connection, not answered yet.
// It is never changed, and belongs to whoever got it.
type SYN struct {
	Source, Destination netip.AddrPort

	DSCP     uint8  // RFC 2474, without the two bits of ECN
	TTL      uint8  // or hop limit
	Sequence uint32 // the first sequence number

	frame  []byte // from the Ethernet header on
	header tap.Header
	tcpAt  int // where the TCP header starts in frame
}

// Header returns the IP header and the first 8 bytes behind it: what an ICMP
// error about it quotes. It belongs to s.
func (s *SYN) Header() []byte { return s.frame[atIP : s.tcpAt+quoted] }

// HandleSYN sets who gets the SYNs whose DSCP is one of points, before the
// stack does. The handler runs on the link's reader and must not block; it
// returns true when it took the SYN. It gets plain ones only: from one ordinary
// address to another, without IP options, extension headers or fragments, and
// with no other flag than those of ECN (RFC 3168 §6.1.1).
func (s *Stack) HandleSYN(h func(*SYN) bool, points ...uint8) {
	s.syn, s.synPoints = h, 0
	for _, p := range points {
		s.synPoints |= 1 << (p & 0x3f)
	}
}

// classifyTCP hands a SYN to its handler.
func (s *Stack) classifyTCP(f *link.Frame) bool {
	if s.syn != nil && s.synPoints&(1<<dscpOf(f.Head)) != 0 {
		if syn := synOf(f); syn != nil && s.syn(syn) {
			return true
		}
	}
	return s.settle(f)
}

// dscpOf returns the code point of an IP packet's header in a frame.
func dscpOf(head []byte) uint8 {
	if head[atIP]>>4 == 6 {
		return head[atIP]<<2&0x3c | head[atIP+1]>>6
	}
	return head[atIP+1] >> 2
}

// synOf returns the SYN in a frame, or nil if it holds none that HandleSYN
// speaks of. The checksums are not verified; see package link.
func synOf(f *link.Frame) *SYN {
	if f.Head[0]&1 != 0 || f.Len() > maxSYN || f.Header.Segmentation != tap.SegmentNone {
		return nil
	}
	s := &SYN{header: f.Header}
	size, ok := s.parseIP(f.Head)
	if !ok || size < header.TCPMinimumSize || len(f.Head) < s.tcpAt+header.TCPMinimumSize || s.tcpAt+size > f.Len() {
		return nil
	}
	tcp := header.TCP(f.Head[s.tcpAt:])
	const ecn = 1<<6 | 1<<7 // ECE and CWR, RFC 3168 §6.1
	if uint8(tcp.Flags())&^ecn != uint8(header.TCPFlagSyn) || int(tcp.DataOffset()) < header.TCPMinimumSize || int(tcp.DataOffset()) > size {
		return nil
	}
	s.Sequence = tcp.SequenceNumber()
	s.Source = netip.AddrPortFrom(s.Source.Addr(), tcp.SourcePort())
	s.Destination = netip.AddrPortFrom(s.Destination.Addr(), tcp.DestinationPort())
	s.DSCP = dscpOf(f.Head)
	split := s.tcpAt + header.TCPMinimumSize
	s.frame = make([]byte, 0, s.tcpAt+size)
	s.frame = append(s.frame, f.Head[:split]...)
	s.frame = append(s.frame, f.Body(split)[:size-header.TCPMinimumSize]...)
	return s
}

// parseIP sets what a plain IP header tells, and returns the number of bytes
// that follow it in its packet.
func (s *SYN) parseIP(head []byte) (size int, ok bool) {
	if binary.BigEndian.Uint16(head[atEtherType:]) == uint16(header.IPv4ProtocolNumber) {
		s.tcpAt = atIP + header.IPv4MinimumSize
		return s.parseIPv4(head[atIP:s.tcpAt])
	}
	s.tcpAt = atIP + header.IPv6MinimumSize
	if len(head) < s.tcpAt {
		return 0, false
	}
	return s.parseIPv6(head[atIP:s.tcpAt])
}

func (s *SYN) parseIPv4(ip header.IPv4) (size int, ok bool) {
	if !isPlain4(ip) || !isOrdinary4(ip[12:16]) || !isOrdinary4(ip[16:20]) {
		return 0, false
	}
	s.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0)
	s.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)
	s.TTL = ip.TTL()
	return int(ip.TotalLength()) - header.IPv4MinimumSize, true
}

func (s *SYN) parseIPv6(ip header.IPv6) (size int, ok bool) {
	source, destination := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	if ip[0]>>4 != 6 || !isOrdinary6(source) || !isOrdinary6(destination) {
		return 0, false
	}
	s.Source, s.Destination = netip.AddrPortFrom(source, 0), netip.AddrPortFrom(destination, 0)
	s.TTL = ip.HopLimit()
	return int(ip.PayloadLength()), true
}

// PutBack sends a SYN back to the guest's device, with another code point: from
// where it came, to where it was to go, and with all that its sender's kernel
// had left undone.
func (s *Stack) PutBack(syn *SYN, dscp uint8) error {
	packet := syn.frame[atIP:]
	if dscp != syn.DSCP {
		packet = append([]byte(nil), packet...)
		setDSCP(packet, dscp)
	}
	return s.link.SendFrame(syn.header, packet)
}

// setDSCP sets the code point of an IP packet and leaves ECN alone.
func setDSCP(packet []byte, dscp uint8) {
	if packet[0]>>4 == 6 {
		packet[0] = 6<<4 | dscp>>2
		packet[1] = packet[1]&0x3f | dscp<<6
		return
	}
	ip := header.IPv4(packet)
	packet[1] = packet[1]&3 | dscp<<2
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}

// Reset answers a SYN with RST (RFC 9293 §3.5.2): nobody listens at the
// destination.
func (s *Stack) Reset(syn *SYN) error {
	data := len(syn.frame) - syn.tcpAt - int(header.TCP(syn.frame[syn.tcpAt:]).DataOffset())
	return s.sendBare(syn.Destination, syn.Source, header.TCPFields{
		AckNum: syn.Sequence + 1 + uint32(data), Flags: header.TCPFlagRst | header.TCPFlagAck,
	})
}

// Probe sends the guest an acknowledgement of nothing in particular. If it takes
// that for a segment of a connection, it answers with one that says what it expects
// (RFC 9293 §3.10.7.4), and that of a connection which the stack does not have is
// answered with RST in turn. So ends what outlived the engine before, also where
// nobody would have sent anything again.
func (s *Stack) Probe(source, destination netip.AddrPort) error {
	if source.Addr().Is4() != destination.Addr().Is4() {
		return errFamilies
	}
	return s.sendBare(source, destination, header.TCPFields{SeqNum: 1, AckNum: 1, Flags: header.TCPFlagAck})
}

// sendBare sends a segment without options or data.
func (s *Stack) sendBare(source, destination netip.AddrPort, f header.TCPFields) error {
	const size = header.TCPMinimumSize
	ipLen := ipHeaderLen(destination.Addr())
	b := make([]byte, ipLen+size)
	s.putIP(b, source.Addr(), destination.Addr(), uint8(header.TCPProtocolNumber), size)
	f.SrcPort, f.DstPort, f.DataOffset = source.Port(), destination.Port(), size
	tcp := header.TCP(b[ipLen:])
	tcp.Encode(&f)
	sum := pseudoSum(source.Addr(), destination.Addr(), uint8(header.TCPProtocolNumber), size)
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
	return s.SendPacket(b)
}

// Deliver gives a SYN that a handler took to the stack after all, from any
// goroutine.
func (s *Stack) Deliver(syn *SYN) { s.link.Deliver(syn.frame) }
