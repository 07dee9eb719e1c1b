package nat

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"taproot/stack/policy"
)

// An ErrorKind is what an ICMP or ICMPv6 error tells the guest. The zero value
// is no error.
type ErrorKind uint8

// The errors that the guest is told.
const (
	NetUnreachable  ErrorKind = iota + 1 // no way to the network
	HostUnreachable                      // no answer from the host
	PortUnreachable                      // nobody listens
	AdminProhibited                      // a rule forbids it, ours or another's
	TimeExceeded                         // TTL or hop limit used up on the way
	PacketTooBig                         // larger than the path's MTU and not to be fragmented
	Silent                               // nothing: no error is sent
)

// String returns the kind in words.
func (k ErrorKind) String() string {
	switch k {
	case NetUnreachable:
		return "net unreachable"
	case HostUnreachable:
		return "host unreachable"
	case PortUnreachable:
		return "port unreachable"
	case AdminProhibited:
		return "administratively prohibited"
	case TimeExceeded:
		return "time exceeded"
	case PacketTooBig:
		return "packet too big"
	case Silent:
		return "silent"
	}
	return "unknown"
}

// Types and codes of RFC 792, RFC 1812 section 5.2.7.1 and RFC 4443 that are
// used here.
const (
	icmp4EchoReply    = 0
	icmp4Unreachable  = 3
	icmp4Echo         = 8
	icmp4TimeExceeded = 11

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Echo         = 128
	icmp6EchoReply    = 129
)

// The length of headers, in bytes. An ICMP error starts with as many bytes as
// an echo message does.
const (
	ipv4HeaderLen = 20 // without options
	ipv6HeaderLen = 40
	icmpHeaderLen = 8
	udpHeaderLen  = 8
)

// Protocol numbers of the IP headers.
const (
	protoICMP4 = 1
	protoUDP   = 17
	protoICMP6 = 58
)

const (
	// maxError4 bounds an ICMPv4 error with its IP header, in bytes: RFC 1812
	// section 4.3.2.3 asks for as much of the original as fits.
	maxError4 = 576

	// maxError6 is the same for ICMPv6: the least MTU that IPv6 allows, RFC
	// 4443 section 2.4 (c).
	maxError6 = 1280

	// hopLimit is the TTL of what the gateway itself says.
	hopLimit = 64

	// errorTOS is the precedence of ICMPv4 errors, internetwork control: RFC
	// 1812 section 4.3.2.5.
	errorTOS = 0xc0
)

// kindOf returns what the guest is told about err, the error of a call on a
// host socket or of the policy. It returns false for errors that a real
// network would answer with silence, a timeout for instance.
func kindOf(err error) (ErrorKind, bool) {
	var denied *policy.Denied
	if errors.As(err, &denied) {
		return AdminProhibited, true
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return 0, false
	}
	switch errno {
	case syscall.ECONNREFUSED, syscall.ENOPROTOOPT:
		return PortUnreachable, true
	// The last two mean that the host has no address or no code of the family.
	case syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT:
		return NetUnreachable, true
	case syscall.EHOSTUNREACH, syscall.EHOSTDOWN:
		return HostUnreachable, true
	// The last two mean that we are at our limit of descriptors.
	case syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE:
		return AdminProhibited, true
	case syscall.EMSGSIZE:
		return PacketTooBig, true
	}
	return 0, false
}

// kindOfICMP4 returns the kind of an ICMPv4 error that came to the host. It
// returns false for those that say nothing about the guest's own packet.
func kindOfICMP4(typ, code uint8) (ErrorKind, bool) {
	switch typ {
	case icmp4TimeExceeded:
		return TimeExceeded, code == 0 // 1 is reassembly: of our fragments
	case icmp4Unreachable:
	default:
		return 0, false
	}
	switch code {
	case 0, 6, 11: // net unreachable, unknown, unreachable for TOS
		return NetUnreachable, true
	case 2, 3: // protocol, port
		return PortUnreachable, true
	case 4:
		return PacketTooBig, true
	case 9, 10, 13: // net, host, communication prohibited
		return AdminProhibited, true
	}
	return HostUnreachable, true
}

// kindOfICMP6 is kindOfICMP4 for ICMPv6.
func kindOfICMP6(typ, code uint8) (ErrorKind, bool) {
	switch typ {
	case icmp6TooBig:
		return PacketTooBig, true
	case icmp6TimeExceeded:
		return TimeExceeded, code == 0
	case icmp6Unreachable:
	default:
		return 0, false
	}
	switch code {
	case 0, 2: // no route, beyond scope
		return NetUnreachable, true
	case 1, 5, 6: // prohibited, source address failed policy, reject route
		return AdminProhibited, true
	case 4:
		return PortUnreachable, true
	}
	return HostUnreachable, true
}

// wire4 returns type and code of the kind in ICMPv4.
func (k ErrorKind) wire4() (typ, code uint8) {
	switch k {
	case NetUnreachable:
		return icmp4Unreachable, 0
	case PortUnreachable:
		return icmp4Unreachable, 3
	case AdminProhibited:
		return icmp4Unreachable, 13
	case PacketTooBig:
		return icmp4Unreachable, 4
	case TimeExceeded:
		return icmp4TimeExceeded, 0
	}
	return icmp4Unreachable, 1
}

// wire6 returns type and code of the kind in ICMPv6.
func (k ErrorKind) wire6() (typ, code uint8) {
	switch k {
	case NetUnreachable:
		return icmp6Unreachable, 0
	case PortUnreachable:
		return icmp6Unreachable, 4
	case AdminProhibited:
		return icmp6Unreachable, 1
	case PacketTooBig:
		return icmp6TooBig, 0
	case TimeExceeded:
		return icmp6TimeExceeded, 0
	}
	return icmp6Unreachable, 3
}

// icmpError returns a complete IP packet, all checksums filled in, that tells
// the sender of original what happened to it. original starts with the IP
// header as the guest sent it and has at least 8 bytes more; it is copied, as
// much of it as an error may quote. source is who says it, of the same family.
// mtu is in bytes of IP packet and counts for PacketTooBig only.
//
// It returns nil for Silent, and where no error may be sent (RFC 1122 section
// 3.2.2, RFC 4443 section 2.4 (e)): about another error, a fragment that is not
// the first, a sender or a receiver that is not one host; and for anything that
// is no packet.
func icmpError(kind ErrorKind, original []byte, source netip.Addr, mtu int) []byte {
	switch {
	case kind == Silent:
	case source.Is4() && answerable4(original):
		return icmpError4(kind, original, source, mtu)
	case source.Is6() && answerable6(original):
		return icmpError6(kind, original, source, mtu)
	}
	return nil
}

func icmpError4(kind ErrorKind, original []byte, source netip.Addr, mtu int) []byte {
	quoted := original[:min(len(original), maxError4-ipv4HeaderLen-icmpHeaderLen)]
	b := make([]byte, 0, ipv4HeaderLen+icmpHeaderLen+len(quoted))
	b = ipHeader{
		source:      source,
		destination: netip.AddrFrom4([4]byte(original[12:16])),
		protocol:    protoICMP4,
		ttl:         hopLimit,
		tos:         errorTOS,
		length:      icmpHeaderLen + len(quoted),
	}.append(b)
	typ, code := kind.wire4()
	b = append(b, typ, code, 0, 0, 0, 0)
	if kind != PacketTooBig {
		mtu = 0
	}
	b = binary.BigEndian.AppendUint16(b, uint16(min(max(mtu, 0), 0xffff))) // RFC 1191 section 4
	b = append(b, quoted...)
	message := b[ipv4HeaderLen:]
	binary.BigEndian.PutUint16(message[2:], checksum(0, message))
	return b
}

func icmpError6(kind ErrorKind, original []byte, source netip.Addr, mtu int) []byte {
	quoted := original[:min(len(original), maxError6-ipv6HeaderLen-icmpHeaderLen)]
	h := ipHeader{
		source:      source,
		destination: netip.AddrFrom16([16]byte(original[8:24])),
		protocol:    protoICMP6,
		ttl:         hopLimit,
		length:      icmpHeaderLen + len(quoted),
	}
	b := h.append(make([]byte, 0, ipv6HeaderLen+h.length))
	typ, code := kind.wire6()
	b = append(b, typ, code, 0, 0)
	if kind != PacketTooBig {
		mtu = 0
	}
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(mtu, 0), 1<<31-1))) // RFC 4443 section 3.2
	b = append(b, quoted...)
	message := b[ipv6HeaderLen:]
	binary.BigEndian.PutUint16(message[2:], checksum(h.pseudo(), message))
	return b
}

// answerable4 reports whether an error may be sent about original.
func answerable4(original []byte) bool {
	if len(original) < ipv4HeaderLen+8 || original[0]>>4 != 4 {
		return false
	}
	headerLen := int(original[0]&0xf) * 4
	if headerLen < ipv4HeaderLen || len(original) < headerLen+8 {
		return false
	}
	if binary.BigEndian.Uint16(original[6:])&0x1fff != 0 {
		return false
	}
	if original[9] == protoICMP4 && isError4(original[headerLen]) {
		return false
	}
	return isOneHost(netip.AddrFrom4([4]byte(original[12:16]))) &&
		isOneHost(netip.AddrFrom4([4]byte(original[16:20])))
}

// isError4 reports whether typ is an ICMPv4 error, or unknown.
func isError4(typ uint8) bool {
	switch typ {
	case icmp4EchoReply, icmp4Echo, 9, 10, 13, 14, 15, 16, 17, 18: // queries and their answers
		return false
	}
	return true
}

// answerable6 reports whether an error may be sent about original. It does not
// look behind extension headers.
func answerable6(original []byte) bool {
	if len(original) < ipv6HeaderLen+8 || original[0]>>4 != 6 {
		return false
	}
	if original[6] == protoICMP6 && original[ipv6HeaderLen] < icmp6Echo {
		return false
	}
	return isOneHost(netip.AddrFrom16([16]byte(original[8:24]))) &&
		isOneHost(netip.AddrFrom16([16]byte(original[24:40])))
}

// isOneHost reports whether addr may be that of exactly one host.
func isOneHost(addr netip.Addr) bool {
	if addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return false
	}
	return !addr.Is4() || addr.As4()[0] != 0 && addr.As4()[0] < 240
}
