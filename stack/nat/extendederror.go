package nat

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"taproot/internal/socket"

	"golang.org/x/sys/unix"
)

// An extendedError is a message of the error queue.
type extendedError struct {
	origin, typ, code uint8
	errno             unix.Errno
	info              int        // the MTU, in bytes, where the error is about it
	offender          netip.Addr // who sent the ICMP error; invalid if nobody did
}

// extendedErrorOf returns the error that came with a message.
func extendedErrorOf(m *socket.Message) (extendedError, bool) {
	data := m.Find(unix.IPPROTO_IP, unix.IP_RECVERR)
	if data == nil {
		data = m.Find(unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
	}
	const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	if len(data) < size {
		return extendedError{}, false
	}
	return extendedError{
		errno:    unix.Errno(binary.NativeEndian.Uint32(data)),
		origin:   data[4],
		typ:      data[5],
		code:     data[6],
		info:     int(binary.NativeEndian.Uint32(data[8:])),
		offender: socket.ParseAddress(data[size:]).Addr(),
	}, true
}

// kind returns what the guest is told about the error.
func (e extendedError) kind() (ErrorKind, bool) {
	switch e.origin {
	case unix.SO_EE_ORIGIN_ICMP:
		return kindOfICMP4(e.typ, e.code)
	case unix.SO_EE_ORIGIN_ICMP6:
		return kindOfICMP6(e.typ, e.code)
	case unix.SO_EE_ORIGIN_LOCAL: // the rest of these came back from sendmsg
		return PacketTooBig, e.errno == unix.EMSGSIZE
	}
	return 0, false
}
