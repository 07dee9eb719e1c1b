package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// quoted is how much of a packet behind its IP header an ICMP error needs, in
// bytes: RFC 792 wants 8, which are the ports and TCP's sequence number.
const quoted = 8

// A Datagram is a UDP datagram from the guest, or several of one size. Payload
// and Header are valid only during the call of the handler.
type Datagram struct {
	Source, Destination netip.AddrPort
	Payload             []byte

	// Segment is the size in bytes of each datagram but the last, when Payload
	// is a superframe of several; otherwise 0.
	Segment int

	TTL uint8 // or hop limit, as the guest sent it
	TOS uint8 // or traffic class

	// Header is the guest's IP header and the first 8 bytes behind it.
	Header []byte
}

// An Echo is an ICMP or ICMPv6 echo request from the guest. Payload and Header
// are valid only during the call of the handler.
type Echo struct {
	Source, Destination netip.Addr
	ID, Seq             uint16
	Payload             []byte
	TTL                 uint8
	TOS                 uint8

	// Header is the guest's IP header and the first 8 bytes behind it.
	Header []byte
}

// HandleUDP sets who gets datagrams, reassembled if they were fragmented. The
// handler runs on the link's reader and must not block.
func (s *Stack) HandleUDP(h func(Datagram)) { s.udp = h }

// HandleEcho sets who gets echo requests to addresses that are not the
// stack's own. The handler runs on the link's reader and must not block.
func (s *Stack) HandleEcho(h func(Echo)) { s.echo = h }

// HandleIdle sets who is told that there are no more datagrams for now, on the
// goroutine that handles them.
func (s *Stack) HandleIdle(h func()) { s.idle = h }

// HandleSolicitation sets who is told of router solicitations.
func (s *Stack) HandleSolicitation(h func()) { s.solicitation = h }

// sourceFilter returns the link's filter for a rule about source addresses.
// Unspecified sources belong to guests without an address: DHCP and duplicate
// address detection need them, and no flow starts with them.
func sourceFilter(allowed func(netip.Addr) bool) func([]byte) bool {
	if allowed == nil {
		return nil
	}
	return func(head []byte) bool {
		source, ok := sourceOf(head)
		return !ok || source.IsUnspecified() || allowed(source)
	}
}

// sourceOf returns the source address of an IP packet in an Ethernet frame.
func sourceOf(head []byte) (netip.Addr, bool) {
	ip := head[header.EthernetMinimumSize:]
	switch etherType := binary.BigEndian.Uint16(head[12:]); {
	case etherType == uint16(header.IPv4ProtocolNumber) && len(ip) >= header.IPv4MinimumSize:
		return netip.AddrFrom4([4]byte(ip[12:16])), true
	case etherType == uint16(header.IPv6ProtocolNumber) && len(ip) >= header.IPv6MinimumSize:
		return netip.AddrFrom16([16]byte(ip[8:24])), true
	}
	return netip.Addr{}, false
}

// handleUDP gets datagrams that belong to no endpoint, which is all of them.
func (s *Stack) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	if s.udp == nil {
		return false
	}
	udp := header.UDP(pkt.TransportHeader().Slice())
	size := int(udp.Length()) - header.UDPMinimumSize
	data := pkt.Data()
	if size < 0 || size > data.Size() {
		return true // RFC 768: the length covers more than there is
	}
	d := Datagram{
		Source:      netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort),
		Destination: netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort),
		Payload:     s.contiguous(pkt)[:size],
		Segment:     int(pkt.GSOOptions.MSS),
	}
	d.TTL, d.TOS = hopLimit(pkt)
	d.Header = s.header(pkt)
	s.udp(d)
	return true
}

// contiguous returns a packet's data as one piece, valid until the next call.
func (s *Stack) contiguous(pkt *stack.PacketBuffer) []byte {
	data := pkt.Data()
	if data.Size() == 0 {
		return nil
	}
	s.scratch = s.scratch[:0]
	b := data.ToBuffer()
	defer b.Release()
	b.Apply(func(v *buffer.View) { s.scratch = append(s.scratch, v.AsSlice()...) })
	return s.scratch
}

// header returns what appendHeader appends, valid until the next call.
func (s *Stack) header(pkt *stack.PacketBuffer) []byte {
	s.headScratch = appendHeader(s.headScratch[:0], pkt)
	return s.headScratch
}

// appendHeader appends the IP header and the first bytes behind it.
func appendHeader(b []byte, pkt *stack.PacketBuffer) []byte {
	b = append(b, pkt.NetworkHeader().Slice()...)
	transport := pkt.TransportHeader().Slice()
	return append(b, transport[:min(len(transport), quoted)]...)
}

// hopLimit returns a packet's TTL or hop limit, and its TOS or traffic class.
func hopLimit(pkt *stack.PacketBuffer) (ttl, tos uint8) {
	b := pkt.NetworkHeader().Slice()
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		tos, _ = header.IPv4(b).TOS()
		return header.IPv4(b).TTL(), tos
	}
	tos, _ = header.IPv6(b).TOS()
	return header.IPv6(b).HopLimit(), tos
}

// handleEcho4 takes echo requests to others; the stack answers its own.
func (s *Stack) handleEcho4(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.ICMPv4(pkt.TransportHeader().Slice())
	if len(h) < header.ICMPv4MinimumSize || h.Type() != header.ICMPv4Echo {
		return false
	}
	return s.handleEcho(id, pkt, h.Ident(), h.Sequence())
}

// handleEcho6 is handleEcho4 for ICMPv6, whose first bytes are the same.
func (s *Stack) handleEcho6(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.ICMPv6(pkt.TransportHeader().Slice())
	if len(h) < header.ICMPv6EchoMinimumSize || h.Type() != header.ICMPv6EchoRequest {
		return false
	}
	return s.handleEcho(id, pkt, h.Ident(), h.Sequence())
}

func (s *Stack) handleEcho(id stack.TransportEndpointID, pkt *stack.PacketBuffer, ident, seq uint16) bool {
	destination := fromAddress(id.LocalAddress)
	if s.echo == nil || s.own[destination] || destination.IsMulticast() {
		return false
	}
	e := Echo{
		Source:      fromAddress(id.RemoteAddress),
		Destination: destination,
		ID:          ident,
		Seq:         seq,
		Payload:     s.contiguous(pkt),
	}
	e.TTL, e.TOS = hopLimit(pkt)
	e.Header = s.header(pkt)
	s.echo(e)
	return true
}
