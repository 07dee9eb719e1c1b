package policy

import (
	"encoding/binary"
	"net/netip"
)

// never returns the name of the rule that forbids addr whatever the
// configuration says, or "". addr is valid, has no zone and is not
// IPv4-mapped.
func never(addr netip.Addr) string {
	switch {
	case addr.IsUnspecified():
		return ruleUnspecified
	case addr.IsLoopback():
		return ruleLoopback
	case addr.IsMulticast():
		return ruleMulticast
	}
	if addr.Is4() {
		return never4(addr.As4())
	}
	// RFC 4291 section 2.5.5.1; :: and ::1 are told above.
	if b := addr.As16(); [12]byte(b[:12]) == [12]byte{} {
		return ruleIPv4Compatible
	}
	return ""
}

func never4(b [4]byte) string {
	switch {
	case b[0] == 0: // RFC 1122 section 3.2.1.3: this host on this network
		return ruleUnspecified
	case b == [4]byte{255, 255, 255, 255}:
		return ruleBroadcast
	case b[0] >= 240: // RFC 1112 section 4
		return ruleReserved
	}
	return ""
}

// isLinkLocal reports whether addr is link-local, or one of the addresses
// outside those ranges where clouds serve credentials to whoever asks.
func isLinkLocal(addr netip.Addr) bool {
	if addr.IsLinkLocalUnicast() {
		return true
	}
	if addr.Is4() {
		switch addr.As4() {
		case [4]byte{100, 100, 100, 200}, // Alibaba Cloud metadata
			[4]byte{168, 63, 129, 16}, // Azure host agent
			[4]byte{192, 0, 0, 192}:   // Oracle Cloud Classic metadata
			return true
		}
		return false
	}
	b := addr.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	switch {
	case hi == 0xfd00_0ec2_0000_0000 && (lo == 0x254 || lo == 0x23): // EC2 metadata, EKS pod identity
		return true
	case hi == 0xfd20_00ce_0000_0000 && lo == 0x254: // Compute Engine metadata
		return true
	}
	return false
}

// embedded4 returns the IPv4 address that addr carries for a translator or a
// tunnel. addr is not IPv4-mapped.
func embedded4(addr netip.Addr) (v4 netip.Addr, ok bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	switch {
	case [12]byte(b[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}: // NAT64, RFC 6052 section 2.1
		return from4(b[12:]), true
	case [6]byte(b[:6]) == [6]byte{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}:
		return localNAT64(b)
	case b[0] == 0x20 && b[1] == 0x02: // 6to4, RFC 3056 section 2
		return from4(b[2:]), true
	case [4]byte(b[:4]) == [4]byte{0x20, 0x01}: // Teredo, RFC 4380 section 4: complemented
		return from4([]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	case [12]byte(b[:12]) == [12]byte{8: 0xff, 9: 0xff}: // IPv4-translated, RFC 7915 section 2.1
		return from4(b[12:]), true
	case b[8]&^0x03 == 0 && [3]byte(b[9:12]) == [3]byte{0x00, 0x5e, 0xfe}: // ISATAP, RFC 5214 section 6.1
		return from4(b[12:]), true
	}
	return netip.Addr{}, false
}

// localNAT64 finds the IPv4 address in an address of 64:ff9b:1::/48, the
// prefix for translators of one's own (RFC 8215), which may use it at length
// 48, 56, 64 or 96 (RFC 6052 section 2.2). Which one is not to be seen from
// here. Length 96 is the common one; the others are only searched for loopback
// and link-local addresses, because there the bytes of a longer prefix look
// like reserved addresses often enough to deny what is harmless.
func localNAT64(b [16]byte) (netip.Addr, bool) {
	for _, v4 := range []netip.Addr{
		from4([]byte{b[6], b[7], b[9], b[10]}),  // length 48; octet 8 is always zero
		from4([]byte{b[7], b[9], b[10], b[11]}), // length 56
		from4([]byte{b[9], b[10], b[11], b[12]}),
	} {
		if v4.IsLoopback() || v4.IsLinkLocalUnicast() {
			return v4, true
		}
	}
	return from4(b[12:]), true
}

func from4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b[:4])) }

// broadcast returns the directed broadcast address of guest's network, or the
// zero Addr if that network has none (RFC 3021, or IPv6).
func broadcast(guest netip.Prefix) netip.Addr {
	if !guest.Addr().Is4() || guest.Bits() > 30 {
		return netip.Addr{}
	}
	b := guest.Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | (1<<(32-guest.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
