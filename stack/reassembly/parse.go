package reassembly

import (
	"encoding/binary"
	"net/netip"
)

// Sizes of headers in bytes, and where their fields are.
const (
	header4, header6 = 20, 40 // without options or extension headers
	fragmentHeader   = 8      // RFC 8200 §4.5

	at4Length, at4ID, at4Flags, at4Protocol, at4Sum = 2, 4, 6, 9, 10
	at6Length, at6Next                              = 4, 6
)

// maxLength is the most that the length field of an IP header can say.
const maxLength = 65535

// Next headers of IPv6 that may stand before the fragment header (RFC 8200 §4.1).
const (
	hopByHop           = 0
	routing            = 43
	fragment6          = 44
	destinationOptions = 60
)

// A key says which fragments are of one packet. The protocol counts with IPv4 only
// (RFC 791 §3.2, RFC 8200 §4.5).
type key struct {
	source, destination netip.Addr
	id                  uint32
	protocol            uint8
}

// A piece is a fragment. Its slices are those of the packet it was found in.
type piece struct {
	key  key
	head []byte // all headers up to the data
	// data follows after offset bytes of the packet's.
	data   []byte
	offset int
	more   bool // fragments follow it
	nextAt int  // where in head the type of what follows stands, for IPv6
}

// end returns where in the packet the data ends.
func (p *piece) end() int { return p.offset + len(p.data) }

// isGood tells whether a piece can be a part of a packet.
func (p *piece) isGood() bool {
	room := maxLength - len(p.head)
	if p.isIPv6() {
		room = maxLength - (len(p.head) - header6 - fragmentHeader)
	}
	return len(p.data) > 0 && p.end() <= room && (!p.more || len(p.data)%8 == 0)
}

func (p *piece) isIPv6() bool { return p.head[0]>>4 == 6 }

// parse finds the fragment in an IP packet. It is nil in what is none; bad says
// that it is one which contradicts itself.
func parse(packet []byte) (p *piece, bad bool) {
	switch {
	case len(packet) >= header4 && packet[0]>>4 == 4:
		p, bad = parse4(packet)
	case len(packet) >= header6 && packet[0]>>4 == 6:
		p, bad = parse6(packet)
	}
	return p, bad || p != nil && !p.isGood()
}

func parse4(b []byte) (p *piece, bad bool) {
	const moreFragments, offset = 1 << 13, 1<<13 - 1 // offset is in units of 8 bytes
	field := binary.BigEndian.Uint16(b[at4Flags:])
	if field&(moreFragments|offset) == 0 {
		return nil, false
	}
	size, length := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[at4Length:]))
	if size < header4 || length < size || length > len(b) {
		return nil, true
	}
	return &piece{
		key: key{
			source: netip.AddrFrom4([4]byte(b[12:16])), destination: netip.AddrFrom4([4]byte(b[16:20])),
			id: uint32(binary.BigEndian.Uint16(b[at4ID:])), protocol: b[at4Protocol],
		},
		head: b[:size], data: b[size:length],
		offset: int(field&offset) * 8, more: field&moreFragments != 0,
	}, false
}

func parse6(b []byte) (p *piece, bad bool) {
	at, nextAt := fragmentAt(b)
	if at == 0 {
		return nil, false
	}
	length := header6 + int(binary.BigEndian.Uint16(b[at6Length:]))
	if length < at+fragmentHeader || length > len(b) {
		return nil, true
	}
	field := binary.BigEndian.Uint16(b[at+2:])
	return &piece{
		key: key{
			source: netip.AddrFrom16([16]byte(b[8:24])), destination: netip.AddrFrom16([16]byte(b[24:40])),
			id: binary.BigEndian.Uint32(b[at+4:]),
		},
		head: b[:at+fragmentHeader], data: b[at+fragmentHeader : length],
		offset: int(field &^ 7), more: field&1 != 0, nextAt: nextAt,
	}, false
}

// fragmentAt returns where the fragment header of an IPv6 packet is, 0 if there is
// none, and where the type of header stands that leads to it.
func fragmentAt(b []byte) (at, nextAt int) {
	at, nextAt = header6, at6Next
	for at+fragmentHeader <= len(b) {
		switch b[nextAt] {
		case fragment6:
			return at, nextAt
		case hopByHop, routing, destinationOptions:
			nextAt, at = at, at+8*(int(b[at+1])+1)
		default:
			return 0, 0
		}
	}
	return 0, 0
}
