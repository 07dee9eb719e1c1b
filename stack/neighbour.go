package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Where the fields of a frame are, in bytes from its start.
const (
	atEtherType  = 12
	atIP         = header.EthernetMinimumSize
	atARPTarget  = header.EthernetMinimumSize + 24 // RFC 826, Ethernet and IPv4
	atIPv6Next   = atIP + 6
	atIPv6Hops   = atIP + 7
	atICMPv6     = atIP + header.IPv6MinimumSize
	atNDPTarget  = atICMPv6 + 8 // RFC 4861 §4.3
	neighborHops = 255          // RFC 4861 §6.1.1 and §7.1.1: not from further away
)

// Classify implements link.Classifier. It takes what gVisor would answer
// wrongly: requests for the hardware address of somebody else, which a stack
// that sends from any address believes to be its own, and router
// solicitations, which gVisor does not answer.
func (s *Stack) Classify(head []byte) bool {
	switch binary.BigEndian.Uint16(head[atEtherType:]) {
	case uint16(header.ARPProtocolNumber):
		return len(head) < atARPTarget+4 || !s.own[netip.AddrFrom4([4]byte(head[atARPTarget:]))]
	case uint16(header.IPv6ProtocolNumber):
		if len(head) <= atICMPv6+1 || head[atIPv6Next] != uint8(header.ICMPv6ProtocolNumber) {
			return false
		}
		return s.classifyICMPv6(head)
	}
	return false
}

func (s *Stack) classifyICMPv6(head []byte) bool {
	switch header.ICMPv6Type(head[atICMPv6]) {
	case header.ICMPv6RouterSolicit:
		if s.solicitation != nil && head[atIPv6Hops] == neighborHops && head[atICMPv6+1] == 0 {
			s.solicitation()
		}
		return true
	case header.ICMPv6NeighborSolicit:
		return len(head) < atNDPTarget+16 || !s.own[netip.AddrFrom16([16]byte(head[atNDPTarget:]))]
	}
	return false
}
