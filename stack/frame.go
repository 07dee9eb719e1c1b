package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/stack/link"
	"taproot/tap"
)

// classifyUDP hands a frame with a datagram to the handler, without gVisor and
// without a copy. What is not a plain datagram in every respect is left to
// gVisor, which knows what to do with it.
func (s *Stack) classifyUDP(f *link.Frame) bool {
	if s.udp == nil {
		return false
	}
	d, ok := datagramOf(f)
	if ok {
		s.udp(d)
	}
	return ok
}

// datagramOf returns the datagram in a frame that is sent to our hardware
// address, from one ordinary address to another, whole, and without options or
// extension headers. The checksums are not verified; see package link.
func datagramOf(f *link.Frame) (Datagram, bool) {
	if f.Head[0]&1 != 0 || len(f.Head) < atIP+header.IPv4MinimumSize+header.UDPMinimumSize {
		return Datagram{}, false
	}
	var d Datagram
	var at, size int // where the UDP header is, and the length that IP tells from there on
	var ok bool
	if binary.BigEndian.Uint16(f.Head[atEtherType:]) == uint16(header.IPv4ProtocolNumber) {
		at = atIP + header.IPv4MinimumSize
		size, ok = d.fromIPv4(f.Head[atIP:at])
	} else if at = atIP + header.IPv6MinimumSize; len(f.Head) >= at+header.UDPMinimumSize {
		size, ok = d.fromIPv6(f.Head[atIP:at])
	}
	if !ok || at+size > f.Len() {
		return Datagram{}, false
	}
	udp := header.UDP(f.Head[at:][:header.UDPMinimumSize])
	length := int(udp.Length())
	if length < header.UDPMinimumSize || length > size {
		return Datagram{}, false
	}
	if f.Header.Segmentation == tap.SegmentUDP {
		d.Segment = int(f.Header.SegmentSize)
	}
	d.Source = netip.AddrPortFrom(d.Source.Addr(), udp.SourcePort())
	d.Destination = netip.AddrPortFrom(d.Destination.Addr(), udp.DestinationPort())
	d.Header = f.Head[atIP : at+quoted]
	d.Payload = f.Body(at + header.UDPMinimumSize)[:length-header.UDPMinimumSize]
	return d, true
}

// fromIPv4 sets what an IPv4 header tells, and returns the number of bytes that
// follow it in its packet. It refuses all but plain headers.
func (d *Datagram) fromIPv4(ip header.IPv4) (size int, ok bool) {
	size = int(ip.TotalLength()) - header.IPv4MinimumSize
	if ip.Protocol() != uint8(header.UDPProtocolNumber) || size < header.UDPMinimumSize ||
		!isPlain4(ip) || !isOrdinary4(ip[12:16]) || !isOrdinary4(ip[16:20]) {
		return 0, false
	}
	d.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0)
	d.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)
	d.TTL, d.TOS = ip[8], ip[1]
	return size, true
}

// fromIPv6 is fromIPv4 for IPv6.
func (d *Datagram) fromIPv6(ip header.IPv6) (size int, ok bool) {
	size = int(ip.PayloadLength())
	if ip[0]>>4 != 6 || ip[6] != uint8(header.UDPProtocolNumber) || size < header.UDPMinimumSize {
		return 0, false
	}
	source, destination := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	if !isOrdinary6(source) || !isOrdinary6(destination) {
		return 0, false
	}
	d.Source, d.Destination = netip.AddrPortFrom(source, 0), netip.AddrPortFrom(destination, 0)
	d.TTL, d.TOS = ip.HopLimit(), ip[0]<<4|ip[1]>>4
	return size, true
}

// fragment4 are the bits of the IPv4 header's word with the flags that fragments have:
// more fragments, and the offset (RFC 791 §3.1).
const fragment4 = 0x3fff

// isPlain4 tells whether a header has no options and is not of a fragment.
func isPlain4(ip []byte) bool {
	const plain = 4<<4 | header.IPv4MinimumSize/4 // version, and length without options
	return ip[0] == plain && binary.BigEndian.Uint16(ip[6:])&fragment4 == 0
}

// isOrdinary4 tells whether an address is neither of this network, nor
// loopback, multicast, reserved or broadcast (RFC 6890 §2.2.2, RFC 5771).
func isOrdinary4(a []byte) bool { return a[0] != 0 && a[0] != 127 && a[0] < 224 }

// isOrdinary6 is isOrdinary4 for IPv6, where the mapped IPv4 addresses stand in
// no packet (RFC 4291 §2.5.5.2).
func isOrdinary6(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.Is4In6()
}
