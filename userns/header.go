package userns

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// A layout says where the headers of the two families have what rules look at,
// in bytes from the start of the packet.
type layout struct {
	source, destination uint32
	addressLen          uint32

	// The DSCP is in the first two bytes, where the checksum of IPv4 can follow a
	// change of it.
	dscpShift int
	checksum  uint32 // 0 for none
	nextHop   uint32
}

func (r *ruleset) layout() layout {
	if r.family == unix.NFPROTO_IPV4 { // RFC 791 section 3.1, RFC 2474 section 3
		return layout{source: 12, destination: 16, addressLen: 4, dscpShift: 2, checksum: 10, nextHop: unix.NFT_RT_NEXTHOP4}
	}
	// RFC 8200 section 3
	return layout{source: 8, destination: 24, addressLen: 16, dscpShift: 6, nextHop: unix.NFT_RT_NEXTHOP6}
}

// inHeader loads bytes of the packet's header.
func inHeader(offset, length uint32) nft.Expr {
	return nft.Load(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, length)
}

// destination matches a destination address.
func (r *ruleset) destination(addr netip.Addr) nft.Expr {
	l := r.layout()
	return nft.Join(inHeader(l.destination, l.addressLen), nft.Is(addr.AsSlice()))
}

// sourceIn matches packets from a network.
func (r *ruleset) sourceIn(p netip.Prefix) nft.Expr {
	l := r.layout()
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return nft.Join(inHeader(l.source, l.addressLen), nft.Mask(mask, make([]byte, len(mask))), nft.Is(p.Masked().Addr().AsSlice()))
}

// viaBound matches what goes by the route of sockets that are bound to the
// device.
func (r *ruleset) viaBound() nft.Expr {
	return nft.Join(nft.LoadRt(r.layout().nextHop), nft.Is(r.bound.AsSlice()))
}

// keepSource decides that a connection's source is not translated.
func (r *ruleset) keepSource() nft.Expr {
	l := r.layout()
	return nft.Join(inHeader(l.source, l.addressLen), nft.SNAT(r.family))
}

// hasDSCP matches a DSCP in the bits of mask.
func (r *ruleset) hasDSCP(dscp, mask byte) nft.Expr {
	shift := r.layout().dscpShift
	return nft.Join(inHeader(0, 2), nft.Mask(bits(uint16(mask)<<shift), bits(0)), nft.Is(bits(uint16(dscp&mask)<<shift)))
}

// isOurs matches a DSCP of ours.
func (r *ruleset) isOurs() nft.Expr {
	const differ = mark.Local ^ mark.Nested
	return r.hasDSCP(mark.Local, 0x3f&^differ)
}

// setDSCP sets the DSCP, and leaves ECN as it is.
func (r *ruleset) setDSCP(dscp byte) nft.Expr {
	l := r.layout()
	return nft.Join(
		inHeader(0, 2),
		nft.Mask(bits(^uint16(0x3f<<l.dscpShift)), bits(uint16(dscp)<<l.dscpShift)),
		nft.Store(unix.NFT_PAYLOAD_NETWORK_HEADER, 0, 2, l.checksum))
}

// bits returns bits of a header.
func bits(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
