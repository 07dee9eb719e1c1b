package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/stack/link"
	"taproot/tap"
)

// ParseSYN returns the SYN in a frame behind its virtio-net header, as a packet
// socket in the guest's namespace copies it (packet(7), PACKET_VNET_HDR), or nil if
// there is none such as HandleSYN speaks of. Nothing of it need be true. b stays
// the caller's.
func ParseSYN(b []byte) *SYN {
	h, err := tap.ParseHeader(b, len(b)-tap.HeaderLen)
	if err != nil {
		return nil
	}
	frame := b[tap.HeaderLen:]
	if len(frame) < atIP+header.IPv4MinimumSize+header.TCPMinimumSize {
		return nil
	}
	if !holdsTCP(frame) {
		return nil
	}
	f := link.Whole(h, frame)
	return synOf(&f)
}

// Met tells whether the guest's hardware address is known: without it, what is put
// into the device reaches nobody. Where it is not, the guest is asked for it, once for
// each call, by one of its addresses.
func (s *Stack) Met(guest netip.Addr) bool {
	select {
	case <-s.link.Met():
		return true
	default:
		s.solicit(guest)
		return false
	}
}

// holdsTCP tells whether an Ethernet frame says to be one of TCP over IP.
func holdsTCP(frame []byte) bool {
	switch header.Ethernet(frame).Type() {
	case header.IPv4ProtocolNumber:
		return header.IPv4(frame[atIP:]).Protocol() == uint8(header.TCPProtocolNumber)
	case header.IPv6ProtocolNumber:
		return header.IPv6(frame[atIP:]).NextHeader() == uint8(header.TCPProtocolNumber)
	}
	return false
}
