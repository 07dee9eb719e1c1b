package userns

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
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
	nextHop   expr.RtKey
}

func (r *ruleset) layout() layout {
	if r.family == unix.NFPROTO_IPV4 { // RFC 791 section 3.1, RFC 2474 section 3
		return layout{source: 12, destination: 16, addressLen: 4, dscpShift: 2, checksum: 10, nextHop: expr.RtNexthop4}
	}
	// RFC 8200 section 3
	return layout{source: 8, destination: 24, addressLen: 16, dscpShift: 6, nextHop: expr.RtNexthop6}
}

// inHeader loads bytes of the packet's header.
func inHeader(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// destination matches a destination address.
func (r *ruleset) destination(addr netip.Addr) []expr.Any {
	l := r.layout()
	return []expr.Any{
		inHeader(l.destination, l.addressLen),
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: addr.AsSlice()},
	}
}

// sourceIn matches packets from a network.
func (r *ruleset) sourceIn(p netip.Prefix) []expr.Any {
	l := r.layout()
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return []expr.Any{
		inHeader(l.source, l.addressLen),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: l.addressLen, Mask: mask, Xor: make([]byte, l.addressLen)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: p.Masked().Addr().AsSlice()},
	}
}

// viaBound matches what goes by the route of sockets that are bound to the
// device.
func (r *ruleset) viaBound() []expr.Any {
	return []expr.Any{
		&expr.Rt{Key: r.layout().nextHop, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: r.bound.AsSlice()},
	}
}

// keepSource decides that a connection's source is not translated.
func (r *ruleset) keepSource() []expr.Any {
	l := r.layout()
	return []expr.Any{
		inHeader(l.source, l.addressLen),
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(r.family), RegAddrMin: register},
	}
}

// hasDSCP matches a DSCP in the bits of mask.
func (r *ruleset) hasDSCP(dscp, mask byte) []expr.Any {
	shift := r.layout().dscpShift
	return []expr.Any{
		inHeader(0, 2),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 2, Mask: bits(uint16(mask) << shift), Xor: bits(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: bits(uint16(dscp&mask) << shift)},
	}
}

// isOurs matches a DSCP of ours.
func (r *ruleset) isOurs() []expr.Any {
	const differ = mark.Local ^ mark.Nested
	return r.hasDSCP(mark.Local, 0x3f&^differ)
}

// setDSCP sets the DSCP, and leaves ECN as it is.
func (r *ruleset) setDSCP(dscp byte) []expr.Any {
	l := r.layout()
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: register, Base: expr.PayloadBaseNetworkHeader, Len: 2}
	if l.checksum != 0 {
		write.CsumType, write.CsumOffset = expr.CsumTypeInet, l.checksum
	}
	return []expr.Any{
		inHeader(0, 2),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 2, Mask: bits(^uint16(0x3f << l.dscpShift)), Xor: bits(uint16(dscp) << l.dscpShift)},
		write,
	}
}

// bits returns bits of a header.
func bits(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
