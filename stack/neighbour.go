package stack

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/stack/link"
)

// Where the fields of a frame are, in bytes from its start.
const (
	atEtherType    = 12
	atIP           = header.EthernetMinimumSize
	atARPSender    = header.EthernetMinimumSize + 14 // RFC 826, Ethernet and IPv4
	atARPTarget    = header.EthernetMinimumSize + 24
	atIPv4Flags    = atIP + 6
	atIPv4Protocol = atIP + 9
	atIPv4Source   = atIP + 12
	atIPv6Next     = atIP + 6
	atIPv6Hops     = atIP + 7
	atIPv6Source   = atIP + 8
	atICMPv6       = atIP + header.IPv6MinimumSize
	atNDPTarget    = atICMPv6 + 8 // RFC 4861 §4.3
	neighbourHops  = 255          // RFC 4861 §6.1.1 and §7.1.1: not from further away
)

// Classify implements link.Classifier. It takes datagrams, which need nothing
// that gVisor could do for them, what the guest says of those it refuses, the SYNs
// of HandleSYN, and what gVisor would answer
// wrongly: requests for the hardware address of somebody else, which a stack
// that sends from any address believes to be its own; neighbour solicitations,
// which gVisor would answer as a host, whereupon the guest forgets its router
// (RFC 4861 §7.2.5); and router solicitations, which it does not answer. Of fragments
// it gets the packets that they make.
func (s *Stack) Classify(f *link.Frame) bool {
	head := f.Head
	s.asked = false
	switch binary.BigEndian.Uint16(head[atEtherType:]) {
	case uint16(header.IPv4ProtocolNumber):
		return s.classifyIPv4(f, head)
	case uint16(header.ARPProtocolNumber):
		answers := s.answersARP(head)
		if !answers || header.ARP(head[atIP:]).Op() != header.ARPRequest {
			return !answers
		}
		s.asked = s.mayAsk()
		return !s.asked
	case uint16(header.IPv6ProtocolNumber):
		return s.classifyIPv6(f, head)
	}
	return false
}

func (s *Stack) classifyIPv4(f *link.Frame, head []byte) bool {
	if len(head) <= atIPv4Protocol {
		return false
	}
	if binary.BigEndian.Uint16(head[atIPv4Flags:])&fragment4 != 0 {
		return s.reassemble(f)
	}
	switch head[atIPv4Protocol] {
	case uint8(header.ICMPv4ProtocolNumber):
		return s.classifyRefusal(f)
	case uint8(header.TCPProtocolNumber):
		return s.classifyTCP(f)
	}
	return s.classifyUDP(f)
}

func (s *Stack) classifyIPv6(f *link.Frame, head []byte) bool {
	if len(head) <= atICMPv6+1 {
		return false
	}
	switch head[atIPv6Next] {
	case uint8(header.ICMPv6ProtocolNumber):
		return s.classifyICMPv6(f, head)
	case uint8(header.TCPProtocolNumber):
		return s.classifyTCP(f)
	case uint8(header.IPv6FragmentHeader), uint8(header.IPv6HopByHopOptionsExtHdrIdentifier),
		uint8(header.IPv6RoutingExtHdrIdentifier), uint8(header.IPv6DestinationOptionsExtHdrIdentifier):
		return s.reassemble(f)
	}
	return s.classifyUDP(f)
}

// mayAsk tells whether the guest has not asked too often.
func (s *Stack) mayAsk() bool {
	if s.asks.Allow() {
		return true
	}
	s.suppressed.Add(1)
	return false
}

// answersARP tells whether an ARP packet is for the stack to answer.
func (s *Stack) answersARP(head []byte) bool {
	if len(head) < atARPTarget+4 {
		return false
	}
	sender, target := netip.AddrFrom4([4]byte(head[atARPSender:])), netip.AddrFrom4([4]byte(head[atARPTarget:]))
	if s.own[target] {
		return true
	}
	// RFC 5227 §1.1: a probe has no sender, an announcement speaks of itself.
	return !sender.IsUnspecified() && sender != target && s.isNeighbour(target)
}

// isNeighbour tells whether the gateway stands for an address of somebody
// else's.
func (s *Stack) isNeighbour(a netip.Addr) bool {
	return s.neighbours != nil && !a.IsUnspecified() && !a.IsMulticast() && s.neighbours(a)
}

func (s *Stack) classifyICMPv6(f *link.Frame, head []byte) bool {
	local := head[atIPv6Hops] == neighbourHops && head[atICMPv6+1] == 0
	switch header.ICMPv6Type(head[atICMPv6]) {
	case header.ICMPv6RouterSolicit:
		if s.solicitation != nil && local && s.mayAsk() {
			s.solicitation()
		}
		return true
	case header.ICMPv6NeighborSolicit:
		if local && len(head) >= atNDPTarget+16 && s.mayAsk() {
			s.answerSolicitation(netip.AddrFrom16([16]byte(head[atIPv6Source:])), netip.AddrFrom16([16]byte(head[atNDPTarget:])))
		}
		return true
	case header.ICMPv6DstUnreachable:
		return s.classifyRefusal(f)
	}
	return false
}

// lingering is how long a guest is given to hear who is where, and to send what has
// waited for that: the time it needs is that which its processor is busy with others.
const lingering = 200 * time.Millisecond

// linger is link.Config.Linger: a guest whose last words ask who has an address has
// not said what it had to say there. Its kernel does that, also for a program that
// has ended.
func (s *Stack) linger() time.Duration {
	if s.asked {
		return lingering
	}
	return 0
}

// allNodes is every host on the link (RFC 4291 §2.7.1).
var allNodes = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 1})

// Flags of a neighbour advertisement (RFC 4861 §4.4).
const (
	naRouter    = 1 << 7
	naSolicited = 1 << 6
	naOverride  = 1 << 5
)

// answerSolicitation answers a neighbour solicitation about target, which may
// be a probe for a duplicate address without a source (RFC 4862 §5.4.3).
func (s *Stack) answerSolicitation(source, target netip.Addr) {
	destination, flags := source, uint8(naRouter|naSolicited|naOverride)
	switch {
	case s.own[target] && source.IsUnspecified():
		destination, flags = allNodes, naRouter|naOverride
	case s.own[target]:
	case source.IsUnspecified() || source == target || !s.isNeighbour(target):
		return
	default:
		flags &^= naOverride // RFC 4861 §7.2.8: in the name of another
	}
	s.asked = !source.IsUnspecified()
	_ = s.SendICMP6(target, destination, s.neighbourMessage(header.ICMPv6NeighborAdvert, flags, target)) // counted by the link
}

// neighbourMessage returns a neighbour solicitation or advertisement with our
// hardware address and without a checksum (RFC 4861 §4.3 and §4.4).
func (s *Stack) neighbourMessage(t header.ICMPv6Type, flags uint8, target netip.Addr) []byte {
	const size = 24    // without options
	option := uint8(1) // source link-layer address, RFC 4861 §4.6.1
	if t == header.ICMPv6NeighborAdvert {
		option = 2 // target link-layer address
	}
	b := make([]byte, size, size+8)
	b[0], b[4] = uint8(t), flags
	copy(b[8:], target.AsSlice())
	b = append(b, option, 1) // of 8 bytes
	return append(b, s.mac...)
}
