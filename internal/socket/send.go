package socket

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Control builds the control messages of one Send. The zero value has none.
type Control struct {
	words [16]uint64 // words, since a header must be aligned
	len   int
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
		return s.send(to, payload, &plain)
	}
	whole := plain
	whole.Segment(segment)
	switch err := s.send(to, payload, &whole); err {
	case unix.EINVAL: // more datagrams than the kernel takes at once
	case unix.EIO: // no checksum offload on the way out
	case unix.EMSGSIZE: // each must be fragmented, or refused
	default:
		return err
	}
	for rest := payload; len(rest) > 0; {
		n := min(segment, len(rest))
		if err := s.send(to, rest[:n], &plain); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// send is sendmsg(2). A connected socket reports what became of an earlier
// message first, once; that call has then done nothing and is repeated.
func (s *Socket) send(to *Address, payload []byte, c *Control) error {
	iovec := unix.Iovec{Base: unsafe.SliceData(payload)}
	iovec.SetLen(len(payload))
	h := unix.Msghdr{Iov: &iovec}
	h.SetIovlen(1)
	if to != nil {
		h.Name, h.Namelen = &to.raw[0], to.len
	}
	if c.len > 0 {
		h.Control = (*byte)(unsafe.Pointer(&c.words))
		h.SetControllen(c.len)
	}
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
