package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/stack/link"
)

// A Refusal is what the guest's kernel says of a datagram that it has received:
// nobody has the port that it went to.
type Refusal struct {
	// Source and Destination are the datagram's: Destination is the guest's own.
	Source, Destination netip.AddrPort

	// Payload is the datagram's, or nil if not all of it is quoted. It is what the
	// guest says that it was, and valid only during the call of the handler.
	Payload []byte
}

// HandleRefusal sets who is told of datagrams that the guest's kernel has refused.
// The handler runs on the link's reader and must not block.
func (s *Stack) HandleRefusal(h func(Refusal)) { s.refusal = h }

// classifyRefusal takes a frame with a port unreachable message about a datagram,
// for which gVisor has no use.
func (s *Stack) classifyRefusal(f *link.Frame) bool {
	if s.refusal == nil {
		return false
	}
	r, ok := refusalOf(f)
	if ok {
		s.refusal(r)
	}
	return ok
}

// Where the ICMP message is, in bytes from the start of a frame without IP options
// and extension headers, and how long its own header is (RFC 792, RFC 4443 §3.1).
const (
	atICMPv4   = atIP + header.IPv4MinimumSize
	icmpHeader = 8
)

// refusalOf returns what a frame from the guest says about a datagram to the
// address that the frame is from. Checksums are not verified; see package link.
func refusalOf(f *link.Frame) (Refusal, bool) {
	head := f.Head
	if binary.BigEndian.Uint16(head[atEtherType:]) == uint16(header.IPv6ProtocolNumber) {
		const unreachable, port = byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6PortUnreachable)
		if len(head) < atICMPv6+icmpHeader || head[atICMPv6] != unreachable || head[atICMPv6+1] != port {
			return Refusal{}, false
		}
		size := int(header.IPv6(head[atIP:]).PayloadLength())
		r, ok := quotedIn(quote(f, atICMPv6, size), header.IPv6MinimumSize)
		return r, ok && r.Destination.Addr() == netip.AddrFrom16([16]byte(head[atIPv6Source:]))
	}
	const unreachable, port = byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4PortUnreachable)
	if len(head) < atICMPv4+icmpHeader || !isPlain4(head[atIP:]) || head[atICMPv4] != unreachable || head[atICMPv4+1] != port {
		return Refusal{}, false
	}
	size := int(header.IPv4(head[atIP:]).TotalLength()) - header.IPv4MinimumSize
	r, ok := quotedIn(quote(f, atICMPv4, size), header.IPv4MinimumSize)
	return r, ok && r.Destination.Addr() == netip.AddrFrom4([4]byte(head[atIPv4Source:]))
}

// quote returns what the ICMP message of size bytes at an offset of a frame
// quotes, nil if there is less than that.
func quote(f *link.Frame, at, size int) []byte {
	if size < icmpHeader || at+size > f.Len() {
		return nil
	}
	return f.Body(at + icmpHeader)[:size-icmpHeader]
}

// quotedIn reads the beginning of a packet whose header has so many bytes: of
// either family, a plain datagram.
func quotedIn(b []byte, ipHeader int) (Refusal, bool) {
	if len(b) < ipHeader+header.UDPMinimumSize {
		return Refusal{}, false
	}
	var d Datagram
	if ipHeader == header.IPv6MinimumSize {
		_, ok := d.fromIPv6(b[:ipHeader])
		if !ok {
			return Refusal{}, false
		}
	} else if _, ok := d.fromIPv4(b[:ipHeader]); !ok {
		return Refusal{}, false
	}
	udp := header.UDP(b[ipHeader:][:header.UDPMinimumSize])
	r := Refusal{
		Source:      netip.AddrPortFrom(d.Source.Addr(), udp.SourcePort()),
		Destination: netip.AddrPortFrom(d.Destination.Addr(), udp.DestinationPort()),
	}
	if payload := b[ipHeader+header.UDPMinimumSize:]; int(udp.Length())-header.UDPMinimumSize == len(payload) {
		r.Payload = payload
	}
	return r, true
}
