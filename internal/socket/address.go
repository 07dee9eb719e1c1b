package socket

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// An Address is a socket address as the kernel reads it, made once for many
// calls.
type Address struct {
	raw [unix.SizeofSockaddrInet6]byte
	len uint32
}

// NewAddress returns a as the kernel reads it. It has no zone.
func NewAddress(a netip.AddrPort) (s Address) {
	if a.Addr().Is4() {
		s.len = unix.SizeofSockaddrInet4
		binary.NativeEndian.PutUint16(s.raw[0:], unix.AF_INET)
		ip := a.Addr().As4()
		copy(s.raw[4:], ip[:])
	} else {
		s.len = unix.SizeofSockaddrInet6
		binary.NativeEndian.PutUint16(s.raw[0:], unix.AF_INET6)
		ip := a.Addr().As16()
		copy(s.raw[8:], ip[:]) // behind the flow label, which stays 0
	}
	binary.BigEndian.PutUint16(s.raw[2:], a.Port())
	return s
}

// AddrPort is the reverse of NewAddress. It returns the zero AddrPort for
// families that are not IP.
func (s *Address) AddrPort() netip.AddrPort {
	a, _ := parse(s.raw[:min(s.len, unix.SizeofSockaddrInet6)])
	return a
}

// parse returns an address and its scope id.
func parse(raw []byte) (a netip.AddrPort, scope uint32) {
	if len(raw) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, 0
	}
	port := binary.BigEndian.Uint16(raw[2:])
	switch binary.NativeEndian.Uint16(raw) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port), 0
	case unix.AF_INET6:
		if len(raw) >= unix.SizeofSockaddrInet6 {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port), binary.NativeEndian.Uint32(raw[24:])
		}
	}
	return netip.AddrPort{}, 0
}
