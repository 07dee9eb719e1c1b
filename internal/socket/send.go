package socket

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Control builds the control messages of one message. The zero value has
// none; there is room for a segment size, a source and two integers.
type Control struct {
	words [14]uint64 // words, since a header must be aligned
	len   int
}

// Integer adds a control message that is an int.
func (c *Control) Integer(level, typ int32, value int32) {
	binary.NativeEndian.PutUint32(c.next(level, typ, 4), uint32(value))
}

// Segment makes the kernel cut the payload into datagrams of size bytes.
func (c *Control) Segment(size int) {
	binary.NativeEndian.PutUint16(c.next(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(size))
}

// Source sets the address that the message leaves from: Message.Local. One
// that nothing can leave from is ignored.
func (c *Control) Source(local netip.Addr) {
	switch {
	case !local.IsValid() || local.IsMulticast() || local.IsUnspecified():
	case local.Is4():
		a := local.As4()
		copy(c.next(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)[4:], a[:])
	default:
		a := local.As16()
		copy(c.next(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo), a[:])
	}
}

// Bytes returns the control messages as msghdr has them. They belong to c.
func (c *Control) Bytes() (first *byte, size int) {
	return (*byte)(unsafe.Pointer(&c.words)), c.len
}

// next appends a header and returns the place of the data.
func (c *Control) next(level, typ int32, size int) []byte {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&c.words)), unsafe.Sizeof(c.words))[c.len:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(size))
	c.len += unix.CmsgSpace(size)
	return b[unix.CmsgLen(0):]
}

// Send sends payload as one message, without waiting, from local if that is
// valid, and to where the socket is connected if to is nil. With segment above
// zero, payload is several datagrams of that many bytes each, the last of
// which may be shorter: they go in one call where the kernel takes them so,
// else one by one.
func (s *Socket) Send(to *Address, local netip.Addr, payload []byte, segment int) error {
	var plain Control
	plain.Source(local)
	if segment <= 0 || segment >= len(payload) {
		return s.SendMessage(to, nil, payload, &plain)
	}
	whole := plain
	whole.Segment(segment)
	err := s.SendMessage(to, nil, payload, &whole)
	if !MustSplit(err) {
		return err
	}
	for part := range slices.Chunk(payload, segment) {
		if err := s.SendMessage(to, nil, part, &plain); err != nil {
			return err
		}
	}
	return nil
}

// MustSplit reports whether the datagrams of a message with Control.Segment,
// which was answered with err, must be sent one by one.
func MustSplit(err error) bool {
	switch err {
	case unix.EINVAL: // more datagrams than the kernel takes at once
	case unix.EIO: // no checksum offload on the way out
	case unix.EMSGSIZE: // each must be fragmented, or refused
	default:
		return false
	}
	return true
}

// SendMessage sends head followed by payload as one message, without waiting.
// Either may be empty. The error is a bare syscall.Errno.
//
// A connected socket, with to nil, reports what became of an earlier message
// first, once; that call has then done nothing and is repeated.
func (s *Socket) SendMessage(to *Address, head, payload []byte, c *Control) error {
	var iovecs [2]unix.Iovec
	n := 0
	for _, b := range [...][]byte{head, payload} {
		if len(b) > 0 {
			iovecs[n].Base = &b[0]
			iovecs[n].SetLen(len(b))
			n++
		}
	}
	h := unix.Msghdr{Iov: &iovecs[0]}
	h.SetIovlen(n)
	if to != nil {
		h.Name, h.Namelen = to.Name()
	}
	var size int
	h.Control, size = c.Bytes()
	h.SetControllen(size)
	var errno unix.Errno
	for range 2 {
		_, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno != unix.ECONNREFUSED || to != nil {
			break
		}
	}
	if errno != 0 {
		return errno
	}
	return nil
}
