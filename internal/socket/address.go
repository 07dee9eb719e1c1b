package socket

import (
	"encoding/binary"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Address is a socket address as the kernel reads it, made once for many
// calls.
type Address struct {
	raw [unix.SizeofSockaddrInet6]byte
	len uint32
}

// NewAddress returns a as the kernel reads it, without its zone.
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

// SetZone sets the zone of an IPv6 address, the index of a network device.
func (s *Address) SetZone(index uint32) { binary.NativeEndian.PutUint32(s.raw[24:], index) }

// Name returns the address as msghdr has it. It belongs to s.
func (s *Address) Name() (name *byte, size uint32) { return &s.raw[0], s.len }

// Bind is bind(2).
func (s *Address) Bind(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&s.raw[0])), uintptr(s.len))
	if errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	return nil
}

// AddrPort is the reverse of NewAddress. It returns the zero AddrPort for
// families that are not IP.
func (s *Address) AddrPort() netip.AddrPort {
	return ParseAddress(s.bytes())
}

// bytes are what the kernel reads or wrote.
func (s *Address) bytes() []byte { return s.raw[:min(s.len, unix.SizeofSockaddrInet6)] }

// ParseAddress returns an address that the kernel wrote, without flow label
// and zone. It returns the zero AddrPort for families that are not IP.
func ParseAddress(raw []byte) netip.AddrPort {
	if len(raw) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(raw[2:])
	switch binary.NativeEndian.Uint16(raw) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port)
	case unix.AF_INET6:
		if len(raw) >= unix.SizeofSockaddrInet6 {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port)
		}
	}
	return netip.AddrPort{}
}

// is4 reports whether the address is IPv4, mapped or not.
func (s *Address) is4() bool { return s.AddrPort().Addr().Unmap().Is4() }
